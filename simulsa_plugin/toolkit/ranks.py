"""Many processes of a training: who they are, what all of them found, and weights that are spread over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.distributed


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
