"""`simulsa-eval convert`: writes a log, or a cell of a result folder, in the form of another tool."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.files.atomic import make_folder, remove_abandoned
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.files.ownership import claim, refuse_input_as_output
from simulsa_plugin.logs import omnisteval, simuleval, simulstream
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.recordings import Recording, join_sessions, unique_names
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, read_texts, write_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.simulstream import Event
from simulsa_plugin.logs.steps import STEPS, read_sessions
from simulsa_plugin.metrics.delays import DelayKind, ShownStep, split_units, unit_delays
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit, fits_unit
from simulsa_plugin.metrics.resegmentation import recording_name
from simulsa_plugin.metrics.stability import common_prefix, erasure, without_growing
from simulsa_plugin.segments import ReferenceSegment

OutputForm = Literal["simuleval", "omnisteval", "simulstream", "texts", "lists"]
OUTPUT_FORMS: tuple[OutputForm, ...] = get_args(OutputForm)
HYPOTHESIS = "hypothesis.jsonl"  # of OmniSTEval's form of recordings
SimulstreamRecording = tuple[str, Sequence[Event], Sequence[ReferenceSegment]]


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `simulsa-eval convert`, explained in its help."""

    form: OutputForm
    delays: DelayKind = "committed"
    sources: Path | None = None
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        if self.sources is not None and self.form != "texts":
            raise UsageError(f"--sources goes with --to texts; got --to {self.form}.")


@dataclass(frozen=True)
class Converted:
    """What was written: how many, and of what: instances, or whole recordings."""

    count: int
    things: Literal["instances", "recordings"]

    def __str__(self) -> str:
        """Format the number.

        >>> print(Converted(1, "recordings"), Converted(2, "instances"), sep=", ")
        1 recording, 2 instances
        """
        return f"{self.count} {self.things.removesuffix('s') if self.count == 1 else self.things}"


def convert(source: Path, out: Path, options: ConvertOptions) -> Converted:
    """Write a log, or the log of a cell, in another form.

    Of whole recordings with segments, simulstream's and OmniSTEval's forms are folders with the segments and their
    references beside the recordings; texts are those of the segments. Lists are SimulEval's --source and --target.

    Args:
        source: a log, or a folder of a cell.
        out: the file; a folder for simulstream and lists, and for OmniSTEval's form of recordings.
        options: which form, and which delays.

    Returns:
        What was written.

    Raises:
        LogError: the log cannot be read, or lacks something that the form needs.
        UsageError: delays other than the log's are requested, and there are no steps.
        StorageError: the output cannot be written.
    """
    options = _with_segments_of_result(source, options)
    long_form = Log(_log_path(source), options.read).is_long_form
    count = _write(source, out, options, long_form=long_form)
    return Converted(count, "recordings" if long_form and options.form != "texts" else "instances")


def _write(source: Path, out: Path, options: ConvertOptions, *, long_form: bool) -> int:
    """Write the output; return how many instances or recordings it has."""
    names = _folder_names(options.form, long_form=long_form)
    for path in [out / name for name in names] if names else [out]:
        refuse_input_as_output(
            path, [_log_path(source), source / STEPS, options.sources, options.read.references, options.read.segments]
        )
    if names:
        claim(make_folder(out), names)
    if options.form == "simulstream":
        recordings = _long_recordings(source, options) if long_form else _short_recordings(source, options)
        return simulstream.write_simulstream_log(out, recordings, options.read.unit)
    if long_form and options.form == "omnisteval":
        return _write_omnisteval_folder(source, out, options)
    if options.form == "lists":
        for name in names:
            remove_abandoned(out / name)
        whole = _whole_recordings(source, options) if long_form else _read_records(source, options, long_form=False)
        return simuleval.write_lists(out, whole)
    counted = _CountingIterator(_read_records(source, options, long_form=long_form))
    remove_abandoned(out)
    if options.form == "texts":
        write_jsonl(out, text_rows(counted, options.sources))
    else:
        write = simuleval.write_simuleval_log if options.form == "simuleval" else omnisteval.write_omnisteval_log
        write(out, counted)
    return counted.count


def _with_segments_of_result(source: Path, options: ConvertOptions) -> ConvertOptions:
    """Return the options with the segments of a result folder, where the source is a cell of long recordings."""
    if options.read.segments is not None or not (source / omnisteval.RESEGMENTED).is_file():
        return options
    read = dataclasses.replace(
        options.read,
        segments=source.parent / SEGMENTS,
        references=options.read.references or source.parent / REFERENCES,
    )
    return dataclasses.replace(options, read=read)


def _folder_names(form: OutputForm, *, long_form: bool) -> tuple[str, ...]:
    """Return the names of the files of a form that is a folder; none for a form that is a file."""
    if form == "simulstream":
        return simulstream.FILES
    if form == "lists":
        return simuleval.SOURCES, simuleval.TARGETS
    return (HYPOTHESIS, SEGMENTS, REFERENCES) if form == "omnisteval" and long_form else ()


def _write_omnisteval_folder(source: Path, out: Path, options: ConvertOptions) -> int:
    """Write recordings with their segments, as `omnisteval longform --speech_segmentation` reads them."""
    recordings = _recordings(source, options)
    names = unique_names([recording_name(one.record) for one in recordings])
    for name in (HYPOTHESIS, SEGMENTS, REFERENCES):
        remove_abandoned(out / name)
    named = [(names[recording_name(one.record)], one) for one in recordings]
    measured = any(one.record.elapsed for one in recordings)  # OmniSTEval wants elapsed times in all lines or in none
    simuleval.write_simuleval_log(
        out / HYPOTHESIS,
        (
            dataclasses.replace(one.record, source=name, elapsed=(one.record.elapsed or ()) if measured else None)
            for name, one in named
        ),
    )
    write_segments(out / SEGMENTS, out / REFERENCES, ((name, one.segments) for name, one in named))
    return len(recordings)


def text_rows(records: Iterator[EmissionRecord] | _CountingIterator, sources: Path | None) -> Iterator[dict[str, str]]:
    """Yield rows of mt and ref, and src where there are source texts, as COMET reads them.

    Raises:
        LogError: a record has no reference, or the sources are not as many as the records.
    """
    lines = None if sources is None else list(read_texts(sources, "sources"))
    number = 0
    for number, record in enumerate(records, 1):
        if record.reference is None:
            raise LogError(f"Instance {number} has no reference. Give --references FILE.")
        row = {"mt": record.prediction, "ref": record.reference}
        if lines is not None and number <= len(lines):
            row = {"src": lines[number - 1]} | row
        yield row
    if lines is not None and len(lines) != number:
        raise LogError(f"{sources} holds {len(lines)} lines for {number} instances; expected one source for each.")


def shown_events(steps: Sequence[ShownStep], unit: LatencyUnit, kind: DelayKind) -> list[Event]:
    """Make events from which simulstream computes delays of a kind; their tokens are units.

    Args:
        steps: of a session.
        unit: word or char.
        kind: committed: committed units are written, nothing is deleted. first_stable: the displayed text, with as few
            deletions as possible: a last word that grows is written once it is complete, as tokens are words.
            last_written: everything uncommitted is deleted and written again.
    """
    final = split_units(steps[-1].shown, unit)
    events, before, kept_before = [], list[str](), list[str]()
    written = _written_units(steps, unit) if kind == "committed" else None
    shown = [split_units(step.shown, unit) for step in steps]
    if kind == "first_stable":
        shown = list(_without_growing(shown))
    for number, step in enumerate(steps):
        now = final[: written[number]] if written is not None else shown[number]
        kept = common_prefix(before, now)
        if kind == "last_written":
            kept = min(kept, common_prefix(kept_before, now))
        events.append(Event(step.audio_ms / 1000, (step.compute_ms or 0.0) / 1000, before[kept:], now[kept:]))
        before, kept_before = now, split_units(step.committed, unit)
    return events


def _without_growing(shown: Sequence[list[str]]) -> Iterator[list[str]]:
    """Yield each output without a last word that a later one completes, unless that deletes more."""
    whole = list(shown[-1:])
    for earlier, later in reversed(list(itertools.pairwise(shown))):
        whole.append(whole[-1] if earlier == later else without_growing(earlier, later))
    before: list[str] = []
    for now, rest in zip(shown, reversed(whole), strict=True):
        before = rest if erasure(before, rest) <= erasure(before, now) else now
        yield before


def record_events(record: EmissionRecord, unit: LatencyUnit) -> list[Event]:
    """Make the events of a record without steps: nothing is ever deleted.

    The computation of an event is the growth of elapsed − delay, which includes earlier steps that wrote nothing.

    Raises:
        LogError: there is no delay for each unit, one is negative, the source is text, or the computation falls.
    """
    if record.text_source:
        raise LogError(
            f"Instance {record.index} has a source of text, and delays in its tokens; simulstream has seconds of audio."
        )
    units = split_units(record.prediction, unit)
    if not fits_unit(record, unit) or len(units) != len(record.delays) or len(record.elapsed or units) != len(units):
        raise LogError(
            f"Instance {record.index} has {len(record.delays)} delays for {len(units)} units; "
            f"simulstream has a time for each."
        )
    if min(record.delays, default=0.0) < 0:
        raise LogError(
            f"Instance {record.index} starts {-min(record.delays):g} ms before its segment; simulstream "
            f"counts from the start of an audio. Give it the log of the whole recording."
        )
    times = zip(units, record.delays, record.elapsed or record.delays, strict=True)
    events, computed = [], 0.0
    for (delay, elapsed), group in itertools.groupby(times, key=lambda one: one[1:]):
        spent = elapsed - delay - computed
        if spent < 0:
            raise LogError(
                f"Instance {record.index}: its elapsed times imply negative computation. "
                f"They are not on SimulEval's clock."
            )
        computed += spent
        events.append(Event(delay / 1000, spent / 1000, (), [word for word, _, _ in group]))
    if not events or record.delays[-1] < (record.source_length or 0.0):
        events.append(Event((record.source_length or 0.0) / 1000, 0.0, (), ()))
    return events


@dataclass
class _CountingIterator:
    """An iterator that counts its records."""

    records: Iterator[EmissionRecord]
    count: int = 0

    def __iter__(self) -> Iterator[EmissionRecord]:
        for record in self.records:
            self.count += 1
            yield record


def _read_records(source: Path, options: ConvertOptions, *, long_form: bool) -> Iterator[EmissionRecord]:
    if long_form and options.form == "simuleval":
        yield from (one.record for one in _recordings(source, options))
    elif long_form or options.delays == "committed":
        yield from Log(_log_path(source), options.read).records()
    else:
        for record, steps in _records_with_steps(source, options):
            yield dataclasses.replace(
                record, delays=tuple(unit_delays(steps, options.read.unit, options.delays)), elapsed=None
            )


def _whole_recordings(source: Path, options: ConvertOptions) -> Iterator[EmissionRecord]:
    """Yield the recordings of a long-form log, the references of their segments joined."""
    separator = " " if options.read.unit == "word" else ""
    for one in _recordings(source, options):
        yield dataclasses.replace(
            one.record, reference=separator.join(each.reference for each in one.segments if each.reference)
        )


def _recordings(source: Path, options: ConvertOptions) -> list[Recording]:
    """Read the recordings of a long-form log, with the chosen delays."""
    recordings = list(Log(_log_path(source), options.read).recordings())
    if options.delays == "committed":
        return recordings
    unit, steps = options.read.unit, _steps_by_name(source, options)
    return [
        dataclasses.replace(
            one,
            record=dataclasses.replace(
                one.record,
                delays=tuple(
                    delay
                    for session in steps[recording_name(one.record)]
                    for delay in unit_delays(session, unit, options.delays)
                ),
                elapsed=None,
            ),
        )
        for one in recordings
    ]


def _steps_by_name(source: Path, options: ConvertOptions) -> dict[str, list[Sequence[ShownStep]]]:
    """Return the sessions of each recording of a cell."""
    _check_steps(source, options)
    records = Log(_log_path(source), ReadOptions(unit=options.read.unit)).records()
    joined = join_sessions(records, read_sessions([source / STEPS]), options.read.unit)
    return {recording_name(record): sessions for record, sessions in joined}


def _long_recordings(source: Path, options: ConvertOptions) -> Iterator[SimulstreamRecording]:
    """Yield name, events and segments of the recordings of a long-form log."""
    recordings, unit = list(Log(_log_path(source), options.read).recordings()), options.read.unit
    names = unique_names([recording_name(one.record) for one in recordings])
    steps = None if options.delays == "committed" and not source.is_dir() else _steps_by_name(source, options)
    for one in recordings:
        name = recording_name(one.record)
        if steps is None:
            events = record_events(one.record, unit)
        else:
            events = [event for each in steps[name] for event in shown_events(each, unit, options.delays)]
            end = (one.record.source_length or 0.0) / 1000
            if not events or events[-1].audio_seconds < end:
                events.append(Event(end, 0.0, (), ()))
        yield names[name], events, one.segments


def _short_recordings(source: Path, options: ConvertOptions) -> Iterator[SimulstreamRecording]:
    """Yield name, events and segment of the utterances of a log."""
    for number, (record, events) in enumerate(_sessions_with_events(source, options), 1):
        # simulstream identifies audios by name, and ours may repeat
        yield f"{number - 1:08d}.wav", events, simulstream.utterance_segments(record, number)


def _sessions_with_events(source: Path, options: ConvertOptions) -> Iterator[tuple[EmissionRecord, list[Event]]]:
    if options.delays == "committed" and not source.is_dir():
        for record in Log(_log_path(source), options.read).records():
            yield record, record_events(record, options.read.unit)
        return
    for record, steps in _records_with_steps(source, options):
        yield record, shown_events(steps, options.read.unit, options.delays)


def _check_steps(source: Path, options: ConvertOptions) -> None:
    if not (source / STEPS).is_file():
        raise UsageError(
            f"--delays {options.delays} needs {STEPS}; give the folder of a cell of `simulsa-eval run`. "
            f"A log alone has committed."
        )


def _records_with_steps(source: Path, options: ConvertOptions) -> Iterator[tuple[EmissionRecord, list[ShownStep]]]:
    _check_steps(source, options)
    records, sessions = Log(_log_path(source), options.read).records(), read_sessions([source / STEPS])
    for record, session in itertools.zip_longest(records, sessions):
        if record is None or session is None:
            raise LogError(
                f"{source}: {INSTANCES_LOG} and {STEPS} hold different instances. Run `simulsa-eval run` again."
            )
        _, steps = session
        units = split_units(steps[-1].shown, options.read.unit)
        if len(units) != len(record.delays):
            raise LogError(
                f"{source}: instance {record.index} has {len(record.delays)} delays for {len(units)} units. "
                f"Give the --unit that the cell was scored with."
            )
        yield record, steps


def _written_units(steps: Sequence[ShownStep], unit: LatencyUnit) -> list[int]:
    """Count the units committed after each step."""
    times = unit_delays(steps, unit, "committed")
    return [sum(time <= step.audio_ms for time in times) for step in steps]


def _log_path(source: Path) -> Path:
    path = source / INSTANCES_LOG if source.is_dir() else source
    if not path.exists():
        example = next(iter(sorted(source.glob(f"*/{INSTANCES_LOG}"), reverse=True)), None)
        such = f", such as {example.parent}" if example else ", which holds one"
        raise LogError(f"{path} does not exist. Give a log, or the folder of a cell of `simulsa-eval run`{such}.")
    return path
