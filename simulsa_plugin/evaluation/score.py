"""`simulsa-eval score`: reads and scores a log, and warns about its problems."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import textwrap
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from simulsa_plugin.evaluation.formatting import (
    counted,
    format_interval,
    format_metric,
    metric_digits,
    metric_unit,
    time_unit,
)
from simulsa_plugin.files.atomic import remove_abandoned
from simulsa_plugin.files.json_files import write_json
from simulsa_plugin.files.ownership import refuse_input_as_output
from simulsa_plugin.logs.log_checker import LogChecker
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.metrics.corpus_scores import CorpusScorer, CorpusScores
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.tables import TERMINAL_WIDTH, align, align_wrapped, without_empty_columns
from simulsa_plugin.worker_processes import Processes

logger = logging.getLogger(__name__)
_WORTH_PROCESSES = 2 * 2**20  # bytes of a log
_MOST_PROCESSES = 4  # more would wait for the reader


@dataclass(frozen=True)
class ScoreOptions(ReadOptions):
    """Options of `simulsa-eval score`, explained in its help."""

    tokenizer: str | None = None
    use_ref_len: bool = True
    sentences: bool = False
    strict: bool = False
    bootstrap: Bootstrap | None = None


@dataclass(frozen=True)
class ScoredLog:
    """A log, its scores, and one warning per kind of problem."""

    log: Log
    scores: CorpusScores
    warnings: tuple[str, ...]


def score_log(path: Path, options: ScoreOptions, executor: Executor | None = None) -> ScoredLog:
    """Read and score a log as SimulEval (for YAAL: OmniSTEval) does, lines with problems included.

    Whole recordings with segments are divided among them, and scored as `LongFormScorer` does. Other logs are read
    once, line by line; only a number per instance and metric is kept.

    Raises:
        LogError: the log cannot be scored, or `strict` is set and a line has a problem.
        UsageError, MissingExtraError: as `CorpusScorer`.
    """
    log = Log(path, options)
    checker = LogChecker(log, options.unit, strict=options.strict)
    score = _score_recordings if log.is_long_form else _score_records
    scores = score(log, checker, options, executor)
    counts = {
        "end_marks": log.end_marks,
        "missing_reference": log.missing_reference.count,
        "repeated_index": log.repeated_index.count,
        **log.odd_segments,
    }
    scores = dataclasses.replace(scores, counts=scores.counts | counts, signatures=scores.signatures | log.signatures)
    return ScoredLog(log, scores, tuple(checker.warnings()))


def _score_records(log: Log, checker: LogChecker, options: ScoreOptions, executor: Executor | None) -> CorpusScores:
    scorer = CorpusScorer(
        Measure(options.unit, options.use_ref_len),
        options.tokenizer,
        keep=options.bootstrap is not None,
        sentences=options.sentences,
        executor=executor,
    )
    for record in checker.checked_records():
        scorer.add(record)
    return scorer.scores(options.bootstrap)


def _score_recordings(log: Log, checker: LogChecker, options: ScoreOptions, executor: Executor | None) -> CorpusScores:
    scorer = LongFormScorer(
        Measure(options.unit, options.use_ref_len),
        options.tokenizer,
        method=log.aligner,
        keep=options.bootstrap is not None,
        sentences=options.sentences,
        executor=executor,
    )
    places: list[int] = []
    for one in checker.checked_recordings():
        scorer.add(one.record, one.segments)
        places += one.places
    scores = scorer.scores(options.bootstrap)
    if scores.sentences is None:
        return scores
    in_file_order = sorted(range(len(places)), key=places.__getitem__)
    sentences = {name: [values[place] for place in in_file_order] for name, values in scores.sentences.items()}
    return dataclasses.replace(scores, sentences=sentences)


def run_score(path: Path, options: ScoreOptions, json_path: Path | None = None) -> ScoredLog:
    """Score a log, log its warnings, write the JSON to a path if given. Raises as `score_log`."""
    refuse_input_as_output(json_path, [path, options.references, options.segments])
    with other_processes(path) as executor:
        scored = score_log(path, options, executor)
    for warning in scored.warnings:
        logger.warning(warning)
    if json_path is not None:
        remove_abandoned(json_path)
        write_json(json_path, scored.scores.as_json())
    return scored


@contextlib.contextmanager
def other_processes(path: Path) -> Iterator[Executor | None]:
    """Start processes that count the n-grams of a log while it is read; None for short logs, or on one core."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2 or not path.is_file() or path.stat().st_size < _WORTH_PROCESSES:
        yield None
        return
    with Processes(min(cores, _MOST_PROCESSES)) as executor:
        yield executor


def score_table(scored: ScoredLog) -> list[str]:
    """Return the lines that `score` prints: metrics that have a value, with counts where some instances have none."""
    scores = scored.scores
    without = [name for name, value in scores.corpus.items() if value is None]
    rows = [["metric", "value", "[low, high]", "p50", "p90", "unit", "measured"]]
    rows += [_metric_row(scores, name) for name in scores.corpus if name not in without]
    counted = f"{_counted(scores)}, {scores.counts['empty']} empty"
    lines = [f"{scored.log.path}: {scored.log.form}, {counted}, {_conventions(scores)}", ""]
    lines += [*align(without_empty_columns(rows)), ""]
    lines += [*textwrap.wrap(f"no value: {', '.join(without)}", TERMINAL_WIDTH), ""] if without else []
    lines += _notes(scores)
    lines += [f"{name}: {signature}" for name, signature in scores.signatures.items()]
    return lines if scores.sentences is None else [*lines, "", *_sentence_table(scores)]


def _metric_row(scores: CorpusScores, name: str) -> list[str]:
    instances, time = scores.counts["instances"], time_unit(scores.signatures)
    measured = instances - scores.counts["skipped"][name]
    bounds = (scores.intervals or {}).get(name)
    return [
        name,
        format_metric(name, scores.corpus[name], time),
        format_interval(bounds and bounds.as_json(), metric_digits(name, time)),
        *_format_percentiles(scores, name),
        metric_unit(name, time),
        "" if measured == instances else f"{measured}/{instances}",
    ]


def _format_percentiles(scores: CorpusScores, name: str) -> list[str]:
    """Format p50 and p90; corpus scores have none."""
    shares = scores.percentiles.get(name)
    time = time_unit(scores.signatures)
    return ["", ""] if shares is None else [format_metric(name, share, time) for share in shares.values()]


def _conventions(scores: CorpusScores) -> str:
    """Return unit and tokenizer, as the signatures have them."""
    fields = dict(
        part.split(":", 1)
        for name in ("BLEU", "latency")
        for part in scores.signatures.get(name, "").split("|")
        if ":" in part
    )
    return f"latency unit {fields.get('unit', 'unknown')}, BLEU tokenizer {fields.get('tok', 'unknown')}"


def _sentence_table(scores: CorpusScores) -> list[str]:
    """Tabulate the values of every line, of the metrics that some line has."""
    time, instances = time_unit(scores.signatures), scores.counts["instances"]
    columns = [
        [name, *(format_metric(name, value, time) for value in values)]
        for name, values in (scores.sentences or {}).items()
    ]
    numbers = ["line", *map(str, range(1, instances + 1))]
    rows = [list(row) for row in zip(numbers, *columns, strict=True)]
    return align_wrapped(without_empty_columns(rows))


def _counted(scores: CorpusScores) -> str:
    instances, recordings = scores.counts["instances"], scores.counts.get("recordings")
    if recordings is None:
        return counted(instances, "instance")
    return f"{counted(recordings, 'recording')}, {counted(instances, 'segment')}"


def _notes(scores: CorpusScores) -> list[str]:
    lines = []
    if scores.degenerate:
        lines.append("Likely a degenerate policy: SWF and EFSW differ by more than 20 points (OmniSTEval's test).")
    if scores.counts.get("unclaimed_units"):
        lines.append(f"{scores.counts['unclaimed_units']} units are before all references: no segment has them.")
    if "not-installed" in scores.signatures.get("StreamLAAL", ""):
        lines.append("StreamLAAL needs the package mweralign (the extra longform).")
    plain, aware = scores.corpus.get("LAAL"), scores.corpus.get("LAAL_CA")
    if plain is not None and aware is not None and aware < plain:
        lines.append(
            "LAAL_CA is below LAAL: on its clock it stops at an earlier unit. LAAL_CA_CU averages the same "
            "units as LAAL."
        )
    return [*lines, ""] if lines else []
