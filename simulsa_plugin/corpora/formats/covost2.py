"""CoVoST 2: a table of translations, joined to Common Voice on the name of the clip.

The folder of one source language, or the one above it, holds `validated.tsv` and `clips/` of Common Voice and
`covost_v2.en_zh-CN.tsv` with the columns path, translation and split. Neither table quotes, and "NA" is a word. Where
there is no such folder, the corpus may also lie in parquet files, as it is published on hubs. Rows are chosen and texts
are read as the corpus's own get_covost_splits.py does it.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from simulsa_plugin.corpora.choice import PARQUET, choose_parquet
from simulsa_plugin.corpora.formats.table import read_parquet
from simulsa_plugin.corpora.lines import listed, read_tsv
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, FindAudio, Utterance, utterance_or_dropped
from simulsa_plugin.errors import DatasetError

COMMON_VOICE = "validated.tsv"
# What CoVoST 2 adds to Common Voice's own `train` is part of its train split: get_v2_split in get_covost_splits.py.
_ADDED = {"train": "train_covost"}
_ESCAPED = re.compile(r"\\(.)")  # get_covost_splits.py reads with escapechar="\\"


def read_covost2(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the rows of the translation table that are in the splits, in its order."""
    shards = _find_parquet(request)
    if shards:
        yield from read_parquet(shards, request)
        return
    table, folder = _translation_table(request), _common_voice(request)
    validated = {row["path"] for _, row in read_tsv(folder / COMMON_VOICE, ("path",)) if row}
    wanted = {*request.splits, *(_ADDED[split] for split in request.splits if split in _ADDED)}
    there: Counter[str] = Counter()
    for number, row in read_tsv(table, ("path", "translation", "split")):
        if row is None:
            yield Dropped(f"line {number}", "broken_row")
            continue
        there[row["split"]] += 1
        if row["split"] not in wanted:
            continue
        if row["path"] not in validated:
            yield Dropped(row["path"], "not_in_common_voice")
        else:
            place = f"{table}, line {number}"
            read_row = functools.partial(_utterance, row, place, folder / "clips", request.find)
            yield utterance_or_dropped(Path(row["path"]).stem, read_row)
    missing = [split for split in request.splits if not there[split] and not there[_ADDED.get(split, split)]]
    if missing:
        counts = listed(f"{split} ({count})" for split, count in there.most_common())
        raise DatasetError(f"{table} has no split {', '.join(missing)}; there: {counts}. Set simulsa_split.")


def _utterance(row: Mapping[str, str], place: str, clips: Path, find: FindAudio) -> Utterance:
    audio = find(row["path"], place, clips)
    return Utterance(Path(row["path"]).stem, audio, None, _ESCAPED.sub(r"\1", row["translation"]))


def _find_parquet(request: CorpusRequest) -> list[Path]:
    """Find the published parquet files: `en_zh-CN/train-00000-of-00040.parquet`, with audio, translation and id."""
    if request.folder.is_file():
        raise DatasetError(f"{request.folder} is a file. Give its folder, or set simulsa_corpus to table.")
    if any((folder / COMMON_VOICE).exists() for folder in _folders(request)):
        return []
    folder = _pair_folder(request)
    shards = {split: choose_parquet(folder, split) for split in request.splits}
    missing = [split for split, paths in shards.items() if not paths]
    patterns = (f"*{PARQUET}", f"*/*{PARQUET}", f"*/*/*{PARQUET}")
    there = [path.relative_to(folder) for pattern in patterns for path in sorted(folder.glob(pattern))]
    if missing and there:
        raise DatasetError(f"{folder} has no split {', '.join(missing)}; there: {listed(there)}. Set simulsa_split.")
    return [path for paths in shards.values() for path in paths]


def _pair_folder(request: CorpusRequest) -> Path:
    """Find `en_zh-CN`, also for the language zh; else return the corpus folder itself."""
    folders = sorted(path for path in request.folder.iterdir() if path.is_dir())
    found = [path for path in folders if path.name == f"{request.source}_{request.target}"]
    found = found or [path for path in folders if _region(request).fullmatch(path.name)]
    if len(found) > 1:
        raise DatasetError(
            f"{request.folder} has {listed(path.name for path in found)}. "
            "Set simulsa_target_language as the name of one has it."
        )
    return found[0] if found else request.folder


def _region(request: CorpusRequest) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(request.source)}_{re.escape(request.target)}[-_][A-Za-z0-9]+")


def _folders(request: CorpusRequest) -> list[Path]:
    return [request.folder, request.folder / request.source]


def _common_voice(request: CorpusRequest) -> Path:
    for folder in _folders(request):
        if (folder / COMMON_VOICE).exists():
            return folder
    raise DatasetError(
        f"{request.folder} has no {COMMON_VOICE}, neither there nor in {request.source}/. "
        "Give the folder of Common Voice that holds it and clips/ as simulsa_corpus_dir."
    )


def _translation_table(request: CorpusRequest) -> Path:
    """Find `covost_v2.en_zh-CN.tsv`, also for the language zh."""
    exact = f"covost_v2.{request.source}_{request.target}.tsv"
    region = re.compile(rf"covost_v2\.{_region(request).pattern}\.tsv")
    there = sorted(path for folder in _folders(request) for path in folder.glob("covost_v2.*.tsv"))
    found = [path for path in there if path.name == exact] or [path for path in there if region.fullmatch(path.name)]
    if len(found) == 1:
        return found[0]
    names = listed(path.name for path in found or there)
    raise DatasetError(
        f"{request.folder} needs one table {exact}, there or in {request.source}/; found: {names}. "
        "Set simulsa_source_language and simulsa_target_language as its name has them."
    )
