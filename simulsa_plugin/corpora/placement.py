"""From utterances to audio files that LLaMA-Factory can name: whole files stay where they are, parts are cut out."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from simulsa_plugin.audio.recordings import AudioInfo, Span, audio_info, read_parts
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, samples_to_seconds, to_pcm16, write_wav
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.parts import Parts
from simulsa_plugin.corpora.utterance import AudioName, Utterance
from simulsa_plugin.errors import AudioError
from simulsa_plugin.files.atomic import make_own_folder, remove_leftovers, replacing
from simulsa_plugin.terminal import progress

_TASK_UTTERANCES = 64  # of short recordings, in one task of a thread: a task for each would take memory and time
WHOLE_SECONDS = 0.01  # a span that leaves out less than this of its file is the whole file; manifests round durations


@dataclass(frozen=True, slots=True)
class Placed:
    """The audio of one utterance.

    Attributes:
        audio: a file, or a reference to what holds it and nothing else; None where it cannot be had.
        seconds: how long it is; None where it was not opened.
        reason: why it cannot be had.
    """

    audio: AudioName | None
    seconds: float | None = 0.0
    reason: str = ""


def place_audio(
    utterances: Sequence[Utterance], layout: CorpusLayout, workers: int | None, *, opens_references: bool = False
) -> list[Placed]:
    """Return a file for each utterance, in their order; files that a stopped run has written whole are kept.

    Each recording is walked through once, and recordings are shared out over threads: the libraries that decode,
    resample and write release Python's lock.

    Args:
        utterances: with paths as audio.
        layout: where parts are written, as 16 kHz mono PCM16.
        workers: threads; None takes one for each core.
        opens_references: read the length of whole audio that a reference names, which may mean all of it; where not,
            what is missing or broken is found by whoever reads it.

    Raises:
        StorageError: a part cannot be written.
    """
    for folder in [path for path in layout.audio.glob("*") if path.is_dir()]:
        remove_leftovers(folder)
    parts = Parts(layout)
    placed = [_unopened(utterance) if not opens_references else None for utterance in utterances]
    stopped = threading.Event()

    def work(recordings: list[list[int]]) -> list[tuple[int, Placed]]:
        results = []
        for result in (one for numbers in recordings for one in _place_recording(numbers, utterances, layout, parts)):
            if stopped.is_set():
                break
            results.append(result)
        return results

    with progress(len(utterances), f"read {layout.name}", "utterance") as counting:
        pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
        try:
            remaining = [number for number, found in enumerate(placed) if found is None]
            counting.update(len(utterances) - len(remaining))
            for results in pool.map(work, _tasks(_group_by_file(utterances, remaining))):
                for number, result in results:
                    placed[number] = result
                counting.update(len(results))
        finally:
            stopped.set()  # after an error, or Ctrl-C, hours of audio may lie before the others
            pool.shutdown(cancel_futures=True)
    found = [one or Placed(None) for one in placed]
    audio = [*(one.audio for one in found), *(one.audio for one in utterances)]
    parts.finish(path for path in audio if isinstance(path, Path))
    return found


def _unopened(utterance: Utterance) -> Placed | None:
    """Return where the audio of an utterance is that a reference names whole; None for others."""
    audio = utterance.audio
    return Placed(audio, None) if isinstance(audio, str) and utterance.span is None else None


def _group_by_file(utterances: Sequence[Utterance], numbers: Sequence[int]) -> list[list[int]]:
    """Group the numbers of utterances by the file that they are in."""
    groups: dict[object, list[int]] = {}
    for number in numbers:
        groups.setdefault(utterances[number].audio, []).append(number)
    return list(groups.values())


def _tasks(recordings: list[list[int]]) -> Iterator[list[list[int]]]:
    """Yield recordings, several together where they are short."""
    task: list[list[int]] = []
    for numbers in recordings:
        if task and sum(map(len, task)) + len(numbers) > _TASK_UTTERANCES:
            yield task
            task = []
        task.append(numbers)
    if task:
        yield task


def _place_recording(
    numbers: list[int], utterances: Sequence[Utterance], layout: CorpusLayout, parts: Parts
) -> Iterator[tuple[int, Placed]]:
    """Place all utterances of one recording."""
    audio, remaining = utterances[numbers[0]].audio, set(numbers)
    recording = audio if isinstance(audio, str) else Path(str(audio))
    try:
        # A part that begins later is not the whole; the length of an MP3 or M4A costs decoding all of it.
        from_the_start = [number for number in numbers if _begins_at_zero(utterances[number].span)]
        info = audio_info(recording) if from_the_start else None
        for number in from_the_start:
            if info and _is_whole(utterances[number].span, info):
                remaining.remove(number)
                yield number, Placed(None, 0.0, info.problem) if info.problem else Placed(recording, info.seconds)
        for number, placed in _cut_parts(recording, sorted(remaining), utterances, layout, parts):
            remaining.remove(number)
            yield number, placed
    except AudioError as error:
        yield from ((number, Placed(None, reason=error.reason)) for number in sorted(remaining))


def _begins_at_zero(span: Span | None) -> bool:
    return span is None or span.start_seconds <= 0


def _is_whole(span: Span | None, recording: AudioInfo) -> bool:
    if span is None:
        return True
    all_channels = span.channel is None or (span.channel, recording.channels) == (0, 1)
    if span.start_seconds > 0 or not all_channels:
        return False
    return span.end_seconds is None or abs(span.end_seconds - recording.seconds) < WHOLE_SECONDS


def _cut_parts(
    recording: AudioName, numbers: list[int], utterances: Sequence[Utterance], layout: CorpusLayout, parts: Parts
) -> Iterator[tuple[int, Placed]]:
    wanted, paths = [], {number: layout.audio_file(number, ".wav") for number in numbers}
    for number in numbers:
        seconds = parts.seconds_there(paths[number], utterances[number])
        if seconds:
            yield number, Placed(paths[number], seconds)
        else:
            wanted.append(number)
    if not wanted:
        return
    spans = [utterances[number].span or Span() for number in wanted]
    for index, waveform in read_parts(recording, spans):
        if isinstance(waveform, AudioError):
            yield wanted[index], Placed(None, reason=waveform.reason)
        else:
            yield wanted[index], _write(waveform, paths[wanted[index]], utterances[wanted[index]], parts)


def _write(waveform: Waveform, path: Path, utterance: Utterance, parts: Parts) -> Placed:
    encoded = io.BytesIO()
    write_wav(encoded, to_pcm16(waveform))
    make_own_folder(make_own_folder(path.parent.parent) / path.parent.name)
    with replacing(path, durable=False) as handle:
        handle.write(encoded.getvalue())
    parts.note(path, utterance, encoded.getvalue())
    return Placed(path, samples_to_seconds(len(waveform), SAMPLE_RATE))
