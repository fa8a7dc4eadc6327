"""Files that survive a kill or a power loss: write-then-rename, JSONL that resumes by id, a lock that is never stale.

What is relied on is on the disk first: content before its rename; a file, and its name in its folder, before that which
it replaces is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import stat
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import jsonlines
import orjson

from simulsa_plugin.errors import FolderInUseError, StorageError

CHECKSUM = "checksum"  # the last key of a row that says whether it is still what was written
UNFINISHED = ".unfinished"  # ends the name of a file that is still being written
LOCK = ".simulsa.lock"  # in a folder that is held; the name is nobody else's
DATASET_INFO = "dataset_info.json"

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


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
DISK_ERRORS = _NO_ROOM | {errno.EROFS, errno.EIO}  # the disk's fault, wherever they come from
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS}  # the file system has no fsync
_SYNCS_AT_ONCE = 32  # the file system commits them together: a thousand clips in 0.3 s, and in 7 s one by one


def cannot_write(what: object, error: OSError) -> StorageError:
    """The one line for a write that the system refused: what could not be written, why, and what to do about it.

    >>> print(cannot_write("a.json", OSError(errno.ENOSPC, "No space left on device")))
    Cannot write a.json: No space left on device. Make room and start again: the run goes on where it stopped.
    """
    if error.errno in _NO_ROOM:
        step = "Make room and start again: the run goes on where it stopped."
    elif error.errno in _NOT_ALLOWED:
        step = "Choose another --out, or allow writing there."
    elif error.errno in {errno.ENOENT, errno.ENOTDIR}:
        step = "Choose a folder that exists."
    else:
        step = "Mend that and start again: the run goes on where it stopped."
    return StorageError(f"Cannot write {what}: {error.strerror or error}. {step}")


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Name `path` in what the system says. Only the writing itself belongs inside: all OSErrors are taken for its own.

    Raises:
        StorageError: of `cannot_write`.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


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
        raise cannot_write(f"the folder {path}", error) from error
    return path


def make_own_folder(path: Path) -> Path:
    """Create a folder of this program's inside an output folder; unlike that one, it may not be a link.

    Raises:
        StorageError: a link or a file stands there, or the place cannot be written.
    """
    refuse_link(path)
    return make_folder(path)


def refuse_link(path: Path) -> None:
    """Raise StorageError where a symbolic link stands: what lies behind it is not ours to write."""
    if path.is_symlink():
        raise StorageError(f"{path} is a link and will not be written through. Remove it, or choose another place.")


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: what was renamed, made or removed there stays so after a power loss.

    Raises:
        StorageError: the disk fails; a file system without fsync is taken as it is.
    """
    with writing_to(folder):
        _sync_path(folder)


def sync_files(paths: Iterable[Path]) -> None:
    """Put files that were written with `durable=False`, and their names, on the disk, many at once.

    Raises:
        StorageError: one is missing, or the disk fails; a file system without fsync is taken as it is.
    """
    files = list(paths)
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        for _ in pool.map(_sync_file, files):
            pass
    for folder in sorted({path.parent for path in files}):
        sync_folder(folder)


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, so that no power loss brings it back. What replaces it is on the disk already.

    Raises:
        StorageError: it cannot be removed.
    """
    with writing_to(path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        _sync_path(path.parent)


def _sync_file(path: Path) -> None:
    with writing_to(path):
        _sync_path(path)


def _sync_path(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # a folder may be writable and not readable
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


class _Output(io.FileIO):
    """A file being written whose every failure names the file that it will become.

    Buffers and encoders above pass its errors through, so what else fails while it is open keeps its own error.
    """

    def __init__(self, descriptor: int, target: Path) -> None:
        super().__init__(descriptor, "wb")
        self.target = target

    def write(self, data: Any) -> int:
        with writing_to(self.target):
            return super().write(data)

    def close(self) -> None:
        with writing_to(self.target):
            super().close()


@contextlib.contextmanager
def replacing(path: Path, mode: Literal["w", "wb"] = "wb", *, durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it takes the name of `path`, on failure it vanishes.

    After success the new content is there even after a power loss. A kill leaves the temporary file; see
    `remove_leftovers` and `remove_abandoned`.

    Args:
        path: of the file.
        mode: text (UTF-8) or bytes.
        durable: False for one of many small files that are put on the disk together; see `sync_files`.

    Raises:
        StorageError: the folder is missing, full or cannot be written, or a link or a folder stands at `path`.
    """
    with writing_to(path):
        refuse_link(path)
        if path.exists() and not path.is_file():
            raise StorageError(f"{path} is no regular file and will not be replaced. Choose another name.")
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    with contextlib.suppress(OSError):  # some file systems have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # while it is held, the writer lives
    raw = _Output(descriptor, path)
    buffered = io.BufferedWriter(raw)
    handle = buffered if mode == "wb" else io.TextIOWrapper(buffered, encoding="utf-8")
    try:
        yield handle
        handle.flush()
        with writing_to(path):
            os.chmod(name, _mode(path))
            if durable:
                _sync(descriptor)
        handle.close()
        with writing_to(path):
            os.replace(name, path)
            if durable:
                _sync_path(path.parent)
    except BaseException:
        # What stopped us is the news: no flush of what is still buffered, and no failure of this, may hide it.
        with contextlib.suppress(StorageError):
            raw.close()
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def remove_abandoned(path: Path) -> None:
    """Remove what killed writers of a file left beside it, where no lock of ours keeps others from writing it too.

    Those that are still at work hold their files; what cannot be told from theirs, or removed, stays.
    """
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            middle = entry.name.removeprefix(f".{path.name}.").removesuffix(UNFINISHED)
            if entry.name == f".{path.name}.{middle}{UNFINISHED}" and "." not in middle:
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(entry.path)


def _remove_if_abandoned(name: str) -> None:
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers of `folder/name` (or of any file) left behind; the caller holds the lock for it.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    prefix = "." if name is None else f".{name}."
    with writing_to(folder), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(prefix) and entry.name.endswith(UNFINISHED)):
                continue
            middle = entry.name[len(prefix) : -len(UNFINISHED)]
            if (name is None or "." not in middle) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


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
    with replacing(path, "w") as handle, jsonlines.Writer(handle, dumps=dump_line) as writer:
        writer.write_all(rows)


def dump_line(value: Any) -> str:
    """One JSON line: UTF-8 as it is, NaN and infinity refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def dump_sealed(row: Mapping[str, Any]) -> str:
    """`dump_line` of a row that has a key, with the CRC-32 of that line as its last value.

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


def _ends_with_seal(line: str, checksum: object) -> bool:
    """Whether a line ends with its checksum, and the rest is what it was made of."""
    seal = _seal(checksum)
    return line.endswith(seal) and crc32_hex(f"{line[: -len(seal)]}}}".encode()) == checksum


class _ChangedError(ValueError):
    """A row is not what was written."""


def load_sealed(line: str) -> Any:
    """The value of a line; of a row that `dump_sealed` wrote, without its checksum.

    Raises:
        ValueError: it is not valid JSON, or was changed since; other spacing or escapes with the same values are no
            change.
    """
    row = orjson.loads(line)
    if not isinstance(row, dict) or CHECKSUM not in row:
        return row
    checksum = row.pop(CHECKSUM)
    if not _ends_with_seal(line.rstrip(), checksum) and not dump_sealed(row).endswith(_seal(checksum)):
        raise _ChangedError("changed after it was written")
    return row


def read_whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file, sealed or not, without those that are torn or were changed after they were written.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    with _reading_from(path), path.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                row = load_sealed(line.decode("utf-8"))
                if isinstance(row, dict):
                    yield row


def read_jsonl(path: Path, *, sealed: bool = False) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file.

    Args:
        path: of the file.
        sealed: of a file that `dump_sealed` may have written: check each row that has a checksum, and drop that.

    Raises:
        StorageError: the file is missing or unreadable, is not UTF-8, or a line is not a JSON object or was changed
            after it was written; the line is named.
    """
    loads = load_sealed if sealed else orjson.loads
    with _reading_from(path), path.open("rb") as handle, jsonlines.Reader(handle, loads=loads) as reader:
        try:
            yield from reader.iter(type=dict, skip_empty=True)
        except jsonlines.InvalidLineError as error:
            if isinstance(error.__cause__, _ChangedError):
                raise StorageError(
                    f"{path}, line {error.lineno}: damaged, or changed after it was written. Start the command that "
                    f"made the file again; where the change is meant, remove {CHECKSUM} from the line."
                ) from error
            raise StorageError(f"{path}, line {error.lineno}: not a JSON object.") from error


@contextlib.contextmanager
def _reading_from(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except OSError as error:
        raise StorageError(
            f"Cannot read {path}: {error.strerror or error}. Make it readable, or remove it."
        ) from error


class Journal:
    """Append-only JSONL by `id` that a killed process can go on with; memory holds where the rows are, not the rows.

    Every row is handed to the kernel as it is appended: a kill loses at most the row that is being written, and a power
    loss about half a minute's; when it is closed, all is on the disk. Opening cuts off everything from the first line
    on that is no whole row: no newline, no JSON object, no string as `id`, an `id` for the second time, or not the
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
        with _reading_from(self.path), self.path.open("rb") as lines:
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
        """One row, from the disk.

        Raises:
            KeyError: no row has this id.
            StorageError: the row on the disk is another one by now.
        """
        number = self._index[identifier]
        start, end = self._starts[number], self._starts[number + 1]
        with _reading_from(self.path):
            line = os.pread(self._file.fileno(), end - start, start)
        with contextlib.suppress(ValueError):
            row = load_sealed(line.decode("utf-8"))
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
                _sync(self._file.fileno())
                _sync_path(self.path.parent)

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
        text = line.decode("utf-8")
        row = _CHECKER.decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return None
    changed = CHECKSUM in row and not _ends_with_seal(text.rstrip("\n"), row[CHECKSUM])
    return None if changed else str(row["id"])


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write everything: a disk that fills up takes a part first and says so at the next call."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process. The kernel drops the lock with the process, so a kill -9 leaves nothing stale.

    Processes that are forked meanwhile do not hold it: one that outlives a killed parent must not lock it out.

    Args:
        folder: what to hold; it exists.
        wait: wait for the holder, for short work, instead of refusing.

    Raises:
        StorageError: another process holds the folder, its number is named; or the folder cannot be written.
    """
    path, owner = folder / LOCK, os.getpid()
    descriptor = _lock_file(path, folder, wait)
    _HELD.add(descriptor)
    try:
        with writing_to(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{owner}\n".encode())
        yield
    finally:
        if os.getpid() == owner:
            with contextlib.suppress(OSError):  # a file that stays is no lock that stays
                path.unlink(missing_ok=True)
            _HELD.discard(descriptor)
            os.close(descriptor)


def _lock_file(path: Path, folder: Path, wait: bool) -> int:
    """A descriptor of the lock file, locked."""
    while True:
        refuse_link(path)
        with writing_to(folder):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            with writing_to(path):  # some network file systems have no locks
                _flock(descriptor, folder, wait)
            if _is_file_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder before us removed the file that we had opened; lock the one that counts


def _flock(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        time.sleep(_NUMBER_SECONDS)
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise FolderInUseError(
            f"{folder} is in use by process {holder}. Wait for it, or choose another --out."
        ) from error


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_NUMBER_SECONDS = 0.05  # a holder may have the lock, but not yet have written its number over a dead one's
_HELD: set[int] = set()  # descriptors of the locks of this process


def _forget_locks() -> None:
    """In a forked child: close the parent's locks without unlocking them."""
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_forget_locks)


def merge_dataset_info(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Put entries into `folder/dataset_info.json`; all that stands there besides stays byte for byte.

    Raises:
        StorageError: the file cannot be read or written, is a link, or is not a JSON object.
    """
    path = folder / DATASET_INFO
    with locked(folder, wait=True):
        remove_leftovers(folder, path.name)
        info, text = _read_dataset_info(path)
        changed = {name: entry for name, entry in entries.items() if name not in info or info[name] != entry}
        if changed:
            with replacing(path) as handle:
                handle.write(_with_entries(text, changed).encode())


def registered_datasets(folder: Path) -> dict[str, Any]:
    """The entries of `folder/dataset_info.json`; none where there is no such file.

    Raises:
        StorageError: the file cannot be read, or is not a JSON object.
    """
    return _read_dataset_info(folder / DATASET_INFO)[0]


def _read_dataset_info(path: Path) -> tuple[dict[str, Any], str]:
    """The entries and the text of the file."""
    try:
        with _reading_from(path):
            text = path.read_bytes().decode("utf-8") if path.exists() else "{}\n"
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not valid JSON ({error}). Fix or remove it.") from error
    if not isinstance(info, dict):
        raise StorageError(f"{path} holds a {type(info).__name__}; expected an object of datasets by name.")
    return info, text


def _with_entries(text: str, entries: Mapping[str, Any]) -> str:
    r"""The text of a JSON object with entries put in; whatever else it says stays as it is written.

    >>> print(_with_entries('{"mine": [1.50], "a": 0}', {"a": 1, "b": 2}))
    {"mine": [1.50], "a": 1,
      "b": 2
    }
    """
    for name, entry in entries.items():
        value = json.dumps(entry, ensure_ascii=False, indent=2, allow_nan=False).replace("\n", "\n  ")
        spans, end = _value_spans(text)
        if name in spans:
            start, stop = spans[name]
            text = text[:start] + value + text[stop:]
        else:
            before = text[:end].rstrip() + ("," if spans else "")
            text = f"{before}\n  {json.dumps(name, ensure_ascii=False)}: {value}\n{text[end:]}"
    return text


def _value_spans(text: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Where the value of each key of a valid JSON object begins and ends, and where its closing brace is."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,:]*")
    spans: dict[str, tuple[int, int]] = {}
    at = text.index("{") + 1
    while True:
        at = _end(between, text, at)
        if text[at] == "}":
            return spans, at
        name, at = decoder.raw_decode(text, at)
        start = _end(between, text, at)
        _, at = decoder.raw_decode(text, start)
        spans[name] = (start, at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a match that may be empty ends."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _mode(path: Path) -> int:
    """The permissions of a file that is replaced, or those of a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
