"""Uncertainty over utterances: bootstrap intervals, paired bootstrap, paired approximate randomisation.

Everything that is compared is resampled with the same utterances; the draws are those of sacrebleu's tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.quality import QualityMetric

LEAST_UTTERANCES = 2  # a single one is drawn again and again: it says nothing about chance
_DRAWN_BITS = 32  # at once: blocks of as many trials draw the same random bits as one whole draw
_LARGEST_BLOCK = 2**21  # draws held at once, as far as 32 resamples of a long log allow
LEAST_DIFFERING = 6  # utterances: of five that all differ in one direction the exact two-sided p is 2 / 2⁵ > 0.05
_TIE = 1e-9  # sums that differ by no more are equal: they were added up in another order
_LEAST_SHARE = 0.9  # of the resamples must have a value before an interval is claimed


@dataclass(frozen=True)
class Bootstrap:
    """How often utterances are resampled, how often systems are swapped, and the seed of both."""

    samples: int = 1000
    trials: int = 10000
    seed: int = 12345

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--samples", self.samples, 1),
            ("--trials", self.trials, 1),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise UsageError(f"{name} is {value}; allowed: {least} or more.")


@final
@dataclass(frozen=True)
class Interval:
    """A percentile interval of 95 %, and the resamples that had a value."""

    low: float
    high: float
    resamples: int

    def as_json(self) -> list[float]:
        """Return [low, high]."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Statistics:
    """What the scores of a corpus are made of, per utterance.

    Attributes:
        quality: BLEU, chrF → the metric, and n-gram counts, shape (n, counts).
        values: metrics that are means → shape (n,), NaN where an utterance has none.
        ratios: metrics that are ratios of sums → numerators and denominators, shape (n,) each, NaN likewise.
    """

    quality: Mapping[str, tuple[QualityMetric, NDArray[np.int32]]]
    values: Mapping[str, FloatArray]
    ratios: Mapping[str, tuple[FloatArray, FloatArray]]

    def resampled(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Every metric on every resample.

        Args:
            weights: how often each utterance was drawn, shape (samples, n).

        Returns:
            Metric → shape (samples,), NaN where a resample has no value.
        """
        found = {name: metric.scores(weights @ counts) for name, (metric, counts) in self.quality.items()}
        found |= {name: weighted_mean(weights, values) for name, values in self.values.items()}
        return found | {
            name: _divided(weights @ np.nan_to_num(numerator), weights @ np.nan_to_num(denominator))
            for name, (numerator, denominator) in self.ratios.items()
        }


@dataclass(frozen=True)
class Randomisation:
    """The result of a paired randomisation test.

    Attributes:
        p_value: two-sided.
        exact: all ways to swap were enumerated, else some were drawn.
        sacrebleu_p_value: as sacrebleu counts, which takes draws as large as the observed difference for smaller; None
            where nothing differs.
        utterances: how many there are.
        differing: those that the systems translate differently, as the metric sees it; only these carry information.
    """

    p_value: float
    exact: bool
    sacrebleu_p_value: float | None
    utterances: int
    differing: int


def differing_utterances(first: Statistics, second: Statistics, name: str) -> NDArray[np.bool_]:
    """The utterances on which two systems differ in a metric that both have, shape (n,)."""
    if name in first.quality:
        return np.asarray((first.quality[name][1] != second.quality[name][1]).any(axis=1))
    one, two = ((side.values[name],) if name in side.values else side.ratios[name] for side in (first, second))
    return np.asarray(
        np.stack([~np.isclose(a, b, rtol=_TIE, atol=0.0, equal_nan=True) for a, b in zip(one, two, strict=True)]).any(
            axis=0
        )
    )


def bootstrap_weights(count: int, samples: int, seed: int) -> Iterator[FloatArray]:
    """How often each utterance is drawn, in blocks of resamples.

    Args:
        count: utterances.
        samples: resamples.
        seed: of numpy's default generator; the draws are those of sacrebleu's paired bootstrap.

    Yields:
        Weights, shape (block, count); each row sums to count.

    >>> [block.sum(axis=1).tolist() for block in bootstrap_weights(3, 2, seed=1)]
    [[3.0, 3.0]]
    """
    generator = np.random.default_rng(seed)
    for size in _blocks(samples, count):
        drawn = generator.choice(count, size=(size, count), replace=True)
        yield np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def bootstrap_metrics(statistics: Statistics, count: int, bootstrap: Bootstrap) -> dict[str, FloatArray]:
    """Every metric on every resample of a corpus of `count` utterances: metric → shape (samples,)."""
    blocks = [statistics.resampled(weights) for weights in bootstrap_weights(count, bootstrap.samples, bootstrap.seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def intervals(statistics: Statistics, bootstrap: Bootstrap) -> dict[str, Interval | None]:
    """The 95 % interval of every metric; None where too few resamples have a value."""
    count = next((len(values) for values in statistics.values.values()), 0)
    if count < LEAST_UTTERANCES:
        return {}
    return {name: interval(values) for name, values in bootstrap_metrics(statistics, count, bootstrap).items()}


def weighted_mean(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Mean of the values that are there (not NaN), per resample.

    Args:
        weights: shape (samples, n).
        values: shape (n,), NaN where an utterance has none.

    Returns:
        Shape (samples,); NaN where no utterance with a value was drawn.

    >>> weighted_mean(np.array([[1.0, 1.0, 2.0]]), np.array([1.0, np.nan, 4.0])).tolist()
    [3.0]
    """
    there = ~np.isnan(values)
    return _divided(weights @ np.where(there, values, 0.0), weights @ there)


def interval(values: FloatArray, least_share: float = _LEAST_SHARE) -> Interval | None:
    """The 2.5th and 97.5th percentile of bootstrap values; None where fewer than 90 % of the resamples have one.

    Args:
        values: shape (resamples,), NaN where a resample has none.
        least_share: of the resamples that must have a value.

    >>> interval(np.arange(1001.0))
    Interval(low=25.0, high=975.0, resamples=1001)
    """
    there = values[~np.isnan(values)]
    if not len(there) or len(there) < least_share * len(values):
        return None
    low, high = np.percentile(there, [2.5, 97.5])
    return Interval(float(low), float(high), len(there))


def paired_p_value(observed_difference: float, differences: FloatArray) -> float:
    """Share of resamples whose difference, centred, is further from 0 than the observed one, ties half; both plus one.

    Source: Riezler and Maxwell 2005, two-sided.

    Args:
        observed_difference: on the whole corpus.
        differences: on the resamples, shape (samples,).

    >>> paired_p_value(5.0, np.array([4.0, 5.0, 6.0]))
    0.25
    """
    return _p_value(np.abs(differences - differences.mean()), abs(observed_difference))


def sacrebleu_p_value(observed_difference: float, differences: FloatArray) -> float:
    """The p-value of sacrebleu's paired bootstrap: as `paired_p_value`, but *sizes* of differences are centred.

    Where two systems hardly differ it claims more than the two-sided share does; it is given because others give it.

    Source: sacrebleu 2.6.0, after Moses' script.
    """
    sizes = np.abs(differences)
    return _strict_p_value(sizes - sizes.mean(), abs(observed_difference))


def randomisation_test(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], bootstrap: Bootstrap
) -> Randomisation:
    """Paired randomisation of BLEU or chrF: how often swapping the systems' sentences gives as large a difference.

    Swapping equal sentences changes nothing. Where there are no more ways to swap those that differ than trials, all of
    them are enumerated: p is exactly the share that is as large as observed, the observed way included. Else ways are
    drawn; one as large as observed counts half.

    Args:
        metric: BLEU or chrF.
        baseline: counts of its sentences, shape (n, counts).
        other: counts of its sentences, shape (n, counts).
        bootstrap: trials and seed.

    Source: Riezler and Maxwell 2005; Noreen 1989 (exact randomisation).
    """
    rows = np.flatnonzero((baseline != other).any(axis=1))
    if not len(rows):
        return Randomisation(1.0, True, None, len(baseline), 0)
    observed = abs(metric.score(baseline.sum(axis=0, dtype=np.int64)) - metric.score(other.sum(axis=0, dtype=np.int64)))
    sizes = _drawn_sizes(metric, baseline, other, bootstrap)
    exact = 2 ** (len(rows) - 1) <= bootstrap.trials
    p_value = (
        _exact_p_value(_enumerated_sizes(metric, baseline, other, rows), observed)
        if exact
        else _p_value(sizes, observed)
    )
    return Randomisation(p_value, exact, _strict_p_value(sizes, observed), len(baseline), len(rows))


def randomisation_p_value(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], bootstrap: Bootstrap
) -> float:
    """Paired approximate randomisation as sacrebleu 2.6.0 computes it, with the same draws.

    Draws as large as the observed difference count as smaller: where a single sentence differs all are, and p is the
    smallest there is. `randomisation_test` gives the right one.
    """
    observed = abs(metric.score(baseline.sum(axis=0, dtype=np.int64)) - metric.score(other.sum(axis=0, dtype=np.int64)))
    return _strict_p_value(_drawn_sizes(metric, baseline, other, bootstrap), observed)


def _drawn_sizes(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], bootstrap: Bootstrap
) -> FloatArray:
    """Sizes of the differences of random swaps, shape (trials,)."""
    generator = np.random.default_rng(bootstrap.seed)
    return np.concatenate(
        [
            _swapped_sizes(metric, baseline, other, generator.integers(2, size=(size, len(baseline)), dtype=bool))
            for size in _blocks(bootstrap.trials, len(baseline))
        ]
    )


def _enumerated_sizes(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], rows: NDArray[np.intp]
) -> FloatArray:
    """Sizes of the differences of all swaps of some rows; the first stays, as swapping all changes no size."""
    same = np.delete(baseline, rows, axis=0).sum(axis=0, keepdims=True)  # sentences in which the systems are equal
    swaps = np.zeros((2 ** (len(rows) - 1), len(rows) + 1), dtype=bool)
    swaps[:, 1:-1] = np.arange(len(swaps))[:, None] >> np.arange(len(rows) - 1) & 1
    return _swapped_sizes(metric, np.concatenate([baseline[rows], same]), np.concatenate([other[rows], same]), swaps)


def _swapped_sizes(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], swaps: NDArray[np.bool_]
) -> FloatArray:
    """Sizes of the differences once sentences are swapped; `swaps` and result of shape (ways, n) and (ways,)."""
    first, second = baseline.astype(np.float64), other.astype(np.float64)
    total = first.sum(axis=0) + second.sum(axis=0)
    one = second.sum(axis=0) + swaps.astype(np.float64) @ (first - second)
    sizes: FloatArray = np.abs(metric.scores(one) - metric.scores(total - one))
    return sizes


def _blocks(total: int, count: int) -> Iterator[int]:
    """Sizes of the blocks of draws over `count` utterances that make up `total`."""
    block = _DRAWN_BITS * max(1, _LARGEST_BLOCK // (_DRAWN_BITS * max(1, count)))
    return (min(block, total - start) for start in range(0, total, block))


def _divided(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    quotients: FloatArray = np.divide(
        numerators, denominators, out=np.full(len(numerators), np.nan), where=denominators > 0
    )
    return quotients


def _exact_p_value(sizes: FloatArray, observed: float) -> float:
    return float(np.mean(sizes >= observed * (1 - _TIE)))


def _p_value(sizes: FloatArray, observed: float) -> float:
    """Share of draws larger than observed, ties half; both plus one, for the observed itself."""
    tied = np.isclose(sizes, observed, rtol=_TIE, atol=0.0)
    return float((np.sum((sizes > observed) & ~tied) + 0.5 * np.sum(tied) + 1) / (len(sizes) + 1))


def _strict_p_value(sizes: FloatArray, observed: float) -> float:
    return float((np.sum(sizes > observed) + 1) / (len(sizes) + 1))
