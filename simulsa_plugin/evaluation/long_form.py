"""Cells of a test set of long recordings: emissions of whole recordings, aligned with their reference segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.evaluation.block_decoding import DecodingJob, read_instances, read_steps
from simulsa_plugin.evaluation.cell_files import cell_row, make_cell_folder, write_steps
from simulsa_plugin.evaluation.delays_and_clocks import LongDelayClockMeans
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.recordings import Recording
from simulsa_plugin.evaluation.test_set import TestSet
from simulsa_plugin.logs.omnisteval import RESEGMENTED, write_omnisteval_log
from simulsa_plugin.logs.simuleval import INSTANCES_LOG, write_simuleval_log
from simulsa_plugin.logs.steps import SEGMENT
from simulsa_plugin.longform.voice_activity import SpeechSegment
from simulsa_plugin.metrics.delays import ShownStep, split_units, stream_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer, align_recording
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.streaming.engine import DecodingSetting

SegmentSteps = list[tuple[int, list[ShownStep]]]  # speech segment of a recording, its steps


def write_long_cell(
    job: DecodingJob, cell: DecodingSetting, test_set: TestSet, settings: EvaluationSettings, out: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the files of a cell; return its row of scores.json and its signatures.

    They are `instances.log` with a line for each recording, `instances.resegmented.jsonl` with one for each reference
    segment, and `steps.jsonl`.
    """
    folder, measure = make_cell_folder(out, cell), Measure(settings.latency_unit)
    scorer, means = LongFormScorer(measure, settings.bleu_tokenizer, keep=True), LongDelayClockMeans(measure)
    speech = SpeechCounts(settings.latency_unit)
    records: list[EmissionRecord] = []
    aligned: list[EmissionRecord] = []
    for recording, decoded in recordings_with_steps(job, cell, test_set.usable):
        sessions = [steps for _, steps in decoded]
        record = recording_record(recording, sessions, len(records), settings.latency_unit)
        records.append(record)
        alignments = align_recording(record, recording.references, settings.latency_unit)
        aligned += scorer.add(record, recording.references, alignments)
        means.add(record, alignments, sessions)
        speech.add(recording, decoded)
    write_simuleval_log(folder / INSTANCES_LOG, records)
    write_omnisteval_log(folder / RESEGMENTED, aligned)
    write_steps(job, cell, folder)
    row, signatures = cell_row(cell, folder, scorer.scores(Bootstrap()), means)
    row["counts"] |= speech.as_json()
    return row, signatures


@dataclass
class SpeechCounts:
    """What was decoded of recordings, and what of it is not speech by the reference segments.

    Attributes:
        unit: of the counted units.
        segments: decoded speech segments.
        looping_steps: steps whose output was cut because it repeated itself.
        hallucinated_units: units written about speech segments that no reference segment overlaps.
        hallucinated_seconds: length of these segments.
    """

    unit: LatencyUnit
    segments: int = 0
    looping_steps: int = 0
    hallucinated_units: int = 0
    hallucinated_seconds: float = 0.0

    def add(self, recording: Recording, decoded: SegmentSteps) -> None:
        """Count a recording."""
        for number, steps in decoded:
            self.segments += 1
            self.looping_steps += sum(step.looping for step in steps)
            units = len(split_units(steps[-1].shown, self.unit))
            if units and not _is_referenced(recording, recording.speech[number]):
                self.hallucinated_units += units
                self.hallucinated_seconds += samples_to_seconds(len(recording.speech[number]))

    def as_json(self) -> dict[str, Any]:
        """Return the fields that `counts` of a cell gets."""
        return {
            "speech_segments": self.segments,
            "looping_steps": self.looping_steps,
            "hallucinated_units": self.hallucinated_units,
            "hallucinated_seconds": round(self.hallucinated_seconds, 3),
        }


def _is_referenced(recording: Recording, speech: SpeechSegment) -> bool:
    start, end = samples_to_seconds(speech.start), samples_to_seconds(speech.end)
    return any(one.offset_seconds < end and one.end_seconds > start for one in recording.references)


def recording_record(
    recording: Recording, sessions: Sequence[Sequence[ShownStep]], index: int, unit: LatencyUnit
) -> EmissionRecord:
    """Return the emissions of a whole recording."""
    sample = recording.sample
    return stream_record(sessions, index, sample.reference, sample.audio, recording.milliseconds, unit)


def recordings_with_steps(
    job: DecodingJob, cell: DecodingSetting, recordings: Iterable[Recording]
) -> Iterator[tuple[Recording, SegmentSteps]]:
    """Yield every recording with the steps of its speech segments that were decoded in a cell."""
    skipped = {(one["id"], one[SEGMENT]) for one in read_instances(job) if "skipped" in one}
    decoded = read_steps(job, cell)
    for recording in recordings:
        identifier = job.identifier(recording)
        numbers = [n for n in range(len(recording.speech)) if (identifier, n) not in skipped]
        yield recording, [(number, next(decoded)[1]) for number in numbers]
