"""Label scored rows with partial translations and write the training rows: no model, one row at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.label_quality import LabelQuality, TruePartials, compare_partials
from simulsa_plugin.augmentation.method.acceptance import LOGPROB_TOLERANCE, Decision, decide
from simulsa_plugin.augmentation.method.selection import parse_sample_id
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.tally import Tally
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.files.audio_folder import metadata_row
from simulsa_plugin.files.json_files import dump_line, dump_sealed

Write = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Labeler:
    """A rule, and the truth to hold it against where there is one.

    Attributes:
        settings: rule, boundary, whether empty partials are kept.
        output_width: V; None where it is not known and no default needs it.
        truth: of the corpus, where it is known.
        tolerance: of log-probabilities, within which decisions are counted as close.
    """

    settings: AugmentSettings
    output_width: int | None
    truth: TruePartials | None = None
    tolerance: float = LOGPROB_TOLERANCE

    def write(self, rows: Iterable[dict[str, Any]], layout: Layout) -> Tally:
        """Write decided scores, training rows, metadata.jsonl, re-tokenized partials and, with a truth, commitments.

        Args:
            rows: rows of scores.jsonl, decided before or not, in the order of the chosen list.
            layout: where.

        Raises:
            UsageError: the rule needs a field that the rows do not have.
        """
        tally = Tally()
        with ExitStack() as stack:
            scores = stack.enter_context(_writing(layout.scores, dump_sealed))
            training, viewed, retokenized = (
                stack.enter_context(_writing(path)) for path in (layout.rows, layout.metadata, layout.retokenized)
            )
            committed = stack.enter_context(_writing(layout.commitment)) if self.truth else _nowhere
            for row in rows:
                decision = decide(row, self.settings, self.output_width, self.tolerance)
                decided = {**row, "accepted_tokens": decision.accepted_tokens, "partial": decision.partial}
                scores(decided)
                kept = bool(decision.partial) or self.settings.keep_empty
                if kept:
                    training(training_row(decided))
                    viewed(viewed_row(decided, layout))
                otherwise = self._note_retokenized(decided, decision, retokenized)
                true_partial = self._true_partial(row)
                commitment = self._note_label_quality(decided, true_partial, committed)
                tally.add(
                    row,
                    decision,
                    kept=kept,
                    retokenized=otherwise,
                    commitment=commitment,
                    true_partial=true_partial,
                )
        if self.truth is None:
            layout.commitment.unlink(missing_ok=True)  # of a truth that is no longer given
        return tally

    def _note_retokenized(self, row: Mapping[str, Any], decision: Decision, write: Write) -> bool | None:
        """Return whether training gives other tokens for the text than those accepted; None if that was not checked."""
        if row.get("unstable_prefixes") is None:
            return None
        otherwise = decision.accepted_tokens in row["unstable_prefixes"]
        if otherwise:
            accepted = row["token_ids"][: decision.accepted_tokens]
            write({"id": row["id"], "partial": decision.partial, "accepted_token_ids": accepted})
        return otherwise

    def _true_partial(self, row: Mapping[str, Any]) -> str | None:
        if self.truth is None:
            return None
        return self.truth.true_partial(parse_sample_id(row["id"])[1], row["reference"], row["cut_seconds"])

    def _note_label_quality(
        self, row: Mapping[str, Any], true_partial: str | None, write: Write
    ) -> LabelQuality | None:
        if true_partial is None:
            return None
        commitment = compare_partials(row["reference"], row["partial"], true_partial)
        write({"id": row["id"], "partial": row["partial"], "true_partial": true_partial, **asdict(commitment)})
        return commitment


def training_row(decided: Mapping[str, Any]) -> dict[str, Any]:
    """Return a labelled row as LLaMA-Factory trains on it; the template adds the end of turn."""
    return {
        "messages": [*decided["messages"], {"role": "assistant", "content": decided["partial"]}],
        "audios": [decided["clip"]],
    }


def viewed_row(decided: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Return a labelled row as `datasets` reads it beside the clips: training row, reference and lengths in seconds."""
    columns = {
        "id": decided["id"],
        "messages": training_row(decided)["messages"],
        "reference": decided["reference"],
        "cut_seconds": float(decided["cut_seconds"]),
        "duration_seconds": float(decided["duration_seconds"]),
    }
    return metadata_row(os.path.join(layout.out, decided["clip"]), layout.folder, columns)


@contextmanager
def _writing(path: Path, dump: Callable[[Mapping[str, Any]], str] = dump_line) -> Iterator[Write]:
    """Write JSONL row by row, whole or not at all."""
    with replacing(path, "w") as handle:

        def write(row: Mapping[str, Any]) -> None:
            try:
                handle.write(f"{dump(row)}\n")
            except ValueError as error:  # NaN, or half a character
                raise StorageError(f"{path}: {row.get('id')} cannot be written as JSON ({error}). Fix it.") from error

        yield write


def _nowhere(row: Mapping[str, Any]) -> None:
    """Drop a row: without a truth there is no file about it."""
