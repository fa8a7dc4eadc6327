"""Audio encoders that work for as long as the audio lasts, not for the whole of their window.

Models of the Whisper family transform and encode 30 seconds whatever they hear. An adapter stands here for each model
for which less is proven to give the same, within 1e-5 in fp32; other models work as transformers has them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform
from simulsa_plugin.llamafactory.model.devices import execution_device
from simulsa_plugin.llamafactory.model.features import window_of_batch


class AudioAdapter(Protocol):
    """What is known of one kind of model."""

    decoder: Any
    """Its language model without the output layer: embeddings in, hidden states out."""

    def num_tokens(self, num_samples: int) -> int:
        """Audio tokens of (num_samples,) at 16 kHz."""
        ...

    def bytes_to_embed(self, num_samples: Sequence[int]) -> int:
        """What `embed` occupies at most, about, on the device of the encoder, for waveforms of these lengths."""
        ...

    def window_of_batch(self, waveforms: Sequence[Waveform]) -> contextlib.AbstractContextManager[None]:
        """Features extracted within are as long as the longest audio of the batch."""
        ...

    def shorten(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A collated batch without the part of the window in which there is no audio."""
        ...

    def short_window(self, batch: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """While this lasts, the model's own forward takes such a shortened batch; afterwards it is as it was."""
        ...

    def embed(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """What the language model reads in the place of audio tokens, (num_tokens, width) for each waveform."""
        ...


class Qwen2AudioAdapter:
    """Qwen2-Audio: mel frames → two convolutions (half as many) → attention → pooling (half again) → projector."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._encoder, self._projector = model.audio_tower, model.multi_modal_projector
        self.decoder = model.language_model.model
        self._extractor = processor.feature_extractor

    def num_tokens(self, num_samples: int) -> int:
        """As LLaMA-Factory counts them: ((frames − 1) // 2 + 1 − 2) // 2 + 1."""
        frames = _num_frames(self._extractor, num_samples)
        return int(((frames - 1) // 2 + 1 - 2) // 2 + 1)

    def bytes_to_embed(self, num_samples: Sequence[int]) -> int:
        """Every row of the batch is as long as its longest."""
        positions = _num_frames(self._extractor, max(num_samples)) // 2 + 4
        weight = self._encoder.conv1.weight
        return len(num_samples) * _bytes_to_encode(self._encoder.config, positions, weight.element_size())

    def window_of_batch(self, waveforms: Sequence[Waveform]) -> contextlib.AbstractContextManager[None]:
        """See `features.window_of_batch`; the encoder takes any number of frames here."""
        return window_of_batch(self._extractor, waveforms)

    def shorten(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Cut `input_features` (batch, bands, frames) and their mask (batch, frames) to the longest audio."""
        mask = batch["feature_attention_mask"]
        # The last position of sound looks one frame further in either convolution; four frames are one audio token.
        frames = min(mask.shape[-1], -(-(int(mask.sum(-1).max()) + 2) // 4) * 4)
        shorter = {"input_features": batch["input_features"][..., :frames], "feature_attention_mask": mask[:, :frames]}
        return batch | shorter

    def short_window(self, batch: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Let the encoder expect as many frames as the batch's `input_features` (batch, bands, frames) have."""
        return _window_of(self._encoder, batch["input_features"].shape[-1] // 2)

    def embed(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Encode (num_samples,) waveforms in one batch."""
        batch = self.shorten(_features(self._extractor, waveforms))
        weight = self._encoder.conv1.weight
        inputs = batch["input_features"].to(weight.device, weight.dtype)
        positions = torch.arange(inputs.shape[-1] // 2, device=weight.device)
        heard = (batch["feature_attention_mask"].to(weight.device).sum(-1) - 1) // 2 + 1
        mask = _bidirectional(self._encoder, positions < heard[:, None], weight)
        with self.short_window({"input_features": inputs}):
            hidden = self._encoder(inputs, attention_mask=mask)
        embedded = self._projector(hidden.last_hidden_state)
        return [row[: self.num_tokens(len(waveform))] for row, waveform in zip(embedded, waveforms, strict=True)]


class QwenOmniAdapter:
    """The thinkers of Qwen2.5-Omni and Qwen3-Omni, whose encoders run over the audio alone as they are."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._extractor, self.decoder = model, processor.feature_extractor, model.model
        self._counts: dict[int, int] = {}

    def num_tokens(self, num_samples: int) -> int:
        """By the formula of the model's own module or encoder, from the frames of the audio."""
        frames = _num_frames(self._extractor, num_samples)
        if frames not in self._counts:
            self._counts[frames] = self._tokens_of(frames)
        return self._counts[frames]

    def _tokens_of(self, frames: int) -> int:
        # Qwen3-Omni's encoder has inherited a method that is not its own; its module has a function.
        owners = (inspect.getmodule(type(self._model)), self._model.audio_tower)
        owner: Any = next(one for one in owners if hasattr(one, "_get_feat_extract_output_lengths"))
        found = owner._get_feat_extract_output_lengths(torch.tensor([frames]))
        return int(found[-1] if isinstance(found, tuple) else found)

    def bytes_to_embed(self, num_samples: Sequence[int]) -> int:
        """The encoder strings a batch together: its attention mask is as wide and as high as all audios in a row."""
        positions = sum(_num_frames(self._extractor, length) // 2 + 1 for length in num_samples)
        return _bytes_to_encode(self._model.audio_tower.config, positions, self._model.dtype.itemsize)

    def window_of_batch(self, waveforms: Sequence[Waveform]) -> contextlib.AbstractContextManager[None]:
        """See `features.window_of_batch`; the model takes the frames of the audio by their mask."""
        return window_of_batch(self._extractor, waveforms)

    def shorten(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Nothing to cut: the model takes the frames of the audio by their mask."""
        return batch

    def short_window(self, batch: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Nothing to change: no batch is shortened."""
        return contextlib.nullcontext()

    def embed(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Encode (num_samples,) waveforms in one batch."""
        features = _features(self._extractor, waveforms)
        device, dtype = execution_device(self._model.audio_tower), self._model.dtype
        encoded = self._model.get_audio_features(
            features["input_features"].to(device, dtype), features["feature_attention_mask"].to(device)
        ).last_hidden_state
        return list(encoded.split([self.num_tokens(len(waveform)) for waveform in waveforms]))


def _num_frames(extractor: Any, num_samples: int) -> int:
    """Log-mel frames that hold sound, of (num_samples,) at 16 kHz; what is longer than the window is cut."""
    return int(-(-min(num_samples, extractor.n_samples) // extractor.hop_length))


def _features(extractor: Any, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
    """Log-mel frames (batch, bands, frames) of the longest audio's length, and their mask; LLaMA-Factory's names."""
    with window_of_batch(extractor, waveforms):
        made = extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE, return_attention_mask=True, padding="max_length",
            return_tensors="pt",
        )  # fmt: skip
    return {"input_features": made["input_features"], "feature_attention_mask": made["attention_mask"]}


def _bytes_to_encode(config: Any, positions: int, element_size: int) -> int:
    """Activations of one layer of a Whisper encoder over a row of `positions`, two frames each, and its attention.

    Layers follow each other, so their number does not count. Queries, keys, values, residuals, norms: eight times the
    width; the feed-forward network before and after its activation: twice its own. The convolutions need less.
    """
    activations = positions * (8 * config.d_model + 2 * config.encoder_ffn_dim) * element_size
    mask = positions**2 * element_size
    if config._attn_implementation != "eager":
        return int(activations + mask)
    scores = config.encoder_attention_heads * positions**2 * (element_size + 4)  # the softmax is in fp32
    return int(activations + mask + scores)


def _bidirectional(encoder: Any, valid: torch.Tensor, like: torch.Tensor) -> Any:
    """The mask that Qwen2-Audio's own forward gives its encoder, from `valid` (batch, positions)."""
    from transformers.masking_utils import create_bidirectional_mask

    embeds = torch.zeros((*valid.shape, 1), dtype=like.dtype, device=like.device)
    return create_bidirectional_mask(config=encoder.config, inputs_embeds=embeds, attention_mask=valid.long())


class _Positions(torch.nn.Module):
    """The first rows of a table of positions."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight


@contextlib.contextmanager
def _window_of(encoder: Any, positions: int) -> Iterator[None]:
    """Let a Whisper encoder's own `forward` take 2 · `positions` frames, fewer than its window has.

    It checks its input against the configuration, and adds the whole table of positions: both are replaced while this
    lasts. A wrapper around `forward` would stay on the training's model, and be wrapped again at every evaluation.
    """
    table, window = encoder.embed_positions, encoder.config.max_source_positions
    encoder.embed_positions = _Positions(table.weight[:positions])
    encoder.config.max_source_positions = positions
    try:
        yield
    finally:
        encoder.embed_positions, encoder.config.max_source_positions = table, window


def adapter_for(model: Any, processor: Any) -> AudioAdapter | None:
    """The adapter of a model (less its LoRA wrapping), or None where none is proven equal."""
    for kind in type(model).__mro__:
        if kind.__name__ in _ADAPTERS:
            return _ADAPTERS[kind.__name__](model, processor)
    return None


_ADAPTERS: dict[str, Callable[[Any, Any], AudioAdapter]] = {
    "Qwen2AudioForConditionalGeneration": Qwen2AudioAdapter,
    "Qwen2_5OmniThinkerForConditionalGeneration": QwenOmniAdapter,
    "Qwen3OmniMoeThinkerForConditionalGeneration": QwenOmniAdapter,
}
