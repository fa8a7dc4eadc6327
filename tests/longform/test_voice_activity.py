"""Speech segments found while listening. Expected values: frames of 32 ms counted by hand; otherwise properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulsa_plugin.errors import UsageError
from simulsa_plugin.longform.voice_activity import (
    FRAME_SAMPLES,
    VoiceActivitySettings,
    find_speech,
    segment_arrivals,
)
from simulsa_plugin.streaming.session import Arrival

SHORT = VoiceActivitySettings(min_speech_ms=64, min_silence_ms=96, pad_ms=32, window_seconds=60)


def speech(*runs):
    """(probability, frames) runs, as probabilities of frames."""
    return np.concatenate([np.full(frames, probability, dtype=np.float32) for probability, frames in runs])


def test_a_segment_has_its_padding_and_is_known_later_than_it_starts_and_ends():
    probabilities = speech((0, 10), (1, 5), (0, 10))
    (segment,) = find_speech(probabilities, 25 * FRAME_SAMPLES, SHORT)
    assert (segment.start, segment.end) == (9 * FRAME_SAMPLES, 16 * FRAME_SAMPLES)  # one frame of padding on each side
    assert segment.detected == 12 * FRAME_SAMPLES  # two frames of speech
    assert segment.closed == 18 * FRAME_SAMPLES  # three frames of silence


def test_a_click_shorter_than_min_speech_is_not_a_segment():
    assert find_speech(speech((0, 5), (1, 1), (0, 20)), 26 * FRAME_SAMPLES, SHORT) == []


def test_a_pause_shorter_than_min_silence_does_not_split():
    probabilities = speech((1, 5), (0, 2), (1, 5), (0, 10))
    (segment,) = find_speech(probabilities, 22 * FRAME_SAMPLES, SHORT)
    assert segment.end == 13 * FRAME_SAMPLES


def test_speech_goes_on_below_the_threshold_until_it_falls_by_the_hysteresis():
    (segment,) = find_speech(speech((1, 5), (0.4, 10), (0.3, 10)), 25 * FRAME_SAMPLES, SHORT)
    assert segment.end == 16 * FRAME_SAMPLES


def test_the_end_of_the_recording_closes_a_segment():
    num_samples = 5 * FRAME_SAMPLES - 100
    (segment,) = find_speech(speech((1, 5)), num_samples, SHORT)
    assert (segment.end, segment.closed) == (num_samples, num_samples)


def test_endless_speech_is_split_at_the_longest_segment():
    limits = VoiceActivitySettings(min_silence_ms=96, pad_ms=0, window_seconds=0.32)
    segments = find_speech(speech((1, 40)), 40 * FRAME_SAMPLES, limits)
    assert [(each.start, each.end) for each in segments[:2]] == [(0, 5120), (5120, 10240)]


def test_a_long_segment_closes_at_a_shorter_pause_than_a_short_one():
    limits = VoiceActivitySettings(min_speech_ms=96, min_silence_ms=320, pad_ms=0, window_seconds=3.2)
    pause = (0, 3)
    assert len(find_speech(speech((1, 10), pause, (1, 10)), 23 * FRAME_SAMPLES, limits)) == 1
    assert len(find_speech(speech((1, 85), pause, (1, 5)), 93 * FRAME_SAMPLES, limits)) == 2


def test_chunks_count_from_the_start_of_the_segment_and_leave_out_silence():
    probabilities = speech((0, 10), (1, 5), (0, 20))
    (segment,) = find_speech(probabilities, 35 * FRAME_SAMPLES, SHORT)
    assert segment_arrivals(segment, 2 * FRAME_SAMPLES, 35 * FRAME_SAMPLES) == [
        Arrival(4 * FRAME_SAMPLES, 13 * FRAME_SAMPLES),  # it starts at 9, and is detected at 12
        Arrival(6 * FRAME_SAMPLES, 15 * FRAME_SAMPLES),
        Arrival(7 * FRAME_SAMPLES, 17 * FRAME_SAMPLES),
        Arrival(7 * FRAME_SAMPLES, 18 * FRAME_SAMPLES),  # nothing new is received, but now the end is known
    ]
    assert segment_arrivals(segment, None, 35 * FRAME_SAMPLES) == [Arrival(7 * FRAME_SAMPLES, 35 * FRAME_SAMPLES)]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.005, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 30)), min_size=1, max_size=12),
    st.sampled_from([64, 320, 512]),
    st.sampled_from([0, 32, 300]),
    st.integers(1, 5000),
    st.sampled_from([0.5, 1e-5, 0.1, 1.0]),
)
def test_segments_are_in_order_never_longer_than_the_window_and_depend_on_no_later_audio(
    runs, silence, pad, chunk_samples, threshold
):
    limits = VoiceActivitySettings(threshold, min_silence_ms=silence, pad_ms=pad, window_seconds=1.6)
    probabilities = speech(*runs)
    num_samples = len(probabilities) * FRAME_SAMPLES
    segments = find_speech(probabilities, num_samples, limits)
    bounds = [(each.start, each.end) for each in segments]
    assert all(0 <= start < end <= num_samples and end - start <= 1.6 * 16000 for start, end in bounds)
    assert all(before <= after for (_, before), (after, _) in itertools.pairwise(bounds))
    for cut in range(1, len(probabilities), 7):
        heard = find_speech(probabilities[:cut], cut * FRAME_SAMPLES, limits)
        closed = [each for each in segments if each.closed < cut * FRAME_SAMPLES]
        assert heard[: len(closed)] == closed
        for each in segments[len(closed) :]:
            if each.detected <= cut * FRAME_SAMPLES < each.closed:
                assert heard[len(closed)].start == each.start
                assert heard[len(closed)].end - each.start == each.received(cut * FRAME_SAMPLES)
    for each in segments:
        steps = segment_arrivals(each, chunk_samples, num_samples)
        received, times = zip(*((step.samples, step.recording_samples) for step in steps), strict=True)
        assert list(received) == sorted(received) and received[-1] == each.end - each.start
        assert list(times) == sorted(set(times)) and times[-1] == each.closed


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.5}, {"pad_ms": -1}, {"window_seconds": 0.3}])
def test_settings_out_of_range_are_a_usage_error(wrong):
    with pytest.raises(UsageError, match="allowed"):
        VoiceActivitySettings(**wrong)
