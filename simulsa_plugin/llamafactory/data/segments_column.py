"""The column `segments` of a dataset of long recordings, which LLaMA-Factory's aligned form does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.files.json_files import parse_problem, reading_from
from simulsa_plugin.segments import ReferenceSegment

COLUMN = "segments"
_FORM = '{"offset": seconds, "duration": seconds, "reference": text}'
_FILES = (".json", ".jsonl")
_BOM = b"\xef\xbb\xbf"


def read_segments(path: Path, count: int) -> list[tuple[ReferenceSegment, ...]]:
    """Return the reference segments of each row of a dataset's file, by offset; nothing where no row has any.

    Args:
        path: of the file; others than JSON and JSONL have no such column.
        count: rows that LLaMA-Factory loads from it.

    Raises:
        DatasetError: a row's segments are not a list of offset, duration and reference, or it is not known which row
            of the file is which; the row is named, from 1.
        StorageError: the file cannot be read.
    """
    if path.suffix not in _FILES or not path.is_file():
        return []
    with reading_from(path):
        found = [parse_segments(value, f"{path}, row {row}") for row, value in enumerate(_values(path), 1)]
    if not any(found):
        return []
    if len(found) != count:
        raise DatasetError(
            f"{path} has {len(found)} rows, some with `{COLUMN}`, and LLaMA-Factory loads {count}: which belong "
            "together is not known. Remove `split` and `subset` from its entry in dataset_info.json."
        )
    return found


def parse_segments(value: object, place: str) -> tuple[ReferenceSegment, ...]:
    """Return the segments of one row, sorted by offset; none where the row has none.

    Args:
        value: of the column.
        place: a file and a row, for messages.

    Raises:
        DatasetError: it is not a list of segments.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DatasetError(f"{place}: `{COLUMN}` is {_shown(value)}; expected a list of {_FORM}.")
    segments = [_parse_segment(one, f"{place}, segment {number}") for number, one in enumerate(value, 1)]
    return tuple(sorted(segments, key=lambda segment: segment.offset_seconds))


def _parse_segment(value: object, place: str) -> ReferenceSegment:
    if not isinstance(value, dict):
        raise DatasetError(f"{place} is {_shown(value)}; expected {_FORM}.")
    offset, duration = (_seconds(value, key, place) for key in ("offset", "duration"))
    reference = value.get("reference")
    if not isinstance(reference, str):
        raise DatasetError(f"{place}: {_found(value, 'reference')}; expected text, the translation of the segment.")
    return ReferenceSegment(offset, duration, reference)


def _seconds(segment: dict[str, Any], key: str, place: str) -> float:
    value = segment.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and number >= 0:
            return number
    raise DatasetError(f"{place}: {_found(segment, key)}; expected seconds, a number from 0.")


def _found(segment: dict[str, Any], key: str) -> str:
    return f"`{key}` is {_shown(segment[key])}" if key in segment else f"`{key}` is missing"


def _shown(value: object, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, int, float)) else type(value).__name__
    text = {"NoneType": "null", "dict": "an object", "list": "a list"}.get(text, text)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _values(path: Path) -> Iterator[Any]:
    """Yield the column's value of each row of a JSON or JSONL file; None where it has none."""
    with path.open("rb") as handle:
        is_list = handle.read(1024).removeprefix(_BOM).lstrip()[:1] == b"["
        handle.seek(0)
        if is_list:
            rows = _load(handle.read(), str(path), str)
            yield from (_value_of(row, f"{path}, row {number}") for number, row in enumerate(rows, 1))
            return
        lines = ((number, line) for number, line in enumerate(handle, 1) if line.strip())
        key = json.dumps(COLUMN).encode()
        for number, line in lines:  # most rows of most datasets have none, and are not parsed
            place = f"{path}, line {number}"
            yield _value_of(_load(line, place, parse_problem), place) if key in line else None


def _load(text: bytes, place: str, problem: Callable[[Exception], str]) -> Any:
    try:
        return json.loads(text.removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{place}: not valid JSON ({problem(error)}). Write the file again.") from error


def _value_of(row: Any, place: str) -> Any:
    if not isinstance(row, dict):
        raise DatasetError(f"{place}: {_shown(row)}; expected an object.")
    return row.get(COLUMN)
