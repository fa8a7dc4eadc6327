"""Where the output goes: a folder, or an address below which a folder of the cache is copied while the work goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.errors import UsageError

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
def output_at(out: OutputPlace, *, shared: bool = False) -> Iterator[Path]:
    """Yield the folder in which to work; see `files.mirror.mirrored` where `out` is an address.

    Args:
        out: a folder or an address.
        shared: several processes work at this output, which needs a folder.

    Raises:
        UsageError: several processes cannot share an address.
        SimulsaError: of `mirrored`.
    """
    if not is_address(out):
        yield Path(out)
        return
    if shared:
        raise UsageError(
            "--out is an address, and several processes (--shard, torchrun) need a folder that they share. Start one "
            "process, or give a folder."
        )
    from simulsa_plugin.files.mirror import mirrored

    with mirrored(str(out)) as folder:
        yield folder


def folder_of(out: OutputPlace) -> Path:
    """Return the folder in which the work on an output is done, without looking at the store."""
    if not is_address(out):
        return Path(out)
    from simulsa_plugin.files.mirror import check_output_address, work_folder

    check_output_address(str(out))
    return work_folder(str(out).rstrip("/")) / "folder"
