"""How much of the reference a cut supports: pure rules over a row of scores.jsonl, no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.augmentation.augment_settings import EXTRA_SCORES, AugmentSettings
from simulsa_plugin.augmentation.method.boundaries import is_word_end, splits_grapheme
from simulsa_plugin.errors import UsageError

PERCENT_OF_UNIFORM = 100.0  # τ = 100 / V: a hundred times what a uniform guess would give
LOGPROB_TOLERANCE = 1e-4  # by which a log-probability may differ between batch settings and devices, in fp32
# In half precision it depends on what else is in a batch: tests/bench/bench_precision.py found differences of up to
# 0.17 in bf16 and 0.036 in fp16.
TOLERANCES = {"float32": LOGPROB_TOLERANCE, "bfloat16": 0.25, "float16": 0.0625}


@dataclass(frozen=True)
class Decision:
    """The accepted part of a reference.

    Attributes:
        accepted_tokens: how many of its tokens.
        partial: their text.
        close: whether the rule looked at a value within the tolerance of its bound, so that another device or batch
            may accept other tokens; None where the row cannot tell.
    """

    accepted_tokens: int
    partial: str
    close: bool | None = False


def default_threshold(output_width: int) -> float:
    """τ = 100 / V (arXiv 2509.15692), V = width of the output layer.

    >>> round(default_threshold(151_646), 7)
    0.0006594
    """
    return min(1.0, PERCENT_OF_UNIFORM / output_width)


def tolerance_of(model: Mapping[str, Any] | None) -> float:
    """Return by how much a log-probability may differ between batches, in the number format of a model's weights.

    Args:
        model: of `AudioLanguageModel.describe`, or of a manifest; None where it is not known.

    >>> tolerance_of({"dtype": "bfloat16"}), tolerance_of(None)
    (0.25, 0.0001)
    """
    return TOLERANCES.get((model or {}).get("dtype", ""), LOGPROB_TOLERANCE)


def decide(
    scores: Mapping[str, Any], settings: AugmentSettings, output_width: int | None, tolerance: float = LOGPROB_TOLERANCE
) -> Decision:
    """Apply the chosen rule, then step back to a character (or word) boundary.

    Args:
        scores: a row of scores.jsonl.
        settings: rule, its parameters, boundary.
        output_width: V, for the default τ and floor; None where it is not known.
        tolerance: of log-probabilities, to tell close decisions; of `tolerance_of`.

    Raises:
        UsageError: the rule needs a field that was not computed, and the option that computes it is named; or V.
    """
    if settings.acceptance == "greedy":
        count = accept_greedy(scores["token_ids"], _field(scores, "greedy", settings))
        margins = scores.get("margins")
        close = None if margins is None else _close(margins, 0.0, 2 * tolerance, count)
    elif settings.acceptance == "ratio":
        ratios = _log_ratios(scores, settings, output_width)
        bound = math.log(settings.ratio_threshold)
        count = _accept_while(ratios, bound)
        close = _close(ratios, bound, 2 * tolerance, count)
    else:
        field = "logprobs" if settings.acceptance == "threshold" else "logprobs_lookback"
        logprobs = _logprobs(scores, field, settings)
        threshold = _default(settings.threshold, output_width, "simulsa_threshold")
        count = accept_threshold(logprobs, threshold)
        close = _close(logprobs, math.log(threshold), tolerance, count)
    accepted, partial = clip_to_boundary(count, scores["char_ends"], scores["reference"], settings.boundary)
    return Decision(accepted, partial, close)


def accept_threshold(logprobs: Sequence[float], threshold: float) -> int:
    """Tokens before the first with p < τ.

    >>> accept_threshold([math.log(0.9), math.log(0.2), math.log(0.8)], 0.5)
    1
    """
    return _accept_while(logprobs, math.log(threshold))


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
    return _accept_while(log_ratios(logprobs, logprobs_full, floor), math.log(ratio_threshold))


def log_ratios(logprobs: Sequence[float], logprobs_full: Sequence[float], floor: float) -> list[float]:
    """Logarithm of p(cut) / max(p(full), floor) of each token.

    A weak model would accept everything without the floor.
    """
    lowest = math.log(floor)
    return [cut - max(full, lowest) for cut, full in zip(logprobs, logprobs_full, strict=True)]


def clip_to_boundary(count: int, char_ends: Sequence[int | None], reference: str, boundary: str) -> tuple[int, str]:
    """Step back until the text ends outside a character, outside white space and, with `word`, outside a word.

    A letter and its combining marks are one character.

    Returns:
        accepted tokens, their text.

    >>> clip_to_boundary(2, [3, 4, 8], "Der Mann", "token")
    (1, 'Der')
    >>> clip_to_boundary(3, [3, 6, 8], "Der Mann", "word"), clip_to_boundary(2, [3, 6, 8], "Der Mann", "word")
    ((3, 'Der Mann'), (1, 'Der'))
    """
    if 0 < count == len(char_ends):  # without tokens nothing was accepted, whatever the reference says
        return count, reference
    while count > 0:
        end = char_ends[count - 1]
        if end is not None and _ends_well(reference, end, boundary):
            return count, reference[:end]
        count -= 1
    return 0, ""


def _accept_while(values: Sequence[float], bound: float) -> int:
    return next((i for i, value in enumerate(values) if value < bound), len(values))


def _close(values: Sequence[float], bound: float, tolerance: float, count: int) -> bool:
    """Whether any value that was looked at, the refused one included, is within the tolerance of the bound."""
    return any(abs(value - bound) <= tolerance for value in values[: count + 1])


def _ends_well(reference: str, end: int, boundary: str) -> bool:
    if end == 0 or reference[end - 1].isspace() or splits_grapheme(reference, end):
        return False
    return boundary == "token" or is_word_end(reference, end)


def _log_ratios(scores: Mapping[str, Any], settings: AugmentSettings, output_width: int | None) -> list[float]:
    full = _logprobs(scores, "logprobs_full", settings)
    return log_ratios(scores["logprobs"], full, _default(settings.ratio_floor, output_width, "simulsa_ratio_floor"))


def _default(value: float | None, output_width: int | None, key: str) -> float:
    if value is not None:
        return value
    if output_width is None:
        raise UsageError(
            f"The default of {key} is 100 / V, but V, the width of the output layer, is not known. Set {key}."
        )
    return default_threshold(output_width)


def _logprobs(scores: Mapping[str, Any], field: str, settings: AugmentSettings) -> Sequence[float]:
    values: Sequence[float] = _field(scores, field, settings)
    if field == "logprobs_lookback" and scores.get("lookback_ms", settings.lookback_ms) != settings.lookback_ms:
        raise UsageError(
            f"simulsa_lookback_ms is {settings.lookback_ms:g}, but {scores['id']} was scored with "
            f"{scores['lookback_ms']:g}. Set simulsa_lookback_ms={scores['lookback_ms']:g}, or score again."
        )
    return values


def _field(scores: Mapping[str, Any], field: str, settings: AugmentSettings) -> Any:
    if scores.get(field) is None:
        extra = field.removeprefix("logprobs_")
        option = f" or simulsa_extra_scores={extra}" if extra in EXTRA_SCORES else ""
        raise UsageError(
            f"simulsa_acceptance={settings.acceptance} needs {field}, which {scores['id']} does not have. Score again "
            f"with simulsa_acceptance={settings.acceptance}{option}."
        )
    return scores[field]
