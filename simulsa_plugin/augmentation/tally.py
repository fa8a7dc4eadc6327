"""Counts of a run, row by row: the numbers of manifest.json, of the table and of report.html."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulsa_plugin.augmentation.label_quality import LabelQuality, LabelQualityTally
from simulsa_plugin.augmentation.method.acceptance import Decision
from simulsa_plugin.augmentation.method.selection import Skipped
from simulsa_plugin.augmentation.shown_samples import ShownSamples

SHARE_BINS = 10
CUT_BIN_SECONDS = 0.5


@dataclass
class ShareBin:
    """Samples whose cut leaves a similar share of the utterance."""

    samples: int = 0
    empty: int = 0
    tokens: int = 0
    accepted_tokens: int = 0


@dataclass
class Tally:
    """Counts over decided rows, empty partials that are not kept included.

    Attributes:
        scored: rows decided.
        samples: rows to train on.
        empty: partials that say nothing.
        whole_reference: partials that are the whole reference.
        tokens: of all references.
        accepted_tokens: of them, accepted.
        retokenized: partials whose text training tokenizes otherwise; None where a row cannot tell.
        close_to_threshold: decisions that a difference within the tolerance could change; None where a row cannot tell.
        bins: by share of the utterance that is heard.
        cut_bins: samples by length of the cut, in steps of 500 ms.
        commitment: against the true partials.
        durations: of the utterances, seconds.
        shown: samples that report.html shows.
        dropped: empty partials that are not kept.
        last_id: of the last row.
    """

    scored: int = 0
    samples: int = 0
    empty: int = 0
    whole_reference: int = 0
    tokens: int = 0
    accepted_tokens: int = 0
    retokenized: int | None = 0
    close_to_threshold: int | None = 0
    bins: list[ShareBin] = field(default_factory=lambda: [ShareBin() for _ in range(SHARE_BINS)])
    cut_bins: Counter[int] = field(default_factory=Counter)
    commitment: LabelQualityTally = field(default_factory=LabelQualityTally)
    durations: array[float] = field(default_factory=lambda: array("d"))
    shown: ShownSamples = field(default_factory=ShownSamples)
    dropped: list[Skipped] = field(default_factory=list)
    last_id: str = ""

    def add(
        self,
        row: Mapping[str, Any],
        decision: Decision,
        *,
        kept: bool,
        retokenized: bool | None,
        commitment: LabelQuality | None,
        true_partial: str | None = None,
    ) -> None:
        """Count one decided row."""
        tokens = len(row["token_ids"])
        self.scored += 1
        self.last_id = row["id"]
        if kept:
            self.samples += 1
        else:
            cause = "no token of the reference was accepted, and simulsa_keep_empty is false"
            self.dropped.append(Skipped(row["id"], "empty_partial", row.get("audio"), cause, row.get("source_id")))
        self.empty += not decision.partial
        self.whole_reference += decision.partial == row["reference"]
        self.tokens += tokens
        self.accepted_tokens += decision.accepted_tokens
        self.retokenized = _plus(self.retokenized, retokenized)
        self.close_to_threshold = _plus(self.close_to_threshold, decision.close)
        self.commitment.add(commitment)
        self.cut_bins[int(row["cut_seconds"] / CUT_BIN_SECONDS)] += 1
        share_bin = self.bins[_share_bin(row["cut_seconds"] / row["duration_seconds"])]
        share_bin.samples += 1
        share_bin.empty += not decision.partial
        share_bin.tokens += tokens
        share_bin.accepted_tokens += decision.accepted_tokens
        self.durations.append(row["duration_seconds"])
        self.shown.add(row, decision, commitment, true_partial)

    def counts(self, wanted: int) -> dict[str, int | None]:
        """Return the counts of manifest.json; `wanted` is how many samples were asked for."""
        return {
            "wanted": wanted,
            "scored": self.scored,
            "samples": self.samples,
            "empty": self.empty,
            "whole_reference": self.whole_reference,
            "tokens": self.tokens,
            "accepted_tokens": self.accepted_tokens,
            "retokenized": self.retokenized,
            "close_to_threshold": self.close_to_threshold,
        }

    def by_cut_share(self) -> list[dict[str, Any]]:
        """Return one row for each tenth of the utterance; `accepted_share` is of the reference's tokens."""
        return [
            {
                "from": number / SHARE_BINS,
                "to": (number + 1) / SHARE_BINS,
                "samples": one.samples,
                "empty": one.empty,
                "tokens": one.tokens,
                "accepted_tokens": one.accepted_tokens,
                "accepted_share": one.accepted_tokens / one.tokens if one.tokens else None,
            }
            for number, one in enumerate(self.bins)
        ]

    def by_cut_seconds(self) -> list[dict[str, float]]:
        """Return samples for each 500 ms of cut, from the first step to the last that has any."""
        last = max(self.cut_bins, default=-1)
        return [
            {"from": number * CUT_BIN_SECONDS, "to": (number + 1) * CUT_BIN_SECONDS, "samples": self.cut_bins[number]}
            for number in range(last + 1)
        ]


def _share_bin(share: float) -> int:
    """Return the tenth that a share falls into, [0, 0.1), [0.1, 0.2) … [0.9, 1].

    >>> _share_bin(0.3 / 3.0), _share_bin(4.5 / 5.0), _share_bin(1.0)
    (1, 9, 9)
    """
    tenths = round(share * SHARE_BINS, 9)  # 0.3 / 3.0 is a little less than 0.1
    return min(int(tenths), SHARE_BINS - 1)


def _plus(count: int | None, one: bool | None) -> int | None:
    return None if count is None or one is None else count + one
