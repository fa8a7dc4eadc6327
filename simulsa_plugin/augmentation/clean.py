"""The offline rows that a training stops at, and a dataset without them.

The walk meets broken rows only where it comes by. Once it has met one, every row is looked at, and its audio is read,
except where a reference names it: that would be to copy a whole corpus out of its store.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from tqdm import tqdm

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.references import is_reference
from simulsa_plugin.augmentation.method.selection import Skipped, parse_sample_id
from simulsa_plugin.augmentation.output_layout import CLEAN_SUFFIX, Layout
from simulsa_plugin.augmentation.registration import SourceDataset
from simulsa_plugin.errors import AudioError, DatasetError
from simulsa_plugin.files.dataset_info import merge_dataset_info, registered_datasets
from simulsa_plugin.files.json_files import write_jsonl

_AT_ONCE = 256  # rows between two looks at the dataset


def offer_clean(dataset: SourceDataset, skipped: Sequence[Skipped], layout: Layout) -> dict[str, Any] | None:
    """List all rows that stop a training, where the walk met some, and register the dataset without them.

    Writes `NAME_simulsa/broken.jsonl` (row from 0, reason, cause) and `NAME_simulsa/clean.jsonl`, and the entry
    NAME_clean unless that is another's.

    Returns:
        for the manifest: `name` of the clean dataset, None where there is none, its `rows`, and how many are `broken`
        by reason; `unread`, if there are any, the other rows whose audio was not read; None where no row is known to be
        broken.
    """
    met = {parse_sample_id(one.id)[1]: one for one in skipped if one.stops_training}
    if not met:
        return None
    unread = Counter[str]()
    broken = list(_broken_rows(dataset, met, unread))
    write_jsonl(layout.broken, broken)
    reasons = Counter(str(row["reason"]) for row in broken)
    return {
        "name": _register_clean(dataset, {row["row"] for row in broken}, layout),
        "rows": len(dataset) - len(broken),
        "broken": dict(sorted(reasons.items())),
        **unread,
    }


def _broken_rows(dataset: SourceDataset, met: Mapping[int, Skipped], unread: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield rows of broken.jsonl; `met` are those that the walk knows, `unread` counts the others that no one opens."""
    rows = iter(range(len(dataset)))
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        tqdm(total=len(dataset), desc=f"check {dataset.name}", unit="row", disable=None) as progress,
    ):
        while several := list(islice(rows, _AT_ONCE)):
            seen = [dataset.for_training(row) for row in several]
            for row, (_, audios), found in zip(several, seen, pool.map(_training_problem, seen), strict=True):
                if row in met:
                    yield {"row": row, "reason": met[row].reason, "cause": met[row].cause}
                elif found:
                    yield {"row": row, "reason": found[0], "cause": found[1]}
                elif any(map(is_reference, audios)):
                    unread["unread"] += 1
            progress.update(len(several))


def _training_problem(seen: tuple[str | None, Sequence[str]]) -> tuple[str, str] | None:
    """Return (reason, cause) of what stops a training at a row, from `SourceDataset.for_training`."""
    cause, audios = seen
    if cause:
        return "text", cause
    try:
        for audio in audios:
            if not is_reference(audio):
                read_mono(audio)
    except AudioError as error:
        return f"audio_{error.reason}", str(error)
    return None


def _register_clean(dataset: SourceDataset, broken: set[int], layout: Layout) -> str | None:
    name, file_name = f"{dataset.name}{CLEAN_SUFFIX}", str(layout.clean.relative_to(layout.out))
    there = registered_datasets(layout.out).get(name)
    if there is not None and not (isinstance(there, dict) and there.get("file_name") == file_name):
        return None  # it is another's
    try:
        entry, rows = dataset.without(broken)
        write_jsonl(layout.clean, rows)
    except DatasetError:  # such rows cannot be rewritten
        return None
    merge_dataset_info(layout.out, {name: {"file_name": file_name, **entry}})
    return name


def clean_lines(manifest: dict[str, Any]) -> list[str]:
    """Return the message about rows that stop a training; nothing where none is known."""
    clean = manifest.get("clean")
    if not clean:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in clean["broken"].items())
    name = manifest["dataset"]
    way = f"{clean['name']} is {name} without them" if clean["name"] else f"remove them from {name}"
    rest = clean.get("unread")
    unread = f"; the audio of {rest} others lies in a store or in containers, and was not read" if rest else ""
    return [f"a training on {name} stops at {sum(clean['broken'].values())} of its rows ({reasons}){unread}; {way}"]
