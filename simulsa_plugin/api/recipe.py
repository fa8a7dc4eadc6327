"""The recipe that a function of the API, or a command, works on: its keys checked, with the embedded default behind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.presets import Preset
    from simulsa_plugin.settings import Settings

EMBEDDED_MODEL = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
RecipeSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Recipe:
    """A recipe, its own keys checked.

    Attributes:
        simulsa: the `simulsa_*` keys, with the preset's values for those that are not named.
        toolkit: LLaMA-Factory's keys.
        embedded: no dataset and no corpus was named, so the embedded default serves.
        preset: what stands behind the keys, if anything does.
    """

    simulsa: dict[str, Any]
    toolkit: dict[str, Any]
    embedded: bool
    preset: Preset | None = None


def open_recipe(
    recipe: RecipeSource,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    groups: Iterable[type[Settings]] = (),
    embedded_preset: str | None = None,
) -> Recipe:
    """Read a recipe and check its `simulsa_*` keys; without one, the embedded default is what overrides apply to.

    Args:
        recipe: path of a YAML file, or its keys with their values.
        overrides: strings `key=value` as on a command line, or keys with their values.
        groups: whose keys a preset may set.
        embedded_preset: the preset of the embedded default, where none is named.

    Raises:
        UsageError: the recipe cannot be read, a `simulsa_*` key is unknown, or there is no such preset.
    """
    from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS
    from simulsa_plugin.presets import apply_preset
    from simulsa_plugin.settings import split_recipe

    simulsa, toolkit = split_recipe(_read_keys(recipe, overrides), GROUPS)
    embedded = recipe is None and not any(keys.get(key) for keys, key in
                       ((toolkit, "dataset"), (toolkit, "eval_dataset"), (simulsa, "simulsa_corpus")))  # fmt: skip
    simulsa, preset = apply_preset(simulsa, groups, embedded_preset if embedded else None)
    return Recipe(simulsa, toolkit if recipe is not None else EMBEDDED_MODEL | toolkit, embedded, preset)


def _read_keys(recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    from simulsa_plugin.settings import read_recipe, short_repr

    if not (recipe is None or isinstance(recipe, str | os.PathLike | Mapping)):
        raise UsageError(f"The recipe is {short_repr(recipe)}; allowed: a path, keys with their values, or None.")
    path = None if recipe is None or isinstance(recipe, Mapping) else Path(recipe)
    words = () if isinstance(overrides, Mapping) else overrides
    given = dict(recipe) if isinstance(recipe, Mapping) else {}
    keys = given | read_recipe(path, words) | (dict(overrides) if isinstance(overrides, Mapping) else {})
    for key in keys:
        if not isinstance(key, str):
            raise UsageError(f"The recipe has the key {short_repr(key)}; allowed: keys that are text.")
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in keys.items()}


def check_early(recipe: Recipe, datasets: object) -> None:
    """Check what shows before anything heavy is imported; `datasets`: the key's value, where no corpus is named.

    Raises:
        SimulsaError: see `llamafactory.plugin.recipe_checks`.
    """
    from simulsa_plugin.llamafactory.plugin.recipe_checks import check_recipe

    made_first = recipe.embedded or recipe.simulsa.get("simulsa_corpus") is not None
    check_recipe(recipe.toolkit, None if made_first else offline_dataset_names(datasets))


def offline_dataset_names(value: object) -> list[str]:
    """`dataset_names` less the partial samples of one of them, so that one recipe serves all steps.

    >>> offline_dataset_names("a,a_simulsa,b_simulsa")
    ['a', 'b_simulsa']
    """
    from simulsa_plugin.augmentation.output_layout import SUFFIX

    names = dataset_names(value)
    return [name for name in dict.fromkeys(names) if not (name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in names)]


def dataset_names(value: object) -> list[str]:
    """Split `a, b` as LLaMA-Factory does; a list stays one.

    >>> dataset_names("a, b"), dataset_names(None)
    (['a', 'b'], [])
    """
    names = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return [str(name).strip() for name in names if str(name).strip()]
