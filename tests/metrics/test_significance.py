"""Paired bootstrap. Expected values: sacrebleu 2.6.0's PairedTest (tests/data/latency/README.md), or arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.files import read_texts
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from simulsa_plugin.metrics import significance
from simulsa_plugin.metrics.quality import make_metrics
from simulsa_plugin.metrics.significance import Bootstrap

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))
SYSTEMS = ("word.instances.log", "word_system2.instances.log")
BOTH = Bootstrap(samples=1000, trials=1000, seed=12345)
NAMES = {"BLEU": "BLEU", "chrF": "chrF2"}


@pytest.fixture(scope="module")
def statistics() -> list[significance.Statistics]:
    metrics = make_metrics("13a")
    return [
        significance.Statistics({m.name: (m, m.statistics(*read_texts(DATA / name))) for m in metrics}, {}, {})
        for name in SYSTEMS
    ]


@pytest.fixture(scope="module")
def resampled(statistics) -> list[dict[str, np.ndarray]]:
    return [significance.bootstrap_metrics(one, 186, BOTH) for one in statistics]


def bootstrap_of(name: str) -> list[dict]:
    return ORACLE["significance"]["bs"]["results"][NAMES[name]]


@pytest.mark.parametrize("name", NAMES)
def test_the_resamples_are_sacrebleus(resampled, name):
    for ours, expected in zip(resampled, bootstrap_of(name), strict=True):
        assert ours[name].mean() == pytest.approx(expected["mean"], rel=1e-6)  # sacrebleu sums in single precision


@pytest.mark.parametrize("name", NAMES)
def test_the_p_value_of_the_bootstrap_is_sacrebleus(resampled, name):
    first, second = bootstrap_of(name)
    differences = resampled[1][name] - resampled[0][name]
    p_value = significance.sacrebleu_p_value(second["score"] - first["score"], differences)
    assert p_value == pytest.approx(second["p_value"], rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_p_value_of_the_randomisation_is_sacrebleus(statistics, name):
    expected = ORACLE["significance"]["ar"]["results"][NAMES[name]][1]["p_value"]
    (metric, first), (_, second) = (one.quality[name] for one in statistics)
    assert significance.randomisation_p_value(metric, first, second, BOTH) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("test_type", ["bs", "ar"])
def test_both_p_values_are_sacrebleus_also_between_systems_that_hardly_differ(statistics, test_type, monkeypatch):
    hypotheses, references = read_texts(DATA / SYSTEMS[0])
    other = [text if i % 3 else read_texts(DATA / SYSTEMS[1])[0][i] for i, text in enumerate(hypotheses)]
    other[7::12] = references[7::12]  # better in some, worse in others
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    metrics = {"BLEU": BLEU(), "chrF": CHRF()}
    _, expected = PairedTest([("a", hypotheses), ("b", other)], metrics, [references], test_type, n_samples=500)()
    chosen = Bootstrap(samples=500, trials=500, seed=7)
    for metric, first in (statistics[0].quality[name] for name in NAMES):
        second = metric.statistics(other, references)
        if test_type == "ar":
            ours = significance.randomisation_p_value(metric, first, second, chosen)
        else:
            one, two = (
                significance.bootstrap_metrics(significance.Statistics({"x": (metric, counts)}, {}, {}), 186, chosen)
                for counts in (first, second)
            )
            observed = metric.score(second.sum(axis=0)) - metric.score(first.sum(axis=0))
            ours = significance.sacrebleu_p_value(observed, two["x"] - one["x"])
        theirs = expected[NAMES[metric.name]][1].p_value
        assert 0.002 < theirs < 1, theirs
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_blocks_of_draws_draw_what_one_whole_draw_does(statistics, monkeypatch):
    metric, first = statistics[0].quality["BLEU"]
    _, second = statistics[1].quality["BLEU"]
    close = np.concatenate([second[:30], first[30:]])
    whole = [
        significance.randomisation_p_value(metric, first, close, BOTH),
        *significance.bootstrap_weights(186, 70, 3),
    ]
    monkeypatch.setattr(significance, "_LARGEST_BLOCK", 1)
    blocks = list(significance.bootstrap_weights(186, 70, 3))
    assert [len(block) for block in blocks] == [32, 32, 6]
    assert np.array_equal(np.concatenate(blocks), whole[1])
    assert significance.randomisation_p_value(metric, first, close, BOTH) == whole[0]


def test_the_interval_is_as_wide_as_sacrebleus(resampled):
    expected = ORACLE["significance"]["single_bootstrap_word"]["ci"]  # half of the width
    found = significance.interval(resampled[0]["BLEU"])
    # sacrebleu takes the nearest resamples, we interpolate between them: less than the step between neighbours.
    assert (found.high - found.low) / 2 == pytest.approx(expected, abs=0.05)


def test_a_ratio_is_resampled_as_a_ratio_of_sums():
    terms = (np.array([1.0, 0.0, np.nan]), np.array([2.0, 4.0, np.nan]))
    weights = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    found = significance.Statistics({}, {}, {"NE": terms}).resampled(weights)["NE"]
    assert found[:2].tolist() == [1 / 6, 0.5]
    assert np.isnan(found[2])


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


def with_differing(statistics, count: int, better: int):
    """BLEU counts of twenty sentences, and the same where `better` gain a word and the rest of `count` lose one."""
    metric, _ = statistics[0].quality["BLEU"]
    _, references = read_texts(DATA / SYSTEMS[0])
    references = [text for text in references if len(text.split()) > 8][:20]
    shortened = [" ".join(text.split()[:-2]) for text in references]
    one = metric.statistics(shortened, references)
    changed = [
        " ".join(text.split()[:-1]) if i < better else " ".join(text.split()[:-3]) if i < count else shortened[i]
        for i, text in enumerate(references)
    ]
    return metric, one.astype(np.int32), metric.statistics(changed, references).astype(np.int32)


# All differ in one direction: of 2ᵐ swaps only two, none and all, are as large as observed.
@pytest.mark.parametrize(("count", "expected"), [(1, 1.0), (2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_p_is_exact_where_few_sentences_differ(statistics, count, expected):
    found = significance.randomisation_test(*with_differing(statistics, count, better=count), Bootstrap(trials=2000))
    assert (found.p_value, found.exact) == (expected, True)
    assert (found.utterances, found.differing) == (20, count)
    assert found.sacrebleu_p_value < found.p_value


def test_sacrebleus_p_of_a_single_differing_sentence_is_the_smallest_there_is(statistics):
    found = significance.randomisation_test(*with_differing(statistics, 1, better=1), Bootstrap(trials=999))
    assert (found.sacrebleu_p_value, found.p_value) == (0.001, 1.0)


def test_exact_p_counts_the_ways_that_are_as_large_as_observed(statistics):
    metric, one, two = with_differing(statistics, 4, better=3)
    observed = abs(metric.score(two.sum(axis=0)) - metric.score(one.sum(axis=0)))
    sizes = []
    for mask in range(2**4):  # every way to swap the four, one by one
        swapped = np.array([bool(mask >> i & 1) if i < 4 else False for i in range(20)])[:, None]
        first, second = np.where(swapped, two, one), np.where(swapped, one, two)
        sizes.append(abs(metric.score(first.sum(axis=0)) - metric.score(second.sum(axis=0))))
    expected = sum(size >= observed - 1e-9 for size in sizes) / 16
    assert 0 < expected < 1
    assert significance.randomisation_test(metric, one, two, BOTH).p_value == expected


def test_drawn_and_exact_p_agree_where_both_can_be_had(statistics):
    (metric, one), (_, other) = (side.quality["BLEU"] for side in statistics)
    rows = np.flatnonzero((one != other).any(axis=1))[:12]
    two = one.copy()
    two[rows] = other[rows]
    exact = significance.randomisation_test(metric, one, two, Bootstrap(trials=10000))
    drawn = significance.randomisation_test(metric, one, two, Bootstrap(trials=2000))
    assert (exact.exact, drawn.exact) == (True, False)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)  # 2000 draws: σ is at most 0.011


def test_draws_as_large_as_observed_count_half():
    # By hand: none larger, two of four equal: (0 + 2 / 2 + 1) / (4 + 1).
    assert significance.paired_p_value(1.0, np.array([-1.0, 1.0, 0.5, -0.5])) == 0.4


def test_utterances_differ_in_what_a_metric_sees(statistics):
    metric, one, two = with_differing(statistics, 3, better=2)
    first = significance.Statistics(
        {"BLEU": (metric, one)},
        {"LAAL": np.array([1.0, np.nan, 3.0])},
        {"NE": (np.array([1.0, 2.0]), np.array([4.0, 4.0]))},
    )
    second = significance.Statistics(
        {"BLEU": (metric, two)},
        {"LAAL": np.array([1.0, np.nan, 4.0])},
        {"NE": (np.array([1.0, 2.0]), np.array([4.0, 5.0]))},
    )
    assert np.flatnonzero(significance.differing_utterances(first, second, "BLEU")).tolist() == [0, 1, 2]
    assert significance.differing_utterances(first, second, "LAAL").tolist() == [False, False, True]
    assert significance.differing_utterances(first, second, "NE").tolist() == [False, True]
