"""Attention of a decoder-only model's generated tokens to its audio tokens, for AlignAtt.

After AlignAtt (Papi et al. 2023, arXiv 2305.11408) and its form for decoder-only models (arXiv 2606.03967).
transformers' attention functions get queries and keys after the rotary embedding, in every architecture; the attention
of the few chosen heads is recomputed from them, over the audio alone. The model's own computation does not change.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.model.values import AttentionHead

MAX_HEADS = 8
MIN_SHARE_OF_BEST = 0.8  # least score of an alignment head, as a share of the best head's


class AudioAttention:
    """Records the attention of chosen heads of a language model.

    Args:
        decoder: transformers' language model.

    Attributes:
        is_full: no layer has a sliding window.
        heads: those of `set_heads`.
    """

    def __init__(self, decoder: Any) -> None:
        modules = [module for module in decoder.modules() if _is_attention(module)]
        self._layers = {module.layer_idx: module for module in modules if not _has_sliding_window(module)}
        self.is_full = len(self._layers) == len(modules)
        self.heads: tuple[AttentionHead, ...] = ()

    def all_heads(self) -> list[AttentionHead]:
        """Return every head that attends to the whole audio; those with a sliding window do not.

        Raises:
            ModelError: there is none, as in models that do not use transformers' attention functions.
        """
        found = [(layer, head) for layer, module in self._layers.items() for head in range(_num_heads(module))]
        if not found:
            raise ModelError(
                "The policy attention finds no attention over the whole audio in this model. "
                "Take another of simulsa_policies."
            )
        return found

    def set_heads(self, heads: Sequence[AttentionHead]) -> None:
        """Set the heads that `recording` uses by default.

        Raises:
            UsageError: a head does not exist, or does not attend to the whole audio.
        """
        known = self.all_heads()
        for layer, head in heads:
            if (layer, head) not in known:
                layers = ", ".join(map(str, self._layers))
                raise UsageError(
                    f"simulsa_attention_heads names {layer}/{head}; allowed: layers {layers}, "
                    f"heads 0 to {max(number for _, number in known)}."
                )
        self.heads = tuple(heads)

    @contextlib.contextmanager
    def recording(
        self, audio: torch.Tensor, heads: Sequence[AttentionHead] | None = None, *, first_position: int = 0
    ) -> Iterator[AttentionRecord]:
        """Record attention in all forward passes inside the context.

        Args:
            audio: (rows, columns of the cache), True for audio tokens; later columns have none.
            heads: those of `set_heads` by default.
            first_position: see `AttentionRecord`.
        """
        heads = self.heads if heads is None else heads
        by_layer: dict[int, list[int]] = {}
        for layer, head in heads:
            by_layer.setdefault(id(self._layers[layer]), []).append(head)
        record = AttentionRecord(audio, by_layer, first_position)
        modules = [self._layers[layer] for layer in dict.fromkeys(layer for layer, _ in heads)]
        with contextlib.ExitStack() as stack:
            for implementation, defining_module in dict.fromkeys(
                (_implementation(module), type(module).__module__) for module in modules
            ):
                stack.enter_context(_intercepted(implementation, defining_module, record))
            yield record


class AttentionRecord:
    """Attention of one forward pass; call `select_rows` before the next one where rows were removed.

    Args:
        audio: see `AudioAttention.recording`.
        heads: id of an attention module → numbers of its heads.
        first_position: in each pass, of those that are recorded; -1 records the last one alone.
    """

    def __init__(self, audio: torch.Tensor, heads: dict[int, list[int]], first_position: int) -> None:
        self._audio, self._heads, self.first_position = audio, heads, first_position
        self._layers: list[torch.Tensor] = []

    def add(self, module: Any, query: torch.Tensor, key: torch.Tensor, scaling: float | None) -> None:
        """Add the attention of a module's heads, from queries (rows, heads, tokens, width) and keys of all columns."""
        heads = self._heads.get(id(module))
        if heads is None:
            return
        chosen = torch.tensor(heads, device=query.device)
        group_size = query.shape[1] // key.shape[1]  # query heads that share one head of keys and values
        query = query[:, chosen, self.first_position :]
        key = key[:, chosen // group_size, : self._audio.shape[1]]
        with torch.autocast(query.device.type, enabled=False):  # bf16 would tie different scores
            scores = query.float() @ key.float().transpose(-1, -2)
        scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores.masked_fill(~self._audio[:, None, None].to(scores.device), -torch.inf)
        self._layers.append(scores.softmax(-1).to(self._audio.device))

    def audio_ahead(self) -> torch.Tensor:
        """Return the share of the audio after the position most attended on average over heads, (rows, positions)."""
        attention = torch.cat(self._layers, dim=1).mean(dim=1)
        self._layers.clear()
        return self._share_after(attention.argmax(-1))

    def audio_ahead_by_head(self) -> torch.Tensor:
        """Return `audio_ahead` of each head: (rows, heads, tokens), heads in the order of their layers."""
        attention = torch.cat(self._layers, dim=1)
        self._layers.clear()
        return self._share_after(attention.argmax(-1).flatten(1)).reshape(attention.shape[:3])

    def _share_after(self, columns: torch.Tensor) -> torch.Tensor:
        position = self._audio.cumsum(1)
        share: torch.Tensor = 1 - position.gather(1, columns) / position[:, -1:]
        return share

    def select_rows(self, rows: torch.Tensor, columns: int | None = None) -> None:
        """Keep these rows, in this order, and no more than the first columns."""
        self._audio = self._audio[rows, :columns]


def select_alignment_heads(scores: dict[AttentionHead, float]) -> tuple[AttentionHead, ...]:
    """Return the heads that follow the audio best, at most `MAX_HEADS`, by their scores of `concordance`."""
    best = max(scores.values())
    good = sorted((head for head in scores if scores[head] >= MIN_SHARE_OF_BEST * best), key=lambda head: -scores[head])
    return tuple(sorted(good[:MAX_HEADS]))


def concordance(attended: torch.Tensor) -> torch.Tensor:
    """Return Lin's concordance (1989) of attended position and position in the answer; (heads, tokens) → (heads,).

    It is 1 for a head that moves through the audio at the pace of the answer, and about 0 for one that stays at one
    position or at a fixed distance from the generated token.

    Args:
        attended: share of the audio before the position that a head attends to most.
    """
    pace = torch.linspace(0, 1, attended.shape[-1], device=attended.device).expand_as(attended)
    covariance = ((attended - attended.mean(-1, keepdim=True)) * (pace - pace.mean(-1, keepdim=True))).mean(-1)
    mean_difference = attended.mean(-1) - pace.mean(-1)
    total = attended.var(-1, correction=0) + pace.var(-1, correction=0) + mean_difference**2
    return 2 * covariance / total.clamp_min(1e-9)


def _is_attention(module: Any) -> bool:
    return isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "q_proj")


def _has_sliding_window(module: Any) -> bool:
    return getattr(module, "sliding_window", None) is not None


def _num_heads(module: Any) -> int:
    return int(module.config.num_attention_heads)


def _implementation(module: Any) -> str:
    return str(module.config._attn_implementation)


@contextlib.contextmanager
def _intercepted(implementation: str, defining_module: str, record: AttentionRecord) -> Iterator[None]:
    """Pass queries and keys of transformers' attention function to `record`; the function is restored at the end.

    Args:
        implementation: name of the attention function.
        defining_module: Python module of the model's attention class, which has its eager attention.
        record: to be filled.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

    def intercept(attend: Callable[..., Any]) -> Callable[..., Any]:
        def attention(module: Any, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> Any:
            record.add(module, query, key, options.get("scaling"))
            return attend(module, query, key, *rest, **options)

        return attention

    if implementation == "eager":  # not among the functions: each module of transformers has its own
        namespace, name = vars(sys.modules[defining_module]), "eager_attention_forward"
        before = namespace[name]
        namespace[name] = intercept(before)
    else:
        namespace, name = FUNCTIONS._local_mapping, implementation
        before = namespace.get(name)
        namespace[name] = intercept(FUNCTIONS[name])
    try:
        yield
    finally:
        if before is None:
            del namespace[name]
        else:
            namespace[name] = before
