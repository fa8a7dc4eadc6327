"""Records and their units. Expected values: counted by hand."""

from __future__ import annotations

import pytest

from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.metrics import records
from simulsa_plugin.metrics.records import EmissionRecord


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), 1e300])
def test_what_is_no_time_is_refused(delay):
    with pytest.raises(LogError, match=r"delays holds .*allowed: finite milliseconds"):
        EmissionRecord(0, "a", "a", (delay,))


def test_a_negative_source_length_is_refused():
    with pytest.raises(LogError, match="source_length is -1"):
        EmissionRecord(0, "a", "a", (1.0,), source_length=-1.0)


def test_a_word_unit_ends_at_any_white_space_and_a_no_break_space_is_one():
    assert records.count_units("a\u00a0b\tc\n", "word") == 3


@pytest.mark.parametrize(
    ("text", "unit", "delays", "fits"),
    [
        ("我们 走", "char", 4, True),  # a space in our own text is a character
        ("我们 走", "char", 3, True),  # SimulEval counts none
        ("我们 走", "char", 2, False),
        ("我们</s>", "char", 3, True),  # the end mark is one unit
        ("we go </s>", "word", 3, True),
        ("we go", "word", 3, False),
        ("", "word", 0, True),
    ],
)
def test_a_unit_fits_where_each_has_a_delay(text, unit, delays, fits):
    assert records.fits_unit(EmissionRecord(0, text, "", (1.0,) * delays), unit) is fits


def test_an_unknown_unit_names_those_there_are():
    with pytest.raises(UsageError, match="'token'; allowed: word, char"):
        records.count_units("a", "token")
