"""Reads the output of `simulsa-augment` on the embedded corpus, and writes the datasets of a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.method.selection import parse_sample_id
from simulsa_plugin.augmentation.output_layout import SUFFIX, Layout
from simulsa_plugin.augmentation.scored_file import ScoredFile
from simulsa_plugin.demo import corpus
from simulsa_plugin.demo.corpus import DEV_NAME, OFFLINE_NAME, TEST_NAME
from simulsa_plugin.demo.truth import TruthFile, find_truth
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.files.atomic import make_folder, make_own_folder
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import read_jsonl, write_jsonl
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import add_datasets, claim, refuse_other_datasets

AUGMENTED_NAME = f"{OFFLINE_NAME}{SUFFIX}"

DataRow = Mapping[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A dataset that a variant writes.

    Attributes:
        rows: as LLaMA-Factory reads them.
        entry: in dataset_info.json, without `file_name`.
        truth: rows of a `NAME_truth.jsonl` beside it.
    """

    rows: Sequence[DataRow]
    entry: Mapping[str, Any]
    truth: Sequence[DataRow] = ()


@dataclass(frozen=True)
class Augmented:
    """An output folder of `simulsa-augment` on the embedded corpus.

    Attributes:
        entry: of the offline dataset in dataset_info.json, its file name absolute.
        scores: rows of scores.jsonl, their clips absolute.
        truth: supported parts of the references.
        output_width: V of the scoring model.
    """

    entry: Mapping[str, Any]
    scores: Sequence[DataRow]
    truth: TruthFile
    output_width: int

    @classmethod
    def open(cls, folder: Path) -> Augmented:
        """Read a folder.

        Raises:
            StorageError: its scores.jsonl is missing or damaged.
            DatasetError: the offline dataset is not registered there, or has no truth beside it.
        """
        scored = ScoredFile.open(folder / AUGMENTED_NAME / "scores.jsonl")
        truth = find_truth(OFFLINE_NAME, scored.entry)
        width = scored.manifest.get("output_width")
        if truth is None or not isinstance(width, int):
            raise DatasetError(
                f"{folder} is not the embedded corpus with its truth and a manifest. Create it: "
                f"simulsa-augment dataset={OFFLINE_NAME} dataset_dir=data --out {folder}"
            )
        rows = scored.rows(Layout(folder.absolute(), OFFLINE_NAME), portable=False)
        return cls(scored.entry, list(rows), truth, width)

    def offline_rows(self) -> list[dict[str, Any]]:
        """Read the rows of the offline dataset."""
        return list(read_jsonl(Path(self.entry["file_name"])))

    def true_partial(self, row: DataRow) -> str:
        """Return the part of a scored row's reference that is certain from its clip, whatever follows.

        Raises:
            DatasetError: the truth belongs to another corpus.
        """
        partial = self.truth.true_partial(parse_sample_id(row["id"])[1], row["reference"], row["cut_seconds"])
        if partial is None:
            raise DatasetError(
                f"The truth beside {self.entry['file_name']} does not contain {row['id']}. Augment the "
                "current corpus again."
            )
        return partial


def make_audio_folder(out: Path, name: str) -> Path:
    """Create a folder for audio of rows in the output folder, if it is missing.

    Raises:
        StorageError: a foreign folder is in its place, or it cannot be created.
    """
    out = make_folder(out).absolute()
    claim(out, [name])
    return make_own_folder(out / name)


def speak_evaluation_sets(folder: Path) -> dict[str, Dataset]:
    """Synthesise the embedded dev and test set into a folder, unless they exist there.

    Raises:
        StorageError: the folder cannot be used.
    """
    corpus.write_demo_corpus(folder, rows=0, test_rows=corpus.TEST_ROWS, dev_rows=corpus.DEV_ROWS)
    return {
        name: sharegpt(list(read_jsonl(folder / f"{name}.jsonl")), list(read_jsonl(folder / _truth_name(name))))
        for name in (DEV_NAME, TEST_NAME)
    }


def sharegpt(rows: Sequence[DataRow], truth: Sequence[DataRow] = ()) -> Dataset:
    """Make a dataset of rows with `messages` and `audios`."""
    return Dataset(rows, SHAREGPT_ENTRY, truth)


def write_datasets(out: Path, offline: Mapping[str, Any], datasets: Mapping[str, Dataset]) -> None:
    """Write datasets and register them, and the offline one unless it is among them.

    Raises:
        StorageError: the folder cannot be used, or has another dataset with one of the names.
    """
    out = make_folder(out).absolute()
    entries = {name: {"file_name": str(out / f"{name}.jsonl"), **dataset.entry} for name, dataset in datasets.items()}
    entries = {OFFLINE_NAME: dict(offline)} | entries
    with locked(out):
        refuse_other_datasets(out, entries)
        claim(out, [f"{name}.jsonl" for name in datasets] + [_truth_name(name) for name in datasets])
        for name, dataset in datasets.items():
            if dataset.truth:
                write_jsonl(out / _truth_name(name), dataset.truth)
            write_jsonl(out / f"{name}.jsonl", dataset.rows)
    add_datasets(out, entries)


def _truth_name(name: str) -> str:
    return f"{name}_truth.jsonl"
