"""V, the width of a model's output layer: default thresholds and ratio floors are 100 / V."""

from __future__ import annotations

from typing import Any

from simulsa_plugin.errors import ModelError


def output_width(model: Any) -> int:
    """Return how many logits a model gives at each position.

    Args:
        model: transformers', or peft's around it.

    Raises:
        ModelError: the output layer has another width than the configuration's vocabulary, or neither tells.
    """
    layer = model.get_output_embeddings()
    width = _outputs(layer)
    configured = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    if width is None or configured not in (None, width):
        raise ModelError(
            f"The output layer ({type(layer).__name__}) has {width} outputs, the configuration a vocabulary of "
            f"{configured}. Give a checkpoint whose config.json fits its weights; after resize_vocab, one that has "
            "been saved whole."
        )
    return width


def _outputs(layer: Any) -> int | None:
    """Outputs of a linear layer: rows of its weight (V, hidden size) where all of it is there, else what it declares.

    bitsandbytes stores a 4-bit layer flat, as a column of packed values: transformers does so with the thinker's output
    layer of a whole Omni model, where it leaves out the vocoder's last layer alone. peft, on the other hand, declares
    the two sizes of a tied output layer in exchanged order.
    """
    declared, weight = getattr(layer, "out_features", None), getattr(layer, "weight", None)
    if weight is None or (declared is not None and weight.numel() != declared * layer.in_features):
        return declared
    return int(weight.shape[0])


def check_logits(num_logits: int, width: int) -> None:
    """Compare what a model has returned with `output_width`.

    Raises:
        ModelError: they differ.
    """
    if num_logits != width:
        raise ModelError(
            f"The model returns {num_logits} logits at each position, its configuration says {width}. "
            "Give a checkpoint whose config.json fits its weights."
        )
