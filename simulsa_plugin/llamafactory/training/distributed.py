"""Distributed training: ranks, gathered results, and gathered weights under ZeRO-3."""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed

GLOO_THREAD = "pt_gloo_runloop"  # as PyTorch names the threads that run gloo's collectives
STATUS_FIELDS = ("State", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")  # of a thread's /proc/…/status
GLOO_POLL_SECONDS = 0.01
GLOO_MAX_WAIT_SECONDS = 10.0


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank, from 0, and the number of processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gather_from_ranks(result: Any) -> list[Any]:
    """Return the results of all ranks in order; every rank must call this."""
    _, count = rank_and_world_size()
    if count == 1:
        return [result]
    gathered: list[Any] = [None] * count
    torch.distributed.all_gather_object(gathered, result)
    return gathered


@contextlib.contextmanager
def gathered_weights(engine: Any) -> Iterator[None]:
    """Gather the weights of a model that ZeRO-3 partitions, on every rank; do nothing for other models.

    DeepSpeed's hooks gather and release the weights of each layer at each call, which works only if all ranks make the
    same calls. So the hooks are removed inside this context, and registered again at its end.

    Args:
        engine: DeepSpeed's, or any other module.
    """
    offload = _zero_3_hooks(engine)
    if offload is None:
        yield
        return
    import deepspeed

    parameters = list(offload.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters):
        for parameter in parameters:
            parameter.ds_active_sub_modules.clear()
        offload._remove_module_hooks()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)


def _zero_3_hooks(engine: Any) -> Any:
    """Return the object that registers the hooks of ZeRO-3; None without ZeRO-3."""
    optimizer = getattr(engine, "optimizer", None)
    offload = getattr(optimizer, "parameter_offload", None)
    if offload is None and hasattr(optimizer, "_register_deepspeed_module"):
        return optimizer  # in an evaluation without training
    return offload


def wait_for_gloo_at_exit() -> None:
    """Run `wait_for_gloo_threads` when this process exits, before the interpreter is finalized."""
    atexit.unregister(wait_for_gloo_threads)
    atexit.register(wait_for_gloo_threads)


def wait_for_gloo_threads() -> None:
    """Wait until gloo's threads have released the tensors of the last collectives.

    A thread of gloo needs the GIL to release a tensor. One that waits for it during the finalization of the interpreter
    is terminated inside a destructor, which ends the process with SIGABRT ("terminate called without an active
    exception"; https://github.com/pytorch/pytorch/issues/190489): a training that has saved its model ends with exit
    code 1. `destroy_process_group` does not wait for these threads while anything still refers to the group, as
    DeepSpeed's engine and its parameters do.
    """
    deadline = time.monotonic() + GLOO_MAX_WAIT_SECONDS
    before = _gloo_threads()
    while before and time.monotonic() < deadline:
        time.sleep(GLOO_POLL_SECONDS)  # releases the GIL, so that a thread that waits for it gets it
        now = _gloo_threads()
        if now == before and all(status["State"].startswith("S") for status in now.values()):
            return
        before = now


def _gloo_threads() -> dict[str, dict[str, str]]:
    """Return state and context switches of gloo's threads by thread id; empty where there is no /proc.

    A sleeping thread without a context switch since the last call waits neither for a processor nor for the GIL.
    """
    found = {}
    for path in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # the thread has just ended
            lines = path.read_text(encoding="utf-8").splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if status.get("Name") == GLOO_THREAD:
                found[path.parent.name] = {key: status.get(key, "") for key in STATUS_FIELDS}
    return found
