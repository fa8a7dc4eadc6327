"""Rows of every kind: what can be cut, why the others cannot, and that none is changed where the file is rewritten.

What LLaMA-Factory trains on is asked of LLaMA-Factory: its own supervised processor reads original and rewritten rows.
"""

import json
import os
import shutil

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from offline_data import ASK, SHAREGPT, load, register, turns, write_rows
from PIL import Image

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.model.values import Sample, UnusableRow

FUNCTION = '[{"name": "look_up", "description": "", "parameters": {"properties": {}}}]'
CALL = '{"name": "look_up", "arguments": {}}'


@pytest.fixture(scope="module")
def processor():
    """LLaMA-Factory's processor for supervised training, with the packaged model's tokenizer."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.model import load_tokenizer

    arguments = inference_arguments({"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"})
    module = load_tokenizer(arguments.model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], arguments.data)
    return SupervisedDatasetProcessor(template, module["tokenizer"], module["processor"], arguments.data)


def read_one(folder, row, **columns):
    """The sample of one row; `columns` besides messages and audios."""
    write_rows(folder / "a.jsonl", [row])
    entry = SHAREGPT | {"file_name": "a.jsonl", "columns": SHAREGPT["columns"] | columns}
    register(folder, {"a": entry})
    (dataset,) = load(folder, "a")
    return dataset.sample(0)


def one(*contents, audios=1, **more):
    return {"messages": turns(*contents), "audios": [f"wav/{number}.wav" for number in range(audios)], **more}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (one(ASK, "Hallo"), None),
        (one(("system", "Kurz."), ("user", ASK), ("assistant", "Hallo")), None),
        (one("Ja?", "Ja.", ASK, "Hallo"), "multi_turn"),
        (one(("user", ASK), ("user", ASK)), "no_answer"),
        (one(("assistant", "Hallo"), ("user", ASK)), "no_answer"),
        (one(ASK), "no_answer"),
        (one(("tool", ASK), "Hallo"), "tools"),
        (one(ASK, ("call", CALL)), "tools"),
        (one(ASK, "Hallo", audios=2), "not_one_audio"),
        (one(f"{ASK}<audio>", "Hallo", audios=2), "not_one_audio"),
        (one("Translate.", "Hallo"), "not_one_audio"),
        (one(ASK, "das Wort <audio>"), "not_one_audio"),
        (one("Translate.", ASK), "not_one_audio"),
        (one(ASK, "Hallo <image>"), "other_media"),
        (one(f"{ASK}<video>", "Hallo"), "other_media"),
        (one(ASK, "Hallo", audios=0), "no_audio"),
        (one(ASK, "Hallo") | {"audios": None}, "no_audio"),
        (one(ASK, "Hallo") | {"audios": ["ftp://example.org/0.wav"]}, "audio_not_a_path"),
        (one(ASK, "Hallo") | {"audios": [{"path": "wav/0.wav", "bytes": None}]}, "audio_not_a_path"),
        (one(ASK, "Hallo") | {"audios": [0.5, 0.25]}, "audio_not_a_path"),
        (one(ASK, " \n"), "empty_reference"),
        (one(ASK, None), "empty_reference"),
        (one(None, "Hallo"), "not_text"),
        (one(5, 7), "not_text"),
        (one([{"type": "text", "text": ASK}], [{"type": "text", "text": "Hallo"}]), "not_text"),
    ],
)
def test_each_row_is_a_sample_or_has_its_reason(folder, row, reason):
    found = read_one(folder, row)
    assert found == UnusableRow(0, reason) if reason else isinstance(found, Sample)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("tools", FUNCTION, "tools"),
        ("tools", "", None),
        ("images", ["0.png"], "other_media"),
        ("images", [], None),
        ("videos", [["0.png", "1.png"]], "other_media"),
        ("videos", None, None),
        ("kto_tag", True, "several_answers"),
        ("kto_tag", False, "several_answers"),
        ("kto_tag", None, None),
    ],
)
def test_columns_besides_messages_and_audio(folder, column, value, reason):
    found = read_one(folder, one(ASK, "Hallo") | {column: value}, **{column: column})
    assert found == UnusableRow(0, reason) if reason else isinstance(found, Sample)


@pytest.mark.parametrize("formatting", ["sharegpt", "openai"])
def test_ranking_rows_have_several_answers(folder, formatting):
    answers = {name: {"role": "assistant", "content": name} for name in ("chosen", "rejected")}
    write_rows(folder / "a.jsonl", [one(ASK) | answers])
    columns = SHAREGPT["columns"] | {name: name for name in answers}
    entry = SHAREGPT | {"formatting": formatting, "file_name": "a.jsonl", "ranking": True, "columns": columns}
    register(folder, {"a": entry})
    (dataset,) = load(folder, "a")
    assert dataset.sample(0) == UnusableRow(0, "several_answers")


@pytest.mark.parametrize("form", ["bytes", "dict"])
def test_audio_that_stands_in_the_file_is_no_path(folder, form):
    content = (folder / "wav" / "0.wav").read_bytes()
    sound = content if form == "bytes" else {"path": "0.wav", "bytes": content}
    table = pyarrow.Table.from_pylist([{"instruction": ASK, "output": "Hallo", "audio": sound}])
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    columns = {"prompt": "instruction", "response": "output", "audios": "audio"}
    register(folder, {"a": {"file_name": "a.parquet", "columns": columns}})
    (dataset,) = load(folder, "a")
    assert dataset.sample(0) == UnusableRow(0, "audio_not_a_path")
    assert not dataset.has_relative_audio()


def test_dots_behind_a_symbolic_link_lead_where_the_file_is(folder):
    # data/corpus → /elsewhere/corpus, so corpus/../wav is /elsewhere/wav for the system that opens it
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "corpus").mkdir(parents=True)
    shutil.copytree(folder / "wav", elsewhere / "wav")
    (folder / "corpus").symlink_to(elsewhere / "corpus")
    row = one(ASK, "Hallo") | {"audios": ["corpus/../wav/0.wav"]}
    assert read_one(folder, row).audio == str(elsewhere / "wav" / "0.wav")


ZOO = {
    "plain": one(ASK, "Hallo"),
    "system": one(("system", "Kurz."), ("user", ASK), ("assistant", "Hallo")),
    "several turns": one("Ja?", "Ja.", ASK, "Hallo"),
    "several audios": one(f"{ASK}<audio>", "Hallo", audios=2),
    "no audio": one("Ja?", "Ja.", audios=0),
    "function call": one(ASK, ("call", CALL)) | {"tools": FUNCTION},
    "observation": one(ASK, ("call", CALL), ("tool", "Hallo"), "Hallo.") | {"tools": FUNCTION, "system": "Kurz."},
    "a column's system": one(ASK, "Hallo") | {"system": "Kurz."},
    "an empty answer": one(ASK, ""),
    "roles out of order": one(("user", ASK), ("user", ASK)),
    "no answer": one(ASK),
    "no turn": one(),
    "line ends and quotes": one(f'{ASK}\r\n"a"\t\\ \u2028 ü 你', '"a"\n\\\u2028 ü 你'),
    "a date": one(ASK, "2024-01-01"),
}


def write_zoo(folder, media):
    """Rows of every kind in a file; media as `row` names them."""
    empty = {"tools": "", "system": "", "images": [], "videos": []}
    rows = [empty | row for row in ZOO.values()]
    for number, row in enumerate(rows):
        row["messages"] = row["messages"] or []
        row["audios"] = [media(path) for path in row["audios"]]
        if number % 3 == 0:
            row["images"] = [media("frames/0.png")]
        if number % 4 == 0:
            row["videos"] = [[media("frames/0.png"), media("frames/1.png")]]
    write_rows(folder / "a.jsonl", rows)
    columns = SHAREGPT["columns"] | {name: name for name in empty}
    return SHAREGPT | {"file_name": "a.jsonl", "columns": columns, "num_samples": 7}


def write_alpaca_zoo(folder, media):
    rows = [
        {"instruction": ASK, "input": text, "output": answer, "history": history, "audios": media("wav/0.wav")}
        for text in ("", "Bitte.")
        for answer in ("Hallo", "", None)
        for history in ([], [["Ja?", "Ja."]])
    ]
    write_rows(folder / "a.jsonl", rows)
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    return {"file_name": "a.jsonl", "columns": columns | {name: name for name in ("history", "audios")}}


def write_openai_zoo(folder, media):
    call = [{"function": {"name": "look_up", "arguments": "{}"}}]
    asked = [*turns(ASK), {"role": "assistant", "content": "", "tool_calls": call}]
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    rows = [
        {"messages": turns(("system", "Kurz."), ("user", ASK), ("assistant", "Hallo")), "tools": None},
        {"messages": asked, "tools": tools},
        {"messages": [*asked, *turns(("tool", "a"), ("tool", "b"), ("assistant", "c"))], "tools": tools},
    ]
    write_rows(folder / "a.jsonl", [row | {"audios": [media("wav/0.wav")]} for row in rows])
    columns = SHAREGPT["columns"] | {"tools": "tools"}
    return SHAREGPT | {"formatting": "openai", "file_name": "a.jsonl", "columns": columns}


@pytest.mark.parametrize("write", [write_zoo, write_alpaca_zoo, write_openai_zoo])
def test_a_rewritten_file_is_aligned_as_the_original_row_by_row(folder, tmp_path, monkeypatch, write):
    (folder / "frames").mkdir()
    for number in range(2):
        Image.new("RGB", (4, 4)).save(folder / "frames" / f"{number}.png")
    register(folder, {"a": write(folder, lambda path: str(folder / path))})
    (absolute,) = load(folder, "a")
    assert not absolute.has_relative_audio()
    register(folder, {"a": write(folder, lambda path: path)})
    (relative,) = load(folder, "a")
    assert relative.has_relative_audio()

    (tmp_path / "out").mkdir()
    write_rows(tmp_path / "out" / "a.jsonl", relative.sharegpt_rows())
    register(tmp_path / "out", {"a": {"file_name": "a.jsonl", **relative.rewritten_entry()}})
    monkeypatch.chdir("/")  # nothing is found from here but by absolute paths
    (rewritten,) = load(tmp_path / "out", "a")
    assert not rewritten.has_relative_audio()
    assert rewritten.entry.get("num_samples") == absolute.entry.get("num_samples")
    assert [trained(row) for row in rewritten.rows] == [trained(row) for row in absolute.rows]
    assert [rewritten.sample(row) for row in range(len(rewritten))] == [
        absolute.sample(row) for row in range(len(absolute))
    ]


def trained(aligned):
    """An aligned row as training uses it: "" and [] are None to it, and what it drops is dropped."""
    if len(aligned["_prompt"]) % 2 != 1 or len(aligned["_response"]) != 1:
        return "dropped"
    return {key: value or None for key, value in aligned.items()}


def test_rewritten_rows_train_the_same_tokens(folder, tmp_path, processor):
    rows = [row for name, row in ZOO.items() if name not in ("no turn", "several audios")]
    write_rows(folder / "a.jsonl", [{"tools": "", "system": ""} | row for row in rows])
    columns = SHAREGPT["columns"] | {"tools": "tools", "system": "system"}
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl", "columns": columns}})
    (dataset,) = load(folder, "a")
    write_rows(tmp_path / "b.jsonl", dataset.sharegpt_rows())
    register(tmp_path, {"b": {"file_name": "b.jsonl", **dataset.rewritten_entry()}})
    (rewritten,) = load(tmp_path, "b")
    before, after = (
        dict(processor.preprocess_dataset(datasets.Dataset.from_list(list(one.rows))[:]))
        for one in (dataset, rewritten)
    )
    assert after["input_ids"] == before["input_ids"]
    assert after["labels"] == before["labels"]
    assert len(after["labels"]) == len(rows) - 2  # "roles out of order" and "no answer" are dropped
    assert [[os.path.abspath(path) for path in audios or []] for audios in before["audios"]] == [
        audios or [] for audios in after["audios"]
    ]


@pytest.mark.parametrize(
    ("columns", "extra", "lost"),
    [
        ({"kto_tag": "good"}, {"good": True}, r"pairs of answers \(`ranking`, `kto_tag`\)"),
        (
            {"images": "images"},
            {"images": [{"path": "0.png", "bytes": None}]},
            "images, videos or audio that are not p",
        ),
    ],
)
def test_what_a_rewritten_file_cannot_carry_is_refused_in_one_line(folder, columns, extra, lost):
    write_rows(folder / "a.jsonl", [one(ASK, "Hallo") | extra])
    entry = SHAREGPT | {"file_name": "a.jsonl", "columns": SHAREGPT["columns"] | columns}
    register(folder, {"a": entry})
    (dataset,) = load(folder, "a")
    assert dataset.has_relative_audio()
    for refused in (dataset.rewritten_entry, dataset.sharegpt_rows):
        with pytest.raises(DatasetError, match=rf"a has relative paths, .* cannot hold {lost}.*\. W") as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_relative_images_beside_absolute_audio_are_noticed(folder):
    # the registered copy has another dataset_dir, from which LLaMA-Factory would not find them
    Image.new("RGB", (4, 4)).save(folder / "0.png")
    row = one(f"{ASK}<image>", "Hallo") | {"audios": [str(folder / "wav" / "0.wav")], "images": ["0.png"]}
    write_rows(folder / "a.jsonl", [row])
    columns = SHAREGPT["columns"] | {"images": "images"}
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl", "columns": columns}})
    (dataset,) = load(folder, "a")
    assert dataset.has_relative_audio()
    assert next(dataset.sharegpt_rows())["images"] == [str(folder / "0.png")]


def test_a_web_address_is_neither_relative_nor_made_absolute(folder):
    rows = [one(ASK, "Hallo") | {"audios": [address]} for address in ("https://example.org/0.wav", "")]
    write_rows(folder / "a.jsonl", rows)
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    assert not dataset.has_relative_audio()
    assert [row["audios"] for row in dataset.sharegpt_rows()] == [row["audios"] for row in rows]


def test_paths_are_walked_once(folder, monkeypatch):
    write_rows(folder / "a.jsonl", [one(ASK, "Hallo")])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    assert dataset.has_relative_audio()
    monkeypatch.setattr(datasets.Dataset, "iter", None)  # a second walk would fail
    assert dataset.has_relative_audio()


def test_rows_are_json(folder):
    write_rows(folder / "a.jsonl", [one(ASK, "Hallo")])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    expected = {"messages": turns(ASK, "Hallo"), "audios": [str(folder / "wav" / "0.wav")]}
    assert json.loads(json.dumps(list(dataset.sharegpt_rows()))) == [expected]
