"""Size of a model, from its configuration alone."""

from __future__ import annotations

from typing import Any

from simulsa_plugin.augmentation.dry_run import ModelSize
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, silence_libraries

WITH_THINKER = ("qwen2_5_omni", "qwen3_omni_moe")  # LLaMA-Factory trains this part and drops the speech output
AUDIO_TOWERS = ("audio_tower", "apm", "audio_encoder")  # as transformers and LLaMA-Factory name them


def model_size(arguments: InferenceArguments) -> ModelSize | None:
    """Count the parameters of a model, built on PyTorch's meta device, which needs no memory.

    Returns:
        the size; None where its class cannot be built from its configuration.
    """
    import torch

    model = build_on_meta(arguments.model)
    if model is None:
        return None
    config = model.config
    if getattr(config, "model_type", None) in WITH_THINKER:
        model = model.thinker
    encoder = sum(
        weight.numel() for name, weight in model.named_parameters() if any(tower in name for tower in AUDIO_TOWERS)
    )
    dtype = getattr(config, "dtype", None) or torch.float32
    return ModelSize(model.num_parameters(), encoder, torch.empty(0, dtype=dtype).element_size())


def build_on_meta(model_arguments: Any) -> Any:
    """Build a checkpoint's model on PyTorch's meta device, where weights have shapes and no values.

    Returns:
        the model; None where its class cannot be built from its configuration.
    """
    silence_libraries()
    import torch
    from llamafactory.model.loader import load_config

    try:
        config = load_config(model_arguments)
        with torch.device("meta"):
            return _auto_class(config).from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError, OSError):
        return None  # remote code, or a class that needs its weights: the size is unknown


def _auto_class(config: Any) -> Any:
    """Return the class that LLaMA-Factory's loader uses for a configuration."""
    import transformers

    for name in ("AutoModelForImageTextToText", "AutoModelForSeq2SeqLM", "AutoModelForTextToWaveform"):
        if type(config) in getattr(transformers, name)._model_mapping:
            return getattr(transformers, name)
    return transformers.AutoModelForCausalLM
