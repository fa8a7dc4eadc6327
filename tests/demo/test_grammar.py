"""Is the truth true? What is certain after n English words must hold for every sentence that begins with them."""

import numpy as np
import pytest

from simulsa_plugin.demo import grammar
from simulsa_plugin.demo.grammar import Sentence, sample_sentence


def draw(count, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_sentence(rng) for _ in range(count)]


@pytest.fixture
def few_words(monkeypatch):
    """So few words that the same beginnings come again and again, with every kind of ending."""

    def first(table, *keys):
        return {key: table[key] for key in keys}

    for name, value in {
        "PEOPLE": first(grammar.PEOPLE, "man", "aunt"),
        "THINGS": first(grammar.THINGS, "car", "lamp"),
        "PEOPLE_ADJECTIVES": first(grammar.PEOPLE_ADJECTIVES, "old"),
        "THING_ADJECTIVES": first(grammar.THING_ADJECTIVES, "new"),
        "VERBS": grammar.VERBS[:1],
        "MODALS": grammar.MODALS[:1],
        "TIMES": first(grammar.TIMES, "today", "in winter"),
        "PLACES": first(grammar.PLACES, "in the garden"),
        "MATRICES": grammar.MATRICES[:1],
    }.items():
        monkeypatch.setattr(grammar, name, value)


def contradictions(sentences):
    """(beginning, what one sentence claims after it, another sentence that begins so and says something else)."""
    by_beginning = {}
    for sentence in {sentence.source_text: sentence for sentence in sentences}.values():
        for heard in range(len(sentence.source) + 1):
            by_beginning.setdefault(sentence.source[:heard], []).append(sentence)
    found = []
    for beginning, group in by_beginning.items():
        for sentence in group:
            claim = sentence.target[: sentence.supported_words(len(beginning), ended=False)]
            found += [(beginning, claim, other.target) for other in group if other.target[: len(claim)] != claim]
    shared = sum(len(group) > 1 and len(beginning) >= 6 for beginning, group in by_beginning.items())
    return found, shared


def test_what_is_certain_holds_for_every_sentence_that_begins_so(few_words):
    found, shared = contradictions(draw(12_000))
    assert shared > 1000  # beginnings of six words and more that several sentences share
    assert not found, found[:3]


def test_it_holds_with_all_words_too():
    found, _ = contradictions(draw(8000))
    assert not found, found[:3]


def test_a_bolder_truth_would_be_found_out(few_words, monkeypatch):
    # Without waiting for the end of the clause, a time could still go before what is called certain.
    monkeypatch.setattr(grammar, "_awaiting", lambda phrase, end: phrase)
    found, _ = contradictions(draw(4000))
    assert found


def test_the_same_english_has_the_same_german(few_words):
    german = {}
    for sentence in draw(12_000):
        assert german.setdefault(sentence.source, sentence.target) == sentence.target


def test_needs_never_fall_and_only_the_end_completes():
    for sentence in draw(3000):
        assert list(sentence.needs) == sorted(sentence.needs)
        assert sentence.needs[0] >= 1  # nothing is certain in silence
        assert sentence.needs[-1] == len(sentence.source) + 1
        assert len(sentence.source) <= 16
        for heard in range(len(sentence.source) + 1):
            assert sentence.supported_words(heard, ended=False) < len(sentence.target)
        assert sentence.supported_words(len(sentence.source), ended=True) == len(sentence.target)


def test_sentences_are_written_as_german_is():
    for sentence in draw(2000):
        assert sentence.target_text[0].isupper()
        assert sentence.target_text.endswith(".")
        assert "  " not in sentence.target_text
        assert (", weil " in sentence.target_text) == ("because" in sentence.source)
        assert (", dass " in sentence.target_text) == ("that" in sentence.source)


def test_the_languages_diverge_as_they_do_in_life():
    # The point of the corpus: much of the German must wait although much of the English has been heard.
    waiting = [
        1 - sentence.supported_words(len(sentence.source) - 1, ended=False) / len(sentence.target)
        for sentence in draw(2000)
    ]
    assert 0.3 < np.mean(waiting) < 0.8


def test_a_sentence_checks_itself():
    with pytest.raises(ValueError, match="as many needs as German words"):
        Sentence(("a",), ("ein", "Haus"), (1,))
