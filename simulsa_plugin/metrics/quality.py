"""BLEU and chrF through sacrebleu, each with the signature that makes it comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulsa_plugin.errors import MissingExtraError, UsageError
from simulsa_plugin.metrics.records import check_unit

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric
    from sacrebleu.metrics.bleu import BLEU


@dataclass(frozen=True)
class Quality:
    """A corpus score (0…100), the sentence scores behind it where asked for, and their sacrebleu signatures."""

    score: float
    signature: str
    sentences: tuple[float, ...] | None = None
    sentence_signature: str | None = None


def default_tokenizer(unit: str) -> str:
    """The BLEU tokenizer that goes with a latency unit where none is named; the text is never looked at.

    >>> default_tokenizer("word"), default_tokenizer("char")
    ('13a', 'zh')
    """
    check_unit(unit)
    return "13a" if unit == "word" else "zh"


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], tokenizer: str = "13a", *, sentences: bool = False
) -> Quality:
    """Corpus BLEU.

    Args:
        hypotheses: texts, shape (n,).
        references: texts, shape (n,).
        tokenizer: one of sacrebleu's.
        sentences: also score each sentence (with effective order, as sacrebleu does).

    Raises:
        UsageError: sacrebleu has no such tokenizer.
        MissingExtraError: the tokenizer needs a package or a file that is not there.

    >>> round(bleu(["the cat sat on the mat"], ["the cat sat on a mat"]).score, 2)
    53.73
    """
    by_sentence = make_bleu(tokenizer, effective_order=True) if sentences else None
    return _score(make_bleu(tokenizer), by_sentence, hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, sentences: bool = False) -> Quality:
    """Corpus chrF (chrF2: character 6-grams, no word n-grams).

    Args: as `bleu`.

    >>> round(chrf(["the cat sat on the mat"], ["the cat sat on a mat"]).score, 2)
    72.08
    """
    from sacrebleu.metrics.chrf import CHRF

    return _score(CHRF(), CHRF() if sentences else None, hypotheses, references)


def make_bleu(tokenizer: str, *, effective_order: bool = False) -> BLEU:
    """BLEU of sacrebleu with that tokenizer. Raises as `bleu`."""
    from sacrebleu.metrics.bleu import BLEU

    if tokenizer not in BLEU.TOKENIZERS:
        raise UsageError(f"The BLEU tokenizer is {tokenizer!r}; allowed: {', '.join(sorted(BLEU.TOKENIZERS))}.")
    try:
        return BLEU(tokenize=tokenizer, effective_order=effective_order, force=True)
    except (RuntimeError, ImportError, OSError) as error:
        # sacrebleu's own text names the extra (mecab) or the file (sentencepiece) that is missing.
        reason = " ".join(str(error).split())
        raise MissingExtraError(f"The BLEU tokenizer {tokenizer} cannot start: {reason}") from error


def _score(metric: Metric, by_sentence: Metric | None, hypotheses: Sequence[str], references: Sequence[str]) -> Quality:
    score = metric.corpus_score(hypotheses, [references]).score
    if by_sentence is None:
        return Quality(score, str(metric.get_signature()))
    values = tuple(by_sentence.sentence_score(hypothesis, [reference]).score
                   for hypothesis, reference in zip(hypotheses, references, strict=True))
    return Quality(score, str(metric.get_signature()), values, str(by_sentence.get_signature()))
