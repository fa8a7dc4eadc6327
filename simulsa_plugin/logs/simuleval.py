"""SimulEval's instances.log: read in its 1.0 and 1.1 forms, written in the 1.1 form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.logs.json_rows import parse_instance
from simulsa_plugin.metrics.records import END_MARK, EmissionRecord

INSTANCES_LOG = "instances.log"  # the name that SimulEval gives it
SOURCES, TARGETS = "source.txt", "target.txt"  # what SimulEval reads: --source and --target
KEYS_OF_1_0 = ("metric", "reference_length")
KEYS_OF_SPEECH = ("durations", "intervals", "generated_wav")


def parse_simuleval_row(row: Mapping[str, Any], position: int) -> EmissionRecord:
    """Parse a row. Arguments and errors as `parse_instance`."""
    source = row.get("source")
    lines = tuple(map(str, source)) if isinstance(source, list) else "" if source is None else str(source)
    return parse_instance(row, position, ("delays", "elapsed"), source=lines)


def has_end_mark(record: EmissionRecord) -> bool:
    """Return whether the prediction ends with `</s>`."""
    return record.prediction.rstrip().endswith(END_MARK)


def without_end_mark(record: EmissionRecord) -> EmissionRecord:
    """Remove the `</s>` that SimulEval 1.0 writes, and its delay; 1.1 writes neither, so that both score the same."""
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


def write_lists(folder: Path, records: Iterable[EmissionRecord]) -> int:
    """Write the audios and the references of a log as SimulEval reads them, one of each per line.

    Returns:
        The number of lines.

    Raises:
        LogError: a record has no reference, or no audio that a line can name.
        StorageError: a file cannot be written.
    """
    count = 0
    with replacing(folder / SOURCES, "w") as sources, replacing(folder / TARGETS, "w") as targets:
        for count, record in enumerate(records, 1):
            audio = record.source if isinstance(record.source, str) else next(iter(record.source), "")
            if record.text_source or not audio.strip() or len(audio.splitlines()) > 1:
                raise LogError(f"Instance {count} has no audio that a list can name. Give a log of speech.")
            if record.reference is None:
                raise LogError(f"Instance {count} has no reference. Give --references FILE.")
            sources.write(f"{audio}\n")
            targets.write(" ".join(record.reference.splitlines()).strip() + "\n")
    return count


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
