"""A test set that is trained on is known by its name, its file or its repository."""

import pytest

from simulsa_plugin.llamafactory.data.leakage import find_training_overlap

ENTRIES = {
    "train": {"file_name": "train.jsonl"},
    "copy": {"file_name": "sub/../train.jsonl"},
    "test": {"file_name": "test.jsonl"},
    "parts": {"file_name": "parts"},
    "part": {"file_name": "parts/test.jsonl"},
    "hub_train": {"hf_hub_url": "org/corpus", "split": "train"},
    "hub_default": {"hf_hub_url": "org/corpus"},
    "hub_test": {"hf_hub_url": "org/corpus", "split": "test"},
    "hub_other": {"hf_hub_url": "org/corpus", "subset": "de"},
}


def said(test, *training):
    return find_training_overlap(test, ENTRIES[test], training, ENTRIES, "/data")


@pytest.mark.parametrize(
    ("test", "training", "expected"),
    [
        ("train", ("test", "train"), "the training dataset train"),
        ("train", ("train_simulsa",), "the dataset that the partial samples of train_simulsa, a training dataset"),
        ("copy", ("train",), "the training dataset train, registered with the same source"),
        ("part", ("parts",), "the training dataset parts, registered with the same source"),
        ("hub_default", ("hub_train",), "the training dataset hub_train, registered with the same source"),
    ],
)
def test_a_test_set_that_is_trained_on_is_found(test, training, expected):
    assert said(test, *training).startswith(expected)


@pytest.mark.parametrize(
    ("test", "training"),
    [
        ("test", ("train", "train_simulsa", "copy")),
        ("hub_test", ("hub_train", "hub_default")),
        ("hub_other", ("hub_train",)),
        ("test", ("somewhere_else",)),
        ("parts", ("train",)),
    ],
)
def test_another_file_split_or_subset_is_another_set(test, training):
    assert said(test, *training) is None


def test_the_same_name_in_another_folder_is_another_set():
    assert (
        find_training_overlap("train", {"file_name": "/results/corpus/train.jsonl"}, ["train"], ENTRIES, "/data")
        is None
    )


def test_a_link_to_the_training_file_is_found(tmp_path):
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("train.jsonl")
    entries = {"a": {"file_name": "train.jsonl"}, "b": {"file_name": "link.jsonl"}}
    assert "the training dataset a" in find_training_overlap("b", entries["b"], ["a"], entries, str(tmp_path))
