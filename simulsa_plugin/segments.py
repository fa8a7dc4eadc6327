"""Reference segments of a long recording: where each sentence lies, and its translation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceSegment:
    """A part of a recording with a reference translation.

    Attributes:
        offset_seconds: where it starts in the recording.
        duration_seconds: its length.
        reference: its translation; None where there is none.
    """

    offset_seconds: float
    duration_seconds: float
    reference: str | None

    @property
    def end_seconds(self) -> float:
        """Where it ends in the recording."""
        return self.offset_seconds + self.duration_seconds
