"""Under torchrun: which process of how many this is, and its own accelerator."""

from __future__ import annotations

import os

from simulsa_plugin.work import Shard

# What torchrun sets; any of them left standing would make libraries set up a process group that nobody needs here.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
             "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")  # fmt: skip
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")  # NVIDIA's and AMD's GPUs, Huawei's NPUs


def take_rank() -> Shard | None:
    """This process's share of the work under torchrun, or None outside it; to be called before torch is imported.

    Ranks talk through the output folder alone, so the process is made to look like a single one that sees its own GPU.
    """
    rank, count = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or count is None:
        return None
    local = int(os.environ.get("LOCAL_RANK", rank))
    for name in _TORCHRUN:
        os.environ.pop(name, None)
    if int(count) == 1:
        return None
    for name in _VISIBLE:
        os.environ[name] = _own_device(os.environ.get(name), local)
    return Shard(int(rank) + 1, int(count))


def _own_device(visible: str | None, local: int) -> str:
    """The one device of the visible ones that a machine's process `local` takes; no device stays no device.

    >>> _own_device(None, 1), _own_device("4,6", 1), _own_device("4,6", 2), _own_device("", 1)
    ('1', '6', '4', '')
    """
    if visible is None:
        return str(local)
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    return devices[local % len(devices)] if devices else visible
