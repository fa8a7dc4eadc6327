"""An offline dataset as the pipeline sees it, and the place of both datasets in the output folder.

Files in that folder that no run wrote are left as they are: `NAME_simulsa/owned.json` says which of the
files and entries beside it are a run's own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import UNFINISHED, make_folder, make_own_folder, refuse_link, writing_to
from simulsa_plugin.files.dataset_info import DATASET_INFO, SHAREGPT_ENTRY, merge_dataset_info, registered_datasets
from simulsa_plugin.files.json_files import read_jsonl, write_json, write_jsonl
from simulsa_plugin.files.locks import LOCK, locked_soon
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.run_configuration import read_configuration

DatasetEntries = Mapping[str, Mapping[str, Any]]
_FILES, _ENTRIES, _RELATIVE = "files", "entries", "offline_audio_is_relative"  # keys of owned.json


class SourceDataset(Protocol):
    """What the pipeline asks of an offline dataset (`llamafactory.data.dataset.OfflineDataset`)."""

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
        """Return one row as a sample, or the reason why it cannot be used."""
        ...

    def for_training(self, row: int) -> tuple[str | None, list[str]]:
        """Return what stops a training at a row, in words, before any audio is opened; and the audio to open."""
        ...

    def without(self, rows: Collection[int]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """Return the entry, without `file_name`, and the rows, with absolute paths, of a file without some rows."""
        ...

    def is_registered_in(self, folder: Path) -> bool:
        """Return whether its entry was read from `folder/dataset_info.json`."""
        ...

    def has_relative_audio(self) -> bool:
        """Return whether its paths only make sense beside its own file."""
        ...

    def rewritten_entry(self) -> dict[str, Any]:
        """Return the entry, without `file_name`, under which `sharegpt_rows` in a file are the same rows again."""
        ...

    def sharegpt_rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows with absolute paths."""
        ...


def open_layout(out: Path, name: str, *, trusted: bool = False) -> Layout:
    """Return the layout of a dataset, its folder created where it is missing.

    Args:
        out: the output folder.
        name: of the offline dataset.
        trusted: take the folder for that of a run, whatever it holds: the user has named a file in it.

    Raises:
        StorageError: see `refuse_foreign_output`; or the folder cannot be written.
    """
    layout = Layout(make_folder(out).absolute(), name)
    refuse_foreign_output(layout, trusted=trusted)
    make_own_folder(layout.folder)
    if not layout.owned.exists():
        with locked_soon(layout.folder):  # whoever holds the folder removes unfinished files that it did not write
            if not layout.owned.exists():
                write_json(layout.owned, {_FILES: [], _ENTRIES: {}})
    return layout


def refuse_foreign_output(layout: Layout, *, trusted: bool = False) -> None:
    """Raise StorageError where a link, or a file that no run wrote, is in the place of the augmented dataset."""
    refuse_link(layout.folder)
    refuse_link(layout.rows)
    with writing_to(layout.folder):
        _refuse_foreign_folder(layout, trusted=trusted)
    registered = registered_datasets(layout.out)
    for name, entry in augmented_entry(layout).items():
        if name in registered and not _leads_to_the_same(layout.out, registered[name], entry):
            raise _foreign(layout.out / DATASET_INFO, f"The entry {name} in ")


def _refuse_foreign_folder(layout: Layout, *, trusted: bool) -> None:
    ours = trusted or _is_ours(layout)
    if layout.folder.exists():
        for path in sorted(layout.folder.iterdir()) if layout.folder.is_dir() else [layout.folder]:
            refuse_link(path)
            if not (ours or _is_trace(path)):
                raise _foreign(path)
    if layout.rows.exists() and not (ours or _are_rows_of(layout)):
        raise _foreign(layout.rows)


def offline_entry(dataset: SourceDataset, settings: AugmentSettings, layout: Layout) -> dict[str, Any] | None:
    """Return the entry of the offline set in the output folder; None where it is read from there already.

    Relative audio paths get a rewritten file.

    Raises:
        StorageError: the output folder has another dataset of this name, or a file in the place of the rewritten one.
        DatasetError: its rows hold what a rewritten file cannot carry.
    """
    if dataset.is_registered_in(layout.out):
        return None
    entry, rewritten = dict(dataset.entry), dataset.has_relative_audio()
    if rewritten:
        if Path(entry.get("file_name", "")).resolve() == layout.rewritten.resolve():
            raise StorageError(
                f"{layout.rewritten} is the offline dataset itself and has relative audio paths. Choose another --out."
            )
        entry = {"file_name": str(layout.rewritten), **dataset.rewritten_entry()}
    check_entry(layout, dataset.name, entry)
    if rewritten:
        _check_rewritten(layout, entry)
    return portable_entry(entry, layout) if settings.portable else entry


def check_entry(layout: Layout, name: str, entry: Mapping[str, Any]) -> None:
    """Raise StorageError where dataset_info.json of the output folder has another dataset by this name."""
    registered, own = registered_datasets(layout.out), _read_owned(layout)[_ENTRIES]
    if name not in registered or (name in own and registered[name] == own[name]):
        return
    if _with_absolute_file(layout.out, registered[name]) != _with_absolute_file(layout.out, entry):
        raise StorageError(
            f"{layout.out / DATASET_INFO} has another dataset {name} than the one that is augmented. "
            "Choose another --out."
        )


def portable_entry(entry: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Return an entry whose file, if it lies in the output folder, is named relative to it."""
    if "file_name" not in entry or not Path(entry["file_name"]).is_relative_to(layout.out):
        return entry
    return entry | {"file_name": str(Path(entry["file_name"]).relative_to(layout.out))}


def register(dataset: SourceDataset, entry: dict[str, Any] | None, layout: Layout) -> None:
    """Add both datasets to the output folder's dataset_info.json; `entry` is that of `offline_entry`."""
    if entry is None:
        note_relative_audio(layout, relative=dataset.has_relative_audio())
    elif dataset.has_relative_audio():
        _note(layout, {_FILES: [layout.rewritten.name]})
        write_jsonl(layout.rewritten, dataset.sharegpt_rows())
    put_entries(layout, {**({} if entry is None else {dataset.name: entry}), **augmented_entry(layout)})


def put_entries(layout: Layout, entries: DatasetEntries) -> None:
    """Put entries into dataset_info.json, and note that this run wrote them; those of others stay as they are.

    `check_entry` and `refuse_foreign_output` have seen that these lead to the same rows.
    """
    registered, own = registered_datasets(layout.out), _read_owned(layout)[_ENTRIES]
    ours = {
        name: dict(entry)
        for name, entry in entries.items()
        if name not in registered or registered[name] == entry or (name in own and registered[name] == own[name])
    }
    merge_dataset_info(layout.out, ours)
    _note(layout, {_ENTRIES: {**own, **ours}})


def register_beside(dataset: SourceDataset, settings: AugmentSettings, out: Path) -> None:
    """Add a dataset without audio to `out/dataset_info.json`: a training may take it as well.

    Raises:
        StorageError: see `offline_entry`.
        DatasetError: likewise.
    """
    layout = Layout(make_folder(out).absolute(), dataset.name)
    entry = offline_entry(dataset, settings, layout)
    if entry is None:
        return
    if dataset.name not in registered_datasets(layout.out):
        merge_dataset_info(layout.out, {dataset.name: entry})
    if dataset.has_relative_audio():  # known as ours by the entry
        write_jsonl(layout.rewritten, dataset.sharegpt_rows())


def augmented_entry(layout: Layout) -> dict[str, dict[str, Any]]:
    """Return the entry of NAME_simulsa in dataset_info.json."""
    return {layout.rows.stem: {"file_name": layout.rows.name, **SHAREGPT_ENTRY}}


def note_relative_audio(layout: Layout, *, relative: bool) -> None:
    """Note whether the offline set's audio is found from this folder alone, for relabelling into another."""
    if relative != has_relative_audio(layout):
        _note(layout, {_RELATIVE: relative})


def has_relative_audio(layout: Layout) -> bool:
    """Return what `note_relative_audio` has noted."""
    return _read_owned(layout).get(_RELATIVE) is True


def _foreign(path: Path, what: str = "") -> StorageError:
    return StorageError(
        f"{what}{path} was not made by simulsa-augment, and stays as it is. Choose another --out, or move it away."
    )


def _is_ours(layout: Layout) -> bool:
    """Return whether a run has begun or ended in the folder; earlier versions left no owned.json."""
    if layout.owned.exists():
        return True
    noted = next((path for path in (layout.manifest, layout.started) if path.exists()), None)
    return noted is not None and isinstance(read_configuration(noted).get("settings"), dict)


def _is_trace(path: Path) -> bool:
    """Return whether the folder holds only what a run leaves that was killed before it claimed the folder."""
    if path.is_dir():
        return path.name == "clips" and all(map(_is_trace, path.iterdir()))
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(UNFINISHED))


def _are_rows_of(layout: Layout) -> bool:
    """Return whether a file of training rows names clips of this dataset: its folder was removed to start over."""
    try:
        first = next(read_jsonl(layout.rows), None)
        return first is None or Path(first["audios"][0]).parts[-3:-1] == (layout.folder.name, layout.clips.name)
    except (StorageError, LookupError, TypeError):
        return False


def _check_rewritten(layout: Layout, entry: Mapping[str, Any]) -> None:
    """Raise StorageError where a file that no run wrote is in the place of the rewritten offline file."""
    refuse_link(layout.rewritten)
    registered = registered_datasets(layout.out).get(layout.name)
    claimed = layout.rewritten.name in _read_owned(layout)[_FILES]
    if (
        layout.rewritten.exists()
        and not claimed
        and _with_absolute_file(layout.out, registered) != _with_absolute_file(layout.out, entry)
    ):
        raise _foreign(layout.rewritten)


def _read_owned(layout: Layout) -> dict[str, Any]:
    """Return the content of owned.json; empty where an earlier version, or a crash, left none."""
    empty: dict[str, Any] = {_FILES: [], _ENTRIES: {}}
    try:
        said = read_configuration(layout.owned) if layout.owned.exists() else empty
    except StorageError:
        return empty
    fits = isinstance(said.get(_FILES), list) and isinstance(said.get(_ENTRIES), dict)
    return said if fits else empty


def _note(layout: Layout, changed: Mapping[str, Any]) -> None:
    before = _read_owned(layout)
    if {**before, **changed} != before:
        write_json(layout.owned, {**before, **changed})


def _with_absolute_file(folder: Path, entry: object) -> object:
    """Return an entry with an absolute file name, so that two spellings of the same one are equal."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
        return entry
    return {**entry, "file_name": os.path.abspath(folder / entry["file_name"])}


def _leads_to_the_same(folder: Path, registered: object, entry: Mapping[str, Any]) -> bool:
    """Return whether both entries name the same source of rows."""
    one, other = _with_absolute_file(folder, registered), _with_absolute_file(folder, entry)
    return (
        isinstance(one, dict)
        and isinstance(other, dict)
        and (one == other or ("file_name" in one and one["file_name"] == other.get("file_name")))
    )
