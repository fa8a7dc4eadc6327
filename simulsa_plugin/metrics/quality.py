"""BLEU and chrF through sacrebleu, from sentence statistics, which add up and can be resampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.errors import MissingExtraError, UsageError
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.records import LatencyUnit, check_unit

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric
    from sacrebleu.metrics.bleu import BLEU

Counts = NDArray[np.int64]
QUALITY_METRICS = ("BLEU", "chrF")


class QualityMetric:
    """One of sacrebleu's metrics. Scores are 0…100.

    Attributes:
        name: BLEU or chrF.

    sacrebleu's own significance tests work on the same statistics, by the same four methods of its metrics.
    """

    def __init__(self, name: str, corpus: Metric, sentence: Metric) -> None:
        self.name = name
        self._corpus = corpus
        self._sentence = sentence  # BLEU of a sentence stops at the longest n-gram that it has ("effective order")

    def statistics(self, hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        """Count n-grams of each sentence, shape (n, counts); those of BLEU are lengths, matches and totals.

        >>> make_metrics("13a")[0].statistics(["a b"], ["a c"]).tolist()
        [[2, 2, 1, 0, 0, 0, 2, 1, 0, 0]]
        """
        rows = self._corpus._extract_corpus_statistics(hypotheses, [references]) if hypotheses else []
        return np.array(rows, dtype=np.int64).reshape(len(hypotheses), -1)

    def score(self, counts: Counts) -> float:
        """Score a corpus by the sum of its sentences' counts, shape (counts,).

        >>> bleu = make_metrics("13a")[0]
        >>> round(bleu.score(bleu.statistics(["the cat sat on the mat"], ["the cat sat on a mat"]).sum(axis=0)), 2)
        53.73
        """
        return float(self._corpus._compute_score_from_stats(counts.tolist()).score)

    def scores(self, counts: Counts | FloatArray) -> FloatArray:
        """Score each row of summed counts, shape (n, counts) to (n,); counts are integers, whatever their type."""
        rows = np.rint(counts).astype(np.int64).tolist()
        return np.array([self._corpus._compute_score_from_stats(row).score for row in rows], dtype=np.float64)

    def sentence_scores(self, counts: Counts) -> list[float]:
        """Score each sentence, shape (n, counts) to n."""
        self._sentence.num_refs = 1  # the signature needs it
        return [float(self._sentence._compute_score_from_stats(row).score) for row in counts.tolist()]

    @property
    def signature(self) -> str:
        """The signature of the corpus score, of one reference per sentence."""
        self._corpus.num_refs = 1  # unset where other processes took the statistics
        return str(self._corpus.get_signature())

    @property
    def sentence_signature(self) -> str:
        """The signature of sentence scores; only after a sentence was scored."""
        return str(self._sentence.get_signature())


def default_tokenizer(unit: LatencyUnit) -> str:
    """Return the default BLEU tokenizer of a latency unit.

    >>> default_tokenizer("word"), default_tokenizer("char")
    ('13a', 'zh')
    """
    check_unit(unit)
    return "13a" if unit == "word" else "zh"


def make_metrics(tokenizer: str) -> tuple[QualityMetric, ...]:
    """Make BLEU with one of sacrebleu's tokenizers, and chrF (chrF2: character 6-grams, no word n-grams).

    Each scores a sentence here, so that a missing package is noticed before hours of decoding.

    Raises:
        UsageError: sacrebleu has no such tokenizer.
        MissingExtraError: the tokenizer needs a package or a file that is not there.
    """
    from sacrebleu.metrics.chrf import CHRF

    return (QualityMetric("BLEU", *_make_bleu(tokenizer)), QualityMetric("chrF", CHRF(), CHRF()))


def _make_bleu(tokenizer: str) -> tuple[BLEU, BLEU]:
    from sacrebleu.metrics.bleu import BLEU

    if tokenizer not in BLEU.TOKENIZERS:
        raise UsageError(f"The BLEU tokenizer is {tokenizer!r}; allowed: {', '.join(sorted(BLEU.TOKENIZERS))}.")
    try:
        corpus, sentence = (
            BLEU(tokenize=tokenizer, effective_order=by_sentence, force=True) for by_sentence in (False, True)
        )
        for bleu in (corpus, sentence):
            bleu.corpus_score(["a"], [["a"]])
    except (RuntimeError, ImportError, OSError, AssertionError, AttributeError, TypeError) as error:
        # sacrebleu's own text names the extra or the dictionary (mecab) or the file (sentencepiece) that is missing.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingExtraError(f"The BLEU tokenizer {tokenizer} cannot start: {reason}") from error
    return corpus, sentence
