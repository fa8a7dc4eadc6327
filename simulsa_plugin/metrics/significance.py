"""Uncertainty over utterances: bootstrap intervals, paired bootstrap, paired approximate randomisation.

Compared systems are resampled with the same utterances; the random draws are those of sacrebleu's tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.quality import QualityMetric

LEAST_UTTERANCES = 2  # a single one is in every resample
LEAST_RECORDINGS = 2  # likewise
_DRAWN_BITS = 32  # trials per block, a multiple of which draws the same random bits as a single draw
_LARGEST_BLOCK = 2**21  # draws in memory at once, at least 32 resamples
LEAST_DIFFERING = 6  # utterances: of five that all differ in one direction the exact two-sided p is 2 / 2⁵ > 0.05
_TIE = 1e-9  # relative; sums may be added up in another order
_LEAST_SHARE = 0.9  # of the resamples must have a value


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
    """A 95 % percentile interval, and the number of resamples that had a value."""

    low: float
    high: float
    resamples: int

    def as_json(self) -> list[float]:
        """Return [low, high]."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Statistics:
    """The statistics of each utterance from which corpus scores are computed.

    Attributes:
        quality: BLEU, chrF → the metric, and n-gram counts, shape (n, counts).
        values: metrics that are means → shape (n,), NaN where an utterance has none.
        ratios: metrics that are ratios of sums → numerators and denominators, shape (n,) each, NaN likewise.
        recordings: where the utterances are segments of recordings, the number of each one's recording, from 0 on,
            shape (n,); None where they are independent.
        recording_ratios: like `ratios`, with a numerator and a denominator per recording.
    """

    quality: Mapping[str, tuple[QualityMetric, NDArray[np.int32]]]
    values: Mapping[str, FloatArray]
    ratios: Mapping[str, tuple[FloatArray, FloatArray]]
    recordings: NDArray[np.int64] | None = None
    recording_ratios: Mapping[str, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    @property
    def num_recordings(self) -> int:
        """Number of recordings; 0 where the utterances are independent."""
        return 0 if self.recordings is None or not len(self.recordings) else int(self.recordings.max()) + 1

    def draws(self, count: int, bootstrap: Bootstrap) -> Iterator[tuple[FloatArray, FloatArray | None]]:
        """Yield blocks of resamples: how often each utterance was drawn, and each recording; None without recordings.

        Of segments of several recordings, recordings are drawn, then segments within them; of a single recording its
        segments.
        """
        if self.recordings is None or self.num_recordings < LEAST_RECORDINGS:
            for weights in bootstrap_weights(count, bootstrap.samples, bootstrap.seed):
                yield weights, None
        else:
            yield from grouped_weights(self.recordings, bootstrap.samples, bootstrap.seed)

    def resampled(self, weights: FloatArray, recording_weights: FloatArray | None = None) -> dict[str, FloatArray]:
        """Compute every metric on every resample.

        Args:
            weights: how often each utterance was drawn, shape (samples, n).
            recording_weights: how often each recording was drawn, shape (samples, recordings); None where none were.

        Returns:
            Metric → shape (samples,), NaN where a resample has no value. Ratios of recordings are absent where no
            recordings were drawn.
        """
        found = {name: metric.scores(weights @ counts) for name, (metric, counts) in self.quality.items()}
        found |= {name: weighted_mean(weights, values) for name, values in self.values.items()}
        found |= _resampled_ratios(self.ratios, weights)
        return found | (
            {} if recording_weights is None else _resampled_ratios(self.recording_ratios, recording_weights)
        )


@dataclass(frozen=True)
class Randomisation:
    """The result of a paired randomisation test.

    Attributes:
        p_value: two-sided.
        exact: whether all swaps were enumerated, instead of drawn.
        sacrebleu_p_value: as sacrebleu computes it: draws equal to the observed difference are not counted; None where
            nothing differs.
        utterances: how many there are.
        differing: those whose n-gram counts differ between the systems; only these carry information.
    """

    p_value: float
    exact: bool
    sacrebleu_p_value: float | None
    utterances: int
    differing: int


def differing_utterances(first: Statistics, second: Statistics, name: str) -> NDArray[np.bool_]:
    """Mark the utterances on which two systems differ in a metric that both have, shape (n,)."""
    if name in first.quality:
        return np.asarray((first.quality[name][1] != second.quality[name][1]).any(axis=1))
    one, two = (
        (side.values[name],) if name in side.values else {**side.ratios, **side.recording_ratios}[name]
        for side in (first, second)
    )
    equal = [np.isclose(a, b, rtol=_TIE, atol=0.0, equal_nan=True) for a, b in zip(one, two, strict=True)]
    return np.asarray(~np.all(equal, axis=0))


def bootstrap_weights(count: int, samples: int, seed: int) -> Iterator[FloatArray]:
    """Draw resamples: how often each utterance is in them, in blocks.

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


def grouped_weights(recordings: NDArray[np.int64], samples: int, seed: int) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Draw resamples of segments in two stages: recordings, then as many segments as each has, within it.

    Args:
        recordings: the number of each segment's recording, from 0 on, shape (n,).
        samples: resamples.
        seed: of numpy's default generator.

    Yields:
        Weights of the segments, shape (block, n), and of the recordings, shape (block, recordings).

    >>> ((segments, talks),) = grouped_weights(np.array([0, 0, 1]), 2, seed=1)
    >>> talks.sum(axis=1).tolist(), (segments[:, :2].sum(axis=1) == 2 * talks[:, 0]).all()
    ([2.0, 2.0], np.True_)
    """
    generator = np.random.default_rng(seed)
    sizes = np.bincount(recordings)
    for size in _blocks(samples, len(recordings)):
        drawn = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=size)
        weights = np.zeros((size, len(recordings)))
        for number, members in enumerate(sizes):
            if members:
                within = generator.multinomial(drawn[:, number] * members, np.full(members, 1 / members))
                weights[:, recordings == number] = within
        yield weights, drawn.astype(np.float64)


def bootstrap_metrics(statistics: Statistics, count: int, bootstrap: Bootstrap) -> dict[str, FloatArray]:
    """Compute every metric on every resample of a corpus of `count` utterances: metric → shape (samples,)."""
    blocks = [statistics.resampled(*drawn) for drawn in statistics.draws(count, bootstrap)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def intervals(statistics: Statistics, bootstrap: Bootstrap) -> dict[str, Interval | None]:
    """Compute the 95 % interval of every metric; None where too few resamples have a value."""
    count = next((len(values) for values in statistics.values.values()), 0)
    if count < LEAST_UTTERANCES:
        return {}
    return {name: interval(values) for name, values in bootstrap_metrics(statistics, count, bootstrap).items()}


def weighted_mean(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Average the values that are not NaN, per resample.

    Args:
        weights: shape (samples, n).
        values: shape (n,), NaN where an utterance has none.

    Returns:
        Shape (samples,); NaN where no utterance with a value was drawn.

    >>> weighted_mean(np.array([[1.0, 1.0, 2.0]]), np.array([1.0, np.nan, 4.0])).tolist()
    [3.0]
    """
    present = ~np.isnan(values)
    return _divide(weights @ np.where(present, values, 0.0), weights @ present)


def interval(values: FloatArray, least_share: float = _LEAST_SHARE) -> Interval | None:
    """Compute the 2.5th and 97.5th percentile of bootstrap values; None where fewer than 90 % of resamples have one.

    Args:
        values: shape (resamples,), NaN where a resample has none.
        least_share: of the resamples that must have a value.

    >>> interval(np.arange(1001.0))
    Interval(low=25.0, high=975.0, resamples=1001)
    """
    present = values[~np.isnan(values)]
    if not len(present) or len(present) < least_share * len(values):
        return None
    low, high = np.percentile(present, [2.5, 97.5])
    return Interval(float(low), float(high), len(present))


def paired_p_value(observed_difference: float, differences: FloatArray) -> float:
    """Compute the two-sided p-value of a paired bootstrap.

    The share of resamples whose centred difference is larger than the observed one, ties counted half, both counts
    plus one.

    Source: Riezler and Maxwell 2005, two-sided.

    Args:
        observed_difference: on the whole corpus.
        differences: on the resamples, shape (samples,).

    >>> paired_p_value(5.0, np.array([4.0, 5.0, 6.0]))
    0.25
    """
    return _p_value(np.abs(differences - differences.mean()), abs(observed_difference))


def sacrebleu_p_value(observed_difference: float, differences: FloatArray) -> float:
    """Compute the p-value of sacrebleu's paired bootstrap: as `paired_p_value`, but absolute differences are centred.

    Where two systems hardly differ it is too small; it is reported for comparison with published values.

    Source: sacrebleu 2.6.0, after Moses' script.
    """
    sizes = np.abs(differences)
    return _strict_p_value(sizes - sizes.mean(), abs(observed_difference))


def randomisation_test(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], bootstrap: Bootstrap
) -> Randomisation:
    """Test a difference of BLEU or chrF by paired randomisation: swap the two systems' sentences.

    Swapping equal sentences changes nothing. Where the swaps of those that differ are no more than the trials, all are
    enumerated: p is exactly the share at least as large as observed, the observed one included. Else swaps are drawn;
    one equal to the observed difference counts half.

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
    """Compute the p-value of paired approximate randomisation as sacrebleu 2.6.0 does, with the same draws.

    Draws equal to the observed difference are not counted: where a single sentence differs all are equal, and p is the
    smallest possible. `randomisation_test` is correct.
    """
    observed = abs(metric.score(baseline.sum(axis=0, dtype=np.int64)) - metric.score(other.sum(axis=0, dtype=np.int64)))
    return _strict_p_value(_drawn_sizes(metric, baseline, other, bootstrap), observed)


def _drawn_sizes(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], bootstrap: Bootstrap
) -> FloatArray:
    """Compute absolute differences of random swaps, shape (trials,)."""
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
    """Compute absolute differences of all swaps of some rows; the first stays, as swapping all changes nothing."""
    same = np.delete(baseline, rows, axis=0).sum(axis=0, keepdims=True)  # sentences in which the systems are equal
    swaps = np.zeros((2 ** (len(rows) - 1), len(rows) + 1), dtype=bool)
    swaps[:, 1:-1] = np.arange(len(swaps))[:, None] >> np.arange(len(rows) - 1) & 1
    return _swapped_sizes(metric, np.concatenate([baseline[rows], same]), np.concatenate([other[rows], same]), swaps)


def _swapped_sizes(
    metric: QualityMetric, baseline: NDArray[np.int32], other: NDArray[np.int32], swaps: NDArray[np.bool_]
) -> FloatArray:
    """Compute absolute differences after swaps of shape (swaps, n); shape (swaps,)."""
    first, second = baseline.astype(np.float64), other.astype(np.float64)
    total = first.sum(axis=0) + second.sum(axis=0)
    one = second.sum(axis=0) + swaps.astype(np.float64) @ (first - second)
    sizes: FloatArray = np.abs(metric.scores(one) - metric.scores(total - one))
    return sizes


def _blocks(total: int, count: int) -> Iterator[int]:
    """Divide `total` draws over `count` utterances into blocks; return their sizes."""
    block = _DRAWN_BITS * max(1, _LARGEST_BLOCK // (_DRAWN_BITS * max(1, count)))
    return (min(block, total - start) for start in range(0, total, block))


def _resampled_ratios(
    ratios: Mapping[str, tuple[FloatArray, FloatArray]], weights: FloatArray
) -> dict[str, FloatArray]:
    return {
        name: _divide(weights @ np.nan_to_num(numerator), weights @ np.nan_to_num(denominator))
        for name, (numerator, denominator) in ratios.items()
    }


def _divide(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    quotients: FloatArray = np.divide(
        numerators, denominators, out=np.full(len(numerators), np.nan), where=denominators > 0
    )
    return quotients


def _exact_p_value(sizes: FloatArray, observed: float) -> float:
    return float(np.mean(sizes >= observed * (1 - _TIE)))


def _p_value(sizes: FloatArray, observed: float) -> float:
    """Compute the share of draws larger than observed, ties counted half, both counts plus one for the observed one."""
    tied = np.isclose(sizes, observed, rtol=_TIE, atol=0.0)
    return float((np.sum((sizes > observed) & ~tied) + 0.5 * np.sum(tied) + 1) / (len(sizes) + 1))


def _strict_p_value(sizes: FloatArray, observed: float) -> float:
    return float((np.sum(sizes > observed) + 1) / (len(sizes) + 1))
