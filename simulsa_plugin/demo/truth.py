"""What can truly be said of an utterance after so much audio, where a corpus knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.demo.grammar import Sentence
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.storage import read_jsonl

FIELDS = frozenset({"source", "target", "needs", "word_ends"})


def true_partial(truth: dict[str, Any], cut_seconds: float) -> str:
    """The part of the reference that is certain after `cut_seconds`, whatever may follow.

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
        """The part of a row's reference that is certain after `heard_seconds`; None where the row is about another."""
        if row >= len(self.rows) or " ".join(self.rows[row]["target"]) != reference:
            return None
        return true_partial(dict(self.rows[row]), heard_seconds)


def find_truth(name: str, entry: Mapping[str, Any]) -> TruthFile | None:
    """The truth beside an offline file, `NAME_truth.jsonl`; None where there is none.

    Args:
        name: of the dataset.
        entry: in dataset_info.json, with an absolute file name.

    Raises:
        DatasetError: the file has other columns than `source`, `target`, `needs` and `word_ends`.
    """
    if "file_name" not in entry:
        return None
    path = Path(entry["file_name"]).with_name(f"{name}_truth.jsonl")
    if not path.exists():
        return None
    rows = list(read_jsonl(path))
    if any(not FIELDS <= row.keys() for row in rows):
        raise DatasetError(
            f"{path} should hold true partial translations, with {', '.join(sorted(FIELDS))}. Rename it."
        )
    return TruthFile(rows)
