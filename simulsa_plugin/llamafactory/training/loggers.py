"""Examples and curves where the trainer logs its numbers: TensorBoard, W&B and SwanLab.

The callbacks of the trainer own their writers and runs; what they have set up is used, and nothing else is started. A
callback is recognised by the name of its class, or of one that it extends, since each may come from transformers, from
LLaMA-Factory or from the logger's own package.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulsa_plugin.llamafactory.model.arguments import one_line

if TYPE_CHECKING:
    from simulsa_plugin.evaluation.training_examples import TrainingExamples

EXAMPLES, CURVES = "eval/simul_examples", "eval/simul_curves"  # beside eval/simul_k500_b0_bleu
Picture = npt.NDArray[np.uint8]  # (height, width, 3)


def log_examples(callbacks: Iterable[Any], step: int, examples: TrainingExamples, picture: bytes) -> list[str]:
    """Send examples as text and the curves as an image to every logger that a trainer's callbacks have set up.

    Args:
        callbacks: of the trainer.
        step: of the training.
        examples: of this evaluation.
        picture: PNG.

    Returns:
        What could not be sent: the name of the logger, and why.
    """
    senders = [(sender, callback) for callback in callbacks if (sender := _sender_of(callback))]
    failures = []
    pixels = _read_png(picture) if senders else None
    for sender, callback in senders:
        try:
            sender(callback, step, examples, pixels)
        except Exception as error:  # foreign code, to which a training must not be lost
            failures.append(f"{type(callback).__name__}: {type(error).__name__}: {one_line(error)}")
    return failures


def _sender_of(callback: Any) -> Callable[..., None] | None:
    names = [one.__name__ for one in type(callback).__mro__]
    return next((_SENDERS[name] for name in names if name in _SENDERS), None)


def _read_png(picture: bytes) -> Picture:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def _to_tensorboard(callback: Any, step: int, examples: TrainingExamples, picture: Picture) -> None:
    writer = getattr(callback, "tb_writer", None)
    if writer is not None:
        writer.add_text(EXAMPLES, examples.markdown(), step)
        writer.add_image(CURVES, picture, step, dataformats="HWC")
        writer.flush()


def _to_wandb(callback: Any, step: int, examples: TrainingExamples, picture: Picture) -> None:
    wandb = getattr(callback, "_wandb", None)
    if wandb is not None and wandb.run is not None:
        table = wandb.Table(columns=examples.head, data=examples.table())
        # The callback of transformers has made train/global_step the axis of everything.
        wandb.log({EXAMPLES: table, CURVES: wandb.Image(picture), "train/global_step": step})


def _to_swanlab(callback: Any, step: int, examples: TrainingExamples, picture: Picture) -> None:
    swanlab = getattr(callback, "_swanlab", None) or sys.modules.get("swanlab")
    if swanlab is not None and _has_swanlab_run(swanlab):
        swanlab.log({EXAMPLES: swanlab.Text(examples.markdown()), CURVES: swanlab.Image(picture)}, step=step)


def _has_swanlab_run(swanlab: Any) -> bool:
    """Return whether a run was started; without one, `get_run` of SwanLab 0.7 returns None, and that of 0.10 raises."""
    return bool(swanlab.has_run() if hasattr(swanlab, "has_run") else swanlab.get_run() is not None)


_SENDERS: dict[str, Callable[..., None]] = {
    "TensorBoardCallback": _to_tensorboard,
    "WandbCallback": _to_wandb,
    "SwanLabCallback": _to_swanlab,
}
