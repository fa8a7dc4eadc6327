"""Files that survive a kill: write-then-rename, JSONL that resumes by id, a lock that leaves nothing stale."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import jsonlines

from simulsa_plugin.errors import StorageError

UNFINISHED = ".unfinished"  # ends the name of a file that is still being written

# How our own datasets stand in dataset_info.json: the form that LLaMA-Factory and ms-swift both read.
SHAREGPT_ENTRY: dict[str, Any] = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "audios": "audios"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        StorageError: a file stands there, or the place cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StorageError(f"{path} is a file; the output needs a folder. Choose another --out.") from error
    except NotADirectoryError as error:
        raise StorageError(f"{path} lies below a file; the output needs a folder. Choose another --out.") from error
    except OSError as error:
        raise StorageError(f"Cannot create the folder {path}: {error.strerror}. Choose another --out.") from error
    return path


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it takes the name of `path`, on failure it vanishes.

    Raises:
        StorageError: the folder is missing or cannot be written, or something that is no file stands at `path`.
    """
    path = path.resolve()  # the file behind a link is replaced, not the link
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is no regular file and will not be replaced. Choose another name.")
    encoding = None if "b" in mode else "utf-8"
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror}. Choose a folder that exists.") from error
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as handle:
            yield handle
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed writers of `folder/name` left behind; the caller holds the lock under which it is written."""
    for path in folder.glob(f".{name}.*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON (UTF-8, one trailing newline), whole or not at all."""
    with replacing(path, "w") as handle:
        handle.write(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL, whole or not at all."""
    with replacing(path, "w") as handle, jsonlines.Writer(handle, dumps=dump_line) as writer:
        writer.write_all(rows)


def dump_line(value: Any) -> str:
    """One JSON line: UTF-8 as it is, NaN and infinity refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file.

    Raises:
        StorageError: the file is missing or a line is no JSON object; the line is named.
    """
    try:
        with jsonlines.open(path) as reader:
            yield from reader.iter(type=dict, skip_empty=True)
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except jsonlines.InvalidLineError as error:
        raise StorageError(f"{path}, line {error.lineno}: not a JSON object.") from error


class Journal:
    """Append-only JSONL by `id` that a killed process can go on with; memory holds where the rows are, not the rows.

    Every row is handed to the kernel as it is appended: a kill loses at most the row that is being written. Opening
    cuts off everything from the first line on that is no whole row: no newline, no JSON object, no string as `id`, or
    an `id` for the second time.

    Raises:
        StorageError: by every method, where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: dict[str, int] = {}  # id → which row
        self._starts = array("Q", [0])  # byte at which each row begins; the last one is the end of the file
        self._file = path.open("a+b", buffering=0)
        try:
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _recover(self) -> None:
        with self.path.open("rb") as lines:
            for line in lines:
                identifier = _journal_id(line)
                if identifier is None or identifier in self._index:
                    break
                self._add(identifier, len(line))
        if self._file.seek(0, os.SEEK_END) > self._starts[-1]:
            self._file.truncate(self._starts[-1])

    def _add(self, identifier: str, num_bytes: int) -> None:
        self._index[identifier] = len(self._index)
        self._starts.append(self._starts[-1] + num_bytes)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._index

    def __len__(self) -> int:
        return len(self._index)

    def read(self, identifier: str) -> dict[str, Any]:
        """One row, from the disk.

        Raises:
            KeyError: no row has this id.
            StorageError: the row on the disk is another one by now.
        """
        number = self._index[identifier]
        start, end = self._starts[number], self._starts[number + 1]
        line = os.pread(self._file.fileno(), end - start, start)
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("id") == identifier:
                return row
        raise StorageError(f"{self.path} was changed while it was open. Start again: the run goes on from there.")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; it is in the file when this returns, or the file is as it was.

        Raises:
            ValueError: its id is no string or is there already, or a value is no JSON (NaN among them).
        """
        identifier = row.get("id")
        if not isinstance(identifier, str):
            raise ValueError(f"A row of {self.path} has the id {identifier!r}; it must be a string.")
        if identifier in self._index:
            raise ValueError(f"{self.path} has a row {identifier!r} already.")
        line = f"{dump_line(row)}\n".encode()
        try:
            _write_all(self._file, line)
        except BaseException:
            with contextlib.suppress(OSError):  # if this fails too, the next opening cuts the torn row off
                self._file.truncate(self._starts[-1])
            raise
        self._add(identifier, len(line))

    def close(self) -> None:
        """Close the file; the journal stays on disk."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# Checks every number and converts none (`len` is but a quick function): that halves the time to open a long journal.
_CHECKER = json.JSONDecoder(parse_float=len, parse_int=len, parse_constant=_refuse_constant)


def _journal_id(line: bytes) -> str | None:
    """The id of a journal's line, or None where it is no whole row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = _CHECKER.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    identifier = row.get("id") if isinstance(row, dict) else None
    return identifier if isinstance(identifier, str) else None


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write everything: a disk that fills up takes a part first and says so at the next call."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process. The kernel drops the lock with the process, so a kill -9 leaves nothing stale.

    Args:
        folder: what to hold; it exists.
        wait: wait for the holder, for short work, instead of refusing.

    Raises:
        StorageError: another process holds the folder, its number is named; or the folder cannot be written.
    """
    path = folder / ".lock"
    handle = _lock_file(path, folder, wait)
    with handle:
        handle.seek(0)
        handle.truncate()
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock_file(path: Path, folder: Path, wait: bool) -> IO[str]:
    while True:
        try:
            handle = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"Cannot write into {folder}: {error.strerror}. Choose another --out.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            handle.close()
            raise StorageError(
                f"{folder} is in use by process {holder}. Wait for it, or choose another --out."
            ) from error
        if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
            return handle
        handle.close()  # the holder before us removed the file that we had opened; lock the one that counts


def merge_dataset_info(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Put entries into `folder/dataset_info.json`; other entries stay.

    Raises:
        StorageError: the file is no JSON object.
    """
    path = folder / "dataset_info.json"
    with locked(folder, wait=True):
        remove_leftovers(folder, path.name)
        try:
            info = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise StorageError(f"{path} is no JSON ({error}). Mend or remove it.") from error
        if not isinstance(info, dict):
            raise StorageError(f"{path} holds a {type(info).__name__}; expected an object of datasets by name.")
        merged = info | {name: dict(entry) for name, entry in entries.items()}
        if merged != info:
            write_json(path, merged)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
