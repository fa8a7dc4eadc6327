"""The target without reordering: the words of the German in the order of the English, and a truth that is true."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from augmented_demo import write_augmented

from simulsa_plugin.demo import corpus
from simulsa_plugin.demo.grammar import Sentence, sample_sentence
from simulsa_plugin.demo.truth import find_truth
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.experiments.variants import main
from simulsa_plugin.experiments.variants_monotone import in_english_order
from simulsa_plugin.files.json_files import read_jsonl


@pytest.fixture(scope="module")
def pairs():
    """German sentences, and the same in English order."""
    rng = np.random.default_rng(0)
    german = [sample_sentence(rng) for _ in range(4000)]
    return [(sentence, in_english_order(sentence)) for sentence in german]


def bag(sentence):
    return Counter(word.strip(",.").lower() for word in sentence.target)


def test_every_sentence_keeps_its_words(pairs):
    assert all(bag(german) == bag(other) for german, other in pairs)
    assert sum(german.target != other.target for german, other in pairs) > 3900


@pytest.mark.parametrize(
    ("english", "german", "expected", "needs"),
    [
        (
            "we know that a young king wants to hide the red lamp in the park today",
            "Wir wissen, dass ein junger König die rote Lampe heute im Park verstecken will.",
            "Wir wissen, dass ein junger König will verstecken die rote Lampe im Park heute.",
            [1, 2, 3, 6, 6, 6, 8, 9, 12, 12, 13, 15, 16, 17],
        ),
        (
            "the aunt lost a map because the aunt must clean the map",
            "Die Tante hat eine Landkarte verloren, weil die Tante die Landkarte putzen muss.",
            "Die Tante hat verloren eine Landkarte, weil die Tante muss putzen die Landkarte.",
            [2, 2, 3, 3, 5, 6, 6, 8, 8, 9, 10, 12, 13],
        ),
    ],
)
def test_order_and_needs_on_paper(english, german, expected, needs):
    words = german.split()
    found = in_english_order(Sentence(tuple(english.split()), tuple(words), (len(english.split()) + 1,) * len(words)))
    assert found.target_text == expected
    assert list(found.needs) == needs


def test_what_is_certain_holds_for_every_sentence_that_begins_so(pairs):
    by_beginning = {}
    for _, sentence in pairs:
        for heard in range(len(sentence.source) + 1):
            by_beginning.setdefault(sentence.source[:heard], []).append(sentence)
    for beginning, group in by_beginning.items():
        for sentence in group:
            claim = sentence.target[: sentence.supported_words(len(beginning), ended=False)]
            assert all(other.target[: len(claim)] == claim for other in group)


def test_it_waits_less_than_german(pairs):
    def waiting(sentence):  # English words that are heard before a German word is certain
        return float(np.mean(sentence.needs))

    assert np.mean([waiting(german) - waiting(other) for german, other in pairs]) > 1


def test_a_sentence_of_others_is_refused():
    for english in ("the dog bought a car", "the man bought a car quickly"):
        with pytest.raises(DatasetError, match="is not a sentence of the embedded corpus"):
            in_english_order(Sentence(tuple(english.split()), ("Der", "Mann"), (1, 2)))


def test_all_sets_have_the_same_audio_and_the_other_target(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "TEST_ROWS", 2)
    monkeypatch.setattr(corpus, "DEV_ROWS", 1)
    data, out = write_augmented(tmp_path / "data"), tmp_path / "out"
    assert main(["monotone", "--data", str(data), "--out", str(out)]) == 0
    entries = json.loads((out / "dataset_info.json").read_text())
    assert entries.keys() == {"demo", "demo_dev", "demo_test"}
    first, second = read_jsonl(Path(entries["demo"]["file_name"]))
    assert first["audios"] == [str(data / "offline" / "0.wav")]
    assert first["messages"][1]["content"] == "Der Mann hat gekauft ein Auto."
    assert second["messages"][1]["content"] == "Heute die Tante muss finden die alte Lampe."
    for name, count in (("demo", 2), ("demo_test", 2), ("demo_dev", 1)):
        truth, rows = find_truth(name, entries[name]), list(read_jsonl(out / f"{name}.jsonl"))
        assert len(rows) == count
        assert all(truth.supported(number, row["messages"][1]["content"]) for number, row in enumerate(rows))
