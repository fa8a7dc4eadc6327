"""Data and model of a recipe, loaded through LLaMA-Factory with the plugin on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.recipe import Recipe, dataset_names
from simulsa_plugin.terminal import announce

if TYPE_CHECKING:
    from simulsa_plugin.api.raw_corpus import RecipeCorpus
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer
    from simulsa_plugin.llamafactory.model.backbone import Backbone
    from simulsa_plugin.model.cost import ModelSize
    from simulsa_plugin.model.values import Sample, UnusableRow

AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
logger = logging.getLogger(__name__)


def activate_plugin() -> None:
    """Activate the plugin before libraries are imported, even where PyTorch's autoloading of plugins is turned off.

    Scoring and decoding must see what training with the plugin sees.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "torch" not in sys.modules:
        announce("importing PyTorch and LLaMA-Factory")
    from simulsa_plugin.llamafactory.plugin.autoload import activate

    activate()
    if os.environ.get(AUTOLOAD, "1") != "1":
        logger.warning(
            f"{AUTOLOAD}={os.environ[AUTOLOAD]} keeps PyTorch from loading simulsa_plugin. It is on here all "
            "the same, but llamafactory-cli train goes without it: unset the variable there."
        )


def load_model_and_data(
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
    activate_plugin()
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
    from simulsa_plugin.llamafactory.model.devices import CACHE_BYTES

    arguments = inference_arguments(toolkit_keys)
    datasets = load_datasets(arguments, names)
    if check is not None:
        check(datasets)
    return load_backbone(arguments, CACHE_BYTES if cache_bytes is None else cache_bytes), datasets


def load_model(toolkit_keys: Mapping[str, Any], cache_bytes: float | None = None) -> Backbone:
    """Load the model alone; arguments and errors as for `load_model_and_data`."""
    activate_plugin()
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
    from simulsa_plugin.llamafactory.model.devices import CACHE_BYTES

    return load_backbone(inference_arguments(toolkit_keys), CACHE_BYTES if cache_bytes is None else cache_bytes)


def read_samples(
    dataset: OfflineDataset, count: int | None, settings: EvaluationSettings
) -> list[Sample | UnusableRow]:
    """Return the first `count` rows, or all; with reference segments where recordings are decoded.

    Raises:
        DatasetError: the rows' `segments` are not those of recordings.
    """
    rows = dataset if settings.is_long_form else dataset.without_segments()
    return [rows.sample(row) for row in range(min(len(rows), count or len(rows)))]


def load_without_weights(
    toolkit_keys: Mapping[str, Any], names: list[str]
) -> tuple[TemplateRenderer, list[OfflineDataset], ModelSize | None]:
    """Load datasets and the model's prompt, and count its parameters from its configuration.

    Raises:
        SimulsaError: keys, datasets or model are wrong; see `llamafactory`.
    """
    activate_plugin()
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.data.rendering import load_renderer
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.model_size import model_size

    arguments = inference_arguments(toolkit_keys)
    renderer = load_renderer(arguments)
    return renderer, load_datasets(arguments, names), model_size(arguments, renderer.processor)


def leakage_warnings(recipe: Recipe, dataset: OfflineDataset, corpus: RecipeCorpus | None) -> list[str]:
    """Warn of a test set that the recipe trains on, with the next step; no line where it is not known to."""
    from simulsa_plugin.llamafactory.data.dataset_registry import read_dataset_info
    from simulsa_plugin.llamafactory.data.leakage import find_training_overlap

    if corpus:
        return corpus.leakage_warnings()
    folder = recipe.toolkit.get("dataset_dir", "data")
    training = dataset_names(recipe.toolkit.get("dataset"))
    if recipe.embedded or not training:
        return []
    where = folder if isinstance(folder, str) else os.curdir
    shared = find_training_overlap(dataset.name, dataset.entry, training, read_dataset_info(folder), where)
    if shared is None:
        return []
    missing = "" if recipe.toolkit.get("eval_dataset") else "the recipe has no eval_dataset, and "
    return [
        f"{missing}the test set {dataset.name} is {shared}: its scores say how well the model remembers, not how well "
        "it translates. Set eval_dataset=NAME to a test set that is not trained on."
    ]
