"""Any LLaMA-Factory recipe as LLaMA-Factory's inference arguments."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.demo.checkpoint import resolve_model_name
from simulsa_plugin.errors import ModelError, SimulsaError, UsageError
from simulsa_plugin.settings import short_repr, unknown_key

# Read by LLaMA-Factory before its own parsers.
LAUNCH_KEYS = {"use_ray", "use_v1_kernels"}
# Keys of training in groups that inference shares. LLaMA-Factory would check them here too: for packages that only the
# training machine needs, or against keys that the training does not have (`val_size` beside an evaluation set).
_TRAINING_DATA_KEYS = {
    "val_size",
    "streaming",
    "max_samples",
    "mix_strategy",
    "interleave_probs",
    "packing",
    "neat_packing",
    "mask_history",
    "train_on_prompt",
    "tokenized_path",
    "eval_on_each_dataset",
}
_TRAINING_MODEL_KEYS = {"enable_liger_kernel", "use_unsloth", "use_unsloth_gc", "infer_backend"}
_INFERENCE_FINETUNING_KEYS = {"finetuning_type"}


@dataclass(frozen=True)
class InferenceArguments:
    """LLaMA-Factory's argument groups for one model and its data."""

    model: Any
    data: Any
    finetuning: Any


def check_named(recipe: Mapping[str, Any]) -> None:
    """Raise UsageError unless the recipe names a model and a template."""
    for key, example in (("model_name_or_path", "Qwen/Qwen2-Audio-7B"), ("template", "qwen2_audio")):
        value = recipe.get(key)
        if value is None or value == "":
            raise UsageError(f"The recipe has no {key}. Add a line such as {key}: {example}.")
        if not isinstance(value, str):
            raise UsageError(f"{key} is {short_repr(value)}; allowed: a name, such as {example}.")


def inference_arguments(recipe: Mapping[str, Any]) -> InferenceArguments:
    """Turn a recipe (without `simulsa_*` keys) into inference arguments, without the keys of training.

    Raises:
        UsageError: LLaMA-Factory does not know a key, or model or template is missing.
        ModelError: LLaMA-Factory refuses the recipe.
    """
    check_named(recipe)
    silence_libraries()
    from llamafactory.hparams import FinetuningArguments, get_infer_args
    from llamafactory.hparams import parser as groups

    inference, training = _field_names(groups._INFER_ARGS), _field_names(groups._TRAIN_ARGS)
    for key in recipe:
        if key not in inference | training | LAUNCH_KEYS:
            raise unknown_key(key, inference | training)
    about_training = _field_names([FinetuningArguments]) - _INFERENCE_FINETUNING_KEYS
    about_training |= _TRAINING_DATA_KEYS | _TRAINING_MODEL_KEYS
    chosen = {key: value for key, value in recipe.items() if key in inference - about_training}
    chosen["model_name_or_path"] = resolve_model_name(str(recipe["model_name_or_path"]))
    _refuse_lists(chosen)
    try:
        model, data, finetuning, _ = get_infer_args(chosen)
    except (ValueError, TypeError, ImportError, OSError, AssertionError, AttributeError) as error:  # it asserts, too
        raise ModelError(f"LLaMA-Factory refuses the recipe: {one_line(error)}") from error
    return InferenceArguments(model, data, finetuning)


def _refuse_lists(recipe: Mapping[str, Any]) -> None:
    """Raise UsageError for lists where LLaMA-Factory splits text at commas; its training fails on them as well."""
    for key in ("adapter_name_or_path", "add_tokens", "add_special_tokens"):
        if isinstance(recipe.get(key), (list, tuple)):
            text = ",".join(map(str, recipe[key]))
            raise UsageError(f"{key} is a list; LLaMA-Factory takes text with commas. Write  {key}: {text}")


def silence_libraries() -> None:
    """Show only errors of LLaMA-Factory and transformers, and no progress bars in logs.

    LLaMA-Factory's warnings are about training, or about rows that are reported as skipped here, such as missing audio.
    """
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    logging.getLogger("llamafactory").setLevel(logging.ERROR)
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        transformers.logging.disable_progress_bar()


def one_line(error: BaseException) -> str:
    """Return an error's text on one line; SimulsaErrors keep theirs."""
    text = str(error) if isinstance(error, SimulsaError) else " ".join(str(error).split())
    return text or type(error).__name__


def _field_names(groups: list[Any]) -> set[str]:
    return {field.name for group in groups for field in dataclasses.fields(group) if field.init}
