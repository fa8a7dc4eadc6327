"""Steps, rollback and commitment, worked out on paper with a model that says one byte per 100 ms heard."""

import numpy as np
import pytest
from helpers.fakes import ASK, ClockModel

from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched, decode_timed
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource


def source(milliseconds):
    return StreamSource(ASK, np.zeros(round(milliseconds * 16), dtype=np.float32))


def run(milliseconds, cell, model=None, max_new_tokens=256):
    ((session,),) = decode_batched(
        model or ClockModel(), [source(milliseconds)], [cell], BatchLimits(max_new_tokens, batch_size=4)
    )
    return session


def said(session):
    return [bytes(step.token_ids).decode() for step in session.steps]


def committed(session):
    return [bytes(step.token_ids[: step.committed_tokens]).decode() for step in session.steps]


@pytest.mark.parametrize(
    ("duration", "chunk", "times"),
    [
        (1700, 500, [500, 1000, 1500, 1700]),
        (1500, 500, [500, 1000, 1500]),  # D a multiple of k: no empty step after the last
        (400, 500, [400]),
        (500.0625, 500, [500, 500.0625]),  # a sample more
        (150, 2000, [150]),
    ],
)
def test_steps_are_at_min_of_ik_and_d(duration, chunk, times):
    session = run(duration, DecodingSetting(Rollback(0), chunk))
    assert [step.audio_ms for step in session.steps] == times
    assert [step.finished for step in session.steps] == [False] * (len(times) - 1) + [True]
    assert session.finished


def test_a_step_that_has_heard_less_than_150_ms_only_reads():
    model = ClockModel()
    session = run(400, DecodingSetting(Rollback(0), 50), model)
    assert [step.audio_ms for step in session.steps] == [50, 100, 150, 200, 250, 300, 350, 400]
    assert said(session)[:4] == ["", "", "g", "gu"]
    assert [samples / 16 for _, samples, _ in model.asked] == [150, 200, 250, 300, 350, 400]


def test_rollback_commits_all_but_the_last_b_tokens_and_the_last_step_everything():
    session = run(1700, DecodingSetting(Rollback(3), 500))
    # y_i = 5, 10, 15, 17 bytes; c_i = 5 − 3, 10 − 3, 15 − 3, all.
    assert said(session) == ["guten", "guten Tag ", "guten Tag liebe", "guten Tag liebe W"]
    assert [step.committed_tokens for step in session.steps] == [2, 7, 12, 17]


def test_what_is_committed_is_the_next_prefix():
    model = ClockModel()
    run(1700, DecodingSetting(Rollback(3), 500), model)
    assert [bytes(prefix).decode() for _, _, prefix in model.asked] == ["", "gu", "guten T", "guten Tag li"]


def test_without_rollback_everything_is_committed_at_once():
    model = ClockModel(regret=True)
    session = run(1200, DecodingSetting(Rollback(0), 500), model)
    assert [step.committed_tokens for step in session.steps] == [5, 10, 12]
    # The wrong last bytes stay: they were committed.
    assert said(session) == ["gute?", "gute? Tag?", "gute? Tag?l?"]


def test_rollback_mends_what_was_wrong():
    session = run(2100, DecodingSetting(Rollback(1), 500), ClockModel(regret=True))
    assert said(session)[:2] == ["gute?", "guten Tag?"]
    assert said(session)[-1] == "guten Tag liebe Welt"


class ShrinkingModel(ClockModel):
    """Says less the more it hears: 8 bytes, then what it is forced to and one more."""

    def _answer(self, milliseconds, prefix, max_new_tokens):
        from simulsa_plugin.model.values import Continuation

        fresh = b"abcdefgh"[len(prefix) :] if milliseconds <= 500 else b"z"
        return Continuation(tuple(fresh), truncated=False)


def test_commitment_never_falls():
    # y: 8 tokens, c_1 = 8 − 3 = 5; then y = abcde + z, |y| − b = 3, c_2 = max(5, 3) = 5; the last commits all.
    session = run(1500, DecodingSetting(Rollback(3), 500), ShrinkingModel())
    assert said(session) == ["abcdefgh", "abcdez", "abcdez"]
    assert [step.committed_tokens for step in session.steps] == [5, 5, 6]


def test_the_literal_form_takes_back_more():
    # c_2 = |abcdez| − 3 = 3: the next prefix is abc, y_3 = abcz.
    session = run(1500, DecodingSetting(Rollback(3, floor=False), 500), ShrinkingModel())
    assert said(session) == ["abcdefgh", "abcdez", "abcz"]
    assert [step.committed_tokens for step in session.steps] == [5, 3, 4]


@pytest.mark.parametrize("floor", [True, False])
def test_a_rollback_longer_than_the_text_commits_nothing_until_the_end(floor):
    session = run(1700, DecodingSetting(Rollback(100, floor), 500))
    assert committed(session) == ["", "", "", "guten Tag liebe W"]


def test_offline_hears_everything_once():
    model = ClockModel()
    session = run(1700, DecodingSetting(Offline(), None), model)
    assert [(step.audio_ms, step.committed_tokens, step.finished) for step in session.steps] == [(1700, 17, True)]
    assert len(model.asked) == 1


def test_the_limit_on_new_tokens_is_marked():
    session = run(1000, DecodingSetting(Rollback(0), 500), max_new_tokens=4)
    assert said(session) == ["gute", "guten Ta"]
    assert [step.truncated for step in session.steps] == [True, True]
    assert not any(step.truncated for step in run(1000, DecodingSetting(Rollback(0), 500), max_new_tokens=5).steps)


def history(session):
    return [(step.audio_ms, step.token_ids, step.committed_tokens, step.finished) for step in session.steps]


CELLS = [DecodingSetting(Offline(), None), *(DecodingSetting(Rollback(b), k) for k in (70, 500, 1000) for b in (0, 3))]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_and_company_change_no_result(batch_size):
    sources = [source(ms) for ms in (1700, 150, 980.5, 2600, 1700)]
    model = ClockModel(regret=True)
    together = decode_batched(model, sources, CELLS, BatchLimits(99, batch_size))
    assert max(model.batches) <= batch_size
    for cell, sessions in zip(CELLS, together, strict=True):
        for one, session in zip(sources, sessions, strict=True):
            ((alone,),) = decode_batched(ClockModel(regret=True), [one], [cell], BatchLimits(99, 1))
            assert history(session) == history(alone)
            assert history(session) == history(decode_timed(ClockModel(regret=True), one, cell, BatchLimits(99)))


def test_sessions_of_one_batch_have_heard_about_as_much():
    heard = []

    class Listening(ClockModel):
        def generate(self, prompts, requests):
            heard.append(set(prompts))
            return super().generate(prompts, requests)

    decode_batched(
        Listening(), [source(3000)] * 8, [DecodingSetting(Rollback(b), 500) for b in (0, 3)], BatchLimits(99, 16)
    )
    assert heard == [{8000 * step} for step in range(1, 7)]


def test_every_session_is_reported_once_for_each_step():
    steps = []
    decode_batched(
        ClockModel(),
        [source(900), source(1300)],
        CELLS[:3],
        BatchLimits(9, 2),
        on_step=lambda session: steps.append((session.setting, session.utterance, len(session.steps))),
    )
    # CELLS: offline, and chunks of 70 ms.
    expected = [
        (0, 0, 1),
        (0, 1, 1),
        *((s, u, n + 1) for s in (1, 2) for u, count in ((0, 13), (1, 19)) for n in range(count)),
    ]
    assert sorted(steps) == sorted(expected)


def test_nothing_to_decode_is_nothing():
    assert decode_batched(ClockModel(), [], CELLS[:2], BatchLimits(9, 2)) == [[], []]
