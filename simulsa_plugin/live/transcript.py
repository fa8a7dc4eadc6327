"""The translation of a stream so far: what is final, what is shown and may change, and what changed since last time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from simulsa_plugin.metrics.delays import ShownStep, complete_units, join_texts, split_units
from simulsa_plugin.metrics.records import LatencyUnit
from simulsa_plugin.metrics.stability import common_prefix
from simulsa_plugin.streaming.session import Decode, Session


@dataclass(frozen=True)
class TextChange:
    """Difference between two states of a text, in units.

    Attributes:
        kept: how many units stay before it.
        deleted: units at its end that are taken back.
        added: units that follow then.
        open: units at the end of the new text that may still be taken back.
    """

    kept: int
    deleted: tuple[str, ...]
    added: tuple[str, ...]
    open: tuple[str, ...] = ()

    def as_strings(self, separator: str) -> tuple[str, str]:
        """Return what is deleted and added, with the separators that go with it.

        >>> TextChange(0, ("a",), ("b", "c")).as_strings(" "), TextChange(1, ("a",), ("b", "c")).as_strings(" ")
        (('a', 'b c'), (' a', ' b c'))
        """
        before = separator if self.kept else ""
        deleted, added = (before + separator.join(units) if units else "" for units in (self.deleted, self.added))
        return deleted, added


@dataclass
class Transcript:
    """The text of a stream, over all of its utterances; followers may read it while another thread updates it.

    Attributes:
        unit: word or char.
        ended: units of the utterances that have ended.
        shown: units of the current utterance that are shown.
        committed: how many of these will not change.
    """

    unit: LatencyUnit
    ended: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    committed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def update(self, step: ShownStep) -> None:
        """Take the last step of the current utterance."""
        units = split_units(step.shown, self.unit)
        whole = complete_units(step.committed, self.unit, finished=False)
        with self.lock:
            if step.finished:
                self.ended += units
                self.shown, self.committed = [], 0
            else:
                self.shown, self.committed = units, common_prefix(whole, units)

    @property
    def separator(self) -> str:
        """What stands between two units."""
        return " " if self.unit == "word" else ""

    @property
    def text(self) -> str:
        """Everything that is shown."""
        with self.lock:
            return self.separator.join(self.ended + self.shown)


@dataclass
class TextFollower:
    """What one reader of a transcript has been told; a reader that is slow is told several changes as one.

    Attributes:
        only_committed: tell nothing that may change.
    """

    only_committed: bool = False
    _ended: int = 0  # units of ended utterances that need not be compared any more
    _told: list[str] = field(default_factory=list)  # after these

    def change(self, transcript: Transcript) -> TextChange:
        """Return what has changed since the last call."""
        with transcript.lock:
            shown = transcript.shown[: transcript.committed] if self.only_committed else list(transcript.shown)
            ended, now = len(transcript.ended), transcript.ended[self._ended :] + shown
            may_change = shown[transcript.committed :]
        kept = common_prefix(self._told, now)
        change = TextChange(self._ended + kept, tuple(self._told[kept:]), tuple(now[kept:]), tuple(may_change))
        self._ended, self._told = ended, shown
        return change


def last_shown_step(session: Session, decode: Decode) -> ShownStep:
    """Return the last step of a session in text; what has left its windows comes first."""
    step, left = session.steps[-1], ""
    for token_ids in session.left_token_ids[: step.window]:
        left = join_texts(left, decode(token_ids).strip())
    shown, committed = decode(step.token_ids).strip(), decode(step.token_ids[: step.committed_tokens])
    if left:
        shown, committed = join_texts(left, shown), join_texts(left, committed)
    return ShownStep(
        step.audio_ms, shown, committed, step.finished, step.compute_ms, step.truncated, step.looping
    )  # as `logs.steps.parse_session` reads it from `steps.jsonl`
