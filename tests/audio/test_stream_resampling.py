"""Audio that arrives in parts is resampled to what the whole recording gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.audio.resampling import filter_reach, resample_waveform
from simulsa_plugin.audio.stream_resampling import StreamResampler


def noise(num_samples):
    return np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)


@given(
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000]),
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
)
def test_only_the_end_of_a_part_differs_from_the_whole(rate, sizes):
    waveform, stream = noise(sum(sizes)), StreamResampler(rate)
    whole = resample_waveform(waveform, rate, 16_000)
    parts = np.split(waveform, np.cumsum(sizes)[:-1])
    found = [stream.push(part, final=number == len(parts)) for number, part in enumerate(parts, 1)]
    ends = np.cumsum([len(part) for part in found])
    assert ends.tolist() == [-(-count * 16_000 // rate) for count in np.cumsum(sizes).tolist()]
    assert len(whole) == ends[-1]
    may_differ = np.zeros(len(whole), dtype=bool)
    for end in ends[:-1]:
        may_differ[max(0, end - -(-filter_reach(rate, 16_000) * 16_000 // rate)) : end] = True
    if not sizes[-1]:  # the end shows only after the last sample
        may_differ |= np.arange(len(whole)) >= len(whole) - -(-filter_reach(rate, 16_000) * 16_000 // rate)
    np.testing.assert_allclose(np.concatenate(found)[~may_differ], whole[~may_differ], rtol=0, atol=1e-6)


@given(
    rate=st.sampled_from([8_000, 11_025, 12_345, 16_000, 44_100, 48_000]),
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
)
def test_a_stream_that_waits_gives_the_whole(rate, sizes):
    waveform, stream = noise(sum(sizes)), StreamResampler(rate, waits=True)
    found = [stream.push(part) for part in np.split(waveform, np.cumsum(sizes)[:-1])]
    early = sum(map(len, found))
    found.append(stream.push(np.zeros(0, dtype=np.float32), final=True))
    whole = resample_waveform(waveform, rate, 16_000)
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-6)
    assert early >= len(whole) - 20  # about a millisecond is held back


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_the_end_of_a_part_is_near_the_whole_where_speech_is(rate):
    times = np.arange(2 * rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    stream = StreamResampler(rate)
    found = np.concatenate([stream.push(part) for part in np.split(tone, 4)])
    np.testing.assert_allclose(found[8:], resample_waveform(tone, rate, 16_000)[8:][: len(found) - 8], atol=0.04)


def test_a_long_stream_keeps_no_more_than_it_needs():
    for stream in (StreamResampler(44_100), StreamResampler(44_100, waits=True)):
        keeps_little(stream)


def keeps_little(stream):
    for _ in range(200):
        stream.push(np.zeros(4410, dtype=np.float32))
    assert len(stream._kept) <= 441 + 2 * filter_reach(44_100, 16_000)
