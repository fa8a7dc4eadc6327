"""Shards of an output in a store: each has a place of its own, and the run that finishes fetches them.

The places lie below `.simulsa/shards/`, each with a lease, as whole outputs have. Shards write there what only they
have: the rows that they score, and how. When a dataset is finished its rows stand in the output, and are removed here;
that a shard was scored stays noted, so that one that is started late has nothing to do.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from simulsa_plugin.files import remote
from simulsa_plugin.files.atomic import make_folder
from simulsa_plugin.files.mirror import (
    DRIVER,
    OWN,
    Mirror,
    check_output_address,
    leased,
    naming_the_output,
    refuse_foreign_objects,
    refuse_inside_another,
    work_folder,
    working_at,
)
from simulsa_plugin.files.termination import unwinding_at_termination

SHARDS = f"{OWN}/shards"
_GATHERED = "gathered"  # folder in the cache


@contextlib.contextmanager
def mirrored_shard(url: str, shard: str, sends: Callable[[str], bool]) -> Iterator[Path]:
    """Yield a local folder for one shard of an output; raises as `mirror.mirrored`.

    Args:
        url: of the output.
        shard: its name.
        sends: whether a file by this name, relative to the folder, is what only the shard has.
    """
    check_output_address(url)
    url = url.rstrip("/")

    def check(_: str) -> None:
        refuse_inside_another(url)
        if remote.read(f"{url}/{DRIVER}") is None:
            refuse_foreign_objects(url, remote.list_below(url))

    with working_at(f"{url}/{SHARDS}/{shard}", check, sends) as mirror:
        yield mirror.folder


@contextlib.contextmanager
def gathered(url: str) -> Iterator[dict[str, Mirror]]:
    """Yield the shards' names with what they have written, in local folders; nobody else works at them meanwhile.

    What stands in the output is to be removed from the store then, see `Mirror.remove_journals`.

    Args:
        url: of the output.

    Raises:
        FolderInUseError: a shard is being scored.
        StorageError: the store cannot be used.
    """
    check_output_address(url)
    url = url.rstrip("/")
    with naming_the_output(SHARDS):
        found = {name.partition("/")[0] for name in remote.list_below(f"{url}/{SHARDS}")}
    names = sorted(name for name in found if re.fullmatch(r"\d+-of-\d+", name))
    if not names:
        yield {}
        return
    base = make_folder(work_folder(url)) / _GATHERED
    with unwinding_at_termination(), contextlib.ExitStack() as stack:
        leases = {name: stack.enter_context(leased(f"{url}/{SHARDS}/{name}")) for name in names}
        shutil.rmtree(base, ignore_errors=True)
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        places = {
            name: Mirror(f"{url}/{SHARDS}/{name}", make_folder(base / name), lease) for name, lease in leases.items()
        }
        for place in places.values():
            place.fetch()
        yield places
