"""The samples that report.html shows: a few of every kind, with all that a rule needs to decide again."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.recordings import Span, read_parts
from simulsa_plugin.audio.samples import Waveform, samples_to_seconds, seconds_to_samples
from simulsa_plugin.augmentation.label_quality import LabelQuality, compare_partials
from simulsa_plugin.augmentation.method.acceptance import Decision, partial_ends
from simulsa_plugin.augmentation.output_layout import audio_place
from simulsa_plugin.errors import AudioError, StorageError
from simulsa_plugin.reports.sound import audio_address

KINDS = ("empty", "whole", "over", "near", "random")
SAMPLES_OF_A_KIND = 5
MOST_TOKENS = 600  # of a reference that is shown
MOST_CLIP_SECONDS = 30.0
REST_SECONDS = 5.0
AUDIO_CHARACTERS = 3_000_000  # of all samples: with texts and scripts, a page stays below 5 MB
EXTRA_SCORES = {"full": "logprobs_full", "lookback": "logprobs_lookback"}


@dataclass
class ShownSamples:
    """A few samples of every kind, chosen by what they are and by a hash of their ids, in the order of the run.

    `over` says too much against the truth, the worst first; `near` has a value near the bound of the rule.
    """

    _chosen: dict[str, list[tuple[float, int, int]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    _num_seen: int = 0

    def add(
        self, row: Mapping[str, Any], decision: Decision, commitment: LabelQuality | None, true_partial: str | None
    ) -> None:
        """Look at one decided row, and keep it while it is among the first of a kind.

        Args:
            row: of scores.jsonl.
            decision: about it.
            commitment: against the truth, where that is known.
            true_partial: likewise.
        """
        number, self._num_seen = self._num_seen, self._num_seen + 1
        if len(row["token_ids"]) > MOST_TOKENS:
            return
        ranks = _ranks(row, decision, commitment)
        if any([self._enters(kind, rank, _hash(row["id"]), number) for kind, rank in ranks.items()]):
            self._rows[number] = {**row, "accepted_tokens": decision.accepted_tokens, "true_partial": true_partial}
        if len(self._rows) > 4 * SAMPLES_OF_A_KIND * len(KINDS):
            self._forget()

    def rows(self) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Yield rows, with `accepted_tokens` and `true_partial`, and the kinds that each is shown as."""
        self._forget()
        for number in sorted(self._rows):
            yield self._rows[number], [kind for kind in KINDS if number in self._numbers(kind)]

    def _enters(self, kind: str, rank: float, tie: int, number: int) -> bool:
        """Put a row among those of a kind; the last of them makes room."""
        heap, entry = self._chosen[kind], (-rank, -tie, -number)  # the first of a heap is the last in rank
        if len(heap) < SAMPLES_OF_A_KIND:
            heapq.heappush(heap, entry)
            return True
        return heapq.heappushpop(heap, entry) != entry

    def _numbers(self, kind: str) -> set[int]:
        return {-number for _, _, number in self._chosen[kind]}

    def _forget(self) -> None:
        """Forget rows that others have replaced."""
        kept = set().union(*map(self._numbers, KINDS))
        self._rows = {number: row for number, row in self._rows.items() if number in kept}


def _ranks(row: Mapping[str, Any], decision: Decision, commitment: LabelQuality | None) -> dict[str, float]:
    """Return the kinds that a row is of, each with its rank among them, low first."""
    ranks = {"random": 0.0}
    if not decision.partial:
        ranks["empty"] = 0.0
    if decision.partial and decision.partial == row["reference"]:
        ranks["whole"] = 0.0
    if decision.distance is not None and row["token_ids"]:
        ranks["near"] = decision.distance
    if commitment is not None and commitment.over_words:
        ranks["over"] = -float(commitment.over_words)
    return ranks


def _hash(identifier: str) -> int:
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big")


def page_samples(samples: ShownSamples, folder: Path) -> list[dict[str, Any]]:
    """Return what the page's script holds of the samples: texts, scores, ends, decisions, truth, audio.

    Numbers are those of scores.jsonl to the last digit, so that the page decides as `--from-scores` does.

    Args:
        samples: chosen ones.
        folder: from which relative clips start.
    """
    left, shown = AUDIO_CHARACTERS, []
    for row, kinds in samples.rows():
        audio = _audio(row, folder)
        size = sum(len(address or "") for address in audio.values())
        left -= size
        shown.append({**_scores(row), "kinds": kinds, **_truth(row), **(audio if left >= 0 else {})})
    return shown


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    greedy = row.get("greedy")
    token, word = partial_ends(row, "token"), partial_ends(row, "word")
    return {
        "id": row["id"],
        **({"source_id": row["source_id"]} if row.get("source_id") else {}),
        "cut": row["cut_seconds"],
        "duration": row["duration_seconds"],
        "texts": _token_texts(row["char_ends"], row["reference"]),
        "ends": [int(one) + int(one and other) for one, other in zip(token, word, strict=True)],
        "accepted": row["accepted_tokens"],
        "logprobs": row["logprobs"],
        "best": [int(a == b) for a, b in zip(row["token_ids"], greedy, strict=True)] if greedy else None,
        **{name: row.get(key) for name, key in EXTRA_SCORES.items()},
    }


def _token_texts(char_ends: Sequence[int | None], reference: str) -> list[str]:
    """Return what each token adds to the text; a character that several make comes with the last of them.

    >>> _token_texts([3, None, 5, 8], "Der Mann")
    ['Der', '', ' M', 'ann']
    """
    known = [0, *accumulate((end or 0 for end in char_ends[:-1]), max), len(reference)]
    return [reference[start:end] for start, end in pairwise(known)] if char_ends else []


def _truth(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return words too many and too few of each number of tokens after which a partial may end."""
    true_partial = row["true_partial"]
    if true_partial is None:
        return {}
    texts = ["", *accumulate(_token_texts(row["char_ends"], row["reference"]))]
    allowed = [True, *partial_ends(row, "token")]
    compared = [
        compare_partials(row["reference"], text, true_partial) if may_end else None
        for text, may_end in zip(texts, allowed, strict=True)
    ]
    return {
        "true": true_partial,
        "true_tokens": sum(len(text) <= len(true_partial) for text in texts[1:]),
        "over": [one and one.over_words for one in compared],
        "under": [one and one.under_words for one in compared],
    }


def _audio(row: Mapping[str, Any], folder: Path) -> dict[str, str | None]:
    """Return addresses of the clip and of what was cut off, each as far as it is shown; None where it cannot be read.

    The whole utterance has nothing cut off.
    """
    left = row["duration_seconds"] - row["cut_seconds"]
    return {
        "clip": _clip_address(os.path.join(folder, row["clip"])),
        "rest": _rest_address(row, folder) if left > 0 else None,
    }


def _clip_address(path: str) -> str | None:
    try:
        return _address(read_mono(path)[: seconds_to_samples(MOST_CLIP_SECONDS)])
    except (AudioError, StorageError):
        return None


def _rest_address(row: Mapping[str, Any], folder: Path) -> str | None:
    start = row["cut_seconds"]
    span = Span(start, min(start + REST_SECONDS, row["duration_seconds"]))
    try:
        ((_, part),) = read_parts(audio_place(row["audio"], folder), [span])
        return None if isinstance(part, AudioError) else _address(part)
    except (AudioError, StorageError):
        return None


def _address(waveform: Waveform) -> str | None:
    return audio_address(waveform) if samples_to_seconds(len(waveform)) >= 0.05 else None
