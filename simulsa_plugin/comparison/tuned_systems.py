"""Comparison of tuned systems at their budgets: settings chosen on dev, values from test, intervals cover the choice.

Every resample draws utterances of the dev set and, independently, of the test set: cells are chosen again on the first,
as `simulsa-eval tune` does, and scored on the second. Both systems get the same utterances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulsa_plugin.comparison.resampled_cells import ResampledCells, ResampledPair, resample_cells
from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.formatting import format_interval
from simulsa_plugin.evaluation.result_cells import Cell, CellKey, cell_key
from simulsa_plugin.files.checksums import read_sealed
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.reader import ReadOptions
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.significance import Bootstrap, interval
from simulsa_plugin.tuning.frontier_file import DEV_LOGS, FINALISTS, FRONTIER, TUNED
from simulsa_plugin.tuning.halving import Goal, best_within

SIDES = ("baseline", "other")


@dataclass(frozen=True)
class TunedSystem:
    """A folder of `simulsa-eval tune`.

    Attributes:
        path: the folder.
        goal: of the search.
        tuned: budget → the chosen cell; None where none was within it.
        finalists: the cells decoded on the whole dev set, resampled.
        dev_values: their quality and latency on the dev set.
        dataset: the dev set.
    """

    path: Path
    goal: Goal
    tuned: Mapping[float, CellKey | None]
    finalists: ResampledCells
    dev_values: Mapping[CellKey, tuple[float | None, float | None]]
    dataset: str


@dataclass(frozen=True)
class TestedSystem:
    """A system on the test set, with settings chosen on every resample of the dev set.

    Attributes:
        value: metric → its value in the cell that was tuned.
        samples: metric → its value in the chosen cells, shape (resamples,).
        otherwise: share of the resamples that choose another cell.
        missing: share of the resamples whose choice has no result on the test set; the tuned cell replaces it.
    """

    value: Mapping[str, float]
    samples: Mapping[str, FloatArray]
    otherwise: float
    missing: float


def tuned_files(folder: Path) -> list[Path]:
    """List the files of a search, which must not be overwritten."""
    logs = [path for log in (INSTANCES_LOG, RESEGMENTED) for path in folder.glob(f"{DEV_LOGS}/*/{log}")]
    logs += [folder / DEV_LOGS / name for name in (SEGMENTS, REFERENCES)]
    return [*(folder / name for name in (FRONTIER, TUNED, FINALISTS)), *logs]


def load_tuning(path: Path, bootstrap: Bootstrap) -> TunedSystem:
    """Load a folder of `simulsa-eval tune`; its dev logs are resampled independently of a test set of equal size.

    Raises:
        LogError: it has no unchanged frontier.json of `tune`, or a log of it cannot be read.
    """
    content = read_sealed(path / FRONTIER)
    if content is None:
        raise LogError(f"{path} holds no {FRONTIER}, or a changed one. Give a folder of `simulsa-eval tune`.")
    settings, goal = EvaluationSettings.from_keys(content["settings"]), content["goal"]
    rows = {row["cell"]: row for row in content["cells"]}
    logs = {
        name: path / DEV_LOGS / name / (RESEGMENTED if settings.is_long_form else INSTANCES_LOG)
        for name, row in rows.items()
        if row["utterances"] == content["utterances"]
    }
    cells = {_cell_key_of(rows[name]): Cell(_cell_key_of(rows[name]), {}, None, log) for name, log in logs.items()}
    unit = settings.latency_unit
    finalists = resample_cells(
        cells,
        Measure(unit),
        settings.bleu_tokenizer,
        ReadOptions(unit=unit),
        dataclasses.replace(bootstrap, seed=bootstrap.seed + 1),
    )
    if not any(sampled.values for sampled in finalists.values()):
        raise LogError(f"{path} has fewer than two utterances, which cannot be resampled. Tune on a larger set.")
    tuned = {
        one["budget"]: None if one["cell"] is None else _cell_key_of(rows[one["cell"]]) for one in content["budgets"]
    }
    dev_values = {_cell_key_of(rows[name]): (rows[name][goal["quality"]], rows[name][goal["latency"]]) for name in logs}
    return TunedSystem(
        path,
        Goal(tuple(goal["budgets"]), goal["latency"], goal["quality"]),
        tuned,
        finalists,
        dev_values,
        content["dataset"],
    )


def compare_tuned(
    tunings: tuple[TunedSystem, TunedSystem],
    tests: tuple[Mapping[CellKey, Cell], Mapping[CellKey, Cell]],
    sides: ResampledPair,
) -> list[Json]:
    """Compare two tuned systems at each budget of both.

    Returns:
        One object per budget, with a sentence that summarises it.

    Raises:
        UsageError: they were tuned for different metrics or have no common budget, or a tuned cell was not tested.
    """
    first, second = tunings
    goals = [(one.goal.quality, one.goal.latency) for one in tunings]
    budgets = [budget for budget in first.tuned if budget in second.tuned]
    if goals[0] != goals[1] or not budgets:
        raise UsageError(
            f"{first.path} and {second.path} were tuned for other goals ({_describe_goal(first.goal)}; "
            f"{_describe_goal(second.goal)}). Tune both for one --quality, --latency and --budget."
        )
    return [_at_budget(budget, tunings, tests, sides) for budget in budgets]


def _at_budget(
    budget: float,
    tunings: tuple[TunedSystem, TunedSystem],
    tests: tuple[Mapping[CellKey, Cell], Mapping[CellKey, Cell]],
    sides: ResampledPair,
) -> Json:
    goal, keys = tunings[0].goal, [tuning.tuned[budget] for tuning in tunings]
    found: Json = {
        "budget": budget,
        "quality": goal.quality,
        "latency": goal.latency,
        "cells": {side: key and key.as_json() for side, key in zip(SIDES, keys, strict=True)},
    }
    lacking = [side for side, key in zip(SIDES, keys, strict=True) if key is None]
    if lacking:
        return found | {
            "sentence": f"At {budget:g} ms of {goal.latency} nothing is compared: on dev no cell of the "
            f"{' and of the '.join(lacking)} is within it."
        }
    tested = [
        score_at_budget(budget, tuning, cells, side) for tuning, cells, side in zip(tunings, tests, sides, strict=True)
    ]
    baseline, other = (system for system in tested if system is not None)
    for name in (goal.quality, goal.latency):
        one, two = baseline.value[name], other.value[name]
        bounds = interval(other.samples[name] - baseline.samples[name])
        found[name] = {"baseline": one, "other": two, "difference": two - one, "interval": bounds and bounds.as_json()}
    found |= {
        share: {side: getattr(system, share) for side, system in zip(SIDES, (baseline, other), strict=True)}
        for share in ("otherwise", "missing")
    }
    return found | {"sentence": _summarise(found, [str(key) for key in keys])}


def score_at_budget(
    budget: float, tuning: TunedSystem, cells: Mapping[CellKey, Cell], side: ResampledCells
) -> TestedSystem | None:
    """Score a tuned system on the test set at a budget, choosing settings on every resample of the dev set.

    Args:
        budget: one that it was tuned for.
        tuning: of the system.
        cells: its cells on the test set.
        side: the same cells, resampled.

    Returns:
        The metrics that all chosen cells have; None where no cell was within the budget on dev.

    Raises:
        UsageError: the tuned cell was not decoded on the test set, or lacks the metrics that it was tuned for.
    """
    tuned = tuning.tuned[budget]
    if tuned is None:
        return None
    cell, needed = cells.get(tuned), (tuning.goal.quality, tuning.goal.latency)
    if (
        cell is None
        or tuned not in side
        or not side[tuned].values
        or any(cell.values.get(name) is None for name in needed)
    ):
        raise UsageError(
            f"{tuned} was tuned at {budget:g} ms in {tuning.path}, and the result on the test set has no "
            f"{' and '.join(needed)} of it. Decode it with {tuning.path}/tuned.yaml."
        )
    chosen = [key or tuned for key in _chosen_cells(tuning, budget)]  # None: no cell is within the budget
    scored = [key if key in side else tuned for key in chosen]
    names = [
        name
        for name, value in cell.values.items()
        if value is not None and all(name in side[key].values for key in set(scored))
    ]
    return TestedSystem(
        {name: float(cell.values[name] or 0.0) for name in names},
        {name: np.array([side[key].values[name][number] for number, key in enumerate(scored)]) for name in names},
        sum(key != tuned for key in chosen) / len(chosen),
        sum(key not in side for key in chosen) / len(chosen),
    )


def _chosen_cells(tuning: TunedSystem, budget: float) -> list[CellKey | None]:
    keys = list(tuning.finalists)
    qualities, latencies = (
        np.stack([tuning.finalists[key].values[name] for key in keys])
        for name in (tuning.goal.quality, tuning.goal.latency)
    )
    found = [
        best_within(_none_for_nan(quality), _none_for_nan(latency), budget)
        for quality, latency in zip(qualities.T, latencies.T, strict=True)
    ]
    return [None if position is None else keys[position] for position in found]


def _none_for_nan(values: NDArray[np.float64]) -> Sequence[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _cell_key_of(row: Mapping[str, Any]) -> CellKey:
    return cell_key({**row, "chunk_ms": float(row["chunk_ms"])})


def _describe_goal(goal: Goal) -> str:
    return f"{goal.quality} within {', '.join(f'{budget:g}' for budget in goal.budgets)} ms of {goal.latency}"


def _summarise(found: Json, cells: Sequence[str]) -> str:
    quality, latency = found[found["quality"]], found[found["latency"]]
    bounds = quality["interval"]
    difference = (
        f"{quality['difference']:+.2f} {found['quality']} {format_interval(bounds, 2, signed=True)} "
        f"({quality['other']:.2f}, {cells[1]}; baseline {quality['baseline']:.2f}, {cells[0]})"
    )
    verdict = (
        f"the difference has no interval, so none is claimed: {difference}"
        if bounds is None
        else f"the other is better, by {difference}"
        if bounds[0] > 0
        else f"the other is worse, by {difference}"
        if bounds[1] < 0
        else f"the difference of {difference} is not significant"
    )
    missing = max(found["missing"].values())
    choice = (
        "the intervals include the choice of settings on dev"
        if not missing
        else (
            f"the intervals do not include the whole choice: {missing:.0%} of the resamples of the dev set choose a "
            "cell that the test result lacks; decode finalists.yaml"
        )
    )
    return (
        f"Tuned at {found['budget']:g} ms of {found['latency']}: {verdict}, at "
        f"{latency['other']:.0f} ms on test against {latency['baseline']:.0f} "
        f"({latency['difference']:+.0f} {format_interval(latency['interval'], 0, signed=True)}); {choice}."
    )
