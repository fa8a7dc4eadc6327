"""SoftSegmenter's alignment. Expected values: OmniSTEval 0.1.10 (tests/data/soft_segmentation/make_cases.py)."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from simulsa_plugin.metrics.soft_segmentation import assign_segments, normalize_token

CASES = json.loads(
    (Path(__file__).parents[1] / "data" / "soft_segmentation" / "cases.json").read_text(encoding="utf-8")
)


def test_every_token_goes_to_omnistevals_segment():
    for case in CASES:
        found = assign_segments(case["references"], case["hypothesis"], characters=case["characters"])
        assert found == case["segments"], case


def test_the_cases_cover_tokens_without_a_segment_and_tokens_between_segments():
    assert sum(case["segments"].count(None) for case in CASES) > 10
    assert sum(len(set(case["segments"])) > 2 for case in CASES) > 50


def test_no_reference_or_no_translation_is_no_error():
    assert assign_segments([], ["a"]) == [None]
    assert assign_segments([[], []], ["a", "b"]) == [None, None]
    assert assign_segments([["a"], ["b"]], []) == []


@pytest.mark.parametrize("characters", [False, True])
def test_a_long_talk_takes_little_memory(characters):
    # Half an hour of speech has about 4,500 words; a float for each pair of 2,300 distinct ones would be 42 MB.
    draw = np.random.default_rng(0)
    reference = [chr(0x4E00 + number) if characters else f"{number:x}" for number in draw.integers(0, 3000, 4500)]
    hypothesis = [token for token in reference if draw.random() < 0.9]
    tracemalloc.start()
    found = assign_segments([reference[i : i + 15] for i in range(0, 4500, 15)], hypothesis, characters=characters)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == sorted(found)
    assert peak < 12 * 2**20


@pytest.mark.parametrize(("text", "normal"), [("Ｇuten", "guten"), ("ﬁ", "fi"), ("ÄRGER", "ärger")])
def test_tokens_are_compared_without_case_and_width(text, normal):
    assert normalize_token(text) == normal
