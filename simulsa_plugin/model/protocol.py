"""Protocol of an audio-language model; `llamafactory.model.backbone` implements it for LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.model.values import (
    AttentionHead,
    Continuation,
    GenerationRequest,
    Prompt,
    ReferenceScores,
    RenderedReference,
)


class Renderer(Protocol):
    """Prompts of a large audio-language model as training tokenizes them; needs no weights."""

    window_seconds: float | None
    """Longest audio that the model encodes without cutting it; None where it has no limit."""
    end_tokens: int
    """Number of tokens that training appends to an answer, its end of turn included."""

    def render(self, prompt: Prompt, waveform: Waveform, reference: str) -> RenderedReference:
        """Tokenize prompt and reference. Raises ModelError if the template cannot render them."""
        ...

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Return the token ids of a prompt up to where the answer begins."""
        ...

    def count_tokens(self, prompt: Prompt, waveform: Waveform, reference: str) -> tuple[int, int]:
        """Return the number of tokens of `render`: of prompt and reference. Raises ModelError likewise."""
        ...

    def unstable_prefixes(self, rendered: RenderedReference, reference: str) -> tuple[int, ...]:
        """Return the lengths of token prefixes whose text training would tokenize differently."""
        ...


class ScoringModel(Renderer, Protocol):
    """A large audio-language model that scores references, wherever its weights are."""

    output_width: int
    """V, the number of logits at each position."""

    def describe(self) -> dict[str, Any]:
        """Return model, adapter, template, dtype and device, for manifests."""
        ...

    def hardware(self) -> dict[str, Any]:
        """Return what the model runs on, for reports of measured times."""
        ...

    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Score references in one batch."""
        ...


@runtime_checkable
class PreparingModel(ScoringModel, Protocol):
    """A model that scores in two steps, so that one batch is prepared while it computes another."""

    def prepare(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> Any:
        """Return inputs for `score_prepared`; runs on another thread than that, and for one batch at a time."""
        ...

    def score_prepared(self, inputs: Any) -> list[ReferenceScores]:
        """Score references in one batch, as `score`."""
        ...


class AudioLanguageModel(ScoringModel, Protocol):
    """A large audio-language model with its prompts."""

    bytes_per_token: int
    """Memory of one token of a session during decoding: keys, values and the embedding of the prompt."""

    bytes_per_session: int
    """Memory of a session besides its tokens during decoding: logits of one position."""

    def encoding_bytes(self, num_samples: Sequence[int]) -> int:
        """Return the approximate peak memory of `encode_prompts`, features included, for these lengths of waveforms."""
        ...

    def encode_prompts(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[Any]:
        """Encode prompts with the audio received so far; each result may serve several requests."""
        ...

    def generate(self, prompts: Sequence[Any], requests: Sequence[GenerationRequest]) -> list[Continuation]:
        """Generate one answer greedily for each prompt of `encode_prompts`, in one batch; prompts may repeat."""
        ...

    def find_alignment_heads(
        self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]
    ) -> tuple[AttentionHead, ...]:
        """Find the attention heads that follow the audio best while the model generates about these waveforms."""
        ...

    def set_alignment_heads(self, heads: Sequence[AttentionHead]) -> None:
        """Use these heads for `GenerationRequest.min_audio_ahead`. Raises UsageError for heads that do not exist."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Detokenize, without special tokens; white space is not stripped."""
        ...
