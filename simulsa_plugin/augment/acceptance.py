"""How much of the reference a cut supports: pure rules over a row of scores.jsonl, no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.errors import UsageError

PERCENT_OF_UNIFORM = 100.0  # τ = 100 / V: a hundred times what a uniform guess would give


@dataclass(frozen=True)
class Decision:
    """The accepted part of a reference: its number of tokens and its text."""

    accepted_tokens: int
    partial: str


def default_threshold(output_width: int) -> float:
    """τ = 100 / V (arXiv 2509.15692), V = width of the output layer.

    >>> round(default_threshold(151_646), 7)
    0.0006594
    """
    return min(1.0, PERCENT_OF_UNIFORM / output_width)


def decide(scores: Mapping[str, Any], settings: AugmentSettings, output_width: int) -> Decision:
    """Apply the chosen rule, then step back to a character (or word) boundary.

    Args:
        scores: a row of scores.jsonl.
        settings: rule, its parameters, boundary.
        output_width: V, for the default τ and floor.

    Raises:
        UsageError: the rule needs a field that was not computed; the option that computes it is named.
    """
    threshold = settings.threshold if settings.threshold is not None else default_threshold(output_width)
    floor = settings.ratio_floor if settings.ratio_floor is not None else default_threshold(output_width)
    if settings.acceptance == "threshold":
        count = accept_threshold(scores["logprobs"], threshold)
    elif settings.acceptance == "greedy":
        count = accept_greedy(scores["token_ids"], scores["greedy"])
    elif settings.acceptance == "ratio":
        full = _field(scores, "logprobs_full", "ratio")
        count = accept_ratio(scores["logprobs"], full, settings.ratio_threshold, floor)
    else:
        count = accept_threshold(_field(scores, "logprobs_lookback", "lookback"), threshold)
    return clip_to_boundary(count, scores["char_ends"], scores["reference"], settings.boundary)


def accept_threshold(logprobs: Sequence[float], threshold: float) -> int:
    """Tokens before the first with p < τ.

    >>> accept_threshold([math.log(0.9), math.log(0.2), math.log(0.8)], 0.5)
    1
    """
    bound = math.log(threshold)
    return next((i for i, logprob in enumerate(logprobs) if logprob < bound), len(logprobs))


def accept_greedy(token_ids: Sequence[int], greedy: Sequence[int]) -> int:
    """Tokens before the first that is not the argmax.

    >>> accept_greedy([5, 6, 7], [5, 6, 8])
    2
    """
    return next(
        (i for i, (token, best) in enumerate(zip(token_ids, greedy, strict=True)) if token != best), len(token_ids)
    )


def accept_ratio(
    logprobs: Sequence[float], logprobs_full: Sequence[float], ratio_threshold: float, floor: float
) -> int:
    """Tokens before the first with p(cut) / max(p(full), floor) < ratio_threshold.

    >>> accept_ratio([math.log(0.5), math.log(0.1)], [math.log(0.9), math.log(0.8)], 0.5, 1e-3)
    1
    """
    bound, floor_logprob = math.log(ratio_threshold), math.log(floor)
    pairs = zip(logprobs, logprobs_full, strict=True)
    return next((i for i, (cut, full) in enumerate(pairs) if cut - max(full, floor_logprob) < bound), len(logprobs))


def clip_to_boundary(count: int, char_ends: Sequence[int | None], reference: str, boundary: str) -> Decision:
    """Step back until the text ends outside a character, outside white space and, with `word`, outside a word.

    >>> clip_to_boundary(2, [3, 4, 8], "Der Mann", "token")
    Decision(accepted_tokens=1, partial='Der')
    >>> clip_to_boundary(3, [3, 6, 8], "Der Mann", "word"), clip_to_boundary(2, [3, 6, 8], "Der Mann", "word").partial
    (Decision(accepted_tokens=3, partial='Der Mann'), 'Der')
    """
    if count == len(char_ends):
        return Decision(count, reference)
    while count > 0:
        end = char_ends[count - 1]
        if end is not None and _ends_well(reference, end, boundary):
            return Decision(count, reference[:end])
        count -= 1
    return Decision(0, "")


def _ends_well(reference: str, end: int, boundary: str) -> bool:
    if end == 0 or reference[end - 1].isspace():
        return False
    return boundary == "token" or end == len(reference) or reference[end].isspace()


def _field(scores: Mapping[str, Any], field: str, rule: str) -> Sequence[float]:
    if scores.get(field) is None:
        raise UsageError(
            f"simulsa_acceptance={rule} needs {field}, which {scores['id']} does not have. "
            f"Score again with simulsa_acceptance={rule}."
        )
    values: Sequence[float] = scores[field]
    return values
