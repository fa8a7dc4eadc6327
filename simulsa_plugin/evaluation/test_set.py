"""A test set as it is decoded: its rows, or the speech segments of its recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.loading import DecodedRow
from simulsa_plugin.evaluation.recordings import Recording, find_recordings, utterances
from simulsa_plugin.logs.steps import SEGMENT
from simulsa_plugin.longform.silero import require_silero
from simulsa_plugin.model.values import Sample, UnusableRow


@dataclass(frozen=True)
class TestSet:
    """What is decoded, and what it was made of.

    Attributes:
        decoded: the rows; of long recordings their speech segments.
        recordings: of a long-form evaluation, one for each row, or why it cannot be used; None for short utterances.
    """

    __test__ = False  # not a class of tests, though pytest takes its name for one

    decoded: Sequence[DecodedRow]
    recordings: Sequence[Recording | UnusableRow] | None = None

    @property
    def rows(self) -> Sequence[Sample | UnusableRow | Recording]:
        """The rows as they are scored: utterances, or recordings."""
        return self._utterances if self.recordings is None else self.recordings

    def part(self, positions: Iterable[int]) -> TestSet:
        """Return the test set that has only some of the rows."""
        rows = [self.rows[position] for position in positions]
        recordings = [row for row in rows if not isinstance(row, Sample)]
        if self.recordings is None:
            return TestSet([row for row in rows if not isinstance(row, Recording)])
        return TestSet(utterances(recordings), recordings)

    @property
    def _utterances(self) -> list[Sample | UnusableRow]:
        return [row for row in self.decoded if isinstance(row, (Sample, UnusableRow))]

    @property
    def usable(self) -> list[Recording]:
        """The recordings that can be used."""
        return [one for one in self.recordings or () if isinstance(one, Recording)]

    def any_usable(self, instances: Iterable[Mapping[str, Any]]) -> bool:
        """Return whether anything can be scored; a recording without speech can."""
        return bool(self.usable) if self.recordings is not None else any("skipped" not in one for one in instances)

    def as_json(self) -> dict[str, Any]:
        """Return `longform` of scores.json: what was found in the recordings; nothing for short utterances."""
        if self.recordings is None:
            return {}
        speech = sum(len(one) for recording in self.usable for one in recording.speech)
        return {
            "longform": {
                "recordings": len(self.usable),
                "seconds": round(samples_to_seconds(sum(one.num_samples for one in self.usable)), 3),
                "speech_segments": sum(len(one.speech) for one in self.usable),
                "speech_seconds": round(samples_to_seconds(speech), 3),
                "reference_segments": sum(len(one.references) for one in self.usable),
                "without_speech": sum(not one.speech for one in self.usable),
            }
        }

    def skipped(self, identifier: Callable[[Recording | UnusableRow], str]) -> Iterator[dict[str, Any]]:
        """Yield recordings that cannot be used, and reference segments that do not fit theirs."""
        for one in self.recordings or ():
            if isinstance(one, UnusableRow):
                yield {"id": identifier(one), "reason": one.reason}
            else:
                for each in one.skipped:
                    yield {"id": identifier(one), "offset": each.segment.offset_seconds, "reason": each.reason}


def check_speech_detection(settings: EvaluationSettings) -> None:
    """Check that speech can be found in recordings, before anything is loaded.

    Raises:
        MissingExtraError: Silero VAD is needed, and not installed.
    """
    if settings.is_long_form:
        require_silero()


def read_test_set(
    rows: Sequence[Sample | UnusableRow], settings: EvaluationSettings, model_window_seconds: float | None
) -> TestSet:
    """Find what is decoded: the rows, or the speech in them.

    Raises:
        UsageError: chunks do not fit into the window.
        MissingExtraError: Silero VAD is needed, and not installed.
    """
    if not settings.is_long_form:
        return TestSet(rows)
    recordings = find_recordings(rows, settings.voice_activity(model_window_seconds))
    return TestSet(utterances(recordings), recordings)


def skipped_rows(instances: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was skipped when it was decoded: id, segment of a recording, reason."""
    keys = ("id", SEGMENT)
    return [
        {key: one[key] for key in keys if key in one} | {"reason": one["skipped"]}
        for one in instances
        if "skipped" in one
    ]
