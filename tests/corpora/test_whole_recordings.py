"""Whole recordings with their reference segments, from corpora that list segments; times are arithmetic on paper."""

import os
from pathlib import Path

import pytest
from corpora_files import write_audio, write_text
from helpers.files import read_json_lines
from prepared_corpora import PROMPT, make, planned, refusal, snapshot, write_mustc

from simulsa_plugin.api.raw_corpus import recipe_corpus
from simulsa_plugin.api.recipe import Recipe
from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.prepare import corpus_summary
from simulsa_plugin.corpora.utterance import Utterance
from simulsa_plugin.corpora.whole_recordings import gather_recordings
from simulsa_plugin.demo.talks import TALKS_NAME, write_demo_talks
from simulsa_plugin.errors import DatasetError, StorageError

# (talk, offset, duration); `write_mustc` calls them Satz 0, Satz 1 …
SEGMENTS = [(1, 10.2, 1.1), (1, 9.5, 0.9), (2, 2.0, 1.5), (1, 0.0, 0.9), (3, 1.0, 1.0), (2, 11.0, 1.5), (2, 12.3, 1.0)]


def whole(settings):
    return CorpusSettings.from_keys(settings.as_keys() | {"simulsa_corpus_whole": True})


def spans(row):
    return [(one["offset"], one["duration"], one["reference"]) for one in row["segments"]]


def test_talks_are_rows_with_segments_by_offset_and_their_audio_stays_where_it_is(tmp_path, out):
    settings = whole(write_mustc(tmp_path / "mustc", SEGMENTS))
    before = snapshot(tmp_path / "mustc")
    prepared = make(settings, out)
    first, second = read_json_lines(out / "toy.jsonl")
    assert spans(first) == [(0.0, 0.9, "Satz 3."), (9.5, 0.9, "Satz 1."), (10.2, 1.1, "Satz 0.")]
    # 12.5 s is half a second after the end of a talk of 12 s, 13.3 s is not
    assert spans(second) == [(2.0, 1.5, "Satz 2."), (11.0, 1.5, "Satz 5.")]
    assert (first["id"], second["id"]) == ("ted_1", "ted_2")
    assert first["messages"][-1] == {"role": "assistant", "content": "Satz 3. Satz 1. Satz 0."}
    wav = tmp_path / "mustc" / "data" / "train" / "wav"
    assert [row["audios"] for row in (first, second)] == [[str(wav / "ted_1.wav")], [str(wav / "ted_2.wav")]]
    assert snapshot(tmp_path / "mustc") == before
    assert not (out / "toy_corpus" / "audio").exists()
    assert prepared.manifest["counts"] == {
        "recordings": 2, "segments": 5, "overlapping_segments": 1, "hours": round(24 / 3600, 3), "renormalized": 0,
    }  # fmt: skip


def test_what_is_left_out_is_counted_and_listed_with_its_cause(tmp_path, out):
    settings = whole(write_mustc(tmp_path / "mustc", SEGMENTS))
    prepared = make(settings, out)
    assert prepared.manifest["dropped"] == {"beyond_end": 1, "missing": 1}
    assert read_json_lines(out / "toy_corpus" / "dropped.jsonl") == [
        {
            "id": "ted_2_2",
            "reason": "beyond_end",
            "cause": "it lies from 12.300 to 13.300 s of a recording of 12.000 s.",
        },
        {"id": "ted_3", "reason": "missing", "audio": str(tmp_path / "mustc/data/train/wav/ted_3.wav")},
    ]
    lines = "\n".join(corpus_summary(prepared))
    assert "toy: 2 whole recordings with 5 reference segments, 0.4 min, from mustc (train); 7 rows read" in lines
    assert "dropped: " in lines
    assert "segments that begin before an earlier one has ended: 1; they stay" in lines
    assert "longer than 30 s" not in lines


def test_a_finished_dataset_is_not_made_again_and_cut_ones_are_others(tmp_path, out):
    settings = write_mustc(tmp_path / "mustc", SEGMENTS)
    make(whole(settings), out)
    before = snapshot(out)
    make(whole(settings), out)
    assert snapshot(out) == before
    assert planned(whole(settings), out) == []
    assert "simulsa_corpus_whole" in refusal(StorageError, lambda: make(settings, out))
    make(settings, out, name="cut")
    assert len(read_json_lines(out / "cut.jsonl")) == 5


def test_a_dry_run_tells_recordings_and_segments(tmp_path, out):
    lines = planned(whole(write_mustc(tmp_path / "mustc", SEGMENTS)), out)
    assert "3 whole recordings with 7 reference segments; dropped: " in lines[0]
    assert not out.exists()


def test_recordings_without_a_segment_that_fits_leave_nothing(tmp_path, out):
    settings = whole(write_mustc(tmp_path / "mustc", [(1, 100.0, 1.0), (1, 12.0, 1.0)]))
    assert "can be used: beyond_end, no_segments" in refusal(DatasetError, lambda: make(settings, out))


@pytest.mark.parametrize("text", ["", "ein <audio> darin"])
def test_a_reference_that_cannot_be_used_costs_its_segment_alone(tmp_path, out, text):
    settings = whole(write_mustc(tmp_path / "mustc", SEGMENTS[:2]))
    write_text(tmp_path / "mustc/data/train/txt/train.de", f"Satz 0.\n{text}\n")
    make(settings, out)
    (row,) = read_json_lines(out / "toy.jsonl")
    assert spans(row) == [(10.2, 1.1, "Satz 0.")]
    assert [one["id"] for one in read_json_lines(out / "toy_corpus" / "dropped.jsonl")] == ["ted_1_1"]


def test_recordings_of_one_name_in_two_folders_are_two(tmp_path, out):
    for folder, seed in (("a", 1), ("b", 2)):
        write_audio(tmp_path / "c" / folder / "t.wav", 3.0, seed=seed)
    names = ["a/t.wav", "b/t.wav", "a/t.wav"]
    yaml = "".join(f"- {{wav: {name}, offset: {at}.0, duration: 0.5}}\n" for at, name in enumerate(names))
    write_text(tmp_path / "c" / "t.yaml", yaml)
    write_text(tmp_path / "c" / "t.de", "Eins.\nZwei.\nDrei.\n")
    make(whole(CorpusSettings("longform", str(tmp_path / "c"), target_language="de")), out)
    found = {row["id"]: (row["audios"], spans(row)) for row in read_json_lines(out / "toy.jsonl")}
    assert found == {
        "a/t.wav": ([str(tmp_path / "c/a/t.wav")], [(0.0, 0.5, "Eins."), (2.0, 0.5, "Drei.")]),
        "b/t.wav": ([str(tmp_path / "c/b/t.wav")], [(1.0, 0.5, "Zwei.")]),
    }


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside.wav", "link.wav"])
def test_audio_outside_the_corpus_is_not_opened(tmp_path, out, name):
    write_audio(tmp_path / "outside.wav")
    write_audio(tmp_path / "c" / "fine.wav", 2.0)
    os.symlink(tmp_path / "outside.wav", tmp_path / "c" / "link.wav")
    yaml = "".join(f"- {{wav: {wav}, offset: 0, duration: 0.5}}\n" for wav in (name, "fine.wav"))
    write_text(tmp_path / "c" / "t.yaml", yaml)
    write_text(tmp_path / "c" / "t.de", "Eins.\nZwei.\n")
    prepared = make(whole(CorpusSettings("longform", str(tmp_path / "c"), target_language="de")), out)
    assert [row["id"] for row in read_json_lines(out / "toy.jsonl")] == ["fine"]
    assert prepared.manifest["dropped"] == {"audio_outside": 1}


def test_the_talks_of_the_embedded_corpus_are_read_as_they_were_written(tmp_path, out):
    write_demo_talks(tmp_path, minutes=(0.2, 0.3))
    keys = {
        "simulsa_corpus": "longform",
        "simulsa_longform": "window",
        "simulsa_corpus_dir": str(tmp_path / f"{TALKS_NAME}_segments.yaml"),
        "simulsa_audio_dir": str(tmp_path / TALKS_NAME),
        "simulsa_source_language": "en",
        "simulsa_target_language": "de",
    }
    corpus = recipe_corpus(Recipe(keys, {"template": "qwen2_audio"}, embedded=False), evaluation=True)
    corpus.prepare(out, quiet=True)
    written = read_json_lines(tmp_path / f"{TALKS_NAME}.jsonl")
    found = read_json_lines(out / "longform_en_de.jsonl")
    assert [row["segments"] for row in found] == [row["segments"] for row in written]
    assert [row["audios"] for row in found] == [row["audios"] for row in written]
    assert [row["messages"][-1] for row in found] == [row["messages"][-1] for row in written]


@pytest.mark.parametrize(
    ("keys", "evaluation", "name", "is_whole"),
    [
        ({"simulsa_corpus": "mustc"}, True, "mustc_en_de_tst-COMMON", False),
        ({"simulsa_corpus": "mustc", "simulsa_corpus_whole": True}, True, "mustc_en_de_tst-COMMON_whole", True),
        ({"simulsa_corpus": "mustc", "simulsa_corpus_whole": True}, False, "mustc_en_de", False),
        ({"simulsa_corpus": "longform", "simulsa_longform": "vad"}, True, "longform_en_de", True),
        ({"simulsa_corpus": "longform"}, True, "longform_en_de", False),
        ({"simulsa_corpus": "longform"}, False, "longform_en_de", False),
    ],
)
def test_evaluations_take_whole_recordings_and_augmentation_their_segments(keys, evaluation, name, is_whole):
    keys |= {"simulsa_source_language": "en", "simulsa_target_language": "de"}
    corpus = recipe_corpus(Recipe(keys, {"template": "qwen2_audio"}, embedded=False), evaluation=evaluation)
    assert (corpus.name, corpus.settings.corpus_whole) == (name, is_whole)


def test_a_channel_is_a_recording_of_its_own(tmp_path):
    path = Path("/corpus/call.wav")
    rows = [Utterance(str(n), path, Span(n, n + 1, n % 2), "Ja.") for n in range(3)]
    found = gather_recordings(rows)
    assert [(one.whole.id, one.whole.span) for one in found] == [
        ("call_channel0", Span(0.0, None, 0)),
        ("call_channel1", Span(0.0, None, 1)),
    ]
    assert [[row.id for row in one.segments] for one in found] == [["0", "2"], ["1"]]


def test_a_file_that_is_one_utterance_is_a_recording_of_one_segment(tmp_path, out):
    write_audio(tmp_path / "c" / "a.wav", 2.5)
    write_text(tmp_path / "c" / "t.tsv", "audio\ttranslation\na.wav\tJa.\n")
    make(whole(CorpusSettings("table", str(tmp_path / "c" / "t.tsv"))), out, prompt=PROMPT)
    (row,) = read_json_lines(out / "toy.jsonl")
    assert spans(row) == [(0.0, 2.5, "Ja.")]
