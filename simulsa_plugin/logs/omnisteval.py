"""OmniSTEval's JSONL: segments of long recordings, aligned with their references, as its resegmentation writes them.

OmniSTEval's short form reads SimulEval's logs, so rows are written with both tools' names of every list of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.logs.json_rows import get_number, parse_instance
from simulsa_plugin.metrics.records import LONGEST_MS, EmissionRecord

KEYS_OF_OMNISTEVAL = ("emission_cu", "emission_ca", "time_to_recording_end")


def parse_omnisteval_row(row: Mapping[str, Any], position: int) -> EmissionRecord:
    """Parse a row; a segment without text needs no times. Arguments and errors as `parse_instance`."""
    source = row.get("source")
    if "docid" in row and "segid" in row:
        source = f"{row['docid']}:{row['segid']}"
    return parse_instance(
        row,
        position,
        ("emission_cu", "emission_ca"),
        source=source if isinstance(source, str) else "",
        recording_end=_recording_end(row),
        optional_delays=True,
    )


def _recording_end(row: Mapping[str, Any]) -> float | None:
    """Return milliseconds to the end of the recording; segments without it are endless, as in OmniSTEval."""
    is_segment = ("docid" in row and "segid" in row) or row.get("longform") is True
    end = get_number(row, "time_to_recording_end")
    return LONGEST_MS if end is None and is_segment else end


def write_omnisteval_log(path: Path, records: Iterable[EmissionRecord]) -> None:
    """Write a log that OmniSTEval reads, as its own (`longform --resegmented_hypothesis`) or as SimulEval's.

    The second needs no options, and the references in a file, one per line. OmniSTEval 0.1.10 writes
    `time_to_recording_end` and does not read it back: its LongYAAL of a file has the units after the end as well.
    """
    write_jsonl(path, map(_to_row, records))


def _to_row(record: EmissionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"index": record.index, "prediction": record.prediction, "reference": record.reference}
    if record.text_source:
        row["source"] = record.source  # tells that the times are tokens of it
    if record.source_length is not None:
        row["source_length"] = record.source_length
    for times, names in ((record.delays, ("emission_cu", "delays")), (record.elapsed, ("emission_ca", "elapsed"))):
        row |= {} if times is None else {name: list(times) for name in names}
    return row if record.recording_end is None else row | {"time_to_recording_end": record.recording_end}
