"""CoVoST 2: a table of translations, joined to Common Voice on the name of the clip.

The folder of one source language, or the one above it, holds `validated.tsv` and `clips/` of Common Voice and
`covost_v2.en_zh-CN.tsv` with the columns path, translation and split. Neither table quotes, and "NA" is a word. Where
there is no such folder, the corpus may also lie in parquet files, as it is published on hubs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.corpora.lines import read_tsv
from simulsa_plugin.corpora.table import parquet_files, read_parquet
from simulsa_plugin.corpora.utterance import Dropped, Form, Request, Utterance
from simulsa_plugin.errors import DatasetError

COMMON_VOICE = "validated.tsv"


def read(request: Request) -> Iterator[Utterance | Dropped]:
    """The rows of the translation table that are in the splits, in its order; see `Form.read`.

    A split is what the table calls it: `train_covost` is not part of `train`, but may be named beside it.
    """
    shards = _parquet(request)
    if shards:
        yield from read_parquet(shards, request)
        return
    table, folder = _translations(request), _common_voice(request)
    validated = {row["path"] for _, row in read_tsv(folder / COMMON_VOICE, ("path",)) if row}
    elsewhere: Counter[str] = Counter()
    taken = 0
    for number, row in read_tsv(table, ("path", "translation", "split")):
        if row is not None and row["split"] not in request.splits:
            elsewhere[row["split"]] += 1
            continue
        taken += 1
        place = f"{table}, line {number}"
        if row is None:
            yield Dropped(f"line {number}", "broken_row")
        elif row["path"] not in validated:
            yield Dropped(row["path"], "not_in_common_voice")
        else:
            audio = request.find(row["path"], place, folder / "clips")
            yield Utterance(Path(row["path"]).stem, audio, None, row["translation"])
    if not taken:
        there = ", ".join(f"{split} ({count})" for split, count in elsewhere.items()) or "none"
        raise DatasetError(f"{table} has no split {', '.join(request.splits)}; there: {there}. Set simulsa_split.")


def _parquet(request: Request) -> list[Path]:
    """The published parquet form: `en_zh-CN/train-00000-of-00040.parquet`, with columns audio, translation and id."""
    if any((folder / COMMON_VOICE).exists() for folder in _folders(request)):
        return []
    pairs = sorted(request.folder.glob(f"{request.source}_{request.target}*"))
    for folder in [*pairs, request.folder]:
        shards = [path for split in request.splits for path in parquet_files(folder, split)]
        if shards:
            return shards
    return []


def _folders(request: Request) -> list[Path]:
    return [request.folder, request.folder / request.source]


def _common_voice(request: Request) -> Path:
    for folder in _folders(request):
        if (folder / COMMON_VOICE).exists():
            return folder
    raise DatasetError(
        f"{request.folder} has no {COMMON_VOICE}, neither there nor in {request.source}/. "
        "Give the folder of Common Voice that holds it and clips/ as simulsa_corpus_dir."
    )


def _translations(request: Request) -> Path:
    """`covost_v2.en_zh-CN.tsv`, also where the user says zh."""
    exact = f"covost_v2.{request.source}_{request.target}.tsv"
    region = re.compile(rf"covost_v2\.{re.escape(request.source)}_{re.escape(request.target)}[-_]\w+\.tsv")
    there = sorted(path for folder in _folders(request) for path in folder.glob("covost_v2.*.tsv"))
    found = [path for path in there if path.name == exact] or [path for path in there if region.fullmatch(path.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found or there) or "no such file"
    raise DatasetError(
        f"{request.folder} needs one table {exact}, there or in {request.source}/; found: {names}. "
        "Set simulsa_source_language and simulsa_target_language as its name has them."
    )


FORM = Form(read, train_split="train", test_split="test")
