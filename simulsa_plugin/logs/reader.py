"""Reads logs of any supported form: recognises the form, yields records, counts what SimulEval reads differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.logs import omnisteval, simuleval, simulstream
from simulsa_plugin.logs.json_rows import abbreviated, on_line, read_rows
from simulsa_plugin.logs.recordings import (
    Recording,
    count_odd_segments,
    describe_odd_segments,
    join_segments,
    spans_recordings,
)
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, AudioSegment, read_segments, read_texts
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.metrics.mwer_segmentation import aligner_name
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.resegmentation import milliseconds, resegment
from simulsa_plugin.segments import Aligner

SIMULEVAL_1_0 = "SimulEval 1.0"
SIMULEVAL_1_1 = "SimulEval 1.1"
OMNISTEVAL = "OmniSTEval"
SIMULSTREAM = "simulstream"
READ_FORMS = f"The forms read are instances.log of {SIMULEVAL_1_0} and 1.1, JSONL of {OMNISTEVAL} and of {SIMULSTREAM}."

_PARSERS: dict[str, Callable[[Mapping[str, Any], int], EmissionRecord]] = {
    SIMULEVAL_1_0: simuleval.parse_simuleval_row,
    SIMULEVAL_1_1: simuleval.parse_simuleval_row,
    OMNISTEVAL: omnisteval.parse_omnisteval_row,
}


@dataclass(frozen=True)
class ReadOptions:
    """What a log does not contain.

    Attributes:
        references: a text file with one reference per line of the log (or per segment), which replaces those in it.
        segments: the YAML of the segments of recordings, with the references in their order.
        resegment: how the text of a recording is divided among its segments; None for `soft`, except for a simulstream
            log of whole utterances, each with one segment, which is not divided.
        detokenizer: how to join a simulstream log's tokens; None for the one of the unit.
        unit: latency unit; only a simulstream log depends on it.
        keep_end_marks: keep the end mark of a SimulEval 1.0 log, with its delay, as a word of the prediction, as
            SimulEval 1.0 and OmniSTEval do; other forms have none.
    """

    references: Path | None = None
    segments: Path | None = None
    detokenizer: str | None = None
    unit: LatencyUnit = "word"
    keep_end_marks: bool = False
    resegment: Aligner | None = None

    def __post_init__(self) -> None:
        if self.resegment is not None and self.segments is None:
            raise UsageError(
                f"--resegment {self.resegment} divides recordings among their segments: give --segments YAML and "
                "--references FILE."
            )


@dataclass
class LineNumbers:
    """Line numbers: their count, and the first twelve."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Count a line."""
        self.count += 1
        if len(self.first) < 12:
            self.first.append(number)


class Log:
    """A log, read again whenever its records are requested; they are not kept in memory.

    Attributes:
        path: the file.
        form: one of the forms' names.
        is_long_form: whether its records are divided among segments; `recordings` yields them whole.
        keeps_end_marks: whether end marks of a 1.0 log are kept as words.
        end_marks: predictions of a 1.0 log that have an end mark, removed with its delay, or kept. This and the
            following attributes are complete once all records were read.
        odd_segments: how many segments are unsorted, overlap, or lie outside of their recording, and similar counts.
        missing_reference: lines without the key `reference`, which SimulEval reads as an empty text.
        repeated_index: lines whose index an earlier line had; SimulEval would keep only the last of them.
    """

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        """Recognise the form by the first line, and read the segments.

        Raises:
            LogError: a file cannot be read or is empty, or the log's form is unknown.
        """
        if path.is_dir():
            raise LogError(f"{path} is a folder; {_expected_instead(path)}")
        self.path = path
        self._options = options or ReadOptions()
        self.form = _recognise_first(path)
        self._segments = _read_segments(self._options)
        self.is_long_form = self._segments is not None and (
            self.form != SIMULSTREAM or self._options.resegment is not None or spans_recordings(self._segments)
        )
        self.aligner: Aligner = self._options.resegment or "soft"
        self.odd_segments: dict[str, int] = {}
        self.keeps_end_marks = self._options.keep_end_marks and self.form == SIMULEVAL_1_0
        self._reset_counts()

    @property
    def signatures(self) -> dict[str, str]:
        """Which clock the elapsed times use, how recordings were segmented, and whether end marks are kept."""
        if self.form != SIMULSTREAM:
            kept = {"end_marks": "kept|as:SimulEval-1.0"} if self.keeps_end_marks else {}
            return {"CA": "clock:cumulative|as:SimulEval-1.1.4", **kept}
        clock = {"CA": "clock:per_step|as:simulstream-1.0.0"}
        if self._segments is None or self.is_long_form:
            return clock
        return clock | {"segments": f"aligned:{aligner_name()}|as:simulstream-1.0.0"}

    def records(self) -> Iterator[EmissionRecord]:
        """Yield the records in order; record i is on line i + 1 (with segments: is that of segment i + 1).

        Raises:
            LogError: a line is malformed, the number of references is not that of lines or segments, the log has no
                such recording or several, or a recording cannot be divided.
            MissingExtraError: mwerSegmenter is asked for, and is missing.
        """
        if not self.is_long_form:
            yield from self._whole_records()
            return
        found: dict[int, EmissionRecord] = {}
        for one in self.recordings():
            parts = resegment(one.record, one.segments, self._options.unit, self.aligner)
            found |= {
                place: dataclasses.replace(part, index=place) for place, part in zip(one.places, parts, strict=True)
            }
        yield from (found[place] for place in sorted(found))

    def recordings(self) -> Iterator[Recording]:
        """Yield the recordings of a long-form log with their segments, in the order of their first segment.

        Raises:
            LogError: as `records`.
        """
        records = list(self._whole_records())
        if self._segments is None or any(record.recording_end is not None for record in records):
            raise LogError(
                f"{self.path} is a log of {self.form}, whose lines are segments already. Leave --segments out."
            )
        recordings = join_segments(records, self._segments)
        self.odd_segments = count_odd_segments(records, recordings)
        yield from recordings

    def warnings(self) -> Iterator[str]:
        """Yield a warning for each kind of odd segments, and for recordings of an evaluation without segments."""
        folder = self.path.parent
        if self._segments is None and self.path.name == INSTANCES_LOG and (folder / omnisteval.RESEGMENTED).is_file():
            yield (
                f"{self.path} has whole recordings, and is scored as if each were an utterance. To score their "
                f"segments: --segments {folder.parent / SEGMENTS} --references {folder.parent / REFERENCES}"
            )
        for sentence in describe_odd_segments(self.odd_segments) if self.odd_segments else ():
            yield f"{self._options.segments}: {sentence}"

    def _whole_records(self) -> Iterator[EmissionRecord]:
        """Yield a record per line, or per audio of a simulstream log."""
        self._reset_counts()
        records = self._simulstream_records() if self.form == SIMULSTREAM else self._json_records()
        for number, record in enumerate(records, 1):
            if record.index in self._seen:
                self.repeated_index.add(number)
            self._seen.add(record.index)
            yield record

    def _reset_counts(self) -> None:
        self.end_marks = 0
        self.missing_reference, self.repeated_index = LineNumbers(), LineNumbers()
        self._seen: set[int] = set()

    def _json_records(self) -> Iterator[EmissionRecord]:
        parse = _PARSERS[self.form]
        references = None if self.is_long_form else self._options.references  # else they are those of the segments
        texts = None if references is None else read_texts(references)
        measured = self._is_measured()
        number = 0
        for number, row in read_rows(self.path, READ_FORMS):
            record: EmissionRecord = on_line(self.path, number, parse, row, number - 1)
            if self.form == SIMULEVAL_1_0:
                self.end_marks += simuleval.has_end_mark(record)
                record = record if self.keeps_end_marks else simuleval.without_end_mark(record)
            if record.elapsed and not measured:
                record = dataclasses.replace(record, elapsed=None)
            if texts is not None:
                record = dataclasses.replace(record, reference=self._next_reference(texts, number))
            elif "reference" not in row and not self.is_long_form:
                self.missing_reference.add(number)
            yield record
        if texts is not None:
            self._check_exhausted(texts, number)

    def _is_measured(self) -> bool:
        """Return whether an elapsed time is neither 0 nor its delay, which tools write where they measure nothing."""
        elapsed, delays = ("emission_ca", "emission_cu") if self.form == OMNISTEVAL else ("elapsed", "delays")
        return any(_has_computation(row.get(elapsed), row.get(delays)) for _, row in read_rows(self.path, READ_FORMS))

    def _next_reference(self, texts: Iterator[str], number: int) -> str:
        text = next(texts, None)
        if text is None:
            lines = sum(1 for _ in read_rows(self.path, READ_FORMS))
            raise self._count_mismatch(number - 1, lines)
        return text

    def _check_exhausted(self, texts: Iterable[str], lines: int) -> None:
        more = sum(1 for _ in texts)
        if more:
            raise self._count_mismatch(lines + more, lines)

    def _count_mismatch(self, references: int, lines: int) -> LogError:
        return LogError(
            f"{self._options.references} holds {references} lines, {self.path} holds {lines}; "
            f"expected one reference per line of the log, in its order."
        )

    def _simulstream_records(self) -> Iterator[EmissionRecord]:
        options = self._options
        screens = simulstream.read_screens(
            self.path, options.unit, simulstream.make_detokenizer(options.detokenizer or options.unit)
        )
        if options.detokenizer is None:
            simulstream.check_not_subwords(self.path, screens.values())
        records = list(simulstream.to_records(screens, options.unit))
        if self.is_long_form or (self._segments is None and options.references is None):
            yield from records
        else:
            yield from _with_references(records, self._segments, options.references)


def _read_segments(options: ReadOptions) -> list[AudioSegment] | None:
    return None if options.segments is None else read_segments(options.segments, options.references)


def _with_references(
    records: Sequence[EmissionRecord], segments: Sequence[AudioSegment] | None, references: Path | None
) -> Iterator[EmissionRecord]:
    """Yield the records of whole utterances in the order of their segments, with their references and durations."""
    if segments is None:
        texts: list[str] = [] if references is None else list(read_texts(references))
        if len(texts) != len(records):
            raise LogError(f"There are {len(texts)} references for {len(records)} segments; expected one for each.")
        yield from (dataclasses.replace(one, reference=text) for one, text in zip(records, texts, strict=True))
        return
    for index, one in enumerate(join_segments(records, segments)):
        (segment,) = one.segments
        yield dataclasses.replace(
            one.record,
            index=index,
            reference=segment.reference,
            source_length=milliseconds(segment.duration_seconds),
        )


def _has_computation(elapsed: object, delays: object) -> bool:
    return bool(elapsed) and elapsed != delays and (any(elapsed) if isinstance(elapsed, list) else True)


def _expected_instead(folder: Path) -> str:
    """Say what is expected instead of a folder, and which file in it that is."""
    if (folder / INSTANCES_LOG).is_file():
        return f"expected the log in it, {folder / INSTANCES_LOG}."
    logs = sorted(folder.glob(f"*/{INSTANCES_LOG}"))
    if not logs:
        return f"expected a log. {READ_FORMS}"
    example = next((log for log in logs if log.parent.name != "offline"), logs[0])
    return (
        f"expected a log. It holds one for each of {len(logs)} cells, such as {example}; the scores of all cells are "
        f"in {folder / 'scores.json'}."
    )


def _recognise_first(path: Path) -> str:
    for number, row in read_rows(path, READ_FORMS):
        form: str = on_line(path, number, _recognise, row)
        return form
    raise LogError(f"{path} holds no line. {READ_FORMS}")


def _recognise(row: Mapping[str, Any]) -> str:
    """Recognise the form of a log by the keys of its first line."""
    for key in simuleval.KEYS_OF_SPEECH:
        if key in row:
            raise LogError(f"a log of speech output (it has the key {key}); only text output is scored.")
    if any(key in row for key in simulstream.KEYS_OF_SIMULSTREAM):
        return SIMULSTREAM
    if any(key in row for key in omnisteval.KEYS_OF_OMNISTEVAL):
        return OMNISTEVAL  # even with SimulEval's keys beside them
    if "prediction" not in row and "delays" not in row:
        raise LogError(f"an unknown form (its keys: {abbreviated(list(row)[:8])}). {READ_FORMS}")
    if "delays" not in row and "docid" in row and "segid" in row:
        return OMNISTEVAL  # its first segment is empty and has no times
    return SIMULEVAL_1_0 if any(key in row for key in simuleval.KEYS_OF_1_0) else SIMULEVAL_1_1
