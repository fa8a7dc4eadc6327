"""Rank, world size and accelerator of this process under torchrun."""

from __future__ import annotations

import os

from simulsa_plugin.errors import UsageError
from simulsa_plugin.sharding import Shard

# What torchrun sets; any of them left standing would make libraries set up a process group that nobody needs here.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
             "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")  # fmt: skip
# What accelerate takes for a process group under mpirun.
_MPI = ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", *(
    f"{mpi}_COMM_WORLD_{name}" for mpi in ("OMPI", "MV2") for name in ("SIZE", "RANK", "LOCAL_RANK")))  # fmt: skip
_ADVICE = ("Start with torchrun --nproc_per_node N --no-python …, or as one process: "
            "env -u RANK -u WORLD_SIZE -u LOCAL_RANK …")  # fmt: skip
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")  # NVIDIA's and AMD's GPUs, Huawei's NPUs


def take_rank() -> Shard | None:
    """Return this process's share of the work under torchrun, or None outside it; call it before torch is imported.

    Ranks talk through the output folder alone, so the process is made to look like a single one that sees its own GPU.

    Raises:
        UsageError: the variables cannot be torchrun's: they are not such numbers, or only those of a machine are there,
            which clusters set (Kubeflow's jobs, say) for whoever starts torchrun on each.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _unset_distributed_variables()
        return None
    rank, count, local = (_environment_number(name, default) for name, default in
                          (("RANK", None), ("WORLD_SIZE", None), ("LOCAL_RANK", "0")))  # fmt: skip
    if rank >= count:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE is {count}; ranks are counted from 0. {_ADVICE}")
    if count > 1 and "LOCAL_RANK" not in os.environ:
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={count} are set, but not LOCAL_RANK: the cluster has set them, and torchrun "
            f"has not started this process, so nobody may start the other {count - 1}. {_ADVICE}"
        )
    _unset_distributed_variables()
    if count == 1:
        return None
    for name in _VISIBLE:
        os.environ[name] = _own_device(os.environ.get(name), local)
    return Shard(rank + 1, count)


def _unset_distributed_variables() -> None:
    for name in (*_TORCHRUN, *_MPI):
        os.environ.pop(name, None)


def _environment_number(name: str, default: str | None) -> int:
    text = os.environ.get(name, default) or ""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name} is {text!r}; torchrun sets a whole number. {_ADVICE}")
    return int(text)


def _own_device(visible: str | None, local: int) -> str:
    """Return the visible device of a machine's process `local`; "" where no device is visible.

    >>> _own_device(None, 1), _own_device("4,6", 1), _own_device("4,6", 2), _own_device("", 1)
    ('1', '6', '4', '')
    """
    if visible is None:
        return str(local)
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    return devices[local % len(devices)] if devices else visible
