"""Several processes at one dataset: each scores its part of the batches, one of them finishes.

A shard is known by its folder `shards/K-of-N`, which it holds while it works; nothing else passes between processes,
so shards may run under torchrun, in a job array, one after another, or on machines that share the output folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from simulsa_plugin.augment.layout import Layout, Shard
from simulsa_plugin.errors import StorageError
from simulsa_plugin.storage import locked, make_folder

FINISHED = "finished"  # the file that says that all batches of a shard are scored
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 10.0  # for shards that begin at the same moment


@contextmanager
def holding(layout: Layout, shard: Shard | None) -> Iterator[None]:
    """Hold a dataset's folder to finish it, or one shard's folder beside other shards.

    Raises:
        StorageError: somebody works there; the process is named.
    """
    with ExitStack() as stack:
        if shard is None:
            stack.enter_context(locked(layout.folder))
            for folder in sorted(layout.shards.glob("*-of-*")):
                stack.enter_context(locked(folder))
            layout.remove_leftovers()
        else:
            stack.enter_context(_beside_others(layout, shard))
        yield


@contextmanager
def _beside_others(layout: Layout, shard: Shard) -> Iterator[None]:
    """Hold the shard's folder, taken while nobody holds the whole: a finishing run never misses a shard."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                with locked(layout.folder):
                    stack.enter_context(locked(make_folder(layout.shard_folder(shard))))
                break
            except StorageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
        yield


def mark_finished(layout: Layout, shard: Shard) -> None:
    """Say that a shard has scored all its batches."""
    (layout.shard_folder(shard) / FINISHED).touch()


def wait_for_all(out: Path, name: str, count: int) -> None:
    """Wait until every shard of `count` has scored a dataset's batches and let go of its folder."""
    layout = Layout(out.absolute(), name)
    for number in range(1, count + 1):
        folder = layout.shard_folder(Shard(number, count))
        while not (folder / FINISHED).exists():
            time.sleep(POLL_SECONDS)
        with locked(folder, wait=True):
            pass


def remove_shards(layout: Layout) -> None:
    """Remove what the shards kept; their rows stand in scores.jsonl."""
    shutil.rmtree(layout.shards, ignore_errors=True)
    layout.journal.unlink(missing_ok=True)
