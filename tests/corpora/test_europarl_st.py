"""Europarl-ST on disk: m4a recordings, a list of segments, and texts that belong to it line by line."""

import pytest
from corpora_files import read, read_refusal, row_refusal, rows, write_audio, write_text

from simulsa_plugin.audio.recordings import audio_info
from simulsa_plugin.errors import UsageError

# Names with dots, as in the corpus; starts that would sort as strings.
SEGMENTS = """\
en.20081117.21.1-141 0.00 9.52
en.20081117.21.1-141 9.52 11.3
en.20081117.21.1-141 100.01 131.25
en.20090112.3.2-007 2.5 4.00
en.20081117.21.1-141 11.3 12.0
"""
GERMAN = 'Herr Präsident!\n\n"Drei\nNA\nFünf.\n'
TRAIN = [
    ("en.20081117.21.1-141_0", "en/audios/en.20081117.21.1-141.m4a", (0.0, 9.52), "Herr Präsident!"),
    ("en.20081117.21.1-141_1", "en/audios/en.20081117.21.1-141.m4a", (9.52, 11.3), ""),
    ("en.20081117.21.1-141_2", "en/audios/en.20081117.21.1-141.m4a", (100.01, 131.25), '"Drei'),
    ("en.20090112.3.2-007_0", "en/audios/en.20090112.3.2-007.m4a", (2.5, 4.0), "NA"),
    ("en.20081117.21.1-141_3", "en/audios/en.20081117.21.1-141.m4a", (11.3, 12.0), "Fünf."),
]


def write(corpus, split="train", segments=SEGMENTS, german=GERMAN, **form):
    folder = corpus / "en" / "de" / split
    write_text(folder / "segments.lst", segments, **form)
    write_text(folder / "segments.en", german, **form)
    write_text(folder / "segments.de", german, **form)
    return corpus


def test_segments_have_their_times_and_the_text_of_their_line(tmp_path):
    assert rows("europarl_st", write(tmp_path), "train") == TRAIN


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    assert rows("europarl_st", write(tmp_path, bom=True, crlf=True), "train") == TRAIN


def test_the_recording_that_is_found_is_the_m4a(tmp_path):
    path = write_audio(tmp_path / "en" / "audios" / "en.20081117.21.1-141.m4a", 2.0, rate=48_000, channels=2)
    row = read("europarl_st", write(tmp_path), "train")[0]
    assert row.audio == path
    assert audio_info(row.audio).channels == 2
    assert audio_info(row.audio).seconds == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("given", ["v1.1", ".", "v1.1/en"])
def test_the_version_the_folder_above_and_the_language_may_be_given(tmp_path, given):
    write(tmp_path / "v1.1")
    write_text(tmp_path / "v1.1" / "de" / "en" / "train" / "segments.lst", "")
    found = read("europarl_st", tmp_path / given, "train")
    assert [row.id for row in found] == [row[0] for row in TRAIN]
    assert found[0].audio == tmp_path / "v1.1" / "en" / "audios" / "en.20081117.21.1-141.m4a"


def test_of_several_versions_none_is_guessed(tmp_path):
    write(tmp_path / "v1")
    write(tmp_path / "v1.1")
    assert read_refusal("europarl_st", tmp_path, "train") == (
        f"{tmp_path} needs one folder en/de/; there: v1/en, v1.1/en. "
        "Give the folder that holds the language folders (v1.1) as simulsa_corpus_dir."
    )


def test_another_pair_is_not_taken_for_the_languages(tmp_path):
    write(tmp_path)
    assert "needs one folder en/fr/; there: none." in read_refusal("europarl_st", tmp_path, "train", target="fr")
    assert "needs one folder de/en/" in read_refusal("europarl_st", tmp_path, "train", source="de", target="en")
    for key in ("source", "target"):
        message = read_refusal("europarl_st", tmp_path, "train", error=UsageError, **{key: None})
        assert message.startswith(f"simulsa_{key}_language is not set")


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write(write(tmp_path), "train-noisy", "a 0 1\n", "Laut.\n")
    assert read_refusal("europarl_st", tmp_path, "train", "valid") == (
        f"{tmp_path / 'en' / 'de' / 'valid'} has no segments.lst; splits there: train, train-noisy. Set simulsa_split."
    )
    found = rows("europarl_st", tmp_path, "train", "train-noisy")
    assert found == [*TRAIN, ("a_0", "en/audios/a.m4a", (0.0, 1.0), "Laut.")]


@pytest.mark.parametrize(("german", "lines"), [("Eins.\n" * 4, 4), ("Eins.\n" * 6, 6)])
def test_a_translation_file_a_line_short_or_long_is_refused_whole(tmp_path, german, lines):
    folder = write(tmp_path, german=german) / "en" / "de" / "train"
    assert read_refusal("europarl_st", tmp_path, "train") == (
        f"{folder / 'segments.de'} has {lines} lines, and {folder / 'segments.lst'} has 5 entries: which belong "
        "together is not known. Get both files from the same release."
    )


@pytest.mark.parametrize("line", ["a 0", "a 0 1 2", "a", "a b.m4a 0 1"])
def test_a_segment_of_other_than_three_words_is_refused_with_its_line(tmp_path, line):
    write(tmp_path, segments=f"a 0 1\n{line}\n", german="Ja.\nJa.\n")
    message = row_refusal("europarl_st", tmp_path, "train")
    assert message.startswith(f"{tmp_path / 'en' / 'de' / 'train' / 'segments.lst'}, line 2: expected a recording, ")


def test_recordings_may_be_named_with_their_ending(tmp_path):
    write(tmp_path, segments="a.m4a 0 1\nb.wav\t0\t1\nc.d 0 1\n", german="Ja.\n" * 3)
    assert [row[1] for row in rows("europarl_st", tmp_path, "train")] == [
        "en/audios/a.m4a", "en/audios/b.wav", "en/audios/c.d.m4a",
    ]  # fmt: skip
