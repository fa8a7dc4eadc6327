"""Which sessions are decoded together, with models that answer when they like."""

import random
from collections import Counter

import pytest
from helpers.fakes import ClockModel
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming.test_engine import CELLS, history, source

from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.scheduling import SessionQueue
from simulsa_plugin.streaming.steps import BatchLimits


class SlowModel(ClockModel):
    """Ends the answers of a batch in any order; notes how many it has at once, and what is in them."""

    def __init__(self, seed=0, **options):
        super().__init__(regret=True, **options)
        self.drawn, self.most, self.added = random.Random(seed), 0, []

    def open_batch(self):
        return SlowBatch(self)


class SlowBatch:
    def __init__(self, model):
        self.model, self.answers, self.count = model, {}, 0

    def extend(self, prompts, requests, unfinished):
        self.model.added.append(prompts)
        if requests:
            self.answers |= enumerate(self.model.generate(prompts, requests), self.count)
        self.count += len(requests)
        self.model.most = max(self.model.most, len(self.answers))
        numbers = self.model.drawn.sample(list(self.answers), len(self.answers))
        left = self.model.drawn.randint(0, min(unfinished, len(numbers)))
        return {number: self.answers.pop(number) for number in numbers[left:]}


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.lists(st.sampled_from([150, 400, 980.5, 1700, 2600]), min_size=1, max_size=7),
    st.sampled_from([4e9, 30_000]),
)
def test_the_order_in_which_answers_end_changes_no_result(seed, batch_size, lengths, memory):
    sources = [source(ms) for ms in lengths]
    model = SlowModel(seed, bytes_per_token=10)
    shares = Counter()

    def count(session):
        shares[id(session)] += session.step_share

    together = decode_batched(model, sources, CELLS, BatchLimits(99, batch_size, memory), on_step=count)
    assert model.most <= batch_size
    assert shares == {id(session): pytest.approx(1) for row in together for session in row}
    for cell, sessions in zip(CELLS, together, strict=True):
        for one, session in zip(sources, sessions, strict=True):
            ((alone,),) = decode_batched(ClockModel(regret=True), [one], [cell], BatchLimits(99, 1))
            assert history(session) == history(alone)


class Heard(int):
    """Samples of one encoded prompt; equal ones of other utterances are other objects."""


@pytest.mark.parametrize("batch_size", [14, 32, 500])
def test_each_prompt_is_in_one_batch(batch_size):
    class Model(SlowModel):
        def encode_prompts(self, prompts, waveforms):
            return [Heard(samples) for samples in super().encode_prompts(prompts, waveforms)]

    sources, model = [source(ms) for ms in (1700, 2600, 1700, 900, 3100, 2200, 500)], Model(1)
    decode_batched(model, sources, CELLS, BatchLimits(99, batch_size))
    batches = Counter(key for added in model.added for key in {id(prompt) for prompt in added})
    assert set(batches.values()) == {1}
    times = [{min(step * chunk, ms) for chunk in (70, 500, 1000, ms) for step in range(1, 99) if step * chunk >= 150}
             for ms in (1700, 2600, 1700, 900, 3100, 2200, 500)]  # fmt: skip
    assert len(batches) == sum(map(len, times))


def test_a_group_that_is_too_large_for_a_batch_is_decoded_in_parts():
    model = SlowModel()
    decode_batched(model, [source(1000)], [DecodingSetting(Rollback(b), 500) for b in range(7)], BatchLimits(99, 3))
    assert [len(added) for added in model.added if added] == [3, 3, 1] * 2


@pytest.mark.parametrize(("limits", "room"), [(BatchLimits(99, 16), 16), (BatchLimits(99, 64, 8 * 10 * 600), 8)])
def test_others_join_when_a_quarter_of_those_that_fit_is_left(limits, room):
    allowed = []

    class Noting(SlowBatch):
        def extend(self, prompts, requests, unfinished):
            allowed.append((len(requests), unfinished))
            return super().extend(prompts, requests, unfinished)

    class Model(SlowModel):
        def open_batch(self):
            return Noting(self)

    # At 500 ms a prompt has 500 tokens, with 99 new ones 599 of 10 bytes.
    decode_batched(Model(bytes_per_token=10), [source(500)] * 30, [DecodingSetting(Offline(), None)], limits)
    assert allowed[0] == (room, room // 4)
    assert allowed[-1][1] == 0
    assert sum(count for count, _ in allowed) == 30


def test_audio_is_encoded_in_what_memory_the_running_sessions_leave():
    class Leaving(SlowBatch):
        """Leaves as many as it may."""

        def extend(self, prompts, requests, unfinished):
            self.model.drawn.randint = lambda low, high: high
            return super().extend(prompts, requests, unfinished)

    class Model(SlowModel):
        def __init__(self):
            super().__init__(bytes_per_token=10, bytes_per_sample=1.0)
            self.widths = []

        def open_batch(self):
            return Leaving(self)

        def encode_prompts(self, prompts, waveforms):
            self.widths.append(len(prompts))
            return super().encode_prompts(prompts, waveforms)

    model = Model()
    # Eight sessions fit, of 8000 bytes of audio each six; two that are left take 12,000 bytes: then four.
    decode_batched(model, [source(500)] * 30, [DecodingSetting(Offline(), None)], BatchLimits(99, 64, 8 * 10 * 600))
    assert model.widths[:2] == [6, 2]
    assert max(model.widths[2:-2]) == 4


def test_utterances_with_the_least_audio_go_first():
    sessions = [source(2000).new_session(u, s, chunk) for u in range(3) for s, chunk in enumerate((500, 1000, 500))]
    queue = SessionQueue(sessions)
    group = queue.first()
    assert [(one.utterance, one.setting) for one in group] == [(0, 0), (0, 2)]
    queue.take(group)
    assert [one.utterance for one in queue.first()] == [1, 1]
    group[0].advance_without_decoding()
    queue.put([group[0]], decoding=[0])
    assert [one.utterance for one in queue.first()] == [1, 1]  # the other one of utterance 0 is being decoded
    group[1].advance_without_decoding()
    queue.put([group[1]], decoding=[])
    for number in (1, 2):
        queue.take(queue.first())
        assert [one.utterance for one in queue.first()] == [(2, 0)[number - 1]] * (2 if number == 1 else 3)
    assert {one.due_samples for one in queue.first()} == {16_000}
