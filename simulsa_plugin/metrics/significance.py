"""Paired bootstrap over utterances: all cells of all systems are resampled together, with the same utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.metrics.quality import make_bleu

Array = NDArray[np.float64]
ORDER = 4  # BLEU's longest n-gram
_BLOCK = 100  # resamples whose weights are held at once
_LEAST_SHARE = 0.9  # of the resamples must have a value before an interval is claimed


@dataclass(frozen=True)
class Interval:
    """A percentile interval of 95 %, and the resamples that had a value."""

    low: float
    high: float
    resamples: int


def resample(count: int, samples: int, seed: int) -> Iterator[Array]:
    """How often each utterance is drawn, in blocks of resamples.

    Args:
        count: utterances.
        samples: resamples.
        seed: of numpy's default generator; the draws are those of sacrebleu's paired bootstrap.

    Yields:
        Weights, shape (block, count); each row sums to count.

    >>> [block.sum(axis=1).tolist() for block in resample(3, 2, seed=1)]
    [[3.0, 3.0]]
    """
    generator = np.random.default_rng(seed)
    for start in range(0, samples, _BLOCK):
        drawn = generator.choice(count, size=(min(_BLOCK, samples - start), count), replace=True)
        yield np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> Array:
    """What corpus BLEU is made of, per utterance.

    Returns:
        Shape (n, 2 + 2·4): hypothesis length, reference length, matching n-grams, n-grams, for n = 1…4.

    >>> bleu_statistics(["a b"], ["a c"], "13a").tolist()
    [[2.0, 2.0, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0]]
    """
    metric = make_bleu(tokenizer, effective_order=True)
    scores = [metric.sentence_score(hypothesis, [reference])
              for hypothesis, reference in zip(hypotheses, references, strict=True)]
    return np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores],
                    dtype=np.float64).reshape(len(scores), 2 + 2 * ORDER)


def corpus_bleu(statistics: Array) -> Array:
    """BLEU of summed statistics, by sacrebleu's own formula (exponential smoothing).

    Args:
        statistics: shape (samples, 2 + 2·4), as `bleu_statistics` orders them.

    Returns:
        BLEU, 0…100, shape (samples,).
    """
    from sacrebleu.metrics.bleu import BLEU

    return np.array([
        BLEU.compute_bleu(correct=row[2:2 + ORDER], total=row[2 + ORDER:], sys_len=row[0], ref_len=row[1],
                          smooth_method="exp", max_ngram_order=ORDER).score
        for row in statistics.round().astype(int).tolist()])


def weighted_mean(weights: Array, values: Array) -> Array:
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
    drawn = weights @ there
    total = weights @ np.where(there, values, 0.0)
    means: Array = np.divide(total, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
    return means


def interval(values: Array) -> Interval | None:
    """The 2.5th and 97.5th percentile of bootstrap values; None where fewer than 90 % of the resamples have one.

    >>> interval(np.arange(1001.0))
    Interval(low=25.0, high=975.0, resamples=1001)
    """
    there = values[~np.isnan(values)]
    if not len(there) or len(there) < _LEAST_SHARE * len(values):
        return None
    low, high = np.percentile(there, [2.5, 97.5])
    return Interval(float(low), float(high), len(there))


def paired_p_value(observed_difference: float, differences: Array) -> float:
    """Share of resamples whose difference, centred, is further from 0 than the observed one; both counts plus one.

    Source: Riezler and Maxwell 2005, as sacrebleu 2.6.0 computes it.

    Args:
        observed_difference: on the whole corpus.
        differences: on the resamples, shape (samples,).

    >>> paired_p_value(5.0, np.array([4.0, 5.0, 6.0]))
    0.25
    """
    extreme = np.abs(differences - differences.mean()) > abs(observed_difference)
    return float((extreme.sum() + 1) / (len(differences) + 1))
