"""Silence of random length around a clip: recordings begin and end with some, tightly trimmed corpora have none."""

from __future__ import annotations

import numpy as np

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, seconds_to_samples

FLOOR_FRAME = SAMPLE_RATE // 50  # 20 ms: shorter than the pauses inside words


def draw_silence(silence_ms: float, room: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw samples of silence before and after a clip, each U[0, silence_ms], together at most `room` samples.

    >>> draw_silence(0.0, 16_000, np.random.default_rng(0))
    (0, 0)
    >>> lead, trail = draw_silence(500.0, 16_000, np.random.default_rng(0))
    >>> 0 <= lead <= 8000 and 0 <= trail <= 8000
    True
    """
    lead, trail = (seconds_to_samples(float(rng.uniform(0.0, silence_ms)) / 1000) for _ in range(2))
    lead = min(lead, max(room, 0))
    return lead, min(trail, max(room, 0) - lead)


def noise_floor(waveform: Waveform) -> float:
    """Return the RMS of the quietest 20 ms of (num_samples,), full scale 1: the noise without speech."""
    frames = waveform[: len(waveform) // FLOOR_FRAME * FLOOR_FRAME].reshape(-1, FLOOR_FRAME)
    if len(frames) == 0:
        return 0.0
    return float(np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1).min()))


def surround(clip: Waveform, lead: int, trail: int, floor: float, rng: np.random.Generator) -> Waveform:
    """Put white noise of RMS `floor` around (num_samples,): digital zeros would tell where a clip was made.

    Returns:
        (lead + num_samples + trail,).
    """
    noise = rng.standard_normal(lead + trail).astype(np.float32) * np.float32(floor)
    return np.concatenate([noise[:lead], clip, noise[lead:]])
