"""Which files of a folder are meant, where a corpus is a table or a manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from simulsa_plugin.corpora.lines import listed
from simulsa_plugin.errors import DatasetError, UsageError

PARQUET = ".parquet"
_P = TypeVar("_P", bound=PurePath)
# `train-00000-of-00002.parquet`, also with a hash behind it, `train-00000.parquet`, `0000.parquet`, Spark's `part-…`.
_SHARD = re.compile(
    r"(?P<part>part)[-.].*"
    r"|(?P<name>.*?)(?:^\d+|(?:^|-)(?P<number>\d{5,})(?:-of-(?P<count>\d{5,}))?(?:-[0-9a-f]{16})?)?"
)


def choose_table(where: Path, split: str, endings: Sequence[str], prefixes: Sequence[str] = ("",)) -> Path:
    """Return the file itself, or the one in the folder that is named after the split.

    Args:
        where: `simulsa_corpus_dir`.
        split: empty where the recipe names none; the folder must then hold one such file.
        endings: of names, the split before them.
        prefixes: what may stand before the split.

    Raises:
        UsageError: a split was asked of a single file.
        DatasetError: there is no such file, or several.
    """
    if where.is_file():
        refuse_split_of_file(where, split)
        return where
    there = [path for path in files_in(where) if path.name.endswith(tuple(endings))]
    names = {f"{prefix}{split}{ending}" for prefix in prefixes for ending in endings}
    found = [path for path in there if path.name in names] if split else there
    if len(found) != 1:
        shown = there + [path for folder in (where, where / "data") for path in _parquets(folder)]
        wanted = f"one file {split}{endings[0]}" if split else f"one file *{endings[0]}"
        raise DatasetError(
            f"{where} needs {wanted}; there: {listed(path.name for path in shown)}. "
            "Set simulsa_split, or name the file itself."
        )
    return found[0]


def choose_parquet(where: Path, split: str) -> list[Path]:
    """Return the parquet files of a split, in order; none where there are none.

    They lie in the folder or in its `data`: `SPLIT.parquet`, `SPLIT-00000-of-00002.parquet`, or all in `SPLIT/`.

    Args:
        where: `simulsa_corpus_dir`.
        split: empty where the recipe names none; the folder must then hold one split.

    Raises:
        UsageError: a split was asked of a single file.
        DatasetError: a part of the split is missing, or no split is named and there are several.
    """
    if where.is_file():
        if where.suffix == PARQUET:
            refuse_split_of_file(where, split)
            return [where]
        return []
    folders = (where, where / "data")
    if split:
        found = [_named_after_split(_parquets(folder), split) for folder in folders]
        found += [_parquets(folder / split) for folder in folders]
    else:
        found = [_parquets(folder) for folder in folders]
    shards = next((paths for paths in found if paths), [])
    if not split:
        _refuse_several(shards, where)
    for stem in {_stem(path) for path in shards}:
        _refuse_incomplete([path for path in shards if _stem(path) == stem], shards[0].parent)
    return shards


def shards_of(names: Sequence[str], split: str, where: object) -> list[str]:
    """Return the names of parquet files that belong to a split, in order; see `choose_parquet`. Raises likewise."""
    paths = sorted(map(PurePosixPath, names))
    found = _named_after_split(paths, split) if split else paths
    if not split:
        _refuse_several(found, where)
    for stem in {_stem(path) for path in found}:
        _refuse_incomplete([path for path in found if _stem(path) == stem], where)
    return list(map(str, found))


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, by name.

    Raises:
        DatasetError: it cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DatasetError(f"Cannot read {folder}: {error.strerror or error}.") from error


def _parquets(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if path.suffix == PARQUET] if folder.is_dir() else []


def _named_after_split(paths: Sequence[_P], split: str) -> list[_P]:
    return [path for path in paths if path.stem == split] or [path for path in paths if _stem(path) == split]


def _stem(path: PurePath) -> str:
    """Return the part of the name that all files of one split share."""
    match = _SHARD.fullmatch(path.stem)
    return (match["part"] or match["name"] or "") if match else path.stem


def refuse_split_of_file(where: object, split: str) -> None:
    """Raise UsageError where a split was asked of a single file."""
    if split:
        raise UsageError(
            f"simulsa_split is {split}, and simulsa_corpus_dir is one file, {where}. "
            "Give the folder that holds a file for each split, or leave simulsa_split out."
        )


def _refuse_several(shards: Sequence[PurePath], where: object) -> None:
    stems = sorted({_stem(path) for path in shards})
    if len(stems) > 1:
        raise DatasetError(f"{where} has the splits {listed(stems)}. Set simulsa_split to one of them.")


def _refuse_incomplete(shards: Sequence[PurePath], where: object) -> None:
    """Refuse a part of a split: `train-00001-of-00003.parquet` tells how many files there are."""
    matches = [_SHARD.fullmatch(path.stem) for path in shards]
    numbers = [(int(match["number"]), int(match["count"])) for match in matches if match and match["count"]]
    if numbers and sorted(numbers) != [(number, len(shards)) for number in range(len(shards))]:
        raise DatasetError(
            f"{where} has {len(shards)} parquet files where {numbers[-1][1]} belong together: "
            f"{listed(path.name for path in shards)}. Download them all, and remove those of other versions."
        )
