"""Paired bootstrap. Expected values: sacrebleu 2.6.0's PairedTest (tests/data/latency/README.md), or arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulsa_plugin.metrics import significance

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))
SYSTEMS = ("word.instances.log", "word_system2.instances.log")


def statistics_of(name: str) -> np.ndarray:
    rows = [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
    return significance.bleu_statistics([row["prediction"] for row in rows], [row["reference"] for row in rows], "13a")


@pytest.fixture(scope="module")
def resampled() -> list[np.ndarray]:
    statistics = [statistics_of(name) for name in SYSTEMS]
    blocks = list(significance.resample(len(statistics[0]), 1000, seed=12345))
    return [np.concatenate([significance.corpus_bleu(weights @ one) for weights in blocks]) for one in statistics]


@pytest.mark.parametrize("name", SYSTEMS)
def test_summed_statistics_give_corpus_bleu(name):
    (score,) = significance.corpus_bleu(statistics_of(name).sum(axis=0, keepdims=True))
    assert score == pytest.approx(ORACLE["files"][name]["sacrebleu"]["BLEU[13a]"]["score"], rel=1e-9)


def test_the_resamples_are_sacrebleus(resampled):
    for bleu, expected in zip(resampled, ORACLE["paired_bootstrap"]["results"]["BLEU"], strict=True):
        assert bleu.mean() == pytest.approx(expected["mean"], rel=1e-9)


def test_the_p_value_is_sacrebleus(resampled):
    first, second = ORACLE["paired_bootstrap"]["results"]["BLEU"]
    p_value = significance.paired_p_value(second["score"] - first["score"], resampled[1] - resampled[0])
    assert p_value == pytest.approx(second["p_value"], rel=1e-9)


def test_the_interval_is_as_wide_as_sacrebleus(resampled):
    expected = ORACLE["paired_bootstrap"]["results"]["BLEU"][0]["ci"]  # half of the width
    found = significance.interval(resampled[0])
    # sacrebleu takes the nearest resamples, we interpolate between them: less than the step between neighbours.
    assert (found.high - found.low) / 2 == pytest.approx(expected, abs=0.05)


def test_no_interval_is_claimed_where_too_few_resamples_have_a_value():
    values = np.arange(100.0)
    values[:10] = np.nan
    assert significance.interval(values).resamples == 90
    values[10] = np.nan
    assert significance.interval(values) is None


def test_a_resample_that_drew_no_value_has_no_mean():
    means = significance.weighted_mean(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([np.nan, 5.0]))
    assert np.isnan(means[0])
    assert means[1] == 5.0
