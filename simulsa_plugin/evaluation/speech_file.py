"""`speech.jsonl`: where the speech segments of long recordings lie that were found while listening, and decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation.recordings import Recording
from simulsa_plugin.files.json_files import read_jsonl, write_jsonl
from simulsa_plugin.logs.json_rows import to_number
from simulsa_plugin.logs.steps import SEGMENT

SPEECH = "speech.jsonl"
_TIMES = ("start_seconds", "end_seconds", "detected_seconds", "closed_seconds")


@dataclass(frozen=True)
class FoundSpeech:
    """A speech segment of a recording, in seconds of the recording; see `SpeechSegment`."""

    audio: str
    start_seconds: float
    end_seconds: float
    detected_seconds: float
    closed_seconds: float


def write_speech(path: Path, recordings: Iterable[Recording], identifier: Callable[[Recording], str]) -> None:
    """Write a row for each speech segment: `id` and `segment` as in steps.jsonl, `audio`, and times in seconds.

    Raises:
        StorageError: the file cannot be written.
    """
    write_jsonl(path, (row for recording in recordings for row in _rows(recording, identifier(recording))))


def _rows(recording: Recording, identifier: str) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(recording.speech):
        samples = (one.start, one.end, one.detected, one.closed)
        times = dict(zip(_TIMES, map(samples_to_seconds, samples), strict=True))
        yield {"id": identifier, SEGMENT: number, "audio": recording.sample.audio, **times}


def read_speech(path: Path) -> Iterator[FoundSpeech]:
    """Yield the speech segments of a result folder, in order.

    Raises:
        LogError: a row lacks its audio, or a time that is a number.
        StorageError: the file cannot be read, or a line is not a JSON object.
    """
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            times = [to_number(name, row.get(name), "seconds") for name in _TIMES]
        except LogError as error:
            raise LogError(f"{path}, line {number}: {error}") from error
        yield FoundSpeech(str(row.get("audio")), *times)
