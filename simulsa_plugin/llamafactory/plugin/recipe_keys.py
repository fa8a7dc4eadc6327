"""Recipes for LLaMA-Factory: `simulsa_*` keys are checked, model names resolved, bf16 turned off without a GPU.

Every LLaMA-Factory command gets its arguments from `read_args`, be it from a file, from flags or from a caller's dict;
`with_adapted_recipe` wraps it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.demo.checkpoint import resolve_model_name
from simulsa_plugin.evaluation.evaluation_settings import CometSettings, EvaluationSettings, HookSettings, TuneSettings
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.presets import PresetSettings
from simulsa_plugin.settings import KEY_PREFIX, Settings, split_recipe

MODEL_KEYS = ("model_name_or_path", "ref_model", "reward_model")
Arguments = dict[str, Any] | list[str]


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Keys for training alone.

    Args:
        made_by: the command that makes the recipe's dataset, printed if the dataset is missing.
    """

    made_by: str | None = None


# One recipe serves augmentation, training and evaluation, so every command knows the keys of all of them.
GROUPS: tuple[type[Settings], ...] = (
    PresetSettings,
    CorpusSettings,
    AugmentSettings,
    EvaluationSettings,
    TuneSettings,
    CometSettings,
    HookSettings,
    ClusterSettings,
    TrainingSettings,
)


def known_keys() -> list[str]:
    """Return every `simulsa_*` key that a recipe may have."""
    return list(dict.fromkeys(key for group in GROUPS for key in group.keys()))


def with_adapted_recipe(read_args: Callable[..., Arguments]) -> Callable[..., Arguments]:
    """Wrap LLaMA-Factory's `read_args`: adapt what it returns."""

    @functools.wraps(read_args)
    def adapted(args: Arguments | None = None) -> Arguments:
        values = read_args(args)
        return adapt_flags(values) if isinstance(values, list) else adapt_recipe(values)

    return adapted


def adapt_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe for LLaMA-Factory: model names resolved, bf16 off where there is no GPU.

    Raises:
        UsageError: a `simulsa_*` key is unknown; the message names the nearest known one.
    """
    split_recipe(recipe, GROUPS)
    adapted = {key: _resolve_model_name(value) if key in MODEL_KEYS else value for key, value in recipe.items()}
    if adapted.get("bf16") is True and not adapted.get("use_cpu") and _device_count() == 0:
        notify("bf16 needs a GPU, and there is none: going on in fp32.")
        adapted["bf16"] = False
    return adapted


def adapt_flags(flags: list[str]) -> list[str]:
    """Adapt `--key value` and `--key=value` like `adapt_recipe`.

    Raises:
        UsageError: a `--simulsa_*` flag is unknown; the message names the nearest known key.
    """
    split_recipe({key: None for key in flags_to_recipe(flags) if key.startswith(KEY_PREFIX)}, GROUPS)
    adapted = list(flags)
    for position, flag in enumerate(flags):
        key, equals, value = flag.removeprefix("--").partition("=")
        if flag.startswith("--") and key in MODEL_KEYS:
            if equals:
                adapted[position] = f"--{key}={resolve_model_name(value)}"
            elif position + 1 < len(flags):
                adapted[position + 1] = resolve_model_name(flags[position + 1])
    return adapted


def flags_to_recipe(flags: list[str]) -> dict[str, Any]:
    """Convert command-line flags to a recipe; a flag without a value is true.

    >>> flags_to_recipe(["--stage", "sft", "--seed=1", "--do_train"])
    {'stage': 'sft', 'seed': '1', 'do_train': True}
    """
    recipe: dict[str, Any] = {}
    for flag, following in zip(flags, [*flags[1:], "--"], strict=True):
        if flag.startswith("--"):
            key, equals, value = flag.removeprefix("--").partition("=")
            recipe[key] = value if equals else True if following.startswith("--") else following
    return recipe


def _resolve_model_name(value: Any) -> Any:
    return resolve_model_name(value) if isinstance(value, str) else value


def _device_count() -> int:
    from llamafactory.extras.misc import get_device_count

    count: int = get_device_count()
    return count
