"""A model's output layer: its width V (the default threshold is 100 / V), and its product in fp32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from simulsa_plugin.errors import ModelError

ROWS_AT_ONCE = 16_384  # of the weight that are converted to fp32: 268 MB where the model is 4096 wide


def output_width(model: Any) -> int:
    """Return the number of logits at each position.

    Args:
        model: transformers', with or without PEFT's wrapper.

    Raises:
        ModelError: the output layer has another width than the configuration's vocabulary, or its width is unknown.
    """
    layer = model.get_output_embeddings()
    width = _outputs(layer)
    configured = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    if width is None or configured not in (None, width):
        raise ModelError(
            f"The output layer ({type(layer).__name__}) has {width} outputs, the configuration a vocabulary of "
            f"{configured}. Give a checkpoint whose config.json fits its weights; after resize_vocab, one that has "
            "been saved completely."
        )
    return width


def _outputs(layer: Any) -> int | None:
    """Return the outputs of a linear layer: rows of its weight (V, hidden size) if complete, else `out_features`.

    bitsandbytes stores a 4-bit layer as a column of packed values; in a complete Omni model transformers quantizes the
    thinker's output layer, as it excludes only the vocoder's last layer. PEFT, in turn, declares the two sizes of a
    tied output layer in exchanged order.
    """
    declared, weight = getattr(layer, "out_features", None), getattr(layer, "weight", None)
    if weight is None or (declared is not None and weight.numel() != declared * layer.in_features):
        return declared
    return int(weight.shape[0])


def check_logits(num_logits: int, width: int) -> None:
    """Check the number of logits that a model has returned against `output_width`.

    Raises:
        ModelError: they differ.
    """
    if num_logits != width:
        raise ModelError(
            f"The model returns {num_logits} logits at each position, its configuration has {width}. "
            "Give a checkpoint whose config.json fits its weights."
        )


@contextlib.contextmanager
def fp32_product(layer: Any) -> Iterator[None]:
    """Let an output layer in bf16 or fp16 multiply in fp32, also under autocast, inside this context.

    In bf16 a logit of 20 is rounded to a multiple of 1/8: different tokens tie, and probabilities are wrong by up to
    6 %. Layers of other kinds (quantized, with an adapter, with offloaded weights) keep their own product.

    Args:
        layer: of `model.get_output_embeddings()`.
    """
    plain = type(layer) is torch.nn.Linear and "forward" not in vars(layer) and not layer.weight.is_meta
    if not plain or (layer.weight.dtype == torch.float32 and not torch.is_autocast_enabled(layer.weight.device.type)):
        yield
        return

    def product(hidden: torch.Tensor) -> torch.Tensor:
        """Multiply (…, hidden size) to logits (…, V) in fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            parts = [hidden.float() @ rows.float().T for rows in layer.weight.split(ROWS_AT_ONCE)]
            logits = torch.cat(parts, dim=-1)
            return logits if layer.bias is None else logits + layer.bias.float()

    layer.forward = product
    try:
        yield
    finally:
        del layer.forward
