"""Delays on paper: a unit counts when committed text holds it whole and nothing can extend it."""

import pytest

from simulsa_plugin.evaluation.emissions import emission_record, shown_units
from simulsa_plugin.metrics.stability import normalized_erasure
from simulsa_plugin.streaming.session import Step


def decode(token_ids):
    return bytes(token_ids).decode(errors="replace")


def session(*steps):
    """Steps as (milliseconds, what is shown, how many of its bytes are committed)."""
    last = len(steps) - 1
    return [
        Step(ms, tuple(shown if isinstance(shown, bytes) else shown.encode()), count, finished=index == last)
        for index, (ms, shown, count) in enumerate(steps)
    ]


def delays(made, unit):
    return list(emission_record(made, 0, "", "a.wav", unit, decode).delays)


def test_a_word_needs_the_space_after_it_or_the_end():
    made = session((500, "guten", 5), (1000, "guten Tag", 6), (1500, "guten Tag Welt", 9), (1700, "guten Tag Welt", 14))
    # «guten» stands at 500, but only the space at 1000 closes it; «Tag» is closed by nothing until the end.
    assert delays(made, "word") == [1000, 1700, 1700]


def test_characters_need_nothing_after_them():
    made = session((500, "你", 3), (1000, "你好", 6), (1500, "你好吗", 6), (1700, "你好吗", 9))
    assert delays(made, "char") == [500, 1000, 1700]


def test_half_a_character_is_none():
    made = session((500, "你好".encode()[:4], 4), (1000, "你好", 6))
    assert delays(made, "char") == [500, 1000]


def test_a_byte_that_stays_broken_counts_when_nothing_can_complete_it():
    broken = "你".encode() + b"\xe5"
    made = session((500, broken, 4), (1000, broken + b"x", 5))
    assert delays(made, "char") == [500, 1000, 1000]


def test_what_is_shown_but_not_committed_has_no_delay_yet():
    made = session((500, "guten Tag ", 0), (1000, "guten Tag Welt ", 6), (1400, "guten Tag Welt ", 15))
    assert delays(made, "word") == [1000, 1400, 1400]


def test_a_word_that_is_extended_is_not_that_word():
    # «Haus» is followed by a space at 500 in text that is taken back (the literal form): «Haus» is not in the result.
    made = session((500, "Haus ", 5), (1000, "Hausboot ", 9), (1200, "Hausboot da", 11))
    assert delays(made, "word") == [1000, 1200]


def test_taken_back_and_written_again_counts_from_the_first_time():
    # METHOD: the first step whose committed text contains the unit.
    made = session((500, "ja nein ", 8), (1000, "ja ", 3), (1500, "ja nein ", 8), (1600, "ja nein", 7))
    assert delays(made, "word") == [500, 500]


def test_the_text_is_stripped_and_there_is_a_delay_for_each_unit():
    made = session((500, "  guten  Tag \n", 14))
    record = emission_record(made, 7, "Guten Tag", "x.wav", "word", decode)
    assert (record.index, record.prediction, record.reference, record.source) == (7, "guten Tag", "Guten Tag", "x.wav")
    assert record.delays == (500, 500)
    assert (record.elapsed, record.source_length) == (None, 500)
    record = emission_record(made, 7, "", "x.wav", "char", decode)
    assert len(record.delays) == len(record.prediction) == len("guten  Tag")


@pytest.mark.parametrize("unit", ["word", "char"])
def test_an_empty_translation_has_no_delays(unit):
    record = emission_record(session((500, "", 0), (900, " ", 1)), 0, "Tag", "a.wav", unit, decode)
    assert (record.prediction, record.delays, record.source_length) == ("", (), 900)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_there_are_as_many_delays_as_units_and_they_never_fall(unit):
    text = "für die Häuser 你好 ok"
    encoded = text.encode()
    made = session(
        *[(100 * i, encoded[: 2 * i], min(max(2 * i - 3, 0), len(encoded))) for i in range(1, 14)],
        (1400, text, len(encoded)),
    )
    found = delays(made, unit)
    assert len(found) == (5 if unit == "word" else len(text))
    assert found == sorted(found)


def test_erasure_is_counted_on_what_is_shown():
    # Shown: [a b], [a c d], [a c]; taken back: b (1), d (1); the final text has 2 words: NE = 2 / 2.
    made = session((500, "a b", 0), (1000, "a c d", 0), (1500, "a c", 3))
    shown = shown_units(made, "word", decode)
    assert shown == [["a", "b"], ["a", "c", "d"], ["a", "c"]]
    assert normalized_erasure([shown]) == 1.0
