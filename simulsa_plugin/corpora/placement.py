"""From utterances to audio files that LLaMA-Factory can name: whole files stay where they are, parts are cut out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from simulsa_plugin.audio import SAMPLE_RATE, Waveform, samples_to_seconds, to_pcm16, write_wav
from simulsa_plugin.corpora.layout import CorpusLayout
from simulsa_plugin.corpora.utterance import Utterance
from simulsa_plugin.errors import AudioError
from simulsa_plugin.recordings import AudioInfo, Span, audio_info, read_parts
from simulsa_plugin.storage import make_folder, remove_leftovers, replacing

WHOLE_SECONDS = 0.01  # a span that leaves out less than this of its file is the whole file; manifests round durations


@dataclass(frozen=True)
class Placed:
    """The audio of one utterance.

    Attributes:
        audio: a file that holds it and nothing else; None where it cannot be had.
        seconds: how long it is.
        reason: why it cannot be had.
    """

    audio: Path | None
    seconds: float = 0.0
    reason: str = ""


def place_audio(utterances: Sequence[Utterance], layout: CorpusLayout, workers: int | None) -> list[Placed]:
    """A file for each utterance, in their order; files that an earlier, stopped run has written are taken as they are.

    Each recording is walked through once, and recordings are shared out over threads: the libraries that decode,
    resample and write let go of Python's lock.

    Args:
        utterances: with paths as audio.
        layout: where parts are written, as 16 kHz mono PCM16.
        workers: threads; None takes one for each core.

    Raises:
        StorageError: a part cannot be written.
    """
    from tqdm import tqdm

    for folder in [path for path in layout.audio.glob("*") if path.is_dir()]:
        remove_leftovers(folder)
    placed: list[Placed] = [Placed(None)] * len(utterances)
    with tqdm(total=len(utterances), desc=f"read {layout.name}", unit="utt", disable=None) as progress:
        pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
        try:
            for results in pool.map(lambda group: list(_place(group, utterances, layout)), _recordings(utterances)):
                for number, result in results:
                    placed[number] = result
                progress.update(len(results))
        finally:
            pool.shutdown(cancel_futures=True)
    return placed


def _recordings(utterances: Sequence[Utterance]) -> list[list[int]]:
    """Numbers of utterances by the file that they are in."""
    groups: dict[object, list[int]] = {}
    for number, utterance in enumerate(utterances):
        groups.setdefault(utterance.audio, []).append(number)
    return list(groups.values())


def _place(
    numbers: list[int], utterances: Sequence[Utterance], layout: CorpusLayout
) -> Iterator[tuple[int, Placed]]:
    """Place all utterances of one recording."""
    recording, remaining = Path(str(utterances[numbers[0]].audio)), set(numbers)
    try:
        info = audio_info(recording)
        for number in numbers:
            if _is_whole(utterances[number].span, info):
                remaining.remove(number)
                yield number, Placed(recording, info.seconds)
        for number, placed in _cut(recording, sorted(remaining), utterances, layout):
            remaining.remove(number)
            yield number, placed
    except AudioError as error:
        yield from ((number, Placed(None, reason=error.reason)) for number in sorted(remaining))


def _is_whole(span: Span | None, recording: AudioInfo) -> bool:
    if span is None:
        return True
    if span.start_seconds > 0 or (span.channel is not None and recording.channels > 1):
        return False
    return span.end_seconds is None or abs(span.end_seconds - recording.seconds) < WHOLE_SECONDS


def _cut(
    recording: Path, numbers: list[int], utterances: Sequence[Utterance], layout: CorpusLayout
) -> Iterator[tuple[int, Placed]]:
    wanted = []
    for number in numbers:
        path = layout.audio_file(number, ".wav")
        if path.exists():
            yield number, Placed(path, audio_info(path).seconds)
        else:
            wanted.append(number)
    if not wanted:
        return
    spans = [utterances[number].span or Span() for number in wanted]
    for index, waveform in read_parts(recording, spans):
        if isinstance(waveform, AudioError):
            yield wanted[index], Placed(None, reason=waveform.reason)
        else:
            yield wanted[index], _write(waveform, layout.audio_file(wanted[index], ".wav"))


def _write(waveform: Waveform, path: Path) -> Placed:
    make_folder(path.parent)
    with replacing(path) as handle:
        write_wav(handle, to_pcm16(waveform))
    return Placed(path, samples_to_seconds(len(waveform), SAMPLE_RATE))
