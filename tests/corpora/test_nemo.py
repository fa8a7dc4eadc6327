"""NeMo manifests: a JSON object a line."""

import pytest
from corpora_files import jsonl, read_refusal, row_refusal, rows, write_text

from simulsa_plugin.errors import UsageError


def row(audio="a.wav", **fields):
    return {"audio_filepath": audio, "duration": 2.5, **fields}


def read(tmp_path, *objects, **settings):
    return rows("nemo", write_text(tmp_path / "train.json", jsonl(*objects)), **settings)


def test_a_row_is_a_part_of_its_file_or_without_an_offset_all_of_it(tmp_path):
    assert read(
        tmp_path,
        row("wav/a.wav", offset=9.5, text="Eins."),
        row("wav/a.wav", offset=100, duration=31.5, text='"Zwei', speaker=None),
        row("wav/b.wav", text="NA"),
        row("wav/c.wav", offset=None, text=""),
        row("wav/d.wav", offset=0, duration=None, text="Fünf."),
    ) == [
        ("a-1", "wav/a.wav", (9.5, 12.0), "Eins."),
        ("a-2", "wav/a.wav", (100.0, 131.5), '"Zwei'),
        ("b-3", "wav/b.wav", None, "NA"),
        ("c-4", "wav/c.wav", None, ""),
        ("d-5", "wav/d.wav", (0.0, None), "Fünf."),
    ]


def test_a_byte_order_mark_windows_line_ends_and_empty_lines_change_nothing(tmp_path):
    path = write_text(tmp_path / "a.json", f"{jsonl(row(text='Ja.'))}\n{jsonl(row(text='Nein.'))}", bom=True, crlf=True)
    assert rows("nemo", path) == [("a-1", "a.wav", None, "Ja."), ("a-3", "a.wav", None, "Nein.")]


def test_the_answer_goes_before_the_text_and_a_column_of_the_recipe_before_both(tmp_path):
    objects = row(text="Yes.", answer="Ja.", mine="Jawohl."), row(text="No.")
    assert [found[3] for found in read(tmp_path, *objects)] == ["Ja.", "No."]
    found = read(tmp_path, *objects, columns={"translation": "mine"})
    assert found == [("a-1", "a.wav", None, "Jawohl."), ("a-2", "no_translation")]


@pytest.mark.parametrize(
    "fields", [{}, {"text": None}, {"answer": None, "text": "Yes."}, {"text": ["Ja."]}, {"text": 5}]
)
def test_a_row_without_a_translation_is_dropped(tmp_path, fields):
    assert read(tmp_path, row(**fields)) == [("a-1", "no_translation")]


def test_ids_are_the_manifests_own_where_it_has_them(tmp_path):
    found = read(tmp_path, row(id="x", text="a"), row(id=7, text="b"), row(id="", text="c"), row(id=None, text="d"))
    assert [row[0] for row in found] == ["x", "7", "a-3", "a-4"]


@pytest.mark.parametrize(
    ("languages", "taken"),
    [
        ({}, True),
        ({"source_lang": "en", "target_lang": "de"}, True),
        ({"source_lang": "en-US", "target_lang": "de_de"}, True),
        ({"source_lang": "EN", "target_lang": "DE"}, True),
        ({"source_lang": "", "target_lang": None}, True),
        ({"source_lang": "en", "target_lang": "en"}, False),
        ({"source_lang": "de", "target_lang": "de"}, False),
        ({"source_lang": "en", "target_lang": "den"}, False),
        ({"target_lang": "fr"}, False),
    ],
)
def test_rows_of_other_languages_are_dropped(tmp_path, languages, taken):
    (found,) = read(tmp_path, row(text="Ja.", **languages))
    assert (found[1] == "other_language") is not taken
    assert len(read(tmp_path, row(text="Ja.", **languages), source=None, target=None)[0]) == 4


def test_a_split_chooses_its_manifest_and_no_other(tmp_path):
    for name in (
        "train.json",
        "test_manifest.json",
        "test-other.json",
        "test_clean.json",
        "mytest.json",
        "dev.jsonl",
        "test.txt",
    ):
        write_text(tmp_path / name, jsonl(row(text=name)))
    assert [found[3] for found in rows("nemo", tmp_path, "test", "train", "dev")] == [
        "test_manifest.json", "train.json", "dev.jsonl",
    ]  # fmt: skip
    assert read_refusal("nemo", tmp_path, "tes") == (
        f"{tmp_path} needs one file tes.json; there: dev.jsonl, mytest.json, test-other.json, test_clean.json, "
        "test_manifest.json, train.json. Set simulsa_split, or name the file itself."
    )
    assert "needs one file *.json; there: dev.jsonl, " in read_refusal("nemo", tmp_path)
    write_text(tmp_path / "test.jsonl", "")
    assert "needs one file test.json; there: " in read_refusal("nemo", tmp_path, "test")


def test_without_a_split_the_only_manifest_of_a_folder_is_taken(tmp_path):
    write_text(tmp_path / "whatever.jsonl", jsonl(row(text="Ja.")))
    assert rows("nemo", tmp_path) == [("a-1", "a.wav", None, "Ja.")]


def test_a_split_of_a_single_file_is_a_mistake_of_the_recipe(tmp_path):
    path = write_text(tmp_path / "train.json", jsonl(row(text="Ja.")))
    assert read_refusal("nemo", path, "train", error=UsageError) == (
        f"simulsa_split is train, and simulsa_corpus_dir is one file, {path}. "
        "Give the folder that holds a file for each split, or leave simulsa_split out."
    )


@pytest.mark.parametrize("value", [None, 5, ["a.wav", "b.wav"], {"path": "a.wav"}, True])
def test_a_row_without_a_name_of_audio_is_refused_with_its_line(tmp_path, value):
    path = write_text(tmp_path / "train.json", jsonl(row(text="Ja."), row(value, text="Ja.")))
    assert row_refusal("nemo", path) == f"{path}, line 2: no audio_filepath, which every row of a NeMo manifest has."


def test_columns_other_than_the_translation_are_a_mistake_of_the_recipe(tmp_path):
    path = write_text(tmp_path / "train.json", jsonl(row(text="Ja.")))
    assert read_refusal("nemo", path, columns={"audio": "wav"}, error=UsageError) == (
        "simulsa_columns names a role 'audio'; allowed: translation."
    )


def test_a_file_of_one_json_array_is_refused(tmp_path):
    path = write_text(tmp_path / "train.json", f"[{jsonl(row(text='Ja.')).strip()}]")
    assert row_refusal("nemo", path) == f"{path}, line 1: a JSON list; expected an object."
    write_text(path, "[\n{}\n]\n")
    assert [row[1] for row in rows("nemo", path)] == ["broken_row", "no_audio", "broken_row"]
