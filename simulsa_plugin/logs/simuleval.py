"""SimulEval's instances.log: read in its 1.0 and 1.1 forms, written as 1.1 writes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.logs.json_rows import get_index, get_number, get_text, get_times, has_text_source
from simulsa_plugin.metrics.records import END_MARK, EmissionRecord

INSTANCES_LOG = "instances.log"  # the name that SimulEval gives it
KEYS_OF_1_0 = ("metric", "reference_length")
KEYS_OF_SPEECH = ("durations", "intervals", "generated_wav")


def parse_simuleval_row(row: Mapping[str, Any], position: int) -> EmissionRecord:
    """The record of a row.

    Args:
        row: a line's object.
        position: of the line, which is its index where it names none.

    Raises:
        LogError: a key is missing or holds something else.
    """
    delays = get_times(row, "delays")
    if delays is None:
        raise LogError("no delays; expected a list of milliseconds, one per unit of the prediction.")
    return EmissionRecord(
        index=get_index(row, position),
        prediction=get_text(row, "prediction"),
        reference=None if row.get("reference", "") is None else get_text(row, "reference", default=""),
        delays=delays,
        elapsed=get_times(row, "elapsed"),
        source_length=get_number(row, "source_length"),
        source=_source(row.get("source")),
        text_source=has_text_source(row),
    )


def has_end_mark(record: EmissionRecord) -> bool:
    """Whether the prediction ends with `</s>`."""
    return record.prediction.rstrip().endswith(END_MARK)


def without_end_mark(record: EmissionRecord) -> EmissionRecord:
    """SimulEval 1.0 writes `</s>` with a delay of its own; 1.1 writes neither, so that both score alike without it."""
    if not has_end_mark(record):
        return record
    return dataclasses.replace(
        record,
        prediction=record.prediction.rstrip().removesuffix(END_MARK).rstrip(),
        delays=record.delays[:-1],
        elapsed=None if record.elapsed is None else record.elapsed[:-1],
    )


def write_simuleval_log(path: Path, records: Iterable[EmissionRecord]) -> None:
    """Write a log as SimulEval 1.1 writes it; without measured times the key `elapsed` is absent."""
    with replacing(path, "w") as handle:
        handle.writelines(json.dumps(_to_row(record), allow_nan=False) + "\n" for record in records)


def _source(source: object) -> str | tuple[str, ...]:
    return tuple(map(str, source)) if isinstance(source, list) else "" if source is None else str(source)


def _to_row(record: EmissionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"index": record.index, "prediction": record.prediction, "delays": list(record.delays)}
    if record.elapsed is not None:
        row["elapsed"] = list(record.elapsed)
    return row | {
        "prediction_length": len(record.delays),
        "reference": record.reference,
        "source": list(record.source) if isinstance(record.source, tuple) else record.source,
        "source_length": record.source_length,
    }
