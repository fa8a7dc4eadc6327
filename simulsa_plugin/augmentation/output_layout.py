"""Where the files of one augmented dataset lie, and the refusal to mix two datasets in one place."""

from __future__ import annotations

import os
from pathlib import Path

from simulsa_plugin.errors import DatasetError, StorageError
from simulsa_plugin.files.atomic import remove_leftovers
from simulsa_plugin.files.audio_folder import METADATA
from simulsa_plugin.run_configuration import RunFolder
from simulsa_plugin.sharding import Shard

SUFFIX = "_simulsa"
CLEAN_SUFFIX = "_clean"  # of the offline rows without those that stop a training
WAV_HEADER_BYTES = 44  # of a clip; two bytes a sample follow
LOGPROB_FIELDS = ("logprobs", "logprobs_full", "logprobs_lookback")  # of a row of scores.jsonl


class Layout:
    """Where the files of one offline dataset lie in the output folder."""

    def __init__(self, out: Path, name: str) -> None:
        if Path(name).name != name or name.startswith("."):
            raise DatasetError(f"The dataset name {name!r} cannot be a file name. Rename it in dataset_info.json.")
        self.out, self.name = out, name
        self.folder = out / f"{name}{SUFFIX}"
        self.rows = out / f"{name}{SUFFIX}.jsonl"
        self.clips = self.folder / "clips"
        self.metadata = self.folder / METADATA
        self.scores = self.folder / "scores.jsonl"
        self.journal = self.folder / "scores.partial.jsonl"
        self.shards = self.folder / "shards"
        self.skipped = self.folder / "skipped.jsonl"
        self.broken = self.folder / "broken.jsonl"
        self.clean = self.folder / "clean.jsonl"
        self.retokenized = self.folder / "retokenized.jsonl"
        self.commitment = self.folder / "commitment.jsonl"
        self.audit = self.folder / "audit.json"
        self.manifest = self.folder / "manifest.json"
        self.report = self.folder / "report.html"
        self.started = self.folder / "started.json"
        self.owned = self.folder / "owned.json"
        self.run = RunFolder(self.folder, self.started, self.manifest, "a run")
        self.rewritten = out / f"{name}.jsonl"

    def shard_folder(self, shard: Shard) -> Path:
        """Return the folder of a shard, which holds its journal."""
        return self.shards / str(shard)

    def journals(self) -> list[Path]:
        """Return the journals that exist, those of shards in the order of their names."""
        return [path for path in (self.journal, *sorted(self.shards.glob(f"*/{self.journal.name}"))) if path.exists()]

    def remove_leftovers(self) -> None:
        """Remove what a killed run was writing; the folder is locked."""
        for folder in (self.folder, self.clips):
            if folder.exists():
                remove_leftovers(folder)
        for path in (self.rows, self.rewritten):
            remove_leftovers(self.out, path.name)


def audio_name(audio: str, out: Path, *, portable: bool) -> str:
    """Return how the files of an output name audio: where it may be moved, what it holds is named relative to it.

    >>> [audio_name(name, Path("/out"), portable=True) for name in ("/out/a_corpus/1.wav", "/b.wav")]
    ['a_corpus/1.wav', '/b.wav']
    """
    inside = portable and Path(audio).is_relative_to(out)
    return os.path.relpath(audio, out) if inside else audio


def audio_place(name: str, out: str | Path) -> str:
    """Return where the audio is that `audio_name` named: an absolute path, or an address.

    >>> audio_place("a_corpus/1.wav", "/out"), audio_place("s3://bucket/1.wav", "/out")
    ('/out/a_corpus/1.wav', 's3://bucket/1.wav')
    """
    return name if "://" in name else os.path.join(out, name)


def other_data(folder: Path, identifier: str) -> StorageError:
    """Return the error for a file about other data than this run's, though the names are the same."""
    return StorageError(
        f"{folder} holds a run on other data under the same name ({identifier} differs). "
        "Choose another --out, or remove that folder."
    )
