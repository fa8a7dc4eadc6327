"""Teacher-forced scores of references from one forward pass that computes logits of the answers' positions alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.model.values import ReferenceScores, RenderedReference

Positions = tuple[torch.Tensor, torch.Tensor]  # row and column of each position of a batch whose logits are needed


@dataclass(frozen=True)
class ScoringInputs:
    """A batch that is ready for the model, in the host's memory.

    Attributes:
        rendered: prompt and reference of each row.
        waveforms: of each row, (num_samples,) at 16 kHz.
        tensors: what the model takes, collated.
    """

    rendered: Sequence[RenderedReference]
    waveforms: Sequence[Waveform]
    tensors: dict[str, Any]


def answer_positions(rendered: Sequence[RenderedReference]) -> Positions:
    """Return the positions of a right-padded batch that predict the tokens of the answers, and the one after each.

    >>> one = RenderedReference((5, 6, 7), (8, 9), (1, 2))
    >>> [indices.tolist() for indices in answer_positions([one, RenderedReference((5,), (8,), (1,))])]
    [[0, 0, 0, 1, 1], [2, 3, 4, 0, 1]]
    """
    rows = [row for row, one in enumerate(rendered) for _ in range(len(one.content_ids) + 1)]
    columns = [len(one.prompt_ids) - 1 + token for one in rendered for token in range(len(one.content_ids) + 1)]
    return torch.tensor(rows), torch.tensor(columns)


@contextlib.contextmanager
def only_positions(head: Any, positions: Positions) -> Iterator[None]:
    """Let an output layer compute these positions alone, (positions, V), inside this context: V is large."""

    def select(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        rows, columns = (indices.to(inputs[0].device) for indices in positions)
        return (inputs[0][rows, columns], *inputs[1:])

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def reference_scores(
    logits: torch.Tensor, rendered: Sequence[RenderedReference], end_token: int
) -> list[ReferenceScores]:
    """Compute scores from logits (positions, V) at `answer_positions`; they leave the device together.

    Args:
        logits: of all rows, one after another.
        rendered: of the same rows.
        end_token: the end of turn.
    """
    answers = [(*one.content_ids, end_token) for one in rendered]
    ends = accumulate(map(len, answers))
    spans = [slice(end - len(answer), end) for answer, end in zip(answers, ends, strict=True)]
    scored = [
        _score_row(logits[span], torch.tensor(answer, device=logits.device))
        for span, answer in zip(spans, answers, strict=True)
    ]
    chosen, greedy, margins = (torch.cat(parts).tolist() for parts in zip(*scored, strict=True))
    return [
        ReferenceScores(tuple(chosen[span][:-1]), tuple(greedy[span][:-1]), tuple(margins[span][:-1]), chosen[span][-1])
        for span in spans
    ]


def _score_row(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probability of each target, argmax, and margin over the best other token, from logits (positions, V).

    Row by row, since the logarithms of a whole batch would take as much memory again as its logits.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, targets[:, None])[:, 0]
    greedy = logprobs.argmax(-1)
    (best, second) = logprobs.topk(2).values.unbind(-1)
    return chosen, greedy, chosen - torch.where(greedy == targets, second, best)
