"""WebDataset: tar shards in which files that share a name up to the first dot are one sample.

    000017.flac  000017.json      the translation in the JSON, by its usual names or those of simulsa_columns
    000018.flac  000018.txt       the translation alone

No audio is read: a row names the shard and the bytes of its member in it. Of a shard in a store, the headers and the
texts are requested, and what lies between them is left out.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import orjson

from simulsa_plugin.audio.references import tar_reference
from simulsa_plugin.corpora.formats.table import roles_span
from simulsa_plugin.corpora.lines import MAX_LINE_BYTES, listed
from simulsa_plugin.corpora.stored_files import files_of
from simulsa_plugin.corpora.table_columns import USUAL_NAMES, RoleColumns, check_roles
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.files import remote

TAR = ".tar"
_AUDIO = frozenset(("wav", "flac", "mp3", "ogg", "opus", "m4a"))
_TEXTS = frozenset(("json", "txt"))
_WINDOW_BYTES = 4096  # the end of an audio file, two headers and a short text
_SHARDS_AT_ONCE = 16
_NOT_SHARDS = (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, RecursionError)


@dataclass
class _Sample:
    """The members of one sample.

    Attributes:
        key: what their names share.
        audio: ending → reference.
        texts: ending → content.
    """

    key: str
    audio: dict[str, str] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def read_webdataset(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the samples of the shards, in order.

    The column `audio` of simulsa_columns is the ending of the audio that is meant, where a sample has several; those of
    the other roles are fields of the JSON, or the ending of a text.
    """
    check_roles(request.columns)
    for split in request.splits or ("",):
        shards = files_of(request, split, TAR)
        if not shards:
            raise DatasetError(f"{request.address or request.folder} has no shards *{TAR}. Check simulsa_split.")
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            for shard, samples in zip(shards, pool.map(_read_shard, shards), strict=True):
                for sample in samples:
                    place = f"{remote.shown(shard)}, {listed([sample.key])}"
                    read_row = functools.partial(_utterance, sample, place, request.columns or {})
                    yield utterance_or_dropped(sample.key, read_row)


def _utterance(sample: _Sample, place: str, named: Mapping[str, str]) -> Utterance | Dropped:
    row = _fields(sample)
    if row is None:
        return Dropped(sample.key, "broken_row", f"{place}: its .json is not a JSON object.")
    columns = RoleColumns({role: name for role, name in named.items() if role != "audio"})
    fields = {role: columns.value(row, role) for role in USUAL_NAMES if role != "audio"}
    identifier = sample.key if fields["id"] is None else str(fields["id"])
    audio = _chosen_audio(sample, named.get("audio"))
    if audio is None:
        return Dropped(identifier, "no_audio")
    translation = row.get("txt") if fields["translation"] is None else fields["translation"]
    if not isinstance(translation, str):
        return Dropped(identifier, "empty_translation" if translation is None else "no_text")
    return Utterance(identifier, audio, roles_span(fields, place), translation)


def _fields(sample: _Sample) -> dict[str, Any] | None:
    """Return the fields of the JSON, and the texts by their endings; None where the JSON is broken."""
    texts = {ending: _decoded(text) for ending, text in sample.texts.items() if ending != "json"}
    try:
        found = orjson.loads(sample.texts.get("json", b"{}"))
    except ValueError:
        return None
    return {**texts, **found} if isinstance(found, dict) else None


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape").strip()


def _chosen_audio(sample: _Sample, ending: str | None) -> str | None:
    if ending is not None:
        return sample.audio.get(ending)
    return next(iter(sample.audio.values())) if len(sample.audio) == 1 else None


def _read_shard(shard: str) -> list[_Sample]:
    """Return the samples of a shard, without reading its audio.

    Raises:
        DatasetError: it is missing, or is not a tar.
        StorageError: the store cannot be read.
    """
    try:
        with _open(shard) as handle, tarfile.open(fileobj=handle, mode="r:", errorlevel=2) as tar:
            return _gather(shard, tar)
    except FileNotFoundError as error:
        raise DatasetError(f"{remote.shown(shard)} does not exist.") from error
    except _NOT_SHARDS as error:
        raise DatasetError(f"{remote.shown(shard)} cannot be read as a tar: {' '.join(str(error).split())}.") from error


def _gather(shard: str, tar: tarfile.TarFile) -> list[_Sample]:
    samples: list[_Sample] = []
    for member in _members(tar):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        key, ending = str(PurePosixPath(folder, stem)), ending.lower()
        if not member.isreg() or not stem:
            continue
        if not samples or samples[-1].key != key:
            samples.append(_Sample(key))
        _note(samples[-1], ending, shard, member, tar)
    return [sample for sample in samples if sample.audio or sample.texts]


def _note(sample: _Sample, ending: str, shard: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    kind = ending.rpartition(".")[2]
    if kind in _AUDIO:
        start = member.offset_data
        sample.audio[ending] = tar_reference(member.name, shard, start, start + member.size)
    elif kind in _TEXTS and member.size <= MAX_LINE_BYTES:
        content = tar.extractfile(member)
        sample.texts[ending] = content.read() if content else b""


def _members(tar: tarfile.TarFile) -> Iterable[tarfile.TarInfo]:
    """Yield the members one by one, and forget them: a shard has thousands."""
    while (member := tar.next()) is not None:
        yield member
        tar.members = []  # type: ignore[attr-defined]


def _open(shard: str) -> _Bounded:
    if not remote.is_remote(shard):
        return _Bounded(open(shard, "rb"))
    return _Bounded(io.BufferedReader(_Ranges(shard), _WINDOW_BYTES))


class _Bounded(io.RawIOBase):
    """A file of which no more is read at once than any header or text of a corpus has."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 2 * MAX_LINE_BYTES:
            raise ValueError("a header claims more than 2 MiB")
        return bytes(self._file.read(size))

    def close(self) -> None:
        self._file.close()
        super().close()


class _Ranges(io.RawIOBase):
    """An object in a store as a raw file: each read is a request."""

    def __init__(self, address: str) -> None:
        self._address, self._position, self._size = address, 0, remote.size_of(address)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = remote.read_range(self._address, self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
