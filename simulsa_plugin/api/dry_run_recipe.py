"""The dry run of an augmentation: what would be done and at what cost, in lines; no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulsa_plugin.api.augment_recipe import (
    DatasetSamples,
    datasets_to_cut,
    open_augment_recipe,
    settings_for,
    text_dataset_line,
    training_warnings,
)
from simulsa_plugin.api.output_place import OutputPlace, folder_of
from simulsa_plugin.api.recipe import RecipeSource, offline_dataset_names


def dry_run_recipe(
    recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any], place: OutputPlace
) -> tuple[list[str], list[str]]:
    """Describe what `augment` would do with every dataset of a recipe; nothing is written.

    Of an output at an address, only the cache of this machine is looked at.

    Returns:
        The lines, and warnings.

    Raises:
        SimulsaError: as `augment` before it loads the model.
    """
    from simulsa_plugin.api.raw_corpus import recipe_corpus

    opened, settings = open_augment_recipe(recipe, overrides)
    settings, out = settings_for(place, opened, settings), folder_of(place)
    lines = [str(opened.preset)] if opened.preset else []
    toolkit, corpus = opened.toolkit, recipe_corpus(opened, evaluation=False)
    if corpus:
        if to_prepare := corpus.dry_run(out):
            return [*lines, *to_prepare], []
        toolkit = toolkit | {"dataset": corpus.name, "dataset_dir": str(out)}
    if opened.embedded:
        from simulsa_plugin.demo.corpus import OFFLINE_NAME, OFFLINE_ROWS, TEST_ROWS

        if not (out / f"{OFFLINE_NAME}.jsonl").exists():
            to_synthesise = (
                f"{OFFLINE_NAME}: would first synthesise {OFFLINE_ROWS} training and {TEST_ROWS} test utterances into "
                f"{out} (about 0.8 GB), then cut them; further estimates need the corpus"
            )
            return [*lines, to_synthesise], []
        toolkit = toolkit | {"dataset": OFFLINE_NAME, "dataset_dir": str(out)}
    from simulsa_plugin.api.loading import activate_plugin, load_without_weights
    from simulsa_plugin.augmentation.dry_run import dry_run
    from simulsa_plugin.augmentation.manifest import describe_augmentation
    from simulsa_plugin.augmentation.method.selection import wanted_samples

    activate_plugin()
    from simulsa_plugin.llamafactory.model.machine import copy_rate, this_device, this_machine

    copying = copy_rate(this_device())  # its blocks are free again before rows need memory
    renderer, there, size = load_without_weights(toolkit, offline_dataset_names(toolkit.get("dataset")))
    loaded = [dataset.without_segments() for dataset in there]
    machine = None if size is None else this_machine(size, copying)
    found: list[DatasetSamples] = []
    datasets = datasets_to_cut(loaded)
    for dataset in loaded:
        if any(dataset is one for one in datasets):
            found.append((dataset, wanted_samples(len(dataset), settings)))
            described = describe_augmentation(dataset, renderer.description, settings, out=out.absolute())
            lines += dry_run(dataset, renderer, size, settings, out, described, machine)
        else:
            found.append((dataset, None))
            lines.append(text_dataset_line(dataset))
    return lines, training_warnings(toolkit, found)
