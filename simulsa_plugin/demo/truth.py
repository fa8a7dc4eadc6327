"""Which words of a translation each moment of the audio determines, where a corpus knows it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.demo.grammar import Sentence
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.segments import ReferenceSegment

# Where a part of a source lies with its reference; and (seconds of it, the part of the reference that is certain).
SupportedPart = tuple[ReferenceSegment, Sequence[tuple[float, str]]]
FIELDS = frozenset({"source", "target", "needs", "word_ends"})


def true_partial(truth: dict[str, Any], cut_seconds: float) -> str:
    """Return the part of the reference that is certain after `cut_seconds`, whatever may follow.

    The end of the utterance counts as heard when its last word has been.

    Args:
        truth: a row of `NAME_truth.jsonl`.
        cut_seconds: audio heard.
    """
    heard = sum(end <= cut_seconds for end in truth["word_ends"])
    sentence = Sentence(tuple(truth["source"].split()), tuple(truth["target"]), tuple(truth["needs"]))
    return " ".join(sentence.target[: sentence.supported_words(heard, ended=heard == len(truth["word_ends"]))])


@dataclass(frozen=True)
class TruthFile:
    """The rows of a `NAME_truth.jsonl`, one for each row of the offline file."""

    rows: Sequence[Mapping[str, Any]]

    def true_partial(self, row: int, reference: str, heard_seconds: float) -> str | None:
        """Return the part of a row's reference that is certain after `heard_seconds`; None for another."""
        if row >= len(self.rows) or " ".join(self.rows[row]["target"]) != reference:
            return None
        return true_partial(dict(self.rows[row]), heard_seconds)

    def supported(self, row: int, reference: str) -> list[tuple[float, str]] | None:
        """Return what each word adds: (seconds heard, the part of the reference that is certain), the end last.

        That nothing follows is known at the end of the audio (∞), not at that of its last word. None as above.
        """
        if self.true_partial(row, reference, 0.0) is None:
            return None
        truth = self.rows[row]
        sentence = Sentence(tuple(truth["source"].split()), tuple(truth["target"]), tuple(truth["needs"]))
        words = (sentence.supported_words(heard, ended=False) for heard in range(1, len(truth["word_ends"]) + 1))
        parts = [(end, " ".join(sentence.target[:count])) for end, count in zip(truth["word_ends"], words, strict=True)]
        return [*parts, (math.inf, reference)]

    def parts(self, row: int, reference: str, source_ms: float) -> list[SupportedPart] | None:
        """Return what `supported` does, as the one part of an utterance; None as above."""
        found = self.supported(row, reference)
        return None if found is None else [(ReferenceSegment(0.0, source_ms / 1000, reference), found)]

    def segments(self, row: int) -> tuple[ReferenceSegment, ...]:
        """Return no segments: a row is one utterance."""
        return ()


@dataclass(frozen=True)
class RecordingTruth:
    """The rows of a `NAME_truth.jsonl` with a row for each sentence of a recording, by recording.

    Attributes:
        recordings: for each row of the offline file, its sentences in order; seconds count from the recording's start.
    """

    recordings: Sequence[Sequence[Mapping[str, Any]]]

    def parts(self, row: int, reference: str, source_ms: float) -> list[SupportedPart] | None:
        """Return each sentence with what each of its words adds; None for another row or reference.

        That a sentence ends is known when its last word has been heard: no system can know it earlier.
        """
        segments = self.segments(row) if row < len(self.recordings) else ()
        if not segments or " ".join(segment.reference or "" for segment in segments) != reference:
            return None
        sentences = TruthFile([_from_its_start(sentence) for sentence in self.recordings[row]])
        return [
            (segment, sentences.supported(number, segment.reference or "") or [])
            for number, segment in enumerate(segments)
        ]

    def segments(self, row: int) -> tuple[ReferenceSegment, ...]:
        """Return the sentences of a row as reference segments."""
        return tuple(
            ReferenceSegment(one["offset"], one["word_ends"][-1] - one["offset"], " ".join(one["target"]))
            for one in self.recordings[row]
        )


def _from_its_start(sentence: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sentence of a recording with seconds that count from its start."""
    return {**sentence, "word_ends": [end - sentence["offset"] for end in sentence["word_ends"]]}


def find_recording_truth(name: str, entry: Mapping[str, Any]) -> RecordingTruth | None:
    """Find the truth of recordings beside an offline file; None where there is none, or it is of utterances.

    Args:
        name: of the dataset.
        entry: in dataset_info.json, with an absolute file name.

    Raises:
        DatasetError: as `find_truth`.
    """
    found = find_truth(name, entry)
    if found is None or not all(
        isinstance(row.get("audio"), str) and _is_time(row.get("offset")) for row in found.rows
    ):
        return None
    return RecordingTruth([list(rows) for _, rows in itertools.groupby(found.rows, key=lambda row: row["audio"])])


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def find_truth(name: str, entry: Mapping[str, Any]) -> TruthFile | None:
    """Find the truth beside an offline file, `NAME_truth.jsonl`; None where there is none.

    Args:
        name: of the dataset.
        entry: in dataset_info.json, with an absolute file name.

    Raises:
        DatasetError: the file has other columns than `source`, `target`, `needs` and `word_ends`, or other values.
    """
    if "file_name" not in entry:
        return None
    path = Path(entry["file_name"]).with_name(f"{name}_truth.jsonl")
    if not path.exists():
        return None
    rows = list(read_jsonl(path))
    number = next((number for number, row in enumerate(rows, 1) if not _is_truth(row)), None)
    if number is not None:
        raise DatasetError(
            f"{path}, row {number}: no true partial translations; expected source, target, needs (a number for each "
            "word of target) and word_ends (seconds for each word of source). Fix or rename the file."
        )
    return TruthFile(rows)


def _is_truth(row: Mapping[str, Any]) -> bool:
    return (
        row.keys() >= FIELDS
        and isinstance(row["source"], str)
        and bool(row["source"].split())
        and _are(row["target"], str)
        and _are(row["needs"], int)
        and _are(row["word_ends"], int, float)
        and len(row["needs"]) == len(row["target"])
        and len(row["word_ends"]) == len(row["source"].split())
    )


def _are(values: object, *types: type) -> bool:
    return isinstance(values, list) and {type(value) for value in values} <= set(types)
