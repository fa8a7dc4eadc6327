"""Shards that were scored in folders of their own, put into the folder of the run that finishes them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.manifest import has_scores
from simulsa_plugin.augmentation.output_layout import SUFFIX, Layout
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import make_own_folder, writing_to
from simulsa_plugin.run_configuration import change_in_words, configuration_changes

_SHARED = ("started.json", "owned.json")  # in a dataset's folder: what every process there needs
_DEVICES = "scored_on"


def is_of_shard(name: str) -> bool:
    """Return whether a file of an output folder is part of what a shard hands over.

    >>> [is_of_shard(f"a_simulsa/{name}") for name in ("shards/1-of-2/finished", "started.json", "clips/a.wav")]
    [True, True, False]
    """
    folder, _, rest = name.partition("/")
    return folder.endswith(SUFFIX) and (rest.startswith("shards/") or rest in _SHARED)


def is_of_output(name: str) -> bool:
    """Return whether a file of an output folder is not a shard's own."""
    return not (is_of_shard(name) and "/shards/" in name)


def adopt_shard(out: Path, shard: str, place: Path) -> None:
    """Put what a shard has scored into the folder that is to be finished; a finished dataset needs nothing of it.

    Args:
        out: the output folder; nobody works there.
        shard: name of the shard.
        place: the shard's own output folder; it loses its files.

    Raises:
        StorageError: it was scored with other settings, weights or data than another shard.
    """
    for folder in sorted(place.glob(f"*{SUFFIX}")):
        name = folder.name.removesuffix(SUFFIX)
        own, layout = Layout(place, name), Layout(out, name)
        if layout.manifest.exists() or not (own.shards / shard).exists():
            continue
        make_own_folder(layout.folder)
        if own.started.exists() and has_scores(own):
            _adopt_record(layout, own.run.recorded(), shard)
        make_own_folder(layout.shards)
        with writing_to(layout.shards):
            shutil.rmtree(layout.shards / shard, ignore_errors=True)
            (own.shards / shard).rename(layout.shards / shard)
            if own.owned.exists() and not layout.owned.exists():
                own.owned.rename(layout.owned)


def stands_in_output(out: Path, journal: str) -> bool:
    """Return whether the rows of a shard's journal are in an output folder: their dataset is finished.

    Args:
        out: the folder.
        journal: its name, relative to the shard's own output folder.
    """
    return Layout(out, journal.partition("/")[0].removesuffix(SUFFIX)).manifest.exists()


def _adopt_record(layout: Layout, recorded: Mapping[str, Any], shard: str) -> None:
    """Let the folder's record name what a shard was scored on as well; the first one is taken as it is."""
    before = layout.run.recorded() if has_scores(layout) else {}
    changed = configuration_changes(before, _without_devices(recorded), computes=True) if before else []
    if changed:
        raise StorageError(
            f"Shard {shard} was scored with {change_in_words(changed[0])}, unlike those before it. Remove what it has "
            f"written (.simulsa/shards/{shard}/ below the address), and start it again with what the others had."
        )
    devices = sorted({*before.get(_DEVICES, []), *recorded.get(_DEVICES, [])})
    layout.run.begin({**recorded, **before, **({_DEVICES: devices} if devices else {})})


def _without_devices(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recorded.items() if key != _DEVICES}
