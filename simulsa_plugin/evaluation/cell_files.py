"""Files of one cell of a result folder, and its row of scores.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.block_decoding import DecodingJob, cell_folder, steps_file
from simulsa_plugin.evaluation.delays_and_clocks import DelayClockMeans, LongDelayClockMeans
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.result_cells import COMET_SCORES
from simulsa_plugin.files.atomic import make_own_folder, remove_leftovers, replacing, writing_to
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.simuleval import INSTANCES_LOG, write_simuleval_log
from simulsa_plugin.logs.steps import STEPS
from simulsa_plugin.metrics.corpus_scores import CorpusScorer, CorpusScores
from simulsa_plugin.metrics.delays import ShownStep, emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.model.values import Sample
from simulsa_plugin.streaming.engine import DecodingSetting


def make_cell_folder(out: Path, cell: DecodingSetting) -> Path:
    """Make the folder of a cell, without leftovers of an earlier result."""
    folder = make_own_folder(out / cell_folder(cell))
    remove_leftovers(folder)
    with writing_to(folder):
        for name in (COMET_SCORES, RESEGMENTED):
            (folder / name).unlink(missing_ok=True)
    return folder


def write_steps(job: DecodingJob, cell: DecodingSetting, folder: Path) -> None:
    """Write a cell's `steps.jsonl` from the decoded blocks."""
    with replacing(folder / STEPS) as handle:
        for block in range(job.num_blocks):
            handle.write(steps_file(job, block, cell).read_bytes())


def write_log(
    folder: Path,
    cell: DecodingSetting,
    settings: EvaluationSettings,
    sessions: Iterable[tuple[Sample, list[ShownStep]]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write a cell's `instances.log` from its sessions; return its row of scores.json, and its signatures."""
    measure = Measure(settings.latency_unit)
    scorer, means = CorpusScorer(measure, settings.bleu_tokenizer, keep=True), DelayClockMeans(measure)
    write_simuleval_log(folder / INSTANCES_LOG, _score_sessions(sessions, scorer, means))
    return cell_row(cell, folder, scorer.scores(Bootstrap()), means)


def _score_sessions(
    sessions: Iterable[tuple[Sample, list[ShownStep]]], scorer: CorpusScorer, means: DelayClockMeans
) -> Iterator[EmissionRecord]:
    """Yield the record of every session after adding it to the scores."""
    for index, (sample, steps) in enumerate(sessions):
        record = emission_record(steps, index, sample.reference, sample.audio, scorer.measure.unit)
        scorer.add(record)
        means.add(record, steps)
        yield record


def cell_row(
    cell: DecodingSetting, folder: Path, found: CorpusScores, means: DelayClockMeans | LongDelayClockMeans
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a cell's row of scores.json, and its signatures."""
    scores = found.as_json()
    counts = scores["counts"] | {"truncated_steps": means.truncated_steps}
    row = {
        "policy": cell.policy.name,
        "chunk_ms": cell.chunk_ms,
        **cell.policy.cell(),
        "folder": folder.name,
        **scores["corpus"],
        **{name: scores[name] for name in ("intervals", "percentiles", "degenerate")},
        **means.as_json(),
        "instances": counts["instances"],
        "empty": counts["empty"],
        "counts": counts,
    }
    return row, scores["signatures"] | {"CA": "clock:cumulative|as:SimulEval-1.1.4"}
