"""Long recordings on disk: a YAML list of segments, references line by line, and where the audio is."""

import os

import pytest
from corpora_files import read_refusal, refusal, row_refusal, rows, write_text

from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.errors import UsageError

# ACL 60/60's names and MuST-C's other keys.
YAML = """\
- {duration: 3.5, offset: 9.52, rW: 9, uW: 0, speaker_id: spk.767, wav: 2022.acl-long.367.wav}
- {duration: 1.5, offset: 2.0, wav: 2022.acl-long.110.wav}
- {duration: 33.25, offset: 16.08, speaker_id: NA, wav: 2022.acl-long.367.wav}
"""
FOUND = [
    ("2022.acl-long.367_0", "2022.acl-long.367.wav", (9.52, 13.02), "Eins."),
    ("2022.acl-long.110_0", "2022.acl-long.110.wav", (2.0, 3.5), "Zwei."),
    ("2022.acl-long.367_1", "2022.acl-long.367.wav", (16.08, 49.33), "Drei."),
]
NAMES = ("2022.acl-long.367.wav", "2022.acl-long.110.wav")


def write(folder, yaml=YAML, references="Eins.\nZwei.\nDrei.\n", name="dev.yaml", lines="dev.de"):
    write_text(folder / name, yaml)
    write_text(folder / lines, references)
    return folder


def test_segments_have_their_times_and_the_reference_of_their_line(tmp_path):
    assert rows("longform", write(tmp_path)) == FOUND
    assert rows("longform", tmp_path, "dev") == FOUND
    assert [row[0] for row in rows("longform", tmp_path / "dev.yaml")] == [row[0] for row in FOUND]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.yaml", "a.de.txt"),
        ("a.yml", "a.txt"),
        ("a_segments.yaml", "a_references.txt"),  # as the talks of the embedded corpus
    ],
)
def test_references_are_found_beside_the_list(tmp_path, name, lines):
    assert rows("longform", write(tmp_path, name=name, lines=lines), "a") == FOUND


def test_references_may_lie_elsewhere_and_are_missed_by_name(tmp_path):
    write(tmp_path, lines="elsewhere/tgt_segments.txt")
    assert rows("longform", tmp_path, references=tmp_path / "elsewhere" / "tgt_segments.txt") == FOUND
    assert read_refusal("longform", tmp_path) == (
        f"{tmp_path / 'dev.yaml'} has no references beside it: none of dev.de, dev.de.txt, dev_references.txt, "
        "dev.txt. Set simulsa_references to the file with a reference a line."
    )


@pytest.mark.parametrize("references", ["Eins.\nZwei.\n", "Eins.\nZwei.\nDrei.\nVier.\n"])
def test_references_of_another_number_are_refused_whole_with_both_numbers(tmp_path, references):
    count = references.count("\n")
    assert read_refusal("longform", write(tmp_path, references=references)) == (
        f"{tmp_path / 'dev.de'} has {count} lines, and {tmp_path / 'dev.yaml'} has 3 entries: which belong together "
        "is not known. Get both files from the same release."
    )


@pytest.mark.parametrize("place", ["", "txt/../wav", "wav"])
def test_audio_lies_beside_the_list_or_in_a_folder_wav(tmp_path, place):
    write(tmp_path / "txt")
    for name in NAMES:
        write_text(tmp_path / "txt" / place / name if place != "wav" else tmp_path / "wav" / name, "")
    corpus = tmp_path if place == "wav" else tmp_path / "txt"
    found = rows("longform", tmp_path / "txt", audio=tmp_path / "wav" if place == "wav" else None)
    assert len(found) == 3 and all(len(row) == 4 for row in found)
    assert corpus.exists()


def test_flac_stands_in_for_wav(tmp_path):
    # Multilingual TEDx (openslr.org/100)
    write_text(write(tmp_path) / "2022.acl-long.110.flac", "")
    assert [row[1] for row in rows("longform", tmp_path)][1] == "2022.acl-long.110.flac"


def list_recordings(folder, *names):
    return write_text(folder / "list.txt", "".join(f"{name}\n" for name in names))


def test_a_list_says_where_the_recordings_are(tmp_path):
    # simulstream's --wav-list-file: absolute, or from the folder of the list; blank lines mean nothing
    write(tmp_path)
    recordings = list_recordings(tmp_path, f"audio/{NAMES[0]}", "", f"  {tmp_path / 'more' / NAMES[1]}")
    found = rows("longform", tmp_path, recordings=recordings)
    assert [row[1] for row in found] == [f"audio/{NAMES[0]}", f"more/{NAMES[1]}", f"audio/{NAMES[0]}"]
    assert [row[0] for row in found] == [row[0] for row in FOUND]


def test_names_are_compared_without_their_ending_as_simulstream_does(tmp_path):
    yaml = "- {duration: 1, offset: 2, wav: talk.mp4}\n"
    found = rows("longform", write(tmp_path, yaml, "Ja.\n"), recordings=list_recordings(tmp_path, "wavs/talk.wav"))
    assert found == [("talk_0", "wavs/talk.wav", (2.0, 3.0), "Ja.")]


def test_of_two_recordings_of_one_name_the_folder_decides(tmp_path):
    yaml = "".join(f"- {{duration: 1, offset: 2, wav: {name}}}\n" for name in ("a/t.wav", "b/t.wav", "t.wav"))
    write(tmp_path, yaml)
    recordings = list_recordings(tmp_path, "x/a/t.wav", "x/b/t.wav")
    assert [row[1] for row in rows("longform", tmp_path, recordings=recordings)] == [
        "x/a/t.wav",
        "x/b/t.wav",
        "not_listed",
    ]
    assert row_refusal("longform", tmp_path, recordings=recordings) == (
        f"{tmp_path / 'dev.yaml'}, line 3: {recordings} lists 2 recordings for 't.wav'; expected one."
    )


def test_recordings_that_are_not_listed_and_listed_ones_without_segments_are_dropped(tmp_path):
    write(tmp_path)
    recordings = list_recordings(tmp_path, NAMES[0], "other.wav")
    assert [row[1] for row in rows("longform", tmp_path, recordings=recordings)] == [
        NAMES[0],
        "not_listed",
        NAMES[0],
        "no_segments",
    ]


@pytest.mark.parametrize("listed", ["/etc/passwd", "../../a.wav", "cat a.wav |", "https://example.org/a.wav"])
def test_a_list_leads_nowhere_outside_the_corpus(tmp_path, listed):
    yaml = f"- {{duration: 1, offset: 2, wav: {os.path.basename(listed) or 'a.wav'}}}\n"
    write(tmp_path / "corpus", yaml, "Ja.\n")
    recordings = list_recordings(tmp_path / "corpus", listed)
    found = rows("longform", tmp_path / "corpus", recordings=recordings)
    assert found[0][1] in ("audio_outside", "audio_not_a_path", "not_listed")


def test_an_empty_list_is_refused(tmp_path):
    recordings = list_recordings(write(tmp_path), "", "")
    assert read_refusal("longform", tmp_path, recordings=recordings) == (
        f"{recordings} names no recording; expected the path of an audio file a line."
    )


def test_several_lists_need_a_split(tmp_path):
    write(write(tmp_path), name="eval.yaml", lines="eval.de")
    assert "needs one file *.yaml; there: dev.yaml, eval.yaml. Set simulsa_split" in read_refusal("longform", tmp_path)


@pytest.mark.parametrize("key", ["references", "recordings"])
def test_keys_of_this_form_are_refused_for_others_and_where_nothing_is_there(tmp_path, key):
    other = refusal(CorpusSettings, corpus="mustc", error=UsageError, **{key: "a.txt"})
    assert other == f"simulsa_{key} is for simulsa_corpus=longform, and simulsa_corpus is mustc."
    settings = CorpusSettings(corpus="longform", **{key: str(tmp_path / "a.txt")})
    with pytest.raises(UsageError, match=rf"simulsa_{key} is .*a\.txt: nothing is there\. Give the file\."):
        getattr(settings, f"{key}_file")
