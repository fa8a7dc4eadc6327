"""Samples of LLaMA-Factory's registered datasets."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.references import check_readable
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.data.aligned_rows import load_aligned_rows
from simulsa_plugin.llamafactory.data.dataset_registry import (
    check_dataset_entry,
    has_audio_column,
    no_dataset_error,
    read_dataset_info,
    with_absolute_paths,
)
from simulsa_plugin.llamafactory.data.lazy_rows import LazyRows
from simulsa_plugin.llamafactory.data.media_paths import absolute_path, absolute_paths, flatten, is_relative
from simulsa_plugin.llamafactory.data.row_checks import names_audio, training_problem, unusable_reason
from simulsa_plugin.llamafactory.data.segments_column import read_segments
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, silence_libraries
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow
from simulsa_plugin.segments import ReferenceSegment

_MEDIA = ("audios", "images", "videos")

# Tags of a rewritten offline file in dataset_info.json: one for every role that LLaMA-Factory knows.
_REWRITTEN_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
_REWRITTEN_COLUMNS = {"tools": "_tools", "images": "_images", "videos": "_videos"}  # besides `messages` and `audios`


@dataclass(frozen=True)
class OfflineDataset:
    """A registered dataset in LLaMA-Factory's aligned form.

    Attributes:
        name: its name in dataset_info.json.
        entry: its entry there, with an absolute file name.
        rows: in LLaMA-Factory's aligned form (`_prompt`, `_response`, `_system`, `_audios` …), one for each row of the
            file, or of its `split`; files of a folder in the order of their names.
        audio_token: audio placeholder of the recipe's template; None where it is not known.
        home: the folder whose dataset_info.json has the entry; None where it came from elsewhere.
        reads_segments: whether samples have the reference segments of long recordings, the rows' column `segments`.
    """

    name: str
    entry: dict[str, Any]
    rows: LazyRows
    audio_token: str | None = None
    home: str | None = None
    reads_segments: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, row: int) -> Sample | UnusableRow:
        """Return one row as a sample, or the reason why it is skipped.

        Raises:
            DatasetError: some row's `segments` are not those of a recording; see `without_segments`.
            StorageError: the dataset's file can no longer be read.
        """
        aligned = self.rows[row]
        reason = unusable_reason(aligned)
        if reason:
            audio = next(iter(aligned["_audios"] or ()), None)
            return UnusableRow(
                row, reason, absolute_path(audio) if isinstance(audio, str) else None, self._source_id(row)
            )
        prompt = Prompt(tuple(aligned["_prompt"]), aligned["_system"] or "")
        reference, audio = aligned["_response"][0]["content"], absolute_path(aligned["_audios"][0])
        segments = self._segments[row] if self._segments else ()
        return Sample(row, prompt, reference, audio, self._source_id(row), segments)

    def without_segments(self) -> OfflineDataset:
        """Return the dataset with rows that are one utterance each; a column `segments` may then hold anything."""
        return replace(self, reads_segments=False)

    def has_audio(self) -> bool:
        """Return whether any row has audio; a training may mix speech and text."""
        return has_audio_column(self.entry) and any(self.rows.media("audios"))

    def is_registered_in(self, folder: Path) -> bool:
        """Return whether its entry was read from `folder/dataset_info.json`."""
        return self.home is not None and folder.is_dir() and os.path.samefile(self.home, folder)

    def has_relative_audio(self) -> bool:
        """Return whether any row has a relative path of media, which another `dataset_dir` would not find."""
        return self._has_relative_media

    @functools.cached_property
    def _has_relative_media(self) -> bool:
        return any(isinstance(path, str) and is_relative(path) for path in self._paths())

    def rewritten_entry(self) -> dict[str, Any]:
        """Return the entry, without `file_name`, of a file with these `sharegpt_rows`.

        Raises:
            DatasetError: such a file cannot hold everything in the rows.
        """
        self._check_rewritable()
        return self._rewritten()[0]

    def _rewritten(self) -> tuple[dict[str, Any], list[str]]:
        """Return the entry of `rewritten_entry`, and its columns besides messages and audio."""
        more = [column for column in _REWRITTEN_COLUMNS if self.entry.get("columns", {}).get(column)]
        columns = {"messages": "messages", "audios": "audios"} | {column: column for column in more}
        share = {key: self.entry[key] for key in ("num_samples",) if key in self.entry}
        return {"formatting": "sharegpt", "columns": columns, "tags": dict(_REWRITTEN_TAGS), **share}, more

    def sharegpt_rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows as sharegpt with absolute paths, for a rewritten offline file; see `rewritten_entry`.

        Rows that supervised training drops are kept, and dropped there again.

        Raises:
            DatasetError: such a file cannot hold everything in the rows.
        """
        self._check_rewritable()
        _, columns = self._rewritten()
        return (_as_sharegpt(aligned, columns) for aligned in self.rows)

    def for_training(self, row: int) -> tuple[str | None, list[str]]:
        """Return what stops a training at a row before audio is read, if anything, and the audio files that it reads.

        Rows that LLaMA-Factory drops do not stop it.
        """
        aligned = self.rows[row]
        turns = [*(aligned["_prompt"] or []), *(aligned["_response"] or [])]
        audios = aligned["_audios"] or []
        if not aligned["_prompt"] or len(aligned["_response"] or []) != 1:
            return None, []
        cause = training_problem(turns, aligned, self.audio_token)
        if cause is None and not all(map(names_audio, audios)):
            cause = "the row's audio is not the path of a file"
        return cause, [] if cause else absolute_paths(audios)

    def without(self, rows: Collection[int]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """Return the entry, without `file_name`, and the rows with absolute paths of a file that excludes some rows.

        Raises:
            DatasetError: the rows have pairs of answers, which such a file cannot hold.
        """
        if self._has_several_answers:
            raise DatasetError(f"The dataset {self.name} has pairs of answers (`ranking`, `kto_tag`).")
        entry, columns = self._rewritten()
        kept = (aligned for row, aligned in enumerate(self.rows) if row not in rows)
        return entry, (_as_sharegpt(aligned, columns) for aligned in kept)

    def _check_rewritable(self) -> None:
        if self._not_rewritable:
            raise DatasetError(
                f"The dataset {self.name} has relative paths, so a copy with absolute ones would be written, but it "
                f"cannot hold {self._not_rewritable}. Write absolute paths into the dataset itself."
            )

    @functools.cached_property
    def _not_rewritable(self) -> str | None:
        """Content that a rewritten file cannot hold; None where it can hold everything."""
        if self._has_several_answers:
            return "pairs of answers (`ranking`, `kto_tag`)"
        if not all(isinstance(path, str) for path in self._paths()):
            return "images, videos or audio that are not paths"
        return None

    @functools.cached_property
    def _has_several_answers(self) -> bool:
        return self.rows.may_have_several_answers and any(len(row["_response"] or []) > 1 for row in self.rows)

    def _source_id(self, row: int) -> str | None:
        """Return the id of a row of a JSONL file, which the aligned form does not have; None without one."""
        if not self._is_jsonl:
            return None
        found = self.rows.original(row).get("id")
        return found if isinstance(found, str) else None

    @functools.cached_property
    def _is_jsonl(self) -> bool:
        return Path(self.entry.get("file_name") or "").suffix == ".jsonl"

    @functools.cached_property
    def _segments(self) -> list[tuple[ReferenceSegment, ...]]:
        """Reference segments of the rows; empty where no row has any."""
        if not self.reads_segments:
            return []
        return read_segments(Path(self.entry.get("file_name") or ""), len(self))

    def _paths(self) -> Iterator[Any]:
        """Yield every path, or the value in its place."""
        for kind in _MEDIA:
            for media in self.rows.media(kind):
                yield from flatten(media)


def load_datasets(arguments: InferenceArguments, names: list[str]) -> list[OfflineDataset]:
    """Load all rows of registered datasets in file order; a repeated name counts once, as in LLaMA-Factory.

    Raises:
        DatasetError: no name, no dataset_info.json, an unknown name, a missing file, invalid JSON, or no audio column
            in any of them.
    """
    if not names:
        raise no_dataset_error()
    info = read_dataset_info(arguments.data.dataset_dir)
    return [_load_dataset(arguments, info, name) for name in _check_any_audio(info, names)]


def _check_any_audio(info: Mapping[str, Any], names: list[str]) -> list[str]:
    """Return the names, each once. Raises DatasetError unless an entry has audio; others may be text."""
    entries = [info.get(name) for name in names]
    if all(isinstance(entry, dict) and not has_audio_column(entry) for entry in entries):
        raise DatasetError(
            f"The dataset {names[0]} has no audio: its entry in dataset_info.json has no `audios` column. "
            'Add "columns": {"messages": …, "audios": …}.'
        )
    return list(dict.fromkeys(names))


def _load_dataset(arguments: InferenceArguments, info: Mapping[str, Any], name: str) -> OfflineDataset:
    entry = check_dataset_entry(arguments.data.dataset_dir, info, name)
    silence_libraries()
    from llamafactory.data.parser import get_dataset_list

    (attributes,) = get_dataset_list([name], {name: entry})
    entry = with_absolute_paths(entry, attributes, arguments.data.dataset_dir, name)
    rows = load_aligned_rows(arguments, attributes, name, entry)
    if len(rows) == 0:
        raise DatasetError(f"The dataset {name} has no rows.")
    for audio in rows[0]["_audios"] or ():
        if names_audio(audio):
            check_readable(audio)  # before the model is loaded
    folder = arguments.data.dataset_dir
    home = os.path.abspath(folder) if isinstance(folder, str) and os.path.isdir(folder) else None
    return OfflineDataset(name, entry, rows, _audio_token(arguments.data.template), home)


def _audio_token(template: str | None) -> str | None:
    from llamafactory.data.template import TEMPLATES

    token = getattr(TEMPLATES[template].mm_plugin, "audio_token", None) if template in TEMPLATES else None
    return token if isinstance(token, str) else None


def _as_sharegpt(aligned: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return an aligned row as sharegpt; `columns` are those of `_REWRITTEN_COLUMNS` besides messages and audios."""
    system = [{"role": "system", "content": aligned["_system"]}] if aligned["_system"] else []
    row: dict[str, Any] = {
        "messages": [*system, *(aligned["_prompt"] or []), *(aligned["_response"] or [])],
        "audios": absolute_paths(aligned["_audios"]),
    }
    for column in columns:
        value = aligned[_REWRITTEN_COLUMNS[column]]
        row[column] = (value or "") if column == "tools" else absolute_paths(value)
    return row
