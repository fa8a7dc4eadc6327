"""Tables of any kind: TSV, CSV, JSONL, parquet, and folders that `datasets` saved; `simulsa_columns` names the columns.

Roles are audio, translation, id, start, end and duration (seconds), and channel. The audio is a path, or an audio file
inside the table, as Hugging Face datasets hold it. `a.b` is the field b of the column a.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from simulsa_plugin.corpora.choice import choose_table
from simulsa_plugin.corpora.columns import USUAL_NAMES, check_roles, find_columns
from simulsa_plugin.corpora.lines import read_csv, read_objects, read_tsv
from simulsa_plugin.corpora.spans import span_from, span_of
from simulsa_plugin.corpora.utterance import Dropped, EncodedAudio, Form, Request, Utterance
from simulsa_plugin.errors import DatasetError, UsageError
from simulsa_plugin.recordings import Span

MAX_CHANNELS = 64
_PARQUET = ".parquet"
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves
_Rows = Iterator[tuple[int, Mapping[str, Any] | None]]
_READERS: dict[str, Callable[[Path], _Rows]] = {
    ".tsv": read_tsv,
    ".tsv.gz": read_tsv,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".jsonl": read_objects,
    ".jsonl.gz": read_objects,
}


def read(request: Request) -> Iterator[Utterance | Dropped]:
    """The rows of the tables, in order; see `Form.read`."""
    check_roles(request.columns or {})
    for split in request.splits or ("",):
        if _is_saved(request.folder):
            yield from _utterances(_saved_rows(request.folder, split), request.folder, request.folder, request)
        elif shards := parquet_files(request.folder, split):
            yield from read_parquet(shards, request)
        else:
            table = choose_table(request.folder, split, tuple(_READERS))
            yield from _utterances(_reader(table)(table), table, table.parent, request)


def parquet_files(where: Path, split: str) -> list[Path]:
    """The parquet files of a split, in order: `SPLIT.parquet`, `SPLIT-00000-of-00002.parquet` and the like."""
    if where.is_file():
        return [where] if where.suffix == _PARQUET and not split else []
    folders = [where, where / "data", where / split] if split else [where, where / "data"]
    names = [f"{split}{_PARQUET}", f"{split}-*{_PARQUET}"] if split else [f"*{_PARQUET}"]
    found = [sorted(path for name in names for path in folder.glob(name)) for folder in folders]
    if split:
        found.append(sorted((where / split).glob(f"*{_PARQUET}")))
    return next((paths for paths in found if paths), [])


def read_parquet(shards: Sequence[Path], request: Request) -> Iterator[Utterance | Dropped]:
    """The rows of parquet files, one after another."""
    import datasets

    rows = datasets.load_dataset("parquet", data_files=[str(path) for path in shards], split="train", streaming=True)
    folder = shards[0].parent
    yield from _utterances(_plain_rows(rows, folder), folder, folder, request)


def _saved_rows(folder: Path, split: str) -> _Rows:
    import datasets

    with _reading(folder):
        saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DatasetError(f"{folder} has the splits {', '.join(saved)}. Set simulsa_split to one of them.")
        saved = saved[split]
    elif split:
        raise UsageError(f"simulsa_split is {split}, and {folder} has no splits. Leave simulsa_split out.")
    yield from _plain_rows(saved, folder)


def _plain_rows(rows: Any, where: Path) -> _Rows:
    """Numbered rows of a dataset, audio undecoded."""
    import datasets

    with _reading(where):
        for name, feature in (rows.features or {}).items():
            if isinstance(feature, datasets.Audio):
                rows = rows.cast_column(name, datasets.Audio(decode=False))
        yield from enumerate(rows.with_format(None), 1)


@contextlib.contextmanager
def _reading(where: Path) -> Iterator[None]:
    """Datasets and pyarrow raise what they like about broken files."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
        raise DatasetError(f"{where} cannot be read as a table: {' '.join(str(error).split())[:300]}") from error


def _is_saved(where: Path) -> bool:
    return any((where / name).exists() for name in _SAVED)


def _reader(table: Path) -> Callable[[Path], _Rows]:
    for ending, reader in _READERS.items():
        if table.name.lower().endswith(ending):
            return reader
    raise DatasetError(f"{table} is no table that can be read; allowed: {', '.join(_READERS)}, {_PARQUET}.")


def _utterances(rows: _Rows, where: Path, folder: Path, request: Request) -> Iterator[Utterance | Dropped]:
    columns = None
    for number, row in rows:
        if row is None:
            yield Dropped(f"line {number}", "broken_row")
            continue
        if columns is None:
            columns = find_columns(row, request.columns or {}, where)
        place = f"{where}, {'line' if where.is_file() else 'row'} {number}"
        yield _utterance({role: columns.value(row, role) for role in USUAL_NAMES}, number, place, folder, request)


def _utterance(
    fields: Mapping[str, Any], number: int, place: str, folder: Path, request: Request
) -> Utterance | Dropped:
    """From the values of the roles."""
    identifier = f"{number:08d}" if fields["id"] is None else str(fields["id"])
    audio, translation = fields["audio"], fields["translation"]
    if isinstance(audio, Mapping) and not audio.get("bytes"):  # a Hugging Face audio that is only named
        audio = audio.get("path")
    if not isinstance(audio, (str, bytes, Mapping)) or not audio:
        return Dropped(identifier, "no_audio")
    if not isinstance(translation, str):
        return Dropped(identifier, "empty_translation" if translation is None else "no_text")
    found = request.find(audio, place, folder) if isinstance(audio, str) else _encoded(audio)
    return Utterance(identifier, found, _span(fields, place), translation)


def _encoded(audio: bytes | Mapping[str, Any]) -> EncodedAudio:
    if isinstance(audio, bytes):
        return EncodedAudio(audio)
    return EncodedAudio(bytes(audio["bytes"]), PurePosixPath(str(audio.get("path") or "")).suffix)


def _span(fields: Mapping[str, Any], place: str) -> Span | None:
    """None where the row is about a whole file: its duration alone says nothing that the file does not."""
    start, end, channel = fields["start"], fields["end"], _channel(fields["channel"], place)
    if start is None and end is None and channel is None:
        return None
    begin = 0.0 if start is None else start
    span = span_from(begin, fields["duration"], place) if end is None else span_of(begin, end, place)
    return replace(span, channel=channel)


def _channel(value: Any, place: str) -> int | None:
    if value is None:
        return None
    try:
        if not isinstance(value, bool) and 0 <= int(value) < MAX_CHANNELS:
            return int(value)
    except (TypeError, ValueError):
        pass
    raise DatasetError(f"{place}: the channel is {str(value)[:80]!r}; allowed: 0 to {MAX_CHANNELS - 1}.")


FORM = Form(read)
