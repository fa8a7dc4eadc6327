"""Files that are written whole or not at all, and stay after a power cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

from simulsa_plugin.errors import StorageError

UNFINISHED = ".unfinished"  # ends the name of a file that is still being written


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
DISK_ERRORS = _NO_ROOM | {errno.EROFS, errno.EIO}  # the disk's fault, wherever they come from
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS}  # the file system has no fsync
_SYNCS_AT_ONCE = 32  # the file system commits them together: a thousand clips in 0.3 s, and in 7 s one by one


def cannot_write(what: object, error: OSError) -> StorageError:
    """Return the error for a write that the system refused: what could not be written, why, and the next step.

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
        step = "Fix that and start again: the run goes on where it stopped."
    return StorageError(f"Cannot write {what}: {error.strerror or error}. {step}")


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Name `path` in errors of the system. Only the writing itself belongs inside: all OSErrors are taken for its own.

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
        StorageError: a file is in the way, or the place cannot be written.
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
        StorageError: a link or a file is in the way, or the place cannot be written.
    """
    refuse_link(path)
    return make_folder(path)


def refuse_link(path: Path) -> None:
    """Raise StorageError where a symbolic link stands: the target of a link is not written."""
    if path.is_symlink():
        raise StorageError(f"{path} is a link and will not be written through. Remove it, or choose another place.")


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: what was renamed, made or removed there stays so after a power loss.

    Raises:
        StorageError: the disk fails; a file system without fsync is taken as it is.
    """
    with writing_to(folder):
        sync_path(folder)


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
        sync_path(path.parent)


def _sync_file(path: Path) -> None:
    with writing_to(path):
        sync_path(path)


def sync_path(path: Path) -> None:
    """Sync a file or folder by its path; a folder that cannot be opened for reading is left alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # a folder may be writable and not readable
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Sync an open file, where its file system can."""
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
            raise StorageError(f"{path} is not a regular file and will not be replaced. Choose another name.")
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
                sync(descriptor)
        handle.close()
        with writing_to(path):
            os.replace(name, path)
            if durable:
                sync_path(path.parent)
    except BaseException:
        # What stopped us is the news: no flush of what is still buffered, and no failure of this, may hide it.
        with contextlib.suppress(StorageError):
            raw.close()
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def remove_abandoned(path: Path) -> None:
    """Remove what killed writers of a file left beside it, where no lock keeps others from writing it too.

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


def _mode(path: Path) -> int:
    """Return the permissions of a file that is replaced, or those of a new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
