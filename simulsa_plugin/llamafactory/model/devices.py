"""On which devices a model's weights are, and where its inputs belong.

LLaMA-Factory loads for inference with `device_map="auto"`. Where a process sees several accelerators, accelerate then
spreads the model over all of them, even if one would do, and every pass waits for the copies between them. So a model
that fits on one device, with room for what decoding needs, is put there. One that does not is spread as before; where
the accelerators together are too small, accelerate keeps the rest of the weights in the machine's memory or on disk and
leaves parameters on PyTorch's `meta` device, which have a shape and no values.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments
from simulsa_plugin.llamafactory.model.model_size import build_on_meta
from simulsa_plugin.llamafactory.plugin.notices import notify

CACHE_BYTES = 4e9  # default of simulsa_eval_memory_gb
WORK_BYTES = 2e9  # logits of a batch and activations
GB = 1e9
WAY_OUT = "Take more or larger accelerators, or set quantization_bit: 4."


def placed(arguments: InferenceArguments, cache_bytes: float = CACHE_BYTES) -> InferenceArguments:
    """Choose the device for a model: the first one on which it fits, where several are visible.

    Args:
        arguments: with LLaMA-Factory's choice in `model.device_map`.
        cache_bytes: what keys, values and the audio encoder may take while decoding.

    Returns:
        the arguments to load with; the same ones where there is nothing to choose.
    """
    if torch.accelerator.device_count() < 2 or arguments.model.device_map != "auto" or _places_itself(arguments.model):
        return arguments
    weights = weight_bytes(arguments)
    if weights is None:
        return arguments
    from accelerate.utils import get_max_memory

    free = {device: memory for device, memory in get_max_memory().items() if isinstance(device, int)}
    needed = weights + cache_bytes + WORK_BYTES
    device = fitting_device(free, needed)
    if device is None:
        notify(
            f"the model needs {needed / GB:.1f} GB ({weights / GB:.1f} for weights), and no accelerator has more than "
            f"{max(free.values()) / GB:.1f} GB free: it is spread over all {len(free)}, which is slower. "
            "quantization_bit: 4 makes it smaller."
        )
        return arguments
    notify(
        f"{len(free)} accelerators are visible, and this process takes number {device} alone. To use all of them, "
        f"start the command with  torchrun --nproc_per_node {len(free)} --no-python"
    )
    torch.accelerator.set_device_index(device)
    model = copy.copy(arguments.model)
    model.device_map = {"": device}
    return dataclasses.replace(arguments, model=model)


def fitting_device(free: dict[int, int], needed: float) -> int | None:
    """Return the first device with enough memory: another choice from run to run could change the last digits.

    >>> fitting_device({0: 10, 1: 24, 2: 80}, 20), fitting_device({0: 10}, 20)
    (1, None)
    """
    return next((device for device in sorted(free) if free[device] >= needed), None)


def _places_itself(model_arguments: Any) -> bool:
    """LLaMA-Factory puts what bitsandbytes quantizes on one device, or spreads it under quantization_device_map."""
    return model_arguments.quantization_bit is not None and model_arguments.quantization_method == "bnb"


def weight_bytes(arguments: InferenceArguments) -> int | None:
    """Return what a model takes while it is loaded, from its configuration; adapters and merging them included.

    A whole Omni model is loaded with its voice. Linear layers are counted with the bits they are quantized to.

    Returns:
        bytes, or None where the class cannot be built from the configuration alone.
    """
    model = build_on_meta(arguments.model)
    if model is None:
        return None
    bits = _quantized_bits(arguments.model, model.config)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    total = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors)
    if bits is not None:
        output = model.get_output_embeddings()
        linear = [one.weight for one in model.modules() if isinstance(one, torch.nn.Linear) and one is not output]
        total -= sum(round(weight.numel() * (weight.element_size() - bits / 8)) for weight in linear)
    return int(total) + _adapter_bytes(arguments.model.adapter_name_or_path or [], model)


def _adapter_bytes(adapters: list[str], model: Any) -> int:
    """Files of local adapters, and the difference that is added to the largest weight when one is merged."""
    if not adapters:
        return 0
    files = [path for folder in adapters for path in Path(folder).glob("adapter_model.*")]
    largest = max(weight.numel() * weight.element_size() for weight in model.parameters())
    return sum(path.stat().st_size for path in files) + int(largest)


def _quantized_bits(model_arguments: Any, config: Any) -> float | None:
    """Bits of linear layers: of a checkpoint that was saved quantized, else those that the recipe asks for."""
    saved = getattr(config, "quantization_config", None)
    if not saved:
        return float(model_arguments.quantization_bit) if model_arguments.quantization_bit else None
    saved = saved if isinstance(saved, dict) else saved.to_dict()
    if saved.get("quant_method") in ("mxfp4", "fp8"):
        return None  # LLaMA-Factory dequantizes these
    bits = saved.get("bits") or (4 if saved.get("load_in_4bit") else 8 if saved.get("load_in_8bit") else None)
    return float(bits) if bits else None


def execution_device(module: torch.nn.Module) -> torch.device:
    """Return where a module computes: as accelerate's hooks say, else where its first weight is."""
    for part in module.modules():
        for hook in _hooks(part):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
        own = next(part.parameters(recurse=False), None)
        if own is not None:
            return own.device
    return torch.device("cpu")


def stored_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what `named_parameters()` does, with the values of those that are kept in memory or on disk.

    Raises:
        ModelError: a parameter has no values anywhere.
    """
    for name, weight in module.named_parameters():
        owner, _, own_name = name.rpartition(".")
        yield name, stored(module.get_submodule(owner), own_name) if weight.is_meta else weight.detach()


def stored(module: torch.nn.Module, name: str) -> torch.Tensor:
    """Return a module's own weight; one that accelerate keeps in memory or on disk is taken from there.

    Raises:
        ModelError: it has no values anywhere.
    """
    weight: torch.Tensor = getattr(module, name)
    if not weight.is_meta:
        return weight.detach()
    for hook in _hooks(module):
        if getattr(hook, "offload", False):
            return torch.as_tensor(hook.weights_map[name])
    raise ModelError(f"The weight {name} of {type(module).__name__} was not loaded. Check the checkpoint's files.")


def does_not_fit(name: str, error: BaseException) -> ModelError:
    """Return the error for a model that an accelerator has no memory for."""
    reason = str(error).split(". ")[0].rstrip(".")  # PyTorch adds a paragraph about fragmentation
    return ModelError(
        f"The model {name} does not fit: {reason}. {WAY_OUT} CUDA_VISIBLE_DEVICES chooses among accelerators."
    )


def kept_weights(model: torch.nn.Module) -> str | None:
    """Return how much of a model does not fit on the accelerators, in words; None where all of it does."""
    sizes = [(weight.numel() * weight.element_size(), weight.is_meta) for weight in model.parameters()]
    kept, total = sum(size for size, is_meta in sizes if is_meta), sum(size for size, _ in sizes)
    return f"{kept / GB:.2f} of {total / GB:.2f} GB of the weights" if kept else None


def _hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    """Hooks that accelerate has given a module, in the order in which they run."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))
