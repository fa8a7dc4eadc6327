"""Resegmentation: divides the translation of a recording among its reference segments, with the times of each unit.

Two aligners: `soft`, SoftSegmenter as OmniSTEval 0.1.10 uses it for LongYAAL, and `mwer`, mwerSegmenter as
simulstream 1.0.0 uses it for StreamLAAL. A unit's delay in a segment is its delay in the recording less the segment's
offset, and is negative where the unit was written before its segment began.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from simulsa_plugin.errors import LogError
from simulsa_plugin.metrics.mwer_segmentation import count_part, divide_text
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.soft_segmentation import assign_segments, normalize_token
from simulsa_plugin.segments import Aligner, ReferenceSegment


@dataclass(frozen=True)
class SegmentAlignment:
    """The units of a recording's translation that each of its segments has.

    Attributes:
        segments: of the recording, in the order in which they were given.
        texts: of each segment, what its units write.
        references: of each segment, as the aligner's tool scores it.
        positions: of each segment, the indexes of its units in the recording's translation.
    """

    segments: tuple[ReferenceSegment, ...]
    texts: tuple[str, ...]
    references: tuple[str | None, ...]
    positions: tuple[tuple[int, ...], ...]

    def apply(self, record: EmissionRecord) -> list[EmissionRecord]:
        """Make the record of each segment, from a record of the recording with these units and any times.

        Returns:
            One per segment, in their order: delays and elapsed times since its offset, its duration as
            `source_length`, and the time from its offset to the end of the last segment as `recording_end`, in ms.
        """
        name = recording_name(record)
        end = max((segment.end_seconds for segment in self.segments), default=0.0)
        return [
            EmissionRecord(
                index,
                text,
                reference,
                _shifted(record.delays, places, segment),
                None if record.elapsed is None else _shifted(record.elapsed, places, segment),
                milliseconds(segment.duration_seconds),
                name,
                recording_end=milliseconds(end - segment.offset_seconds),
                recording=name,
            )
            for index, (segment, text, reference, places) in enumerate(
                zip(self.segments, self.texts, self.references, self.positions, strict=True)
            )
        ]


def resegment(
    record: EmissionRecord, segments: Sequence[ReferenceSegment], unit: LatencyUnit, method: Aligner = "soft"
) -> list[EmissionRecord]:
    """Divide the record of a recording among its reference segments.

    Args:
        record: of a whole recording; times in ms of the recording.
        segments: of the recording, in any order: the text is aligned in the order of time.
        unit: word or char.
        method: the aligner.

    Returns:
        A record per segment, in the order given, see `SegmentAlignment.apply`; `index` counts them from 0.

    Raises:
        LogError: the record has no time for each unit, or a segment has no reference.
        MissingExtraError: mwerSegmenter is not installed.

    >>> whole = EmissionRecord(0, "good morning thank you", None, (900.0, 1800.0, 2400.0, 3000.0), source="talk.wav")
    >>> parts = [ReferenceSegment(0.0, 1.5, "Good morning."), ReferenceSegment(2.0, 1.0, "Thank you.")]
    >>> [(one.prediction, one.delays, one.recording_end) for one in resegment(whole, parts, "word")]
    [('good morning', (900.0, 1800.0), 3000.0), ('thank you', (400.0, 1000.0), 1000.0)]
    """
    return align_segments(record, segments, unit, method).apply(record)


def align_segments(
    record: EmissionRecord, segments: Sequence[ReferenceSegment], unit: LatencyUnit, method: Aligner = "soft"
) -> SegmentAlignment:
    """Align the translation of a recording with its segments. Arguments and errors as `resegment`."""
    units = _split_record(record, unit)
    order = sorted(range(len(segments)), key=lambda index: segments[index].offset_seconds)
    if len(segments) == 1 and segments[0].reference is None:
        found: dict[int, Sequence[int]] = {0: range(len(units))}
    else:
        references = _references([segments[index] for index in order], record)
        align = _soft_positions if method == "soft" else _mwer_positions
        try:
            found = dict(zip(order, align(units, references, unit), strict=True))
        except LogError as error:
            raise LogError(f"{recording_name(record)}: {error}") from error
    positions = tuple(tuple(found[index]) for index in range(len(segments)))
    space = " " if unit == "word" else ""
    # OmniSTEval removes the spaces of references whose characters it counts
    compact = method == "soft" and unit == "char"
    return SegmentAlignment(
        tuple(segments),
        tuple(space.join(units[place] for place in places) for places in positions),
        tuple(
            segment.reference and (segment.reference.strip().replace(" ", "") if compact else segment.reference.strip())
            for segment in segments
        ),
        positions,
    )


def recording_name(record: EmissionRecord) -> str:
    """Return the name of the audio of a record: its source, or the first line of what SimulEval writes about it.

    >>> recording_name(EmissionRecord(0, "", None, (), source=("talks/1.wav", "samplerate: 16000")))
    'talks/1.wav'
    """
    source = record.source if isinstance(record.source, str) else next(iter(record.source), "")
    return source.strip()


def milliseconds(seconds: float) -> float:
    """Convert seconds to milliseconds, rounded to a nanosecond.

    ATD would count a rounding error of float arithmetic as a token of the source.

    >>> milliseconds(16.1), 16.1 * 1000
    (16100.0, 16100.000000000002)
    """
    return round(seconds * 1000, 6)


def _shifted(times: Sequence[float], places: Sequence[int], segment: ReferenceSegment) -> tuple[float, ...]:
    offset = milliseconds(segment.offset_seconds)
    return tuple(round(times[place] - offset, 6) for place in places)


def _references(segments: Sequence[ReferenceSegment], record: EmissionRecord) -> list[str]:
    texts = [segment.reference.strip() for segment in segments if segment.reference is not None]
    if len(texts) < len(segments):
        raise LogError(
            f"The audio {recording_name(record)} has {len(segments)} segments and "
            f"{'no references' if not texts else f'{len(texts)} references'}, which are needed to align its text. "
            "Give --references FILE, one line per segment."
        )
    return texts


def _split_record(record: EmissionRecord, unit: LatencyUnit) -> list[str]:
    """Split the prediction into one text per delay; spaces that have no delay go with the character before them."""
    text = record.prediction
    ways = (
        (text.split(), [word for word in text.split(" ") if word])
        if unit == "word"
        else (list(text), list(text.strip()), _with_spaces(text.strip()))
    )
    for units in ways:
        if len(units) == len(record.delays) == len(record.delays if record.elapsed is None else record.elapsed):
            return units
    elapsed = "" if record.elapsed is None else f" and {len(record.elapsed)} elapsed times"
    raise LogError(
        f"{recording_name(record) or 'A recording'}: {len(record.delays)} delays{elapsed} for {len(ways[0])} units of "
        f"the unit {unit}; a recording needs a time for each unit before it can be divided into segments."
    )


def _with_spaces(text: str) -> list[str]:
    units: list[str] = []
    for char in text:
        if char == " ":
            units[-1] += char
        else:
            units.append(char)
    return units


def _soft_positions(units: Sequence[str], references: Sequence[str], unit: LatencyUnit) -> Iterable[Sequence[int]]:
    """Return the positions of each reference's units, by SoftSegmenter."""
    lowered = [reference.lower() for reference in references]  # before it is split, as OmniSTEval does
    tokens = [text.split() if unit == "word" else list(text.replace(" ", "")) for text in lowered]
    assigned = assign_segments(
        [[normalize_token(token) for token in one] for one in tokens],
        [normalize_token(one.rstrip(" ") or one) for one in units],
        characters=unit == "char",
    )
    positions: list[list[int]] = [[] for _ in references]
    for position, number in enumerate(assigned):
        if number is not None:
            positions[number].append(position)
    return positions


def _mwer_positions(units: Sequence[str], references: Sequence[str], unit: LatencyUnit) -> Iterable[Sequence[int]]:
    """Return the positions of each reference's units, by mwerSegmenter."""
    parts = divide_text((" " if unit == "word" else "").join(units), references, unit)
    ends = list(accumulate((count_part(part, unit) for part in parts), initial=0))
    places = [place for place, one in enumerate(units) for _ in range(1 if unit == "word" else len(one))]
    first = [places[end - 1] + 1 if end else 0 for end in ends]  # a space goes with the character before it
    return (range(start, end) for start, end in pairwise(first))
