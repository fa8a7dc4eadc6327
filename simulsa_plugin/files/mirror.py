"""An output folder in a store: the work is done in a folder of this machine, and copied while it goes on.

Stores have neither locks nor renames nor files that grow. So a run works in a folder of its cache as in any other, and
every half minute what has changed is written below the address: files whole, and the new rows of journals as numbered
objects. A run that was killed is continued from there, on whatever machine. `.simulsa/` below the address holds what is
not part of the result: the lease, who worked last, the journals' pieces until they are done, and the places of shards
(`shard_mirrors`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simulsa_plugin.errors import FolderInUseError, OutputLostError, SimulsaError, StorageError, UsageError
from simulsa_plugin.files import remote
from simulsa_plugin.files.atomic import UNFINISHED, make_folder, writing_to
from simulsa_plugin.files.lease import Lease
from simulsa_plugin.files.locks import LOCK, locked
from simulsa_plugin.files.termination import unwind, unwinding_at_termination

PUSH_SECONDS = 30.0
OWN = ".simulsa"  # the folder below the address that is not part of the result
DRIVER, _LEASE, _JOURNALS = f"{OWN}/driver", f"{OWN}/lease", f"{OWN}/journals"
_WRITTEN = f"{OWN}/written"  # in the local folder: the names of the objects that are of it
_JOURNAL = ".partial.jsonl"  # ends the name of a file that grows by whole lines
# Written when all else is there; `finished` is a shard's.
_MARKS = frozenset(("manifest.json", "scores.json", "frontier.json", "block.json", "finished"))
# What says whose the files beside it are, and is written before these; where a mark replaces one, that is its name.
_CLAIMS = frozenset((".simulsa.json", "owned.json", "started.json"))
_REPLACED = {"manifest.json": "started.json"}
_REMADE = "/clips/"  # a run that goes on makes its clips again, and does not fetch them
_PIECE_BYTES = 32 << 20
_AT_ONCE, _AUDIO_AT_ONCE = 16, 256
_SETTLED_SECONDS = 1.0
_Stamp = tuple[int, int, int]  # inode, size, time of change in ns
logger = logging.getLogger(__name__)


def work_folder(url: str) -> Path:
    """Return the folder of this machine's cache in which the output for an address is made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
    return cache / "simulsa_plugin" / "out" / hashlib.sha256(url.encode()).hexdigest()[:16]


def check_output_address(url: str) -> None:
    """Raise UsageError unless output can be written below an address."""
    if not remote.is_remote(url) or url.partition("://")[0] not in remote.WRITABLE or "?" in url:
        raise UsageError(f"--out is {remote.shown(url)!r}; allowed: a folder, or {'://…, '.join(remote.WRITABLE)}://….")


@contextlib.contextmanager
def mirrored(url: str, sends: Callable[[str], bool] = lambda _: True) -> Iterator[Path]:
    """Yield a local folder whose content is that below an address when the context has ended.

    Args:
        url: of the output; nothing else may lie below it.
        sends: whether a file by this name, relative to the folder, is part of it.

    Raises:
        UsageError: it is not an address that can be written.
        FolderInUseError: another process works there.
        StorageError: something else lies there, or the store cannot be used. What was done stays in the cache, and is
            written when the same command is started again on this machine.
    """
    check_output_address(url)
    url = url.rstrip("/")
    with working_at(url, refuse_inside_another, sends) as mirror:
        yield mirror.folder
    logger.info(f"{remote.shown(url)} holds the result; it was made in {mirror.folder}")


@contextlib.contextmanager
def working_at(
    url: str, check: Callable[[str], None], sends: Callable[[str], bool] = lambda _: True
) -> Iterator[Mirror]:
    """Work alone at an address while the context lasts, and write there what is made; raises as `mirrored`.

    Args:
        url: of the place, without a slash at its end.
        check: raises StorageError where it may not be used.
        sends: whether a file by this name, relative to the place, is written there.
    """
    base = make_folder(work_folder(url))
    with unwinding_at_termination(), _locked_here(base, url), leased(url, check) as lease:
        mirror = Mirror(url, make_folder(base / "folder"), lease, sends)
        mirror.open()
        with _pushing(mirror):
            yield mirror
        mirror.push(ends=True)


@contextlib.contextmanager
def leased(url: str, check: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Keep other processes from an address while the context lasts; raises as `mirrored`."""
    lease = Lease(f"{url}/{_LEASE}", remote.shown(url))
    with naming_the_output(_LEASE, DRIVER):
        check(url)
        lease.take()
    try:
        yield lease
    finally:
        with contextlib.suppress(StorageError):  # it ends by itself
            lease.release()


@contextlib.contextmanager
def naming_the_output(*objects: str) -> Iterator[None]:
    """Let errors about these objects of ours name the address that the user gave."""
    try:
        yield
    except StorageError as error:
        error.args = (re.sub(rf"/({'|'.join(map(re.escape, objects))})\b", "", str(error)),)
        raise


def refuse_inside_another(url: str) -> None:
    """Raise StorageError where an address lies below that of another output, whose runs keep what lies there."""
    scheme, _, path = url.partition("://")
    parts = path.split("/")
    for depth in range(2, len(parts)):  # the first part is the bucket
        parent = f"{scheme}://{'/'.join(parts[:depth])}"
        if remote.read(f"{parent}/{DRIVER}") is not None:
            raise StorageError(
                f"{remote.shown(url)} lies below {remote.shown(parent)}, which holds the output of another run. Choose "
                "an --out beside it."
            )


@contextlib.contextmanager
def _locked_here(base: Path, url: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(base))
        except FolderInUseError as error:
            raise FolderInUseError(str(error).replace(str(base), remote.shown(url))) from error
        yield


@contextlib.contextmanager
def _pushing(mirror: Mirror) -> Iterator[None]:
    """Push again and again while the context lasts, and what is there where it fails.

    Raises:
        OutputLostError: nothing can be written any more; the context is unwound for it.
    """
    stop, lost = threading.Event(), list[OutputLostError]()

    def work() -> None:
        while not stop.wait(PUSH_SECONDS):
            try:
                mirror.push()
            except OutputLostError as error:
                lost.append(error)
                if not stop.is_set():  # else the last push raises it
                    unwind()
                return
            except (SimulsaError, OSError) as error:
                logger.warning(f"{error} The run goes on, and this is tried again.")

    thread = threading.Thread(target=work, name="simulsa-mirror", daemon=True)
    thread.start()
    try:
        yield
        stop.set()
        thread.join()
    except BaseException:
        stop.set()
        thread.join()
        if lost:
            raise lost[0] from None
        with contextlib.suppress(SimulsaError):  # what stopped the run is the news
            mirror.push()
        raise


class Mirror:
    """A local folder and what is below an address; one thread at a time.

    Attributes:
        folder: the local one.
    """

    def __init__(self, url: str, folder: Path, lease: Lease, sends: Callable[[str], bool] = lambda _: True) -> None:
        self.folder = folder
        self._url, self._lease, self._sends = url, lease, sends
        self._stored: dict[str, remote.Stored] = {}  # as listed at the start, unless it was written since
        self._sent: dict[str, _Stamp] = {}
        self._journals: dict[str, tuple[int, int]] = {}  # name → inode, bytes sent
        self._gone: set[str] = set()

    def open(self) -> None:
        """Make the local folder hold what the store has, unless it holds that and more.

        Raises:
            StorageError: something that no run wrote lies below the address, or it cannot be read.
        """
        self._stored = remote.list_below(self._url)
        last = remote.read(f"{self._url}/{DRIVER}")
        if last is None:
            refuse_foreign_objects(self._url, self._stored)
        driver = self.folder / DRIVER  # who worked here last; it goes with the folder, should somebody remove that
        if last is None or not driver.exists() or driver.read_bytes() != last:
            with writing_to(self.folder):
                driver.unlink(missing_ok=True)
                shutil.rmtree(self.folder)
            make_folder(self.folder)
            self._pull()
        else:
            # When they were written is not known: each is compared, and what is not here any more is removed there.
            self._sent = {name: (0, 0, 0) for name in self._read_written() if name in self._stored}
        remote.write(f"{self._url}/{DRIVER}", self._lease.holder.encode())
        make_folder(driver.parent)
        with writing_to(driver):
            driver.write_text(self._lease.holder)

    def fetch(self) -> None:
        """Make an empty folder hold what the store has but clips. Raises StorageError where it cannot be read."""
        self._stored = remote.list_below(self._url)
        self._pull()

    def remove_journals(self, which: Callable[[str], bool]) -> None:
        """Remove journals below the address. Raises StorageError where the store refuses.

        Args:
            which: whether one by this name, relative to the folder, is removed.
        """
        for name in {os.path.dirname(piece) for piece in remote.list_below(f"{self._url}/{_JOURNALS}")}:
            if which(name):
                self._remove_pieces(name, set())

    def push(self, *, ends: bool = False) -> None:
        """Write below the address what has changed in the folder, in the order in which it was written there.

        Args:
            ends: the run has ended, and nothing changes any more.

        Raises:
            StorageError: the store refuses, or another process has taken over.
        """
        self._lease.check(anew=True)
        start, files = time.time(), self._scan()
        self._check_is_there()
        journals = {name: found for name, found in files.items() if name.endswith(_JOURNAL)}
        changed = [name for name in files if name not in journals and self._sent.get(name) != files[name]]
        marks = [name for name in changed if _is_mark(name)]
        if not ends:  # what a mark speaks of was then written before this scan
            marks = [name for name in marks if files[name][2] / 1e9 < start - _SETTLED_SECONDS]
        audio = [name for name in changed if name.endswith(".wav")]
        others = [name for name in changed if not _is_mark(name) and not name.endswith(".wav")]
        self._send_claims(files)
        for name in sorted(others, key=lambda one: (os.path.basename(one) not in _CLAIMS, files[one][2])):
            self._send(name, files[name])
        for name, (inode, size, _) in journals.items():
            self._send_journal(name, inode, size)
        if self._send_audio(audio, files, math.inf if ends else PUSH_SECONDS):
            for name in sorted(marks, key=lambda one: files[one][2]):
                self._send(name, files[name])
            self._remove_gone(files, ends=ends)

    def _check_is_there(self) -> None:
        """Refuse to take for removed by the run what went with the whole folder."""
        if not (self.folder / DRIVER).exists():
            raise OutputLostError(
                f"{self.folder} was removed while the run worked there. Start again: it goes on from what lies below "
                f"{remote.shown(self._url)}."
            )

    def _send_audio(self, names: Sequence[str], files: Mapping[str, _Stamp], seconds: float) -> bool:
        """Write clips for a while, as journals are to be written now and then; return whether all are written."""
        begin = time.monotonic()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(names), _AUDIO_AT_ONCE):
                if time.monotonic() - begin > seconds:
                    return False
                some = names[start : start + _AUDIO_AT_ONCE]
                for _ in pool.map(self._send, some, (files[name] for name in some)):
                    pass
        return True

    def _scan(self) -> dict[str, _Stamp]:
        """Return name → stamp of the files that are part of the output."""
        found: dict[str, _Stamp] = {}
        for folder, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.endswith(UNFINISHED) and name != OWN)
            for file in files:
                path = os.path.join(folder, file)
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    name = os.path.relpath(path, self.folder)
                    whole = stat.S_ISREG(status.st_mode) and file != LOCK and not file.endswith(UNFINISHED)
                    if whole and self._sends(name):
                        found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found

    def _send(self, name: str, stamp: _Stamp) -> None:
        path = self.folder / name
        self._lease.check()
        self._note_written(name)
        try:
            if not self._is_stored(name, path, stamp):
                remote.upload(str(path), f"{self._url}/{name}")
        except (FileNotFoundError, StorageError):
            if path.exists():
                raise
            return  # removed meanwhile
        self._stored.pop(name, None)
        self._sent[name] = stamp

    def _missing_claims(self, files: Iterable[str]) -> dict[str, str]:
        """Return names of claims that runs have replaced by a mark, while the store has not got that; and the mark."""
        found = {}
        for name in files:
            folder, mark = os.path.split(name)
            if mark in _REPLACED and name not in self._sent and name not in self._stored:
                found[os.path.join(folder, _REPLACED[mark])] = name
        return {claim: name for claim, name in found.items() if claim not in files}

    def _send_claims(self, files: Iterable[str]) -> None:
        """Write what marks say as claims: else files would lie below the address of which nothing says whose they are.

        A run that ends soon, before the first push, leaves no claims.
        """
        for claim, name in self._missing_claims(files).items():
            self._lease.check()
            self._note_written(claim)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                remote.write(f"{self._url}/{claim}", (self.folder / name).read_bytes())
                self._stored.pop(claim, None)
                self._sent[claim] = (0, 0, 0)

    def _note_written(self, name: str) -> None:
        """Note, before it is written, that an object is of this folder: no other is ever removed from the store."""
        if name not in self._sent:
            path = make_folder((self.folder / _WRITTEN).parent) / Path(_WRITTEN).name
            with writing_to(path), path.open("a", encoding="utf-8") as handle:
                handle.write(f"{name}\n")

    def _read_written(self) -> list[str]:
        path = self.folder / _WRITTEN
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _is_stored(self, name: str, path: Path, stamp: _Stamp) -> bool:
        """Return whether the store had the same content when this run began."""
        there = self._stored.get(name)
        if there is None or there.size != stamp[1] or not there.tag:
            return False
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == there.tag

    def _send_journal(self, name: str, inode: int, size: int) -> None:
        """Write the whole lines of a journal that were not written, each piece under the number of its first byte."""
        before, sent = self._journals.get(name, (inode, 0))
        if before != inode or size < sent:
            sent = 0
        anew, pieces = sent == 0, set[str]()
        with contextlib.suppress(FileNotFoundError), (self.folder / name).open("rb") as handle:
            handle.seek(sent)
            while sent < size:
                data = handle.read(min(_PIECE_BYTES, size - sent))
                data = data[: data.rfind(b"\n") + 1]
                if not data:
                    break
                self._lease.check()
                pieces.add(_piece(name, sent))
                remote.write(f"{self._url}/{_piece(name, sent)}", data)
                sent += len(data)
                handle.seek(sent)
        if anew:
            self._remove_pieces(name, pieces)
        self._journals[name] = (inode, sent)

    def _remove_pieces(self, name: str, kept: set[str]) -> None:
        """Remove pieces of a journal, the last one first: what is left is the start of a journal at all times."""
        there = f"{_JOURNALS}/{name}"
        for piece in sorted(remote.list_below(f"{self._url}/{there}"), reverse=True):
            if f"{there}/{piece}" not in kept:
                remote.remove(f"{self._url}/{there}/{piece}")

    def _remove_gone(self, files: dict[str, _Stamp], *, ends: bool) -> None:
        """Remove what has been removed from the folder, as seen by two scans; what replaces it has been written."""
        there = files.keys() | self._missing_claims(files)
        gone = {name for name in (*self._sent, *self._journals) if name not in there}
        for name in gone if ends else gone & self._gone:
            if name in self._journals:
                self._remove_pieces(name, set())
                del self._journals[name]
            else:
                remote.remove(f"{self._url}/{name}")
                del self._sent[name]
        self._gone = gone
        if ends:
            left = {os.path.dirname(piece) for piece in remote.list_below(f"{self._url}/{_JOURNALS}")}
            for name in left - files.keys():
                self._remove_pieces(name, set())

    def _pull(self) -> None:
        """Fetch everything but clips, and put journals together."""
        names = [name for name in self._stored if _is_fetched(name)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(self._fetch, names):
                pass
        journals = sorted(name for name in self._stored if name.startswith(f"{_JOURNALS}/"))
        for piece in journals:
            name, _, start = piece.removeprefix(f"{_JOURNALS}/").rpartition("/")
            self._fetch_piece(piece, self._local(name), int(start))

    def _fetch(self, name: str) -> None:
        path = self._local(name)
        self._note_written(name)
        with writing_to(path), path.open("wb") as handle:
            handle.writelines(remote.blocks(f"{self._url}/{name}"))
        status = path.stat()
        self._sent[name] = (status.st_ino, status.st_size, status.st_mtime_ns)

    def _fetch_piece(self, piece: str, path: Path, start: int) -> None:
        with writing_to(path), path.open("ab") as handle:
            if handle.tell() == start:  # others are left of a journal that was begun anew
                handle.writelines(remote.blocks(f"{self._url}/{piece}"))
            name = os.path.relpath(path, self.folder)
            self._journals[name] = (os.fstat(handle.fileno()).st_ino, handle.tell())

    def _local(self, name: str) -> Path:
        """Return the local path of an object. Raises StorageError where its name leads out of the folder."""
        path = self.folder / name
        if ".." in path.parts or os.path.normpath(path) != str(path):
            raise StorageError(f"{remote.shown(self._url)}/{name} is not the name of a file of a run. Remove it.")
        make_folder(path.parent)
        return path


def refuse_foreign_objects(url: str, stored: Iterable[str]) -> None:
    """Raise StorageError where one of the names below an address is not of this package's bookkeeping."""
    foreign = next((name for name in stored if not name.startswith(f"{OWN}/")), None)
    if foreign is not None:
        raise StorageError(
            f"{remote.shown(url)}/{foreign} was not made by this command, and stays as it is. Choose another "
            "--out: an address with nothing below it."
        )


def _piece(name: str, start: int) -> str:
    return f"{_JOURNALS}/{name}/{start:015d}"


def _is_fetched(name: str) -> bool:
    return not name.startswith(f"{OWN}/") and _REMADE not in f"/{name}"


def _is_mark(name: str) -> bool:
    return os.path.basename(name) in _MARKS
