"""Several cuts of an utterance: exact numbers, ids, nested shares, and cut times from (seed, NAME, row, cut) alone."""

import hashlib
import math

import numpy as np
import pytest
from helpers.fakes import ByteModel, ListDataset, write_noise
from helpers.files import read_json_lines
from scipy import stats

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import walk
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.errors import UsageError


def run(dataset, out, model=None, **settings):
    return augment_dataset(dataset, model or ByteModel(), AugmentSettings(**{"batch_size": 4} | settings), out)


def scored(out):
    return read_json_lines(out / "toy_simulsa" / "scores.jsonl")


def skipped(out):
    return [(row["id"], row["reason"]) for row in read_json_lines(out / "toy_simulsa" / "skipped.jsonl")]


@pytest.mark.parametrize("wanted", [1, 2, 3, 7, 120])
def test_exactly_as_many_as_asked_for_cut_after_cut_and_row_after_row(toy, tmp_path, wanted):
    outcome = run(toy, tmp_path, cuts=3, samples=wanted)
    expected = [f"toy-{row:08d}-{cut}" for row in walk("toy", 40, 42) for cut in range(3)][:wanted]
    assert [row["id"] for row in scored(tmp_path)] == expected
    assert sorted(path.name for path in (tmp_path / "toy_simulsa" / "clips").iterdir()) == sorted(
        f"{identifier}.wav" for identifier in expected
    )
    assert outcome.manifest["counts"]["samples"] == outcome.manifest["counts"]["wanted"] == wanted


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_fewer_samples_are_a_prefix_of_more_for_any_number_of_cuts(toy, tmp_path, cuts):
    found = {}
    for wanted in (4, 11, 30):
        run(toy, tmp_path / str(wanted), cuts=cuts, samples=wanted)
        found[wanted] = [(row["id"], row["cut_seconds"], row["partial"]) for row in scored(tmp_path / str(wanted))]
    assert found[30][:11] == found[11]
    assert found[11][:4] == found[4]


def test_cut_0_of_a_row_is_the_only_cut_of_a_run_with_one(toy, tmp_path):
    run(toy, tmp_path / "one", cuts=1, samples=40)
    run(toy, tmp_path / "three", cuts=3, samples=120)
    one = {row["id"]: row["cut_seconds"] for row in scored(tmp_path / "one")}
    first = {row["id"]: row["cut_seconds"] for row in scored(tmp_path / "three") if row["id"].endswith("-0")}
    assert first == one
    for identifier in one:
        name = f"toy_simulsa/clips/{identifier}.wav"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_a_cut_follows_from_seed_name_row_and_number(toy, tmp_path):
    # docs/method.md, on paper: l + r (m − l), r ~ Beta(1, 3), from a hash of the four; nothing else has a say.
    run(toy, tmp_path, cuts=4, samples=60, seed=7)
    rows = scored(tmp_path)
    for row in rows:
        _, number, cut = row["id"].split("-")
        digest = hashlib.sha256(f"7\0toy\0{int(number)}\0{cut}".encode()).digest()
        share = stats.beta.rvs(1.0, 3.0, random_state=np.random.default_rng(int.from_bytes(digest, "big")))
        seconds = 0.5 + share * (min(5.0, row["duration_seconds"]) - 0.5)
        assert row["cut_seconds"] == math.floor(seconds * 16_000 + 0.5) / 16_000
    assert len({row["cut_seconds"] for row in rows}) == 60


def test_a_cut_that_a_row_has_already_is_skipped_and_counted(tmp_path):
    # beta_discrete between 0.5 and 1 s: whatever is drawn above 0.5 is rounded up to 1.
    dataset = ListDataset("toy", [("a b c", write_noise(tmp_path / f"{row}.wav", 2.0, seed=row)) for row in range(3)])
    outcome = run(dataset, tmp_path / "out", cuts=4, samples=3, truncation="beta_discrete", max_seconds=1.0)
    order = list(walk("toy", 3, 42))
    assert [(row["id"], row["cut_seconds"]) for row in scored(tmp_path / "out")] == [
        (f"toy-{row:08d}-0", 1.0) for row in order
    ]
    again = [(f"toy-{row:08d}-{cut}", "same_cut") for row in order for cut in (1, 2, 3)]
    assert skipped(tmp_path / "out") == again[:6]  # the last row was asked for its first cut alone
    assert outcome.manifest["skipped"] == {"same_cut": 6}


def test_of_discrete_cuts_each_row_keeps_those_that_differ(tmp_path):
    dataset = ListDataset("toy", [("a b c", write_noise(tmp_path / f"{row}.wav", 2.4, seed=row)) for row in range(5)])
    outcome = run(dataset, tmp_path / "out", cuts=20, samples=100, truncation="beta_discrete", beta=1.0)
    rows = scored(tmp_path / "out")
    found = {(row["id"].split("-")[1], row["cut_seconds"]) for row in rows}
    assert len(found) == len(rows)
    # Beta(1, 1) is uniform; rounded up to 500 ms, at most the whole, it gives these four.
    assert {cut for _, cut in found} == {1.0, 1.5, 2.0, 2.4}
    assert outcome.manifest["skipped"] == {"same_cut": 100 - len(rows)}


def test_a_row_that_fails_as_a_whole_is_listed_once(tmp_path):
    good = write_noise(tmp_path / "good.wav", 3.0)

    class Unprintable(ListDataset):
        def sample(self, row):
            sample = super().sample(row)
            if row == 3:
                sample.prompt.messages[0]["content"] = "<audio>unprintable"
            return sample

    rows = ["multi_turn", ("a", str(tmp_path / "gone.wav")), ("a", write_noise(tmp_path / "s.wav", 0.3)), ("a", good)]
    model = ByteModel()
    outcome = run(Unprintable("toy", [*rows, ("a b", good)]), tmp_path / "out", model, cuts=5, samples=5)
    assert sorted(skipped(tmp_path / "out")) == [
        ("toy-00000000-0", "multi_turn"),
        ("toy-00000001-0", "audio_missing"),
        ("toy-00000002-0", "too_short"),
        ("toy-00000003-0", "not_renderable"),
    ]
    assert outcome.manifest["counts"]["samples"] == 5


def test_a_cut_past_the_window_leaves_the_other_cuts_of_its_row(tmp_path):
    dataset = ListDataset("toy", [("a b c", write_noise(tmp_path / f"{row}.wav", 9.0, seed=row)) for row in range(6)])
    outcome = run(dataset, tmp_path / "out", ByteModel(window_seconds=2.0), cuts=5, samples=30)
    late = [identifier for identifier, reason in skipped(tmp_path / "out") if reason == "cut_exceeds_window"]
    kept = [row["id"] for row in scored(tmp_path / "out")]
    assert sorted(late + kept) == sorted(f"toy-{row:08d}-{cut}" for row in range(6) for cut in range(5))
    assert outcome.manifest["skipped"] == {"cut_exceeds_window": len(late)}
    assert {identifier[:-2] for identifier in late} & {identifier[:-2] for identifier in kept}


def test_the_share_may_be_as_large_as_the_number_of_cuts(toy, tmp_path):
    assert run(toy, tmp_path / "half", cuts=3, ratio=2.5).manifest["counts"]["samples"] == 100
    assert run(toy, tmp_path / "all", cuts=3, ratio=3).manifest["counts"]["samples"] == 120
    with pytest.raises(UsageError, match=r"simulsa_ratio is 3.01; allowed: a number > 0 and ≤ 3"):
        AugmentSettings(cuts=3, ratio=3.01)
    with pytest.raises(UsageError, match=r"simulsa_cuts is 0"):
        AugmentSettings(cuts=0)


def test_where_rows_run_out_the_warning_has_both_numbers(tmp_path):
    dataset = ListDataset("toy", [("a b", write_noise(tmp_path / f"{row}.wav", 3.0, seed=row)) for row in range(3)])
    outcome = run(dataset, tmp_path / "out", cuts=2, samples=9)
    (line,) = outcome.warnings
    assert "toy gives 6 of the 9 samples asked for" in line
    assert (outcome.manifest["counts"]["wanted"], outcome.manifest["counts"]["samples"]) == (9, 6)
