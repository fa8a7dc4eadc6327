"""BLEU and chrF through sacrebleu, from sentence statistics, which add up and can be resampled."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from simulsa_plugin.errors import MissingExtraError, UsageError
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.ngrams import Counts, character_ids, count_matches, count_ngrams, word_ids
from simulsa_plugin.metrics.records import LatencyUnit, check_unit

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

QUALITY_METRICS = ("BLEU", "chrF")
SENTENCES_AT_ONCE = 128  # of which n-grams are counted by sorting


class QualityMetric(ABC):
    """One of sacrebleu's metrics. Scores are 0…100.

    sacrebleu's own significance tests work on the same statistics, by the same methods of its metrics. They are counted
    here for many sentences at once, which is several times as fast; the scores of counts are sacrebleu's.
    """

    name: ClassVar[str]

    def __init__(self, corpus: Any, sentence: Any) -> None:
        self._corpus = corpus
        self._sentence = sentence  # BLEU of a sentence stops at the longest n-gram that it has ("effective order")

    def statistics(self, hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        """Count n-grams of each sentence, shape (n, counts); those of BLEU are lengths, matches and totals.

        >>> make_metrics("13a")[0].statistics(["a b"], ["a c"]).tolist()
        [[2, 2, 1, 0, 0, 0, 2, 1, 0, 0]]
        """
        blocks = [
            self._count(hypotheses[start : start + SENTENCES_AT_ONCE], references[start : start + SENTENCES_AT_ONCE])
            for start in range(0, max(1, len(hypotheses)), SENTENCES_AT_ONCE)
        ]
        return np.concatenate(blocks)

    @abstractmethod
    def _count(self, hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        """Return the statistics of a block of sentences, (n, counts)."""

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


class _Bleu(QualityMetric):
    name = "BLEU"

    def _count(self, hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        prepare, order = self._corpus._preprocess_segment, self._corpus.max_ngram_order
        words, lengths = word_ids([prepare(text) for text in _in_pairs(hypotheses, references)])
        hypothesis, reference = lengths[::2], lengths[1::2]
        matches = count_matches(words, lengths, order)
        return np.column_stack([hypothesis, reference, matches, count_ngrams(hypothesis, order)])


class _Chrf(QualityMetric):
    name = "chrF"

    def _count(self, hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
        order = self._corpus.char_order
        characters, lengths = character_ids(_in_pairs(hypotheses, references))
        totals, in_reference = count_ngrams(lengths[::2], order), count_ngrams(lengths[1::2], order)
        totals = totals * (in_reference > 0)  # not counted where the reference has no n-gram of this order
        counts = np.stack([totals, in_reference, count_matches(characters, lengths, order)], axis=-1)
        return counts.reshape(len(hypotheses), 3 * order)


def _in_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> list[str]:
    return [text for pair in zip(hypotheses, references, strict=True) for text in pair]


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

    return (_Bleu(*_make_bleu(tokenizer)), _Chrf(CHRF(), CHRF()))


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
        if extra := re.search(r"sacrebleu\[\w+\]", str(error)):
            raise MissingExtraError(
                f"The BLEU tokenizer {tokenizer} cannot start: it needs packages that are not installed. "
                f"Install them: pip install '{extra[0]}'."
            ) from error
        # Otherwise sacrebleu's own text names the dictionary (mecab) or the file (sentencepiece) that is missing.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MissingExtraError(f"The BLEU tokenizer {tokenizer} cannot start: {reason}") from error
    return corpus, sentence
