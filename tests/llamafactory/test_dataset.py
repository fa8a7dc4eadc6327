"""LLaMA-Factory dataset entries of every kind to samples, through LLaMA-Factory's own loader."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from helpers.fakes import write_noise
from offline_data import ASK, load, register, write_rows

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow

OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "messages", "audios": "audios"}, "tags": OPENAI_TAGS}


def talk(reference, audio, ask=ASK, system=None):
    messages = [{"role": "user", "content": ask}, {"role": "assistant", "content": reference}]
    return {"messages": [{"role": "system", "content": system}, *messages] if system else messages, "audios": audio}


def test_sharegpt_with_roles_and_with_from_and_value(folder):
    audio = str(folder / "wav" / "0.wav")
    write_rows(folder / "a.jsonl", [talk("Hallo", [audio], system="Be brief.")])
    write_rows(
        folder / "b.jsonl",
        [
            {
                "conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": "Hallo"}],
                "system": "Be brief.",
                "audios": [audio],
            }
        ],
    )
    register(
        folder,
        {
            "a": SHAREGPT | {"file_name": "a.jsonl"},
            "b": {
                "formatting": "sharegpt",
                "file_name": "b.jsonl",
                "columns": {"messages": "conversations", "audios": "audios", "system": "system"},
            },
        },
    )
    expected = Sample(0, Prompt(({"role": "user", "content": ASK},), "Be brief.", ""), "Hallo", audio)
    first, second = load(folder, "a", "b")
    assert first.sample(0) == second.sample(0) == expected
    assert not first.has_relative_audio()
    assert first.entry["file_name"] == str(folder / "a.jsonl")


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_alpaca_columns_in_every_file_form(folder, form):
    rows = [{"task": ASK, "source": "", "translation": "Hallo", "sound": [str(folder / "wav" / "0.wav")]}]
    path = folder / f"a.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if form == "json" else json.dumps(rows[0]) + "\n", encoding="utf-8")
    columns = {"prompt": "task", "query": "source", "response": "translation", "audios": "sound"}
    register(folder, {"a": {"file_name": path.name, "columns": columns}})
    (dataset,) = load(folder, "a")
    assert dataset.sample(0) == Sample(
        0, Prompt(({"role": "user", "content": ASK},)), "Hallo", str(folder / "wav" / "0.wav")
    )


@pytest.mark.parametrize("media_dir", [None, "data/wav", "absolute"])
def test_relative_audio_is_found_in_the_media_dir_and_noticed(folder, media_dir):
    names = ["0.wav", "1.wav"] if media_dir else ["wav/0.wav", "wav/1.wav"]
    write_rows(folder / "a.jsonl", [talk("eins", [names[0]]), talk("zwei", [names[1]])])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    keys = {"media_dir": str(folder / "wav") if media_dir == "absolute" else media_dir} if media_dir else {}
    (dataset,) = load(folder, "a", **keys)
    expected = [str(folder / "wav" / f"{number}.wav") for number in range(2)]
    assert [dataset.sample(row).audio for row in range(2)] == expected
    assert dataset.has_relative_audio()
    assert [row["audios"] for row in dataset.sharegpt_rows()] == [[path] for path in expected]


def test_rewritten_rows_read_back_as_they_were(folder):
    rows = [talk("eins", ["wav/0.wav"], system="Kurz."), talk("zwei", ["wav/1.wav"])]
    long = {
        "messages": [*talk("drei", [])["messages"], *talk("vier", [], ask="Und?")["messages"]],
        "audios": ["wav/2.wav"],
    }
    write_rows(folder / "a.jsonl", [*rows, long])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    write_rows(folder / "b.jsonl", dataset.sharegpt_rows())
    register(folder, {"b": SHAREGPT | {"file_name": "b.jsonl"}})
    (again,) = load(folder, "b")
    assert [again.sample(row) for row in range(3)] == [dataset.sample(row) for row in range(3)]
    assert again.rows[2]["_prompt"] == dataset.rows[2]["_prompt"]
    assert not again.has_relative_audio()


def test_audio_that_was_missing_is_found_once_it_is_there(folder):
    write_rows(folder / "a.jsonl", [talk("eins", ["wav/late.wav"]), talk("zwei", ["wav/0.wav"])])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    load(folder, "a")
    late = write_noise(folder / "wav" / "late.wav", 1.0)
    (dataset,) = load(folder, "a")
    assert dataset.sample(0).audio == late


def test_rows_that_are_no_sample_have_a_reason_and_keep_their_numbers(folder):
    audio = [str(folder / "wav" / "0.wav")]
    two_turns = [*talk("a", [])["messages"], *talk("b", [], ask="And now?")["messages"]]
    rows = {
        "good": talk("Hallo", audio),
        "no_audio": talk("Hallo", []) | {"messages": talk("Hallo", [], ask="Translate.")["messages"]},
        "not_one_audio": talk("Hallo", audio * 2, ask="<audio><audio>Translate."),
        "multi_turn": {"messages": two_turns, "audios": audio},
        "empty_reference": talk(" \n", audio),
        "no_answer": {
            "messages": [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}],
            "audios": audio,
        },
    }
    no_placeholder = talk("Hallo", audio, ask="Translate.")
    write_rows(folder / "a.jsonl", [*rows.values(), no_placeholder])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    assert len(dataset) == 7
    assert isinstance(dataset.sample(0), Sample)
    assert [dataset.sample(row) for row in range(1, 7)] == [
        UnusableRow(row, reason) for row, reason in enumerate([*list(rows)[1:], "not_one_audio"], 1)
    ]


def test_rows_with_tools_are_left_out(folder):
    row = talk("Hallo", [str(folder / "wav" / "0.wav")])
    write_rows(folder / "a.jsonl", [row | {"tools": ""}, row | {"tools": '[{"name": "f", "parameters": {}}]'}])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl", "columns": SHAREGPT["columns"] | {"tools": "tools"}}})
    (dataset,) = load(folder, "a")
    assert isinstance(dataset.sample(0), Sample)
    assert dataset.sample(1) == UnusableRow(1, "tools")


def test_the_whole_file_counts_whatever_the_recipe_takes_of_it(folder):
    write_rows(folder / "a.jsonl", [talk(str(row), [str(folder / "wav" / "0.wav")]) for row in range(20)])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl", "num_samples": 3}})
    (dataset,) = load(folder, "a", max_samples=5)
    assert [dataset.sample(row).reference for row in range(len(dataset))] == [str(row) for row in range(20)]
    assert dataset.entry["num_samples"] == 3


def test_a_relative_dataset_dir_is_registered_absolute(folder):
    write_rows(folder / "a.jsonl", [talk("Hallo", [str(folder / "wav" / "0.wav")])])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load("data", "a")
    assert dataset.entry["file_name"] == os.path.join(os.getcwd(), "data", "a.jsonl")


@pytest.mark.parametrize(
    ("entries", "name", "said"),
    [
        ({"a": SHAREGPT | {"file_name": "a.jsonl"}, "b": {}}, "c", r"No dataset c in .*; registered there: a, b\."),
        ({}, "c", r"No dataset c in .*; registered there: none\."),
        (
            {"a": {"file_name": "a.jsonl", "formatting": "sharegpt"}},
            "a",
            r"a has no audio: .* has no `audios` column",
        ),
        ({"a": SHAREGPT | {"file_name": "gone.jsonl"}}, "a", r"its file .*gone\.jsonl does not exist"),
        (
            {"a": SHAREGPT | {"file_name": "broken.jsonl"}},
            "a",
            r"loaded: .*broken.jsonl, line 2: not JSON \(.*\)\. Corr",
        ),
        ({"a": SHAREGPT | {"file_name": "notes.xyz"}}, "a", r"The dataset a cannot be loaded: Allowed file types"),
        ({"a": SHAREGPT | {"file_name": "empty.jsonl"}}, "a", r"its file .*empty.jsonl is empty\. Correct its entry"),
        (
            {"a": SHAREGPT | {"file_name": "a.jsonl", "columns": {"messages": "talks", "audios": "audios"}}},
            "a",
            r"The dataset a cannot be loaded: .talks. is not a column of its rows, or is a role without a tag\. Check",
        ),
        ({"a": "a.jsonl"}, "a", r"The entry of a in .* is a str; expected an object"),
    ],
    ids=["unknown", "none", "no audio", "no file", "broken", "unknown form", "empty", "no such column", "no object"],
)
def test_a_dataset_that_cannot_be_used_is_one_line(folder, entries, name, said):
    write_rows(folder / "a.jsonl", [talk("Hallo", [str(folder / "wav" / "0.wav")])])
    (folder / "broken.jsonl").write_text('{"messages": []}\n{"messages": [\n', encoding="utf-8")
    (folder / "empty.jsonl").write_text("", encoding="utf-8")
    (folder / "notes.xyz").write_text("x", encoding="utf-8")
    register(folder, entries)
    with pytest.raises(DatasetError, match=said) as caught:
        load(folder, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"No dataset is registered in .*: cannot read .*dataset_info\.json"),
        ("{", r"dataset_info\.json is not valid JSON"),
        ("[]", r"holds a list; expected an object of datasets by name"),
    ],
)
def test_a_dataset_info_that_cannot_be_read_is_one_line(folder, content, said):
    if content is not None:
        (folder / "dataset_info.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=said) as caught:
        load(folder, "a")
    assert "\n" not in str(caught.value)


def test_no_name_is_one_line(folder):
    with pytest.raises(DatasetError, match=r"names no dataset\. Add `dataset: NAME`"):
        load(folder)
