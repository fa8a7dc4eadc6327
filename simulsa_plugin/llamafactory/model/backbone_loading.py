"""Loading of a `Backbone` as LLaMA-Factory loads a model for inference."""

from __future__ import annotations

import numpy as np
import torch

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.rendering import LOADING_ERRORS, cannot_load, load_renderer
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.devices import (
    CACHE_BYTES,
    MEMORY_ADVICE,
    choose_device,
    memory_error,
    offloaded_weights,
)
from simulsa_plugin.llamafactory.patches.batch_invariance import make_batch_invariant
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.memory import release_freed
from simulsa_plugin.model.values import GenerationRequest, Prompt

AUDIO_PLACEHOLDER = "<audio>"


def load_backbone(arguments: InferenceArguments, cache_bytes: float = CACHE_BYTES) -> Backbone:
    """Load tokenizer, processor, template and model as LLaMA-Factory does for inference.

    Args:
        arguments: model, adapter, template.
        cache_bytes: memory for decoding besides the weights, where a device is chosen; see `devices.choose_device`.

    Raises:
        ModelError: something cannot be loaded or does not fit into memory, or the model does not take audio.
    """
    renderer = load_renderer(arguments)
    from llamafactory.model import load_model

    try:
        chosen = choose_device(arguments, cache_bytes)
        model = make_batch_invariant(load_model(renderer.tokenizer, chosen.model, chosen.finetuning))
    except torch.OutOfMemoryError as error:
        raise memory_error(arguments.model.model_name_or_path, error) from error
    except LOADING_ERRORS as error:
        raise cannot_load(arguments, error) from error
    backbone = Backbone(model, renderer)
    release_freed()
    offloaded = offloaded_weights(model)
    if offloaded:
        _try_offloaded(backbone, offloaded)
    return backbone


def _try_offloaded(backbone: Backbone, offloaded: str) -> None:
    """Score and generate about a second of silence with a model whose weights accelerate has partly offloaded.

    Accelerate's hooks fetch the weights of a module when it is called. An architecture that uses another module's
    weights without calling it fails, which only a forward pass shows.

    Raises:
        ModelError: the model cannot compute with offloaded weights.
    """
    prompt, silence = Prompt(({"role": "user", "content": AUDIO_PLACEHOLDER},)), np.zeros(SAMPLE_RATE, np.float32)
    try:
        rendered = backbone.render(prompt, silence, "")
        backbone.score([rendered], [silence])
        backbone.generate(
            backbone.encode_prompts([rendered.prompt_ids], [silence]), [GenerationRequest(max_new_tokens=1)]
        )
    except RuntimeError as error:  # NotImplementedError is one
        if "meta" not in str(error):
            raise
        raise ModelError(
            f"{offloaded} do not fit on the accelerators and stay in memory or on disk, and "
            f"{type(backbone.model).__name__} cannot compute with these. {MEMORY_ADVICE}"
        ) from error
    notify(
        f"{offloaded} do not fit on the accelerators and stay in memory or on disk. Every pass moves them, which takes "
        f"many times as long. {MEMORY_ADVICE}"
    )
