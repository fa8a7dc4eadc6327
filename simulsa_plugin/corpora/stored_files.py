"""Which files of a corpus are meant, where it may lie in a store."""

from __future__ import annotations

import contextlib
import posixpath
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulsa_plugin.corpora.choice import files_in, refuse_split_of_file, shards_of
from simulsa_plugin.corpora.lines import listed
from simulsa_plugin.corpora.utterance import CorpusRequest
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.files import remote


def files_of(request: CorpusRequest, split: str, ending: str) -> list[str]:
    """Return the files or addresses with an ending that belong to a split, in order; none where there are none.

    They lie in the corpus, in its `data`, or in a folder that is called like the split: `SPLIT-0001.tar`, `SPLIT.tar`,
    `SPLIT/0001.tar`. Without a split, all in the corpus itself are meant.

    Raises:
        UsageError: a split was asked of a single file.
        DatasetError: the folder cannot be listed.
        StorageError: the store cannot be listed.
    """
    place = request.address or str(request.folder)
    if place.endswith(ending):
        refuse_split_of_file(place, split)
        return [place]
    folders = (place, f"{place}/data")
    candidates = [_named(_files(folder, ending), split) for folder in folders]
    if split:
        candidates += [_files(f"{folder}/{split}", ending) for folder in folders]
    return next((files for files in candidates if files), [])


def stored_parquet(address: str, split: str) -> list[str]:
    """Return the addresses of the parquet files of a split, in order; see `choice.choose_parquet`. Raises likewise."""
    ending = ".parquet"
    if address.endswith(ending):
        refuse_split_of_file(address, split)
        return [address]
    folders = (address, f"{address}/data")
    for folder in folders:
        found = {base_name(name): name for name in _files(folder, ending)}
        if chosen := shards_of([*found], split, address):
            return [found[name] for name in chosen]
    return next((files for folder in folders if split and (files := _files(f"{folder}/{split}", ending))), [])


def stored_table(address: str, split: str, endings: Sequence[str]) -> str:
    """Return the address of the table itself, or of the one in the folder that is named after the split.

    Raises:
        UsageError: a split was asked of a single file.
        DatasetError: there is no such file, or several.
    """
    if address.endswith(tuple(endings)):
        refuse_split_of_file(address, split)
        return address
    there = [name for ending in endings for name in _files(address, ending)]
    wanted = {f"{split}{ending}" for ending in endings}
    found = [name for name in there if base_name(name) in wanted] if split else there
    if len(found) != 1:
        one = f"one file {split}{endings[0]}" if split else f"one file *{endings[0]}"
        raise DatasetError(
            f"{remote.shown(address)} needs {one}; there: {listed(map(base_name, there))}. "
            "Set simulsa_split, or name the file itself."
        )
    return found[0]


@contextlib.contextmanager
def copied(address: str) -> Iterator[Path]:
    """Copy a table, whose texts are small beside its audio, into a temporary folder for as long as it is read.

    Raises:
        DatasetError: there is no such object.
        StorageError: the store cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="simulsa-") as folder:
        path = Path(folder) / base_name(address)
        try:
            with path.open("wb") as handle:
                handle.writelines(remote.blocks(address))
        except FileNotFoundError as error:
            raise DatasetError(f"{remote.shown(address)} does not exist.") from error
        yield path


def base_name(place: str) -> str:
    """Return the last part of a path or an address."""
    return posixpath.basename(place)


def _named(files: Sequence[str], split: str) -> list[str]:
    pattern = re.compile(rf"{re.escape(split)}(?![A-Za-z])")
    return [name for name in files if not split or pattern.match(base_name(name))]


def _files(folder: str, ending: str) -> list[str]:
    """Return the files right inside a folder, by name; none where there is no such folder."""
    if remote.is_remote(folder):
        found = remote.list_folder(folder)
    else:
        found = list(map(str, files_in(Path(folder)))) if Path(folder).is_dir() else []
    return [name for name in found if name.endswith(ending)]
