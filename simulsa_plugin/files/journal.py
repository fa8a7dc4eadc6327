"""A file of rows that a killed run goes on from."""

from __future__ import annotations

import contextlib
import io
import json
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import refuse_link, sync, sync_path, writing_to
from simulsa_plugin.files.json_files import CHECKSUM, dump_sealed, ends_with_checksum, load_sealed, reading_from


class Journal:
    """Append-only JSONL by `id` that a killed process can go on with; memory holds where the rows are, not the rows.

    Every row is handed to the kernel as it is appended: a kill loses at most the row that is being written, and a power
    loss about half a minute's; when it is closed, all is on the disk. Opening cuts off everything from the first line
    on that is not a whole row: no newline, no JSON object, no string as `id`, an `id` for the second time, or not the
    checksum that every row gets.

    Raises:
        StorageError: by every method, where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: dict[str, int] = {}  # id → which row
        self._starts = array("Q", [0])  # byte at which each row begins; the last one is the end of the file
        refuse_link(path)
        self._changed = False
        with writing_to(path):
            self._file = path.open("a+b", buffering=0)
        try:
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _recover(self) -> None:
        with reading_from(self.path), self.path.open("rb") as lines:
            for line in lines:
                identifier = _journal_id(line)
                if identifier is None or identifier in self._index:
                    break
                self._add(identifier, len(line))
        with writing_to(self.path):
            if self._file.seek(0, os.SEEK_END) > self._starts[-1]:
                self._file.truncate(self._starts[-1])
                self._changed = True

    def _add(self, identifier: str, num_bytes: int) -> None:
        self._index[identifier] = len(self._index)
        self._starts.append(self._starts[-1] + num_bytes)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._index

    def __len__(self) -> int:
        return len(self._index)

    def read(self, identifier: str) -> dict[str, Any]:
        """Read one row from the disk.

        Raises:
            KeyError: no row has this id.
            StorageError: the row on the disk is another one by now.
        """
        number = self._index[identifier]
        start, end = self._starts[number], self._starts[number + 1]
        with reading_from(self.path):
            line = os.pread(self._file.fileno(), end - start, start)
        with contextlib.suppress(ValueError):
            row = load_sealed(line.decode("utf-8"))
            if isinstance(row, dict) and row.get("id") == identifier:
                return row
        raise StorageError(f"{self.path} was changed while it was open. Start again: the run goes on from there.")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; it is in the file when this returns, or the file is as it was.

        Raises:
            ValueError: its id is not a string or exists already, or a value is not valid JSON (such as NaN).
        """
        identifier = row.get("id")
        if not isinstance(identifier, str):
            raise ValueError(f"A row of {self.path} has the id {identifier!r}; it must be a string.")
        if identifier in self._index:
            raise ValueError(f"{self.path} has a row {identifier!r} already.")
        line = f"{dump_sealed(row)}\n".encode()
        self._changed = True
        try:
            with writing_to(self.path):
                _write_all(self._file, line)
        except BaseException:
            with contextlib.suppress(OSError):  # if this fails too, the next opening cuts the torn row off
                self._file.truncate(self._starts[-1])
            raise
        self._add(identifier, len(line))

    def close(self) -> None:
        """Close the file; its rows are on the disk then."""
        with writing_to(self.path), contextlib.closing(self._file):
            if self._changed:
                self._changed = False
                sync(self._file.fileno())
                sync_path(self.path.parent)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


# Checks every number and converts none (`len` is but a quick function): that halves the time to open a long journal.
_CHECKER = json.JSONDecoder(parse_float=len, parse_int=len, parse_constant=_refuse_constant)


def _journal_id(line: bytes) -> str | None:
    """Return the id of a journal's line, or None where the row is torn or was changed."""
    if not line.endswith(b"\n"):
        return None
    try:
        text = line.decode("utf-8")
        row = _CHECKER.decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    changed = CHECKSUM in row and not ends_with_checksum(text.rstrip("\n"), row[CHECKSUM])
    return None if changed else str(row["id"])


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write everything: a disk that fills up takes a part first and says so at the next call."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
