"""FLEURS on disk: the recordings of one language, joined with the sentences of another, many to many."""

import pytest
from corpora_files import read_refusal, rows, write_text

from simulsa_plugin.errors import UsageError


def table(*lines):
    """id, file name, raw transcription; the others as FLEURS has them."""
    return "".join(
        f"{number}\t{name}\t{raw}\t{raw.lower()}\t{' '.join(raw.lower().replace(' ', '|'))} |\t16000\tFEMALE\n"
        for number, name, raw in lines
    )


ENGLISH = table(
    (903, "100.wav", 'He said: "Yes."'),
    (903, "101.wav", 'He said: "Yes."'),
    (7, "102.wav", "One sentence."),
    (1000, "103.wav", "Nobody translated this."),
    (90, "104.wav", "NA"),
)
GERMAN = table(
    (90, "200.wav", "NA"),
    (7, "201.wav", "Ein Satz."),
    (7, "202.wav", "Ein Satz."),
    (7, "203.wav", "Ein anderer Satz."),
    (903, "204.wav", 'Er sagte: „Ja."'),
    (5, "205.wav", "Niemand sagte dies."),
)
TRAIN = [
    ("100", "en_us/audio/train/100.wav", None, 'Er sagte: „Ja."'),
    ("101", "en_us/audio/train/101.wav", None, 'Er sagte: „Ja."'),
    ("102", "en_us/audio/train/102.wav", None, "Ein Satz."),
    ("102_1", "en_us/audio/train/102.wav", None, "Ein anderer Satz."),
    ("103", "no_translation"),
    ("104", "en_us/audio/train/104.wav", None, "NA"),
]
LANGUAGES = {"source": "en_us", "target": "de_de"}


def write(corpus, split="train", english=ENGLISH, german=GERMAN, data="", **form):
    write_text(corpus / data / "en_us" / f"{split}.tsv", english, **form)
    write_text(corpus / data / "de_de" / f"{split}.tsv", german, **form)
    return corpus


def test_each_recording_gets_each_sentence_of_its_id(tmp_path):
    assert rows("fleurs", write(tmp_path), "train", **LANGUAGES) == TRAIN


def test_languages_may_be_turned_round(tmp_path):
    assert rows("fleurs", write(tmp_path), "train", source="de_de", target="en_us") == [
        ("200", "de_de/audio/train/200.wav", None, "NA"),
        ("201", "de_de/audio/train/201.wav", None, "One sentence."),
        ("202", "de_de/audio/train/202.wav", None, "One sentence."),
        ("203", "de_de/audio/train/203.wav", None, "One sentence."),
        ("204", "de_de/audio/train/204.wav", None, 'He said: "Yes."'),
        ("205", "no_translation"),
    ]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    assert rows("fleurs", write(tmp_path, bom=True, crlf=True), "train", **LANGUAGES) == TRAIN


def test_the_folder_of_the_repository_may_be_given(tmp_path):
    found = rows("fleurs", write(tmp_path, data="data"), "train", **LANGUAGES)
    assert [row[0] for row in found] == [row[0] for row in TRAIN]
    assert found[0][1] == "data/en_us/audio/train/100.wav"


def test_splits_are_joined_each_with_its_own(tmp_path):
    write(
        write(tmp_path), "dev", table((7, "300.wav", "One.")), table((7, "400.wav", "Eins."), (903, "401.wav", "Zwei."))
    )
    found = rows("fleurs", tmp_path, "dev", "train", **LANGUAGES)
    assert found == [("300", "en_us/audio/dev/300.wav", None, "Eins."), *TRAIN]


def test_ids_are_compared_as_they_are_written_and_not_as_numbers(tmp_path):
    write(
        tmp_path,
        english=table(("07", "1.wav", "a"), ("7 ", "2.wav", "b"), ("7", "3.wav", "c")),
        german=table((7, "4.wav", "C")),
    )
    assert [row[1] for row in rows("fleurs", tmp_path, "train", **LANGUAGES)][:2] == ["no_translation"] * 2


def test_empty_sentences_are_no_translation(tmp_path):
    write(tmp_path, german=table((903, "1.wav", ""), (903, "2.wav", " "), (7, "3.wav", "Ein Satz.")))
    assert [row[:2] for row in rows("fleurs", tmp_path, "train", **LANGUAGES)] == [
        ("100", "no_translation"), ("101", "no_translation"), ("102", "en_us/audio/train/102.wav"),
        ("103", "no_translation"), ("104", "no_translation"),
    ]  # fmt: skip


def test_broken_rows_are_dropped_with_their_line_and_break_no_others(tmp_path):
    write(tmp_path, english=f"903\t100.wav\tx\n\n{table((7, '102.wav', 'One.'))}", german=f"7\tkaputt\n{GERMAN}")
    assert rows("fleurs", tmp_path, "train", **LANGUAGES) == [
        (f"{tmp_path / 'en_us' / 'train.tsv'}, line 1", "broken_row"),
        ("102", "en_us/audio/train/102.wav", None, "Ein Satz."),
        ("102_1", "en_us/audio/train/102.wav", None, "Ein anderer Satz."),
    ]


def test_a_language_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write(tmp_path)
    assert read_refusal("fleurs", tmp_path, "train", source="en_us", target="de") == (
        f"{tmp_path} has no language de; there: de_de, en_us. "
        "Set simulsa_source_language and simulsa_target_language as FLEURS has them (en_us, cmn_hans_cn)."
    )
    for key in ("source", "target"):
        message = read_refusal("fleurs", tmp_path, "train", error=UsageError, **{**LANGUAGES, key: None})
        assert message.startswith(f"simulsa_{key}_language is not set")


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write(write(tmp_path), "dev")
    assert read_refusal("fleurs", tmp_path, "validation", **LANGUAGES) == (
        f"{tmp_path / 'de_de'} has no validation.tsv; splits there: dev, train. Set simulsa_split."
    )
    (tmp_path / "de_de" / "dev.tsv").rename(tmp_path / "de_de" / "test.tsv")
    assert "en_us has no test.tsv; splits there: dev, train." in read_refusal("fleurs", tmp_path, "test", **LANGUAGES)


def test_an_archive_that_is_not_unpacked_says_how(tmp_path):
    archive = write_text(write(tmp_path) / "en_us" / "audio" / "train.tar.gz", "")
    assert read_refusal("fleurs", tmp_path, "train", **LANGUAGES) == (
        f"{archive} is not unpacked. Type  tar -xzf {archive} -C {archive.parent}"
    )
    (archive.parent / "train").mkdir()
    assert rows("fleurs", tmp_path, "train", **LANGUAGES) == TRAIN


@pytest.mark.parametrize("language", ["*", "../de_de", "en_us/../de_de"])
def test_a_language_is_no_pattern(tmp_path, language):
    found = read_refusal if language in ("*", "../de_de") else rows
    assert found("fleurs", write(tmp_path), "train", source="en_us", target=language)
