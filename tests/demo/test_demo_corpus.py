"""The spoken corpus: the same bytes however it is made, splits that share no sentence, and a truth that adds up."""

import json

import numpy as np
import pytest
from helpers.files import read_json_lines, tree

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.demo import corpus
from simulsa_plugin.demo.corpus import SPLITS, WINDOW_SECONDS, iterate_utterances, write_demo_corpus
from simulsa_plugin.demo.truth import true_partial
from simulsa_plugin.errors import StorageError


def take(split, count, processes=1):
    return list(iterate_utterances(split, count, processes))


def same(first, second):
    return (
        first.sentence == second.sentence
        and first.word_ends == second.word_ends
        and np.array_equal(first.waveform, second.waveform)
    )


def test_processes_and_length_change_no_utterance(monkeypatch):
    monkeypatch.setattr(corpus, "UTTERANCES_PER_PROCESS", 4)  # blocks small enough for both processes to have some
    long = take("train", 14, processes=1)
    assert all(map(same, long, take("train", 14, processes=2)))
    assert all(map(same, long, take("train", 6, processes=2)))
    assert not np.array_equal(long[0].waveform, long[4].waveform)


def test_utterances_fit_the_window_and_their_words_lie_in_them():
    for utterance in take("test", 60):
        assert 0.5 < utterance.duration_seconds <= WINDOW_SECONDS
        assert len(utterance.word_ends) == len(utterance.sentence.source)
        assert list(utterance.word_ends) == sorted(utterance.word_ends)
        assert 0 < utterance.word_ends[0] < utterance.word_ends[-1] <= utterance.duration_seconds + 1e-9
        assert 0.05 < np.abs(utterance.waveform).max() <= 1.0


def test_speech_varies():
    utterances = take("test", 60)
    paces = [len(one.sentence.source) / (one.word_ends[-1]) for one in utterances]
    levels = [float(np.abs(one.waveform).max()) for one in utterances]
    trails = [one.duration_seconds - one.word_ends[-1] for one in utterances]
    assert np.std(paces) > 0.2
    assert max(levels) > 3 * min(levels)
    assert min(trails) < 0.01  # often no silence at the end
    assert max(trails) > 0.4


def test_splits_share_no_sentence():
    # The hash of the English decides; ten thousand sentences of each split would not show more than its ranges.
    claimed = [value for values in SPLITS.values() for value in values]
    assert sorted(claimed) == list(range(16))
    rng = np.random.default_rng(0)
    drawn = {split: {corpus.draw_sentence(rng, split).source_text for _ in range(1500)} for split in SPLITS}
    for split, sentences in drawn.items():
        for other in SPLITS:
            assert split == other or not sentences & drawn[other]


TRUTH = {
    "source": "the man bought a new car today",
    "target": ["Der", "Mann", "hat", "heute", "ein", "neues", "Auto", "gekauft."],
    # subject after 2 words, verb after 3, all else when the clause has ended: 8, one more than there are words
    "needs": [2, 2, 3, 8, 8, 8, 8, 8],
    "word_ends": [0.2, 0.5, 0.9, 1.0, 1.2, 1.5, 2.0],
}


@pytest.mark.parametrize(
    ("cut", "partial"),
    [
        (0.0, ""),
        (0.49, ""),
        (0.5, "Der Mann"),
        (0.89, "Der Mann"),
        (0.9, "Der Mann hat"),
        (1.99, "Der Mann hat"),
        (2.0, "Der Mann hat heute ein neues Auto gekauft."),
        (9.0, "Der Mann hat heute ein neues Auto gekauft."),
    ],
)
def test_true_partials_on_paper(cut, partial):
    assert true_partial(TRUTH, cut) == partial


@pytest.mark.parametrize(
    ("source", "target", "needs", "heard", "partial"),
    [
        # definite objects stand before times: "the car" is certain when it has been said
        (
            "the man bought the car today",
            "Der Mann hat das Auto heute gekauft.",
            [2, 2, 3, 5, 5, 7, 7],
            5,
            "Der Mann hat das Auto",
        ),
        (
            "i believe that the aunt wants to buy a lamp",
            "Ich glaube, dass die Tante eine Lampe kaufen will.",
            [1, 2, 3, 5, 5, 11, 11, 11, 11],
            7,
            "Ich glaube, dass die Tante",
        ),
    ],
)
def test_true_partials_of_sentences_that_the_grammar_makes(source, target, needs, heard, partial):
    words = source.split()
    truth = {
        "source": source,
        "target": target.split(),
        "needs": needs,
        "word_ends": [0.5 * (place + 1) for place in range(len(words))],
    }
    assert true_partial(truth, 0.5 * heard) == partial


def test_the_truth_is_complete_at_the_very_end():
    for utterance in take("test", 40):
        assert true_partial(utterance.truth(), utterance.duration_seconds) == utterance.sentence.target_text


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_demo_corpus(folder, rows=6, test_rows=3, processes=2)
    return folder


def test_the_corpus_is_two_registered_datasets_with_their_truth(written):
    info = json.loads((written / "dataset_info.json").read_text(encoding="utf-8"))
    assert list(info) == ["demo", "demo_test"]
    for name, rows in (("demo", 6), ("demo_test", 3)):
        assert info[name]["file_name"] == str(written / f"{name}.jsonl")
        lines = read_json_lines(written / f"{name}.jsonl")
        truths = [
            json.loads(line) for line in (written / f"{name}_truth.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert len(lines) == len(truths) == rows
        for line, truth in zip(lines, truths, strict=True):
            assert line["audios"] == [truth["audio"]]
            assert line["messages"][1]["content"] == " ".join(truth["target"])
            seconds = len(read_mono(truth["audio"])) / 16_000
            assert true_partial(truth, seconds) == line["messages"][1]["content"]
            assert true_partial(truth, 0.0) == ""


def test_written_again_it_stays(written):
    before = tree(written)
    write_demo_corpus(written, rows=6, test_rows=3)
    assert tree(written) == before


def test_no_rows_leaves_that_set_out(tmp_path):
    write_demo_corpus(tmp_path, rows=0, test_rows=1)
    assert not (tmp_path / "demo.jsonl").exists()
    assert list(json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))) == ["demo_test"]


@pytest.mark.parametrize("name", ["demo.jsonl", "demo_truth.jsonl.link", "demo/a.wav", "demo_test",
                                  "dataset_info.json"])  # fmt: skip
def test_what_others_put_where_the_corpus_would_be_spoken_stays(tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    if name.endswith(".link"):
        (out / name.removesuffix(".link")).symlink_to(outside)
    else:
        (out / name).write_bytes(b'{"demo": {"file_name": "mine.jsonl"}}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match=r"not made by this command|has another dataset demo|is a link"):
        write_demo_corpus(out, rows=2, test_rows=2, processes=1)
    assert {path: path.read_bytes() for path in before} == before
