"""The dev set of a recipe, on which settings are chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.evaluate_recipe import TEST_FOLDER, write_embedded_test
from simulsa_plugin.api.recipe import Recipe, dataset_names
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings, TuneSettings

if TYPE_CHECKING:
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset


@dataclass(frozen=True)
class DevSet:
    """Where settings are chosen.

    Attributes:
        name: of the dataset.
        registered: it must be in dataset_info.json; else it is made first.
        make: makes it; given the folder of the result, and whether that may be moved, returns LLaMA-Factory's keys to
            load it and the test set with.
        warnings: what is wrong with it that its name alone shows.
    """

    name: str
    registered: bool
    make: Callable[[Path, bool], Mapping[str, Any]] = lambda out, portable: {}
    warnings: tuple[str, ...] = ()


def recipe_dev_set(recipe: Recipe) -> DevSet:
    """Return the dev set that a recipe names, or the embedded one.

    Raises:
        UsageError: it names none.
    """
    name = TuneSettings.from_keys(recipe.simulsa).dev_dataset
    if recipe.simulsa.get("simulsa_corpus") is not None:
        return _corpus_dev_set(recipe, name)
    if name is not None:
        return DevSet(name, registered=True)
    if recipe.embedded:
        return _embedded_dev_set(EvaluationSettings.from_keys(recipe.simulsa).is_long_form)
    raise UsageError(
        "Settings are chosen on a dev set, and the recipe names none. Set simulsa_dev_dataset=NAME to a "
        "set in dataset_info.json that is neither trained on nor the test set."
    )


def _embedded_dev_set(long_form: bool) -> DevSet:
    """Return the embedded dev set: utterances, or talks."""
    from simulsa_plugin.demo.corpus import DEV_NAME, DEV_ROWS, DEV_SPLIT, write_demo_corpus
    from simulsa_plugin.demo.talks import DEV_TALK_MINUTES, DEV_TALKS_NAME, write_demo_talks

    def make(out: Path, portable: bool) -> Mapping[str, Any]:
        folder = (out / TEST_FOLDER).absolute()
        test = write_embedded_test(folder, long_form)
        if long_form:
            write_demo_talks(folder, DEV_TALKS_NAME, split=DEV_SPLIT, minutes=DEV_TALK_MINUTES)
        else:
            write_demo_corpus(folder, rows=0, test_rows=0, dev_rows=DEV_ROWS)
        return {"eval_dataset": test, "dataset_dir": str(folder)}

    return DevSet(DEV_TALKS_NAME if long_form else DEV_NAME, registered=False, make=make)


def _corpus_dev_set(recipe: Recipe, name: str | None) -> DevSet:
    """Return the dev split of a raw corpus."""
    from simulsa_plugin.api.raw_corpus import recipe_corpus

    split = recipe.simulsa.get("simulsa_dev_split")
    if not split:
        raise UsageError(
            "Settings are chosen on a dev set, and the recipe names no split of the corpus for it. Set "
            "simulsa_dev_split to one that is neither trained on nor the test set."
        )
    toolkit = {key: value for key, value in recipe.toolkit.items() if key != "eval_dataset"}
    toolkit |= {} if name is None else {"eval_dataset": name}
    for_dev = Recipe(recipe.simulsa | {"simulsa_eval_split": split}, toolkit, embedded=False)
    dev = recipe_corpus(for_dev, evaluation=True)
    test = recipe_corpus(recipe, evaluation=True)
    if dev is None or test is None:
        raise UsageError("simulsa_corpus is empty. Set it, or simulsa_dev_dataset.")

    def make(out: Path, portable: bool) -> Mapping[str, Any]:
        dev.prepare(out / TEST_FOLDER, portable=portable)
        return {"dataset_dir": str(out / TEST_FOLDER)}

    shared = [one for one in dev.splits if one in test.splits]
    warnings = (_same_as_test(dev.name),) if shared else ()
    return DevSet(dev.name, registered=False, make=make, warnings=warnings)


def _same_as_test(name: str) -> str:
    return (
        f"the dev set {name} is the test set, too: its scores will be those of settings that were chosen on it, "
        "which says nothing about other data. Set simulsa_dev_dataset (of a corpus: simulsa_dev_split) to others."
    )


def dev_set_warnings(recipe: Recipe, dataset: OfflineDataset) -> list[str]:
    """Warn where the dev set is the test set, or is trained on; no line where that is not known."""
    from simulsa_plugin.llamafactory.data.dataset_registry import read_dataset_info
    from simulsa_plugin.llamafactory.data.leakage import find_training_overlap

    if recipe.embedded or recipe.simulsa.get("simulsa_corpus") is not None:
        return []
    folder = recipe.toolkit.get("dataset_dir", "data")
    info, where = read_dataset_info(folder), folder if isinstance(folder, str) else os.curdir
    test, training = (dataset_names(recipe.toolkit.get(key)) for key in ("eval_dataset", "dataset"))
    lines = []
    if find_training_overlap(dataset.name, dataset.entry, test or training, info, where):
        lines.append(_same_as_test(dataset.name))
    if test and (shared := find_training_overlap(dataset.name, dataset.entry, training, info, where)):
        lines.append(
            f"the dev set {dataset.name} is {shared}: on what it remembers a model is surer than elsewhere, "
            "so settings chosen here are too fast. Set simulsa_dev_dataset to a set that is not trained on."
        )
    return lines
