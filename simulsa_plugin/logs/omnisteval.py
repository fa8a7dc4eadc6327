"""OmniSTEval's JSONL: segments of long recordings, aligned with their references, as its resegmentation writes them.

OmniSTEval's short form reads SimulEval's logs, so rows are written with both tools' names of every list of times.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.logs.json_rows import get_number, parse_instance
from simulsa_plugin.metrics.records import LONGEST_MS, EmissionRecord

RESEGMENTED = "instances.resegmented.jsonl"  # the name that OmniSTEval gives it
KEYS_OF_OMNISTEVAL = ("emission_cu", "emission_ca", "time_to_recording_end")


def parse_omnisteval_row(row: Mapping[str, Any], position: int) -> EmissionRecord:
    """Parse a row; a segment without text needs no times. Arguments and errors as `parse_instance`."""
    source, recording = row.get("source"), None
    if isinstance(source, list):  # a hypothesis of a recording, whose source SimulEval describes
        source = next((line for line in source if isinstance(line, str)), None)
    if is_segment(row):
        named = isinstance(source, str)
        recording = source if named else str(row["docid"])
        source = source if named else f"{row['docid']}:{row['segid']}"
    record = parse_instance(
        row,
        position,
        ("emission_cu", "emission_ca"),
        source=source if isinstance(source, str) else "",
        recording_end=_recording_end(row),
        optional_delays=True,
    )
    return record if recording is None else dataclasses.replace(record, recording=recording, text_source=False)


def is_segment(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a segment of a recording, as OmniSTEval numbers them."""
    return "docid" in row and "segid" in row


def _recording_end(row: Mapping[str, Any]) -> float | None:
    """Return milliseconds to the end of the recording; segments without it are endless, as in OmniSTEval."""
    endless = is_segment(row) or row.get("longform") is True
    end = get_number(row, "time_to_recording_end")
    return LONGEST_MS if end is None and endless else end


def write_omnisteval_log(path: Path, records: Iterable[EmissionRecord]) -> None:
    """Write a log that OmniSTEval reads, as its own (`longform --resegmented_hypothesis`) or as SimulEval's.

    The second needs no options, and the references in a file, one per line. Segments of recordings have the name of
    their recording as `source`, and are numbered as OmniSTEval numbers them. OmniSTEval 0.1.10 writes
    `time_to_recording_end` and does not read it back: its LongYAAL of a file has the units after the end as well.
    """
    write_jsonl(path, _to_rows(records))


def _to_rows(records: Iterable[EmissionRecord]) -> Iterator[dict[str, Any]]:
    counters: dict[str, tuple[int, Iterator[int]]] = {}
    for record in records:
        row = _to_row(record)
        if record.recording is not None:
            number, segments = counters.setdefault(record.recording, (len(counters), itertools.count()))
            row |= {"docid": number, "segid": next(segments), "source": record.recording}
        yield row


def _to_row(record: EmissionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"index": record.index, "prediction": record.prediction, "reference": record.reference}
    if record.text_source:
        row["source"] = record.source  # tells that the times are tokens of it
    if record.source_length is not None:
        row["source_length"] = record.source_length
    for times, names in ((record.delays, ("emission_cu", "delays")), (record.elapsed, ("emission_ca", "elapsed"))):
        row |= {} if times is None else {name: list(times) for name in names}
    return row if record.recording_end is None else row | {"time_to_recording_end": record.recording_end}
