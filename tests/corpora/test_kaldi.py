"""Data folders of Kaldi and ESPnet: wav.scp, segments, and the translations in one of the files text*."""

import pytest
from corpora_files import read_refusal, row_refusal, rows, write_text


def write(folder, **files):
    """Files of a data folder; `text_tc_de` is text.tc.de."""
    names = {"wav": "wav.scp", "segments": "segments"}
    for name, text in files.items():
        write_text(folder / names.get(name, name.replace("_", ".")), text)
    return folder


WAV = "talk1 wav/talk1.wav\ntalk2\twav/talk 2.flac  \n"
SEGMENTS = "talk1-0009 talk1 9.5 12.25\ntalk1-0100\ttalk1\t100 131.5\ntalk2-0000  talk2  0.00  1e1\n"
TEXT = 'talk1-0009 "Ja.\ntalk1-0100\tNA  und  mehr \ntalk2-0000\n'
FOUND = [
    ("talk1-0009", "wav/talk1.wav", (9.5, 12.25), '"Ja.'),
    ("talk1-0100", "wav/talk1.wav", (100.0, 131.5), "NA  und  mehr"),
    ("talk2-0000", "wav/talk 2.flac", (0.0, 10.0), ""),
]


def test_segments_have_their_recording_their_times_and_their_text(tmp_path):
    assert rows("kaldi", write(tmp_path, wav=WAV, segments=SEGMENTS, text=TEXT)) == FOUND


def test_the_order_is_that_of_the_segments_and_not_that_of_the_texts(tmp_path):
    text = "".join(reversed(TEXT.splitlines(keepends=True)))
    assert rows("kaldi", write(tmp_path, wav=WAV, segments=SEGMENTS, text=text)) == FOUND


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    for name, text in (("wav.scp", WAV), ("segments", SEGMENTS), ("text", TEXT)):
        write_text(tmp_path / name, text, bom=True, crlf=True)
    assert rows("kaldi", tmp_path) == FOUND


def test_without_segments_every_recording_is_an_utterance(tmp_path):
    write(tmp_path, wav="b b.wav\na sub/a.wav\n", text="a Anton\nb Berta\n")
    assert rows("kaldi", tmp_path) == [("b", "b.wav", None, "Berta"), ("a", "sub/a.wav", None, "Anton")]


def test_an_end_of_minus_one_is_the_end_of_the_recording(tmp_path):
    # Kaldi, src/featbin/extract-segments.cc: "end_time of -1 means the segment runs till the end of the WAV file."
    write(tmp_path, wav="r r.wav\n", segments="a r 2.5 -1\nb r 0 -1.0\n", text="a A\nb B\n")
    assert [row[2] for row in rows("kaldi", tmp_path)] == [(2.5, None), (0.0, None)]
    for end in ("-1.5", "-2", "-0.5"):
        write(tmp_path, segments=f"a r 2.5 {end}\n")
        assert row_refusal("kaldi", tmp_path) == (
            f"{tmp_path / 'segments'}, line 1: the end is {end}; allowed: 0 to 21600 seconds."
        )
    write(tmp_path, segments="a r -1 2\n")
    assert ", line 1: the start is -1;" in row_refusal("kaldi", tmp_path)


def test_a_fifth_word_is_the_channel(tmp_path):
    # The same: "segments-file format: segment_id wav_file_name start_time end_time [channel]", from 0.
    write(
        tmp_path, wav="r r.wav\n", segments="a r 0 1 0\nb r 0 1 1\nc r 0 1\nd r 1 -1 1\n", text="a A\nb B\nc C\nd D\n"
    )
    assert [row[2] for row in rows("kaldi", tmp_path)] == [(0.0, 1.0, 0), (0.0, 1.0, 1), (0.0, 1.0), (1.0, None, 1)]
    write(tmp_path, segments="a r 0 1 A\n")
    assert row_refusal("kaldi", tmp_path) == f"{tmp_path / 'segments'}, line 1: the channel is 'A'; allowed: 0 to 63."


@pytest.mark.parametrize("line", ["a", "a r", "a r 0", "a r 0 1 0 0"])
def test_a_segment_of_too_few_or_too_many_words_is_refused_with_its_line(tmp_path, line):
    write(tmp_path, wav="r r.wav\n", segments=f"x r 0 1\n{line}\n", text="a A\n")
    message = row_refusal("kaldi", tmp_path)
    assert message.startswith(f"{tmp_path / 'segments'}, line 2: expected an utterance, its recording, start, end")


def test_what_lacks_its_recording_its_text_or_its_audio_is_dropped(tmp_path):
    write(
        tmp_path,
        wav="r r.wav\nunused u.wav\n",
        segments="a r 0 1\nb gone 0 1\nc r 1 2\nd gone 1 2\n",
        text="z Ohne Ton\na A\nb B\ny Auch\n",
    )
    assert rows("kaldi", tmp_path) == [
        ("a", "r.wav", (0.0, 1.0), "A"), ("b", "no_recording"), ("c", "no_translation"), ("d", "no_recording"),
        ("z", "no_audio"), ("y", "no_audio"),
    ]  # fmt: skip


def test_a_recording_may_be_there_twice_if_it_is_the_same(tmp_path):
    write(tmp_path, wav="r r.wav\ns s.wav\nr r.wav\n", text="r R\ns S\n")
    assert [row[:2] for row in rows("kaldi", tmp_path)] == [("r", "r.wav"), ("s", "s.wav")]
    write(tmp_path, wav="r r.wav\nr s.wav\n")
    assert row_refusal("kaldi", tmp_path) == (
        f"{tmp_path / 'wav.scp'}, line 2: the recording 'r' has two files. Remove one."
    )


def test_a_text_may_be_there_twice_if_it_is_the_same(tmp_path):
    write(tmp_path, wav="r r.wav\n", text="r R\nr R\n")
    assert rows("kaldi", tmp_path) == [("r", "r.wav", None, "R")]
    write(tmp_path, text="r R\nr S\n")
    assert row_refusal("kaldi", tmp_path) == (
        f"{tmp_path / 'text'}, line 2: the utterance 'r' has two translations. Remove one."
    )


def test_a_segment_that_is_there_twice_keeps_its_text(tmp_path):
    write(tmp_path, wav="r r.wav\n", segments="a r 0 1\na r 1 2\n", text="a A\n")
    assert rows("kaldi", tmp_path) == [("a", "r.wav", (0.0, 1.0), "A"), ("a", "r.wav", (1.0, 2.0), "A")]


def test_splits_are_data_folders(tmp_path):
    for split in ("train", "dev"):
        write(tmp_path / split, wav=f"{split}1 wav/a.wav\n", text_de=f"{split}1 Ja {split}\n")
    assert rows("kaldi", tmp_path, "dev", "train") == [
        ("dev1", "wav/a.wav", None, "Ja dev"), ("train1", "wav/a.wav", None, "Ja train"),
    ]  # fmt: skip
    assert rows("kaldi", tmp_path / "train") == [("train1", "wav/a.wav", None, "Ja train")]


def test_names_start_from_the_corpus_or_from_the_data_folder(tmp_path):
    write(tmp_path / "train", wav="a wav/a.wav\nb wav/b.wav\n", text="a A\nb B\n")
    write_text(tmp_path / "wav" / "a.wav", "RIFF")
    write_text(tmp_path / "train" / "wav" / "a.wav", "RIFF")
    write_text(tmp_path / "train" / "wav" / "b.wav", "RIFF")
    assert [row[1] for row in rows("kaldi", tmp_path, "train")] == ["wav/a.wav", "train/wav/b.wav"]


def test_a_folder_that_is_none_is_refused_with_those_that_are(tmp_path):
    for split in ("train", "tst-COMMON.en-de"):
        write(tmp_path / split, wav=WAV, text=TEXT)
    rest = (
        "data folders there: train, tst-COMMON.en-de. "
        "Set simulsa_corpus_dir, and simulsa_split to the name of a data folder in it."
    )
    assert read_refusal("kaldi", tmp_path, "tst") == f"{tmp_path / 'tst'} has no wav.scp; {rest}"
    assert read_refusal("kaldi", tmp_path) == f"{tmp_path} has no wav.scp; {rest}"
    assert "data folders there: none." in read_refusal("kaldi", tmp_path / "train" / "gone")


@pytest.mark.parametrize(
    ("files", "target", "text"),
    [
        (["text"], "de", "text"),
        (["text"], None, "text"),
        (["text", "text.de"], "de", "text.de"),
        (["text", "text.de", "text.tc.de", "text.lc.de", "text.lc.rm.de"], "de", "text.tc.de"),
        (["text.lc.rm.de", "text.tc.en", "text.en"], "de", "text.lc.rm.de"),
        (["text", "text.tc.en", "text.en"], "de", "text"),
        (["text", "text.de"], "fr", "text"),
        (["text", "text.de"], None, "text"),
        (["text", "text.tc.de-at"], "de", "text"),
        (["text", "text_de", "textde", "text.xde", "mytext.de", "text.de.bak"], "de", "text"),
    ],
)
def test_the_text_is_that_of_the_target_language(tmp_path, files, target, text):
    write(tmp_path, wav="a a.wav\n")
    for name in files:
        write_text(tmp_path / name, f"a {name}\n")
    assert [row[3] for row in rows("kaldi", tmp_path, target=target)] == [text]


def test_several_texts_of_the_language_or_none_are_refused(tmp_path):
    write(tmp_path, wav="a a.wav\n", text_lc_de="a A\n", text_lc_rm_de="a A\n")
    assert read_refusal("kaldi", tmp_path) == (
        f"{tmp_path} needs one file of translations, text.de or text; there: text.lc.de, text.lc.rm.de. "
        "Set simulsa_target_language, or leave one of them."
    )
    assert "text.fr or text; there: text.lc.de, text.lc.rm.de." in read_refusal("kaldi", tmp_path, target="fr")
    assert "text.LANGUAGE or text; there: " in read_refusal("kaldi", tmp_path, target=None)


@pytest.mark.parametrize("rest", ["raw.ark:5", "/data/raw_wav.1.ark:123456", "foo.ark:5[0:100]"])
def test_archives_are_refused(tmp_path, rest):
    write(tmp_path, wav=f"a {rest}\n", text="a A\n")
    assert row_refusal("kaldi", tmp_path) == (
        f"{tmp_path / 'wav.scp'}, line 1: {rest!r} lies in a Kaldi archive. Write the recordings to files."
    )


def test_a_shell_command_is_not_run_and_takes_its_own_utterances_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, wav="a a.wav\nb touch owned |\n", segments="x a 0 1\ny b 0 1\n", text="x X\ny Y\n")
    assert [row[:2] for row in rows("kaldi", tmp_path)] == [("x", "a.wav"), ("y", "audio_not_a_path")]
    assert ", line 2: the audio 'touch owned |' is a shell" in row_refusal("kaldi", tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_recording_without_a_file_is_refused(tmp_path):
    write(tmp_path, wav="a\n", text="a A\n")
    assert row_refusal("kaldi", tmp_path) == f"{tmp_path / 'wav.scp'}, line 1: the audio '' is not a file name."


def test_spaces_of_other_scripts_stay_inside_a_text(tmp_path):
    write(tmp_path, wav="a a.wav\n", text="a 你好　世界\u00a0!\n")
    assert rows("kaldi", tmp_path)[0][3] == "你好　世界\u00a0!"
