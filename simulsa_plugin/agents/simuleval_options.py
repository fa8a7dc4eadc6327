"""What SimulEval's own options mean for our agent: what cannot work is refused, what is odd gets a warning."""

from __future__ import annotations

from pathlib import Path

from simulsa_plugin.api.live_system import StreamPrompts
from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.records import LatencyUnit


def check_unit(unit: LatencyUnit, simuleval_unit: str | None) -> None:
    """Check that SimulEval splits the text into the units that are written.

    Args:
        unit: of the recipe.
        simuleval_unit: of `--eval-latency-unit`; None where it is not known.

    Raises:
        UsageError: it is another one.
    """
    if simuleval_unit not in (None, unit):
        raise UsageError(
            f"--eval-latency-unit is {simuleval_unit}, and the recipe's latency unit is {unit}; both must be the same. "
            f"Add --eval-latency-unit {unit}, or set simulsa_unit to word or char."
        )


def segment_warning(chunk_ms: int | None, segment_ms: int | None) -> str | None:
    """Describe what happens to delays where steps are not due at the ends of SimulEval's segments; None if they are.

    Args:
        chunk_ms: k; steps are due at its multiples.
        segment_ms: of `--source-segment-size`; None where it is not known.
    """
    if not chunk_ms or not segment_ms or chunk_ms % segment_ms == 0:
        return None
    return (
        f"--source-segment-size is {segment_ms} ms, and steps are due every {chunk_ms} ms: SimulEval counts delays up "
        f"to the next end of a segment. Set --source-segment-size {chunk_ms}."
    )


def check_languages(prompts: StreamPrompts, path: str | None) -> str | None:
    """Check that prompts can name the languages of `--tgt-lang`; return what to warn of, where they name none.

    Args:
        prompts: of the recipe.
        path: of a list with the target language of each utterance; None where there is none.

    Raises:
        UsageError: a language is unknown, or the list cannot be read.
    """
    if path is None:
        return None
    if prompts.fixed is not None:
        return "--tgt-lang is not used: the prompt is that of the dataset. Set simulsa_prompt to one with {target}."
    try:
        languages = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read --tgt-lang {path}: {error}. Give a text file, one language per line.") from error
    for language in dict.fromkeys(line.strip() for line in languages):
        prompts.prompt(target_language=language or None)
    return None
