"""What both commands do first: read the recipe, fall back on the embedded default, load data and model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from simulsa_plugin.presets import Preset, apply_preset
from simulsa_plugin.settings import Settings, read_recipe, split_recipe

if TYPE_CHECKING:
    from simulsa_plugin.augmentation.dry_run import ModelSize
    from simulsa_plugin.commands.raw_corpus import WantedCorpus
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer
    from simulsa_plugin.llamafactory.model.backbone import Backbone

EMBEDDED_MODEL = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
S = TypeVar("S", bound=Settings)


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
    path: Path | None, overrides: list[str], groups: Iterable[type[Settings]] = (), embedded_preset: str | None = None
) -> Recipe:
    """Read a recipe and check its `simulsa_*` keys; without one, the embedded default is what overrides apply to.

    Args:
        path: of the recipe, if there is one.
        overrides: strings `key=value`.
        groups: whose keys a preset may set.
        embedded_preset: the preset of the embedded default, where none is named.

    Raises:
        UsageError: the recipe cannot be read, a `simulsa_*` key is unknown, or there is no such preset.
    """
    from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS

    simulsa, toolkit = split_recipe(read_recipe(path, overrides), GROUPS)
    embedded = path is None and not any(keys.get(key) for keys, key in
                       ((toolkit, "dataset"), (toolkit, "eval_dataset"), (simulsa, "simulsa_corpus")))  # fmt: skip
    simulsa, preset = apply_preset(simulsa, groups, embedded_preset if embedded else None)
    return Recipe(simulsa, toolkit if path is not None else EMBEDDED_MODEL | toolkit, embedded, preset)


def check_early(recipe: Recipe, datasets: object) -> None:
    """Check what shows before anything heavy is imported; `datasets`: the key's value, where no corpus is named.

    Raises:
        SimulsaError: see `llamafactory.plugin.recipe_checks`.
    """
    from simulsa_plugin.llamafactory.plugin.recipe_checks import check_recipe

    made = recipe.embedded or recipe.simulsa.get("simulsa_corpus") is not None
    check_recipe(recipe.toolkit, None if made else own_dataset_names(datasets))


def _with_plugin() -> None:
    """Set up what must be before the libraries are imported; what PyTorch would load, also where it was told not to.

    What scores and decodes must see what training with the plugin sees.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from simulsa_plugin.llamafactory.plugin.autoload import activate

    activate()
    if os.environ.get(AUTOLOAD, "1") != "1":
        print(
            f"WARNING: {AUTOLOAD}={os.environ[AUTOLOAD]} keeps PyTorch from loading simulsa_plugin. It is on here all "
            "the same, but llamafactory-cli train goes without it: unset the variable there.",
            file=sys.stderr,
        )


def load(
    toolkit_keys: Mapping[str, Any],
    names: list[str],
    cache_bytes: float | None = None,
    check: Callable[[list[OfflineDataset]], None] | None = None,
) -> tuple[Backbone, list[OfflineDataset]]:
    """Load datasets, then the model: a mistake in the data shows before the long part.

    Args:
        toolkit_keys: LLaMA-Factory's.
        names: of the datasets.
        cache_bytes: what decoding may take besides the weights; by default as much as an evaluation may.
        check: is called with the datasets before the model is loaded.

    Raises:
        SimulsaError: keys, datasets or model are wrong; see `llamafactory`.
    """
    _with_plugin()
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.backbone import load_backbone
    from simulsa_plugin.llamafactory.model.devices import CACHE_BYTES

    arguments = inference_arguments(toolkit_keys)
    datasets = load_datasets(arguments, names)
    if check is not None:
        check(datasets)
    return load_backbone(arguments, CACHE_BYTES if cache_bytes is None else cache_bytes), datasets


def load_without_weights(
    toolkit_keys: Mapping[str, Any], names: list[str]
) -> tuple[TemplateRenderer, list[OfflineDataset], ModelSize | None]:
    """Load datasets and the model's prompt, and count its parameters from its configuration.

    Raises:
        SimulsaError: keys, datasets or model are wrong; see `llamafactory`.
    """
    _with_plugin()
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.data.rendering import load_renderer
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.model_size import model_size

    arguments = inference_arguments(toolkit_keys)
    return load_renderer(arguments), load_datasets(arguments, names), model_size(arguments)


def warnings_about_test_set(recipe: Recipe, dataset: OfflineDataset, corpus: WantedCorpus | None) -> list[str]:
    """A line where the test set is what the recipe trains on, with the next step; none where it is not known to be."""
    from simulsa_plugin.llamafactory.data.dataset import read_dataset_info
    from simulsa_plugin.llamafactory.data.leakage import trained_on

    if corpus:
        return corpus.warnings()
    folder = recipe.toolkit.get("dataset_dir", "data")
    training = dataset_names(recipe.toolkit.get("dataset"))
    if recipe.embedded or not training:
        return []
    where = folder if isinstance(folder, str) else os.curdir
    shared = trained_on(dataset.name, dataset.entry, training, read_dataset_info(folder), where)
    if shared is None:
        return []
    missing = "" if recipe.toolkit.get("eval_dataset") else "the recipe has no eval_dataset, and "
    return [
        f"{missing}the test set {dataset.name} is {shared}: its scores say how well the model remembers, not how well "
        "it translates. Set eval_dataset=NAME to a test set that is not trained on."
    ]


def own_dataset_names(value: object) -> list[str]:
    """`dataset_names` less what an earlier run made of one of them, so that one recipe serves all steps.

    >>> own_dataset_names("a,a_simulsa,b_simulsa")
    ['a', 'b_simulsa']
    """
    from simulsa_plugin.augmentation.output_layout import SUFFIX

    names = dataset_names(value)
    return [name for name in dict.fromkeys(names) if not (name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in names)]


def dataset_names(value: object) -> list[str]:
    """`a, b` and [a, b] alike, as LLaMA-Factory reads them.

    >>> dataset_names("a, b"), dataset_names(None)
    (['a', 'b'], [])
    """
    names = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return [str(name).strip() for name in names if str(name).strip()]
