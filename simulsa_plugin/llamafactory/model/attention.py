"""Where in the audio a decoder-only model looks as it says a token: queries and keys on their way to attention.

After AlignAtt (Papi et al. 2023, arXiv 2305.11408) and its form for decoder-only models (arXiv 2606.03967).
transformers' attention functions get queries and keys after rotation, from every architecture alike; the few chosen
heads are computed a second time, over the audio alone, and the model's own computation is left as it is.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.model.values import AttentionHead

MOST_HEADS = 8
SHARE_OF_BEST = 0.8  # of the best head's score that another must have to be listened to


class AudioAttention:
    """Watches heads of a language model while it runs.

    Args:
        decoder: transformers' language model.
    """

    def __init__(self, decoder: Any) -> None:
        self._layers = {
            module.layer_idx: module for module in decoder.modules() if _is_attention(module) and not _slides(module)
        }
        self.heads: tuple[AttentionHead, ...] = ()

    def all_heads(self) -> list[AttentionHead]:
        """Every head that can hear the whole audio; those with a sliding window cannot.

        Raises:
            ModelError: there is none, as where a model computes attention in a way of its own.
        """
        found = [(layer, head) for layer, module in self._layers.items() for head in range(_num_heads(module))]
        if not found:
            raise ModelError(
                "The policy attention finds no attention over the whole audio in this model. "
                "Take another of simulsa_policies."
            )
        return found

    def choose(self, heads: Sequence[AttentionHead]) -> None:
        """Watch these from now on.

        Raises:
            UsageError: there is no such head, or it does not hear the whole audio.
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
    def watching(
        self, audio: torch.Tensor, heads: Sequence[AttentionHead] | None = None, *, last: bool = False
    ) -> Iterator[Watch]:
        """Watch heads in all passes within.

        Args:
            audio: (rows, columns) of the cache, True where there is audio; later columns have none.
            heads: which; those of `choose` unless given.
            last: only the last position of each pass matters.
        """
        heads = self.heads if heads is None else heads
        by_layer: dict[int, list[int]] = {}
        for layer, head in heads:
            by_layer.setdefault(id(self._layers[layer]), []).append(head)
        watch = Watch(audio, by_layer, last=last)
        modules = [self._layers[layer] for layer in dict.fromkeys(layer for layer, _ in heads)]
        with contextlib.ExitStack() as stack:
            for implementation, owner in dict.fromkeys((_implementation(one), _owner(one)) for one in modules):
                stack.enter_context(_caught(implementation, owner, watch))
            yield watch


class Watch:
    """What was seen in one pass; `select` before the next where rows have gone.

    Args:
        audio: see `AudioAttention.watching`.
        heads: id of an attention module → numbers of its heads.
        last: see `AudioAttention.watching`.
    """

    def __init__(self, audio: torch.Tensor, heads: dict[int, list[int]], *, last: bool) -> None:
        self._audio, self._heads, self._last = audio, heads, last
        self._seen: list[torch.Tensor] = []

    def note(self, module: Any, query: torch.Tensor, key: torch.Tensor, scaling: float | None) -> None:
        """Add the attention of a module's heads, of (rows, heads, tokens, width) and keys of all columns so far."""
        heads = self._heads.get(id(module))
        if heads is None:
            return
        chosen = torch.tensor(heads, device=query.device)
        shared = query.shape[1] // key.shape[1]  # query heads for one of keys and values
        query = query[:, chosen, -1:] if self._last else query[:, chosen]
        key = key[:, chosen // shared, : self._audio.shape[1]]
        with torch.autocast(query.device.type, enabled=False):  # in bf16 places tie that do not
            scores = query.float() @ key.float().transpose(-1, -2)
        scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores.masked_fill(~self._audio[:, None, None].to(scores.device), -torch.inf)
        self._seen.append(scores.softmax(-1).to(self._audio.device))

    def unheard(self) -> torch.Tensor:
        """The share of the audio behind the place that all heads together look at most, (rows, tokens)."""
        attention = torch.cat(self._seen, dim=1).mean(dim=1)
        self._seen.clear()
        return self._behind(attention.argmax(-1))

    def unheard_by_head(self) -> torch.Tensor:
        """As `unheard`, for each head alone: (rows, heads, tokens), heads in the order of their layers' passes."""
        attention = torch.cat(self._seen, dim=1)
        self._seen.clear()
        return self._behind(attention.argmax(-1).flatten(1)).reshape(attention.shape[:3])

    def _behind(self, columns: torch.Tensor) -> torch.Tensor:
        heard = self._audio.cumsum(1)
        behind: torch.Tensor = 1 - heard.gather(1, columns) / heard[:, -1:]
        return behind

    def select(self, rows: torch.Tensor) -> None:
        """Go on with these rows."""
        self._audio = self._audio[rows]


def following_heads(scores: dict[AttentionHead, float]) -> tuple[AttentionHead, ...]:
    """The heads that follow the audio best, at most `MOST_HEADS`; `scores` are of `concordance`."""
    best = max(scores.values())
    good = sorted((head for head in scores if scores[head] >= SHARE_OF_BEST * best), key=lambda head: -scores[head])
    return tuple(sorted(good[:MOST_HEADS]))


def concordance(heard: torch.Tensor) -> torch.Tensor:
    """How nearly heads go through the audio at the pace of the answer (Lin 1989), 1 at best; (heads, tokens) → (heads).

    What always looks at one place, or keeps its distance from the token that it says, has about 0.

    Args:
        heard: share of the audio before the place that a head looks at.
    """
    pace = torch.linspace(0, 1, heard.shape[-1], device=heard.device).expand_as(heard)
    together = ((heard - heard.mean(-1, keepdim=True)) * (pace - pace.mean(-1, keepdim=True))).mean(-1)
    apart = heard.var(-1, correction=0) + pace.var(-1, correction=0) + (heard.mean(-1) - pace.mean(-1)) ** 2
    return 2 * together / apart.clamp_min(1e-9)


def _is_attention(module: Any) -> bool:
    return isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "q_proj")


def _slides(module: Any) -> bool:
    return getattr(module, "sliding_window", None) is not None


def _num_heads(module: Any) -> int:
    return int(module.config.num_attention_heads)


def _implementation(module: Any) -> str:
    return str(module.config._attn_implementation)


def _owner(module: Any) -> str:
    """The module of transformers that a class is written in, which has its eager attention."""
    return type(module).__module__


@contextlib.contextmanager
def _caught(implementation: str, owner: str, watch: Watch) -> Iterator[None]:
    """Let `watch` see what goes into transformers' attention function; afterwards all is as it was."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

    def catching(attend: Callable[..., Any]) -> Callable[..., Any]:
        def attention(module: Any, query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> Any:
            watch.note(module, query, key, options.get("scaling"))
            return attend(module, query, key, *rest, **options)

        return attention

    if implementation == "eager":  # not among the functions: each module of transformers has its own
        place, name = vars(sys.modules[owner]), "eager_attention_forward"
        before = place[name]
        place[name] = catching(before)
    else:
        place, name = FUNCTIONS._local_mapping, implementation
        before = place.get(name)
        place[name] = catching(FUNCTIONS[name])
    try:
        yield
    finally:
        if before is None:
            del place[name]
        else:
            place[name] = before
