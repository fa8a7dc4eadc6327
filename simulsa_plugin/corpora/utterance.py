"""What readers of corpora yield: utterances, and rows that cannot be used with the reason why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.errors import RowError, UsageError

AudioName = Path | str  # a file, or a reference to audio in a store or a container; see `audio.references`


@dataclass(frozen=True)
class EncodedAudio:
    """An audio file inside a table.

    Attributes:
        data: the file's bytes.
        suffix: of its name, with the dot; empty where the table does not say.
    """

    data: bytes
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance and its translation, as the corpus has them; all of a corpus are in memory at once.

    Attributes:
        id: what the corpus calls it.
        audio: the file or reference it is in, found by `AudioFinder`, or the file itself.
        span: its place in the file; None is the whole file.
        translation: as it stands in the corpus.
    """

    id: str
    audio: AudioName | EncodedAudio
    span: Span | None
    translation: str


@dataclass(frozen=True)
class Dropped:
    """A row of the corpus that cannot be used, with the short reason written to dropped.jsonl.

    Attributes:
        id: what the corpus calls it.
        reason: a short word.
        cause: what is wrong with the row and where it stands, in words; empty where the reason says it all.
    """

    id: str
    reason: str
    cause: str = ""


def utterance_or_dropped(identifier: str, read: Callable[[], Utterance | Dropped]) -> Utterance | Dropped:
    """Read one row; a row that `read` raises RowError about is dropped, and the others go on."""
    try:
        return read()
    except RowError as error:
        return Dropped(identifier, error.reason, str(error))


class FindAudio(Protocol):
    """`AudioFinder.find`."""

    def __call__(self, name: str, place: str, *folders: Path) -> AudioName:
        """Return the path of the file `name`, or its address."""
        ...


@dataclass(frozen=True)
class CorpusRequest:
    """What a reader is asked for.

    Attributes:
        folder: the corpus, or the file itself; absolute. Where `address` is set, there is none on this machine.
        splits: as the corpus writes them; empty where neither the user nor the format names any.
        columns: role → column of a table.
        find: (name of an audio file in the corpus, file and line where it stands, folders that relative names may
            start from) → its path, which is safe to open but need not exist; see `AudioFinder.find`.
        references: file with a reference a line, where the user names one; absolute.
        recordings: file with the path of a recording a line, likewise.
        address: of a corpus in a store.
        in_place: audio inside tables is named where it is, and not written to files.
    """

    folder: Path
    splits: tuple[str, ...]
    find: FindAudio
    source_language: str | None = None
    target_language: str | None = None
    columns: Mapping[str, str] | None = None
    references: Path | None = None
    recordings: Path | None = None
    address: str | None = None
    in_place: bool = False

    @property
    def source(self) -> str:
        """The source language.

        Raises:
            UsageError: the recipe does not say.
        """
        return _required_language("simulsa_source_language", self.source_language)

    @property
    def target(self) -> str:
        """The target language.

        Raises:
            UsageError: the recipe does not say.
        """
        return _required_language("simulsa_target_language", self.target_language)


@dataclass(frozen=True)
class CorpusFormat:
    """How corpora of one kind are read.

    Attributes:
        read: utterances and dropped rows, in the order of the corpus. What is wrong with one row drops that row.
            Raises DatasetError where the corpus is not in this format, UsageError where the recipe lacks a key.
        train_split: what simulsa-augment takes where the recipe names no split; None: no split is needed.
        test_split: what simulsa-eval takes.
        whole: simulsa-eval reads whole recordings, also where the recipe does not say so.
        stored: it also reads corpora in a store.
    """

    read: Callable[[CorpusRequest], Iterator[Utterance | Dropped]]
    train_split: str | None = None
    test_split: str | None = None
    whole: bool = False
    stored: bool = False


def _required_language(key: str, value: str | None) -> str:
    if value is None:
        raise UsageError(f"{key} is not set, and this corpus holds several languages. Add {key}=de, for example.")
    return value
