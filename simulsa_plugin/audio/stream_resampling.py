"""Resampling of audio that arrives in parts."""

from __future__ import annotations

import math

import numpy as np

from simulsa_plugin.audio.resampling import filter_reach, resample_waveform
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform


class StreamResampler:
    """Resamples a stream; the result equals `resample_waveform` of the whole, except at the end of a part.

    A sample depends on about six samples (of the lower rate) that come after it: 0.4 ms at 16 kHz. At the end of a part
    these are not there yet; the last sample stands for them, rather than that a step waits for the next part. Where
    parts are many and short, as from a microphone, they are better waited for.
    """

    def __init__(self, from_rate: int, to_rate: int = SAMPLE_RATE, *, waits: bool = False) -> None:
        """Begin a stream.

        Args:
            from_rate: of what arrives.
            to_rate: of what is returned.
            waits: return a sample when all that it depends on is there: the result is that of the whole everywhere.
        """
        divisor = math.gcd(from_rate, to_rate)
        self._from_rate, self._to_rate = from_rate, to_rate
        self._down, self._up = from_rate // divisor, to_rate // divisor
        self._reach = filter_reach(from_rate, to_rate)
        self._waits = waits
        self._kept: Waveform = np.zeros(0, dtype=np.float32)  # what the next part still needs
        self._kept_from = 0  # sample of the stream where it begins, a multiple of `_down`
        self._received = self._returned = 0

    def push(self, waveform: Waveform, *, final: bool = False) -> Waveform:
        """Take the next part.

        Args:
            waveform: (num_samples,).
            final: the stream ends with it, and silence follows.

        Returns:
            waveform up to the end of the part, (ceil(received · to / from) − returned,), or as far as it is known.
        """
        self._received += len(waveform)
        if self._from_rate == self._to_rate:
            return waveform
        heard = np.concatenate([self._kept, waveform])
        known = self._received - self._reach if self._waits and not final else self._received
        ready = max(self._returned, -(-known * self._up // self._down))
        if ready == self._returned:
            self._kept = heard
            return np.zeros(0, dtype=np.float32)
        first = self._kept_from * self._up // self._down
        continued = np.pad(heard, (0, self._reach), mode="constant" if final else "edge")
        resampled = resample_waveform(continued, self._from_rate, self._to_rate)
        part = resampled[self._returned - first : ready - first]
        self._returned = ready
        self._keep(heard)
        return part

    def _keep(self, heard: Waveform) -> None:
        """Keep what the next sample depends on, from a sample on where both rates have one."""
        needed = self._returned * self._down // self._up - self._reach
        start = max(self._kept_from, needed // self._down * self._down)
        self._kept, self._kept_from = heard[start - self._kept_from :], start
