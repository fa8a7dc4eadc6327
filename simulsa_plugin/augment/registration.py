"""An offline dataset as the pipeline sees it, and its place in the output folder's dataset_info.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

from simulsa_plugin.augment.layout import Layout
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.errors import StorageError
from simulsa_plugin.model import Sample, UnusableRow
from simulsa_plugin.storage import SHAREGPT_ENTRY, make_folder, merge_dataset_info, write_jsonl


class SourceDataset(Protocol):
    """What the pipeline asks of an offline dataset (`toolkit.dataset.OfflineDataset`)."""

    @property
    def name(self) -> str:
        """Its name in dataset_info.json."""
        ...

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry there, with an absolute file name."""
        ...

    def __len__(self) -> int: ...

    def sample(self, row: int) -> Sample | UnusableRow:
        """One row as a sample, or the reason why it is none."""
        ...

    def for_training(self, row: int) -> tuple[str | None, list[str]]:
        """What stops a training at a row, in words, before any audio is opened; and the audio that it would open."""
        ...

    def without(self, rows: Collection[int]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The entry, without `file_name`, and the rows with absolute paths of a file that leaves some rows out."""
        ...

    def has_relative_audio(self) -> bool:
        """Whether its paths only make sense beside its own file."""
        ...

    def rewritten_entry(self) -> dict[str, Any]:
        """The entry, without `file_name`, under which `sharegpt_rows` in a file are the same rows again."""
        ...

    def sharegpt_rows(self) -> list[dict[str, Any]]:
        """All rows with absolute paths."""
        ...


def offline_entry(dataset: SourceDataset, settings: AugmentSettings, layout: Layout) -> dict[str, Any]:
    """The offline set's entry in the output folder; relative audio paths get a rewritten file.

    Raises:
        StorageError: the rewritten file would replace the offline file itself.
        DatasetError: its rows hold what a rewritten file cannot carry.
    """
    entry = dict(dataset.entry)
    if dataset.has_relative_audio():
        if Path(entry.get("file_name", "")).resolve() == layout.rewritten.resolve():
            raise StorageError(
                f"{layout.rewritten} is the offline dataset itself and has relative audio paths. Choose another --out."
            )
        entry = {"file_name": str(layout.rewritten), **dataset.rewritten_entry()}
    return portable_entry(entry, layout) if settings.portable else entry


def portable_entry(entry: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """An entry whose file, where it lies in the output folder, is named from there."""
    if "file_name" not in entry or not Path(entry["file_name"]).is_relative_to(layout.out):
        return entry
    return entry | {"file_name": str(Path(entry["file_name"]).relative_to(layout.out))}


def register(dataset: SourceDataset, entry: dict[str, Any], layout: Layout) -> None:
    """Name both datasets in the output folder's dataset_info.json."""
    if dataset.has_relative_audio():
        write_jsonl(layout.rewritten, dataset.sharegpt_rows())
    merge_dataset_info(layout.out, {dataset.name: entry, **augmented_entry(layout)})


def register_beside(dataset: SourceDataset, settings: AugmentSettings, out: Path) -> None:
    """Name a dataset that is not cut, for it has no audio, in `out/dataset_info.json`: a training may take it as well.

    Raises:
        StorageError: see `offline_entry`.
        DatasetError: likewise.
    """
    layout = Layout(make_folder(out).absolute(), dataset.name)
    entry = offline_entry(dataset, settings, layout)
    if dataset.has_relative_audio():
        write_jsonl(layout.rewritten, dataset.sharegpt_rows())
    merge_dataset_info(layout.out, {dataset.name: entry})


def augmented_entry(layout: Layout) -> dict[str, dict[str, Any]]:
    """NAME_simulsa in dataset_info.json."""
    return {layout.rows.stem: {"file_name": layout.rows.name, **SHAREGPT_ENTRY}}
