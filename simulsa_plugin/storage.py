"""Files that survive a kill: write-then-rename, JSONL that resumes by id, a lock that leaves nothing stale."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

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
    """Append-only JSONL that a killed process can go on with: a torn last line is cut off when it is opened.

    Rows are flushed as they are written, so at most the last row is lost with the process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = list(self._recover())
        self._handle = path.open("a", encoding="utf-8")

    def _recover(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        kept = 0
        with self.path.open("rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                except ValueError:
                    break
                yield row
                kept += len(line)
        os.truncate(self.path, kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self._handle.write(dump_line(row) + "\n")
        self._handle.flush()
        self.rows.append(dict(row))

    def close(self) -> None:
        """Close the file; the journal stays on disk."""
        self._handle.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
