"""Batch invariance of Qwen3-Omni's audio encoder: embeddings of an audio must not depend on the rest of the batch.

transformers 5.6 has two bugs:

The encoder concatenates the audios of a batch and attends within windows, none of which contains two audios. Only
FlashAttention gets these windows: with sdpa or eager attention every audio attends to all others, and one beyond 8 s is
not encoded as in pretraining (https://github.com/QwenLM/Qwen3-ASR/issues/213 is about the same encoder).

The encoder splits audios into chunks of a second and pads the last, shorter one to the longest chunk of the batch. Its
convolutions have biases, so padding changes the embeddings: an audio below a second is encoded differently alone than
beside a longer one. Here it is always padded to a second, as in nearly every training batch.

Delete this module when transformers passes the windows to all attention functions and pads to a whole chunk.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from simulsa_plugin.llamafactory.plugin.notices import notify

HALVINGS = 3  # strided convolutions between frames and tokens
_PATCHED = "_simulsa_patched"  # attribute of an encoder


def with_batch_invariant_encoder(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap LLaMA-Factory's `load_model`, which every training stage and every inference calls."""

    @functools.wraps(load_model)
    def load(*arguments: Any, **options: Any) -> Any:
        model = make_batch_invariant(load_model(*arguments, **options))
        if getattr(model, "training", False) and _has_patched_encoder(model):
            notify(
                "the audio encoder of Qwen3-Omni is fixed for this training: in transformers 5.6 the audios of a batch "
                "attend to each other (SIMULSA_PLUGIN=0 turns the fix off)."
            )
        return model

    return load


def make_batch_invariant(model: Any) -> Any:
    """Patch such encoders once; the patch is an attribute of the encoder, so that a deep copy of the model has its own.

    Returns:
        the model itself; other models are unchanged.
    """
    for encoder in model.modules():
        if getattr(encoder, _PATCHED, False):
            continue
        if _has_windows(encoder):
            for layer in encoder.layers:
                layer.register_forward_pre_hook(functools.partial(_add_mask, encoder), with_kwargs=True)
            setattr(encoder, _PATCHED, True)
        if hasattr(encoder, "n_window_infer"):
            # Not a closure: `copy.deepcopy` would share it, and the copy would encode with the original's weights.
            encoder.forward = functools.update_wrapper(
                functools.partial(_padded_forward, encoder, encoder.forward), encoder.forward
            )
            setattr(encoder, _PATCHED, True)
    return model


def _has_patched_encoder(model: Any) -> bool:
    return any(hasattr(module, "n_window_infer") for module in model.modules())


def _has_windows(module: Any) -> bool:
    make_mask = getattr(module, "_prepare_attention_mask", None)
    return make_mask is not None and "cu_seqlens" in inspect.signature(make_mask).parameters


def _add_mask(
    encoder: Any, _layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add the mask to layer(hidden_states, cu_seqlens), unless the encoder passes one, as Qwen2.5-Omni's does."""
    if len(arguments) == 2 and "attention_mask" not in options:
        options = {**options, "attention_mask": encoder._prepare_attention_mask(*arguments)}
    return arguments, options


def _padded_forward(
    encoder: Any, forward: Callable[..., Any], input_features: Any, feature_lens: Any = None, **options: Any
) -> Any:
    """Call the encoder's `forward`; if all audios are shorter than a chunk, encode a chunk of silence with them.

    Args:
        encoder: owner of `forward`.
        forward: the original method.
        input_features: frames (mel bins, all frames).
        feature_lens: number of frames of each audio.
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
