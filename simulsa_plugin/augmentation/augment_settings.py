"""The `simulsa_*` keys of augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import Settings, check_choice, check_range

TRUNCATIONS = ("beta_decay", "beta_full", "beta_discrete", "uniform")
ACCEPTANCES = ("threshold", "greedy", "ratio", "lookback")
BOUNDARIES = ("token", "word")
EXTRA_SCORES = ("full", "lookback")
SHORTEST_SECONDS = 0.15  # of shorter clips models make nothing, and some crash; evaluation leaves them out, too
MOST_CUTS = 1000  # per utterance; more is a typing error
LONGEST_SILENCE_MS = 30_000
# Which keys say what is cut, and which decide over the scores of that.
CUTTING_KEYS = frozenset(
    f"simulsa_{name}"
    for name in ("cuts", "truncation", "alpha", "beta", "min_seconds", "max_seconds", "silence_ms", "seed")
)
DECIDING_KEYS = frozenset(
    f"simulsa_{name}"
    for name in ("acceptance", "threshold", "ratio_threshold", "ratio_floor", "boundary", "keep_empty", "portable")
)


@dataclass(frozen=True)
class AugmentSettings(Settings):
    """What to cut, how to score it and what to accept; seconds, milliseconds and shares as named.

    Raises:
        UsageError: a value is out of its range.
    """

    ratio: float = 0.01
    samples: int | None = None
    cuts: int = 1
    truncation: str = "beta_decay"
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
    extra_scores: tuple[str, ...] = ()
    boundary: str = "token"
    keep_empty: bool = True
    seed: int = 42
    portable: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_range("simulsa_cuts", self.cuts, minimum=1, maximum=MOST_CUTS)
        check_range("simulsa_ratio", self.ratio, above=0, maximum=self.cuts)
        check_range("simulsa_samples", self.samples, minimum=1)
        check_choice("simulsa_truncation", self.truncation, TRUNCATIONS)
        check_range("simulsa_alpha", self.alpha, above=0)
        check_range("simulsa_beta", self.beta, above=0)
        check_range("simulsa_min_seconds", self.min_seconds, minimum=SHORTEST_SECONDS)
        check_range("simulsa_max_seconds", self.max_seconds, above=0)
        if self.max_seconds < self.min_seconds:
            raise UsageError(
                f"simulsa_max_seconds is {self.max_seconds}, below simulsa_min_seconds {self.min_seconds}."
            )
        check_range("simulsa_silence_ms", self.silence_ms, minimum=0, maximum=LONGEST_SILENCE_MS)
        check_choice("simulsa_acceptance", self.acceptance, ACCEPTANCES)
        check_range("simulsa_threshold", self.threshold, above=0, maximum=1)
        check_range("simulsa_ratio_threshold", self.ratio_threshold, above=0)
        check_range("simulsa_ratio_floor", self.ratio_floor, above=0, maximum=1)
        check_range("simulsa_lookback_ms", self.lookback_ms, minimum=0)
        for extra in self.extra_scores:
            check_choice("simulsa_extra_scores", extra, EXTRA_SCORES)
        check_choice("simulsa_boundary", self.boundary, BOUNDARIES)
        check_range("simulsa_batch_size", self.batch_size, minimum=1)

    @property
    def scores_full(self) -> bool:
        """Whether the whole utterance is scored, too."""
        return self.acceptance == "ratio" or "full" in self.extra_scores

    @property
    def scores_lookback(self) -> bool:
        """Whether the clip without its last `lookback_ms` is scored, too."""
        return self.acceptance == "lookback" or "lookback" in self.extra_scores
