"""Tables of any kind: TSV, CSV, JSONL, parquet, and folders that `datasets` saved; `simulsa_columns` names the columns.

Roles are audio, translation, id, start, end and duration (seconds), and channel. The audio is a path, or an audio file
inside the table, as Hugging Face datasets hold it. `a.b` is the field b of the column a.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import orjson

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.audio.references import parquet_reference
from simulsa_plugin.corpora.choice import PARQUET, choose_parquet, choose_table
from simulsa_plugin.corpora.lines import MAX_LINE_BYTES, listed, read_csv, read_objects, read_tsv
from simulsa_plugin.corpora.spans import channel_of, span_from, span_of
from simulsa_plugin.corpora.stored_files import copied, stored_parquet, stored_table
from simulsa_plugin.corpora.table_columns import USUAL_NAMES, check_roles, find_columns
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, EncodedAudio, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError, RowError, SimulsaError, UsageError
from simulsa_plugin.files import remote

_DICT, _STATE = "dataset_dict.json", "state.json"  # what `save_to_disk` leaves
_TEXT_BATCH_ROWS = 4096
_ARROW_BATCH_ROWS = 32  # each may hold an audio file
_Row = Mapping[str, Any] | RowError | None  # None, or what is wrong, where it is broken
_Rows = Iterator[tuple[int, str, _Row]]  # number, place, row
_READERS: dict[str, Callable[[Path], Iterator[tuple[int, _Row]]]] = {
    ".tsv": read_tsv,
    ".tsv.gz": read_tsv,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".jsonl": read_objects,
    ".jsonl.gz": read_objects,
}


def read_table(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the rows of the tables, in order. Without a column for it, an id is the split and the number."""
    check_roles(request.columns)
    for split in request.splits or ("",):
        prefix = f"{split}-" if split else ""
        if request.address:
            yield from _read_stored(request.address, split, request, prefix)
        elif saved := _saved_files(request.folder, split):
            if request.in_place:
                raise UsageError(f"simulsa_audio_in_place is for parquet files, and {saved[0].parent} holds Arrow's.")
            yield from _utterances(_arrow_rows(saved, _saved_batches), saved[0].parent, request, prefix)
        elif shards := choose_parquet(request.folder, split):
            yield from read_parquet(shards, request, prefix)
        else:
            table = choose_table(request.folder, split, tuple(_READERS))
            yield from _utterances(_text_rows(table), table.parent, request, prefix)


def _read_stored(address: str, split: str, request: CorpusRequest, prefix: str) -> Iterator[Utterance | Dropped]:
    """Yield the rows of tables in a store: parquet files are read there, others are copied for as long as it takes."""
    if shards := stored_parquet(address, split):
        yield from read_parquet(shards, request, prefix)
        return
    table = stored_table(address, split, tuple(_READERS))
    with copied(table) as copy:
        rows = ((number, f"{remote.shown(table)}, line {number}", row) for number, row in _reader(copy)(copy))
        yield from _utterances(rows, request.folder, request, prefix)


def read_parquet(
    shards: Sequence[Path | str], request: CorpusRequest, prefix: str = ""
) -> Iterator[Utterance | Dropped]:
    """Yield the rows of parquet files, one after another.

    Args:
        shards: the files, or their addresses; not empty.
        request: columns, and where audio is found.
        prefix: of the ids of rows without an id.
    """
    check_roles(request.columns)
    if request.in_place:
        rows = _rows_in_place(shards, request.columns or {})
    else:
        rows = _arrow_rows([Path(shard) for shard in shards], _parquet_batches)
    yield from _utterances(rows, Path(shards[0]).parent, request, prefix)


def _text_rows(table: Path) -> _Rows:
    for number, row in _reader(table)(table):
        yield number, f"{table}, line {number}", row


def _reader(table: Path) -> Callable[[Path], Iterator[tuple[int, _Row]]]:
    for ending, reader in _READERS.items():
        if table.name.lower().endswith(ending):
            return reader
    raise DatasetError(f"{table} is not a table that can be read; allowed: {', '.join(_READERS)}, {PARQUET}.")


class _InPlace(str):
    """A reference to audio inside a table; a text in a table is not trusted, and this is not one."""

    __slots__ = ()


def _rows_in_place(files: Sequence[Path | str], columns: Mapping[str, str]) -> _Rows:
    """Yield rows of parquet files with references in place of the audio inside them, which is not read."""
    from pyarrow import parquet

    number = 0
    for file in files:
        shown = remote.shown(str(file))
        with _reading(shown), _opened(file) as handle, parquet.ParquetFile(handle, pre_buffer=True) as table:
            audio, others = _inner_audio(table, columns)
            batches = table.iter_batches(batch_size=_TEXT_BATCH_ROWS, columns=others)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number_in_file, row in enumerate(rows):
                number += 1
                inner = {} if audio is None else {audio: _InPlace(parquet_reference(audio, number_in_file, str(file)))}
                yield number, f"{shown}, row {number_in_file + 1}", {**row, **inner}


def _inner_audio(table: Any, columns: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """Return the column with audio files in it, None where there is none, and the others."""
    leaves = {table.schema.column(index).path: table.schema.column(index) for index in range(len(table.schema))}
    named = [columns["audio"]] if "audio" in columns else USUAL_NAMES["audio"]
    for name in named:
        leaf = leaves.get(f"{name}.bytes") or leaves.get(name)
        if leaf is not None and leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE":
            inside = (name, f"{name}.")
            return name, [path for path in leaves if path != name and not path.startswith(inside[1])]
    return None, list(leaves)


def _opened(file: Path | str) -> IO[bytes]:
    return remote.open_object(file) if isinstance(file, str) and remote.is_remote(file) else open(file, "rb")


def _arrow_rows(files: Sequence[Path], batches: Callable[[Path], Iterator[Any]]) -> _Rows:
    """Yield rows of Arrow files, numbered through; audio stays encoded, and no code in them is run."""
    number = 0
    for file in files:
        with _reading(file):
            rows = (row for batch in batches(file) for row in batch.to_pylist())
            for number_in_file, row in enumerate(rows, 1):
                number += 1
                yield number, f"{file}, row {number_in_file}", row


def _parquet_batches(file: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        yield from table.iter_batches(batch_size=_ARROW_BATCH_ROWS)


def _saved_batches(file: Path) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(file)) as memory, pyarrow.ipc.open_stream(memory) as stream:
        for batch in stream:
            batch.validate(full=True)  # Arrow trusts what it maps, and a wrong offset ends the process
            for start in range(0, batch.num_rows, _ARROW_BATCH_ROWS):
                yield batch.slice(start, _ARROW_BATCH_ROWS)


@contextlib.contextmanager
def _reading(where: object) -> Iterator[None]:
    """Raise DatasetError for whatever Arrow raises about broken files."""
    try:
        yield
    except SimulsaError:
        raise
    except Exception as error:
        raise DatasetError(f"{where} cannot be read as a table: {' '.join(str(error).split())[:300]}") from error


def _saved_files(where: Path, split: str) -> list[Path]:
    """Return the Arrow files of a dataset that `save_to_disk` wrote, in order; none where it wrote none."""
    folder = where / split
    if not (folder / _STATE).exists():
        if (where / _STATE).exists():
            raise UsageError(f"simulsa_split is {split}, and {where} has no splits. Leave simulsa_split out.")
        if (where / _DICT).exists():
            there = listed(sorted(path.parent.name for path in where.glob(f"*/{_STATE}")))
            raise DatasetError(f"{where} has the splits {there}. Set simulsa_split to one of them.")
        return []
    return [folder / name for name in _saved_names(folder / _STATE)]


def _saved_names(state: Path) -> list[str]:
    """Return the names of the files that belong to a saved dataset; they lie beside its state."""
    with _reading(state):
        if state.stat().st_size > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
        names = [file["filename"] for file in orjson.loads(state.read_bytes())["_data_files"]]
        if not names or not all(isinstance(name, str) and name.endswith(".arrow") for name in names):
            raise ValueError("it names no files of Arrow")
        away = [name for name in names if "/" in name or "\\" in name]
        if away:
            raise ValueError(f"it names {listed(away[:1])}, and its files lie beside it")
        return names


def _utterances(rows: _Rows, folder: Path, request: CorpusRequest, prefix: str) -> Iterator[Utterance | Dropped]:
    columns = None
    for number, place, row in rows:
        if row is None or isinstance(row, RowError):
            yield Dropped(f"line {number}", "broken_row", str(row or ""))
            continue
        if columns is None:
            columns = find_columns(row, request.columns or {}, place.rpartition(", ")[0])
        fields = {role: columns.value(row, role) for role in USUAL_NAMES}
        identifier = f"{prefix}{number:08d}" if fields["id"] is None else str(fields["id"])
        read_row = functools.partial(_utterance, identifier, fields, place, folder, request)
        yield utterance_or_dropped(identifier, read_row)


def _utterance(
    identifier: str, fields: Mapping[str, Any], place: str, folder: Path, request: CorpusRequest
) -> Utterance | Dropped:
    """Build an utterance from the values of the roles."""
    audio, translation = _audio_value(fields["audio"]), fields["translation"]
    if audio is None:
        return Dropped(identifier, "no_audio")
    if not isinstance(translation, str):
        return Dropped(identifier, "empty_translation" if translation is None else "no_text")
    if isinstance(audio, _InPlace):
        return Utterance(identifier, str(audio), roles_span(fields, place), translation)
    found = request.find(audio, place, folder, request.folder) if isinstance(audio, str) else audio
    return Utterance(identifier, found, roles_span(fields, place), translation)


def _audio_value(value: Any) -> str | EncodedAudio | None:
    """Return the audio of a row: a name, or a file inside the table; None where it is neither."""
    name, data = value, None
    if isinstance(value, bytes):
        name, data = None, value
    elif isinstance(value, Mapping):  # a Hugging Face audio: a file inside the table, or one that is only named
        name, data = value.get("path"), value.get("bytes")
    name = name if isinstance(name, str) else ""
    if data:
        return EncodedAudio(data, PurePosixPath(name).suffix) if isinstance(data, bytes) else None
    return name or None


def roles_span(fields: Mapping[str, Any], place: str) -> Span | None:
    """Return the part that a row is about; None where that is a whole file, whose duration says nothing new."""
    start, end, channel = fields["start"], fields["end"], channel_of(fields["channel"], place)
    if start is None and end is None and channel is None:
        return None
    begin = 0.0 if start is None else start
    span = span_from(begin, fields["duration"], place) if end is None else span_of(begin, end, place)
    return replace(span, channel=channel)
