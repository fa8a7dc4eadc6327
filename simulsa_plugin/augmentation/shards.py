"""Several processes at one dataset: each scores its part of the batches, one of them finishes.

A shard is known by its folder `shards/K-of-N`, which it holds while it works; nothing else passes between processes,
so shards may run under torchrun, in a job array, one after another, or on machines that share the output folder.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.errors import FolderInUseError
from simulsa_plugin.files.atomic import make_own_folder, refuse_link, remove_durably, writing_to
from simulsa_plugin.files.locks import locked, locked_soon
from simulsa_plugin.sharding import Shard, wait_until

FINISHED = "finished"  # the file that says that all batches of a shard are scored


@contextmanager
def holding(layout: Layout, shard: Shard | None) -> Iterator[bool]:
    """Hold a dataset's folder to finish it, or one shard's folder beside other shards.

    A shard takes its folder only where it has work, so that one that comes late leaves nothing behind.

    Returns:
        whether there is work: False for a shard whose batches are all scored, and nothing is held then.

    Raises:
        StorageError: somebody works there; the process is named.
    """
    with ExitStack() as stack:
        if shard is None:
            stack.enter_context(locked(layout.folder))
            for folder in sorted(layout.shards.glob("*-of-*")):
                stack.enter_context(locked(folder))
            layout.remove_leftovers()
            yield True
        elif is_finished(layout, shard):
            yield False
        else:
            yield _take_beside_others(layout, shard, stack)


@contextmanager
def holding_whole(layout: Layout, shard: Shard | None) -> Iterator[None]:
    """Hold a dataset's folder for a moment, to change what shards share; who works without shards holds it already.

    Nobody else holds it for long while a shard's folder is held.
    """
    with locked(layout.folder, wait=True) if shard else nullcontext():
        yield


def is_alone(layout: Layout, shard: Shard | None) -> bool:
    """Return whether no process holds another shard's folder; the whole folder is held, see `holding_whole`."""
    if shard is None:
        return True
    own = layout.shard_folder(shard)
    try:
        for folder in layout.shards.glob("*-of-*"):
            with nullcontext() if folder == own else locked(folder):
                pass
    except FolderInUseError:
        return False
    return True


def _take_beside_others(layout: Layout, shard: Shard, stack: ExitStack) -> bool:
    """Hold the shard's folder, taken while nobody holds the whole: a finishing run never misses a shard."""
    with locked_soon(layout.folder):
        has_work = not is_finished(layout, shard)  # whoever held the whole may have finished it
        if has_work:
            stack.enter_context(locked(_make_shard_folder(layout, shard)))
    return has_work


def _make_shard_folder(layout: Layout, shard: Shard) -> Path:
    make_own_folder(layout.shards)
    return make_own_folder(layout.shard_folder(shard))


def mark_finished(layout: Layout, shard: Shard) -> None:
    """Say that a shard has scored all its batches."""
    refuse_link(layout.shard_folder(shard) / FINISHED)
    with writing_to(layout.shard_folder(shard)):
        (layout.shard_folder(shard) / FINISHED).touch()


def is_finished(layout: Layout, shard: Shard) -> bool:
    """Return whether all batches of a shard are scored, by itself or because all are."""
    return layout.scores.exists() or (layout.shard_folder(shard) / FINISHED).exists()


def wait_for_all(out: Path, name: str, count: int) -> None:
    """Wait until every shard of `count` has scored a dataset's batches and released its folder.

    Raises:
        StorageError: a shard does not get on.
    """
    layout = Layout(out.absolute(), name)
    for shard in (Shard(number, count) for number in range(1, count + 1)):
        journal = layout.shard_folder(shard) / layout.journal.name
        wait_until(partial(is_finished, layout, shard), partial(_size, journal), f"shard {shard.number} of {count}")
        if layout.shard_folder(shard).exists():
            with locked(layout.shard_folder(shard), wait=True):
                pass


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def remove_shards(layout: Layout) -> None:
    """Remove what the shards kept; their rows stand in scores.jsonl."""
    for folder in layout.shards.glob("*-of-*"):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in there, or there were no shards
        layout.shards.rmdir()
    remove_durably(layout.journal)
