"""Tuned arms: quality at latency budgets over seeds, compared with the first arm and with the limit.

Settings are chosen on the dev set, values are from the test set. Intervals cover the utterances of both sets (and so
the choice), which all arms and seeds share, and the seeds: Student's t with n − 1 degrees of freedom, scaled by the
standard error between the seeds, is added to the mean over n seeds of each resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulsa_plugin.comparison.compare import CompareOptions, load_result, resample_result
from simulsa_plugin.comparison.resampled_cells import check_same_references
from simulsa_plugin.comparison.tuned_systems import TestedSystem, load_tuning, score_at_budget
from simulsa_plugin.evaluation.formatting import format_interval, format_number
from simulsa_plugin.evaluation.limit import LIMITS
from simulsa_plugin.evaluation.report import error_bars
from simulsa_plugin.evaluation.result_cells import read_scores
from simulsa_plugin.experiments.summary import OFFLINE_CELL
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.quality import QUALITY_METRICS
from simulsa_plugin.metrics.significance import Bootstrap, interval
from simulsa_plugin.tables import align
from simulsa_plugin.tuning.frontier_file import cell_in_words


@dataclass(frozen=True)
class TunedArm:
    """An arm at its budgets.

    Attributes:
        name: of the arm.
        latency: metric of the budgets.
        budgets: budget in milliseconds → the tested system of each seed; None where a seed had no cell within the
            budget on dev.
        cells: budget → the cell that each seed chose.
        offline: offline decoding of each seed.
        limits: rows of the limit in scores.json, which do not depend on the model.
    """

    name: str
    latency: str
    budgets: Mapping[float, Sequence[TestedSystem] | None]
    cells: Mapping[float, Sequence[str]]
    offline: Sequence[TestedSystem]
    limits: Sequence[Json]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        value: the mean.
        spread: standard deviation over seeds (n − 1); None for one seed.
        bounds: 95 % interval over utterances and seeds; of one seed over utterances alone.
    """

    value: float
    spread: float | None
    bounds: tuple[float, float] | None

    def as_json(self) -> Json:
        """Return the fields as in the summary."""
        return {"value": self.value, "spread": self.spread, "interval": self.bounds and list(self.bounds)}


def read_tuned_arm(name: str, runs: Sequence[tuple[Path, Path]], bootstrap: Bootstrap) -> TunedArm:
    """Read the searches and test results of an arm.

    Args:
        name: of the arm.
        runs: for each seed the folder of `simulsa-eval tune` and that of the test set.
        bootstrap: of utterances; equal draws for all arms.

    Raises:
        LogError, UsageError: a folder was changed, the seeds were tested on different utterances, or a tuned cell was
            not decoded on the test set.
    """
    tunings = [load_tuning(tuning, bootstrap) for tuning, _ in runs]
    results = [load_result(tested, CompareOptions()) for _, tested in runs]
    loaded = [(result.cells, resample_result(result, bootstrap)) for result in results]
    for _, side in loaded[1:]:
        check_same_references(loaded[0][1], side)
    systems = [(tuning, *one) for tuning, one in zip(tunings, loaded, strict=True)]
    budgets = {
        budget: _complete([score_at_budget(budget, *system) for system in systems]) for budget in tunings[0].tuned
    }
    chosen = {
        budget: [
            "none" if (key := tuning.tuned[budget]) is None else cell_in_words(key.as_json()) for tuning in tunings
        ]
        for budget in budgets
    }
    offline = [
        TestedSystem(
            {name: value for name, value in cells[OFFLINE_CELL].values.items() if value is not None},
            side[OFFLINE_CELL].values,
            otherwise=0.0,
            missing=0.0,
        )
        for cells, side in loaded
    ]
    limits = read_scores(runs[0][1]).get(LIMITS) or []
    return TunedArm(name, tunings[0].goal.latency, budgets, chosen, offline, limits)


def over_seeds(values: Sequence[float], samples: Sequence[FloatArray], seed: int) -> Estimate:
    """Average over seeds, with an interval over utterances and seeds.

    Args:
        values: of each seed.
        samples: the same on each draw of the utterances, shape (resamples,), the same draws for every seed.
        seed: of the draws of Student's t.

    >>> over_seeds([1.0, 3.0], [np.ones(1000), 3 * np.ones(1000)], seed=0).spread
    1.4142135623730951
    """
    mean, drawn, spread = float(np.mean(values)), np.mean(samples, axis=0), None
    if len(values) > 1:
        spread = float(np.std(values, ddof=1))
        between = np.random.default_rng(seed).standard_t(len(values) - 1, size=len(drawn))
        drawn = drawn + between * spread / np.sqrt(len(values))
    bounds = interval(drawn)
    return Estimate(mean, spread, None if bounds is None else (bounds.low, bounds.high))


def summarise_tuned(arms: Sequence[TunedArm], bootstrap: Bootstrap) -> Json:
    """Summarise every arm at every budget, its difference from the first arm, and the limit."""
    first = arms[0]
    rows = [_budget_row(arm, first, budget, bootstrap) for arm in arms for budget in arm.budgets]
    offline = [
        {
            "arm": arm.name,
            **{name: _estimate_metric(arm.offline, name, bootstrap).as_json() for name in QUALITY_METRICS},
            "difference": None if arm is first else _seed_differences(first.offline, arm.offline, bootstrap),
        }
        for arm in arms
    ]
    return {
        "against": first.name,
        "latency": first.latency,
        "tuned": rows,
        "offline": offline,
        "limits": list(first.limits),
    }


def tuned_table(summary: Json, seeds: int) -> list[str]:
    """Format the summary as aligned lines."""
    latency, against = summary["latency"], summary["against"]
    head = [
        "budget ms",
        "arm",
        f"{latency} ms",
        "BLEU",
        "± seeds",
        "chrF",
        f"BLEU against {against}",
        "chrF",
        "settings",
    ]
    rows = [head]
    for row in sorted(summary["tuned"], key=lambda row: row["budget"]):
        rows.append(
            [f"{row['budget']:g}", row["arm"], *_format_estimates(row, latency), "; ".join(dict.fromkeys(row["cells"]))]
        )
    for row in summary["offline"]:
        rows.append(["offline", row["arm"], *_format_estimates(row, latency), ""])
    over = "utterances and seeds" if seeds > 1 else "utterances; not over seeds, as there is only one"
    limit = [
        f"limit: every word as soon as it is certain: {latency} {row[latency]:.0f} ms"
        + ("" if row["chunk_ms"] is None else f" in chunks of {row['chunk_ms']:g} ms")
        for row in summary["limits"]
        if row.get(latency) is not None
    ]
    return [
        *align(rows),
        "",
        *limit,
        f"Settings are chosen on the dev set, values are from the test set; means over {seeds} "
        f"seed{'s' if seeds > 1 else ''}; [low, high]: 95 % over {over}, the choice of settings included.",
    ]


def draw_tuned(title: str, summary: Json, path: Path) -> None:
    """Draw quality over latency: a line for each arm through its budgets, its offline quality, and the limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    latency = summary["latency"]
    for number, offline in enumerate(summary["offline"]):
        points = [row for row in summary["tuned"] if row["arm"] == offline["arm"] and row["BLEU"] is not None]
        x, y = ([row[name]["value"] for row in points] for name in (latency, "BLEU"))
        errors = error_bars(y, [row["BLEU"]["interval"] for row in points])
        axes.errorbar(x, y, yerr=errors, capsize=3, marker="o", markersize=4, color=f"C{number}", label=offline["arm"])
        axes.axhline(offline["BLEU"]["value"], color=f"C{number}", linewidth=0.8, linestyle=":")
    known = [row for row in summary["limits"] if row.get(latency) is not None and row["BLEU"] is not None]
    if known:
        chunks = ", ".join(f"{row['chunk_ms'] or 0:g}" for row in known)
        axes.plot(
            [row[latency] for row in known],
            [row["BLEU"] for row in known],
            linestyle="none",
            marker="*",
            markersize=9,
            color="black",
            label=f"limit in chunks of {chunks} ms",
        )
    axes.set_title(title)
    axes.set_xlabel(f"{latency} on the test set (ms)")
    axes.set_ylabel("BLEU, 95 %; dotted: offline")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=110)


def _complete(tested: Sequence[TestedSystem | None]) -> Sequence[TestedSystem] | None:
    known = [one for one in tested if one is not None]
    return known if len(known) == len(tested) else None


def _budget_row(arm: TunedArm, first: TunedArm, budget: float, bootstrap: Bootstrap) -> Json:
    found, baseline = arm.budgets[budget], first.budgets.get(budget)
    row: Json = {"budget": budget, "arm": arm.name, "cells": arm.cells[budget]}
    for name in (*QUALITY_METRICS, arm.latency):
        row[name] = None if found is None else _estimate_metric(found, name, bootstrap).as_json()
    compared = found is not None and baseline is not None and arm is not first
    return row | {"difference": _seed_differences(baseline or (), found or (), bootstrap) if compared else None}


def _estimate_metric(tested: Sequence[TestedSystem], name: str, bootstrap: Bootstrap) -> Estimate:
    return over_seeds([one.value[name] for one in tested], [one.samples[name] for one in tested], bootstrap.seed)


def _seed_differences(baseline: Sequence[TestedSystem], other: Sequence[TestedSystem], bootstrap: Bootstrap) -> Json:
    """Estimate the difference of each quality, paired by seed, which fixes the order of the data."""
    pairs = list(zip(baseline, other, strict=True))
    return {
        name: over_seeds(
            [two.value[name] - one.value[name] for one, two in pairs],
            [two.samples[name] - one.samples[name] for one, two in pairs],
            bootstrap.seed,
        ).as_json()
        for name in QUALITY_METRICS
    }


def _format_estimates(row: Json, latency: str) -> list[str]:
    delay, bleu, chrf, difference = (row.get(name) for name in (latency, "BLEU", "chrF", "difference"))
    return [
        format_number(delay and delay["value"], 0),
        format_number(bleu and bleu["value"], 1),
        format_number(bleu and bleu["spread"], 1),
        format_number(chrf and chrf["value"], 1),
        *(_format_difference(difference and difference[name]) for name in QUALITY_METRICS),
    ]


def _format_difference(estimate: Json | None) -> str:
    if estimate is None:
        return "–"
    bounds = estimate["interval"]
    value = format_number(estimate["value"], 1, signed=True)
    return value if bounds is None else f"{value} {format_interval(bounds, 1, signed=True)}"
