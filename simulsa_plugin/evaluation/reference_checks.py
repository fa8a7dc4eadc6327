"""Checks that the writing system of references fits their latency unit and BLEU tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import AUTO, UNITS_OF_WRITING, EvaluationSettings
from simulsa_plugin.languages import CHINESE, JAPANESE, KOREAN, SPACED, UNSPACED, is_without_spaces, writing_of_text
from simulsa_plugin.metrics.quality import make_metrics
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.segments import count_overlaps

_DESCRIPTIONS = {
    CHINESE: ("in Chinese characters", "zh"),
    JAPANESE: ("in Japanese", "ja"),
    KOREAN: ("in Korean", "ko"),
    UNSPACED: ("in a script without spaces", "such as th, lo, km or my"),
    SPACED: ("with spaces between words", "such as en or de"),
}


def check_references(name: str, rows: Iterable[Sample | UnusableRow], settings: EvaluationSettings) -> list[str]:
    """Check the references of a test set against the latency unit and the tokenizer, before anything is decoded.

    Args:
        name: of the test set.
        rows: of the test set; those that cannot be decoded are skipped.
        settings: an explicit unit or tokenizer is accepted.

    Returns:
        Warnings about references without spaces, each of which counts as a word.

    Raises:
        UsageError: most references use another writing system than the target language (or the default); or sacrebleu
            does not have the tokenizer.
        MissingExtraError: the tokenizer needs a package or a file that is missing.
    """
    make_metrics(settings.bleu_tokenizer)
    texts = [row.reference for row in rows if isinstance(row, Sample)]
    writings = Counter(writing for text in texts if (writing := writing_of_text(text)))
    if not writings:
        return []
    (most, count), *_ = writings.most_common()
    if 2 * count > writings.total():
        _check_writing(f"{count} of {writings.total()} references of {name}", most, settings)
    whole = sum(map(is_without_spaces, texts)) if settings.latency_unit == "word" else 0
    return (
        [
            f"{whole} of {len(texts)} references of {name} are written without spaces, and each counts as one word or "
            "two: latency in words is meaningless for them. Set simulsa_target_language, or simulsa_unit=char."
        ]
        if whole
        else []
    )


def segment_warnings(name: str, rows: Iterable[Sample | UnusableRow]) -> list[str]:
    """Warn of recordings without reference segments, and of segments that overlap.

    Args:
        name: of the test set.
        rows: of the test set, its recordings.
    """
    samples = [row for row in rows if isinstance(row, Sample)]
    without = sum(not sample.segments for sample in samples)
    overlaps = sum(count_overlaps(sample.segments) for sample in samples)
    segments = sum(len(sample.segments) for sample in samples)
    lines = []
    if without:
        lines.append(
            f"{without} of {len(samples)} rows of {name} have no `segments`: each is scored as one segment, its "
            "whole recording. Add a list of offset, duration and reference to its row."
        )
    if overlaps:
        lines.append(
            f"{overlaps} of {segments} reference segments of {name} begin before an earlier one has ended. They stay "
            "as they are; the alignment of translations is less certain there."
        )
    return lines


def _check_writing(references: str, writing: str, settings: EvaluationSettings) -> None:
    """Raise UsageError where the writing system of most references needs another unit or tokenizer."""
    unit, tokenizer = UNITS_OF_WRITING[writing]
    chosen = settings.latency_unit, settings.bleu_tokenizer
    if (settings.unit != AUTO or chosen[0] == unit) and (settings.tokenizer != AUTO or chosen[1] == tokenizer):
        return
    language = settings.target_language
    how, examples = _DESCRIPTIONS[writing]
    raise UsageError(
        f"{references} are written {how}, and simulsa_target_language is {repr(language) if language else 'not set'}, "
        f"which gives the latency unit {chosen[0]} and the BLEU tokenizer {chosen[1]}. Set simulsa_target_language to "
        f"their language ({examples}), or both simulsa_unit and simulsa_tokenizer."
    )
