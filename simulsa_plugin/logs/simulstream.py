"""simulstream's JSONL: the deleted and generated tokens of every step, in the order of time.

A line `{"id": …, "metadata": {"wav_name": …}}` names an audio, lines without an id (the first one holds the loading
time of the model) are skipped, every other line is a step of an audio. The delay of a unit is that of the last step
that wrote or changed it, and its elapsed time includes the computation of that step alone.
Source: simulstream 1.0.0, metrics/readers.py. References and segments are in separate files. Unlike there, audios are
identified by their whole name: `a/1.wav` and `b/1.wav` are different.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.files.atomic import make_folder, remove_abandoned, replacing
from simulsa_plugin.logs.json_rows import abbreviated, get_texts, on_line, read_rows
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, get_seconds, write_segments
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.metrics.resegmentation import milliseconds
from simulsa_plugin.metrics.stability import common_prefix, erasure
from simulsa_plugin.segments import ReferenceSegment

KEYS_OF_SIMULSTREAM = ("generated_tokens", "deleted_tokens", "metadata", "model_loading_time")
EXPECTED_LINES = (
    "A simulstream log has a metadata line for every audio, and lines of generated_tokens and deleted_tokens."
)
DETOKENIZERS = ("word", "char", "spm")
LOG, CONFIG = "simulstream.jsonl", "simulstream.yaml"
FILES = (LOG, SEGMENTS, REFERENCES, CONFIG)

Detokenize = Callable[[list[str]], str]


@dataclass(frozen=True)
class Event:
    """One step: seconds of audio received, seconds of computation, deleted and generated tokens."""

    audio_seconds: float
    compute_seconds: float
    deleted: Sequence[str]
    generated: Sequence[str]


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
        self.received_ms = milliseconds(event.audio_seconds)
        self.computed += abs(event.compute_seconds)
        before = self.units
        if event.deleted:
            self._display(self.tokens[:kept], unit, detokenize, event)
        self._display(self.tokens + list(event.generated), unit, detokenize, event)
        self.erased += erasure(before, self.units)

    def _display(self, tokens: list[str], unit: LatencyUnit, detokenize: Detokenize, event: Event) -> None:
        """Display other tokens. Units keep their times, but the last word that is kept may have changed."""
        now = milliseconds(event.audio_seconds)
        late = milliseconds(event.audio_seconds + event.compute_seconds)
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


def to_records(screens: Mapping[str, Screen], unit: LatencyUnit) -> Iterator[EmissionRecord]:
    """Make one record per audio, without reference, as long as the received audio.

    Args:
        screens: as `read_screens` gives them.
        unit: word or char.
    """
    # The form always has computation times: all zeros means that they were not measured.
    measured = any(screen.computed for screen in screens.values())
    for index, (name, screen) in enumerate(screens.items()):
        text = screen.text
        start = common_prefix(text, " " * len(text)) if unit == "char" else 0  # simulstream gives white space delays
        end = len(screen.units) - (len(text) - len(text.rstrip()) if unit == "char" and text.strip() else 0)
        yield EmissionRecord(
            index,
            text.strip(),
            None,
            tuple(screen.delays[start:end]),
            tuple(screen.elapsed[start:end]) if measured else None,
            screen.received_ms,
            name,
            screen.erased,
        )


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
    folder: Path, recordings: Iterable[tuple[str, Sequence[Event], Sequence[ReferenceSegment]]], unit: LatencyUnit
) -> int:
    """Write what simulstream needs to score: the log, segments, references, and the configuration.

    Args:
        folder: created if missing.
        recordings: of each audio its name, by whose stem simulstream identifies it, the events, whose tokens are units,
            and the reference segments.
        unit: word or char.

    Returns:
        The number of audios.

    Raises:
        LogError: a segment has no reference.
    """
    make_folder(folder)
    for name in FILES:
        remove_abandoned(folder / name)
    count = 0
    with replacing(folder / LOG, "w") as log:

        def written() -> Iterator[tuple[str, Sequence[ReferenceSegment]]]:
            nonlocal count
            for count, (name, events, segments) in enumerate(recordings, 1):
                log.write(json.dumps({"id": count, "metadata": {"wav_name": name}}) + "\n")
                log.writelines(
                    json.dumps(_to_row(count, event), ensure_ascii=False, allow_nan=False) + "\n" for event in events
                )
                yield name, segments

        write_segments(folder / SEGMENTS, folder / REFERENCES, written())
    with replacing(folder / CONFIG, "w") as config:
        config.write(f"detokenizer_type: simuleval\nlatency_unit: {unit}\n")
    return count


def utterance_segments(record: EmissionRecord, number: int) -> list[ReferenceSegment]:
    """Return the only segment of an utterance.

    Raises:
        LogError: it has no reference or no length, which simulstream cannot score.
    """
    if record.reference is None:
        raise LogError(f"Instance {number} has no reference, which simulstream needs. Give --references FILE.")
    if record.source_length is None:
        raise LogError(f"Instance {number} has no source_length, which simulstream needs.")
    return [ReferenceSegment(0.0, record.source_length / 1000, record.reference)]


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
        get_seconds("total_audio_processed", row),
        get_seconds("computation_time", row),
        get_texts(row, "deleted_tokens"),
        get_texts(row, "generated_tokens"),
    )
    screens[names[_audio_id(row)]].add(event, unit, detokenize)


def _split_at_spaces(text: str, unit: LatencyUnit) -> list[str]:
    """Split as simulstream does: at spaces only, or into all characters."""
    return [word for word in text.split(" ") if word] if unit == "word" else list(text)


def _load_tokenizer(folder: Path) -> Detokenize:
    """Make the `convert_tokens_to_string` of transformers' fast tokenizers, without loading transformers."""
    from tokenizers import Tokenizer

    try:
        decoder = Tokenizer.from_file(str(folder / "tokenizer.json")).decoder
    except Exception as error:  # the library raises nothing more precise
        raise UsageError(f"--detokenizer: cannot read a tokenizer.json in {folder} ({error}).") from error
    return " ".join if decoder is None else decoder.decode


def _to_row(identity: int, event: Event) -> dict[str, Any]:
    return {
        "id": identity,
        "total_audio_processed": event.audio_seconds,
        "computation_time": event.compute_seconds,
        "generated_tokens": list(event.generated),
        "deleted_tokens": list(event.deleted),
    }
