"""Under torchrun: which process of how many this is, and its own accelerator."""

from __future__ import annotations

import os

from simulsa_plugin.augment.layout import Shard

# What torchrun sets; any of them left standing would make libraries wait for a process group that nobody needs here.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
             "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")  # fmt: skip
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def take_rank() -> Shard | None:
    """This process's share of the work under torchrun, or None outside it; to be called before torch is imported.

    Ranks talk through the output folder alone, so the process is made to look like a single one that sees its own GPU.
    """
    rank, count = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or count is None or int(count) == 1:
        return None
    local = int(os.environ.get("LOCAL_RANK", rank))
    visible = [device for device in os.environ.get(_VISIBLE, "").split(",") if device]
    os.environ[_VISIBLE] = visible[local % len(visible)] if visible else str(local)
    for name in _TORCHRUN:
        os.environ.pop(name, None)
    return Shard(int(rank) + 1, int(count))
