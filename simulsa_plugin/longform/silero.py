"""Silero VAD: the probability of speech in each frame of a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform
from simulsa_plugin.errors import MissingExtraError
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES, Probabilities

if TYPE_CHECKING:
    from torch import nn


def load_silero() -> nn.Module:
    """Load Silero VAD, whose package ships its weights.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        from silero_vad import load_silero_vad
    except ImportError as error:
        raise MissingExtraError.for_package("simulsa_longform=vad", "silero-vad", "longform") from error
    model: nn.Module = load_silero_vad()
    return model


def speech_probabilities(model: Any, waveform: Waveform) -> Probabilities:
    """Compute the probability of speech in each frame of a recording, from the audio up to the frame's end alone.

    Args:
        model: see `load_silero`.
        waveform: (num_samples,) at 16 kHz.

    Returns:
        (⌈num_samples / 512⌉,); the last frame is filled up with zeros.
    """
    import torch

    frames = -(-len(waveform) // FRAME_SAMPLES)
    padded = np.zeros(frames * FRAME_SAMPLES, dtype=np.float32)
    padded[: len(waveform)] = waveform
    model.reset_states()
    with torch.inference_mode():
        values = [model(torch.from_numpy(frame)[None], SAMPLE_RATE).item() for frame in padded.reshape(frames, -1)]
    return np.array(values, dtype=np.float32)
