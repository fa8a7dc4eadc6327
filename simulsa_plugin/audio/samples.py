"""Samples of audio: rates, PCM, WAV files; the only place that turns seconds into samples."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000  # what LLaMA-Factory's audio processors take, and what clips are written in
Waveform = npt.NDArray[np.float32]


def seconds_to_samples(seconds: float, sample_rate: int = SAMPLE_RATE) -> int:
    """Convert seconds to the nearest sample, halves up (docs/method.md: a cut is rounded to a sample once).

    >>> seconds_to_samples(0.5), seconds_to_samples(1.00003)
    (8000, 16000)
    """
    return math.floor(seconds * sample_rate + 0.5)


def samples_to_seconds(num_samples: int, sample_rate: int = SAMPLE_RATE) -> float:
    """Convert samples to seconds.

    >>> samples_to_seconds(8000)
    0.5
    """
    return num_samples / sample_rate


def average_channels(samples: npt.NDArray[np.float32]) -> Waveform:
    """Average (num_samples, channels) to (num_samples,).

    >>> average_channels(np.array([[0.5, 0.25]], dtype=np.float32)).tolist()
    [0.375]
    """
    mono: Waveform = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mono


def to_pcm16(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Convert float ±1 to 16-bit samples, rounded and clipped.

    >>> to_pcm16(np.array([0.0, 1.0, -1.0], dtype=np.float32)).tolist()
    [0, 32767, -32768]
    """
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def from_pcm16(samples: npt.NDArray[np.int16]) -> Waveform:
    """Convert 16-bit samples to float ±1, as every reader returns them."""
    return (samples / np.float32(32768.0)).astype(np.float32)


def write_wav(handle: IO[bytes] | Path, pcm: npt.NDArray[np.int16], sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono PCM16 WAV; the bytes depend on the samples alone.

    Raises:
        OSError: the disk refuses, or whatever else the handle's own `write` raises.
    """
    import soundfile

    encoded = io.BytesIO()  # libsndfile hides why a write failed, and prints what a handle raises instead of raising it
    soundfile.write(encoded, pcm, sample_rate, format="WAV", subtype="PCM_16")
    if isinstance(handle, Path):
        handle.write_bytes(encoded.getvalue())
    else:
        handle.write(encoded.getvalue())
