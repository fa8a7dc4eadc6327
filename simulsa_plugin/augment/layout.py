"""Where the files of one augmented dataset lie, and the refusal to mix two datasets in one place."""

from __future__ import annotations

from pathlib import Path

from simulsa_plugin.errors import StorageError
from simulsa_plugin.storage import remove_leftovers

SUFFIX = "_simulsa"


class Layout:
    """Where the files of one offline dataset lie in the output folder."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name = out, name
        self.folder = out / f"{name}{SUFFIX}"
        self.rows = out / f"{name}{SUFFIX}.jsonl"
        self.clips = self.folder / "clips"
        self.scores = self.folder / "scores.jsonl"
        self.journal = self.folder / "scores.partial.jsonl"
        self.skipped = self.folder / "skipped.jsonl"
        self.manifest = self.folder / "manifest.json"
        self.started = self.folder / "started.json"
        self.rewritten = out / f"{name}.jsonl"

    def remove_leftovers(self) -> None:
        """Remove what a killed run was writing; the folder is locked."""
        for folder in (self.folder, self.clips):
            remove_leftovers(folder)
        for path in (self.rows, self.rewritten):
            remove_leftovers(self.out, path.name)


def other_data(folder: Path, identifier: str) -> StorageError:
    """The refusal when a file is about other data than this run's, though the names are the same."""
    return StorageError(
        f"{folder} holds a run on other data under the same name ({identifier} differs). "
        "Choose another --out, or remove that folder."
    )
