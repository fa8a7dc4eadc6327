"""Which file of a folder is meant, where a corpus is a single table or manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulsa_plugin.errors import DatasetError, UsageError


def choose_table(where: Path, split: str, endings: Sequence[str], prefixes: Sequence[str] = ("",)) -> Path:
    """The file itself, or the one in the folder that is called after the split.

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
        if split:
            raise UsageError(
                f"simulsa_split is {split}, and simulsa_corpus_dir is one file, {where}. "
                "Give the folder that holds a file for each split, or leave simulsa_split out."
            )
        return where
    there = sorted(path for path in where.iterdir() if path.is_file() and path.name.endswith(tuple(endings)))
    names = {f"{prefix}{split}{ending}" for prefix in prefixes for ending in endings}
    found = [path for path in there if path.name in names] if split else there
    if len(found) != 1:
        listed = ", ".join(path.name for path in there[:10]) or "none"
        wanted = f"one file {split}{endings[0]}" if split else f"one file *{endings[0]}"
        raise DatasetError(f"{where} needs {wanted}; there: {listed}. Set simulsa_split, or name the file itself.")
    return found[0]
