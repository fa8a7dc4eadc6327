"""Which rows: exact numbers, nested shares, and nothing but (seed, name, row) behind them."""

import subprocess
import sys

import pytest

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import generator, sample_id, walk, wanted_samples


@pytest.mark.parametrize(
    ("ratio", "rows", "wanted"),
    [
        (0.01, 8000, 80),
        (0.01, 20, 1),
        (0.01, 1, 1),
        (0.01, 149, 1),
        (0.01, 150, 2),
        (0.01, 249, 2),
        (0.01, 250, 3),
        (0.05, 50, 3),
        (0.05, 49, 2),
        (1, 7, 7),
        (0.5, 3, 2),
        (0.001, 289_430, 289),
        # The float products are 14.499999999999998, 434.99999999999994 + …: halves and wholes that floats miss.
        (0.29, 50, 15),
        (0.29, 750, 218),
        (0.57, 100, 57),
        (0.07, 150, 11),
        (0.15, 10, 2),
    ],
)
def test_shares_are_exact_halves_up(ratio, rows, wanted):
    assert wanted_samples(rows, AugmentSettings(ratio=float(ratio))) == wanted


def test_a_number_wins_over_the_share():
    assert wanted_samples(10, AugmentSettings(samples=7)) == 7
    assert wanted_samples(10, AugmentSettings(samples=99)) == 99  # the walk warns when rows run out


def test_the_walk_visits_every_row_once():
    assert sorted(walk("demo", 1000, seed=42)) == list(range(1000))


def test_seed_and_name_change_the_walk():
    walks = {tuple(walk(name, 50, seed)) for name in ("a", "b") for seed in (1, 2)}
    assert len(walks) == 4


def test_choice_and_cut_do_not_share_their_chance():
    # A row number and the word of the walk, seeds that join with names: no two keys give one stream.
    keys = [
        (42, "demo", "walk"),
        (42, "demo", 0, 0),
        (42, "demo", 1, 0),
        (42, "demo", 0, 1),
        (4, "2demo", 0, 0),
        (42, "demo1", 0, 0),
        (42, "demo", 10, 0),
    ]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_another_process_draws_the_same(tmp_path):
    program = (
        "from simulsa_plugin.augmentation.method.selection import generator, walk\n"
        "print(list(walk('demo', 20, 42)), generator(42, 'demo', 3, 0).random())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{list(walk('demo', 20, 42))} {generator(42, 'demo', 3, 0).random()}\n"}


def test_ids():
    assert sample_id("covost2_en_zh", 12, 3) == "covost2_en_zh-00000012-3"
    assert sample_id("x", 123_456_789) == "x-123456789-0"
