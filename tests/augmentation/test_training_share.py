"""What LLaMA-Factory's keys leave of the share of partial samples: arithmetic against `datasets` itself."""

from collections import Counter

import pytest
from datasets import Dataset, interleave_datasets

from simulsa_plugin.augmentation.training_share import (
    Mixing,
    Part,
    held_out_rows,
    kept_rows,
    mixed_rows,
    rows_line,
    share_lines,
)

PAIR = (Part("a", 200), Part("a_simulsa", 20))
STRATEGIES = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("probabilities", [None, (0.9, 0.1), (0.5, 0.5)])
def test_rows_are_those_that_datasets_interleaves(strategy, probabilities):
    sizes = {"a": 2000, "b": 100}
    sets = [Dataset.from_dict({"from": [name] * size}) for name, size in sizes.items()]
    mixed = interleave_datasets(
        sets, probabilities=probabilities and list(probabilities), seed=1, stopping_strategy=STRATEGIES[strategy]
    )
    found = Counter(mixed["from"])
    expected = mixed_rows(list(sizes.values()), Mixing(mix_strategy=strategy, interleave_probs=probabilities))
    # Drawn by probabilities they scatter: 10 % of the 1,000 to 20,000 that decide.
    assert expected == pytest.approx([found["a"], found["b"]], rel=0.35 if probabilities else 0)


@pytest.mark.parametrize("size", [0.1, 0.015, 30, 1])
def test_held_out_rows_are_those_that_datasets_splits_off(size):
    rows = Dataset.from_dict({"x": list(range(220))})
    assert held_out_rows(220, size) == len(rows.train_test_split(test_size=size, seed=1)["test"])


def test_max_samples_comes_after_num_samples_and_streaming_takes_every_row():
    assert kept_rows(Part("a", 200, 50), Mixing(max_samples=20)) == 20
    assert kept_rows(Part("a", 10), Mixing(max_samples=20)) == 10
    assert kept_rows(Part("a", 200, 50), Mixing(streaming=True)) == 200
    assert kept_rows(Part("a", None), Mixing(max_samples=20)) is None


def test_what_max_samples_does_to_the_share_is_said_with_both_numbers_and_the_next_step():
    assert share_lines(PAIR, Mixing(max_samples=20)) == [
        "max_samples: 20: training gets 20 of 200 rows of a and 20 of 20 rows of a_simulsa: 100 % as many partial "
        "samples as offline rows, not 10 %. Leave max_samples out; to train on less, augment a smaller dataset."
    ]


@pytest.mark.parametrize(
    ("parts", "mixing", "expected"),
    [
        (
            (Part("a", 200, 50), PAIR[1]),
            Mixing(),
            ["num_samples in dataset_info.json: training gets 50 of 200", "40 %"],
        ),
        ((PAIR[0], Part("a_simulsa", 20, 100)), Mixing(), ["100 of 20 rows of a_simulsa: 50 %", "not 10 %"]),
        (PAIR, Mixing(mix_strategy="interleave_under"), ["gets 20 of 200", "100 %", "mix_strategy: concat"]),
        (PAIR, Mixing(mix_strategy="interleave_over"), ["200 of 20 rows of a_simulsa", "100 %"]),
        (PAIR, Mixing(mix_strategy="interleave_over", interleave_probs=(0.8, 0.2)), ["gets about 200 of 200", "25 %"]),
        (PAIR, Mixing(val_size=0.1), ["val_size: 0.1 holds out 22 of 220 mixed rows"]),
        (PAIR, Mixing(streaming=True), ["streaming: with mix_strategy: concat"]),
        (PAIR, Mixing(packing=True), ["packing: several rows share a sequence"]),
        ((Part("a", None), PAIR[1]), Mixing(val_size=5), ["val_size: 5 holds out some"]),
    ],
)
def test_every_key_that_touches_the_share_is_named(parts, mixing, expected):
    (line,) = share_lines(parts, mixing)
    assert all(one in line for one in expected), line


@pytest.mark.parametrize(
    ("parts", "mixing"),
    [
        (PAIR, Mixing()),
        (PAIR, Mixing(max_samples=200)),
        (PAIR, Mixing(mix_strategy="interleave_once")),
        (PAIR, Mixing(mix_strategy="interleave_under", interleave_probs=(10 / 11, 1 / 11))),
        ((PAIR[0],), Mixing(max_samples=20, val_size=0.1, packing=True)),
        ((Part("a", 200), Part("b_simulsa", 20)), Mixing(max_samples=20)),
    ],
)
def test_nothing_is_said_where_the_share_stays_or_there_is_none(parts, mixing):
    assert share_lines(parts, mixing) == []


def test_counted_rows_are_said_also_where_the_files_are_not_known():
    parts = (Part("a", None), Part("a_simulsa", None))
    assert rows_line(parts, Mixing(), [400, 4]) == "training data: 400 rows of a and 4 of a_simulsa (1 %)."
    assert rows_line(parts, Mixing(), [None, 4]) is None
    assert rows_line(parts[:1], Mixing(), [400]) is None
    (line,) = share_lines(parts, Mixing(max_samples=20), [20, 20])
    assert "gets 20 rows of a and 20 rows of a_simulsa: 100 % as many partial samples as offline rows. Leave" in line


def test_the_rows_without_those_that_stop_a_training_are_paired_as_well():
    parts = (Part("a_clean", 199), Part("a_simulsa", 2), Part("b_clean", 300), Part("b_clean_simulsa", 3))
    assert rows_line(parts, Mixing(), [199, 2, 300, 3]) == (
        "training data: 199 rows of a_clean and 2 of a_simulsa (1.01 %); 300 rows of b_clean and 3 of b_clean_simulsa "
        "(1 %)."
    )
