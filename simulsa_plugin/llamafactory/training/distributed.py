"""Many processes of a training: who they are, what all of them found, and weights that are spread over them."""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed

GLOO_THREAD = "pt_gloo_runloop"  # as PyTorch names the threads that run gloo's collectives
WATCHED = ("State", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")  # of a thread's /proc/…/status
PAUSE_SECONDS = 0.01
PATIENCE_SECONDS = 10.0


def rank_and_count() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gather(found: Any) -> list[Any]:
    """What every process found, in the order of their numbers; all of them must ask."""
    _, count = rank_and_count()
    if count == 1:
        return [found]
    gathered: list[Any] = [None] * count
    torch.distributed.all_gather_object(gathered, found)
    return gathered


@contextlib.contextmanager
def whole_weights(engine: Any) -> Iterator[None]:
    """Every process has the whole weights of a model that ZeRO-3 spreads over them; others have them anyway.

    DeepSpeed's hooks would gather and give back the weights of each layer at each call, which works only where all
    processes make the same calls. So they are taken off as long as the weights are whole, and put on again.

    Args:
        engine: DeepSpeed's, or any other module.
    """
    offload = _zero_3(engine)
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


def _zero_3(engine: Any) -> Any:
    """What holds the hooks of ZeRO-3; None without ZeRO-3."""
    optimizer = getattr(engine, "optimizer", None)
    offload = getattr(optimizer, "parameter_offload", None)
    if offload is None and hasattr(optimizer, "_register_deepspeed_module"):
        return optimizer  # in an evaluation without training
    return offload


def let_gloo_finish_at_exit() -> None:
    """Register `let_gloo_finish` to run when this process exits, before the interpreter is finalized."""
    atexit.unregister(let_gloo_finish)
    atexit.register(let_gloo_finish)


def let_gloo_finish() -> None:
    """Wait until gloo's threads have released the tensors of the last collectives.

    A thread of gloo needs the GIL to release a tensor. One that asks for it while the interpreter is being finalized is
    terminated inside a destructor, and takes the process down with SIGABRT ("terminate called without an active
    exception"; https://github.com/pytorch/pytorch/issues/190489): a training that has saved its model ends with exit
    code 1. `destroy_process_group` does not wait for these threads while anything still refers to the group, as
    DeepSpeed's engine and its parameters do.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    before = _gloo_threads()
    while before and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)  # without the GIL: a thread that waits for it takes it now
        now = _gloo_threads()
        if now == before and all(status["State"].startswith("S") for status in now.values()):
            return
        before = now


def _gloo_threads() -> dict[str, dict[str, str]]:
    """State and counts of context switches of gloo's threads, by thread id; empty where there is no /proc.

    A thread that sleeps, and has not been switched to since the last look, waited for neither a processor nor the GIL.
    """
    found = {}
    for path in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # the thread has just ended
            lines = path.read_text(encoding="utf-8").splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if status.get("Name") == GLOO_THREAD:
                found[path.parent.name] = {key: status.get(key, "") for key in WATCHED}
    return found
