"""`simulsa-eval tune`: read the recipe, make the dev set ready, search, write the recipe of what was found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.commands.wiring import Recipe, dataset_names, load, open_recipe
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import TuneSettings

if TYPE_CHECKING:
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.model.values import Sample, UnusableRow
    from simulsa_plugin.tuning.halving import Goal

QUALITIES = ("BLEU", "chrF")
LATENCIES = ("LAAL", "AL", "DAL", "ATD", "YAAL", "StartOffset", "EndOffset")  # of mean milliseconds


@dataclass(frozen=True)
class DevSet:
    """Where settings are chosen.

    Attributes:
        name: of the dataset.
        registered: it must be in dataset_info.json; else it is made first.
        make: makes it; given the folder of the result, returns LLaMA-Factory's keys to load it and the test set with.
        warnings: what is wrong with it that its name alone shows.
    """

    name: str
    registered: bool
    make: Callable[[Path], Mapping[str, Any]] = lambda out: {}
    warnings: tuple[str, ...] = ()


def tune_and_write(path: Path | None, overrides: list[str], goal: Goal, out: Path) -> int:
    """Do the work of the command; returns the exit code.

    Raises:
        SimulsaError: what is wrong with the recipe, the data or the folder, most of it before the model is loaded.
    """
    from simulsa_plugin.commands.torchrun import take_rank
    from simulsa_plugin.evaluation.reference_checks import check_references
    from simulsa_plugin.evaluation.run import plan_cells
    from simulsa_plugin.files.atomic import make_folder, refuse_link
    from simulsa_plugin.llamafactory.plugin.recipe_checks import check_recipe
    from simulsa_plugin.metrics.quality import make_metrics
    from simulsa_plugin.tuning.search import refuse_foreign_files
    from simulsa_plugin.tuning.tuned_recipe import searched_settings

    if take_rank():
        raise UsageError("simulsa-eval tune is one process: start it without torchrun.")
    check_goal(goal)
    recipe = open_recipe(path, overrides)  # a preset is not what is searched
    settings = searched_settings(recipe.simulsa)
    if len(plan_cells(settings)) < 2:
        raise UsageError("There is no cell to choose from: give simulsa_policies and simulsa_chunks a value each.")
    make_metrics(settings.bleu_tokenizer)
    dev, samples = _dev_set(recipe), TuneSettings.from_keys(recipe.simulsa).dev_samples
    check_recipe(recipe.toolkit, [dev.name] if dev.registered else None)
    refuse_foreign_files(out)
    refuse_link(out / "corpus")
    if recipe.preset:
        print(f"preset {recipe.preset.name}: it sets no cells here, where they are searched", flush=True)
    toolkit = recipe.toolkit | dict(dev.make(make_folder(out)))
    rows: list[Sample | UnusableRow] = []

    def read_rows(datasets: list[OfflineDataset]) -> None:
        (dataset,) = datasets
        rows.extend(map(dataset.sample, range(min(len(dataset), samples or len(dataset)))))
        lines = [*dev.warnings, *_warnings(recipe, dataset), *check_references(dataset.name, rows, settings)]
        for line in lines:
            print(f"simulsa-eval: WARNING: {line}", file=sys.stderr, flush=True)

    model, _ = load(toolkit, [dev.name], settings.eval_memory_gb * 1e9, read_rows)
    from simulsa_plugin.tuning.search import frontier_table, tune
    from simulsa_plugin.tuning.tuned_recipe import write_tuned

    print(
        f"dev set {dev.name}: {len(rows)} rows, model {toolkit['model_name_or_path']}, "
        f"latency unit {settings.latency_unit}",
        flush=True,
    )
    result = tune(model, dev.name, rows, settings, goal, out)
    print("\n".join(frontier_table(result)))
    if all(one["cell"] is None for one in result["budgets"]):
        raise UsageError(
            "No cell is within any budget, so there is nothing to freeze. Set a larger --budget, or other "
            "simulsa_* keys, and another --out."
        )
    write_tuned((toolkit if recipe.embedded else recipe.toolkit) | recipe.simulsa, settings, result, out)
    print(
        f"Written to {out}: tuned.yaml, finalists.yaml, frontier.json. Now the test set: "
        f"simulsa-eval {out / 'tuned.yaml'} --out RESULTS"
    )
    return 0


def check_goal(goal: Goal) -> None:
    """Check metrics and budgets.

    Raises:
        UsageError: one of them is nothing to tune for.
    """
    from simulsa_plugin.settings import check_choice, check_range

    if goal.quality == "COMET":
        raise UsageError(
            "--quality is COMET, which runs after decoding, in an environment of its own. Tune for BLEU "
            "or chrF, and add COMET to the result on the test set (`simulsa-eval comet`)."
        )
    check_choice("--quality", goal.quality, QUALITIES)
    check_choice("--latency", goal.latency, LATENCIES)
    for budget in goal.budgets:
        check_range("--budget", budget, above=0)


def _dev_set(recipe: Recipe) -> DevSet:
    """The dev set that a recipe names, or the embedded one.

    Raises:
        UsageError: it names none.
    """
    name = TuneSettings.from_keys(recipe.simulsa).dev_dataset
    if recipe.simulsa.get("simulsa_corpus") is not None:
        return _dev_split(recipe, name)
    if name is not None:
        return DevSet(name, registered=True)
    if recipe.embedded:
        from simulsa_plugin.demo.corpus import DEV_NAME

        return DevSet(DEV_NAME, registered=False, make=_make_demo)
    raise UsageError(
        "Settings are chosen on a dev set, and the recipe names none. Set simulsa_dev_dataset=NAME to a "
        "set in dataset_info.json that is neither trained on nor the test set."
    )


def _make_demo(out: Path) -> Mapping[str, Any]:
    from simulsa_plugin.demo.corpus import DEV_ROWS, TEST_NAME, write_demo_corpus

    write_demo_corpus(out / "corpus", rows=0, dev_rows=DEV_ROWS)
    return {"eval_dataset": TEST_NAME, "dataset_dir": str((out / "corpus").absolute())}


def _dev_split(recipe: Recipe, name: str | None) -> DevSet:
    """The dev split of a raw corpus."""
    from simulsa_plugin.commands.raw_corpus import wanted_corpus

    split = recipe.simulsa.get("simulsa_dev_split")
    if not split:
        raise UsageError(
            "Settings are chosen on a dev set, and the recipe names no split of the corpus for it. Set "
            "simulsa_dev_split to one that is neither trained on nor the test set."
        )
    toolkit = {key: value for key, value in recipe.toolkit.items() if key != "eval_dataset"}
    toolkit |= {} if name is None else {"eval_dataset": name}
    for_dev = Recipe(recipe.simulsa | {"simulsa_eval_split": split}, toolkit, embedded=False)
    dev = wanted_corpus(for_dev, evaluation=True)
    test = wanted_corpus(recipe, evaluation=True)
    if dev is None or test is None:
        raise UsageError("simulsa_corpus is empty. Set it, or simulsa_dev_dataset.")

    def make(out: Path) -> Mapping[str, Any]:
        dev.prepare(out / "corpus")
        return {"dataset_dir": str(out / "corpus")}

    shared = [one for one in dev.splits if one in test.splits]
    same = (_same_as_test(dev.name),) if shared else ()
    return DevSet(dev.name, registered=False, make=make, warnings=same)


def _same_as_test(name: str) -> str:
    return (
        f"the dev set {name} is the test set, too: its scores will be those of settings that were chosen on it, "
        "which says nothing about other data. Set simulsa_dev_dataset (of a corpus: simulsa_dev_split) to others."
    )


def _warnings(recipe: Recipe, dataset: OfflineDataset) -> list[str]:
    """A line each where the dev set is the test set, or is trained on; none where that is not known."""
    from simulsa_plugin.llamafactory.data.dataset import read_dataset_info
    from simulsa_plugin.llamafactory.data.leakage import trained_on

    if recipe.embedded or recipe.simulsa.get("simulsa_corpus") is not None:
        return []
    folder = recipe.toolkit.get("dataset_dir", "data")
    info, where = read_dataset_info(folder), folder if isinstance(folder, str) else os.curdir
    test, training = (dataset_names(recipe.toolkit.get(key)) for key in ("eval_dataset", "dataset"))
    lines = []
    if trained_on(dataset.name, dataset.entry, test or training, info, where):
        lines.append(_same_as_test(dataset.name))
    if test and (shared := trained_on(dataset.name, dataset.entry, training, info, where)):
        lines.append(
            f"the dev set {dataset.name} is {shared}: on what it remembers a model is surer than elsewhere, "
            "so settings chosen here are too fast. Set simulsa_dev_dataset to a set that is not trained on."
        )
    return lines
