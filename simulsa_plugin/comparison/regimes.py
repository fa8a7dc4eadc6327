"""Latency regimes: of each tuned result the best cell below each bound, chosen on dev, with its values from test.

This is how the simultaneous track of IWSLT ranks systems: quality inside 0–2 s and 2–4 s of latency.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from simulsa_plugin.comparison.blocks import Block, Table
from simulsa_plugin.comparison.names import short_names
from simulsa_plugin.comparison.resampled_cells import ResampledCells
from simulsa_plugin.comparison.tuned_systems import TunedSystem, score_at_budget
from simulsa_plugin.evaluation.formatting import format_interval, format_metric, format_number, metric_digits
from simulsa_plugin.evaluation.result_cells import Cell, CellKey
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.metrics.significance import interval
from simulsa_plugin.tuning.halving import best_within


def at_bounds(tuning: TunedSystem, bounds: Sequence[float]) -> TunedSystem:
    """Return a tuned system whose cells are chosen at other budgets, among those decoded on the whole dev set."""
    keys = list(tuning.dev_values)
    qualities, latencies = zip(*tuning.dev_values.values(), strict=True) if keys else ((), ())
    tuned: dict[float, CellKey | None] = {}
    for bound in bounds:
        position = best_within(qualities, latencies, bound)
        tuned[bound] = None if position is None else keys[position]
    return dataclasses.replace(tuning, goal=dataclasses.replace(tuning.goal, budgets=tuple(bounds)), tuned=tuned)


def regime_rows(result: str, tuning: TunedSystem, cells: Mapping[CellKey, Cell], side: ResampledCells) -> list[Json]:
    """Return one object per bound: the chosen cell, its values on dev and on test, and intervals of the latter.

    Args:
        result: its name.
        tuning: with the bounds as budgets, see `at_bounds`.
        cells: of the result on the test set.
        side: the same cells, resampled.

    Raises:
        UsageError: the chosen cell was not decoded on the test set.
    """
    return [_regime_row(result, bound, tuning, cells, side) for bound in tuning.tuned]


def _regime_row(
    result: str, bound: float, tuning: TunedSystem, cells: Mapping[CellKey, Cell], side: ResampledCells
) -> Json:
    key, goal = tuning.tuned[bound], tuning.goal
    row: Json = {"result": result, "bound": bound, "cell": key and key.as_json()}
    tested = score_at_budget(bound, tuning, cells, side)
    if key is None or tested is None:
        return row
    row["name"] = str(key)
    for name, dev in zip((goal.quality, goal.latency), tuning.dev_values[key], strict=True):
        found = interval(tested.samples[name])
        row[name] = {"dev": dev, "test": tested.value[name], "interval": found and found.as_json()}
    return row | {"otherwise": tested.otherwise}


def regimes_blocks(rows: Sequence[Json], quality: str, latency: str) -> list[Block]:
    """Tabulate the regimes of all results."""
    names = short_names([row["result"] for row in rows])
    lines = [
        ["below ms, result", quality, "[low, high]", f"{latency} ms", "[low, high]", f"on dev {latency}", "cell"],
    ]
    for row in sorted(rows, key=lambda one: one["bound"]):
        name = f"{row['bound']:g} {names[row['result']]}"
        if row["cell"] is None:
            lines.append([name, *["–"] * 5, "none within the bound on dev"])
            continue
        score, time = row[quality], row[latency]
        lines.append(
            [
                name,
                format_metric(quality, score["test"]),
                format_interval(score["interval"], metric_digits(quality)),
                format_number(time["test"], 0),
                format_interval(time["interval"], 0),
                format_number(time["dev"], 0),
                row["name"],
            ]
        )
    caption = (
        f"regimes: the best cell below each bound, chosen on dev (on dev: its {latency} there); values and 95 % "
        "intervals from test, the choice included"
    )
    return [Table(lines, caption)]
