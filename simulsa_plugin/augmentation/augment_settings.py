"""The `simulsa_*` keys of augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from simulsa_plugin.augmentation.method.acceptance import RULES, Boundary, ExtraScore
from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import Settings, check_choice, check_range

Truncation = Literal["beta_decay", "beta_full", "beta_discrete", "uniform"]
EXTRA_SCORES: tuple[ExtraScore, ...] = get_args(ExtraScore)
MIN_CLIP_SECONDS = 0.15  # models give nothing for shorter clips, and some crash; evaluation skips them as well
MOST_CUTS = 1000  # per utterance; more is a typing error
LONGEST_SILENCE_MS = 30_000
# Which keys say what is cut, and which decide over the scores of that.
CUTTING_KEYS = frozenset(
    f"simulsa_{name}"
    for name in ("cuts", "truncation", "alpha", "beta", "min_seconds", "max_seconds", "silence_ms", "seed")
)
_RULE_OPTIONS = [option for rule in RULES.values() for option in rule.options]
BATCH_KEYS = frozenset({"simulsa_batch_size", "simulsa_batch_tokens"})
DECIDING_KEYS = frozenset(
    f"simulsa_{name}" for name in ("acceptance", "boundary", "keep_empty", "portable", *_RULE_OPTIONS)
)


@dataclass(frozen=True)
class AugmentSettings(Settings):
    """What to cut, how to score it and what to accept; seconds, milliseconds and shares as named.

    Attributes:
        ratio: augmented rows as a share of the offline rows, up to `simulsa_cuts`; exact, and smaller shares are
            contained in larger ones.
        samples: number of augmented rows, in place of the share.
        cuts: cuts per utterance, at most 1000.
        truncation: distribution of the cut; `beta_decay` is the paper's.
        alpha: first parameter of the Beta distribution.
        beta: second parameter of the Beta distribution.
        min_seconds: shortest cut, at least 0.15.
        max_seconds: longest cut, never past the audio.
        silence_ms: maximum silence at each end of a clip, milliseconds, at the recording's own noise level.
        acceptance: rule that accepts tokens: `threshold` (the paper's), `greedy`, `ratio`, `lookback`.
        threshold: τ of `threshold` and `lookback`; not set: 100 / V, V the width of the output layer.
        ratio_threshold: of `ratio`, for p(cut) / max(p(full), floor).
        ratio_floor: floor of `ratio`; not set: 100 / V.
        lookback_ms: of `lookback`, how much earlier the scored audio ends, milliseconds.
        extra_scores: also compute the scores that `ratio` (`full`) and `lookback` need, so that they can decide later.
        boundary: where a partial translation may end; never inside a character.
        keep_empty: keep samples whose partial translation is empty.
        seed: of the choice of rows and of the cuts.
        portable: write audio paths relative to the output folder.
        batch_size: clips scored at once, at most.
        batch_tokens: tokens scored at once, at most, padding included: long clips take smaller batches; null for no
            limit.

    Raises:
        UsageError: a value is out of its range.
    """

    ratio: float = 0.01
    samples: int | None = None
    cuts: int = 1
    truncation: Truncation = "beta_decay"
    alpha: float = 1.0
    beta: float = 3.0
    min_seconds: float = 0.5
    max_seconds: float = 5.0
    silence_ms: float = 0.0
    acceptance: str = "threshold"
    threshold: float | None = None
    ratio_threshold: float = 0.5
    ratio_floor: float | None = None
    lookback_ms: float = 200.0
    extra_scores: tuple[ExtraScore, ...] = ()
    boundary: Boundary = "token"
    keep_empty: bool = True
    seed: int = 42
    portable: bool = False
    batch_size: int = 64
    batch_tokens: int | None = 4096

    def __post_init__(self) -> None:
        check_range("simulsa_cuts", self.cuts, minimum=1, maximum=MOST_CUTS)
        check_range("simulsa_ratio", self.ratio, above=0, maximum=self.cuts)
        check_range("simulsa_samples", self.samples, minimum=1)
        check_choice("simulsa_truncation", self.truncation, get_args(Truncation))
        check_range("simulsa_alpha", self.alpha, above=0)
        check_range("simulsa_beta", self.beta, above=0)
        check_range("simulsa_min_seconds", self.min_seconds, minimum=MIN_CLIP_SECONDS)
        check_range("simulsa_max_seconds", self.max_seconds, above=0)
        if self.max_seconds < self.min_seconds:
            raise UsageError(
                f"simulsa_max_seconds is {self.max_seconds}, below simulsa_min_seconds {self.min_seconds}."
            )
        check_range("simulsa_silence_ms", self.silence_ms, minimum=0, maximum=LONGEST_SILENCE_MS)
        check_choice("simulsa_acceptance", self.acceptance, RULES)
        check_range("simulsa_threshold", self.threshold, above=0, maximum=1)
        check_range("simulsa_ratio_threshold", self.ratio_threshold, above=0)
        check_range("simulsa_ratio_floor", self.ratio_floor, above=0, maximum=1)
        check_range("simulsa_lookback_ms", self.lookback_ms, minimum=0)
        for extra in self.extra_scores:
            check_choice("simulsa_extra_scores", extra, EXTRA_SCORES)
        check_choice("simulsa_boundary", self.boundary, get_args(Boundary))
        check_range("simulsa_batch_size", self.batch_size, minimum=1)
        check_range("simulsa_batch_tokens", self.batch_tokens, minimum=1)

    @property
    def scored_extras(self) -> tuple[ExtraScore, ...]:
        """Return what is scored besides the cut: for the rule, and for other rules that may be chosen later."""
        needed = RULES[self.acceptance].extra_score
        return tuple(extra for extra in EXTRA_SCORES if extra == needed or extra in self.extra_scores)
