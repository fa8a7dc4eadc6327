"""Silero VAD: the probability of speech in each frame of a recording."""

from __future__ import annotations

from importlib import util

import numpy as np

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform
from simulsa_plugin.errors import MissingExtraError
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES, Probabilities


def require_silero() -> None:
    """Raise MissingExtraError unless Silero VAD is installed."""
    try:
        found = util.find_spec("silero_vad") is not None
    except ValueError:  # it is blocked: its entry among the loaded modules is None
        found = False
    if not found:
        raise _missing()


def _missing() -> MissingExtraError:
    return MissingExtraError.for_package("simulsa_longform", "silero-vad", "longform")


class SpeechDetector:
    """Silero VAD, whose package ships its weights; it remembers what it has heard of a recording."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            MissingExtraError: the package is not installed.
        """
        try:
            from silero_vad import load_silero_vad
        except ImportError as error:
            raise _missing() from error
        self._model = load_silero_vad()

    def reset(self) -> None:
        """Begin another recording."""
        self._model.reset_states()

    def probabilities(self, waveform: Waveform) -> Probabilities:
        """Compute the probability of speech in each frame of the next part, from the audio up to the frame's end alone.

        Args:
            waveform: (num_samples,) at 16 kHz; all parts but the last have a multiple of 512 samples.

        Returns:
            (⌈num_samples / 512⌉,); the last frame is filled up with zeros.
        """
        import torch

        frames = -(-len(waveform) // FRAME_SAMPLES)
        padded = np.zeros(frames * FRAME_SAMPLES, dtype=np.float32)
        padded[: len(waveform)] = waveform
        with torch.inference_mode():
            values = [
                self._model(torch.from_numpy(frame)[None], SAMPLE_RATE).item()
                for frame in padded.reshape(frames, FRAME_SAMPLES)
            ]
        return np.array(values, dtype=np.float32)
