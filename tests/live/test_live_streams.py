"""Live streams against evaluation: audio in packets of any size gives the steps that the whole recording gives."""

import dataclasses

import numpy as np
import pytest
from helpers.fakes import ASK, ClockModel
from helpers.reading_model import ReadingModel, spoken
from helpers.talks import SLIDING, EnergyDetector, evaluated_steps, spoken_talk
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.live.arrivals import SpeechArrivals, WholeStreamArrivals
from simulsa_plugin.live.engine import LiveEngine
from simulsa_plugin.live.stream import LiveStream
from simulsa_plugin.live.transcript import TextFollower, Transcript
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES, VoiceActivitySettings, find_speech, segment_arrivals
from simulsa_plugin.metrics.delays import ShownStep
from simulsa_plugin.model.values import Prompt
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.policies import Confidence, LocalAgreement, Policy, Rollback
from simulsa_plugin.streaming.session import Arrival, ChunkSchedule
from simulsa_plugin.streaming.steps import BatchLimits

LIMITS = BatchLimits(64, batch_size=4)
WINDOW_SAMPLES = 80000


class GivenProbabilities:
    """A detector that has been told what it will hear."""

    def __init__(self, probabilities):
        self.rest = list(probabilities)

    def probabilities(self, waveform):
        frames = -(-len(waveform) // FRAME_SAMPLES)
        found, self.rest = self.rest[:frames], self.rest[frames:]
        return np.array(found, dtype=np.float32)


def packets(waveform, sizes):
    """The waveform in parts, the last one with what is left."""
    ends = np.cumsum(sizes)
    return np.split(waveform, ends[ends < len(waveform)])


def pushed(arrivals, parts, *, end_known):
    due = [one for number, part in enumerate(parts, 1)
           for one in arrivals.push(part, final=end_known and number == len(parts))]  # fmt: skip
    return due if end_known else [*due, *arrivals.push(np.zeros(0, dtype=np.float32), final=True)]


@given(
    runs=st.lists(st.tuples(st.sampled_from([0.0, 0.36, 0.4, 0.6, 1.0]), st.integers(1, 30)), min_size=1, max_size=20),
    missing=st.integers(0, FRAME_SAMPLES - 1),
    sizes=st.lists(st.integers(0, 9000), max_size=60),
    chunk=st.integers(160, 16000),
    slides=st.booleans(),
    pad_ms=st.sampled_from([0, 30, 32, 300]),
)
def test_steps_of_speech_are_due_as_in_evaluation(runs, missing, sizes, chunk, slides, pad_ms):
    probabilities = np.concatenate([np.full(frames, value, dtype=np.float32) for value, frames in runs])
    num_samples = len(probabilities) * FRAME_SAMPLES - missing
    activity = VoiceActivitySettings(
        min_speech_ms=64, min_silence_ms=320, pad_ms=pad_ms, window_seconds=3, slides=slides
    )
    arrivals = SpeechArrivals(GivenProbabilities(probabilities), activity, chunk)
    due = pushed(arrivals, packets(np.zeros(num_samples, dtype=np.float32), sizes), end_known=True)
    segments = find_speech(probabilities, num_samples, activity)
    assert [(one.start, one.arrival) for one in due] == [
        (segment.start, arrival) for segment in segments for arrival in segment_arrivals(segment, chunk, num_samples)
    ]
    assert [one.start for one in due if one.last] == [segment.start for segment in segments]
    assert [one.pauses for one in due if one.last] == [segment.pauses for segment in segments]


@given(
    num_samples=st.integers(1, 20000), sizes=st.lists(st.integers(0, 4000), max_size=12), chunk=st.integers(100, 8000)
)
def test_steps_of_a_whole_stream_are_due_as_in_evaluation(num_samples, sizes, chunk):
    parts = packets(np.zeros(num_samples, dtype=np.float32), sizes)
    chunk_ms = max(1, chunk // 16)
    due = pushed(WholeStreamArrivals(chunk_ms * 16), parts, end_known=True)
    assert [one.arrival for one in due] == list(ChunkSchedule(num_samples, chunk_ms))
    assert [one.last for one in due] == [False] * (len(due) - 1) + [True]


def test_an_end_that_shows_late_gets_a_step_of_the_same_audio():
    due = pushed(WholeStreamArrivals(1600), [np.zeros(3200, dtype=np.float32)], end_known=False)
    assert [one.arrival for one in due] == [Arrival(1600, 1600), Arrival(3200, 3200), Arrival(3200, 3200)]


def test_a_stream_without_audio_has_no_steps():
    assert WholeStreamArrivals(1600).push(np.zeros(0, dtype=np.float32), final=True) == []
    silent = SpeechArrivals(EnergyDetector(), SLIDING, 1600)
    assert silent.push(np.zeros(50000, dtype=np.float32), final=True) == []


def live_stream(model, setting, *, speech=True, **options):
    arrivals = SpeechArrivals(EnergyDetector(), SLIDING, setting.chunk_ms * 16) if speech else None
    return LiveStream(
        ASK, setting.policy, arrivals or WholeStreamArrivals(setting.chunk_ms * 16), model.decode, "word",
        window_samples=WINDOW_SAMPLES if speech else None, **options,
    )  # fmt: skip


def decoded(engine, stream, parts, end_known=True):
    """The steps of a stream that gets its audio in parts."""
    steps = []
    for number, part in enumerate(parts, 1):
        stream.push(part, final=end_known and number == len(parts))
        while (step := engine.advance(stream).result(timeout=60)) is not None:
            steps.append(dataclasses.replace(step, compute_ms=None))
    return steps


@pytest.mark.parametrize("policy", [Rollback(2), Confidence(0.9), LocalAgreement(2)], ids=lambda one: one.name)
@pytest.mark.parametrize("packet", [333, 1600, 16000, 10**6])
def test_a_talk_is_translated_live_as_in_evaluation(policy, packet):
    model, setting, waveform = ReadingModel(regret=True), DecodingSetting(policy, 480), spoken_talk()
    with LiveEngine(model, LIMITS) as engine:
        stream = live_stream(model, setting)
        steps = decoded(engine, stream, packets(waveform, [packet] * (len(waveform) // packet + 1)))
    assert steps == evaluated_steps(model, waveform, setting)
    assert any(step.finished for step in steps)
    assert stream.transcript.text == " ".join(step.shown for step in steps if step.finished)
    assert stream.transcript.text.split()[-1] == "w30."


def test_streams_of_several_speakers_share_batches_and_nothing_else():
    model, setting, waveform = ReadingModel(), DecodingSetting(Rollback(2), 480), spoken_talk()
    expected = evaluated_steps(ReadingModel(), waveform, setting)
    parts = packets(waveform, [8000] * 100)
    with LiveEngine(model, LIMITS) as engine:
        streams = [live_stream(model, setting) for _ in range(3)]
        found = [[] for _ in streams]
        for number, part in enumerate(parts, 1):
            for stream in streams:
                stream.push(part, final=number == len(parts))
            while any(stream.due_steps for stream in streams):
                with engine._changed:  # so that the engine finds all of them waiting
                    futures = [engine.advance(stream) for stream in streams]
                for steps, future in zip(found, futures, strict=True):
                    steps.append(dataclasses.replace(future.result(timeout=60), compute_ms=None))
        load = engine.load
    assert found == [expected] * 3
    assert load.steps == 3 * load.batches == 3 * len(expected)
    assert load.waiting == 0
    assert max(model.batches) == 3


def test_late_steps_are_skipped_and_the_end_is_the_same():
    model, setting, waveform = ReadingModel(), DecodingSetting(Rollback(2), 480), spoken_talk()
    with LiveEngine(model, LIMITS) as engine:
        stream = live_stream(model, setting, skip_late=True)
        stream.push(waveform, final=True)
        first_step = (31 * FRAME_SAMPLES - 300 * 16) / 16 + 2 * 480  # after one chunk the speech is not yet detected
        assert stream.late_ms == stream.received_ms - first_step
        steps = decoded(engine, stream, [np.zeros(0, dtype=np.float32)], end_known=False)
    assert [step.finished for step in steps] == [True] * 3  # one step for each utterance
    assert stream.skipped_steps == len(evaluated_steps(ReadingModel(), waveform, setting)) - 3
    assert (stream.late_ms, stream.due_steps) == (0, 0)


def test_audio_that_no_step_needs_is_dropped():
    model, setting = ReadingModel(), DecodingSetting(Rollback(0), 480)
    with LiveEngine(model, LIMITS) as engine:
        stream = live_stream(model, setting)
        decoded(engine, stream, [np.zeros(1600, dtype=np.float32)] * 500, end_known=False)
        kept = sum(map(len, stream._audio._parts))
        assert kept <= SLIDING.pad_ms * 16 + FRAME_SAMPLES + 1600
        decoded(engine, stream, packets(spoken(range(1, 80)), [1600] * 1000), end_known=False)
        assert sum(map(len, stream._audio._parts)) <= 1.2 * WINDOW_SAMPLES


class Unreliable(Policy):
    """Fails on demand."""

    name = "unreliable"

    def committed(self, session, output):
        return -1


def test_a_stream_fails_alone():
    model, waveform = ReadingModel(), spoken_talk()
    good = DecodingSetting(Rollback(2), 480)
    with LiveEngine(model, LIMITS) as engine:
        streams = [live_stream(model, one) for one in (good, DecodingSetting(Unreliable(), 480))]
        for stream in streams:
            stream.push(waveform, final=True)
        with engine._changed:
            futures = [engine.advance(stream) for stream in streams]
        assert futures[0].result(timeout=60) is not None
        with pytest.raises(UsageError, match="unreliable commits -1"):
            futures[1].result(timeout=60)
        assert decoded(engine, streams[0], [np.zeros(0, dtype=np.float32)], end_known=False)[-1].finished


class Refusing(ReadingModel):
    """Has a method that fails for one stream: a prompt that the template refuses, a text that cannot be decoded."""

    def render_prompt(self, prompt, waveform):
        if prompt == REFUSED:
            raise ModelError("the template refuses the prompt")
        return super().render_prompt(prompt, waveform)


def cannot_decode(token_ids):
    raise ModelError("no text")


REFUSED = Prompt(({"role": "user", "content": "refused"},))


@pytest.mark.parametrize(
    "prompt, decode, message", [(REFUSED, None, "template refuses"), (ASK, cannot_decode, "no text")]
)
def test_a_stream_that_fails_before_or_after_its_batch_fails_alone(prompt, decode, message):
    model, audio = Refusing(), spoken(range(1, 4))
    with LiveEngine(model, LIMITS) as engine:
        failing = LiveStream(prompt, Rollback(0), WholeStreamArrivals(8000), decode or model.decode, "word")
        streams = [failing, live_stream(model, DecodingSetting(Rollback(0), 500), speech=False)]
        for stream in streams:
            stream.push(audio, final=True)
        with engine._changed:
            futures = [engine.advance(stream) for stream in streams]
        with pytest.raises(ModelError, match=message):
            futures[0].result(timeout=60)
        assert futures[1].result(timeout=60) is not None
        assert decoded(engine, streams[1], [np.zeros(0, dtype=np.float32)], end_known=False)[-1].finished


def test_a_closed_engine_cancels_what_waits():
    model = ClockModel()
    engine = LiveEngine(model, LIMITS)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.advance(live_stream(model, DecodingSetting(Rollback(0), 500), speech=False))


def test_a_batch_that_would_not_fit_into_memory_is_split():
    model = ClockModel(bytes_per_token=1)
    tight = dataclasses.replace(LIMITS, memory_bytes=2 * (500 + 64) + 1)  # two prompts of half a second
    with LiveEngine(model, tight) as engine:
        streams = [live_stream(model, DecodingSetting(Rollback(0), 500), speech=False) for _ in range(4)]
        for stream in streams:
            stream.push(np.zeros(8000, dtype=np.float32))
        with engine._changed:
            futures = [engine.advance(stream) for stream in streams]
        assert all(future.result(timeout=60) for future in futures)
    assert model.batches == [2, 2]


def step(shown, committed, *, finished=False):
    return ShownStep(0.0, shown, committed, finished)


def test_a_follower_learns_what_is_taken_back_and_written():
    transcript, all_text, final = Transcript("word"), TextFollower(), TextFollower(only_committed=True)
    told = []
    end = step("guten Tag lie", "", finished=True)
    for one in (step("guten Tak", "guten "), step("guten Tag liebe", "guten Tag"), end, step("ja", "")):
        transcript.update(one)
        told.append((all_text.change(transcript), final.change(transcript)))
    assert [(change.deleted, change.added) for change, _ in told] == [
        ((), ("guten", "Tak")),
        (("Tak",), ("Tag", "liebe")),
        (("liebe",), ("lie",)),
        ((), ("ja",)),
    ]
    assert [(change.deleted, change.added) for _, change in told] == [
        ((), ("guten",)), ((), ()), ((), ("Tag", "lie")), ((), ()),
    ]  # fmt: skip
    assert transcript.text == "guten Tag lie ja"


@given(st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=5), st.booleans(), st.booleans()), max_size=12))
def test_a_slow_follower_ends_with_the_same_text(steps):
    transcript, quick, slow = Transcript("char"), TextFollower(), TextFollower()
    texts = {"quick": [], "slow": []}
    for units, finished, looks in steps:
        transcript.update(step("".join(units), "", finished=finished))
        for name, follower, turn in (("quick", quick, True), ("slow", slow, looks)):
            if turn:
                change = follower.change(transcript)
                kept = len(texts[name]) - len(change.deleted)
                assert texts[name][kept:] == list(change.deleted)
                texts[name] = texts[name][:kept] + list(change.added)
        assert "".join(texts["quick"]) == transcript.text
        if looks:
            assert texts["slow"] == texts["quick"]
