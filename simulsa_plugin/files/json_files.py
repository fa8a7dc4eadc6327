"""JSON and JSON Lines, with checksums where rows must survive a crash."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonlines
import orjson

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import replacing

Json = dict[str, Any]  # an object of a JSON file
CHECKSUM = "checksum"  # the last key of a row that says whether it is still what was written


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON (UTF-8, one trailing newline), whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path, "w") as handle:
        handle.write(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_lines(path, map(dump_line, rows))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text (UTF-8), whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path, "w") as handle:
        handle.writelines(f"{line}\n" for line in lines)


def dump_line(value: Any) -> str:
    """Dump a value as one JSON line: UTF-8 as it is, NaN and infinity refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def dump_sealed(row: Mapping[str, Any]) -> str:
    """Dump a row that has a key as by `dump_line`, with the CRC-32 of that line as its last value.

    >>> dump_sealed({"id": "a"})
    '{"id": "a", "checksum": "af678071"}'
    """
    line = dump_line({key: value for key, value in row.items() if key != CHECKSUM})
    return f"{line[:-1]}{_seal(crc32_hex(line.encode()))}"


def crc32_hex(data: bytes) -> str:
    """Compute the CRC-32 of bytes as eight hexadecimal digits.

    >>> crc32_hex(b"a")
    'e8b7be43'
    """
    return f"{zlib.crc32(data):08x}"


def _seal(checksum: object) -> str:
    return f', "{CHECKSUM}": "{checksum}"}}'


def ends_with_checksum(line: str, checksum: object) -> bool:
    """Return whether a line ends with its checksum, and the rest is unchanged."""
    seal = _seal(checksum)
    return line.endswith(seal) and crc32_hex(f"{line[: -len(seal)]}}}".encode()) == checksum


class _ChangedError(ValueError):
    """A row is not what was written."""


def load_sealed(line: str) -> Any:
    """Load the value of a line; of a row that `dump_sealed` wrote, without its checksum.

    Raises:
        ValueError: it is not valid JSON, or was changed since; other spacing or escapes with the same values are no
            change.
    """
    row = orjson.loads(line)
    if not isinstance(row, dict) or CHECKSUM not in row:
        return row
    checksum = row.pop(CHECKSUM)
    if not ends_with_checksum(line.rstrip(), checksum) and not dump_sealed(row).endswith(_seal(checksum)):
        raise _ChangedError("changed after it was written")
    return row


def read_whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield rows of a JSONL file, sealed or not, without those that are torn or were changed after they were written.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    with reading_from(path), path.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                row = load_sealed(line.decode("utf-8"))
                if isinstance(row, dict):
                    yield row


def read_jsonl(path: Path, *, sealed: bool = False) -> Iterator[dict[str, Any]]:
    """Yield rows of a JSONL file.

    Args:
        path: of the file.
        sealed: of a file that `dump_sealed` may have written: check each row that has a checksum, and drop that.

    Raises:
        StorageError: the file is missing or unreadable, is not UTF-8, or a line is not a JSON object or was changed
            after it was written; the line is named.
    """
    loads = load_sealed if sealed else orjson.loads
    with reading_from(path), path.open("rb") as handle, jsonlines.Reader(handle, loads=loads) as reader:
        try:
            yield from reader.iter(type=dict, skip_empty=True)
        except jsonlines.InvalidLineError as error:
            if isinstance(error.__cause__, _ChangedError):
                raise StorageError(
                    f"{path}, line {error.lineno}: damaged, or changed after it was written. Start the command that "
                    f"made the file again; where the change is meant, remove {CHECKSUM} from the line."
                ) from error
            raise StorageError(f"{path}, line {error.lineno}: not a JSON object.") from error


def parse_problem(error: Exception) -> str:
    """Describe why one line of a file cannot be parsed; parsers count from that line, and call it line 1.

    >>> try:
    ...     json.loads('{"a": }')
    ... except ValueError as error:
    ...     parse_problem(error)
    'Expecting value at column 7'
    """
    if isinstance(error, json.JSONDecodeError):  # orjson's as well
        return f"{error.msg} at column {error.colno}"
    return str(error) or type(error).__name__


def readable_file_advice(error: OSError) -> str:
    """Return the next step where a file cannot be read; never to remove it, as it may be all that the user has."""
    return "A file is expected." if isinstance(error, IsADirectoryError) else "Make it readable."


@contextlib.contextmanager
def reading_from(path: Path) -> Iterator[None]:
    """Raise StorageError for what goes wrong while a file is read."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}. {readable_file_advice(error)}") from error
