"""Audio encoders that make of an audio what they make of it alone, whatever else is in the batch.

Two things in transformers 5.6 stand against that, both in Qwen3-Omni's encoder:

It strings the audios of a batch together and attends within windows, none of which reaches into another audio. These
windows reach FlashAttention alone: with sdpa or eager attention every audio hears all others, and one beyond 8 s is
encoded otherwise than the model has learned (https://github.com/QwenLM/Qwen3-ASR/issues/213 is about the same encoder).

It cuts audios into pieces of a second and pads a last, shorter one to the longest piece of the batch. Its convolutions
have biases, which sound in that padding. So an audio below a second is another one alone than beside a longer one; here
it is always padded to a second, as it is in nearly every batch of a training.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from simulsa_plugin.llamafactory.plugin.notices import notify

HALVINGS = 3  # strided convolutions between frames and tokens
_FIXED = "_simulsa_fixed"  # attribute of an encoder


def company_free(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `load_model`, which every stage of training and every inference calls."""

    @functools.wraps(load_model)
    def load(*arguments: Any, **options: Any) -> Any:
        model = free_of_company(load_model(*arguments, **options))
        if getattr(model, "training", False) and _is_fixed(model):
            notify(
                "the audio encoder of Qwen3-Omni is fixed for this training: in transformers 5.6 the audios of a batch "
                "attend to each other (SIMULSA_PLUGIN=0 leaves it as it is)."
            )
        return model

    return load


def free_of_company(model: Any) -> Any:
    """Fix such encoders, once; what is added belongs to the encoder, so that a deep copy of the model has its own.

    Returns:
        the model itself; any other is left as it is.
    """
    for encoder in model.modules():
        if getattr(encoder, _FIXED, False):
            continue
        if _has_windows(encoder):
            for layer in encoder.layers:
                layer.register_forward_pre_hook(functools.partial(_add_mask, encoder), with_kwargs=True)
            setattr(encoder, _FIXED, True)
        if hasattr(encoder, "n_window_infer"):
            # Not a closure: `copy.deepcopy` would share it, and the copy would encode with the original's weights.
            encoder.forward = functools.update_wrapper(
                functools.partial(_padded_forward, encoder, encoder.forward), encoder.forward
            )
            setattr(encoder, _FIXED, True)
    return model


def _is_fixed(model: Any) -> bool:
    return any(hasattr(module, "n_window_infer") for module in model.modules())


def _has_windows(module: Any) -> bool:
    make_mask = getattr(module, "_prepare_attention_mask", None)
    return make_mask is not None and "cu_seqlens" in inspect.signature(make_mask).parameters


def _add_mask(
    encoder: Any, _layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before layer(hidden_states, cu_seqlens); Qwen2.5-Omni's encoder, which passes the mask itself, is let alone."""
    if len(arguments) == 2 and "attention_mask" not in options:
        options = {**options, "attention_mask": encoder._prepare_attention_mask(*arguments)}
    return arguments, options


def _padded_forward(
    encoder: Any, forward: Callable[..., Any], input_features: Any, feature_lens: Any = None, **options: Any
) -> Any:
    """Call the encoder's `forward`; where no audio fills a piece, a silent one that does goes along, and is left out.

    Args:
        encoder: that `forward` belongs to.
        forward: as it was.
        input_features: frames (mel bins, all frames).
        feature_lens: how many of them each audio has.
        **options: for `forward`.
    """
    frames = 2 * encoder.n_window
    if feature_lens is None or int(feature_lens.max()) >= frames:
        return forward(input_features, feature_lens=feature_lens, **options)
    silence = input_features.new_zeros(len(input_features), frames)
    lengths = torch.cat([feature_lens, feature_lens.new_tensor([frames])])
    encoded = forward(torch.cat([input_features, silence], dim=1), feature_lens=lengths, **options)
    tokens = functools.reduce(lambda length, _: (length - 1) // 2 + 1, range(HALVINGS), frames)
    encoded.last_hidden_state = encoded.last_hidden_state[:-tokens]
    return encoded
