"""Log-mel features whose cost follows the audio, not the model's window; the values are those of transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import WhisperFeatureExtractor

from simulsa_plugin.audio.samples import Waveform


class ShortWhisperFeatureExtractor(WhisperFeatureExtractor):  # type: ignore[misc]  # transformers has no types
    """Whisper's extractor pads audio with zeros to its window and transforms all of it; here the zeros are left out.

    Every frame of zeros has the same value in every band, so the frames that are left out are filled in with it: shapes
    and values are the window's own, within 1e-6.
    """

    def _torch_extract_fbank_features(
        self, waveform: npt.NDArray[np.float32], device: str = "cpu"
    ) -> npt.NDArray[np.float32]:
        """(batch, n_samples) or (n_samples,), padded, to (batch, bands, frames) or (bands, frames)."""
        num_samples = waveform.shape[-1]
        heard = np.flatnonzero(waveform.reshape(-1, num_samples).any(axis=0))
        # Half a window of zeros ends the last frame of sound and is what the borders reflect; one frame of zeros more.
        needed = (int(heard[-1]) + 1 if len(heard) else 0) + self.n_fft + self.hop_length
        shorter = -(-needed // self.hop_length) * self.hop_length
        if self.dither != 0.0 or shorter >= num_samples:
            features: npt.NDArray[np.float32] = super()._torch_extract_fbank_features(waveform, device)
            return features
        features = super()._torch_extract_fbank_features(np.ascontiguousarray(waveform[..., :shorter]), device)
        missing = num_samples // self.hop_length - features.shape[-1]
        return np.pad(features, [(0, 0)] * (features.ndim - 1) + [(0, missing)], mode="edge")


@contextlib.contextmanager
def window_of_batch(extractor: Any, waveforms: Sequence[Waveform]) -> Iterator[None]:
    """Let a Whisper extractor pad a batch to its longest audio instead of its window, which is 300 s for Qwen-Omni.

    For models that take the frames of the audio by their mask. Frames of sound keep their values: the padding still
    covers the FFT window of the last one and what `torch.stft` reflects at the border.

    Args:
        extractor: a `WhisperFeatureExtractor`; its window is restored at the end.
        waveforms: of the batch, (num_samples,) each.
    """
    window, hop = extractor.n_samples, extractor.hop_length
    # Both convolutions of an encoder look a frame further, and frames are cut to multiples of four: six in all.
    frames = -(-max(map(len, waveforms)) // hop) + -(-extractor.n_fft // hop) + 6
    extractor.n_samples = min(window, frames * hop)
    try:
        yield
    finally:
        extractor.n_samples = window


def shorten_extraction(processor: Any) -> None:
    """Let a processor's Whisper extractor work so; others stay as they are."""
    extractor = getattr(processor, "feature_extractor", None)
    if type(extractor) is WhisperFeatureExtractor:
        extractor.__class__ = ShortWhisperFeatureExtractor
