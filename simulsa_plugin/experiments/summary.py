"""Summary of fixed settings: arms averaged over seeds, with intervals, compared with the first arm at equal latency."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulsa_plugin.comparison.compare import CompareOptions, load_result, resample_result
from simulsa_plugin.comparison.equal_latency import Axes, compare_curves
from simulsa_plugin.comparison.resampled_cells import ResampledCells, ResampledLog, check_same_references
from simulsa_plugin.evaluation.formatting import format_interval, format_measured, format_number
from simulsa_plugin.evaluation.report import error_bars
from simulsa_plugin.evaluation.result_cells import Cell, CellKey
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.metrics.columns import mean_of
from simulsa_plugin.metrics.significance import Bootstrap, interval
from simulsa_plugin.tables import align

SUMMARY_METRICS = ("BLEU", "LAAL", "NE")
OFFLINE_CELL = CellKey("offline")


@dataclass(frozen=True)
class ArmResult:
    """An arm averaged over seeds.

    Attributes:
        name: of the arm.
        cells: offline and those of its policy, each value the mean over seeds, counts the sums.
        resampled: the same on every resample of the utterances, which all seeds share.
        spread: cell → metric → standard deviation over seeds (n − 1); None for a single seed.
    """

    name: str
    cells: Mapping[CellKey, Cell]
    resampled: ResampledCells
    spread: Mapping[CellKey, Mapping[str, float | None]]


def average_arm(name: str, folders: Sequence[Path], policy: str, bootstrap: Bootstrap) -> ArmResult:
    """Average result folders of several seeds.

    Raises:
        LogError: a folder is not a result, or the folders have different utterances.
    """
    results = [load_result(folder, CompareOptions()) for folder in folders]
    keys = [key for key in results[0].cells if key.policy in (policy, OFFLINE_CELL.policy)]
    sides = [
        resample_result(dataclasses.replace(result, cells={key: result.cells[key] for key in keys}), bootstrap)
        for result in results
    ]
    for side in sides[1:]:
        check_same_references(sides[0], side)
    cells = {key: _average_cell([result.cells[key] for result in results]) for key in keys}
    spread = {
        key: {
            value: _deviation([result.cells[key].values.get(value) for result in results]) for value in SUMMARY_METRICS
        }
        for key in keys
    }
    return ArmResult(name, cells, {key: _average_logs([side[key] for side in sides]) for key in keys}, spread)


def summarise(arms: Sequence[ArmResult]) -> Json:
    """Return every cell of every arm, and compare every arm with the first at equal LAAL."""
    baseline = arms[0]
    return {
        "cells": [_cell_row(arm, key) for arm in arms for key in arm.cells],
        "against": baseline.name,
        "equal_latency": [{"arm": arm.name} | _compare_with(baseline, arm) for arm in arms[1:]],
    }


def summary_table(summary: Json, seeds: int) -> list[str]:
    """Format the summary as aligned lines."""
    rows = [["arm", "cell", "BLEU", "[low, high]", "± seeds", "LAAL ms", "± seeds", "NE"]]
    for row in summary["cells"]:
        rows.append(
            [
                row["arm"],
                row["cell"],
                format_number(row["BLEU"], 1),
                format_interval(row["BLEU_interval"], 1),
                format_number(row["BLEU_spread"], 1),
                format_measured(row["LAAL"], _measured_instances(row), row["instances"], 0),
                format_number(row["LAAL_spread"], 0),
                format_number(row["NE"], 2),
            ]
        )
    compared = [
        [
            f"against {summary['against']}",
            "BLEU at equal LAAL, on average",
            "[low, high]",
            "and over cells",
            "cells",
            "over LAAL ms",
        ]
    ]
    for entry in summary["equal_latency"]:
        shared = entry["range"]
        compared.append(
            [
                entry["arm"],
                format_number(entry["mean_difference"], 2, signed=True),
                format_interval(entry["sampling_interval"], 2),
                format_interval(entry["interval"], 2),
                _format_grids(entry["grids"]),
                "no common range" if shared is None else f"{shared[0]:.0f}–{shared[1]:.0f}",
            ]
        )
    return [
        *align(rows),
        "",
        *align(compared),
        "",
        f"Means over {seeds} seed{'s' if seeds > 1 else ''}; [low, high]: 95 % over utterances, and over halves of "
        f"the cells, for the error of interpolation; cells: those of both, where they share some; "
        f"±: standard deviation over seeds.",
    ]


def draw_curves(title: str, arms: Sequence[ArmResult], path: Path) -> None:
    """Draw BLEU over LAAL with 95 % intervals, a line for every arm and chunk."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        streaming = {key: cell for key, cell in arm.cells.items() if key != OFFLINE_CELL}
        for index, chunk in enumerate(dict.fromkeys(key.chunk_ms for key in streaming)):
            points = sorted(
                (cell.values["LAAL"] or 0.0, cell.values["BLEU"] or 0.0, key)
                for key, cell in streaming.items()
                if key.chunk_ms == chunk
            )
            bounds = [interval(arm.resampled[key].values["BLEU"]) for _, _, key in points]
            axes.errorbar(
                [point[0] for point in points],
                [point[1] for point in points],
                yerr=error_bars([bleu for _, bleu, _ in points], [found and found.as_json() for found in bounds]),
                capsize=2,
                color=f"C{number}",
                linestyle=("-", "--", ":", "-.")[index % 4],
                marker="o",
                markersize=3,
                label=f"{arm.name}, k = {chunk:g}",
            )
    axes.set_title(title)
    axes.set_xlabel("LAAL (ms)")
    axes.set_ylabel("BLEU, 95 % over utterances")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    with replacing(path) as handle:
        figure.savefig(handle, format="png", dpi=100)


def _cell_row(arm: ArmResult, key: CellKey) -> Json:
    values, spread = arm.cells[key].values, arm.spread[key]
    found = interval(arm.resampled[key].values["BLEU"])
    return {
        "arm": arm.name,
        "cell": str(key),
        **key.as_json(),
        **{name: values.get(name) for name in SUMMARY_METRICS},
        **{f"{name}_spread": spread[name] for name in SUMMARY_METRICS},
        "instances": arm.cells[key].instances,
        "LAAL_skipped": arm.cells[key].skipped.get("LAAL"),
        "BLEU_interval": found and found.as_json(),
    }


def _compare_with(baseline: ArmResult, arm: ArmResult) -> Json:
    """Compare quality at equal latency, over all streaming cells, as policies may differ."""
    return compare_curves(None, (baseline.cells, arm.cells), (baseline.resampled, arm.resampled), Axes())


def _average_cell(cells: Sequence[Cell]) -> Cell:
    names = [name for name in cells[0].values if all(name in cell.values for cell in cells)]
    values = {name: mean_of([cell.values[name] for cell in cells]) for name in names}
    totals = [cell.instances for cell in cells if cell.instances is not None]
    skipped = {
        name: sum(cell.skipped[name] for cell in cells)
        for name in cells[0].skipped
        if all(name in cell.skipped for cell in cells)
    }
    return Cell(cells[0].key, values, sum(totals) if len(totals) == len(cells) else None, None, skipped)


def _measured_instances(row: Json) -> int | None:
    """Return how many instances of all seeds the LAAL of a cell rests on; None where that is not known."""
    return row["instances"] - row["LAAL_skipped"] if row["instances"] and row["LAAL_skipped"] else None


def _average_logs(several: Sequence[ResampledLog]) -> ResampledLog:
    values = {name: np.mean([one.values[name] for one in several], axis=0) for name in several[0].values}
    return ResampledLog(several[0].path, several[0].statistics, values, several[0].references)


def _deviation(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def _format_grids(grids: Json) -> str:
    """Format how many cells each curve has, and whether only the grids may differ."""
    counts = grids["cells"]
    if grids["compared"] == "shared":
        return str(counts["baseline"])
    return f"{counts['baseline']} against {counts['other']}" + ("" if grids["comparable"] else ", grids differ")
