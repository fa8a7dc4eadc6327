"""Tables: TSV, CSV, JSONL, parquet and what `datasets` saved; columns by their usual names or by the recipe's."""

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from corpora_files import jsonl, read_refusal, row_refusal, rows, write_audio, write_text

from simulsa_plugin.errors import UsageError

datasets.disable_progress_bars()


def table(path, *objects, schema=None, **options):
    """A parquet file as plain pyarrow writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(objects), schema=schema), path, **options)
    return path


def saved(folder, *objects, features=None):
    """A folder as `save_to_disk` leaves it; of several splits where `objects` is one dictionary of lists."""
    if len(objects) == 1 and all(isinstance(value, list) for value in objects[0].values()):
        made = {name: datasets.Dataset.from_list(rows, features=features) for name, rows in objects[0].items()}
        datasets.DatasetDict(made).save_to_disk(str(folder))
    else:
        datasets.Dataset.from_list(list(objects), features=features).save_to_disk(str(folder))
    return folder


def row(text, audio=None, **more):
    return {"audio": audio or f"{text}.wav", "translation": text, **more}


def texts(found):
    return [row[3] for row in found]


# Text


def test_tsv_quotes_nothing_and_knows_no_missing_values(tmp_path):
    text = (
        'audio\ttranslation\tid\n1.wav\t"Ja\tNA\n2.wav\tNA\tnull\n3.wav\t""\t\n4.wav\tsag "ja"\t4\n'
        "5.wav\t\t5\n6.wav\n\tSechs\t6\n"
    )
    assert rows("table", write_text(tmp_path / "a.tsv", text, bom=True, crlf=True)) == [
        ("NA", "1.wav", None, '"Ja'), ("null", "2.wav", None, "NA"), ("00000004", "3.wav", None, '""'),
        ("4", "4.wav", None, 'sag "ja"'), ("5", "empty_translation"), ("line 7", "broken_row"), ("6", "no_audio"),
    ]  # fmt: skip


def test_csv_quotes_line_feeds_commas_and_quotes(tmp_path):
    text = 'audio,translation\n1.wav,"Eins,\nzwei"\n2.wav,"sag ""ja"""\n3.wav,NA\n4.wav\n'
    assert rows("table", write_text(tmp_path / "a.csv", text, bom=True, crlf=True)) == [
        ("00000003", "1.wav", None, "Eins,\nzwei"), ("00000004", "2.wav", None, 'sag "ja"'),
        ("00000005", "3.wav", None, "NA"), ("line 6", "broken_row"),
    ]  # fmt: skip
    broken = write_text(tmp_path / "b.csv", 'audio,translation\n1.wav,"Eins\n2.wav,Zwei\n')
    assert read_refusal("table", broken).startswith(f"{broken}, line 3: ")


def test_jsonl_has_values_of_any_type(tmp_path):
    path = write_text(tmp_path / "a.jsonl", jsonl(
        row("Eins.", id=7), row("NA", id="x"), row(None, "3.wav"), row(5, "4.wav"), row(["a"], "5.wav"),
        row("", "6.wav"), {"audio": None, "translation": "Sieben"},
        {"audio": ["8.wav"], "translation": "Acht"}, {"translation": "Neun"},
        {"audio": 10, "translation": "Zehn"}, {"audio": {"path": "11.wav"}, "translation": "Elf"},
        {"audio": {"array": [0.0], "sampling_rate": 16000}, "translation": "Zwölf"},
    ))  # fmt: skip
    assert rows("table", path) == [
        ("7", "Eins..wav", None, "Eins."), ("x", "NA.wav", None, "NA"), ("00000003", "empty_translation"),
        ("00000004", "no_text"), ("00000005", "no_text"), ("00000006", "empty_translation"), ("00000007", "no_audio"),
        ("00000008", "no_audio"), ("00000009", "no_audio"), ("00000010", "no_audio"),
        ("00000011", "11.wav", None, "Elf"), ("00000012", "no_audio"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "audio",
    [{"bytes": 10**12}, {"bytes": "abc"}, {"bytes": [82, 73]}, {"bytes": True}, {"bytes": {}}, {"bytes": [[300]]},
     {"path": {"a": 1}}, {"path": 5}, {"path": ["a.wav"]}, {"path": None}, {"path": ""}, {}, True, 1.5],
)  # fmt: skip
def test_json_that_is_no_audio_is_dropped_and_makes_no_bytes(tmp_path, audio):
    path = write_text(tmp_path / "a.jsonl", jsonl({"audio": audio, "translation": "Ja."}))
    assert rows("table", path) == [("00000001", "no_audio")]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz", ".jsonl.gz"])
def test_the_ending_of_a_file_says_what_it_is(tmp_path, ending):
    separator = "\t" if "tsv" in ending else ","
    text = jsonl(row("Ja.", "a.wav")) if "json" in ending else f"audio{separator}translation\na.wav{separator}Ja.\n"
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    assert rows("table", path)[0][1:] == ("a.wav", None, "Ja.")
    assert rows("table", tmp_path)[0][1:] == ("a.wav", None, "Ja.")
    path.rename(tmp_path / f"train{ending}")
    assert rows("table", tmp_path, "train")[0][1:] == ("a.wav", None, "Ja.")


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.xlsx", "a.arrow", "a.pkl", "a", "a.tsv.zip"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name):
    path = write_text(tmp_path / name, "audio\ttranslation\n")
    assert read_refusal("table", path) == (
        f"{path} is not a table that can be read; allowed: .tsv, .tsv.gz, .csv, .csv.gz, .jsonl, .jsonl.gz, .parquet."
    )


# Columns


@pytest.mark.parametrize("audio", ["audio", "file_name", "audio_filepath", "path"])
def test_the_usual_names_are_found(tmp_path, audio):
    path = write_text(tmp_path / "a.jsonl", jsonl({audio: "a.wav", "translation": "Ja.", "start": 1, "end": 2.5}))
    assert rows("table", path) == [("00000001", "a.wav", (1.0, 2.5), "Ja.")]


@pytest.mark.parametrize(
    ("times", "span"),
    [
        ({}, None), ({"duration": 2.5}, None), ({"duration": "absurd"}, None), ({"start": 1}, (1.0, None)),
        ({"start": 1, "duration": 2.5}, (1.0, 3.5)), ({"offset": "9.5", "duration": "0.5"}, (9.5, 10.0)),
        ({"start": 1, "end": 2.5}, (1.0, 2.5)), ({"end": 2.5}, (0.0, 2.5)),
        ({"start": 1, "end": 2, "duration": 9}, (1.0, 2.0)),
        ({"start": 0, "end": None, "duration": None}, (0.0, None)), ({"start": None, "end": "", "duration": 1}, None),
        ({"channel": 1}, (0.0, None, 1)), ({"channel": "0", "start": 1, "end": 2}, (1.0, 2.0, 0)),
        ({"channel": 1, "duration": 2.5}, (0.0, 2.5, 1)), ({"channel": None}, None), ({"channel": ""}, None),
    ],
)  # fmt: skip
def test_times_and_channel_make_a_part_of_the_file(tmp_path, times, span):
    path = write_text(tmp_path / "a.jsonl", jsonl(row("Ja.", "a.wav", **times)))
    assert rows("table", path) == [("00000001", "a.wav", span, "Ja.")]


@pytest.mark.parametrize("channel", [-1, 64, 0.5, "A", True, [0], "1_0", 1e99])
def test_what_is_no_channel_is_refused_with_its_line(tmp_path, channel):
    path = write_text(tmp_path / "a.jsonl", jsonl(row("Ja."), row("Ja.", channel=channel)))
    assert row_refusal("table", path).startswith(f"{path}, line 2: the channel is ")


def test_columns_are_named_by_the_recipe_and_may_lie_inside_others(tmp_path):
    objects = {"wav": {"file": {"name": "a.wav"}}, "audio": "nicht.wav", "text": {"en": "Yes.", "de": "Ja."}, "a.b": 7,
               "at": {"from": 1, "to": 2}, "end": 9}  # fmt: skip
    columns = {"audio": "wav.file.name", "translation": "text.de", "id": "a.b", "start": "at.from", "end": "at.to"}
    path = write_text(tmp_path / "a.jsonl", jsonl(objects))
    assert rows("table", path, columns=columns) == [("7", "a.wav", (1.0, 2.0), "Ja.")]


def test_a_field_that_is_not_inside_its_column_is_missing(tmp_path):
    objects = row({"fr": "Oui."}, "a.wav"), row("x", "b.wav"), row({"de": "Ja."}, "c.wav")
    path = write_text(tmp_path / "a.jsonl", jsonl(*objects))
    assert rows("table", path, columns={"translation": "translation.de"}) == [
        ("00000001", "empty_translation"), ("00000002", "empty_translation"), ("00000003", "c.wav", None, "Ja."),
    ]  # fmt: skip


def test_rows_of_jsonl_may_have_columns_that_the_first_has_not(tmp_path):
    objects = (
        row("Eins.", "a.wav"), row("Zwei.", "a.wav", start=9.5, end=10.5), row("Drei.", "a.wav", id="drei", channel=1)
    )  # fmt: skip
    assert rows("table", write_text(tmp_path / "a.jsonl", jsonl(*objects))) == [
        ("00000001", "a.wav", None, "Eins."), ("00000002", "a.wav", (9.5, 10.5), "Zwei."),
        ("drei", "a.wav", (0.0, None, 1), "Drei."),
    ]  # fmt: skip


def test_a_role_that_is_none_is_a_mistake_of_the_recipe(tmp_path):
    path = write_text(tmp_path / "a.jsonl", jsonl(row("Ja.")))
    assert read_refusal("table", path, columns={"text": "translation"}, error=UsageError) == (
        "simulsa_columns names a role 'text'; allowed: audio, translation, id, start, end, duration, channel."
    )


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = write_text(tmp_path / "a.tsv", "audio\ttext de\ta.wav\na\tb\tc\n")
    assert read_refusal("table", path, columns={"translation": "texts"}) == (
        f"{path} has no column texts; its columns: audio, text de, a.wav. Set simulsa_columns."
    )
    assert "has no column text.de;" in read_refusal("table", path, columns={"translation": "text.de"})
    assert read_refusal("table", path) == (
        f"{path}: which column is translation? its columns: audio, text de, a.wav. "
        "Set simulsa_columns=translation:COLUMN."
    )
    path = write_text(tmp_path / "b.jsonl", jsonl({"a\nb": 1, "c" * 1000: 2}))
    assert read_refusal("table", path).endswith("Set simulsa_columns=audio:COLUMN,translation:COLUMN.")


# Which file


def test_a_split_is_the_file_of_its_name_and_no_other(tmp_path):
    for name in ("test.tsv", "test-other.tsv", "test_clean.tsv", "mytest.tsv", "train.tsv"):
        write_text(tmp_path / name, f"audio\ttranslation\na.wav\t{name}\n")
    assert texts(rows("table", tmp_path, "test")) == ["test.tsv"]
    assert read_refusal("table", tmp_path, "tes") == (
        f"{tmp_path} needs one file tes.tsv; there: mytest.tsv, test-other.tsv, test.tsv, test_clean.tsv, train.tsv. "
        "Set simulsa_split, or name the file itself."
    )
    assert "needs one file *.tsv; there: mytest.tsv, " in read_refusal("table", tmp_path)
    write_text(tmp_path / "test.csv", "audio,translation\n")
    assert "needs one file test.tsv; there: " in read_refusal("table", tmp_path, "test")


def test_ids_of_several_splits_that_have_none_are_apart(tmp_path):
    for split in ("train", "dev"):
        write_text(tmp_path / f"{split}.jsonl", jsonl(row(f"{split} eins", "a.wav"), row(f"{split} zwei", "b.wav")))
    assert [row[0] for row in rows("table", tmp_path, "train", "dev")] == [
        "train-00000001", "train-00000002", "dev-00000001", "dev-00000002",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.tsv", "a.parquet"])
def test_a_split_of_a_single_file_is_a_mistake_of_the_recipe(tmp_path, name):
    path = table(tmp_path / "a.parquet", row("Ja.")) if "parquet" in name else write_text(tmp_path / name, "audio\n")
    message = read_refusal("table", path, "train", error=UsageError)
    assert message.startswith(f"simulsa_split is train, and simulsa_corpus_dir is one file, {path}. ")


# Parquet


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["train-00000-of-00001-0123456789abcdef.parquet"],
        ["train-00000.parquet", "train-00001.parquet"],
        ["data/train-00000-of-00001.parquet"],
        ["train/0000.parquet", "train/0001.parquet"],
        ["train/a.parquet", "train/b.parquet"],
        ["data/train/00000-of-00002.parquet", "data/train/00001-of-00002.parquet"],
    ],
)
def test_the_parquet_files_of_a_split_are_read_in_their_order(tmp_path, names):
    for name in names:
        table(tmp_path / name, row(name, "a.wav"))
    others = ("train-clean-100", "train-other", "train_2", "mytrain", "test", "test-00000-of-00001")
    for name in (*others, "train-clean-00000-of-00001"):
        table(tmp_path / f"{name}.parquet", row("anders", "a.wav"))
    found = rows("table", tmp_path, "train")
    assert texts(found) == names
    assert [row[0] for row in found] == [f"train-{number:08d}" for number in range(1, len(names) + 1)]


def test_a_split_may_be_called_like_the_start_of_another(tmp_path):
    table(tmp_path / "train-clean-100.parquet", row("Ja.", "a.wav"))
    assert texts(rows("table", tmp_path, "train-clean-100")) == ["Ja."]
    assert read_refusal("table", tmp_path, "train-clean") == (
        f"{tmp_path} needs one file train-clean.tsv; there: train-clean-100.parquet. "
        "Set simulsa_split, or name the file itself."
    )


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00003", "train-00002-of-00003"],
        ["train-00001-of-00002"],
        ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
        ["train-00000-of-00001-0123456789abcdef", "train-00000-of-00001-fedcba9876543210"],
        ["train-00000-of-00002", "train-00001-of-00003"],
    ],
)
def test_a_split_with_parts_missing_or_of_several_versions_is_refused(tmp_path, names):
    for name in names:
        table(tmp_path / "data" / f"{name}.parquet", row("Ja."))
    message = read_refusal("table", tmp_path, "train")
    assert message.startswith(f"{tmp_path / 'data'} has {len(names)} parquet files where ")
    assert message.endswith(". Download them all, and remove those of other versions.")
    assert message == read_refusal("table", tmp_path)


def test_without_a_split_a_folder_holds_one(tmp_path):
    table(tmp_path / "train-00000-of-00001.parquet", row("Ja.", "a.wav"))
    assert texts(rows("table", tmp_path)) == ["Ja."]
    table(tmp_path / "test-00000-of-00001.parquet", row("Nein.", "a.wav"))
    said = f"{tmp_path} has the splits test, train. Set simulsa_split to one of them."
    assert read_refusal("table", tmp_path) == said


@pytest.mark.parametrize(
    "names", [["0000", "0001"], ["part-00000-8a3f-c000.snappy", "part-00001-8a3f-c000.snappy"], ["part.0", "part.1"]]
)
def test_numbered_files_are_one_split(tmp_path, names):
    for name in names:
        table(tmp_path / f"{name}.parquet", row(name, "a.wav"))
    assert texts(rows("table", tmp_path)) == names


def test_names_of_folders_and_splits_are_no_patterns(tmp_path):
    folder = tmp_path / "corpus [1] *"
    table(folder / "train.parquet", row("Ja.", "a.wav"))
    assert texts(rows("table", folder, "train")) == ["Ja."]
    for split in ("*", "tr?in", "[t]rain", "t*"):
        assert "needs one file" in read_refusal("table", folder, split)


def test_audio_inside_a_parquet_file_of_plain_arrow(tmp_path):
    path = table(
        tmp_path / "a.parquet",
        {"audio": {"bytes": b"RIFF1", "path": "x/1.wav"}, "translation": "Eins."},
        {"audio": {"bytes": b"RIFF2", "path": None}, "translation": "Zwei."},
        {"audio": {"bytes": None, "path": "wav/3.wav"}, "translation": "Drei."},
        {"audio": {"bytes": b"", "path": "wav/4.wav"}, "translation": "Vier."},
        {"audio": {"bytes": None, "path": None}, "translation": "Fünf."},
        {"audio": None, "translation": "Sechs."},
        {"audio": {"bytes": b"RIFF7", "path": "/etc/passwd"}, "translation": None},
    )
    assert rows("table", path) == [
        ("00000001", (b"RIFF1", ".wav"), None, "Eins."), ("00000002", (b"RIFF2", ""), None, "Zwei."),
        ("00000003", "wav/3.wav", None, "Drei."), ("00000004", "wav/4.wav", None, "Vier."), ("00000005", "no_audio"),
        ("00000006", "no_audio"), ("00000007", "empty_translation"),
    ]  # fmt: skip


def test_a_column_of_bytes_is_audio(tmp_path):
    path = table(tmp_path / "a.parquet", row("Eins.", b"RIFF"), {"audio": b"", "translation": "Zwei."})
    assert rows("table", path) == [("00000001", (b"RIFF", ""), None, "Eins."), ("00000002", "no_audio")]


def test_audio_of_datasets_is_taken_as_it_is_stored(tmp_path):
    wav = write_audio(tmp_path / "wav" / "a.mp3", 0.5, rate=48_000, channels=2)
    features = datasets.Features(
        {"audio": datasets.Audio(sampling_rate=16_000), "translation": {"de": datasets.Value("string")}}
    )
    objects = [row({"de": "Ja."}, str(wav)), row({"de": "Nein."}, {"bytes": b"junk", "path": "b.flac"})]
    made = datasets.Dataset.from_list(objects, features=features)
    columns = {"translation": "translation.de"}
    made.to_parquet(str(tmp_path / "a.parquet"))  # which leaves names as names
    assert rows("table", tmp_path / "a.parquet", columns=columns) == [
        ("00000001", "wav/a.mp3", None, "Ja."), ("00000002", (b"junk", ".flac"), None, "Nein."),
    ]  # fmt: skip
    made.save_to_disk(str(tmp_path / "saved"))  # which puts the files in
    assert [row[1] for row in rows("table", tmp_path / "saved", columns=columns)] == [
        (wav.read_bytes(), ".mp3"), (b"junk", ".flac"),
    ]  # fmt: skip


def test_rows_of_several_groups_and_files_are_all_read_in_order(tmp_path):
    for shard in range(2):
        objects = [row(f"{shard} {number}", "a.wav") for number in range(100)]
        table(tmp_path / f"train-{shard:05d}-of-00002.parquet", *objects, row_group_size=7)
    found = rows("table", tmp_path, "train")
    assert texts(found) == [f"{shard} {number}" for shard in range(2) for number in range(100)]
    assert found[-1][0] == "train-00000200"


def test_columns_of_other_types_are_read_as_what_they_are(tmp_path):
    schema = pyarrow.schema([
        ("audio", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())), ("translation", pyarrow.large_string()),
        ("id", pyarrow.int64()), ("start", pyarrow.float32()), ("end", pyarrow.int16()), ("channel", pyarrow.int8()),
        ("when", pyarrow.timestamp("ns")), ("list", pyarrow.list_(pyarrow.float64())),
    ])  # fmt: skip
    path = table(tmp_path / "a.parquet", row("Ja.", "a.wav", id=7, start=0.5, end=2, channel=1), schema=schema)
    assert rows("table", path) == [("7", "a.wav", (0.5, 2.0, 1), "Ja.")]


def test_names_start_from_the_tables_folder_or_from_the_corpus(tmp_path):
    table(tmp_path / "data" / "train.parquet", row("Eins.", "a.wav"), row("Zwei.", "b.wav"), row("Drei.", "gone.wav"))
    for name in ("data/a.wav", "a.wav", "b.wav"):
        write_text(tmp_path / name, "RIFF")
    assert [row[1] for row in rows("table", tmp_path, "train")] == ["data/a.wav", "b.wav", "data/gone.wav"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e99])
@pytest.mark.parametrize("column", ["start", "end", "channel"])
def test_absurd_numbers_of_parquet_are_refused_with_their_row(tmp_path, column, value):
    path = table(tmp_path / "a.parquet", row("Ja.", **{column: 0.0}), row("Ja.", **{column: value}))
    assert row_refusal("table", path).startswith(f"{path}, row 2: the ")


def test_a_hostile_name_in_a_parquet_file_is_refused_with_its_row(tmp_path):
    path = table(tmp_path / "a.parquet", row("Ja."), {"audio": "touch owned |", "translation": "Ja."})
    assert row_refusal("table", path).startswith(f"{path}, row 2: the audio 'touch owned |' is a shell command")


def broken_files():
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row("Ja.")] * 50), sink)
    whole = sink.getvalue().to_pybytes()
    return {
        "empty": b"", "no parquet": b"audio\ttranslation\n", "cut": whole[:-20], "magic alone": b"PAR1PAR1",
        "zeros inside": whole[:20] + bytes(60) + whole[80:],
        "zeros in the footer": whole[:-100] + bytes(80) + whole[-20:],
        "pickle": pickle.dumps(["audio"]), "a huge footer": b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1",
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(broken_files()))
def test_a_broken_parquet_file_is_refused(tmp_path, kind):
    (tmp_path / "train.parquet").write_bytes(broken_files()[kind])
    message = read_refusal("table", tmp_path, "train")
    assert message.startswith(f"{tmp_path / 'train.parquet'} cannot be read as a table: ")


def test_texts_of_parquet_that_are_no_utf8_are_refused(tmp_path):
    bad = pyarrow.array([b"Ja.", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    made = pyarrow.table({"audio": pyarrow.array(["a.wav", "b.wav"]), "translation": bad})
    pyarrow.parquet.write_table(made, tmp_path / "a.parquet")
    assert "a.parquet cannot be read as a table: " in read_refusal("table", tmp_path / "a.parquet")


def test_a_table_without_rows_gives_none(tmp_path):
    schema = pyarrow.schema([("audio", pyarrow.string()), ("translation", pyarrow.string())])
    assert rows("table", table(tmp_path / "a.parquet", schema=schema)) == []
    assert rows("table", write_text(tmp_path / "a.tsv", "audio\ttranslation\n")) == []


# What `datasets` saved


def test_a_saved_dataset_is_read_in_its_order(tmp_path):
    folder = tmp_path / "saved"
    made = datasets.Dataset.from_list([row(str(number), "a.wav") for number in range(100)])
    made.save_to_disk(str(folder), num_shards=3)
    assert len(list(folder.glob("*.arrow"))) == 3
    found = rows("table", folder)
    assert texts(found) == [str(number) for number in range(100)]
    assert (found[0][:2], found[-1][0]) == (("00000001", "a.wav"), "00000100")


def test_what_was_selected_before_saving_is_what_is_read(tmp_path):
    made = datasets.Dataset.from_list([row(str(number), "a.wav") for number in range(10)])
    made.select([7, 2, 5]).with_format("numpy").save_to_disk(str(tmp_path / "saved"))
    assert texts(rows("table", tmp_path / "saved")) == ["7", "2", "5"]


def test_a_saved_dataset_of_splits_needs_one(tmp_path):
    folder = saved(tmp_path / "saved", {"train": [row("Eins.", "a.wav")], "test": [row("Zwei.", "a.wav")]})
    assert texts(rows("table", folder, "test")) == ["Zwei."]
    assert [row[::3] for row in rows("table", folder, "train", "test")] == [
        ("train-00000001", "Eins."), ("test-00000001", "Zwei."),
    ]  # fmt: skip
    said = f"{folder} has the splits test, train. Set simulsa_split to one of them."
    assert read_refusal("table", folder) == said
    assert read_refusal("table", folder, "tes") == said
    assert read_refusal("table", folder / "train", "train", error=UsageError) == (
        f"simulsa_split is train, and {folder / 'train'} has no splits. Leave simulsa_split out."
    )
    assert texts(rows("table", folder / "train")) == ["Eins."]


def with_state(folder, **changes):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | changes))
    return folder


@pytest.mark.parametrize(
    "name", ["../other/data-00000-of-00001.arrow", "{tmp}/other/data-00000-of-00001.arrow", "..\\other\\a.arrow",
             "sub/a.arrow", "a.pkl", "dataset.py", "", "/etc/passwd", "https://a.org/a.arrow", 5, None, ["a.arrow"]],
)  # fmt: skip
def test_a_saved_dataset_names_no_file_but_its_own(tmp_path, name):
    folder = saved(tmp_path / "saved", row("Ja."))
    saved(tmp_path / "other", row("Anderes."))
    name = name.format(tmp=tmp_path) if isinstance(name, str) else name
    with_state(folder, _data_files=[{"filename": name}])
    assert read_refusal("table", folder).startswith(f"{folder / 'state.json'} cannot be read as a table: it names ")


@pytest.mark.parametrize(
    "state",
    ["", "{", "[]", "5", "null", "{}", '{"_data_files": []}', '{"_data_files": 5}', '{"_data_files": [5]}',
     '{"_data_files": [{}]}', '{"_data_files": {"filename": "a.arrow"}}', "[" * 100_000, '{"a": ' * 100_000, "\x00",
     '{"_data_files": [{"filename": "gone.arrow"}]}', '{"_data_files": [{"filename": "a\\u0000.arrow"}]}'],
)  # fmt: skip
def test_a_broken_state_of_a_saved_dataset_is_refused(tmp_path, state):
    folder = saved(tmp_path / "saved", row("Ja."))
    (folder / "state.json").write_text(state)
    assert "cannot be read as a table: " in read_refusal("table", folder)


def test_a_state_of_gigabytes_is_refused(tmp_path):
    folder = saved(tmp_path / "saved", row("Ja."))
    os.truncate(folder / "state.json", 8 << 30)
    assert read_refusal("table", folder).endswith("state.json cannot be read as a table: longer than 1048576 bytes")


class Payload:
    """What would run, if anybody unpickled it."""

    def __init__(self, owned):
        self.owned = owned

    def __reduce__(self):
        return os.system, (f"touch {self.owned}",)


def arrow_with_pickled_type(path, owned):
    """An Arrow file with an extension type as pyarrow once unpickled it by itself."""
    payload = pickle.dumps(Payload(owned))
    field = pyarrow.field("audio", pyarrow.string(), metadata={
        b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload,
    })  # fmt: skip
    schema = pyarrow.schema([field, ("translation", pyarrow.string())], metadata={b"huggingface": payload})
    batch = pyarrow.record_batch([pyarrow.array(["a.wav"]), pyarrow.array(["Ja."])], schema=schema)
    with pyarrow.ipc.new_stream(str(path), schema) as writer:
        writer.write(batch)


def test_nothing_in_the_folder_of_a_dataset_is_run(tmp_path):
    folder, owned = saved(tmp_path / "saved", row("Ja.", "a.wav")), tmp_path / "owned"
    payload = pickle.dumps(Payload(owned))
    for name in ("dataset.pkl", "indices.pkl", "cache.pickle", "a.pkl", "data.bin"):
        (folder / name).write_bytes(payload)
    for name in ("saved.py", "dataset.py", "__init__.py", "parquet.py", "conftest.py"):
        (folder / name).write_text(f"open({str(owned)!r}, 'w')")
    with_state(folder, _format_type="custom", _format_kwargs={"transform": "os.system"}, _indices_files=["indices.pkl"])
    assert texts(rows("table", folder)) == ["Ja."]
    arrow_with_pickled_type(folder / "data-00000-of-00001.arrow", owned)
    assert texts(rows("table", folder)) == ["Ja."]
    (folder / "data-00000-of-00001.arrow").write_bytes(payload)
    assert "cannot be read as a table: " in read_refusal("table", folder)
    assert not owned.exists()


def test_no_script_or_pickle_beside_a_parquet_file_is_run(tmp_path):
    folder, owned = tmp_path / "corpus", tmp_path / "owned"
    table(folder / "train.parquet", row("Ja.", "a.wav"))
    for name in ("corpus.py", "parquet.py", "dataset_infos.json", "README.md"):
        (folder / name).write_text(f"open({str(owned)!r}, 'w')")
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from corpora_files import rows; "
        "print(rows('table', sys.argv[1], 'train'), sorted({'datasets', 'torch', 'pandas'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", program, str(folder), os.path.dirname(__file__)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "[('train-00000001', 'a.wav', None, 'Ja.')] []\n"
    assert not owned.exists()


@pytest.mark.parametrize("where", [100, 400, 800, -400, -200, -60])
def test_a_damaged_arrow_file_is_refused_or_read_and_ends_no_process(tmp_path, where):
    folder = saved(tmp_path / "saved", *[row(str(number), "a.wav") for number in range(20)])
    path = folder / "data-00000-of-00001.arrow"
    content = bytearray(path.read_bytes())
    place = where % len(content)
    content[place : place + 16] = b"\xff" * 16
    path.write_bytes(content)
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from corpora_files import rows, DatasetError\n"
        "try: print('read', len(rows('table', sys.argv[1])))\nexcept DatasetError as error: print('refused', error)"
    )
    arguments = [sys.executable, "-c", program, str(folder), os.path.dirname(__file__)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(("read 20", f"refused {path} cannot be read as a table: "))


def test_a_truncated_or_missing_arrow_file_is_refused(tmp_path):
    folder = saved(tmp_path / "saved", *[row(str(number), "a.wav") for number in range(20)])
    path = folder / "data-00000-of-00001.arrow"
    for content in (path.read_bytes()[:300], b"", b"ARROW1\0\0"):
        path.write_bytes(content)
        assert read_refusal("table", folder).startswith(f"{path} cannot be read as a table: ")
    path.unlink()
    assert read_refusal("table", folder).startswith(f"{path} cannot be read as a table: ")
    shutil.rmtree(folder)
    folder.mkdir()
    assert "there: none." in read_refusal("table", folder)
