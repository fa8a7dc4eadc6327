"""Curves over cells that differ between the sides. The truth is a formula, so what may be claimed is known."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from simulsa_plugin.comparison.equal_latency import Axes, compare_curves
from simulsa_plugin.comparison.resampled_cells import ResampledLog
from simulsa_plugin.comparison.verdict import verdict
from simulsa_plugin.evaluation.result_cells import Cell, CellKey
from simulsa_plugin.metrics.significance import Statistics

CHUNKS, ROLLBACKS = (500, 1000, 1500, 2000), (0, 1, 2, 3, 4, 5, 6, 8)
GRID = [(chunk, rollback) for chunk in CHUNKS for rollback in ROLLBACKS]
DEFAULT_GRID = [(chunk, rollback) for chunk, rollback in GRID if rollback in (0, 3, 5)]
CLAIMS = ("the other is better", "the other is worse", "is more than a shift")
RESAMPLES = 100


def true_point(chunk: int, rollback: int) -> tuple[float, float]:
    """Latency and quality of one system: diminishing returns, and a chunk that suits it better than the others."""
    latency = 0.5 * chunk + 220.0 * rollback * (1 + chunk / 4000)
    return latency, 100 * (1 - np.exp(-(latency + 100) / 900)) - abs(chunk - 1500) / 400


def make_side(
    points: dict[tuple[int, int], tuple[float, float]], noise: np.ndarray, policy: str = "rollback", extra: float = 0.0
) -> tuple[dict[CellKey, Cell], dict[CellKey, ResampledLog]]:
    """A side whose resamples scatter as `noise` (shared by both sides: the utterances are the same) and by `extra`."""
    generator = np.random.default_rng(len(points))
    cells, sampled = {}, {}
    for (chunk, rollback), (latency, quality) in points.items():
        key = CellKey(policy, chunk, rollback)
        own = extra * generator.normal()
        drawn = noise + extra * generator.normal(size=RESAMPLES) + own
        cells[key] = Cell(key, {"LAAL": latency, "BLEU": quality + own}, 100, None)
        sampled[key] = ResampledLog(
            Path(),
            Statistics({}, {}, {}),
            {"LAAL": latency + 3 * noise, "BLEU": quality + drawn},
            np.empty(0, dtype=np.int64),
        )
    return cells, sampled


def compare_sides(one, two, policy: str | None = "rollback") -> dict:
    entry = compare_curves(policy, (one[0], two[0]), (one[1], two[1]), Axes())
    return entry | {"verdict": verdict(entry, [])}


def claims(entry: dict) -> list[str]:
    return [claim for claim in CLAIMS if claim in entry["verdict"]]


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=RESAMPLES)


def points_of(grid: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[float, float]]:
    return {cell: true_point(*cell) for cell in grid}


def random_grids(count: int) -> Iterable[tuple[list, list]]:
    """Pairs of grids as people choose them: some chunks with some rollbacks, or cells here and there."""
    drawn = random.Random(5)
    for number in range(count):
        if number % 2:
            yield drawn.sample(GRID, drawn.randint(1, 16)), drawn.sample(GRID, drawn.randint(1, 16))
        else:
            yield tuple(
                [
                    (chunk, rollback)
                    for chunk in drawn.sample(CHUNKS, drawn.randint(1, 4))
                    for rollback in drawn.sample(ROLLBACKS, drawn.randint(1, 5))
                ]
                for _ in range(2)
            )


def test_a_system_is_never_better_than_itself_whichever_cells_each_side_has():
    for number, (one, two) in enumerate(random_grids(80)):
        entry = compare_sides(make_side(points_of(one), noise(number)), make_side(points_of(two), noise(number)))
        assert claims(entry) == [], (one, two, entry["verdict"])


def test_differences_of_noise_alone_are_claimed_no_more_often_than_an_interval_of_95_percent_allows():
    claimed = [
        claims(
            compare_sides(
                make_side(points_of(one), noise(number), extra=0.5), make_side(points_of(two), noise(number), extra=0.7)
            )
        )
        for number, (one, two) in enumerate(random_grids(80))
    ]
    assert sum(map(bool, claimed)) <= 0.05 * len(claimed)


def shifted_along_the_curve(count: int) -> Iterable[dict]:
    """Two sides with the same labels whose cells lie elsewhere on the same curve: a pure shift, by construction."""
    drawn = random.Random(7)
    for number in range(count):
        chunks = sorted(drawn.sample(CHUNKS, drawn.choice([2, 3, 4])))
        size = drawn.choice([3, 4])
        names, first, second = (sorted(drawn.sample(ROLLBACKS, size)) for _ in range(3))
        sides = [
            make_side(
                {
                    (chunk, name): true_point(chunk, rollback)
                    for chunk in chunks
                    for name, rollback in zip(names, rollbacks, strict=True)
                },
                noise(number),
            )
            for rollbacks in (first, second)
        ]
        yield compare_sides(*sides)


def test_interpolation_is_not_credited_to_a_system():
    entries = list(shifted_along_the_curve(60))
    over_utterances = [entry["sampling_interval"] for entry in entries if entry["sampling_interval"]]
    assert sum(low > 0 or high < 0 for low, high in over_utterances) > 0.5 * len(over_utterances)  # all of them wrong
    assert sum(bool(claims(entry)) for entry in entries) <= 0.05 * len(entries)
    for entry in entries:
        if entry["interval"]:
            assert entry["interval"][0] <= entry["sampling_interval"][0]
            assert entry["interval"][1] >= entry["sampling_interval"][1]


def improved(grid: Iterable[tuple[int, int]], by: float) -> dict[tuple[int, int], tuple[float, float]]:
    """Better in every cell, and a few milliseconds off, as another training of the same model is."""
    drawn = random.Random(3)
    return {
        cell: (latency + drawn.uniform(-15, 15), quality + by) for cell, (latency, quality) in points_of(grid).items()
    }


@pytest.mark.parametrize(("gain", "claim"), [(3.0, "the other is better"), (-3.0, "the other is worse")])
def test_a_real_difference_in_the_same_cells_is_found(gain, claim):
    entry = compare_sides(
        make_side(points_of(DEFAULT_GRID), noise(1), extra=0.2),
        make_side(improved(DEFAULT_GRID, gain), noise(1), extra=0.3),
    )
    assert claim in entry["verdict"]
    assert entry["grids"] == {
        "compared": "shared",
        "comparable": True,
        "shared": 12,
        "cells": {"baseline": 12, "other": 12},
        "baseline_only": [],
        "other_only": [],
    }


def test_a_real_difference_is_found_in_the_shared_cells_and_the_verdict_names_the_others():
    entry = compare_sides(
        make_side(points_of(DEFAULT_GRID), noise(1)),
        make_side(improved([*DEFAULT_GRID, (500, 8), (2000, 8)], 3.0), noise(1)),
    )
    assert (
        "only the 12 shared cells are compared (only the other has rollback k=500 b=8, rollback k=2000 b=8)"
        in entry["verdict"]
    )
    assert "the other is better" in entry["verdict"]
    assert entry["range"][1] <= true_point(2000, 5)[0] + 15  # and not as far as b=8 reaches


def test_grids_of_one_policy_without_shared_cells_decide_nothing():
    # As good as it may look: the same weights could have been run in the other's cells.
    entry = compare_sides(
        make_side(points_of((k, b) for k, b in GRID if b in (0, 3, 5)), noise(1)),
        make_side(improved([(k, b) for k, b in GRID if b in (1, 4, 8)], 20.0), noise(1)),
    )
    assert claims(entry) == []
    assert entry["verdict"].startswith("The grids differ (0 shared; only the baseline has rollback k=500 b=0, ")
    assert "Evaluate both in the same cells." in entry["verdict"]
    assert (entry["grids"]["compared"], entry["grids"]["comparable"]) == ("all", False)
    assert len(entry["grids"]["baseline_only"]) == len(entry["grids"]["other_only"]) == 12


def test_two_policies_are_compared_by_the_cells_that_each_was_given():
    words = {(k, w): (true_point(k, 2 * w)[0] + 20, true_point(k, 2 * w)[1] - 25) for k in CHUNKS for w in (1, 2, 3)}
    entry = compare_sides(make_side(points_of(DEFAULT_GRID), noise(1)), make_side(words, noise(1), "wait_k"), None)
    assert "The policies differ, so each side is compared by the cells that it was given." in entry["verdict"]
    assert "the other is worse" in entry["verdict"]  # 25 BLEU are more than any choice of cells
    assert entry["interval"][1] - entry["interval"][0] > 3 * np.diff(entry["sampling_interval"])[0]


def test_of_two_cells_none_can_be_left_out_so_that_nothing_is_claimed():
    grid = [(500, 3), (1000, 3)]
    entry = compare_sides(make_side(points_of(grid), noise(1)), make_side(improved(grid, 30.0), noise(1)))
    assert entry["interval"] is None and entry["sampling_interval"][0] > 0
    assert "none is claimed from fewer than 3 cells" in entry["verdict"]
    assert "better" not in entry["verdict"].split("At equal LAAL")[1]


@pytest.mark.parametrize("cells", [2, 9])
def test_one_system_under_two_policies_is_not_better_by_having_more_cells(cells):
    points = points_of(DEFAULT_GRID)
    few = {key: points[key] for key in list(points)[:: len(points) - 1]}
    many = {key: points[key] for key in list(points)[:cells]}
    entry = compare_sides(make_side(few, noise(1)), make_side(many, noise(1), "wait_k"), None)
    assert "none is claimed from fewer than 3 cells" in entry["verdict"]


def test_the_same_seed_leaves_out_the_same_cells():
    sides = make_side(points_of(DEFAULT_GRID), noise(1)), make_side(improved(DEFAULT_GRID, 1.0), noise(1))
    assert compare_sides(*sides) == compare_sides(*sides)
