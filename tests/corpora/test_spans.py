"""Times and channels in manifests: numbers, and everything else that stands in their place."""

import math

import pytest
from corpora_files import refusal

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.spans import channel_of, seconds, span_from, span_of


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0.0), (1, 1.0), (1.5, 1.5), (21600, 21600.0), ("0", 0.0), ("16.08", 16.08), ("3.500000", 3.5), (".5", 0.5),
        ("5.", 5.0), ("1e1", 10.0), ("2.5E-1", 0.25), ("+1", 1.0), (" 7.25 ", 7.25), ("007", 7.0), ("-0", 0.0),
        ("1e-400", 0.0),
    ],
)  # fmt: skip
def test_numbers_and_texts_that_are_one_are_seconds(value, number):
    assert seconds(value, "offset", "a.json, line 3") == number


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "is -1; allowed: 0 to 21600 seconds."), ("-0.001", "is -0.001; allowed: 0 to 21600 seconds."),
        (1e99, "is 1e+99; allowed"), ("1e99", "is 1e+99; allowed"), (21600.5, "is 21600.5; allowed"),
        ("9" * 100_000, "is inf; allowed"), ("1e999999999", "is inf; allowed"), (10**400, "is a int; expected"),
        (math.nan, "is nan; allowed"), (math.inf, "is inf; allowed"), (-math.inf, "is -inf; allowed"),
        ("nan", "is 'nan'; expected seconds."), ("inf", "is 'inf'; expected seconds."), ("Infinity", "is 'Infinity'"),
        ("0x" + "f" * 100_000, "is '0xfff"), ("0x10", "is '0x10'"), ("0o7", "is '0o7'"), ("0b1", "is '0b1'"),
        ("1_0", "is '1_0'; expected seconds."), ("1:30", "is '1:30'"), ("00:00:16,080", "is '00:00:16,080'"),
        ("1,5", "is '1,5'"), ("16.08s", "is '16.08s'"), ("", "is ''"), (" ", "is ' '"), ("-", "is '-'"),
        (".", "is '.'"),
        ("e5", "is 'e5'"), ("1e", "is '1e'"), ("1 2", "is '1 2'"), ("١", "is '١'"), ("１", "is '１'"), ("½", "is '½'"),
        ("1\n2", r"is '1\n2'"), ("1\x00", r"is '1\x00'"), (True, "is a bool; expected seconds."), (False, "is a bool"),
        (None, "is a NoneType"), ([1], "is a list"), ([[[1]]], "is a list"), ({"a": 1}, "is a dict"),
        (b"1", "is a bytes"), (1j, "is a complex"), ("9" * 1_000_000 + "x", "is '9999"),
    ],
)  # fmt: skip
def test_whatever_else_stands_there_is_refused_with_its_place(value, said):
    message = refusal(seconds, value, "offset", "a.json, line 3")
    assert message.startswith("a.json, line 3: the offset ") and said in message
    assert len(message) < 200


def test_a_span_has_a_start_and_an_end_or_a_duration():
    assert span_of("9.5", "10.25", "p") == Span(9.5, 10.25)
    assert span_of(9.5, None, "p") == Span(9.5, None)
    assert span_from("16.08", "3.5", "p") == Span(16.08, 16.08 + 3.5)
    assert span_from(0.5, None, "p") == Span(0.5, None)


def test_each_time_of_a_span_is_checked_by_its_name():
    assert refusal(span_of, "x", "1", "p").startswith("p: the start is 'x'")
    assert refusal(span_of, "1", "x", "p").startswith("p: the end is 'x'")
    assert refusal(span_from, "x", "1", "p").startswith("p: the offset is 'x'")
    assert refusal(span_from, "1", "x", "p").startswith("p: the duration is 'x'")


@pytest.mark.parametrize(
    ("value", "channel"), [(None, None), (0, 0), (1, 1), (63, 63), (1.0, 1), ("0", 0), ("01", 1), ("1.0", 1)]
)
def test_channels_are_counted_from_zero(value, channel):
    assert channel_of(value, "p") == channel


@pytest.mark.parametrize(
    "value",
    [-1, 64, 0.5, 1e99, math.nan, math.inf, "A", "", "1_0", "-1", "1.5", "9" * 5000, True, [0], {"a": 0}, b"1", "١"],
)
def test_what_is_no_channel_is_refused(value):
    message = refusal(channel_of, value, "a.tsv, line 2")
    assert message.startswith("a.tsv, line 2: the channel is ") and message.endswith("; allowed: 0 to 63.")
