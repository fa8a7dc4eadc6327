"""Audio other than a file on a disk: an object in a store, a member of a tar, a row of a parquet file.

    s3://bucket/a.flac                                      any address of `files.remote`
    tar://talk/a.flac::s3://bucket/0001.tar#1536-48213      bytes [1536, 48213) of the shard; the header before them
    parquet://audio/123::s3://bucket/0001.parquet           row 123, from 0, of the column `audio`

A container is an address or the absolute path of a local file. What is read goes to an unnamed temporary file, so that
decoders read it by its number, and memory does not depend on how large it is.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tarfile
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from simulsa_plugin.audio.checks import MAX_VALUES, cannot_read, check_file
from simulsa_plugin.errors import AudioError, SimulsaError
from simulsa_plugin.files import remote

MAX_BYTES = 8 * MAX_VALUES  # of what is decoded from 64-bit samples; more cannot be held anyway
_TAR = re.compile(r"tar://(?P<member>.+)::(?P<container>.+)#(?P<start>\d{1,15})-(?P<stop>\d{1,15})", re.DOTALL)
_PARQUET = re.compile(r"parquet://(?P<column>[^/]+)/(?P<row>\d{1,12})::(?P<container>.+)", re.DOTALL)
_BLOCK_BYTES = 8 << 20
_MAX_GROUP_BYTES = 2 << 30  # of one row group's audio, uncompressed
_KEPT_GROUP_BYTES = 256 << 20
_KEPT_FOOTERS = 64


def is_reference(name: object) -> bool:
    """Return whether this text names audio in a store or in a container.

    >>> is_reference("/data/a.wav"), is_reference("s3://bucket/a.wav"), is_reference("file:///data/a.wav")
    (False, True, False)
    >>> is_reference("tar://a.wav::/data/0.tar#512-1024"), is_reference("tar://a.wav::c.tar#512-1024")
    (True, False)
    """
    if not isinstance(name, str) or "://" not in name:
        return False
    match = _TAR.fullmatch(name) or _PARQUET.fullmatch(name)
    return _is_container(match["container"]) if match else remote.is_remote(name)


def check_readable(name: str) -> None:
    """Raise MissingExtraError where a reference leads into a store whose package is not installed."""
    match = _TAR.fullmatch(name) or _PARQUET.fullmatch(name)
    address = match["container"] if match else name
    if remote.is_remote(address):
        remote.filesystem(address)


def tar_reference(member: str, container: str, start: int, stop: int) -> str:
    """Return the name of the bytes [start, stop) of a tar, which are those of `member`."""
    return f"tar://{member}::{container}#{start}-{stop}"


def parquet_reference(column: str, row: int, container: str) -> str:
    """Return the name of the audio in a row, from 0, of a parquet file."""
    return f"parquet://{column}/{row}::{container}"


def is_grouped(name: str) -> bool:
    """Return whether reading what a reference names means reading its neighbours as well."""
    return name.startswith("parquet://") and is_reference(name)


def reading_order(name: str) -> tuple[str, int]:
    """Return a key by which references are sorted so that neighbours are read together; equal for plain files.

    >>> reading_order("parquet://audio/7::/data/0.parquet"), reading_order("/data/a.wav")
    (('/data/0.parquet', 7), ('', 0))
    """
    match = _PARQUET.fullmatch(name)
    return (match["container"], int(match["row"])) if match else ("", 0)


def open_reference(name: str) -> IO[bytes]:
    """Read what a reference names into a temporary file, which is open at its start and gone when it is closed.

    Raises:
        AudioError: `missing`, `empty`, `too_long`, or `broken` where the container holds something else there.
        OSError: the disk fails.
        StorageError: the store cannot be read now.
    """
    try:
        if match := _TAR.fullmatch(name):
            return _spooled(name, _tar_member(name, match))
        if match := _PARQUET.fullmatch(name):
            return _spooled(name, [_parquet_cell(name, match["container"], match["column"], int(match["row"]))])
        return _spooled(name, remote.blocks(name))
    except FileNotFoundError as error:
        raise cannot_read(remote.shown(name), error) from error


def _spooled(name: str, blocks: Iterable[bytes]) -> IO[bytes]:
    descriptor = _unnamed_file()
    handle = io.FileIO(descriptor, "r+b")
    handle.name = remote.shown(name)  # for messages
    try:
        size = 0
        for block in blocks:
            size += len(block)
            if size > MAX_BYTES:
                raise AudioError("too_long", f"{handle.name}: more than {MAX_BYTES >> 30} GiB. Split it.")
            _write_all(handle, block)
        if not size:
            raise AudioError("empty", f"{handle.name}: holds zero bytes.")
        handle.seek(0)
    except BaseException:
        handle.close()
        raise
    return handle


def _unnamed_file() -> int:
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def _write_all(handle: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[handle.write(view) :]


def _is_container(container: str) -> bool:
    return remote.is_remote(container) or ("://" not in container and os.path.isabs(container))


def _part(container: str, start: int, stop: int) -> bytes:
    """Read bytes [start, stop) of a container, an object or a local file."""
    if remote.is_remote(container):
        return remote.read_range(container, start, stop)
    with open(container, "rb", buffering=0) as handle:
        return os.pread(handle.fileno(), stop - start, start)


def _tar_member(name: str, match: re.Match[str]) -> Iterator[bytes]:
    """Yield the bytes of a member, its header being what the reference says."""
    container, start, stop = match["container"], int(match["start"]), int(match["stop"])
    _check_container(name, container)
    if not tarfile.BLOCKSIZE <= start <= stop:
        raise _not_there(name)
    position = start - tarfile.BLOCKSIZE
    while position < stop:
        block = _part(container, position, min(stop, position + _BLOCK_BYTES))
        if not block:
            raise _not_there(name)
        if position < start:
            _check_header(name, block[: tarfile.BLOCKSIZE], match["member"], stop - start)
            yield block[tarfile.BLOCKSIZE :]
        else:
            yield block
        position += len(block)


def _check_header(name: str, header: bytes, member: str, size: int) -> None:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise _not_there(name) from error
    plain = member.isascii() and len(member) < tarfile.LENGTH_NAME  # others stand whole in a header before this one
    if not info.isreg() or info.size != size or (plain and info.name != member):
        raise _not_there(name)


def _not_there(name: str) -> AudioError:
    return AudioError(
        "broken", f"{remote.shown(name)}: the container does not hold it there, and may have been changed since."
    )


def _check_container(name: str, container: str) -> None:
    if not remote.is_remote(container):
        if not _is_container(container):
            raise AudioError("missing", f"{remote.shown(name)}: its container is not an absolute path or an address.")
        check_file(Path(container))


@dataclass
class _Footer:
    """What a parquet file says of itself.

    Attributes:
        metadata: of pyarrow.
        starts: the first row of each row group, and the number of rows.
    """

    metadata: Any
    starts: list[int]


class _RowGroups:
    """The audio of row groups that were read last, in bounded memory: rows of one are often asked for together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, _Footer] = OrderedDict()
        self._groups: OrderedDict[tuple[str, str, int], Any] = OrderedDict()
        self._held = 0

    def cell(self, name: str, container: str, column: str, row: int) -> bytes:
        with self._lock:
            footer = self._footer(container)
            if row >= footer.starts[-1]:
                raise _not_there(name)
            group = next(index for index, end in enumerate(footer.starts[1:]) if row < end)
            values = self._group(name, container, column, group, footer)
            value = values[row - footer.starts[group]].as_py()
        if value is None:
            raise AudioError("missing", f"{remote.shown(name)}: the row has no audio.")
        if not isinstance(value, bytes):
            raise _not_there(name)
        return value

    def _footer(self, container: str) -> _Footer:
        if container not in self._footers:
            from pyarrow import parquet

            with _opened(container) as handle:
                metadata = parquet.read_metadata(handle)
            starts = [0]
            for index in range(metadata.num_row_groups):
                starts.append(starts[-1] + metadata.row_group(index).num_rows)
            self._footers[container] = _Footer(metadata, starts)
        self._footers.move_to_end(container)
        while len(self._footers) > _KEPT_FOOTERS:
            self._footers.popitem(last=False)
        return self._footers[container]

    def _group(self, name: str, container: str, column: str, group: int, footer: _Footer) -> Any:
        key = (container, column, group)
        if key not in self._groups:
            values = _read_group(name, container, column, group, footer.metadata)
            self._held += values.nbytes
            self._groups[key] = values
        self._groups.move_to_end(key)
        while self._held > _KEPT_GROUP_BYTES and len(self._groups) > 1:
            self._held -= self._groups.popitem(last=False)[1].nbytes
        return self._groups[key]


_ROW_GROUPS = _RowGroups()


def _renew_row_groups() -> None:
    global _ROW_GROUPS
    _ROW_GROUPS = _RowGroups()  # the parent's lock may be held by a thread that the child does not have


os.register_at_fork(after_in_child=_renew_row_groups)


def _parquet_cell(name: str, container: str, column: str, row: int) -> bytes:
    _check_container(name, container)
    try:
        return _ROW_GROUPS.cell(name, container, column, row)
    except (SimulsaError, FileNotFoundError):
        raise
    except Exception as error:  # whatever Arrow raises about broken files
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        cause = " ".join(str(error).split())[:200]
        raise AudioError("broken", f"{remote.shown(name)}: cannot be read as parquet ({cause}).") from error


def _opened(container: str) -> IO[bytes]:
    if remote.is_remote(container):
        return remote.open_object(container)
    return open(container, "rb")


def _read_group(name: str, container: str, column: str, group: int, metadata: Any) -> Any:
    """Return the encoded audio of a row group as an Arrow array: of a column of bytes, or of structs with `bytes`."""
    from pyarrow import parquet

    described = metadata.row_group(group)
    leaves = {described.column(index).path_in_schema: index for index in range(described.num_columns)}
    leaf = next((one for one in (f"{column}.bytes", column) if one in leaves), None)
    if leaf is None:
        raise _not_there(name)
    if described.column(leaves[leaf]).total_uncompressed_size > _MAX_GROUP_BYTES:
        raise AudioError("too_long", f"{remote.shown(name)}: its row group holds over {_MAX_GROUP_BYTES >> 30} GiB.")
    with _opened(container) as handle, parquet.ParquetFile(handle, metadata=metadata) as file:
        values = file.read_row_group(group, columns=[leaf], use_threads=False).column(0).combine_chunks()
    for field in leaf.split(".")[1:]:
        values = values.field(field)
    return values
