"""Audio encoders whose cost follows the length of the audio, not of their window.

Models of the Whisper family always encode a window of 30 seconds. The adapters here encode the audio alone, for the
models for which that is tested to give the same embeddings, within 1e-5 in fp32; other models run as in transformers.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform
from simulsa_plugin.llamafactory.model.devices import execution_device
from simulsa_plugin.llamafactory.model.features import batch_window


class AudioAdapter(Protocol):
    """Audio encoder and language model of one architecture, and the length of their inputs."""

    decoder: Any
    """The language model without its output layer: embeddings to hidden states."""

    def num_tokens(self, num_samples: int) -> int:
        """Return the number of audio tokens of (num_samples,) at 16 kHz."""
        ...

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return the approximate peak memory of `embed` with its features, for waveforms of these lengths."""
        ...

    def batch_window(self, waveforms: Sequence[Waveform]) -> contextlib.AbstractContextManager[None]:
        """Extract features of the length of the batch's longest audio inside this context."""
        ...

    def trim(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Remove the part of the window without audio from a collated batch."""
        ...

    def accept_trimmed(self, batch: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Let the model's `forward` accept such a trimmed batch inside this context."""
        ...

    def embed(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Return the embeddings of the audio tokens, (num_tokens, width) for each waveform."""
        ...


class Qwen2AudioAdapter:
    """Qwen2-Audio: mel frames → two convolutions (half as many) → attention → pooling (half again) → projector."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._encoder, self._projector = model.audio_tower, model.multi_modal_projector
        self.decoder = model.language_model.model
        self._extractor = processor.feature_extractor

    def num_tokens(self, num_samples: int) -> int:
        """Count as LLaMA-Factory does: ((frames − 1) // 2 + 1 − 2) // 2 + 1."""
        frames = _num_frames(self._extractor, num_samples)
        return int(((frames - 1) // 2 + 1 - 2) // 2 + 1)

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return an estimate; every row of the batch is padded to the longest."""
        positions = _num_frames(self._extractor, max(num_samples)) // 2 + 4
        weight = self._encoder.conv1.weight
        encoding = _bytes_to_encode(self._encoder.config, positions, weight.element_size())
        return len(num_samples) * (encoding + _feature_bytes(self._extractor, max(num_samples)))

    def batch_window(self, waveforms: Sequence[Waveform]) -> contextlib.AbstractContextManager[None]:
        """Return `features.batch_window`."""
        return batch_window(self._extractor, waveforms)

    def trim(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Cut `input_features` (batch, bands, frames) and their mask (batch, frames) to the longest audio."""
        mask = batch["feature_attention_mask"]
        # The receptive field of the last position ends one frame later in each convolution; four frames are one token.
        frames = min(mask.shape[-1], -(-(int(mask.sum(-1).max()) + 2) // 4) * 4)
        shorter = {"input_features": batch["input_features"][..., :frames], "feature_attention_mask": mask[:, :frames]}
        return batch | shorter

    def accept_trimmed(self, batch: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Let the encoder accept the number of frames of the batch's `input_features` (batch, bands, frames)."""
        return _encoder_window(self._encoder, batch["input_features"].shape[-1] // 2)

    def embed(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Encode (num_samples,) waveforms in one batch."""
        batch = self.trim(_extract_features(self._extractor, waveforms))
        weight = self._encoder.conv1.weight
        inputs = batch["input_features"].to(weight.device, weight.dtype)
        positions = torch.arange(inputs.shape[-1] // 2, device=weight.device)
        lengths = (batch["feature_attention_mask"].to(weight.device).sum(-1) - 1) // 2 + 1
        mask = _encoder_mask(self._encoder, positions < lengths[:, None], weight)
        with self.accept_trimmed({"input_features": inputs}):
            hidden = self._encoder(inputs, attention_mask=mask)
        embedded = self._projector(hidden.last_hidden_state)
        return [row[: self.num_tokens(len(waveform))] for row, waveform in zip(embedded, waveforms, strict=True)]


class QwenOmniAdapter:
    """The thinkers of Qwen2.5-Omni and Qwen3-Omni, whose encoders run over the audio alone without changes."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._extractor, self.decoder = model, processor.feature_extractor, model.model
        self._counts: dict[int, int] = {}

    def num_tokens(self, num_samples: int) -> int:
        """Count by the formula of the model's module or encoder, from the frames of the audio."""
        frames = _num_frames(self._extractor, num_samples)
        if frames not in self._counts:
            self._counts[frames] = self._count_tokens(frames)
        return self._counts[frames]

    def _count_tokens(self, frames: int) -> int:
        # Qwen3-Omni's encoder inherits a method with the formula of another model; its module has the right function.
        owners = (inspect.getmodule(type(self._model)), self._model.audio_tower)
        owner: Any = next(one for one in owners if hasattr(one, "_get_feat_extract_output_lengths"))
        found = owner._get_feat_extract_output_lengths(torch.tensor([frames]))
        return int(found[-1] if isinstance(found, tuple) else found)

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return an estimate; the encoder concatenates a batch, so its attention mask covers all audios together."""
        positions = sum(_num_frames(self._extractor, length) // 2 + 1 for length in num_samples)
        features = len(num_samples) * _feature_bytes(self._extractor, max(num_samples))
        return features + _bytes_to_encode(self._model.audio_tower.config, positions, self._model.dtype.itemsize)

    def batch_window(self, waveforms: Sequence[Waveform]) -> contextlib.AbstractContextManager[None]:
        """Return `features.batch_window`; the model selects the frames of the audio by their mask."""
        return batch_window(self._extractor, waveforms)

    def trim(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch unchanged: the model selects the frames of the audio by their mask."""
        return batch

    def accept_trimmed(self, batch: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Change nothing: no batch is trimmed."""
        return contextlib.nullcontext()

    def embed(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Encode (num_samples,) waveforms in one batch."""
        features = _extract_features(self._extractor, waveforms)
        device, dtype = execution_device(self._model.audio_tower), self._model.dtype
        encoded = self._model.get_audio_features(
            features["input_features"].to(device, dtype), features["feature_attention_mask"].to(device)
        ).last_hidden_state
        return list(encoded.split([self.num_tokens(len(waveform)) for waveform in waveforms]))


def _num_frames(extractor: Any, num_samples: int) -> int:
    """Count the log-mel frames of (num_samples,) at 16 kHz; audio beyond the window is cut."""
    return int(-(-min(num_samples, extractor.n_samples) // extractor.hop_length))


def _extract_features(extractor: Any, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
    """Extract log-mel frames (batch, bands, frames) of the longest audio, and their mask."""
    with batch_window(extractor, waveforms):
        extracted = extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE, return_attention_mask=True, padding="max_length",
            return_tensors="pt",
        )  # fmt: skip
    return {"input_features": extracted["input_features"], "feature_attention_mask": extracted["attention_mask"]}


def _feature_bytes(extractor: Any, num_samples: int) -> int:
    """Estimate the bytes of one audio's log-mel features: complex spectrum, magnitudes, and bands thrice."""
    frequencies = extractor.n_fft // 2 + 1
    return int(_num_frames(extractor, num_samples) * (frequencies * (8 + 4) + extractor.feature_size * 3 * 4))


def _bytes_to_encode(config: Any, positions: int, element_size: int) -> int:
    """Estimate the activations and attention of a Whisper encoder layer over `positions` of two frames each.

    Layers run one after the other, so their number does not matter. Queries, keys, values, residuals, norms: eight
    times the width; the feed-forward network before and after its activation: twice its own. Convolutions need less.
    """
    activations = positions * (8 * config.d_model + 2 * config.encoder_ffn_dim) * element_size
    mask = positions**2 * element_size
    if config._attn_implementation != "eager":
        return int(activations + mask)
    scores = config.encoder_attention_heads * positions**2 * (element_size + 4)  # the softmax is in fp32
    return int(activations + mask + scores)


def _encoder_mask(encoder: Any, valid: torch.Tensor, like: torch.Tensor) -> Any:
    """Build the mask that Qwen2-Audio's `forward` passes to its encoder, from `valid` (batch, positions)."""
    from transformers.masking_utils import create_bidirectional_mask

    embeds = torch.zeros((*valid.shape, 1), dtype=like.dtype, device=like.device)
    return create_bidirectional_mask(config=encoder.config, inputs_embeds=embeds, attention_mask=valid.long())


class _PositionEmbeddings(torch.nn.Module):
    """The first rows of a table of position embeddings."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight


@contextlib.contextmanager
def _encoder_window(encoder: Any, positions: int) -> Iterator[None]:
    """Let a Whisper encoder's `forward` accept 2 · `positions` frames, fewer than its window has.

    It checks its input against the configuration, and adds the whole table of position embeddings: both are replaced
    inside the context. A wrapper of `forward` would stay on a training's model, and be wrapped at every evaluation.
    """
    table, window = encoder.embed_positions, encoder.config.max_source_positions
    encoder.embed_positions = _PositionEmbeddings(table.weight[:positions])
    encoder.config.max_source_positions = positions
    try:
        yield
    finally:
        encoder.embed_positions, encoder.config.max_source_positions = table, window


def adapter_for(model: Any, processor: Any) -> AudioAdapter | None:
    """Return the adapter of a model (without its LoRA wrapper), or None where there is none for its architecture."""
    for kind in type(model).__mro__:
        if kind.__name__ in _ADAPTERS:
            return _ADAPTERS[kind.__name__](model, processor)
    return None


_ADAPTERS: dict[str, Callable[[Any, Any], AudioAdapter]] = {
    "Qwen2AudioForConditionalGeneration": Qwen2AudioAdapter,
    "Qwen2_5OmniThinkerForConditionalGeneration": QwenOmniAdapter,
    "Qwen3OmniMoeThinkerForConditionalGeneration": QwenOmniAdapter,
}
