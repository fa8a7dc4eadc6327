"""Disturbed copies of the demo's test set: silence, noise, another speed, unseen voices, a telephone's band.

`python -m simulsa_plugin.experiments.disturbed --data data/ --out disturbed/` writes a dataset `demo_test_CONDITION`
for each condition, with its word times, and registers it in `disturbed/dataset_info.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.resampling import resample_waveform
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, seconds_to_samples
from simulsa_plugin.augmentation.method.silence import noise_floor, surround
from simulsa_plugin.commands.console import Parser, output_folder, run_command
from simulsa_plugin.demo.corpus import (
    TEST_NAME,
    TEST_SPLIT,
    DemoUtterance,
    VoiceChange,
    iterate_utterances,
    write_utterances,
    written_names,
)
from simulsa_plugin.demo.grammar import Sentence
from simulsa_plugin.demo.speech import Voice
from simulsa_plugin.demo.truth import find_truth
from simulsa_plugin.errors import DatasetError, UsageError
from simulsa_plugin.files.atomic import make_folder
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY, registered_datasets
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import add_datasets, claim, refuse_other_datasets

_PROG = "simulsa_plugin.experiments.disturbed"
CLEAN = "clean"
UNSEEN_VOICES = ("en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")  # not in the corpus
UNSEEN_VARIANTS = ("m2", "m4", "m5", "m8", "f5", "Annie")


@dataclass(frozen=True)
class Condition:
    """A disturbance of recordings, applied in the order of the attributes.

    Attributes:
        title: in tables.
        voice: synthesise the sentence again, with another voice.
        sample_rate: resample to this rate (Hz) and back.
        snr_db: add white noise, this many dB below the mean power of the whole recording.
        lead_ms: silence before the recording.
        trail_ms: silence after it.
        room_noise: the silence is white noise at the level of the recording's quietest 20 ms, instead of zeros.
    """

    title: str
    voice: VoiceChange | None = None
    sample_rate: int | None = None
    snr_db: float | None = None
    lead_ms: int = 0
    trail_ms: int = 0
    room_noise: bool = False

    def disturb(self, utterance: DemoUtterance, rng: np.random.Generator) -> DemoUtterance:
        """Disturb an utterance and shift its word times; its voice is unchanged."""
        waveform = utterance.waveform
        if self.sample_rate is not None:
            narrow = resample_waveform(waveform, SAMPLE_RATE, self.sample_rate)
            waveform = resample_waveform(narrow, self.sample_rate, SAMPLE_RATE)
        if self.snr_db is not None:
            waveform = waveform + _white_noise(waveform, self.snr_db, rng)
        lead, trail = (seconds_to_samples(ms / 1000) for ms in (self.lead_ms, self.trail_ms))
        waveform = surround(waveform, lead, trail, noise_floor(waveform) if self.room_noise else 0.0, rng)
        word_ends = tuple(self.lead_ms / 1000 + end for end in utterance.word_ends)
        return dataclasses.replace(utterance, waveform=waveform, word_ends=word_ends)


def slower(_: int, voice: Voice) -> Voice:
    """Speak 15 % slower, at the same pitch."""
    return dataclasses.replace(voice, words_per_minute=round(voice.words_per_minute * 0.85))


def faster(_: int, voice: Voice) -> Voice:
    """Speak 15 % faster, at the same pitch."""
    return dataclasses.replace(voice, words_per_minute=round(voice.words_per_minute * 1.15))


def unseen(index: int, voice: Voice) -> Voice:
    """Speak with an accent and a variant that the corpus does not use, each pair equally often."""
    accent, variant = index % len(UNSEEN_VOICES), index // len(UNSEEN_VOICES) % len(UNSEEN_VARIANTS)
    return dataclasses.replace(voice, name=f"{UNSEEN_VOICES[accent]}+{UNSEEN_VARIANTS[variant]}")


CONDITIONS = {
    CLEAN: Condition("clean"),
    "lead500": Condition("500 ms of zeros before", lead_ms=500),
    "lead1000": Condition("1000 ms of zeros before", lead_ms=1000),
    "trail500": Condition("500 ms of zeros after", trail_ms=500),
    "trail1000": Condition("1000 ms of zeros after", trail_ms=1000),
    "both500": Condition("500 ms of zeros at both ends", lead_ms=500, trail_ms=500),
    "both1000": Condition("1000 ms of zeros at both ends", lead_ms=1000, trail_ms=1000),
    "room_lead1000": Condition("1000 ms of its own noise before", lead_ms=1000, room_noise=True),
    "room_trail1000": Condition("1000 ms of its own noise after", trail_ms=1000, room_noise=True),
    "noise20": Condition("white noise, SNR 20 dB", snr_db=20.0),
    "noise10": Condition("white noise, SNR 10 dB", snr_db=10.0),
    "slow": Condition("speed −15 %", voice=slower),
    "fast": Condition("speed +15 %", voice=faster),
    "voices": Condition("unseen voices", voice=unseen),
    "8khz": Condition("8 kHz", sample_rate=8000),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write all disturbed test sets, or the requested ones."""
    return run_command(_PROG, lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    conditions = "\n".join(f"  {name:15} {condition.title}" for name, condition in CONDITIONS.items())
    parser = Parser(
        prog=f"python -m {_PROG}",
        description=__doc__,
        epilog=f"conditions:\n{conditions}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="output of `simulsa-augment --out data/` (default: data)",
    )
    parser.add_argument("--out", type=output_folder, required=True, metavar="DIR", help="folder of the test sets")
    parser.add_argument(
        "--conditions",
        type=_parse_conditions,
        default=tuple(CONDITIONS),
        metavar="NAME,NAME…",
        help="write only these (default: all)",
    )
    options = parser.parse_args(argv)
    write_disturbed(options.data, options.out, options.conditions)
    print(f"Written to {options.out}: {', '.join(map(dataset_name, options.conditions))}")
    return 0


def _parse_conditions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = next((name for name in names if name not in CONDITIONS), None)
    if unknown is not None:
        raise argparse.ArgumentTypeError(f"there is no condition {unknown!r}; allowed: {', '.join(CONDITIONS)}")
    return names


def dataset_name(condition: str) -> str:
    """Return the name of the test set of a condition.

    >>> dataset_name("lead500")
    'demo_test_lead500'
    """
    return f"{TEST_NAME}_{condition}"


def write_disturbed(data: Path, folder: Path, conditions: Sequence[str]) -> None:
    """Write a test set for each condition; the bytes are reproducible.

    Raises:
        UsageError: `data` has no test set of the demo.
        DatasetError: its test set differs from the one of this version.
        StorageError: the folder cannot be written, or has foreign files in their place.
    """
    utterances = read_test_set(data)
    folder = make_folder(folder).absolute()
    names = {condition: dataset_name(condition) for condition in conditions}
    entries = {name: {"file_name": str(folder / f"{name}.jsonl"), **SHAREGPT_ENTRY} for name in names.values()}
    with locked(folder):
        refuse_other_datasets(folder, entries)
        claim(folder, [file for name in names.values() for file in written_names(name)])
        for condition, name in names.items():
            write_utterances(folder, name, disturb_test_set(utterances, condition), len(utterances))
    add_datasets(folder, entries)


def read_test_set(data: Path) -> list[DemoUtterance]:
    """Read the demo's test set with its word times. Raises as `write_disturbed`."""
    entry = registered_datasets(data).get(TEST_NAME)
    truth = None if entry is None else find_truth(TEST_NAME, entry)
    if truth is None or not truth.rows:
        raise UsageError(f"{data} holds no dataset {TEST_NAME} with its truth. Create it: simulsa-augment --out {data}")
    return [
        DemoUtterance(
            Sentence(tuple(row["source"].split()), tuple(row["target"]), tuple(row["needs"])),
            read_mono(row["audio"]),
            tuple(row["word_ends"]),
        )
        for row in truth.rows
    ]


def disturb_test_set(utterances: Sequence[DemoUtterance], condition: str) -> Iterator[DemoUtterance]:
    """Disturb the test set. Raises DatasetError as `write_disturbed`."""
    disturbance = CONDITIONS[condition]
    spoken = utterances if disturbance.voice is None else _speak_again(utterances, disturbance.voice)
    for row, utterance in enumerate(spoken):
        yield disturbance.disturb(utterance, np.random.default_rng([*condition.encode(), row]))


def _speak_again(utterances: Sequence[DemoUtterance], change: VoiceChange) -> Iterator[DemoUtterance]:
    again = iterate_utterances(TEST_SPLIT, len(utterances), change=change)
    for row, (before, now) in enumerate(zip(utterances, again, strict=True)):
        if before.sentence != now.sentence:
            raise DatasetError(
                f"Row {row} of {TEST_NAME} is {before.sentence.source_text!r}; this version of the "
                f"plugin has {now.sentence.source_text!r}. Create the data again: simulsa-augment."
            )
        yield now


def _white_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Make noise for a waveform (num_samples,), `snr_db` below its mean power."""
    power = float(np.mean(waveform.astype(np.float64) ** 2))
    return rng.standard_normal(len(waveform), dtype=np.float32) * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))


if __name__ == "__main__":
    raise SystemExit(main())
