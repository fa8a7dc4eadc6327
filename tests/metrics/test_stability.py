"""Normalised erasure. Expected values: counted on paper after Arivazhagan et al. 2020."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.metrics.corpus_scores import score_records
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.stability import erased_units, erasure

texts = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


def test_a_changed_word_takes_back_all_that_followed_it():
    assert erasure("the cat sat here".split(), "the dog sat here".split()) == 3


def normalized_erasure(*sessions):
    """NE of a corpus whose utterances showed these words, step by step."""
    return score_records(
        [
            EmissionRecord(i, " ".join(steps[-1]), "", tuple(1.0 for _ in steps[-1]), erased=erased_units(steps))
            for i, steps in enumerate(sessions)
        ]
    ).corpus["NE"]


def test_text_that_only_grows_is_never_erased():
    assert normalized_erasure([[], ["a"], ["a", "b"], ["a", "b", "c"]]) == 0.0


def test_deleting_and_writing_again_the_same_counts_as_nothing():
    # Three words taken back and written again within a step leave the screen as it was.
    assert erased_units([["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c", "d"]]) == 0


def test_a_corpus_counts_units_not_utterances():
    flickering = [["x"], ["a"]]  # 1 unit taken back, 1 final
    steady = [["a", "b"], ["a", "b", "c"]]  # 0 taken back, 3 final
    assert normalized_erasure(flickering, steady) == 0.25  # and not (1 + 0) / 2


def test_a_corpus_that_ends_empty_has_no_value():
    assert normalized_erasure([["a"], []], [[]]) is None


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (["guten", "Ta"], ["guten", "Tag"], 0),  # a word grows
        (["guten", "Ta"], ["guten", "Tagen", "liebe", "Welt"], 0),
        (["guten", "Tag"], ["guten", "Ta"], 1),  # it shrinks: letters go from the screen
        (["guten", "Ta", "li"], ["guten", "Tag", "li"], 2),  # what followed it had to go
        (["guten", "Tag"], ["guten", "Abend"], 1),
        (["guten", "Stra\ufffd"], ["guten", "Straße"], 0),  # half a character is completed
        (["你", "\ufffd"], ["你", "好"], 0),
        (["你", "\ufffd", "\ufffd"], ["你"], 0),  # it never was a character
        (["你", "好"], ["你", "们"], 1),
    ],
)
def test_what_only_grows_on_the_screen_is_not_erased(earlier, later, expected):
    assert erasure(earlier, later) == expected


@given(st.text(alphabet="ab ßé你", max_size=12), st.integers(1, 5))
def test_text_that_is_only_appended_to_is_never_erased_whatever_its_tokens(text, size):
    encoded = text.encode()
    shown = [encoded[:end].decode(errors="replace") for end in [*range(0, len(encoded), size), len(encoded)]]
    assert erased_units(part.split() for part in shown) == 0
    assert erased_units(list(part.strip()) for part in shown) == 0


@given(texts, texts)
def test_what_is_left_after_erasing_starts_the_later_text(earlier, later):
    kept = len(earlier) - erasure(earlier, later)
    assert earlier[:kept] == later[:kept]
    assert earlier[kept : kept + 1] != later[kept : kept + 1] or kept == len(earlier)
