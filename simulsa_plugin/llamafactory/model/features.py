"""Log-mel features whose cost follows the length of the audio, not of the window; the values are transformers'."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import WhisperFeatureExtractor

from simulsa_plugin.audio.samples import Waveform


class UnpaddedWhisperFeatureExtractor(WhisperFeatureExtractor):  # type: ignore[misc]  # transformers has no types
    """Whisper's feature extractor without the transform of the zeros with which it pads audio to its window.

    Every frame of zeros has the same value in every band, so the frames that are left out are filled with it: shapes
    and values are those of the window, within 1e-6.
    """

    def _torch_extract_fbank_features(
        self, waveform: npt.NDArray[np.float32], device: str = "cpu"
    ) -> npt.NDArray[np.float32]:
        """Transform padded (batch, n_samples) or (n_samples,) to (batch, bands, frames) or (bands, frames)."""
        num_samples = waveform.shape[-1]
        nonzero = np.flatnonzero(waveform.reshape(-1, num_samples).any(axis=0))
        # The last audible frame needs half an FFT window of zeros, which the border reflects; and one frame of zeros.
        needed = (int(nonzero[-1]) + 1 if len(nonzero) else 0) + self.n_fft + self.hop_length
        shorter = -(-needed // self.hop_length) * self.hop_length
        if self.dither != 0.0 or shorter >= num_samples:
            features: npt.NDArray[np.float32] = super()._torch_extract_fbank_features(waveform, device)
            return features
        features = super()._torch_extract_fbank_features(np.ascontiguousarray(waveform[..., :shorter]), device)
        missing = num_samples // self.hop_length - features.shape[-1]
        return np.pad(features, [(0, 0)] * (features.ndim - 1) + [(0, missing)], mode="edge")


@contextlib.contextmanager
def batch_window(extractor: Any, waveforms: Sequence[Waveform]) -> Iterator[None]:
    """Let a Whisper extractor pad a batch to its longest audio instead of its window, which is 300 s for Qwen-Omni.

    For models that select the frames of the audio by their mask. These frames keep their values: the padding covers the
    FFT window of the last one and what `torch.stft` reflects at the border.

    Args:
        extractor: a `WhisperFeatureExtractor`; its window is restored at the end.
        waveforms: of the batch, (num_samples,) each.
    """
    window, hop = extractor.n_samples, extractor.hop_length
    # Each of the encoder's two convolutions needs one frame more, and multiples of four are needed: six in all.
    frames = -(-max(map(len, waveforms)) // hop) + -(-extractor.n_fft // hop) + 6
    extractor.n_samples = min(window, frames * hop)
    try:
        yield
    finally:
        extractor.n_samples = window


def use_short_extractor(processor: Any) -> None:
    """Replace a processor's Whisper feature extractor by `UnpaddedWhisperFeatureExtractor`; other kinds stay."""
    extractor = getattr(processor, "feature_extractor", None)
    if type(extractor) is WhisperFeatureExtractor:
        extractor.__class__ = UnpaddedWhisperFeatureExtractor
