"""Accepted partials against true ones: by hand, as a property, and on the embedded corpus with its word ends."""

import itertools
import json

import pytest
from helpers.fakes import ListDataset, write_noise
from helpers.files import read_json_lines
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.augmentation.augment_report import augment_summary
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.label_quality import LabelQuality, LabelQualityTally, compare_partials
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.commands import augment as command
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.demo.truth import find_truth, true_partial
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.model.values import ReferenceScores, RenderedReference

REFERENCE = "Der Mann, der das Auto, das Auto, hat."


@pytest.mark.parametrize(
    ("partial", "true", "over", "under"),
    [
        ("", "", 0, 0),
        ("", "Der", 0, 1),
        ("Der", "", 1, 0),
        ("D", "", 1, 0),  # half a word is begun
        ("D", "Der", 0, 1),  # … and not complete
        ("De", "Der Mann,", 0, 2),
        ("Der", "Der", 0, 0),
        ("Der M", "Der", 1, 0),
        ("Der Mann", "Der Mann,", 0, 1),  # the comma is missing: the word is not complete
        ("Der Mann,", "Der Mann,", 0, 0),
        ("Der Mann, ", "Der Mann,", 0, 0),  # white space says nothing
        ("Der Mann, der das Auto, das", "Der Mann, der das Auto,", 1, 0),  # the word that comes twice
        ("Der Mann, der das Auto,", "Der Mann, der das Auto, das Auto,", 0, 2),
        ("Der Mann, der das Auto, das Auto", "Der Mann, der das Auto, das Auto,", 0, 1),
        (REFERENCE, REFERENCE, 0, 0),
        (REFERENCE, "", 8, 0),
        (REFERENCE[:-1], REFERENCE, 0, 1),
        ("", REFERENCE, 0, 8),
    ],
)
def test_words_over_and_under_by_hand(partial, true, over, under):
    found = compare_partials(REFERENCE, partial, true)
    assert found == LabelQuality(over, under)
    assert found.verdict == ("over" if over else "under" if under else "exact")


@pytest.mark.parametrize(
    ("reference", "partial", "true", "verdict"),
    [
        ("  Der  Mann\nhat ", "  Der ", "Der", "exact"),
        ("  Der  Mann\nhat ", "  Der  Mann", "Der Mann", "exact"),
        ("  Der  Mann\nhat ", "  Der  Man", "Der Mann", "under"),
        ("  Der  Mann\nhat ", "  Der  Mann\n", "Der", "over"),
        ("Der\u00a0Mann\u3000hat", "Der\u00a0Mann", "Der Mann", "exact"),  # white space as str.split knows it
        ("", "", "", "exact"),
    ],
)
def test_white_space_of_the_reference_does_not_matter(reference, partial, true, verdict):
    assert compare_partials(reference, partial, true).verdict == verdict


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "aba", "ab,", "."]), max_size=8)


@given(WORDS, st.data())
def test_verdicts_exclude_each_other_and_exact_means_the_same_words(words, data):
    reference = " ".join(words)
    partial = reference[: data.draw(st.integers(0, len(reference)))]
    true = words[: data.draw(st.integers(0, len(words)))]
    found = compare_partials(reference, partial, " ".join(true))
    assert found.over_words == 0 or found.under_words == 0
    assert (found.verdict == "exact") == (partial.split() == true)
    # Every letter beyond the true words is over; a true word that is not wholly there is under.
    assert (found.verdict == "over") == (len(partial.split()) > len(true))
    assert found.over_words <= len(words) and found.under_words <= len(true)


@given(WORDS, st.integers(0, 8), st.data())
def test_saying_more_never_lessens_over_nor_adds_to_under(words, true_count, data):
    reference, true = " ".join(words), " ".join(words[:true_count])
    longer = data.draw(st.integers(0, len(reference)))
    shorter = data.draw(st.integers(0, longer))
    less, more = (compare_partials(reference, reference[:end], true) for end in (shorter, longer))
    assert more.over_words >= less.over_words
    assert more.under_words <= less.under_words


def test_the_sums_and_means_by_hand():
    tally = LabelQualityTally()
    for one in (LabelQuality(3, 0), LabelQuality(1, 0), LabelQuality(0, 0), LabelQuality(0, 2), None, None):
        tally.add(one)
    assert tally.summary() == {
        "over": 2,
        "exact": 1,
        "under": 1,
        "over_words": 4,
        "under_words": 2,
        "unknown": 2,
        "known": 4,
        "mean_over_words": 1.0,
        "mean_under_words": 0.5,
    }
    assert LabelQualityTally().summary()["mean_over_words"] is None


# A corpus of three rows whose truth is worked out on paper. One word of source each quarter of a second.

TRUTHS = [
    # After 0.5 s «the man» has been heard: the subject; after 0.75 s «bought»: «hat»; the rest needs the end, 5 of 4.
    {
        "source": "the man bought books",
        "target": ["Der", "Mann", "hat", "Bücher", "gekauft."],
        "needs": [2, 2, 3, 5, 5],
        "word_ends": [0.25, 0.5, 0.75, 1.0],
    },
    {"source": "yes he can", "target": ["Ja,", "er", "kann."], "needs": [1, 2, 4], "word_ends": [0.25, 0.5, 0.75]},
    {"source": "no", "target": ["Nein."], "needs": [2], "word_ends": [0.25]},
]


class SureOfWords:
    """Tokens are words with the space before them; of each reference it is sure of so many."""

    window_seconds, output_width = None, 1000

    def __init__(self, sure):
        self.sure = sure

    def describe(self):
        return {"model": "words"}

    def hardware(self):
        return {"device": "abacus"}

    def render(self, prompt, waveform, reference):
        words = reference.split(" ")
        ends = tuple(len(" ".join(words[: count + 1])) for count in range(len(words)))
        return RenderedReference((7,), tuple(range(self._first(reference), self._first(reference) + len(words))), ends)

    def _first(self, reference):
        return 100 * [" ".join(truth["target"]) for truth in TRUTHS].index(reference)

    def count_tokens(self, prompt, waveform, reference):
        rendered = self.render(prompt, waveform, reference)
        return len(rendered.prompt_ids), len(rendered.content_ids)

    def unstable_prefixes(self, rendered, reference):
        return ()

    def score(self, rendered, waveforms):
        return [self._score(one.content_ids) for one in rendered]

    def _score(self, ids):
        sure = self.sure[ids[0] // 100]
        logprobs = tuple(-0.1 if place < sure else -9.0 for place in range(len(ids)))
        return ReferenceScores(logprobs, ids, (0.0,) * len(ids), -0.1)


def write_truth(folder, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "toy_truth.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def corpus(tmp_path):
    """The offline file, its audio, its truth."""
    rows = [
        (" ".join(truth["target"]), write_noise(tmp_path / f"{row}.wav", 2.0, seed=row))
        for row, truth in enumerate(TRUTHS)
    ]
    (tmp_path / "offline.jsonl").write_text("{}\n" * 3, encoding="utf-8")
    write_truth(tmp_path, TRUTHS)
    return ListDataset("toy", rows, {"file_name": str(tmp_path / "offline.jsonl")})


def run(corpus, out, sure, **settings):
    """Every row cut at 0.75 s exactly: l = m."""
    settings = AugmentSettings(**{"samples": 3, "min_seconds": 0.75, "max_seconds": 0.75} | settings)
    truth = find_truth(corpus.name, corpus.entry)
    return augment_dataset(corpus, SureOfWords(sure), settings, out, truth=truth)


def test_a_run_against_the_truth_on_paper(corpus, tmp_path):
    # At 0.75 s «Der Mann hat», «Ja, er kann.» (its last word has been heard) and «Nein.» are certain.
    outcome = run(corpus, tmp_path / "out", sure=[5, 1, 1])
    found = {row["id"]: row for row in read_json_lines(tmp_path / "out" / "toy_simulsa" / "commitment.jsonl")}
    assert found == {
        "toy-00000000-0": {
            "id": "toy-00000000-0",
            "partial": "Der Mann hat Bücher gekauft.",
            "true_partial": "Der Mann hat",
            "over_words": 2,
            "under_words": 0,
        },
        "toy-00000001-0": {
            "id": "toy-00000001-0",
            "partial": "Ja,",
            "true_partial": "Ja, er kann.",
            "over_words": 0,
            "under_words": 2,
        },
        "toy-00000002-0": {
            "id": "toy-00000002-0",
            "partial": "Nein.",
            "true_partial": "Nein.",
            "over_words": 0,
            "under_words": 0,
        },
    }
    assert outcome.manifest["commitment"] == {
        "over": 1,
        "exact": 1,
        "under": 1,
        "over_words": 2,
        "under_words": 2,
        "unknown": 0,
        "known": 3,
        "mean_over_words": 2 / 3,
        "mean_under_words": 2 / 3,
    }
    (line,) = [line for line in augment_summary(outcome.manifest) if "true" in line]
    assert line == (
        "  against the true partial translations: 1 (33%) over, 1 (33%) exact, 1 (33%) under; "
        "on average 0.67 words too many, 0.67 too few"
    )


def test_dropped_empty_partials_are_held_against_the_truth_too(corpus, tmp_path):
    outcome = run(corpus, tmp_path / "out", sure=[3, 3, 0], keep_empty=False)
    assert (outcome.manifest["counts"]["samples"], outcome.manifest["commitment"]["known"]) == (2, 3)
    assert outcome.manifest["commitment"]["under_words"] == 1


def test_rows_about_another_reference_or_beyond_the_truth_are_unknown(corpus, tmp_path):
    write_truth(tmp_path, [TRUTHS[0], TRUTHS[2]])  # the second row is about another, the third is missing
    outcome = run(corpus, tmp_path / "out", sure=[3, 3, 1])
    summary = outcome.manifest["commitment"]
    assert (summary["known"], summary["unknown"], summary["exact"]) == (1, 2, 1)
    assert len(read_json_lines(tmp_path / "out" / "toy_simulsa" / "commitment.jsonl")) == 1
    assert augment_summary(outcome.manifest)[-2].endswith("; 2 without a true partial")


def test_without_a_truth_there_is_no_word_about_it(corpus, tmp_path):
    run(corpus, tmp_path / "out", sure=[3, 3, 1])
    (tmp_path / "toy_truth.jsonl").unlink()
    outcome = run(corpus, tmp_path / "out", sure=[3, 3, 1])
    assert outcome.manifest["commitment"] is None
    assert not (tmp_path / "out" / "toy_simulsa" / "commitment.jsonl").exists()
    assert not any("true partial" in line for line in augment_summary(outcome.manifest))


@pytest.mark.parametrize("relative", [False, True], ids=["registered", "rewritten"])
def test_deciding_again_is_held_against_the_same_truth(corpus, tmp_path, relative):
    # A rewritten offline file lies in the output folder; its truth stays beside the file that was cut.
    corpus.relative = relative
    first = run(corpus, tmp_path / "out", sure=[4, 2, 1])
    scores = tmp_path / "out" / "toy_simulsa" / "scores.jsonl"
    other = relabel(scores, {"simulsa_acceptance": "greedy"}, tmp_path / "other", find_truth)
    assert other.manifest["commitment"]["over_words"] == 2  # the whole of every reference
    again = relabel(scores, {}, tmp_path / "out", find_truth)
    assert again.manifest["commitment"] == first.manifest["commitment"]
    assert again.manifest["commitment"]["over_words"] == again.manifest["commitment"]["under_words"] == 1


TRUTH = TRUTHS[0]
WRONG = [
    {"text": "no truth at all"},
    {key: value for key, value in TRUTH.items() if key != "needs"},
    TRUTH | {"target": "Der Mann"},
    TRUTH | {"target": [1, 2, 3, 4, 5]},
    TRUTH | {"needs": [2, 2, 3]},
    TRUTH | {"needs": ["2", "2", "3", "5", "5"]},
    TRUTH | {"word_ends": [0.25, 0.5, 0.75]},
    TRUTH | {"word_ends": [0.25, None, 0.75, 1.0]},
    TRUTH | {"source": "", "word_ends": []},
    TRUTH | {"source": None},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda row: ",".join(row)[:30])
def test_a_file_that_is_no_truth_is_one_line(corpus, tmp_path, wrong):
    write_truth(tmp_path, [TRUTH, wrong])
    with pytest.raises(DatasetError) as caught:
        find_truth(corpus.name, corpus.entry)
    assert f"{tmp_path / 'toy_truth.jsonl'}, row 2: no true partial translations; expected source" in str(caught.value)
    assert "Fix or rename the file." in str(caught.value)


def test_the_command_says_it_in_one_line(corpus, tmp_path, capsys):
    run(corpus, tmp_path / "out", sure=[3, 3, 1])
    write_truth(tmp_path, [{"a": 1}])
    scores = tmp_path / "out" / "toy_simulsa" / "scores.jsonl"
    assert command.main(["--from-scores", str(scores), "--out", str(tmp_path / "other")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "toy_truth.jsonl, row 1: no true partial translations" in line


# The embedded corpus: sentences whose certain part can be told from grammar.py's rules and the word ends.


@pytest.fixture(scope="module")
def utterances():
    return list(iterate_utterances("test", 30, processes=1))


def test_after_every_word_of_the_embedded_corpus_the_certain_part_grows_to_the_whole(utterances):
    for utterance in utterances:
        truth = utterance.truth()
        reference = utterance.sentence.target_text
        said = [true_partial(truth, end) for end in (0.0, *truth["word_ends"])]
        for less, more in itertools.pairwise(said):
            assert compare_partials(reference, less, more).over_words == 0
        assert (said[0], said[-1]) == ("", reference)
        # A sample before the last word's end: the full stop needs the end, so the last word is not certain.
        before = true_partial(truth, truth["word_ends"][-1] - 1 / 16_000)
        assert compare_partials(reference, reference, before).over_words >= 1


RING = "Der Mann hat einen Ring gestohlen."  # the man stole a ring
SHIRT = "Ein Freund soll das Hemd stehlen, weil die Sängerin die Tür gesehen hat."
# a friend should steal the shirt because the singer saw the door
MIRROR = "Sie schreiben, dass das arme Mädchen gestern am Strand einen grünen Spiegel versteckt hat."
# they write that the poor girl hid a green mirror at the beach yesterday
ON_PAPER = [  # utterance, English words heard, German, accepted → words over and under
    (5, 1, RING, "", (0, 0)),  # «the»: the article waits for its noun
    (5, 1, RING, "Der", (1, 0)),
    (5, 2, RING, "Der Mann", (0, 0)),
    (5, 2, RING, "Der M", (0, 1)),
    (5, 3, RING, "Der Mann", (0, 1)),  # «stole»: the perfect's «hat» is certain
    (5, 4, RING, "Der Mann hat einen", (1, 0)),
    (5, 5, RING, RING, (0, 0)),
    (5, 5, RING, "Der Mann hat einen Ring", (0, 1)),
    (1, 3, SHIRT, "Ein Freund soll", (0, 0)),
    (1, 4, SHIRT, "Ein Freund soll", (0, 0)),  # the infinitive waits for the end of the clause …
    (1, 6, SHIRT, "Ein Freund soll das Hemd", (0, 0)),
    (1, 7, SHIRT, "Ein Freund soll das Hemd", (0, 2)),  # … which «because» shows: «stehlen, weil»
    (1, 7, SHIRT, "Ein Freund soll das Hemd stehlen, weil die", (1, 0)),
    (4, 1, MIRROR, "Sie", (0, 0)),  # the matrix runs parallel
    (4, 3, MIRROR, "Sie schreiben, dass", (0, 0)),
    (4, 6, MIRROR, "Sie schreiben, dass das arme Mädchen", (0, 0)),
    (4, 13, MIRROR, "Sie schreiben, dass das arme Mädchen gestern am", (2, 0)),  # «yesterday» comes last in English
]


@pytest.mark.parametrize(("number", "heard", "german", "partial", "expected"), ON_PAPER)
def test_utterances_of_the_embedded_corpus_on_paper(utterances, number, heard, german, partial, expected):
    truth = utterances[number].truth()
    assert utterances[number].sentence.target_text == german
    # The cut falls where the word ends, which counts as heard.
    true = true_partial(truth, truth["word_ends"][heard - 1])
    assert compare_partials(german, partial, true) == LabelQuality(*expected), true
