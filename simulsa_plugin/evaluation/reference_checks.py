"""Whether the references of a test set are written as their latency unit and BLEU tokenizer expect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import AUTO, UNITS_OF_WRITING, EvaluationSettings
from simulsa_plugin.languages import (
    CHINESE,
    JAPANESE,
    KOREAN,
    SPACED,
    UNSPACED,
    is_without_spaces,
    writing_of_text,
)
from simulsa_plugin.metrics.quality import make_metrics
from simulsa_plugin.model.values import Sample, UnusableRow

_IN_WORDS = {
    CHINESE: ("in Chinese characters", "zh"),
    JAPANESE: ("in Japanese", "ja"),
    KOREAN: ("in Korean", "ko"),
    UNSPACED: ("in a script without spaces", "th, lo, km or my, say"),
    SPACED: ("with spaces between words", "en or de, say"),
}


def check_references(name: str, rows: Iterable[Sample | UnusableRow], settings: EvaluationSettings) -> list[str]:
    """Check the references of a test set against the latency unit and the tokenizer, before anything is decoded.

    Args:
        name: of the test set.
        rows: of the test set; a row that cannot be decoded is passed over.
        settings: those that name a unit or a tokenizer are taken at their word.

    Returns:
        Warnings: references without spaces that count as one word each.

    Raises:
        UsageError: most references are written otherwise than the target language, or than what is taken where none
            is named; or sacrebleu has no such tokenizer.
        MissingExtraError: the tokenizer needs a package or a file that is not there.
    """
    make_metrics(settings.bleu_tokenizer)
    texts = [row.reference for row in rows if isinstance(row, Sample)]
    writings = Counter(writing for text in texts if (writing := writing_of_text(text)))
    if not writings:
        return []
    (most, count), *_ = writings.most_common()
    if 2 * count > writings.total():
        _check_most(f"{count} of {writings.total()} references of {name}", most, settings)
    whole = sum(map(is_without_spaces, texts)) if settings.latency_unit == "word" else 0
    return (
        [
            f"{whole} of {len(texts)} references of {name} are written without spaces, and each counts as a word or "
            "two: latency in words says nothing of them. Set simulsa_target_language, or simulsa_unit=char."
        ]
        if whole
        else []
    )


def _check_most(references: str, writing: str, settings: EvaluationSettings) -> None:
    """Raise UsageError where the writing of most references calls for a unit or tokenizer that was not chosen."""
    unit, tokenizer = UNITS_OF_WRITING[writing]
    taken = settings.latency_unit, settings.bleu_tokenizer
    if (settings.unit != AUTO or taken[0] == unit) and (settings.tokenizer != AUTO or taken[1] == tokenizer):
        return
    language = settings.target_language
    how, examples = _IN_WORDS[writing]
    raise UsageError(
        f"{references} are written {how}, and simulsa_target_language is {repr(language) if language else 'not set'}, "
        f"which gives the latency unit {taken[0]} and the BLEU tokenizer {taken[1]}. Set simulsa_target_language to "
        f"their language ({examples}), or both simulsa_unit and simulsa_tokenizer."
    )
