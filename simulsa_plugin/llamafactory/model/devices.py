"""Devices of a model's weights and inputs.

LLaMA-Factory loads for inference with `device_map="auto"`. With several visible accelerators, accelerate then spreads
the model over all of them, even if one suffices, and every pass waits for copies between them. So a model that fits on
one device, with the memory that decoding needs, is put there. A larger one is spread; where the accelerators together
are too small, accelerate offloads the remaining weights to host memory or disk, and leaves parameters on PyTorch's
`meta` device, which have shapes and no values.
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
MEMORY_ADVICE = "Take more or larger accelerators, or set quantization_bit: 4."


def choose_device(arguments: InferenceArguments, cache_bytes: float = CACHE_BYTES) -> InferenceArguments:
    """Choose a model's device: with several visible, the first one on which it fits.

    Args:
        arguments: with LLaMA-Factory's choice in `model.device_map`.
        cache_bytes: memory for keys, values and the audio encoder during decoding.

    Returns:
        the arguments to load with; unchanged where there is no choice.
    """
    if (
        torch.accelerator.device_count() < 2
        or arguments.model.device_map != "auto"
        or _has_fixed_placement(arguments.model)
    ):
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


def _has_fixed_placement(model_arguments: Any) -> bool:
    """Return whether the model is quantized by bitsandbytes: on one device, or by quantization_device_map."""
    return model_arguments.quantization_bit is not None and model_arguments.quantization_method == "bnb"


def weight_bytes(arguments: InferenceArguments) -> int | None:
    """Return the memory that loading a model needs, from its configuration; adapters and merging them included.

    A complete Omni model is loaded with its speech output. Linear layers count with the bits they are quantized to.

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
    """Return the size of local adapter files, and of the update of the largest weight when an adapter is merged."""
    if not adapters:
        return 0
    files = [path for folder in adapters for path in Path(folder).glob("adapter_model.*")]
    largest = max(weight.numel() * weight.element_size() for weight in model.parameters())
    return sum(path.stat().st_size for path in files) + int(largest)


def _quantized_bits(model_arguments: Any, config: Any) -> float | None:
    """Return the bits of linear layers: of a quantized checkpoint, else those that the recipe sets."""
    saved = getattr(config, "quantization_config", None)
    if not saved:
        return float(model_arguments.quantization_bit) if model_arguments.quantization_bit else None
    saved = saved if isinstance(saved, dict) else saved.to_dict()
    if saved.get("quant_method") in ("mxfp4", "fp8"):
        return None  # LLaMA-Factory dequantizes these
    bits = saved.get("bits") or (4 if saved.get("load_in_4bit") else 8 if saved.get("load_in_8bit") else None)
    return float(bits) if bits else None


def execution_device(module: torch.nn.Module) -> torch.device:
    """Return where a module computes: the device of accelerate's hooks, else that of its first weight."""
    for part in module.modules():
        for hook in _hooks(part):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
        own = next(part.parameters(recurse=False), None)
        if own is not None:
            return own.device
    return torch.device("cpu")


def parameters_with_values(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what `named_parameters()` does, with the values of those that are offloaded to host memory or disk.

    Raises:
        ModelError: a parameter was not loaded.
    """
    for name, weight in module.named_parameters():
        owner, _, own_name = name.rpartition(".")
        yield name, parameter_value(module.get_submodule(owner), own_name) if weight.is_meta else weight.detach()


def parameter_value(module: torch.nn.Module, name: str) -> torch.Tensor:
    """Return a module's own weight, from host memory or disk where accelerate has offloaded it.

    Raises:
        ModelError: it was not loaded.
    """
    weight: torch.Tensor = getattr(module, name)
    if not weight.is_meta:
        return weight.detach()
    for hook in _hooks(module):
        if getattr(hook, "offload", False):
            return torch.as_tensor(hook.weights_map[name])
    raise ModelError(f"The weight {name} of {type(module).__name__} was not loaded. Check the checkpoint's files.")


def memory_error(name: str, error: BaseException) -> ModelError:
    """Return the error for a model that does not fit on an accelerator."""
    reason = str(error).split(". ")[0].rstrip(".")  # PyTorch adds a paragraph about fragmentation
    return ModelError(
        f"The model {name} does not fit: {reason}. {MEMORY_ADVICE} CUDA_VISIBLE_DEVICES chooses among accelerators."
    )


def offloaded_weights(model: torch.nn.Module) -> str | None:
    """Return a phrase for the share of weights that does not fit on the accelerators; None where all of it does."""
    sizes = [(weight.numel() * weight.element_size(), weight.is_meta) for weight in model.parameters()]
    offloaded, total = sum(size for size, is_meta in sizes if is_meta), sum(size for size, _ in sizes)
    return f"{offloaded / GB:.2f} of {total / GB:.2f} GB of the weights" if offloaded else None


def _hooks(module: torch.nn.Module) -> tuple[Any, ...]:
    """Return accelerate's hooks of a module, in the order in which they run."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,)))
