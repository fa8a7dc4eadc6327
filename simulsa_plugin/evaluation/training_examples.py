"""A few utterances of an evaluation during training as texts: the reference, and what each cell wrote when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulsa_plugin.evaluation.block_decoding import cell_folder
from simulsa_plugin.logs.steps import parse_session
from simulsa_plugin.metrics.delays import emission_record, split_units
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.terminal import markdown_text

if TYPE_CHECKING:
    from simulsa_plugin.evaluation.during_training import Sessions, TrainingEvaluation

EXAMPLES = 4  # utterances, spread over the test set


@dataclass(frozen=True)
class Example:
    """An utterance.

    Attributes:
        name: of its audio file, without the folder.
        audio: path of the file.
        reference: the whole translation.
        texts: name of a cell → what it wrote, with the seconds of audio before each part.
    """

    name: str
    audio: str
    reference: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class TrainingExamples:
    """Examples of one evaluation.

    Attributes:
        dataset: name of the test set.
        cells: their names, in order.
        rows: the examples.
    """

    dataset: str
    cells: tuple[str, ...]
    rows: tuple[Example, ...]

    @property
    def head(self) -> list[str]:
        """Columns of a table of examples."""
        return ["utterance", "reference", *self.cells]

    def table(self) -> list[list[str]]:
        """Return a line of texts per example."""
        return [[one.name, one.reference, *(one.texts[cell] for cell in self.cells)] for one in self.rows]

    def markdown(self) -> str:
        """Return the examples in Markdown, as TensorBoard shows texts."""
        parts = [
            "\n".join([f"**{label}:** {markdown_text(text)}  " for label, text in zip(self.head, line, strict=True)])
            for line in self.table()
        ]
        return "\n\n---\n\n".join(parts)


def choose_examples(plan: TrainingEvaluation, sessions: Sessions, count: int = EXAMPLES) -> TrainingExamples:
    """Choose the same utterances at every evaluation, spread over the test set.

    Args:
        plan: what was decoded.
        sessions: those of all utterances.
        count: of examples.
    """
    chosen = range(0, len(plan.samples), max(1, len(plan.samples) // count))[:count]
    cells = tuple(cell_folder(cell).removeprefix("rollback_") for cell in plan.cells)
    unit = plan.settings.latency_unit
    rows = []
    for row in chosen:
        sample = plan.samples[row]
        records = [
            emission_record(list(parse_session(rows_of_cell)), row, sample.reference, sample.audio, unit)
            for rows_of_cell in sessions[row]
        ]
        texts = {name: timed_text(record, unit) for name, record in zip(cells, records, strict=True)}
        rows.append(Example(Path(sample.audio).name, sample.audio, sample.reference, texts))
    return TrainingExamples(plan.dataset, cells, tuple(rows))


def timed_text(record: EmissionRecord, unit: LatencyUnit) -> str:
    """Return a translation with the seconds of audio that had been received before each part.

    >>> timed_text(EmissionRecord(0, "das Haus ist", None, (500.0, 500.0, 1500.0), source_length=2000.0), "word")
    '[0.5] das Haus [1.5] ist'
    """
    units = split_units(record.prediction, unit)
    joint = " " if unit == "word" else ""
    timed = zip(record.delays, units, strict=False)
    return " ".join(
        f"[{round(delay / 1000, 2):g}] {joint.join(text for _, text in group)}"
        for delay, group in itertools.groupby(timed, key=_delay)
    )


def _delay(timed: tuple[float, str]) -> float:
    return timed[0]
