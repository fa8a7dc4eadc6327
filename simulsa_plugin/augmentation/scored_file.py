"""A scores.jsonl read for relabelling: every row checked, with the files beside it if a run wrote it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.method.acceptance import LOGPROB_TOLERANCE
from simulsa_plugin.augmentation.method.selection import Skipped, parse_sample_id, walk
from simulsa_plugin.augmentation.output_layout import LOGPROB_FIELDS, SUFFIX, Layout, audio_name, audio_place
from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.files.dataset_info import registered_datasets
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.run_configuration import read_sealed_configuration

TEXT_FIELDS = ("id", "audio", "clip", "reference")
SCORES = "scores.jsonl"
SECONDS_FIELDS = ("duration_seconds", "cut_seconds")
TOKEN_FIELDS = ("char_ends", "greedy", "margins", *LOGPROB_FIELDS)
REQUIRED = frozenset({*TEXT_FIELDS, *SECONDS_FIELDS, "messages", "token_ids", "char_ends", "logprobs"})


@dataclass(frozen=True)
class ScoredFile:
    """A scores.jsonl, and the files beside it if a run wrote it.

    Attributes:
        path: of the file, absolute.
        name: of the offline dataset.
        manifest: of the run that scored; empty where there is none.
        entry: the offline dataset's entry in dataset_info.json, its file name absolute; empty where there is none.
    """

    path: Path
    name: str
    manifest: dict[str, Any]
    entry: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> ScoredFile:
        """Look at the first row, the manifest and dataset_info.json.

        Raises:
            UsageError: there is no such file, or it is a folder.
            StorageError: the file is empty or broken, or of a run that is not finished.
        """
        _check_is_file(path)
        path = path.resolve() if ".." in path.parts else path.absolute()
        first = next(read_jsonl(path, sealed=True), None)
        if first is None:
            raise StorageError(f"{path} has no rows. Give a scores.jsonl that has some.")
        _check_row(first, 1, path)
        name = parse_sample_id(first["id"])[0]
        return cls(path, name, _manifest_beside(path), _offline_entry(path.parent.parent, name))

    @cached_property
    def _folder(self) -> str:
        return str(self.path.parent.parent)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of the run that scored, as far as they are known."""
        return {key: value for key, value in self.manifest.get("settings", {}).items() if value is not None}

    def count(self, key: str) -> int | None:
        """Return a count of the run that scored; None where it is not known."""
        value: int | None = self.manifest.get("counts", {}).get(key)
        return value

    def rows(self, layout: Layout, *, portable: bool) -> Iterator[dict[str, Any]]:
        """Yield rows with their clips as the output folder names them.

        Raises:
            StorageError: a row is broken, is another dataset's, or is duplicated, and its line is named; or the rows
                are not as many as the manifest says.
            UsageError: clips outside the output folder cannot be portable.
        """
        seen: set[str] = set()
        for number, row in enumerate(read_jsonl(self.path, sealed=True), 1):
            _check_row(row, number, self.path)
            if parse_sample_id(row["id"])[0] != self.name or row["id"] in seen:
                raise StorageError(
                    f"{self.path}, row {number}: {row['id']} is duplicated, or is of another dataset than "
                    f"{self.name}. Give every dataset a file of its own."
                )
            seen.add(row["id"])
            audio = self._audio(row["audio"], layout, portable)
            yield {**row, "audio": audio, "clip": self._clip(row["clip"], layout, portable)}
        if self.count("scored") not in (None, len(seen)):
            raise StorageError(
                f"{self.path} has {len(seen)} rows, and the manifest.json beside it says {self.count('scored')}. Start "
                "the command that made it again: it adds what is missing."
            )

    def _audio(self, name: str, layout: Layout, portable: bool) -> str:
        place = audio_place(name, self._folder)
        known = place == name or os.path.exists(place)  # other programs may have meant another folder
        return audio_name(place, layout.out, portable=portable) if known else name

    def _clip(self, clip: str, layout: Layout, portable: bool) -> str:
        if not portable:
            return os.path.join(self._folder, clip)
        path = self.path.parent.parent / clip
        real = _resolved(path.parent) / path.name
        if not real.is_relative_to(_resolved(layout.out)):
            raise UsageError(
                f"simulsa_portable needs the clips inside --out, but they lie in {path.parent}. "
                f"Use --out {self.path.parent.parent}, or leave simulsa_portable out."
            )
        return str(real.relative_to(_resolved(layout.out)))

    def skipped(self, last_id: str | None) -> list[Skipped]:
        """Return what the walk left out before `last_id`, or at all, without dropped empty partials.

        Raises:
            StorageError: skipped.jsonl is broken.
        """
        path = self.path.with_name("skipped.jsonl")
        skipped = list(_skips(path)) if path.exists() else []
        rows, seed = self.manifest.get("rows"), self.settings.get("simulsa_seed")
        if last_id is None or rows is None or seed is None:
            return skipped
        _, last_row, last_cut = parse_sample_id(last_id)
        parsed = [(one, *parse_sample_id(one.id)[1:]) for one in skipped]
        named = {last_row, *(row for _, row, _ in parsed)}
        places = {row: place for place, row in enumerate(walk(self.name, rows, seed)) if row in named}
        last = (places.get(last_row, rows), last_cut)
        return [one for one, row, cut in parsed if (places.get(row, rows), cut) < last]


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        found = sorted(map(str, [*path.glob(SCORES), *path.glob(f"*{SUFFIX}/{SCORES}")]))
        hint = (
            f"Give {' or '.join(found)}." if found else f"It holds none: give NAME{SUFFIX}/{SCORES} of an --out folder."
        )
        raise UsageError(f"{path} is a folder; expected a {SCORES} of simulsa-augment. {hint}")
    if not path.exists():
        raise UsageError(
            f"{path} does not exist. Give a {SCORES} of simulsa-augment: NAME{SUFFIX}/{SCORES} in its --out."
        )


def _manifest_beside(path: Path) -> dict[str, Any]:
    """Read the manifest of the run that wrote the file; empty where it was written otherwise."""
    manifest_path = path.with_name("manifest.json")
    if not manifest_path.exists():
        if path.with_name("started.json").exists():
            raise StorageError(f"The run beside {path} is not finished. Start it again, and decide when it is done.")
        return {}
    manifest = read_sealed_configuration(manifest_path)
    if not all(isinstance(manifest.get(key, {}), dict) for key in ("settings", "counts", "versions")):
        raise StorageError(f"{manifest_path} is not a manifest of simulsa-augment. Move it away, or fix it.")
    return manifest


def _offline_entry(folder: Path, name: str) -> dict[str, Any]:
    """Return an offline dataset's entry in the folder of a run, its file name absolute."""
    registered = registered_datasets(folder).get(name)
    if not isinstance(registered, dict) or not isinstance(registered.get("file_name", ""), str):
        return {}
    if "file_name" not in registered:  # it is hosted on a hub
        return dict(registered)
    return registered | {"file_name": str(folder / registered["file_name"])}


def _skips(path: Path) -> Iterator[Skipped]:
    for number, row in enumerate(read_jsonl(path), 1):
        identifier, reason = row.get("id"), row.get("reason")
        try:
            if not isinstance(identifier, str) or not isinstance(reason, str):
                raise ValueError("id and reason are not both text")
            parse_sample_id(identifier)
        except ValueError as error:
            raise StorageError(f"{path}, row {number}: {error}. Fix the file, or move it away.") from error
        if reason != "empty_partial":
            known = {key: row[key] for key in ("audio", "cause", "source_id") if isinstance(row.get(key), str)}
            yield Skipped(identifier, reason, **known)


@lru_cache(maxsize=64)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _check_row(row: Mapping[str, Any], number: int, path: Path) -> None:
    """Raise StorageError unless a rule can decide over the row."""
    problem = _row_problem(row)
    if problem:
        raise StorageError(f"{path}, row {number}: {problem}. Score again, or fix the file.")


def _row_problem(row: Mapping[str, Any]) -> str | None:
    missing = sorted(key for key in REQUIRED if row.get(key) is None)
    if missing:
        return f"no {missing[0]}"
    if not all(isinstance(row[key], str) for key in TEXT_FIELDS):
        return f"{', '.join(TEXT_FIELDS)} are not all text"
    if not _are_finite([row[key] for key in SECONDS_FIELDS]) or min(row[key] for key in SECONDS_FIELDS) <= 0:
        return f"{' and '.join(SECONDS_FIELDS)} are not positive numbers"
    if not isinstance(row["messages"], list) or not all(map(_is_message, row["messages"])):
        return "messages is not a list of turns with role and content"
    if Path(row["clip"]).name in ("", "..") or "\0" in row["clip"] + row["id"]:
        return f"clip {row['clip']!r} of {row['id']!r} is not a file name"
    try:
        parse_sample_id(row["id"])
    except ValueError as error:
        return str(error)
    return _problem_with_tokens(row)


def _problem_with_tokens(row: Mapping[str, Any]) -> str | None:
    if not _are_whole(row["token_ids"]):
        return "token_ids is not a list of whole numbers"
    for key in TOKEN_FIELDS:
        values = row.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != len(row["token_ids"])):
            return f"{key} does not have one value for each token"
    length = len(row["reference"])
    if not all(end is None or (type(end) is int and 0 <= end <= length) for end in row["char_ends"]):
        return f"char_ends holds something that is neither null nor from 0 to {length}, the length of the reference"
    if not _are_whole(row.get("unstable_prefixes") or []):
        return "unstable_prefixes is not a list of whole numbers"
    return _problem_with_scores(row)


def _problem_with_scores(row: Mapping[str, Any]) -> str | None:
    if not _are_whole(row.get("greedy") or []):
        return "greedy holds something that is not a whole number"
    for key in ("margins", *LOGPROB_FIELDS):
        if not _are_finite(row.get(key) or ()):
            return f"{key} holds something that is not a finite number"
    for key in LOGPROB_FIELDS:
        if max(row.get(key) or (), default=0.0) > LOGPROB_TOLERANCE:
            return f"{key} holds something above 0, which is not the logarithm of a probability"
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _are_whole(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {int}


def _are_finite(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and all(map(sys.float_info.max.__ge__, map(abs, values)))
