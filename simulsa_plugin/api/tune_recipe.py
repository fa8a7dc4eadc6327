"""`tune`: the best setting within each latency budget, searched on the dev set of a recipe."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.boundary import library_call
from simulsa_plugin.api.output_place import is_address, no_recipe_for_address, output_at
from simulsa_plugin.api.recipe import Recipe, RecipeSource, open_recipe
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from simulsa_plugin.api.dev_set import DevSet
    from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.model.values import Sample, UnusableRow
    from simulsa_plugin.tuning.halving import Goal

TUNE_OUT = "tuned"
TUNED_QUALITIES = ("BLEU", "chrF")
UTTERANCE_LATENCIES = ("LAAL", "AL", "DAL", "ATD", "YAAL", "StartOffset", "EndOffset")  # those in milliseconds
RECORDING_LATENCIES = ("LongYAAL", "LongLAAL", "LongAL", "LongDAL", "StreamLAAL")  # of simulsa_longform
USUAL_LATENCY = ""  # the first of those of the dev set's form
TUNED_LATENCIES = (*UTTERANCE_LATENCIES, *RECORDING_LATENCIES)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningResult:
    """A folder of `tune`, or of `simulsa-eval tune`.

    Attributes:
        out: the folder.
        frontier: its frontier.json: goal, budgets with their cells, points with intervals, all cells, sessions.
    """

    out: Path
    frontier: dict[str, Any]

    @property
    def recipe(self) -> Path:
        """The recipe with which `evaluate` decodes the test set in the chosen cells."""
        return self.out / "tuned.yaml"

    @property
    def chosen(self) -> dict[float, str | None]:
        """Budget in ms → name of the best cell within it; None where there is none."""
        return {one["budget"]: one["cell"] for one in self.frontier["budgets"]}

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per point of the frontier on the dev set.

        Columns: `cell`, `policy`, `chunk_ms`, `rollback`, `parameters`, quality and latency (ms) by their names with
        the bounds of their 95 % intervals beside them as `BLEU_low` and `BLEU_high`, `utterances`, and `tuned_at`, the
        budgets in ms for which the cell was chosen.
        """
        import pandas as pd

        return pd.DataFrame(self._frame_row(point) for point in self.frontier["points"])

    def _frame_row(self, point: Mapping[str, Any]) -> dict[str, Any]:
        row = {name: point[name] for name in ("cell", "policy", "chunk_ms", "rollback", "parameters")}
        for metric in (self.frontier["goal"]["quality"], self.frontier["goal"]["latency"]):
            low, high = point["intervals"][metric] or (None, None)
            row |= {metric: point[metric], f"{metric}_low": low, f"{metric}_high": high}
        return row | {"utterances": point["utterances"], "tuned_at": point["tuned_at"]}

    def figure(self) -> Figure:
        """Draw the frontier on the dev set, quality over latency (ms) with 95 % intervals, and the budgets."""
        from simulsa_plugin.evaluation.report import curves_figure

        goal = self.frontier["goal"]
        figure = curves_figure(self.frontier["points"], goal["quality"], goal["latency"])
        for budget in goal["budgets"]:
            figure.axes[0].axvline(budget, linestyle=":", color="grey")
        return figure


def tune(
    recipe: RecipeSource = None,
    *,
    budgets: Sequence[float],
    latency: str | None = None,
    quality: str = "BLEU",
    out: str | os.PathLike[str] = TUNE_OUT,
    progress: bool = False,
    **keys: Any,
) -> TuningResult:
    """Choose the cell of the best quality within each latency budget on a dev set, as `simulsa-eval tune` does.

    Called again after a stop, it continues; a finished folder is only read.

    Args:
        recipe: path of a LLaMA-Factory recipe (YAML), or its keys with their values; None for the embedded default.
        budgets: mean latencies on the dev set not to exceed, in ms.
        latency: metric of the budgets; None for LAAL, with `simulsa_longform` LongYAAL.
        quality: BLEU or chrF.
        out: folder of the result, or its address.
        progress: show how far the work has come, on stderr.
        keys: keys of the recipe that count instead of those in it; `simulsa_policies`, `simulsa_chunks` and the
            policies' keys are what is searched.

    Raises:
        UsageError: a key, a metric or a budget is wrong, there is no dev set, or no cell is within any budget.
        DatasetError: the dev set is missing, or none of it can be decoded.
        ModelError: the model cannot be loaded.
        StorageError: the folder is in use, or holds another search.
    """
    from simulsa_plugin.tuning.halving import Goal

    with library_call(progress=progress):
        goal = Goal(tuple(sorted({float(budget) for budget in budgets})), latency or USUAL_LATENCY, quality)
        with output_at(out) as folder:
            return tune_recipe(recipe, keys, goal, folder, portable=is_address(out))


def tune_recipe(
    recipe: RecipeSource, overrides: Sequence[str] | Mapping[str, Any], goal: Goal, out: Path, *, portable: bool = False
) -> TuningResult:
    """Search the cells of a recipe, and write the recipe of the best.

    Args:
        recipe: see `tune`.
        overrides: see `open_recipe`.
        goal: metrics and budgets.
        out: folder of the result.
        portable: the folder may be another one when a stopped search goes on.

    Raises:
        SimulsaError: what is wrong with the recipe, the data or the folder, most of it before the model is loaded.
    """
    from simulsa_plugin.api.dev_set import dev_set_warnings
    from simulsa_plugin.api.engine import computing, read_engine
    from simulsa_plugin.api.loading import read_samples
    from simulsa_plugin.evaluation.evaluation_settings import TuneSettings
    from simulsa_plugin.evaluation.reference_checks import check_references, segment_warnings
    from simulsa_plugin.files.atomic import make_folder

    opened = open_recipe(recipe, overrides)  # a preset is not what is searched
    if portable and opened.embedded:
        raise no_recipe_for_address()
    engine = read_engine(opened)
    settings, goal, dev = check_search(opened, goal, out)
    samples = TuneSettings.from_keys(opened.simulsa).dev_samples
    if opened.preset:
        logger.info(f"preset {opened.preset.name}: it sets no cells here, where they are searched")
    toolkit = opened.toolkit | dict(dev.make(make_folder(out), portable))
    rows: list[Sample | UnusableRow] = []

    def read_rows(datasets: list[OfflineDataset]) -> None:
        (dataset,) = datasets
        rows.extend(read_samples(dataset, samples, settings))
        references = check_references(dataset.name, rows, settings)
        references += segment_warnings(dataset.name, rows) if settings.is_long_form else []
        for line in [*dev.warnings, *dev_set_warnings(opened, dataset), *references]:
            logger.warning(line)

    with computing(engine, toolkit, [dev.name], read_rows, settings) as (model, _):
        from simulsa_plugin.tuning.search import search_frontier
        from simulsa_plugin.tuning.tuned_recipe import write_tuned

        logger.info(
            f"dev set {dev.name}: {len(rows)} rows, model {toolkit['model_name_or_path']}, "
            f"latency unit {settings.latency_unit}, BLEU tokenizer {settings.bleu_tokenizer}"
        )
        frontier = search_frontier(model, dev.name, rows, settings, goal, out)
    if all(one["cell"] is None for one in frontier["budgets"]):
        _refuse_without_choice(frontier)
    write_tuned((toolkit if opened.embedded else opened.toolkit) | opened.simulsa, settings, frontier, out)
    return TuningResult(out, frontier)


def check_search(opened: Recipe, goal: Goal, out: Path) -> tuple[EvaluationSettings, Goal, DevSet]:
    """Find mistakes in goal, cells, recipe and folder before the long part; return settings, goal and dev set."""
    from simulsa_plugin.api.dev_set import recipe_dev_set
    from simulsa_plugin.api.evaluate_recipe import TEST_FOLDER
    from simulsa_plugin.evaluation.run import plan_cells
    from simulsa_plugin.evaluation.test_set import check_speech_detection
    from simulsa_plugin.files.atomic import refuse_link
    from simulsa_plugin.llamafactory.plugin.recipe_checks import check_recipe
    from simulsa_plugin.metrics.quality import make_metrics
    from simulsa_plugin.tuning.search import refuse_foreign_files
    from simulsa_plugin.tuning.tuned_recipe import searched_settings

    check_goal(goal)
    settings = searched_settings(opened.simulsa)
    goal = goal_of_form(goal, long_form=settings.is_long_form)
    if len(plan_cells(settings)) < 2:
        raise UsageError("There is no cell to choose from: give simulsa_policies and simulsa_chunks a value each.")
    make_metrics(settings.bleu_tokenizer)
    check_speech_detection(settings)
    dev = recipe_dev_set(opened)
    check_recipe(opened.toolkit, [dev.name] if dev.registered else None)
    refuse_foreign_files(out)
    refuse_link(out / TEST_FOLDER)
    return settings, goal, dev


def _refuse_without_choice(frontier: Mapping[str, Any]) -> None:
    from simulsa_plugin.tuning.frontier_file import frontier_table

    logger.info("\n".join(frontier_table(frontier)))
    raise UsageError(
        "No cell is within any budget, so there is no setting to select. Set a larger budget, or other "
        "simulsa_* keys, and another --out."
    )


def check_goal(goal: Goal) -> None:
    """Check metrics and budgets.

    Raises:
        UsageError: one of them is nothing to tune for.
    """
    from simulsa_plugin.settings import check_choice, check_range

    if goal.quality == "COMET":
        raise UsageError(
            "quality is COMET, which runs after decoding, in an environment of its own. Tune for BLEU "
            "or chrF, and add COMET to the result on the test set (`simulsa-eval comet`)."
        )
    if not goal.budgets:
        raise UsageError("No budget is given; allowed: one or more mean latencies in ms, such as 1000 and 2000.")
    check_choice("quality", goal.quality, TUNED_QUALITIES)
    if goal.latency != USUAL_LATENCY:
        check_choice("latency", goal.latency, TUNED_LATENCIES)
    for budget in goal.budgets:
        check_range("budget", budget, above=0)


def goal_of_form(goal: Goal, *, long_form: bool) -> Goal:
    """Return the goal with the usual latency where none is chosen.

    Raises:
        UsageError: the chosen latency is not measured on a dev set of this form.
    """
    allowed = RECORDING_LATENCIES if long_form else UTTERANCE_LATENCIES
    if goal.latency == USUAL_LATENCY:
        return dataclasses.replace(goal, latency=allowed[0])
    if goal.latency not in allowed:
        raise UsageError(
            f"latency is {goal.latency}, which is not measured {'with' if long_form else 'without'} simulsa_longform; "
            f"allowed: {', '.join(allowed)}."
        )
    return goal
