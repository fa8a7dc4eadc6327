"""JSON rows of untrusted files: read line by line, lines are bounded, errors name the file and the line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import orjson

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.json_files import parse_problem
from simulsa_plugin.metrics.records import EmissionRecord

LONGEST_LOG_LINE = 32 * 2**20  # bytes; a ten-hour talk in characters stays below


def read_rows(path: Path, forms: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, JSON object) of every line; blank lines are allowed at the end only.

    Raises:
        LogError: the file cannot be read, or a line is not a JSON object, holds NaN or infinity, or is too long.
    """
    blank = 0
    for number, line in enumerate(read_log_lines(path, "log", forms), 1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise LogError(f"{path}, line {blank}: a blank line; expected one JSON object per line.")
        yield (
            number,
            on_line(path, number, _parse_row, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, forms),
        )


def read_log_lines(path: Path, what: str, forms: str) -> Iterator[bytes]:
    r"""Yield the lines of a file, ended by \n.

    Raises:
        LogError: the file cannot be read, or a line is too long.
    """
    number = 0
    try:
        with path.open("rb") as handle:
            while line := handle.readline(LONGEST_LOG_LINE + 1):
                number += 1
                if len(line) > LONGEST_LOG_LINE:
                    raise LogError(f"{path}, line {number}: longer than {LONGEST_LOG_LINE} bytes. {forms}")
                yield line
    except OSError as error:
        raise LogError(f"Cannot read the {what} {path}: {reason_of(error)}. {forms}") from error


def on_line(path: Path, number: int, parse: Any, *arguments: Any) -> Any:
    """Call `parse`; add the file and the line to its LogError."""
    try:
        return parse(*arguments)
    except LogError as error:
        raise LogError(f"{path}, line {number}: {error}") from error


def get_times(row: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    """Return the milliseconds under a key; None where the key is absent or null."""
    times = row.get(key)
    if times is None:
        return None
    if not isinstance(times, list):
        raise LogError(f"{key} is {abbreviated(times)}; expected a list of milliseconds.")
    if set(map(type, times)) <= {int, float}:
        with contextlib.suppress(OverflowError):  # reported below, with its key
            return tuple(map(float, times))
    return tuple(to_number(key, time) for time in times)


def has_text_source(row: Mapping[str, Any]) -> bool:
    """Return whether the source of a SimulEval instance is text: a sentence of `source_length` tokens.

    The delays then count tokens of the source. For speech, `source` is a list of lines about the audio, or a name, and
    the length is in milliseconds. Some versions count an end mark as a token.

    >>> has_text_source({"source": "we go home", "source_length": 3, "delays": [1, 3]})
    True
    >>> has_text_source({"source": "talk.wav", "source_length": 2000.0, "delays": [500.0]})
    False
    """
    source, length, delays = row.get("source"), row.get("source_length"), row.get("delays")
    if not isinstance(source, str) or not isinstance(length, (int, float)) or not isinstance(delays, list):
        return False
    tokens = len(source.split())
    return length in (tokens, tokens + 1) and all(
        isinstance(delay, (int, float)) and delay <= length and delay == int(delay) for delay in delays
    )


def get_number(row: Mapping[str, Any], key: str, unit: str = "milliseconds") -> float | None:
    """Return the number under a key; None where the key is absent or null."""
    value = row.get(key)
    return None if value is None else to_number(key, value, unit)


def to_number(key: str, value: object, unit: str = "milliseconds") -> float:
    """Convert a JSON number to float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LogError(f"{key} holds {abbreviated(value)}; expected {unit}.")
    try:
        return float(value)
    except OverflowError as error:
        raise LogError(f"{key} holds a number of {len(str(value))} digits; expected {unit}.") from error


def get_text(row: Mapping[str, Any], key: str, default: object = None) -> str:
    """Return the text under a key."""
    text = row.get(key, default)
    if not isinstance(text, str):
        raise LogError(f"{key} is {abbreviated(text)}; expected a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LogError(f"{key} holds a lone surrogate (half a character); expected a text.") from error
    return text


def get_texts(row: Mapping[str, Any], key: str) -> list[str]:
    """Return the list of texts under a key."""
    texts = row.get(key)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise LogError(f"{key} is {abbreviated(texts)}; expected a list of texts.")
    return texts


def parse_instance(
    row: Mapping[str, Any],
    position: int,
    keys: tuple[str, str],
    *,
    source: str | tuple[str, ...],
    recording_end: float | None = None,
    optional_delays: bool = False,
) -> EmissionRecord:
    """Parse what SimulEval's and OmniSTEval's rows share.

    Args:
        row: a line's object.
        position: of the line, which is its index where it names none.
        keys: of delays and of elapsed times.
        source: of the record.
        recording_end: of the record, milliseconds.
        optional_delays: whether an instance without text may lack delays.

    Raises:
        LogError: a key is missing or holds something else.
    """
    prediction, delays = get_text(row, "prediction"), get_times(row, keys[0])
    if delays is None and (prediction.strip() or not optional_delays):
        raise LogError(f"no {keys[0]}; expected a list of milliseconds, one per unit of the prediction.")
    return EmissionRecord(
        index=get_index(row, position),
        prediction=prediction,
        reference=None if row.get("reference", "") is None else get_text(row, "reference", default=""),
        delays=delays or (),
        elapsed=get_times(row, keys[1]),
        source_length=get_number(row, "source_length"),
        source=source,
        recording_end=recording_end,
        text_source=has_text_source(row),
    )


def get_index(row: Mapping[str, Any], position: int) -> int:
    """Return the index of an instance; its position where the row has none."""
    index = row.get("index", position)
    if isinstance(index, bool) or not isinstance(index, int):
        raise LogError(f"index is {abbreviated(index)}; expected a whole number.")
    return index


def abbreviated(value: object) -> str:
    """Abbreviate a value for an error message."""
    shown = json.dumps(_prune(value), ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "…"


def _prune(value: object, levels: int = 3) -> Any:
    """Cut a value down for an error message: it may contain itself, dates, or a million copies of a list."""
    if isinstance(value, (list, tuple)):
        return [_prune(item, levels - 1) for item in value[:9]] if levels else "…"
    if isinstance(value, dict):
        return {str(key): _prune(item, levels - 1) for key, item in list(value.items())[:9]} if levels else "…"
    return value if isinstance(value, (str, bool, int, float)) or value is None else str(value)


def reason_of(error: Exception) -> str:
    """Describe an exception."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _parse_row(line: bytes, forms: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _parse_slowly(line, forms)
    if not isinstance(row, dict):
        raise LogError(f"a JSON {type(row).__name__}; expected an object. {forms}")
    return row


def _parse_slowly(line: bytes, forms: str) -> Any:
    """Parse what orjson rejects: NaN, which has a specific message, or a number beyond its range."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise LogError(f"not valid JSON ({parse_problem(error)}). {forms}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise LogError(f"holds {name}; allowed: finite numbers. Fix the program that wrote it.")
