"""Sliding windows. Expected texts are those of the model's audio: every word once and in order."""

import numpy as np
import pytest
from helpers.fakes import ASK
from helpers.reading_model import WORD_SAMPLES, ReadingModel, spoken, text_of

from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.logs.steps import STEPS, read_sessions
from simulsa_plugin.metrics.delays import unit_delays
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched, decode_timed
from simulsa_plugin.streaming.policies import Confidence, HoldN, LocalAgreement, Offline, Retranslation, Rollback, WaitK
from simulsa_plugin.streaming.session import Arrival
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource
from simulsa_plugin.streaming.windows import SlidingWindow

LIMITS = BatchLimits(2000, batch_size=5)
W = 16_000 * 4
POLICIES = [Rollback(0), Rollback(4), HoldN(3), LocalAgreement(2), WaitK(2), Confidence(0.9), Retranslation()]
SETTINGS = [
    DecodingSetting(policy, chunk)
    for policy in POLICIES
    for chunk in (320, 1000)
    if chunk == 320 or not isinstance(policy, WaitK)  # a word per second cannot keep up with 2.5 spoken ones
]


def source(count=60, pauses=(11, 12, 26, 41), window=W):
    waveform = spoken(range(1, count + 1), pauses)
    silent = np.flatnonzero(np.diff(np.concatenate([[0], (waveform == 0).astype(int), [0]])))
    places = tuple(zip(silent[::2].tolist(), silent[1::2].tolist(), strict=True))
    return StreamSource(ASK, waveform, window=SlidingWindow(window, places))


def shown(session, model, folder):
    """The steps as evaluation reads them back."""
    write_jsonl(folder / STEPS, step_rows("x", session.steps, model.decode, session.left_token_ids))
    ((_, steps),) = read_sessions([folder / STEPS])
    return steps


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: f"{one.policy.name}{one.policy.cell()}{one.chunk_ms}")
@pytest.mark.parametrize("regret", [False, True])
def test_no_word_is_lost_or_repeated_and_no_step_hears_more_than_the_window(setting, regret, tmp_path):
    model = ReadingModel(regret=regret)
    session = decode_timed(model, source(), setting, LIMITS)
    assert max(model.read_samples) <= W
    assert max(len(step.token_ids) for step in session.steps) <= 25  # ten words fit into W, and some more are forced
    assert len(session.left_token_ids) >= 5
    steps = shown(session, model, tmp_path)
    words = steps[-1].shown.split()
    assert [word for word in words if word != "???"] == text_of(range(1, 61)).split()
    assert steps[-1].shown == steps[-1].committed.strip()
    delays = unit_delays(steps, "word", "committed")
    assert delays == sorted(delays)
    assert regret or all(delay >= word * 400 for word, delay in enumerate(delays, 1))


@pytest.mark.parametrize("policy", [Rollback(0), Rollback(4), Retranslation()], ids=lambda one: f"{one.cell()}")
@pytest.mark.parametrize("chunk", [250, 777, 1000, 1150])
def test_a_word_that_the_start_of_a_window_cuts_is_not_lost_where_a_step_shows_it_late(policy, chunk):
    for window in (56_000, 64_000, 71_234, 80_000):
        model = ReadingModel(regret=True)
        session = decode_timed(model, source(40, (), window), DecodingSetting(policy, chunk), LIMITS)
        written = [model.decode(tokens) for tokens in [*session.left_token_ids, session.steps[-1].token_ids]]
        words = [word for word in "".join(written).split() if word != "???"]
        assert words == text_of(range(1, 41)).split(), window


def test_batched_equals_one_by_one():
    sources = [source(), source(31, ()), source(44, (9, 20), 3 * 16_000)]
    batched = decode_batched(ReadingModel(regret=True), sources, SETTINGS, LIMITS)
    for setting, row in zip(SETTINGS, batched, strict=True):
        for each, session in zip(sources, row, strict=True):
            alone = decode_timed(ReadingModel(regret=True), each, setting, LIMITS)
            assert [(step.audio_ms, step.token_ids, step.window) for step in session.steps] == [
                (step.audio_ms, step.token_ids, step.window) for step in alone.steps
            ]
            assert session.left_token_ids == alone.left_token_ids


def test_a_window_starts_in_a_pause_and_the_sentence_before_it_leaves():
    model = ReadingModel()
    session = decode_timed(model, source(14, (6,)), DecodingSetting(Rollback(0), 400), LIMITS)
    # Ten words and a pause are 4.2 s, more than W: the window starts within the pause after the sentence of word 5.
    assert model.decode(session.left_token_ids[0]) == " w1 w2 w3 w4 w5."
    first = next(step for step in session.steps if step.window == 1)
    assert model.decode(first.token_ids).startswith(" w6 w7")


def test_text_that_was_committed_keeps_its_time_when_it_leaves(tmp_path):
    windowed, whole = source(30, ()), source(30, (), 10**7)
    model = ReadingModel()
    delays = [
        unit_delays(
            shown(decode_timed(model, each, DecodingSetting(Rollback(0), 320), LIMITS), model, tmp_path), "word", kind
        )
        for each in (windowed, whole)
        for kind in ("committed", "first_stable")
    ]
    assert delays[0] == delays[2]
    assert delays[1] == delays[3]


def test_a_step_may_end_the_window():
    waveform = spoken(range(1, 11))
    ends = [4 * WORD_SAMPLES, 8 * WORD_SAMPLES, 10 * WORD_SAMPLES]
    arrivals = [Arrival(end, len(waveform), ends_window=True) for end in ends]
    model = ReadingModel()
    one = StreamSource(ASK, waveform, lambda chunk: arrivals, SlidingWindow(4 * WORD_SAMPLES))
    session = decode_timed(model, one, DecodingSetting(Offline(), None), LIMITS)
    assert [model.decode(step.token_ids) for step in session.steps] == [" w1 w2 w3 w4", " w5. w6 w7 w8", " w9 w10."]


def test_loops_are_cut_and_what_follows_is_translated(tmp_path):
    model = ReadingModel(loops_at=7)
    session = decode_timed(model, source(20, (6, 11)), DecodingSetting(Rollback(0), 800), LIMITS)
    steps = shown(session, model, tmp_path)
    assert any(step.looping for step in steps)
    assert steps[-1].shown.count("w7") == 1
    assert steps[-1].shown.endswith(text_of(range(8, 21)))


def test_a_window_may_end_with_a_step_that_is_too_short_to_be_decoded():
    arrivals = [Arrival(1600, 1600, ends_window=True), Arrival(16_000 * 2, 16_000 * 2)]
    each = StreamSource(ASK, spoken(range(1, 9), ()), lambda _: arrivals, SlidingWindow(W))
    setting = DecodingSetting(Rollback(0), 500)
    ((batched,),) = decode_batched(ReadingModel(), [each], [setting], LIMITS)
    assert [step.window for step in batched.steps] == [0, 1]
    alone = decode_timed(ReadingModel(), each, setting, LIMITS)
    assert [step.token_ids for step in batched.steps] == [step.token_ids for step in alone.steps]
