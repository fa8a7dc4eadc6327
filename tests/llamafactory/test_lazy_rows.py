"""Rows are converted when they are read; the result equals that of LLaMA-Factory's own loader."""

import random
import sys

import datasets
import pytest
from helpers.memory import resident_kb
from llamafactory.data import converter
from offline_data import ASK, SHAREGPT, load, make_folder, register, turns, write_rows
from test_dataset_rows import write_alpaca_zoo, write_openai_zoo, write_zoo

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.data import aligned_rows, lazy_rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def write_many(folder, count, **changed):
    """Rows `Satz 0.` …; `changed` has other messages by the number of the row."""
    rows = [{"messages": turns(ASK, f"Satz {row}."), "audios": [str(folder / "wav" / "0.wav")]} for row in range(count)]
    for number, messages in changed.items():
        rows[int(number.removeprefix("row"))]["messages"] = messages
    write_rows(folder / "a.jsonl", rows)


@pytest.mark.parametrize("write", [write_zoo, write_alpaca_zoo, write_openai_zoo])
@pytest.mark.parametrize("relative", [False, True])
def test_rows_are_those_of_llamafactory(folder, monkeypatch, write, relative):
    register(folder, {"a": write(folder, lambda path: path if relative else str(folder / path))})
    (lazy,) = load(folder, "a")
    with monkeypatch.context() as patched:
        patched.setattr(aligned_rows, "converting_on_access", lambda naming: naming())  # changes nothing
        (mapped,) = load(folder, "a")
    assert isinstance(mapped.rows._rows, datasets.Dataset) and "_prompt" in mapped.rows._rows.column_names
    assert list(lazy.rows) == list(mapped.rows._rows)
    assert [lazy.rows[row] for row in range(len(lazy))] == list(mapped.rows._rows)
    assert lazy.has_audio() == any(row["_audios"] for row in mapped.rows._rows)


def test_only_the_first_rows_are_converted_before_one_is_asked_for(folder, monkeypatch):
    write_many(folder, 2500)
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    converted = []
    find = converter.SharegptDatasetConverter.__call__
    monkeypatch.setattr(
        converter.SharegptDatasetConverter, "__call__", lambda self, row: converted.append(row) or find(self, row)
    )
    (dataset,) = load(folder, "a")
    first = len(converted)
    assert first in (1000, 1001)  # the first one is looked at twice
    assert dataset.sample(2400).reference == "Satz 2400."
    assert len(converted) == first + 1
    assert dataset.has_audio() and not dataset.has_relative_audio()
    assert len(converted) == first + 1


def test_rows_are_the_same_in_any_order_and_as_often_as_they_are_read(folder):
    register(folder, {"a": write_zoo(folder, lambda path: path)})
    (dataset,) = load(folder, "a")
    expected, rows = list(dataset.rows), range(len(dataset))
    for order in (rows, rows[::-1], [*rows[3:6], *rows[1:4], *rows[1:4]]):
        assert [dataset.rows[row] for row in order] == [expected[row] for row in order]
    with pytest.raises(DatasetError):
        dataset.rows[len(dataset)]


def test_a_row_that_cannot_be_converted_is_named(folder):
    write_many(folder, 1200, row1150=turns(("critic", ASK), "x"))
    register(folder, {"a": SHAREGPT | {"formatting": "openai", "file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    assert dataset.sample(1149).reference == "Satz 1149."
    said = r"a cannot be loaded: 'critic' is not a column of its rows, or is a role without a tag, in row 1150 from 0\."
    with pytest.raises(DatasetError, match=said):
        dataset.sample(1150)
    with pytest.raises(DatasetError, match=said):
        list(dataset.rows)


def test_a_row_among_the_first_that_cannot_be_converted_shows_at_once(folder):
    write_many(folder, 20, row7=turns(("critic", ASK), "x"))
    register(folder, {"a": SHAREGPT | {"formatting": "openai", "file_name": "a.jsonl"}})
    with pytest.raises(DatasetError, match=r"'critic' .*, in row 7 from 0\. Check"):
        load(folder, "a")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_rows_that_were_read_do_not_stay_in_memory(folder, monkeypatch):
    write_many(folder, 5000)
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    release, resident = lazy_rows.release_mapped_pages, []

    def noted(files):
        (file,) = files
        before = resident_kb(file)
        release([file])
        resident.append((before, resident_kb(file)))

    monkeypatch.setattr(lazy_rows, "release_mapped_pages", noted)
    (dataset,) = load(folder, "a")
    for row in random.Random(0).sample(range(5000), 1000):
        assert dataset.sample(row).reference == f"Satz {row}."
    assert dataset.has_audio() and not dataset.has_relative_audio()
    assert len(resident) >= 1 + 10 + 1  # at the beginning, after every hundredth row, after all were looked at
    assert all(before > 0 == after for before, after in resident)
