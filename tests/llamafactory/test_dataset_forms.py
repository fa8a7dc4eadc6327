"""Every form and place from which LLaMA-Factory loads a dataset with audio; the rows expected are the rows written."""

import json
import os

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as file_systems
from offline_data import ASK, SHAREGPT, TAGS, load, register, turns, write_rows

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow

COLUMNS = {"prompt": "task", "query": "source", "response": "translation", "audios": "sound"}


def talk(reference, audio):
    return {"messages": turns(ASK, reference), "audios": [str(audio)]}


def references(dataset):
    return [dataset.sample(row).reference for row in range(len(dataset))]


def write_as(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    match path.suffix:
        case ".parquet":
            pyarrow.parquet.write_table(table, path)
        case ".arrow":
            with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        case ".csv":
            lines = [rows[0], *map(dict.values, rows)]
            path.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            write_rows(path, rows)


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet", "csv", "arrow"])
def test_every_file_form_gives_the_same_sample(folder, form):
    audio = str(folder / "wav" / "0.wav")
    write_as(folder / f"a.{form}", [{"task": ASK, "source": "Bitte", "translation": "Hallo", "sound": audio}] * 2)
    register(folder, {"a": {"file_name": f"a.{form}", "columns": COLUMNS}})
    (dataset,) = load(folder, "a")
    prompt = Prompt(({"role": "user", "content": f"{ASK}\nBitte"},))
    assert [dataset.sample(row) for row in range(2)] == [Sample(row, prompt, "Hallo", audio) for row in range(2)]


def test_alpaca_system_and_history(folder):
    audio = str(folder / "wav" / "0.wav")
    row = {"task": ASK, "source": "", "translation": "Hallo", "sound": [audio], "system": "Kurz.", "history": []}
    write_rows(folder / "a.jsonl", [row | {"history": [["Und?", "Ja."]]}, row])
    entry = {"file_name": "a.jsonl", "columns": COLUMNS | {"system": "system", "history": "history"}}
    register(folder, {"a": entry})
    (dataset,) = load(folder, "a")
    assert dataset.sample(0) == UnusableRow(0, "multi_turn")
    assert dataset.rows[0]["_prompt"] == turns("Und?", "Ja.", ASK)
    assert dataset.sample(1) == Sample(1, Prompt(({"role": "user", "content": ASK},), "Kurz."), "Hallo", audio)


def test_openai_messages_with_what_llamafactory_adds_to_the_system_prompt(folder):
    # Its converter ends every system prompt with these words; training sees them, so scoring has to.
    audio = str(folder / "wav" / "0.wav")
    call = [{"function": {"name": "look_up", "arguments": "{}"}}]
    write_rows(
        folder / "a.jsonl",
        [
            {"messages": turns(("system", "Kurz."), ("user", ASK), ("assistant", "Hallo")), "audios": [audio]},
            {"messages": turns(ASK, "Hallo"), "audios": [audio]},
            {"messages": [*turns(ASK), {"role": "assistant", "content": "", "tool_calls": call}], "audios": [audio]},
        ],
    )
    register(folder, {"a": SHAREGPT | {"formatting": "openai", "file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    assert dataset.sample(0).prompt.system == "Kurz.\ndetailed thinking off"
    assert dataset.sample(1).prompt.system == "detailed thinking off"
    assert dataset.sample(2) == UnusableRow(2, "tools")


@pytest.mark.parametrize("workers", [None, 2])
def test_files_of_a_folder_follow_each_other_by_name_on_every_disk(folder, monkeypatch, workers):
    parts = folder / "parts"
    parts.mkdir()
    for name in ("part-2", "part-10", "part-1"):
        write_rows(parts / f"{name}.jsonl", [talk(f"{name} {row}", folder / "wav" / "0.wav") for row in range(2)])
    register(folder, {"a": SHAREGPT | {"file_name": "parts"}})
    listed = sorted(os.listdir(parts))
    monkeypatch.setattr(os, "listdir", lambda *path: listed[::-1])  # a disk that lists them the other way round
    (dataset,) = load(folder, "a", preprocessing_num_workers=workers)
    assert references(dataset) == [f"{name} {row}" for name in ("part-1", "part-10", "part-2") for row in range(2)]
    assert os.listdir(parts) == listed[::-1]
    assert dataset.entry["file_name"] == str(parts)


def test_a_name_on_the_hub_may_be_a_local_folder_with_split_and_data_folder(folder):
    # datasets takes a local folder wherever it takes a name; relative audio is then relative to where one works
    (folder.parent / "corpus" / "clean").mkdir(parents=True)
    for split in ("train", "test"):
        write_rows(folder.parent / "corpus" / "clean" / f"{split}.jsonl", [talk(split, "data/wav/1.wav")])
    entry = SHAREGPT | {"hf_hub_url": "corpus", "folder": "clean", "split": "test", "file_name": "no such file"}
    register(folder, {"a": entry})
    (dataset,) = load(folder, "a")
    assert dataset.sample(0) == Sample(
        0, Prompt(({"role": "user", "content": ASK},)), "test", str(folder / "wav" / "1.wav")
    )
    assert dataset.entry == entry | {"hf_hub_url": str(folder.parent / "corpus")}


def test_a_subset_is_the_configuration_of_that_name(folder):
    corpus = folder.parent / "corpus"
    corpus.mkdir()
    for name in ("one", "two"):
        write_rows(corpus / f"{name}.jsonl", [talk(name, folder / "wav" / "0.wav")])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two"))
    (corpus / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    register(folder, {"a": SHAREGPT | {"hf_hub_url": str(corpus), "subset": "two"}})
    assert references(load(folder, "a")[0]) == ["two"]


def test_a_split_of_a_file_counts_its_own_rows(folder):
    write_rows(folder / "a.jsonl", [talk(str(row), folder / "wav" / "0.wav") for row in range(10)])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl", "split": "train[6:8]"}})
    assert references(load(folder, "a")[0]) == ["6", "7"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository in the hub's cache, laid out as huggingface_hub lays it out; tests run offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "datasets--somebody--speech"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return repository / "snapshots" / ("0" * 40)


def test_a_remote_dataset_info_is_the_one_in_the_repository(folder, hub):
    (folder.parent / "corpus").mkdir()
    write_rows(folder.parent / "corpus" / "train.jsonl", [talk("Hallo", folder / "wav" / "0.wav")])
    register(hub, {"a": SHAREGPT | {"hf_hub_url": str(folder.parent / "corpus")}})
    (dataset,) = load("REMOTE:somebody/speech", "a")
    assert references(dataset) == ["Hallo"]


def test_entries_may_stand_in_the_recipe(folder):
    (folder.parent / "corpus").mkdir()
    write_rows(folder.parent / "corpus" / "train.jsonl", [talk("Hallo", folder / "wav" / "0.wav")])
    (dataset,) = load(None, "a", dataset_dir={"a": SHAREGPT | {"hf_hub_url": "corpus"}})
    assert references(dataset) == ["Hallo"]


def test_a_cloud_file_is_read_from_its_bucket(folder, monkeypatch):
    # LLaMA-Factory asks fsspec for the file system "s3"; here that is fsspec's own, in memory
    monkeypatch.setitem(file_systems, "s3", MemoryFileSystem)
    row = json.dumps(talk("Hallo", folder / "wav" / "0.wav"))
    MemoryFileSystem().pipe("s3://bucket/a.jsonl", row.encode())
    entry = SHAREGPT | {"cloud_file_name": "s3://bucket/a.jsonl"}
    register(folder, {"a": entry})
    (dataset,) = load(folder, "a")
    assert references(dataset) == ["Hallo"]
    assert dataset.entry == entry


def test_a_script_folder_that_holds_data_is_read(folder):
    (folder / "corpus").mkdir()
    write_rows(folder / "corpus" / "train.jsonl", [talk("Hallo", folder / "wav" / "0.wav")])
    register(folder, {"a": SHAREGPT | {"script_url": "corpus"}})
    (dataset,) = load(folder, "a")
    assert references(dataset) == ["Hallo"]
    assert dataset.entry["script_url"] == str(folder / "corpus")


def test_several_datasets_in_the_order_of_the_recipe_and_each_once(folder):
    # LLaMA-Factory keeps loaded datasets by name, so a duplicate name is trained on once
    for name in "ab":
        write_rows(folder / f"{name}.jsonl", [talk(name, folder / "wav" / "0.wav")])
    register(folder, {name: SHAREGPT | {"file_name": f"{name}.jsonl"} for name in "ab"})
    assert [dataset.name for dataset in load(folder, "b", "a", "b")] == ["b", "a"]


def write_audio_itself(folder, rows):
    table = datasets.Dataset.from_list(rows).cast_column("sound", datasets.Audio())
    table.to_parquet(str(folder / "a.parquet"))


def write_script(folder, _rows):
    (folder / "script").mkdir()
    (folder / "script" / "script.py").write_text("import datasets\n", encoding="utf-8")


def write_numbers(folder, rows):
    write_rows(folder / "a.jsonl", [row | {"task": 3} for row in rows])


def write_nothing(folder, _rows):
    (folder / "empty").mkdir()
    (folder / "a.jsonl").write_text("", encoding="utf-8")
    (folder / "a.json").write_text("[]", encoding="utf-8")


@pytest.mark.parametrize(
    ("write", "entry", "said"),
    [
        (write_audio_itself, {"file_name": "a.parquet"}, r"column holds audio data; LLaMA-Factory trains on p"),
        (write_script, {"script_url": "script"}, r"Dataset scripts are no longer supported.* register that with `file"),
        (write_nothing, {"script_url": "gone"}, r"its file .*gone does not exist"),
        (write_nothing, {"file_name": "empty"}, r"its folder .*empty is empty"),
        (write_nothing, {"file_name": "a.json"}, r"^The dataset a has no rows\.$"),
        (write_nothing, {}, r"names no source of its rows\. Add one of file_name, hf_hub_url"),
        (write_nothing, {"file_name": 3}, r"names no source of its rows"),
        (write_nothing, {"hf_hub_url": "nobody/nothing"}, r"cannot be loaded: Couldn't reach 'nobody/nothing'"),
        (write_nothing, {"cloud_file_name": "http://bucket/a.jsonl"}, r"cannot be loaded: Unsupported protocol"),
        (write_nothing, {"file_name": "a.jsonl", "columns": "sound"}, r"`columns` .* is a str; expected an object"),
        (write_nothing, {"file_name": "a.jsonl", "tags": None}, r"`tags` .* is a NoneType; expected an object"),
        (write_nothing, {"file_name": "a.jsonl", "columns": {"audios": ["sound"]}}, r"has no `audios` column"),
        (write_numbers, {"file_name": "a.jsonl", "split": "dev"}, r'cannot be loaded: Unknown split "dev"'),
        (
            write_numbers,
            {"file_name": "a.jsonl", "formatting": "odd"},
            r"converter odd not found\. Set `formatting` .* alpaca, ",
        ),
        (write_numbers, {"file_name": "a.jsonl"}, r"cannot be loaded: .*expected str instance, int found\. Check"),
    ],
)
@pytest.mark.parametrize("workers", [None, 2])
def test_what_cannot_be_loaded_is_one_line(folder, write, entry, said, workers):
    audio = str(folder / "wav" / "0.wav")
    write(folder, [{"task": ASK, "source": "", "translation": "Hallo", "sound": audio}] * 2)
    register(folder, {"a": {"columns": COLUMNS} | entry})
    with pytest.raises(DatasetError, match=said) as caught:
        load(folder, "a", preprocessing_num_workers=workers)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("ONLINE", r"ONLINE loads datasets without an entry, and so without audio\. Register"),
        ("REMOTE:nobody/nothing", r"No dataset is registered in REMOTE:nobody/nothing: "),
        ("REMOTE:a/b/c", r"No dataset is registered in REMOTE:a/b/c: "),
    ],
)
def test_a_place_without_entries_is_one_line(place, said):
    with pytest.raises(DatasetError, match=said) as caught:
        load(place, "a")
    assert "\n" not in str(caught.value)


def test_an_unknown_role_is_named(folder):
    write_rows(folder / "a.jsonl", [{"messages": turns(("critic", ASK), "x"), "audios": [str(folder / "wav/0.wav")]}])
    register(folder, {"a": SHAREGPT | {"formatting": "openai", "file_name": "a.jsonl", "tags": TAGS}})
    with pytest.raises(DatasetError, match=r"'critic' is not a column of its rows, or is a role without a tag"):
        load(folder, "a")
