"""The work behind `simulsa-eval score`: read a log, score it, say what is odd about it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulsa_plugin import storage
from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation.logs import Log, check_unit_fits, read_log
from simulsa_plugin.evaluation.tables import shown, unit_of
from simulsa_plugin.metrics.corpus import METRICS, CorpusScores, score_records
from simulsa_plugin.metrics.records import fits_unit, has_unpaired_elapsed, is_non_monotone
from simulsa_plugin.tables import align

LISTED_LINES = 12


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `simulsa-eval score`; their meanings stand in its help."""

    references: Path | None = None
    unit: str = "word"
    tokenizer: str | None = None
    use_ref_len: bool = True
    sentences: bool = False
    strict: bool = False


@dataclass(frozen=True)
class ScoredLog:
    """A log, its scores, and what is odd about it, one message per kind."""

    log: Log
    scores: CorpusScores
    warnings: tuple[str, ...]


def score_log(path: Path, options: ScoreOptions) -> ScoredLog:
    """Read and score a log as SimulEval (and, for YAAL, OmniSTEval) does, odd lines included.

    Raises:
        LogError: the log cannot be scored, or has an odd line and `strict` is set; file and line are named.
        UsageError, MissingExtraError: as `score_records`.
    """
    log = read_log(path, options.references)
    check_unit_fits(log, options.unit)
    odd = odd_lines(log, options.unit)
    if options.strict and odd:
        kind, numbers = next(iter(odd.items()))
        raise LogError(f"{path}, line {numbers[0]}: {_ODD[kind]}. Mend the log, or score it without --strict.")
    scores = score_records(log.records, unit=options.unit, tokenizer=options.tokenizer,
                           use_ref_len=options.use_ref_len, sentences=options.sentences)
    counts = {"end_marks": log.end_marks, "missing_reference": len(log.missing_reference),
              "repeated_index": len(log.repeated_index)}
    scores = dataclasses.replace(scores, counts=scores.counts | counts)
    return ScoredLog(log, scores, tuple(_warnings(log, odd)))


def odd_lines(log: Log, unit: str) -> dict[str, list[int]]:
    """Kind of oddness → line numbers; kinds without a line are absent."""
    found = {
        "non_monotone": [i for i, record in enumerate(log.records, 1) if is_non_monotone(record)],
        "unit_mismatch": [i for i, record in enumerate(log.records, 1) if not fits_unit(record, unit)],
        "unpaired_elapsed": [i for i, record in enumerate(log.records, 1) if has_unpaired_elapsed(record)],
        "no_source_length": [i for i, record in enumerate(log.records, 1) if record.source_length is None],
        "no_reference": [i for i, record in enumerate(log.records, 1) if record.reference is None],
        "missing_reference": list(log.missing_reference),
        "repeated_index": list(log.repeated_index),
    }
    return {kind: numbers for kind, numbers in found.items() if numbers}


def run_score(path: Path, options: ScoreOptions, json_path: Path | None = None) -> int:
    """Score a log, print a table, and write the JSON where asked for. Raises as `score_log`."""
    scored = score_log(path, options)
    print_warnings(scored.warnings)
    if json_path is not None:
        storage.write_json(json_path, scored.scores.as_json())
    print("\n".join(score_table(scored)))
    return 0


def print_warnings(warnings: Iterable[str]) -> None:
    """One line each, to stderr."""
    for warning in warnings:
        print(f"simulsa-eval: warning: {warning}", file=sys.stderr)


def score_table(scored: ScoredLog) -> list[str]:
    """The lines that `score` prints."""
    scores, instances = scored.scores, scored.scores.counts["instances"]
    measured = {name: instances - scores.counts["skipped"][name] for name in METRICS}
    rows = [["metric", "value", "unit", "measured"]]
    rows += [[name, shown(scores.corpus[name]), unit_of(name), f"{measured[name]}/{instances}"] for name in METRICS]
    lines = [f"{scored.log.path}: {scored.log.form}, {instances} instances, {scores.counts['empty']} empty", ""]
    lines += [*align(rows), ""]
    lines += [f"{name}: {signature}" for name, signature in scores.signatures.items()]
    if scores.sentences is not None:
        columns = [[name, *map(shown, values)] for name, values in scores.sentences.items()]
        numbers = ["line", *map(str, range(1, instances + 1))]
        lines += ["", *align([list(row) for row in zip(numbers, *columns, strict=True)])]
    return lines


_ODD = {
    "non_monotone": "delays fall; scored as SimulEval does",
    "unit_mismatch": "the number of delays is not the number of units; scored by its delays, as SimulEval does",
    "unpaired_elapsed": "not one elapsed time per delay; _CA is scored by the times that are there",
    "no_source_length": "no source_length; only ATD can be computed",
    "no_reference": "the reference is null; the length of the prediction is used, BLEU and chrF skip it",
    "missing_reference": "no reference; read as an empty text, as SimulEval does (--references FILE gives them)",
    "repeated_index": "the index was there before; every line is scored, SimulEval would keep the last",
}


def _warnings(log: Log, odd: dict[str, list[int]]) -> Iterable[str]:
    for kind, numbers in odd.items():
        yield f"{log.path}, {_listed(numbers)}: {_ODD[kind]} ({kind}: {len(numbers)})"
    if log.end_marks:
        yield f"{log.path}: the end mark </s> and its delay are left out of {log.end_marks} predictions ({log.form})"


def _listed(numbers: Sequence[int]) -> str:
    """Line numbers, the first dozen of them."""
    listed = ", ".join(map(str, numbers[:LISTED_LINES]))
    more = f" and {len(numbers) - LISTED_LINES} more" if len(numbers) > LISTED_LINES else ""
    return f"line{'s' if len(numbers) > 1 else ''} {listed}{more}"
