"""simulstream's JSONL: the deleted and generated tokens of every step, in the order of time.

A line `{"id": …, "metadata": {"wav_name": …}}` names an audio, lines without an id (the first one holds the loading
time of the model) are skipped, every other line is a step of an audio. The delay of a unit is that of the last step
that wrote or changed it, and its elapsed time includes the computation of that step alone.
Source: simulstream 1.0.0, metrics/readers.py. References and segments are in separate files. Unlike there, audios are
identified by their whole name: `a/1.wav` and `b/1.wav` are different.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import yaml

from simulsa_plugin.errors import LogError, MissingExtraError, UsageError
from simulsa_plugin.files.atomic import make_folder, remove_abandoned, replacing
from simulsa_plugin.logs.json_rows import abbreviated, get_texts, on_line, read_rows, reason_of, to_number
from simulsa_plugin.metrics.records import LONGEST_MS, EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.stability import common_prefix, erasure

KEYS_OF_SIMULSTREAM = ("generated_tokens", "deleted_tokens", "metadata", "model_loading_time")
EXPECTED_LINES = (
    "A simulstream log has a metadata line for every audio, and lines of generated_tokens and deleted_tokens."
)
DETOKENIZERS = ("word", "char", "spm")
AUDIO_SUFFIXES = frozenset(".aac .aif .aiff .flac .m4a .mkv .mp3 .mp4 .oga .ogg .opus .sph .wav .webm .wma".split())
LOG, SEGMENTS, REFERENCES, CONFIG = FILES = "simulstream.jsonl", "segments.yaml", "references.txt", "simulstream.yaml"

Detokenize = Callable[[list[str]], str]


@dataclass(frozen=True)
class Event:
    """One step: seconds of audio received, seconds of computation, deleted and generated tokens."""

    audio_seconds: float
    compute_seconds: float
    deleted: Sequence[str]
    generated: Sequence[str]


@dataclass(frozen=True)
class Segment:
    """A part of an audio with a reference: the audio's name, and seconds."""

    audio: str
    offset: float
    duration: float


@dataclass
class Screen:
    """The displayed text after the events of an audio, with the times of its units in milliseconds."""

    tokens: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    text: str = ""
    delays: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    erased: int = 0
    received_ms: float = 0.0
    computed: float = 0.0

    def add(self, event: Event, unit: LatencyUnit, detokenize: Detokenize) -> None:
        """Apply an event.

        Raises:
            LogError: the deleted tokens are not the last ones.
        """
        kept = len(self.tokens) - len(event.deleted)
        if list(event.deleted) != self.tokens[max(0, kept) :] or kept < 0:
            raise LogError(
                f"deleted_tokens are {abbreviated(list(event.deleted))}; expected the last tokens before this step."
            )
        self.received_ms = _milliseconds(event.audio_seconds)
        self.computed += abs(event.compute_seconds)
        before = self.units
        if event.deleted:
            self._display(self.tokens[:kept], unit, detokenize, event)
        self._display(self.tokens + list(event.generated), unit, detokenize, event)
        self.erased += erasure(before, self.units)

    def _display(self, tokens: list[str], unit: LatencyUnit, detokenize: Detokenize, event: Event) -> None:
        """Display other tokens. Units keep their times, but the last word that is kept may have changed."""
        now = _milliseconds(event.audio_seconds)
        late = _milliseconds(event.audio_seconds + event.compute_seconds)
        text = detokenize(tokens)
        units = _split_at_spaces(text, unit)
        kept = min(len(units), len(self.units))
        if unit == "word" and kept and units[kept - 1] != self.units[kept - 1]:
            kept -= 1
        added = len(units) - kept
        self.delays, self.elapsed = self.delays[:kept] + [now] * added, self.elapsed[:kept] + [late] * added
        self.tokens, self.text, self.units = tokens, text, units


def read_screens(path: Path, unit: LatencyUnit, detokenize: Detokenize) -> dict[str, Screen]:
    """Read the final state of every audio: its name → screen, in the order of the log.

    Raises:
        LogError: the log cannot be read, or a line is malformed.
    """
    names: dict[Any, str] = {}
    screens: dict[str, Screen] = {}
    for number, row in read_rows(path, EXPECTED_LINES):
        if "metadata" in row:
            names[_audio_id(row)] = name = on_line(path, number, _audio_name, row, screens)
            screens.setdefault(name, Screen())  # an audio without events has an empty translation
        else:
            on_line(path, number, _add_line, row, names, screens, unit, detokenize)
    if not screens:
        raise LogError(f"{path} has no metadata line. {EXPECTED_LINES}")
    return screens


def check_not_subwords(path: Path, screens: Collection[Screen]) -> None:
    """Raise LogError where tokens are subwords.

    Raises:
        LogError: most texts contain ▁, SentencePiece's space.
    """
    written = [screen.text for screen in screens if screen.text]
    if 2 * sum("▁" in text for text in written) > len(written):
        raise LogError(
            f"{path} holds subwords (▁ in most of its texts), each of which would count as a word. "
            f"Give --detokenizer spm, or the folder of the model's tokenizer."
        )


def read_segments(path: Path) -> list[Segment]:
    """Read the segments of a YAML file: a list of {wav, offset, duration}, seconds.

    Raises:
        LogError: the file cannot be read, or an entry lacks one of them.
    """
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # an invalid date is a ValueError
        reason = abbreviated(" ".join(reason_of(error).split()))
        raise LogError(
            f"Cannot read the segments {path}: {reason}. Give a YAML list of wav, offset and duration."
        ) from error
    if not isinstance(entries, list) or not entries:
        raise LogError(
            f"{path} does not hold a list; expected a YAML list of wav, offset and duration, as for simulstream."
        )
    return [_on_entry(path, number, entry) for number, entry in enumerate(entries, 1)]


def to_records(
    screens: Mapping[str, Screen],
    segments: Sequence[Segment] | None,
    references: Sequence[str] | None,
    unit: LatencyUnit,
) -> Iterator[EmissionRecord]:
    """Make one record per segment, or per audio where there are no segments.

    Where an audio has several segments, or its segment starts within it, all records are segments of recordings: they
    have a `recording_end`, that of the recording's last segment, as OmniSTEval 0.1.10 takes it for LongYAAL.

    Args:
        screens: as `read_screens` gives them.
        segments: None for one segment per audio, as long as the received audio.
        references: one per segment, or per audio; None where there are none.
        unit: word or char.

    Raises:
        LogError: the numbers do not match, the log has no such audio or several, or an audio of several segments has
            no references to align it with.
        MissingExtraError: an audio of several segments needs the aligner.
    """
    if segments is None:
        segments = [Segment(name, 0.0, screen.received_ms / 1000) for name, screen in screens.items()]
    if references is not None and len(references) != len(segments):
        raise LogError(f"There are {len(references)} references for {len(segments)} segments; expected one for each.")
    texts: Sequence[str | None] = references if references is not None else [None] * len(segments)
    audios = _find_audios(list(dict.fromkeys(segment.audio for segment in segments)), list(screens))
    by_audio: dict[str, list[int]] = {}
    for index, segment in enumerate(segments):
        by_audio.setdefault(audios[segment.audio], []).append(index)
    long_form = len(by_audio) < len(segments) or any(segment.offset for segment in segments)
    # The form always has computation times: all zeros means that they were not measured.
    measured = any(screen.computed for screen in screens.values())
    found: dict[int, EmissionRecord] = {}
    for name, indexes in by_audio.items():
        indexes.sort(key=lambda index: segments[index].offset)  # the text is aligned in the order of time
        records = _records_of_audio(
            name, screens[name], {index: segments[index] for index in indexes}, texts, unit, measured
        )
        end = max(segments[index].offset + segments[index].duration for index in indexes)
        found |= (
            {
                index: dataclasses.replace(record, recording_end=_milliseconds(end - segments[index].offset))
                for index, record in records.items()
            }
            if long_form
            else records
        )
    yield from (found[index] for index in range(len(segments)))


def alignment_signature() -> str:
    """Return the signature of the aligner; OmniSTEval's LongYAAL uses another one."""
    try:
        version = f"-{metadata.version('mweralign')}"
    except metadata.PackageNotFoundError:  # no audio had several segments
        version = ""
    return f"aligned:mweralign{version}|as:simulstream-1.0.0"


def make_detokenizer(name: str) -> Detokenize:
    """Make a function from tokens to text.

    Args:
        name: word (joined by spaces), char (joined), spm (joined, ▁ is a space), or a folder with the
            tokenizer.json of a model.

    Raises:
        UsageError: the name is unknown, or the folder has no such file.
    """
    if name == "word":
        return " ".join
    if name == "char":
        return "".join
    if name == "spm":
        return lambda tokens: "".join(tokens).replace("▁", " ").strip()
    if not Path(name).is_dir():
        raise UsageError(f"--detokenizer is {name!r}; allowed: {', '.join(DETOKENIZERS)}, a folder of a tokenizer.")
    return _load_tokenizer(Path(name))


def write_simulstream_log(
    folder: Path, sessions: Iterable[tuple[EmissionRecord, Sequence[Event]]], unit: LatencyUnit
) -> int:
    """Write what simulstream needs to score: the log, segments, references, and the configuration.

    Args:
        folder: created if missing.
        sessions: records, and the events of each; the tokens are units.
        unit: word or char.

    Returns:
        The number of records.

    Raises:
        LogError: a record has no reference or no length, which simulstream cannot score.
    """
    make_folder(folder)
    for name in (LOG, SEGMENTS, REFERENCES, CONFIG):
        remove_abandoned(folder / name)
    count = 0
    with (
        replacing(folder / LOG, "w") as log,
        replacing(folder / SEGMENTS, "w") as segments,
        replacing(folder / REFERENCES, "w") as references,
    ):
        for count, (record, events) in enumerate(sessions, 1):
            _check_writable(record, count)
            name = f"{count - 1:08d}.wav"  # simulstream identifies audios by name, and ours may repeat
            log.write(json.dumps({"id": count, "metadata": {"wav_name": name}}) + "\n")
            log.writelines(
                json.dumps(_to_row(count, event), ensure_ascii=False, allow_nan=False) + "\n" for event in events
            )
            segment = {"wav": name, "offset": 0.0, "duration": (record.source_length or 0.0) / 1000}
            segments.write(f"- {json.dumps(segment)}\n")
            references.write(" ".join((record.reference or "").splitlines()).strip() + "\n")  # one line each
    with replacing(folder / CONFIG, "w") as config:
        config.write(f"detokenizer_type: simuleval\nlatency_unit: {unit}\n")
    return count


def _audio_id(row: Mapping[str, Any]) -> Any:
    identity = row.get("id")
    return identity if isinstance(identity, (int, str)) else abbreviated(identity)


def _audio_name(row: Mapping[str, Any], screens: Mapping[str, Screen]) -> str:
    described = row["metadata"]
    name = described.get("wav_name") if isinstance(described, dict) else None
    if not isinstance(name, str):
        raise LogError(f"metadata is {abbreviated(described)}; expected an object with wav_name.")
    if name in screens and screens[name].received_ms:
        raise LogError(
            f"the audio {name} is repeated, as after a second run that appended to the file. Keep the lines of one run."
        )
    return name


def _find_audios(wanted: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Find the log's audio for each name in the segments; folders and suffix may differ where the match is unambiguous.

    Raises:
        LogError: an audio is not in the log, or matches several, or two match the same.
    """
    exact, by_stem = set(names), dict[str, list[str]]()
    for name in names:
        by_stem.setdefault(_stem(name), []).append(name)
    missing = [audio for audio in wanted if audio not in exact and _stem(audio) not in by_stem]
    if missing:
        raise LogError(f"The log has no audio named {missing[0]}; the segments name {len(missing)} that are not in it.")
    found, claimed = {}, dict[str, str]()
    for audio in wanted:
        found[audio] = name = audio if audio in exact else _most_similar(audio, by_stem[_stem(audio)])
        if claimed.setdefault(name, audio) != audio:
            raise LogError(
                f"The segments name {claimed[name]} and {audio}; the log has only {name} for both. "
                f"Name them as the log does."
            )
    return found


def _most_similar(audio: str, names: Sequence[str]) -> str:
    similarities = [_similarity(audio, name) for name in names]
    most = max(similarities)
    best = [name for name, one in zip(names, similarities, strict=True) if one == most]
    if len(best) > 1:
        raise LogError(
            f"The segments name {audio}, which may be {best[0]} or {best[1]} of the log. Name it there as the log does."
        )
    return best[0]


def _stem(name: str) -> str:
    """Strip folders and the suffix from the name of an audio; only suffixes of audio files are suffixes.

    >>> _stem("a/talk.v1.wav"), _stem("talk.v1")
    ('talk.v1', 'talk.v1')
    """
    path = PurePath(name)
    return path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name


def _similarity(one: str, other: str) -> tuple[int, bool]:
    """Return how many parent folders are equal, and whether the suffix is."""
    first, second = PurePath(one), PurePath(other)
    pairs = zip(reversed(first.parts[:-1]), reversed(second.parts[:-1]), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)), first.name == second.name


def _add_line(
    row: Mapping[str, Any],
    names: Mapping[Any, str],
    screens: dict[str, Screen],
    unit: LatencyUnit,
    detokenize: Detokenize,
) -> None:
    if "id" not in row:
        return  # skipped by simulstream as well
    if _audio_id(row) not in names:
        raise LogError(f"id {abbreviated(row['id'])} has no metadata line before it.")
    event = Event(
        _seconds("total_audio_processed", row),
        _seconds("computation_time", row),
        get_texts(row, "deleted_tokens"),
        get_texts(row, "generated_tokens"),
    )
    screens[names[_audio_id(row)]].add(event, unit, detokenize)


def _on_entry(path: Path, number: int, entry: object) -> Segment:
    try:
        if not isinstance(entry, dict) or not isinstance(entry.get("wav"), str):
            raise LogError(f"{abbreviated(entry)}; expected an object with wav, offset and duration.")
        return Segment(entry["wav"], _seconds("offset", entry), _seconds("duration", entry))
    except LogError as error:
        raise LogError(f"{path}, entry {number}: {error}") from error


def _seconds(key: str, row: Mapping[str, Any]) -> float:
    """Return the seconds under a key: finite, not negative."""
    seconds = to_number(key, row.get(key), "seconds")
    if not 0 <= seconds <= LONGEST_MS / 1000:
        raise LogError(f"{key} is {seconds:g}; allowed: seconds, 0 or more.")
    return seconds


def _milliseconds(seconds: float) -> float:
    """Convert seconds to milliseconds, rounded to a nanosecond.

    ATD would count a rounding error of float arithmetic as a token of the source.

    >>> _milliseconds(16.1), 16.1 * 1000
    (16100.0, 16100.000000000002)
    """
    return round(seconds * 1000, 6)


def _split_at_spaces(text: str, unit: LatencyUnit) -> list[str]:
    """Split as simulstream does: at spaces only, or into all characters."""
    return [word for word in text.split(" ") if word] if unit == "word" else list(text)


def _records_of_audio(
    name: str,
    screen: Screen,
    segments: Mapping[int, Segment],
    references: Sequence[str | None],
    unit: LatencyUnit,
    measured: bool,
) -> dict[int, EmissionRecord]:
    """Make the records of an audio, by the index of their segment; erased units are counted on the first."""
    texts = _texts_of_segments(name, screen, [references[index] for index in segments], unit)
    records, start, erased = {}, 0, screen.erased
    for (index, segment), text in zip(segments.items(), texts, strict=True):
        end = start + len(_split_at_spaces(text, unit))
        blank = common_prefix(text, " " * len(text)) if unit == "char" else 0  # simulstream gives white space delays
        stripped = slice(
            start + blank, end - (len(text) - len(text.rstrip()) if unit == "char" and text.strip() else 0)
        )
        shift = _milliseconds(segment.offset)
        records[index] = EmissionRecord(
            index,
            text.strip(),
            references[index],
            tuple(round(delay - shift, 6) for delay in screen.delays[stripped]),
            tuple(round(time - shift, 6) for time in screen.elapsed[stripped]) if measured else None,
            _milliseconds(segment.duration),
            name,
            erased,
        )
        start, erased = end, 0
    return records


def _texts_of_segments(name: str, screen: Screen, references: Sequence[str | None], unit: LatencyUnit) -> list[str]:
    """Divide the text of an audio among its segments."""
    if len(references) == 1:
        return [screen.text]
    if None in references:
        raise LogError(
            f"The audio {name} has {len(references)} segments and no references, which are needed to align "
            f"its text. Give --references FILE, one line per segment."
        )
    known = [reference or "" for reference in references]
    filled = max((number for number, reference in enumerate(known, 1) if reference.strip()), default=1)
    # the aligner returns no line for empty references at the end
    parts = _align(screen.text, known[:filled], unit) if filled > 1 else [screen.text]
    if len(parts) != filled or sum(len(_split_at_spaces(part, unit)) for part in parts) != len(screen.units):
        raise LogError(
            f"The text of the audio {name} cannot be aligned with its {len(references)} references: "
            f"{len(parts)} parts, or different units. Check for line breaks in tokens or references."
        )
    return parts + [""] * (len(known) - filled)


def _align(text: str, references: Sequence[str], unit: LatencyUnit) -> list[str]:
    """Divide a long text into one part per reference, with simulstream's aligner."""
    try:
        from mweralign import mweralign
        from mweralign.segmenter import CJSegmenter
    except ImportError as error:
        raise MissingExtraError.for_package(
            "Aligning an audio of several segments with its references", "mweralign", "longform"
        ) from error
    if unit == "word":
        return list(mweralign.align_texts("\n".join(references), text).split("\n"))
    encode = CJSegmenter().encode
    parts = mweralign.align_texts("\n".join(" ".join(encode(one)) for one in references), " ".join(encode(text)))
    return [part.replace(" ", "").replace("▁", " ").replace("\0", "▁") for part in parts.split("\n")]


def _load_tokenizer(folder: Path) -> Detokenize:
    """Make the `convert_tokens_to_string` of transformers' fast tokenizers, without loading transformers."""
    from tokenizers import Tokenizer

    try:
        decoder = Tokenizer.from_file(str(folder / "tokenizer.json")).decoder
    except Exception as error:  # the library raises nothing more precise
        raise UsageError(f"--detokenizer: cannot read a tokenizer.json in {folder} ({error}).") from error
    return " ".join if decoder is None else decoder.decode


def _check_writable(record: EmissionRecord, number: int) -> None:
    if record.reference is None:
        raise LogError(f"Instance {number} has no reference, which simulstream needs. Give --references FILE.")
    if record.source_length is None:
        raise LogError(f"Instance {number} has no source_length, which simulstream needs.")


def _to_row(identity: int, event: Event) -> dict[str, Any]:
    return {
        "id": identity,
        "total_audio_processed": event.audio_seconds,
        "computation_time": event.compute_seconds,
        "generated_tokens": list(event.generated),
        "deleted_tokens": list(event.deleted),
    }
