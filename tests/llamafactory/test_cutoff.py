"""Rows that LLaMA-Factory's `cutoff_len` cuts, in its own processor with the packaged model's tokenizer."""

import json
import types

import numpy as np
import pytest
from datasets.fingerprint import Hasher

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.data.training_data import rows_in_file
from simulsa_plugin.llamafactory.patches import cutoff_len as cutoff


def processor_of(renderer, cutoff_len):
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor

    # As the plugin does in a process that has it; without it the class is LLaMA-Factory's.
    checked = type("SupervisedDatasetProcessor", (SupervisedDatasetProcessor,), {})
    if not hasattr(SupervisedDatasetProcessor._encode_data_example, "__wrapped__"):
        checked = cutoff.check_truncated_rows(cutoff.record_truncated_rows(checked))
    keys = types.SimpleNamespace(cutoff_len=cutoff_len, mask_history=False, train_on_prompt=False)
    return checked(renderer.template, renderer.tokenizer, renderer.processor, keys)


def rows(answer="Der Hund schläft.", seconds=(1.0, 6.0)):
    audios = [[np.zeros(int(16_000 * one), np.float32)] for one in seconds]
    return {
        "_prompt": [[{"role": "user", "content": "<audio>Translate."}]] * len(audios),
        "_response": [[{"role": "assistant", "content": answer}]] * len(audios),
        "_audios": audios,
        "_system": [""] * len(audios),
        "_tools": [""] * len(audios),
        "_images": [None] * len(audios),
        "_videos": [None] * len(audios),
    }


def lengths(renderer):
    return [len(ids) for ids in processor_of(renderer, 10_000).preprocess_dataset(rows())["input_ids"]]


def test_rows_that_fit_are_as_before_and_nothing_is_said(renderer, capsys):
    longest = max(lengths(renderer))
    found = processor_of(renderer, longest).preprocess_dataset(rows())
    assert [len(ids) for ids in found["input_ids"]] == lengths(renderer)
    assert capsys.readouterr().err == ""


def test_rows_that_lose_audio_tokens_are_counted_in_an_error(renderer):
    shorter, longer = lengths(renderer)
    assert shorter < longer
    with pytest.raises(DatasetError, match=rf"off 1 of the 2 rows tokenized together.* has {longer} tokens: set"):
        processor_of(renderer, shorter).preprocess_dataset(rows())
    with pytest.raises(DatasetError, match="off 2 of the 2 rows"):
        processor_of(renderer, 12).preprocess_dataset(rows())


def test_rows_that_lose_text_alone_are_a_line(renderer, capsys):
    answer = "Der Hund schläft. " * 40
    whole = max(len(ids) for ids in processor_of(renderer, 10_000).preprocess_dataset(rows(answer))["input_ids"])
    processor_of(renderer, whole - 5).preprocess_dataset(rows(answer))
    assert f"cutoff_len: {whole - 5} cuts text off" in capsys.readouterr().err


def test_what_was_cut_before_changes_no_name_in_the_cache_of_datasets(renderer):
    processor = processor_of(renderer, 10_000)
    before = Hasher.hash(processor.preprocess_dataset)
    cutoff._truncated.append((1, 1))
    assert Hasher.hash(processor.preprocess_dataset) == before
    cutoff._truncated.clear()


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.jsonl", '{"x": 1}\n\n{"x": 2}', 2),
        ("a.json", json.dumps([1, 2, 3]), 3),
        ("a.json", '{"x": 1}\n{"x": 2}\n', None),
        ("a.csv", "x\n1\n", None),
    ],
)
def test_rows_of_a_file_are_counted_where_that_is_certain(tmp_path, name, text, rows):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert rows_in_file(str(tmp_path / name)) == rows
