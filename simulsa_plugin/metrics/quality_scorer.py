"""BLEU and chrF of a stream of sentences, whose texts are kept only until their n-grams are counted."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.metrics.ngrams import Counts
from simulsa_plugin.metrics.quality import QUALITY_METRICS, QualityMetric, make_metrics

SENTENCES_PER_BATCH = 512  # sentences counted at a time
PENDING_BATCHES = 16  # batches that other processes may be behind


class QualityScorer:
    """Adds up the n-gram counts of sentences.

    A sentence whose reference is null is skipped. Where all references are empty there is no score: a zero would claim
    a bad translation.

    Args:
        tokenizer: sacrebleu's for BLEU.
        keep: whether to keep the counts of every sentence.
        sentences: whether to score every sentence.
        executor: counts n-grams in other processes while this one reads.

    Raises:
        UsageError, MissingExtraError: as `make_metrics`.
    """

    def __init__(self, tokenizer: str, *, keep: bool, sentences: bool, executor: Executor | None = None) -> None:
        self._tokenizer = tokenizer
        self._metrics = {metric.name: metric for metric in make_metrics(tokenizer)}
        self._keep = keep
        self._with_sentences = sentences
        self._executor = executor
        self._batch: list[tuple[str, str | None]] = []
        self._counting: deque[tuple[Future[list[Counts]], NDArray[np.bool_]]] = deque()
        self._sums: dict[str, Any] = dict.fromkeys(QUALITY_METRICS, 0)
        self._kept: dict[str, list[NDArray[np.int32]]] = {name: [] for name in QUALITY_METRICS}
        self._sentences: dict[str, list[float | None]] = {name: [] for name in QUALITY_METRICS}
        self._total = self._measured = 0
        self._has_reference = False

    def add(self, hypothesis: str, reference: str | None) -> None:
        """Add a sentence."""
        self._batch.append((hypothesis, reference))
        self._total += 1
        self._measured += reference is not None
        self._has_reference = self._has_reference or bool(reference and reference.strip())
        if len(self._batch) >= SENTENCES_PER_BATCH:
            self._count()

    def scores(self) -> dict[str, float | None]:
        """Score all sentences: BLEU and chrF, None where there is no reference."""
        self._finish()
        return {
            name: metric.score(self._sums[name]) if self._has_reference else None
            for name, metric in self._metrics.items()
        }

    def signatures(self) -> dict[str, str]:
        """Return the signatures of sacrebleu, where there are scores."""
        self._finish()
        if not self._has_reference:
            return {}
        found = {name: metric.signature for name, metric in self._metrics.items()}
        if self._with_sentences:
            found |= {f"{name}_sentence": metric.sentence_signature for name, metric in self._metrics.items()}
        return found

    def skipped(self) -> dict[str, int]:
        """Count the sentences without a score."""
        return dict.fromkeys(QUALITY_METRICS, self._total - self._measured if self._has_reference else self._total)

    def listed(self) -> dict[str, list[float | None]]:
        """Return the score of every sentence, or None."""
        self._finish()
        return self._sentences if self._has_reference else {name: [None] * self._total for name in QUALITY_METRICS}

    def kept(self) -> dict[str, tuple[QualityMetric, NDArray[np.int32]]]:
        """Return the counts of every sentence, shape (sentences, counts)."""
        self._finish()
        return (
            {name: (metric, np.concatenate(self._kept[name])) for name, metric in self._metrics.items()}
            if self._has_reference
            else {}
        )

    def _count(self) -> None:
        hypotheses = [hypothesis for hypothesis, _ in self._batch]
        references = [reference or "" for _, reference in self._batch]
        measured = np.array([reference is not None for _, reference in self._batch])
        self._batch.clear()
        if self._executor is None:
            self._add([metric.statistics(hypotheses, references) for metric in self._metrics.values()], measured)
            return
        counting = self._executor.submit(count_sentences, self._tokenizer, hypotheses, references)
        self._counting.append((counting, measured))
        if len(self._counting) > PENDING_BATCHES:
            self._collect()

    def _finish(self) -> None:
        if self._batch:
            self._count()
        while self._counting:
            self._collect()

    def _collect(self) -> None:
        counting, measured = self._counting.popleft()
        self._add(counting.result(), measured)

    def _add(self, counted: Sequence[Counts], measured: NDArray[np.bool_]) -> None:
        for (name, metric), counts in zip(self._metrics.items(), counted, strict=True):
            counts = counts * measured[:, None]  # a null reference adds nothing
            self._sums[name] = self._sums[name] + counts.sum(axis=0)
            if self._keep:
                self._kept[name].append(counts.astype(np.int32))
            if self._with_sentences:
                self._sentences[name] += _mask_scores(metric.sentence_scores(counts), measured)


def count_sentences(tokenizer: str, hypotheses: Sequence[str], references: Sequence[str]) -> list[Counts]:
    """Count n-grams for BLEU and for chrF, shape (n, counts) each; runs in other processes."""
    return [metric.statistics(hypotheses, references) for metric in _cached_metrics(tokenizer)]


@functools.cache
def _cached_metrics(tokenizer: str) -> tuple[QualityMetric, ...]:
    return make_metrics(tokenizer)


def _mask_scores(scores: Sequence[float], measured: NDArray[np.bool_]) -> Iterator[float | None]:
    return (score if there else None for score, there in zip(scores, measured, strict=True))
