"""Talks of the embedded corpus: spoken sentences one after another, with pauses, fillers, noise and changing voices.

Each talk is one long recording with reference segments, as MuST-C's whole talks have: where each sentence lies and what
its reference is. The sentences are those of a split that come after the ones of the short test sets.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulsa_plugin.audio.samples import Waveform, samples_to_seconds, seconds_to_samples, to_pcm16, write_wav
from simulsa_plugin.demo.corpus import TEST_SPLIT, WORD_END_DECIMALS, draw_sentence
from simulsa_plugin.demo.grammar import PROMPT, Sentence
from simulsa_plugin.demo.speech import Synthesizer, sample_voice
from simulsa_plugin.files.atomic import make_folder, make_own_folder, remove_leftovers, replacing, sync_files
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import add_datasets, claim, refuse_other_datasets
from simulsa_plugin.terminal import tracked

TALKS_NAME, DEV_TALKS_NAME = "demo_talks", "demo_talks_dev"
TALK_MINUTES = (2, 2, 3, 3, 4, 6, 10)
DEV_TALK_MINUTES = (2, 3, 5)
FIRST_SENTENCE = 1_000_000  # random streams of sentences that no short set draws from
PAUSE_SECONDS = (0.35, 2.0)
LONG_PAUSE_SECONDS, LONG_PAUSE_SHARE = (2.0, 6.0), 0.05
FILLERS, FILLER_SHARE = ("um", "uh", "er"), 0.1
SENTENCES_PER_VOICE = (4, 15)
SNR_DB = (20.0, 40.0)


@dataclass(frozen=True)
class TalkSegment:
    """One sentence of a talk.

    Attributes:
        sentence: the words of both languages.
        start: first sample of its speech in the talk.
        end: after the last sample of its speech.
        word_ends: seconds of the talk at which each English word has been spoken.
    """

    sentence: Sentence
    start: int
    end: int
    word_ends: tuple[float, ...]

    def as_row(self) -> dict[str, Any]:
        """Return offset and duration in seconds, and the reference."""
        return {
            "offset": samples_to_seconds(self.start),
            "duration": samples_to_seconds(self.end - self.start),
            "reference": self.sentence.target_text,
        }


@dataclass(frozen=True)
class Talk:
    """A long recording: (num_samples,) at 16 kHz, and the sentences in it in order."""

    waveform: Waveform
    segments: tuple[TalkSegment, ...]


def iterate_talks(split: str, minutes: Sequence[float], processes: int = 2) -> Iterator[Talk]:
    """Speak talks of about these lengths.

    Args:
        split: of the embedded corpus.
        minutes: of each talk; the talk ends with the sentence that reaches them.
        processes: that speak.
    """
    tasks = [(split, number, length) for number, length in enumerate(minutes)]
    context = multiprocessing.get_context("fork")  # a synthesizer that nothing has spoken with, for each talk
    with context.Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap(_render_talk, tasks)


def write_demo_talks(
    folder: Path,
    name: str = TALKS_NAME,
    *,
    split: str = TEST_SPLIT,
    minutes: Sequence[float] = TALK_MINUTES,
    processes: int = 2,
    wait: bool = False,
) -> None:
    """Write talks as a LLaMA-Factory dataset whose rows have `segments`, unless it is there already.

    `folder` then holds `NAME.jsonl`, `NAME/*.wav`, the truth of every sentence in `NAME_truth.jsonl`, and, in the form
    of MuST-C and simulstream, `NAME_segments.yaml` and `NAME_references.txt`.

    Raises:
        StorageError: the folder cannot be used, or another process is writing it.
    """
    folder = make_folder(folder).absolute()
    entries = {name: {"file_name": str(folder / f"{name}.jsonl"), **SHAREGPT_ENTRY}}
    with locked(folder, wait=wait):
        refuse_other_datasets(folder, entries)
        claim(folder, _written_names(name), recognised=(folder / f"{name}_truth.jsonl").exists())
        if not (folder / f"{name}.jsonl").exists():
            _write_talks(folder, name, iterate_talks(split, minutes, processes), len(minutes))
    add_datasets(folder, entries)


def _written_names(name: str) -> list[str]:
    return [name, f"{name}.jsonl", f"{name}_truth.jsonl", f"{name}_segments.yaml", f"{name}_references.txt"]


def _write_talks(folder: Path, name: str, talks: Iterator[Talk], count: int) -> None:
    audio_folder = make_own_folder(folder / name)
    remove_leftovers(audio_folder)
    rows: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    for index, talk in enumerate(tracked(talks, count, f"speak {name}", "talk")):
        path = audio_folder / f"{index:05d}.wav"
        with replacing(path, durable=False) as handle:
            write_wav(handle, to_pcm16(talk.waveform))
        rows.append(_talk_row(path, talk))
        truths += [_truth_row(path, segment) for segment in talk.segments]
    sync_files(sorted(audio_folder.glob("*.wav")))
    write_jsonl(folder / f"{name}_truth.jsonl", truths)
    with replacing(folder / f"{name}_segments.yaml", "w") as segments:
        for row in rows:
            wav = Path(row["audios"][0]).name
            for each in row["segments"]:
                segments.write(f"- {{wav: {wav}, offset: {each['offset']}, duration: {each['duration']}}}\n")
    with replacing(folder / f"{name}_references.txt", "w") as references:
        references.writelines(f"{each['reference']}\n" for row in rows for each in row["segments"])
    write_jsonl(folder / f"{name}.jsonl", rows)  # last: its presence says that everything else is there


def _talk_row(path: Path, talk: Talk) -> dict[str, Any]:
    segments = [segment.as_row() for segment in talk.segments]
    whole = " ".join(segment["reference"] for segment in segments)
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": whole}]
    return {"messages": messages, "audios": [str(path)], "segments": segments}


def _truth_row(path: Path, segment: TalkSegment) -> dict[str, Any]:
    return {
        "audio": str(path),
        "offset": samples_to_seconds(segment.start),
        "source": segment.sentence.source_text,
        "target": list(segment.sentence.target),
        "needs": list(segment.sentence.needs),
        "word_ends": [round(end, WORD_END_DECIMALS) for end in segment.word_ends],
    }


def _render_talk(task: tuple[str, int, float]) -> Talk:
    split, number, minutes = task
    synthesizer = Synthesizer(seed=1 + number)
    rng = np.random.default_rng([*split.encode(), FIRST_SENTENCE, number])
    parts: list[Waveform] = []
    segments: list[TalkSegment] = []
    position = sentences_left = 0
    voice = sample_voice(rng)
    while position < seconds_to_samples(60 * minutes):
        if not sentences_left:
            voice, sentences_left = sample_voice(rng), int(rng.integers(*SENTENCES_PER_VOICE))
        sentences_left -= 1
        sentence = draw_sentence(rng, split)
        pause = _pause(rng)
        if rng.random() < FILLER_SHARE:
            filler = synthesizer.speak([str(rng.choice(FILLERS))], voice).waveform
            pause = np.concatenate([pause, filler, _pause(rng)])
        speech = synthesizer.speak(sentence.source, voice)
        gain = np.float32(10 ** rng.uniform(-0.1, 0.1) / np.abs(speech.waveform).max())
        start = position + len(pause)
        end = start + len(speech.waveform)
        offset = samples_to_seconds(start)
        segments.append(TalkSegment(sentence, start, end, tuple(offset + each for each in speech.word_ends)))
        parts += [pause, speech.waveform * gain]
        position = end
    return Talk(_with_noise(rng, np.concatenate([*parts, _pause(rng)])), tuple(segments))


def _pause(rng: np.random.Generator) -> Waveform:
    bounds = LONG_PAUSE_SECONDS if rng.random() < LONG_PAUSE_SHARE else PAUSE_SECONDS
    return np.zeros(seconds_to_samples(float(rng.uniform(*bounds))), np.float32)


def _with_noise(rng: np.random.Generator, waveform: Waveform) -> Waveform:
    """Put a noise floor under a talk, whose level drifts by a few dB, and set the level of the whole."""
    level = float(np.sqrt(np.mean(waveform[waveform != 0] ** 2))) * 10 ** (-rng.uniform(*SNR_DB) / 20)
    seconds = -(-len(waveform) // seconds_to_samples(1.0))
    drift_db = np.cumsum(rng.normal(0, 0.3, seconds)).clip(-3, 3)
    envelope = np.interp(np.arange(len(waveform)), np.arange(seconds) * seconds_to_samples(1.0), 10 ** (drift_db / 20))
    noise = rng.standard_normal(len(waveform), dtype=np.float32) * (level * envelope).astype(np.float32)
    mixed = waveform + noise
    return (mixed * np.float32(10 ** rng.uniform(-0.6, -0.1) / np.abs(mixed).max())).astype(np.float32)
