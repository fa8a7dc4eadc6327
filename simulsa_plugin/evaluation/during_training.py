"""Simultaneous decoding during training: cells, reported metrics, and the history of a run."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.evaluation.block_decoding import HEAD_SEARCH_ROWS, cell_folder, row_identifier
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.loading import load_waveform
from simulsa_plugin.evaluation.reference_checks import check_references
from simulsa_plugin.evaluation.result_cells import folder_name
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.logs.steps import parse_session
from simulsa_plugin.metrics.corpus_scores import CorpusScorer
from simulsa_plugin.metrics.delays import emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import Sample, UnusableRow, advice_on_audio
from simulsa_plugin.streaming.engine import DecodingSetting, choose_alignment_heads, decode_batched
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource
from simulsa_plugin.tables import list_counts
from simulsa_plugin.terminal import Shares

HISTORY, PICTURE, PAGE = "simulsa_eval.jsonl", "simulsa_eval.png", "simulsa_eval.html"
METRIC_PREFIX = "eval_simul_"
LOGGED_METRICS = ("BLEU", "LAAL", "NE")  # logged by the trainer; the history has all
UTTERANCES_PER_BATCH = 64  # utterances whose audio is in memory at once

StepRows = list[dict[str, Any]]  # a session, as in `steps.jsonl`
Sessions = dict[int, list[StepRows]]  # position of the sample → its session in every cell
HistoryRow = dict[str, Any]


@dataclass(frozen=True)
class TrainingEvaluation:
    """What is decoded at every evaluation of a training.

    Attributes:
        dataset: name of the test set.
        rows: of the test set, in order.
        samples: the utterances among them that can be decoded.
        skipped_rows: the others, with their reasons.
        cells: the first is offline.
        settings: units, tokenizer and limits.
        warnings: about the references.
    """

    dataset: str
    rows: tuple[Sample | UnusableRow, ...]
    samples: tuple[Sample, ...]
    skipped_rows: tuple[UnusableRow, ...]
    cells: tuple[DecodingSetting, ...]
    settings: EvaluationSettings
    warnings: tuple[str, ...] = ()

    @property
    def skipped(self) -> dict[str, int]:
        """Number of rows that cannot be decoded, by reason."""
        return dict(Counter(row.reason for row in self.skipped_rows))

    @property
    def names(self) -> list[str]:
        """Names of all logged metrics."""
        return [metric_name(cell, metric) for cell in self.cells for metric in LOGGED_METRICS]

    def cost(self, seconds: float) -> str:
        """Describe the cost of an evaluation of `seconds` of audio."""
        steps = sum(1000 * seconds / cell.chunk_ms if cell.chunk_ms else len(self.samples) for cell in self.cells)
        return (
            f"every evaluation also decodes {len(self.samples)} utterances of {self.dataset} ({seconds:.0f} s of "
            f"audio) in {len(self.cells)} cells, about {steps:.0f} steps; names of its metrics: {self.names[0]} …"
        )


def plan_training_evaluation(
    dataset: str, rows: Iterable[Sample | UnusableRow], cells: Sequence[DecodingSetting], settings: EvaluationSettings
) -> tuple[TrainingEvaluation, float]:
    """Choose what is decoded; return it with its seconds of audio.

    Raises:
        DatasetError: no row can be decoded.
        UsageError, MissingExtraError: the references do not fit the unit or the tokenizer; see `check_references`.
    """
    rows = tuple(rows)
    samples: list[Sample] = []
    skipped: list[UnusableRow] = []
    seconds = 0.0
    for row in rows:
        waveform = row.reason if isinstance(row, UnusableRow) else load_waveform(row.audio)
        if isinstance(waveform, str):
            skipped.append(UnusableRow(row.row, waveform))
        elif isinstance(row, Sample):
            samples.append(row)
            seconds += samples_to_seconds(len(waveform))
    warnings = tuple(check_references(dataset, samples, settings)) if samples else ()
    plan = TrainingEvaluation(dataset, rows, tuple(samples), tuple(skipped), tuple(cells), settings, warnings)
    if not samples:
        raise DatasetError(
            f"No utterance of simulsa_eval_dataset {dataset} can be decoded; reasons: {list_counts(plan.skipped)}."
            f"{advice_on_audio(plan.skipped)}"
        )
    return plan, seconds


def decode_share(
    model: AudioLanguageModel, plan: TrainingEvaluation, number: int, count: int, progress: Any
) -> Sessions:
    """Decode every `count`-th utterance, from the `number`-th on (counted from 0).

    Args:
        model: what decodes.
        plan: what.
        number: of this process.
        count: of all processes.
        progress: its `update(n)` counts sessions.

    Raises:
        ModelError: a batch does not fit into memory, or the template refuses a prompt.
        AudioError: an audio file disappeared since the start.
    """
    mine = list(range(number, len(plan.samples), count))
    limits = BatchLimits(
        plan.settings.max_new_tokens, plan.settings.eval_batch_size, plan.settings.eval_memory_gb * 1e9
    )
    found: Sessions = {}
    shares = Shares(progress)
    choose_alignment_heads(
        model, plan.cells, lambda: _load_sources(plan, range(min(HEAD_SEARCH_ROWS, len(plan.samples))))
    )
    for start in range(0, len(mine), UTTERANCES_PER_BATCH):
        rows = mine[start : start + UTTERANCES_PER_BATCH]
        decoded = decode_batched(
            model, _load_sources(plan, rows), plan.cells, limits, on_step=lambda session: shares.add(session.step_share)
        )
        for index, row in enumerate(rows):
            name = row_identifier(plan.dataset, plan.samples[row].row)
            found[row] = [list(step_rows(name, of_cell[index].steps, model.decode)) for of_cell in decoded]
    return found


def _load_sources(plan: TrainingEvaluation, rows: Iterable[int]) -> list[StreamSource]:
    return [StreamSource(plan.samples[row].prompt, read_mono(plan.samples[row].audio)) for row in rows]


def score_cells(plan: TrainingEvaluation, sessions: Sessions) -> list[HistoryRow]:
    """Make a row for every cell: its keys, corpus scores, and counts; `sessions` are those of all utterances."""
    unit = plan.settings.latency_unit
    rows = []
    for position, cell in enumerate(plan.cells):
        scorer = CorpusScorer(Measure(unit), plan.settings.bleu_tokenizer)
        truncated = 0
        for row, sample in enumerate(plan.samples):
            steps = list(parse_session(sessions[row][position]))
            scorer.add(emission_record(steps, row, sample.reference, sample.audio, unit))
            truncated += sum(step.truncated for step in steps)
        scores = scorer.scores()
        rows.append(
            {
                "policy": cell.policy.name,
                "chunk_ms": cell.chunk_ms,
                **cell.policy.cell(),
                **scores.corpus,
                "instances": len(plan.samples),
                "empty": scores.counts["empty"],
                "skipped": len(plan.skipped_rows),
                "truncated_steps": truncated,
            }
        )
    return rows


def logged_metrics(plan: TrainingEvaluation, rows: Sequence[HistoryRow]) -> dict[str, float]:
    """Return metric name → value for the log, without missing values."""
    return {
        metric_name(cell, metric): row[metric]
        for cell, row in zip(plan.cells, rows, strict=True)
        for metric in LOGGED_METRICS
        if row[metric] is not None
    }


def metric_name(cell: DecodingSetting, metric: str) -> str:
    """Return a metric's name in the log: that of the cell's folder, without the word rollback.

    >>> from simulsa_plugin.streaming.policies import Offline
    >>> metric_name(DecodingSetting(Offline(), None), "BLEU")
    'eval_simul_offline_bleu'
    """
    return f"{METRIC_PREFIX}{cell_folder(cell).removeprefix('rollback_')}_{metric.lower()}"


class History:
    """`simulsa_eval.jsonl` and its picture in the folder of a training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path, self.picture, self.page = folder / HISTORY, folder / PICTURE, folder / PAGE

    def drop_after(self, step: int) -> None:
        """Drop the evaluations that a training resumed from an earlier checkpoint repeats."""
        rows = self.rows()
        kept = [row for row in rows if row["step"] <= step] if step else []
        if len(kept) < len(rows):
            write_jsonl(self._path, kept)

    def add(self, step: int, epoch: float | None, seconds: float, rows: Iterable[HistoryRow]) -> list[HistoryRow]:
        """Add an evaluation, replacing one of the same step, redraw the picture, and return all rows by their steps."""
        where = {"step": step, "epoch": epoch, "seconds": seconds}
        kept = [row for row in self.rows() if row["step"] != step]
        written = [*kept, *(where | row for row in rows)]
        write_jsonl(self._path, written)
        with replacing(self.picture) as handle:
            _draw_history(written, handle)
        return sorted(written, key=_step)

    def rows(self) -> list[HistoryRow]:
        """Return the valid rows by their steps; lines damaged by a crash are dropped."""
        if not self._path.exists():
            return []
        lines = map(_parse_line, self._path.read_bytes().splitlines())
        return sorted((row for row in lines if isinstance(row, dict) and isinstance(row.get("step"), int)), key=_step)


def _step(row: HistoryRow) -> int:
    return int(row["step"])


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _draw_history(rows: Sequence[HistoryRow], handle: Any) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, of_cell in _by_cell(rows):
        for axes, metric in zip(panels, ("BLEU", "LAAL"), strict=True):
            points = [(row["step"], row[metric]) for row in of_cell if row[metric] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    for axes, metric in zip(panels, ("BLEU", "LAAL (ms)"), strict=True):
        axes.set_xlabel("training step")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.savefig(handle, format="png", dpi=100)


def _by_cell(rows: Sequence[HistoryRow]) -> Iterator[tuple[str, list[HistoryRow]]]:
    def name(row: HistoryRow) -> str:
        return folder_name(row["policy"], row["chunk_ms"], row["rollback"], row["parameters"])

    order = list(dict.fromkeys(map(name, rows)))
    for key, group in itertools.groupby(sorted(rows, key=lambda row: order.index(name(row))), key=name):
        yield key, sorted(group, key=_step)
