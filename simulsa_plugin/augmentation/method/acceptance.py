"""How much of the reference a cut supports: rules over a row of scores.jsonl, without a model."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from simulsa_plugin.augmentation.method.boundaries import is_word_end, splits_grapheme
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings

Boundary = Literal["token", "word"]
ExtraScore = Literal["full", "lookback"]  # of the whole utterance; of the clip without its end
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
        distance: the smallest difference of a value the rule looked at from its bound, natural logarithms; infinite
            where it looked at none, None where the row cannot tell.
    """

    accepted_tokens: int
    partial: str
    close: bool | None = False
    distance: float | None = None


def default_threshold(output_width: int) -> float:
    """Return τ = 100 / V (arXiv 2509.15692), V = width of the output layer.

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


class AcceptanceRule(ABC):
    """Decides how many tokens of the reference a cut supports; a new rule is a subclass that RULES lists.

    Attributes:
        name: its value of `simulsa_acceptance`.
        options: the fields of `AugmentSettings` that it reads.
        extra_score: what has to be scored besides the cut.
        num_compared: how many log-probabilities are in a value that it compares; their tolerances add up.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    extra_score: ClassVar[ExtraScore | None] = None
    num_compared: ClassVar[int] = 1

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: AugmentSettings, output_width: int | None) -> Self:
        """Build the rule, its defaults resolved.

        Raises:
            UsageError: a default needs V, the width of the output layer, and that is not known.
        """

    @abstractmethod
    def accept(self, row: Mapping[str, Any]) -> tuple[int, float | None]:
        """Count the tokens of a row of scores.jsonl before the first that is refused.

        Returns:
            accepted tokens, `Decision.distance`.

        Raises:
            UsageError: the row lacks a field, and the option that computes it is named.
        """

    def signature_fields(self) -> dict[str, str]:
        """Return name → value of what the signature of a run says about the rule."""
        return {}

    def _field(self, row: Mapping[str, Any], field: str) -> Any:
        if row.get(field) is None:
            option = f" or simulsa_extra_scores={self.extra_score}" if self.extra_score else ""
            raise UsageError(
                f"simulsa_acceptance={self.name} needs {field}, which {row['id']} does not have. Score again "
                f"with simulsa_acceptance={self.name}{option}."
            )
        return row[field]


@dataclass(frozen=True)
class Threshold(AcceptanceRule):
    """Accepts until the first token with p < τ, the paper's rule.

    >>> count, distance = Threshold(0.5).accept({"logprobs": [math.log(0.9), math.log(0.2), math.log(0.8)]})
    >>> count, round(distance, 3) == round(math.log(0.9 / 0.5), 3)
    (1, True)
    """

    name = "threshold"
    options = ("threshold",)
    threshold: float

    @classmethod
    def from_settings(cls, settings: AugmentSettings, output_width: int | None) -> Self:
        return cls(_or_default(settings.threshold, output_width, "simulsa_threshold"))

    def accept(self, row: Mapping[str, Any]) -> tuple[int, float | None]:
        return _accept_while(self._logprobs(row), math.log(self.threshold))

    def signature_fields(self) -> dict[str, str]:
        return {"tau": f"{self.threshold:.4g}"}

    def _logprobs(self, row: Mapping[str, Any]) -> Sequence[float]:
        logprobs: Sequence[float] = self._field(row, "logprobs")
        return logprobs


@dataclass(frozen=True)
class Greedy(AcceptanceRule):
    """Accepts until the first token that is not the argmax.

    >>> Greedy().accept({"token_ids": [5, 6, 7], "greedy": [5, 6, 8]})
    (2, None)
    """

    name = "greedy"
    num_compared = 2

    @classmethod
    def from_settings(cls, settings: AugmentSettings, output_width: int | None) -> Self:
        return cls()

    def accept(self, row: Mapping[str, Any]) -> tuple[int, float | None]:
        pairs = zip(row["token_ids"], self._field(row, "greedy"), strict=True)
        count = next((i for i, (token, best) in enumerate(pairs) if token != best), len(row["token_ids"]))
        margins = row.get("margins")
        return count, None if margins is None else _distance(margins[: count + 1], 0.0)


@dataclass(frozen=True)
class Ratio(AcceptanceRule):
    """Accepts until the first token with p(cut) / max(p(full), floor) < ratio_threshold.

    A weak model would accept everything without the floor.

    >>> row = {"logprobs": [math.log(0.5), math.log(0.1)], "logprobs_full": [math.log(0.9), math.log(0.8)]}
    >>> Ratio(0.5, 1e-3).accept(row)[0]
    1
    """

    name = "ratio"
    num_compared = 2
    options = ("ratio_threshold", "ratio_floor")
    extra_score = "full"
    ratio_threshold: float
    floor: float

    @classmethod
    def from_settings(cls, settings: AugmentSettings, output_width: int | None) -> Self:
        floor = _or_default(settings.ratio_floor, output_width, "simulsa_ratio_floor")
        return cls(settings.ratio_threshold, floor)

    def accept(self, row: Mapping[str, Any]) -> tuple[int, float | None]:
        full, floor = self._field(row, "logprobs_full"), math.log(self.floor)
        ratios = [cut - max(whole, floor) for cut, whole in zip(row["logprobs"], full, strict=True)]
        return _accept_while(ratios, math.log(self.ratio_threshold))

    def signature_fields(self) -> dict[str, str]:
        return {"ratio": str(self.ratio_threshold)}


@dataclass(frozen=True)
class Lookback(Threshold):
    """Applies the threshold to the scores of the audio up to `lookback_ms` before the cut."""

    name = "lookback"
    extra_score = "lookback"
    lookback_ms: float

    @classmethod
    def from_settings(cls, settings: AugmentSettings, output_width: int | None) -> Self:
        threshold = _or_default(settings.threshold, output_width, "simulsa_threshold")
        return cls(threshold, settings.lookback_ms)

    def _logprobs(self, row: Mapping[str, Any]) -> Sequence[float]:
        logprobs: Sequence[float] = self._field(row, "logprobs_lookback")
        scored_ms = row.get("lookback_ms", self.lookback_ms)
        if scored_ms != self.lookback_ms:
            raise UsageError(
                f"simulsa_lookback_ms is {self.lookback_ms:g}, but {row['id']} was scored with "
                f"{scored_ms:g}. Set simulsa_lookback_ms={scored_ms:g}, or score again."
            )
        return logprobs


RULES: dict[str, type[AcceptanceRule]] = {rule.name: rule for rule in (Threshold, Greedy, Ratio, Lookback)}


@functools.lru_cache(maxsize=16)  # settings are few, rows are many
def make_rule(settings: AugmentSettings, output_width: int | None) -> AcceptanceRule:
    """Build the rule that settings choose.

    Args:
        settings: rule and its options.
        output_width: V, for defaults; None where it is not known.

    Raises:
        UsageError: V is needed, and not known.
    """
    return RULES[settings.acceptance].from_settings(settings, output_width)


def decide(
    row: Mapping[str, Any], settings: AugmentSettings, output_width: int | None, tolerance: float = LOGPROB_TOLERANCE
) -> Decision:
    """Apply the chosen rule, then step back to a character (or word) boundary.

    Args:
        row: of scores.jsonl.
        settings: rule, its options, boundary.
        output_width: V, for defaults; None where it is not known.
        tolerance: of log-probabilities, to tell close decisions; of `tolerance_of`.

    Raises:
        UsageError: the rule needs a field that was not computed, and the option that computes it is named; or V.
    """
    rule = make_rule(settings, output_width)
    count, distance = rule.accept(row)
    accepted, partial = clip_to_boundary(count, row["char_ends"], row["reference"], settings.boundary)
    close = None if distance is None else distance <= rule.num_compared * tolerance
    return Decision(accepted, partial, close, distance)


def partial_ends(row: Mapping[str, Any], boundary: Boundary) -> list[bool]:
    """Tell of each token whether a partial translation may end after it: what `clip_to_boundary` asks.

    >>> partial_ends({"char_ends": [3, 4, 8], "reference": "Der Mann"}, "token")
    [True, False, True]
    """
    ends, reference = row["char_ends"], row["reference"]
    inner = [end is not None and _ends_well(reference, end, boundary) for end in ends[:-1]]
    return [*inner, *[True] * (len(ends) > 0)]


def clip_to_boundary(
    count: int, char_ends: Sequence[int | None], reference: str, boundary: Boundary
) -> tuple[int, str]:
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


def _accept_while(values: Sequence[float], bound: float) -> tuple[int, float]:
    """Count the values before the first below the bound; return also how near to it any up to that one comes."""
    count = next((i for i, value in enumerate(values) if value < bound), len(values))
    return count, _distance(values[: count + 1], bound)


def _distance(values: Sequence[float], bound: float) -> float:
    return min((abs(value - bound) for value in values), default=math.inf)


def _or_default(value: float | None, output_width: int | None, key: str) -> float:
    if value is not None:
        return value
    if output_width is None:
        raise UsageError(
            f"The default of {key} is 100 / V, but V, the width of the output layer, is not known. Set {key}."
        )
    return default_threshold(output_width)


def _ends_well(reference: str, end: int, boundary: Boundary) -> bool:
    if end == 0 or reference[end - 1].isspace() or splits_grapheme(reference, end):
        return False
    return boundary == "token" or is_word_end(reference, end)
