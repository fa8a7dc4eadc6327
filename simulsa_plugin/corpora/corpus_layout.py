"""Where the files of one corpus lie in the output folder."""

from __future__ import annotations

import re
from pathlib import Path

from simulsa_plugin.errors import UsageError
from simulsa_plugin.files.audio_folder import METADATA
from simulsa_plugin.run_configuration import RunFolder

_FOLDER_FILES = 1000  # audio files in one folder; hundreds of thousands are a burden for file systems and people


class CorpusLayout:
    """Where the files of the dataset `name` lie.

    Raises:
        UsageError: the name cannot be that of a file and of a dataset.
    """

    def __init__(self, out: Path, name: str) -> None:
        if not re.fullmatch(r"[\w+-][\w.+-]*", name):
            raise UsageError(f"The dataset cannot be called {name!r}; allowed: letters, digits, and _ - + . inside.")
        self.out, self.name = out, name
        self.rows = out / f"{name}.jsonl"
        self.folder = out / f"{name}_corpus"
        self.audio = self.folder / "audio"
        self.metadata = self.folder / METADATA
        self.parts = self.folder / "parts.jsonl"
        self.parts_noted = self.folder / "parts.partial.jsonl"
        self.dropped = self.folder / "dropped.jsonl"
        self.manifest = self.folder / "manifest.json"
        self.started = self.folder / "started.json"
        self.run = RunFolder(self.folder, self.started, self.manifest, "a corpus")

    def audio_file(self, number: int, suffix: str) -> Path:
        """Return the path for the audio of the `number`-th utterance, if it must be written."""
        return self.audio / f"{number // _FOLDER_FILES:05d}" / f"{number:08d}{suffix}"
