"""Delays on paper: a unit counts when committed text holds it whole and nothing can extend it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.logs.steps import read_sessions
from simulsa_plugin.metrics import delays as module
from simulsa_plugin.metrics.delays import ShownStep, emission_record
from simulsa_plugin.streaming.session import Step


def decode(token_ids):
    return bytes(token_ids).decode(errors="replace")


def session(*steps):
    """Steps as (milliseconds, what is shown, how many of its bytes are committed, and what it took)."""
    last = len(steps) - 1
    made = []
    for index, (ms, shown, count, *spent) in enumerate(steps):
        encoded = shown if isinstance(shown, bytes) else shown.encode()
        made.append(ShownStep(ms, decode(encoded).strip(), decode(encoded[:count]), index == last, *spent))
    return made


def delays(made, unit):
    return list(emission_record(made, 0, "", "a.wav", unit).delays)


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
    # docs/method.md: the first step whose committed text contains the unit.
    made = session((500, "ja nein ", 8), (1000, "ja ", 3), (1500, "ja nein ", 8), (1600, "ja nein", 7))
    assert delays(made, "word") == [500, 500]


def test_the_text_is_stripped_and_there_is_a_delay_for_each_unit():
    made = session((500, "  guten  Tag \n", 14))
    record = emission_record(made, 7, "Guten Tag", "x.wav", "word")
    assert (record.index, record.prediction, record.reference, record.source) == (7, "guten Tag", "Guten Tag", "x.wav")
    assert record.delays == (500, 500)
    assert (record.elapsed, record.source_length) == (None, 500)
    record = emission_record(made, 7, "", "x.wav", "char")
    assert len(record.delays) == len(record.prediction) == len("guten  Tag")


@pytest.mark.parametrize("unit", ["word", "char"])
def test_an_empty_translation_has_no_delays(unit):
    record = emission_record(session((500, "", 0), (900, " ", 1)), 0, "Tag", "a.wav", unit)
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
    assert emission_record(made, 0, "", "a.wav", "word").erased == 2


def test_a_word_that_grows_is_first_stable_when_it_is_whole():
    made = session((500, "guten Ta", 8), (1000, "guten Tag", 9), (1500, "guten Tag Welt", 14))
    assert emission_record(made, 0, "", "a.wav", "word").erased == 0
    assert named(made)["first_stable"] == [500, 1000, 1500]


def named(made, unit="word"):
    return {name: module.unit_delays(made, unit, name) for name in module.DELAY_KINDS}


def test_three_delays_on_paper():
    made = session((500, "we saw", 0), (1000, "we saw him", 3), (1500, "we saw her go", 6), (2000, "we saw her go", 13))
    assert named(made) == {
        "first_stable": [500, 500, 1500, 1500],  # «we saw» stands from the first step on, «her go» from the third
        "last_written": [1000, 1500, 2000, 2000],  # what is not committed is written again at the next step
        "committed": [1000, 2000, 2000, 2000],  # «saw» is closed by a space that is committed at the end only
    }


def test_a_word_that_was_longer_for_a_moment_was_not_stable_before():
    made = session((500, "Haus", 4), (1000, "Hausboot", 4), (1500, "Haus da", 7))
    assert named(made) == {"first_stable": [1500, 1500], "last_written": [1500, 1500], "committed": [1500, 1500]}


def test_retranslation_is_stable_early_written_late_and_committed_last():
    made = session((500, "ja", 0), (1000, "ja doch", 0), (1500, "ja doch gut", 11))
    assert named(made) == {
        "first_stable": [500, 1000, 1500],
        "last_written": [1500] * 3,
        "committed": [1500] * 3,
    }


texts = st.text(alphabet="ab ", max_size=8)


@given(st.lists(st.tuples(texts, st.integers(0, 8)), min_size=1, max_size=6), st.sampled_from(["word", "char"]))
def test_a_unit_is_stable_before_it_is_written_last_and_that_before_it_is_committed(shown, unit):
    steps, committed = [], 0
    for number, (text, more) in enumerate(shown, 1):
        kept = steps[-1][1][:committed] if steps else ""
        text = kept + text
        committed = len(text) if number == len(shown) else max(committed, min(more, len(text)))
        steps.append((100 * number, text, committed))
    found = named(session(*steps), unit)
    units = module.split_units(steps[-1][1], unit)
    assert {len(times) for times in found.values()} == {len(units)}
    for first, last, committed in zip(found["first_stable"], found["last_written"], found["committed"], strict=True):
        assert first <= last <= committed
    for times in found.values():
        assert times == sorted(times)


def test_three_clocks_on_paper():
    # Steps at 500, 1000, 1500 ms that take 700, 100 and 200 ms; a word is committed at each.
    made = session((500, "a ", 2, 700.0), (1000, "a b ", 4, 100.0), (1500, "a b c", 5, 200.0))
    assert {clock: list(module.elapsed_times(made, "word", clock)) for clock in module.CLOCKS} == {
        "cumulative": [1200, 1800, 2500],  # audio, and all computation so far: 700, 800, 1000
        "per_step": [1200, 1100, 1700],  # audio, and the computation of the step
        "queue": [1200, 1300, 1700],  # the second step starts when the first is done, at 1200; the third at once
    }


@given(st.lists(st.integers(0, 900).map(float), min_size=1, max_size=8))
def test_a_user_waits_no_longer_than_simuleval_says_and_no_less_than_simulstream(spent):
    made = [ShownStep(500.0 * i, "a " * i, "a " * i, i == len(spent), ms) for i, ms in enumerate(spent, 1)]
    per_step, queue, cumulative = (
        module.elapsed_times(made, "word", clock) for clock in ("per_step", "queue", "cumulative")
    )
    assert all(one <= two <= three for one, two, three in zip(per_step, queue, cumulative, strict=True))


def test_elapsed_times_are_there_only_where_they_were_measured():
    measured = session((500, "a ", 2, 700.0), (900, "a b", 3, 100.0))
    assert emission_record(measured, 0, "", "a.wav", "word").elapsed == (1200.0, 1700.0)
    assert emission_record(session((500, "a ", 2), (900, "a b", 3)), 0, "", "a.wav", "word").elapsed is None


def test_steps_read_the_same_from_their_file(tmp_path):
    made = [Step(500.0, tuple(b"ja do"), 3, False, True, 12.5), Step(900.0, tuple(b"ja doch "), 8, True, False, 3.0)]
    write_jsonl(tmp_path / "steps.jsonl", step_rows("x-1", made, decode))
    ((identifier, steps),) = read_sessions([tmp_path / "steps.jsonl"])
    assert identifier == "x-1"
    assert steps == [
        ShownStep(500.0, "ja do", "ja ", False, 12.5, True),
        ShownStep(900.0, "ja doch", "ja doch ", True, 3.0),
    ]


def test_steps_of_an_older_version_are_refused(tmp_path):
    write_jsonl(tmp_path / "steps.jsonl", [{"id": "x", "audio_ms": 1.0, "text": "", "finished": True}])
    with pytest.raises(LogError, match=r"a row without committed. Run `simulsa-eval run` again"):
        list(read_sessions([tmp_path / "steps.jsonl"]))
