"""Resampling as LLaMA-Factory does it: `torchaudio.functional.resample` with its defaults, without torch.

LLaMA-Factory resamples offline rows with torchaudio when it trains. Clips and evaluations that went through another
filter would sound different from these rows, most of all near 8 kHz, and a model could tell a clip by that alone.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99  # torchaudio's defaults `lowpass_filter_width` and `rolloff`
_Samples = npt.NDArray[np.float32]


def resample_waveform(waveform: _Samples, from_rate: int, to_rate: int) -> _Samples:
    """Resample (num_samples,) as torchaudio does, equal within 1e-6 of full scale; the same rate gives the same array.

    torchaudio multiplies with a dense kernel of from_rate × to_rate / gcd² values; a polyphase filter skips its zeros.

    Returns:
        waveform (ceil(num_samples · to_rate / from_rate),).
    """
    if from_rate == to_rate:
        return np.ascontiguousarray(waveform, dtype=np.float32)
    from scipy.signal import upfirdn

    divisor = math.gcd(from_rate, to_rate)
    down, up = from_rate // divisor, to_rate // divisor
    taps, delay = _filter(down, up)
    # torchaudio rounds the quotient to float32 before it takes the ceiling.
    length = math.ceil(np.float32(up * len(waveform) / down))
    filtered = upfirdn(taps, waveform.astype(np.float32, copy=False), up, down)[delay : delay + length]
    return np.ascontiguousarray(filtered, dtype=np.float32)


def filter_reach(from_rate: int, to_rate: int) -> int:
    """Return how many samples of the source before and after its time a sample of the result depends on, at most."""
    return math.ceil(_ZERO_CROSSINGS * from_rate / (_ROLLOFF * min(from_rate, to_rate))) + 1


@functools.lru_cache(maxsize=8)
def _filter(down: int, up: int) -> tuple[_Samples, int]:
    """Compute the taps at `up` times the source's rate, and how many samples of the result come before the first.

    Tap n weighs source sample i for result j, where n = i · up − j · down. torchaudio splits it as
    n = index · up − phase · down with 0 ≤ phase < up and computes in float32; the taps differ by up to 1e-4 from exact
    ones, so the same steps are taken here.
    """
    single = np.float32
    cutoff = min(down, up) * _ROLLOFF
    half = math.floor(_ZERO_CROSSINGS * down * up / cutoff)
    n = np.arange(-half, half + 1)
    phase = -n * pow(down, -1, up) % up
    index = (n + phase * down) // up
    times = (-phase.astype(single) / single(up) + index.astype(single) / single(down)) * single(cutoff)
    times = times.clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(times * single(math.pi) / single(_ZERO_CROSSINGS) / single(2)) ** 2
    angles = times * single(math.pi)
    sinc = np.where(angles == 0, single(1), np.sin(angles) / np.where(angles == 0, single(1), angles))
    taps = (sinc * (window * single(cutoff / down)))[::-1]
    padding = -half % down  # the first result then begins on a whole sample
    return np.pad(taps, (padding, 0)), (half + padding) // down
