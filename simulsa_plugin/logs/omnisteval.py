"""OmniSTEval's JSONL: segments of long recordings, aligned with their references, as its resegmentation writes them.

Its short form reads SimulEval's logs; what is written here for it has both names of every list of times.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.logs.json_rows import get_index, get_number, get_text, get_times, has_text_source
from simulsa_plugin.metrics.records import LONGEST_MS, EmissionRecord

KEYS_OF_OMNISTEVAL = ("emission_cu", "emission_ca", "time_to_recording_end")


def parse_omnisteval_row(row: Mapping[str, Any], position: int) -> EmissionRecord:
    """The record of a row; a segment without words has no times, and none are asked for.

    Args:
        row: a line's object.
        position: of the line, which is its index where it names none.

    Raises:
        LogError: a key is missing or holds something else.
    """
    prediction, delays = get_text(row, "prediction"), get_times(row, "emission_cu")
    if delays is None and prediction.strip():
        raise LogError("no emission_cu; expected a list of milliseconds, one per unit of the prediction.")
    return EmissionRecord(
        index=get_index(row, position),
        prediction=prediction,
        reference=None if row.get("reference", "") is None else get_text(row, "reference", default=""),
        delays=delays or (),
        elapsed=get_times(row, "emission_ca"),
        source_length=get_number(row, "source_length"),
        source=f"{row['docid']}:{row['segid']}" if "docid" in row and "segid" in row else _source(row),
        text_source=has_text_source(row),
        recording_end=_recording_end(row),
    )


def _source(row: Mapping[str, Any]) -> str:
    source = row.get("source")
    return source if isinstance(source, str) else ""


def _recording_end(row: Mapping[str, Any]) -> float | None:
    """Milliseconds to the recording's end; where a segment of one does not say, OmniSTEval takes it for endless."""
    is_segment = ("docid" in row and "segid" in row) or row.get("longform") is True
    end = get_number(row, "time_to_recording_end")
    return LONGEST_MS if end is None and is_segment else end


def write_omnisteval_log(path: Path, records: Iterable[EmissionRecord]) -> None:
    """Write a log that OmniSTEval reads, as its own (`longform --resegmented_hypothesis`) or as SimulEval's.

    The second needs no options of it, and one reference per line in a file of its own. OmniSTEval 0.1.10 writes
    `time_to_recording_end` and does not read it back: its LongYAAL of a file has the units after the end as well.
    """
    with replacing(path, "w") as handle:
        handle.writelines(json.dumps(_to_row(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records)


def _to_row(record: EmissionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"index": record.index, "prediction": record.prediction, "reference": record.reference}
    if record.text_source:
        row["source"] = record.source  # tells that the times are tokens of it
    if record.source_length is not None:
        row["source_length"] = record.source_length
    for times, names in ((record.delays, ("emission_cu", "delays")), (record.elapsed, ("emission_ca", "elapsed"))):
        row |= {} if times is None else {name: list(times) for name in names}
    return row if record.recording_end is None else row | {"time_to_recording_end": record.recording_end}
