"""An utterance inside a recording is decoded as by itself, with times of the recording."""

import numpy as np
from helpers.fakes import ASK, ClockModel

from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES, VoiceActivitySettings, find_speech, segment_arrivals
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched, decode_timed
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.session import Arrival
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

LIMITS = BatchLimits(64, batch_size=4)
SETTINGS = [DecodingSetting(Offline(), None), DecodingSetting(Rollback(2), 320), DecodingSetting(Rollback(0), 512)]


def ms(milliseconds):
    return milliseconds * 16


def segment_sources():
    """Two segments of a recording of 4.8 s."""
    probabilities = np.zeros(150, dtype=np.float32)
    probabilities[20:60] = probabilities[90:125] = 1
    num_samples = len(probabilities) * FRAME_SAMPLES
    waveform = np.zeros(num_samples, dtype=np.float32)
    found = find_speech(probabilities, num_samples, VoiceActivitySettings(min_silence_ms=320, pad_ms=64))
    return [
        StreamSource(
            ASK,
            waveform[each.start : each.end],
            lambda chunk, each=each: segment_arrivals(each, None if chunk is None else ms(chunk), num_samples),
        )
        for each in found
    ]


def test_steps_have_the_arrivals_audio_and_the_recordings_time():
    arrivals = [Arrival(ms(300), ms(5000)), Arrival(ms(700), ms(5500)), Arrival(ms(700), ms(6000))]
    model = ClockModel()
    source = StreamSource(ASK, np.zeros(ms(700), dtype=np.float32), lambda chunk: arrivals)
    ((session,),) = decode_batched(model, [source], [DecodingSetting(Rollback(1), 500)], LIMITS)
    assert [step.audio_ms for step in session.steps] == [5000, 5500, 6000]
    assert [bytes(step.token_ids).decode() for step in session.steps] == ["gut", "guten T", "guten T"]
    assert [step.committed_tokens for step in session.steps] == [2, 6, 7]  # the end of the segment commits all
    assert [step.finished for step in session.steps] == [False, False, True]


def test_batched_equals_one_by_one():
    sources = segment_sources()
    assert len(sources) == 2
    batched = decode_batched(ClockModel(), sources, SETTINGS, LIMITS)
    for setting, row in zip(SETTINGS, batched, strict=True):
        for source, session in zip(sources, row, strict=True):
            alone = decode_timed(ClockModel(), source, setting, LIMITS)
            assert [(step.audio_ms, step.token_ids) for step in session.steps] == [
                (step.audio_ms, step.token_ids) for step in alone.steps
            ]


def test_offline_receives_everything_at_the_end_of_the_recording():
    (offline, *_) = decode_batched(ClockModel(), segment_sources(), SETTINGS, LIMITS)
    assert [step.audio_ms for session in offline for step in session.steps] == [4800, 4800]
