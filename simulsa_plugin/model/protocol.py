"""What the method asks of a model. `llamafactory.model.backbone` is LLaMA-Factory's answer; tests give others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.model.values import Continuation, Head, Prompt, ReferenceScores, RenderedReference, Request


class Renderer(Protocol):
    """The training-time prompt of a large audio-language model: tokens without weights."""

    window_seconds: float | None
    """Longest audio that the model hears whole; None where it has no limit."""
    end_tokens: int
    """Tokens that training puts after an answer, its end of turn among them."""

    def render(self, prompt: Prompt, waveform: Waveform, reference: str) -> RenderedReference:
        """Tokens of prompt and reference. Raises ModelError if the template cannot carry them."""
        ...

    def unstable_prefixes(self, rendered: RenderedReference, reference: str) -> tuple[int, ...]:
        """Numbers of leading content tokens whose text training would tokenize otherwise."""
        ...


class AudioLanguageModel(Renderer, Protocol):
    """A large audio-language model behind that prompt."""

    output_width: int
    """V, the width of the output layer."""

    def describe(self) -> dict[str, Any]:
        """Model, adapter, template, dtype and device, for manifests."""
        ...

    def score(self, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> list[ReferenceScores]:
        """Score references in one batch."""
        ...

    def render_prompt(self, prompt: Prompt, waveform: Waveform) -> tuple[int, ...]:
        """Token ids of a prompt up to where the answer begins."""
        ...

    def hardware(self) -> dict[str, Any]:
        """What it runs on, for measured times."""
        ...

    bytes_per_token: int
    """What one token of a session occupies while it is decoded."""

    def bytes_to_read(self, num_samples: Sequence[int]) -> int:
        """What `read` occupies at most, about, for waveforms of these lengths in one batch."""
        ...

    def read(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> list[Any]:
        """What the model makes of prompts and of the audio heard so far; one may serve several requests."""
        ...

    def continue_(self, prompts: Sequence[Any], requests: Sequence[Request]) -> list[Continuation]:
        """Greedily continue one answer about each of the prompts of `read`, in one batch."""
        ...

    def find_heads(self, prompts: Sequence[Sequence[int]], waveforms: Sequence[Waveform]) -> tuple[Head, ...]:
        """Attention heads that follow the audio through the answers about these waveforms."""
        ...

    def watch_heads(self, heads: Sequence[Head]) -> None:
        """Take these heads for `Request.recent`. Raises UsageError where the model does not have them."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out, not stripped."""
        ...
