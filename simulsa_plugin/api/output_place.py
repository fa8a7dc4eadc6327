"""Where the output goes: a folder, or an address below which a folder of the cache is copied while the work goes on."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.sharding import Shard

OutputPlace = str | os.PathLike[str]


def is_address(out: OutputPlace) -> bool:
    """Return whether output goes to a store."""
    return isinstance(out, str) and "://" in out


def no_recipe_for_address() -> UsageError:
    """Return the error for the embedded default, whose corpus has absolute names, in a store."""
    return UsageError("--out is an address, and the embedded corpus is made in folders. Give a recipe, or a folder.")


def fetching_command(out: OutputPlace, name: str) -> str:
    """Return how to copy a file of an output at an address into the current folder.

    >>> fetching_command("s3://bucket/tuned/", "tuned.yaml")
    'aws s3 cp s3://bucket/tuned/tuned.yaml .'
    """
    url = f"{str(out).rstrip('/')}/{name}"
    return f"aws s3 cp {url} ." if url.startswith("s3://") else f"copy {url} here"


@contextlib.contextmanager
def output_at(out: OutputPlace, *, ranks: bool = False) -> Iterator[Path]:
    """Yield the folder in which to work; see `files.mirror.mirrored` where `out` is an address.

    Args:
        out: a folder or an address.
        ranks: this is one of several processes that wait for each other, which needs a folder.

    Raises:
        UsageError: several processes cannot share an address.
        SimulsaError: of `mirrored`.
    """
    if not is_address(out):
        yield Path(out)
        return
    if ranks:
        raise UsageError(
            "--out is an address, and processes of torchrun need a folder that they share. Start one process for "
            "each GPU, with --shard where the command has it, or give a folder."
        )
    from simulsa_plugin.files.mirror import mirrored

    with mirrored(str(out)) as folder:
        yield folder


@contextlib.contextmanager
def augmentation_at(out: OutputPlace, part: Shard | None, *, finishes: bool) -> Iterator[Path]:
    """Yield the folder of an augmentation or of a shard of it, which has a place of its own below an address.

    Args:
        out: a folder or an address.
        part: of several processes; None for the whole.
        finishes: see `augment_recipe`; a shard that waits for others is a rank of torchrun.

    Raises:
        SimulsaError: of `output_at`; or a shard is being scored, or differs from the others.
    """
    if not is_address(out) or (part and finishes):
        with output_at(out, ranks=part is not None) as folder:
            yield folder
        return
    from simulsa_plugin.augmentation.gathered_shards import adopt_shard, is_of_output, is_of_shard, stands_in_output
    from simulsa_plugin.files.mirror import mirrored
    from simulsa_plugin.files.shard_mirrors import gathered, mirrored_shard

    if part:
        with mirrored_shard(str(out), str(part), is_of_shard) as folder:
            yield folder
        return
    with gathered(str(out)) as places:
        with mirrored(str(out), is_of_output) as folder:
            for shard, place in places.items():
                adopt_shard(folder, shard, place.folder)
            yield folder
        for place in places.values():
            place.remove_journals(functools.partial(stands_in_output, folder))


def folder_of(out: OutputPlace) -> Path:
    """Return the folder in which the work on an output is done, without looking at the store."""
    if not is_address(out):
        return Path(out)
    from simulsa_plugin.files.mirror import check_output_address, work_folder

    check_output_address(str(out))
    return work_folder(str(out).rstrip("/")) / "folder"
