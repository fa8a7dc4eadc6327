"""The embedded spoken corpus: English speech, German references, and the true partial translation at any cut.

Splits are disjoint by sentence: a hash of the English decides where a sentence may stand.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulsa_plugin.audio.samples import Waveform, samples_to_seconds, seconds_to_samples, to_pcm16, write_wav
from simulsa_plugin.demo.grammar import PROMPT, Sentence, sample_sentence
from simulsa_plugin.demo.speech import Speech, Synthesizer, Voice, sample_voice
from simulsa_plugin.files.atomic import make_folder, make_own_folder, remove_leftovers, replacing, sync_files
from simulsa_plugin.files.audio_folder import METADATA, metadata_row
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import add_datasets, claim, refuse_other_datasets
from simulsa_plugin.terminal import tracked

# Share of the 16 hash values: what the packaged checkpoint learned from, what users train on, what it was watched and
# settings are tuned on, what they test on.
SPLITS = {"pretrain": range(0, 9), "train": range(9, 14), "heldout": range(14, 15), "test": range(15, 16)}
LANGUAGES = ("en", "de")  # source and target
WINDOW_SECONDS = 6.0  # of the packaged checkpoint's encoder
UTTERANCES_PER_PROCESS = 125  # utterances per fresh synthesizer process; part of what fixes the bytes
OFFLINE_NAME, TEST_NAME, DEV_NAME = "demo", "demo_test", "demo_dev"
OFFLINE_ROWS, TEST_ROWS, DEV_ROWS = 8000, 200, 200
TEST_SPLIT, DEV_SPLIT = "test", "heldout"
WORD_END_DECIMALS = 7  # a sample is 0.0000625 s: coarser, the last word could end after the audio


@dataclass(frozen=True)
class DemoUtterance:
    """One spoken sentence pair.

    Attributes:
        sentence: the words of both languages.
        waveform: (num_samples,) at 16 kHz, silence at both ends included.
        word_ends: seconds of `waveform` at which each English word has been spoken.
    """

    sentence: Sentence
    waveform: Waveform
    word_ends: tuple[float, ...]

    @property
    def duration_seconds(self) -> float:
        """Length of the waveform."""
        return samples_to_seconds(len(self.waveform))

    def truth(self) -> dict[str, Any]:
        """Return what `true_partial` needs, as a JSON row."""
        return {
            "source": self.sentence.source_text,
            "target": list(self.sentence.target),
            "needs": list(self.sentence.needs),
            "word_ends": [round(end, WORD_END_DECIMALS) for end in self.word_ends],
        }


VoiceChange = Callable[[int, Voice], Voice]  # (number of the utterance, the voice it has) → the voice it gets


def iterate_utterances(
    split: str, count: int, processes: int = 2, change: VoiceChange | None = None
) -> Iterator[DemoUtterance]:
    """Yield the first `count` utterances of a split: a prefix of any longer run, whatever the number of processes.

    Args:
        split: of `SPLITS`.
        count: utterances.
        processes: that speak.
        change: speak with other voices; sentences, levels and the silence around them stay. A function of a module.
    """
    starts = range(0, count, UTTERANCES_PER_PROCESS)
    tasks = [(split, start, min(UTTERANCES_PER_PROCESS, count - start), change) for start in starts]
    # Every block needs a synthesizer that nothing has spoken with, hence a process of its own.
    context = multiprocessing.get_context("fork")
    with context.Pool(processes, maxtasksperchild=1) as pool:
        for block in pool.imap(_render_block, tasks):
            yield from block


def write_demo_corpus(
    folder: Path,
    *,
    rows: int = OFFLINE_ROWS,
    test_rows: int = TEST_ROWS,
    dev_rows: int = 0,
    processes: int = 2,
    wait: bool = False,
) -> None:
    """Write the offline, the test and the dev set as LLaMA-Factory datasets, unless they are there already.

    `folder` then holds `demo.jsonl`, `demo_test.jsonl`, `demo/*.wav`, `demo_test/*.wav`, the truth beside them, and
    their entries in `dataset_info.json`. No rows: that set is left out. `wait`: for another process that is writing it.

    Raises:
        StorageError: the folder cannot be used, or another process is writing it.
    """
    folder = make_folder(folder).absolute()
    wanted = [
        (name, split, count)
        for name, split, count in (
            (OFFLINE_NAME, "train", rows),
            (TEST_NAME, TEST_SPLIT, test_rows),
            (DEV_NAME, DEV_SPLIT, dev_rows),
        )
        if count
    ]
    entries = {name: {"file_name": str(folder / f"{name}.jsonl"), **SHAREGPT_ENTRY} for name, _, _ in wanted}
    with locked(folder, wait=wait):
        refuse_other_datasets(folder, entries)
        for name in entries:
            # The truth is written before the rows, and is nobody else's: earlier versions left no other sign.
            claim(folder, written_names(name), recognised=(folder / f"{name}_truth.jsonl").exists())
        for name, split, count in wanted:
            if not (folder / f"{name}.jsonl").exists():
                write_utterances(folder, name, iterate_utterances(split, count, processes), count)
    add_datasets(folder, entries)


def demo_languages(folder: Path, source: object) -> tuple[str, ...]:
    """Return the languages of the offline rows of `write_demo_corpus` in a folder; empty where `source` is another."""
    rows, truth = folder / f"{OFFLINE_NAME}.jsonl", folder / f"{OFFLINE_NAME}_truth.jsonl"
    return LANGUAGES if source == str(rows) and truth.exists() else ()


def written_names(name: str) -> list[str]:
    """Return the names that `write_utterances` writes into the folder."""
    return [name, f"{name}.jsonl", f"{name}_truth.jsonl"]


def write_utterances(folder: Path, name: str, utterances: Iterable[DemoUtterance], count: int) -> None:
    """Write one dataset: `name/*.wav`, `name/metadata.jsonl`, `name_truth.jsonl` and, last, `name.jsonl`.

    Args:
        folder: absolute, for the rows name their audio with it; it is locked and the names are claimed.
        name: of the dataset.
        utterances: its rows.
        count: how many there are.

    Raises:
        StorageError: the folder cannot be written.
    """
    audio_folder = make_own_folder(folder / name)
    remove_leftovers(audio_folder)
    rows: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    for index, utterance in enumerate(tracked(utterances, count, f"synthesise {name}", "utterance")):
        path = audio_folder / f"{index:05d}.wav"
        with replacing(path, durable=False) as handle:
            write_wav(handle, to_pcm16(utterance.waveform))
        rows.append({"messages": messages(utterance.sentence), "audios": [str(path)]})
        truths.append({"audio": str(path), **utterance.truth()})
    sync_files(sorted(audio_folder.glob("*.wav")))
    write_jsonl(
        audio_folder / METADATA,
        (metadata_row(row["audios"][0], audio_folder, {"messages": row["messages"]}) for row in rows),
    )
    write_jsonl(folder / f"{name}_truth.jsonl", truths)
    write_jsonl(folder / f"{name}.jsonl", rows)  # last: its presence says that everything else is there


def messages(sentence: Sentence) -> list[dict[str, str]]:
    """Return a sentence pair as LLaMA-Factory messages."""
    return [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": sentence.target_text}]


def _render_block(task: tuple[str, int, int, VoiceChange | None]) -> list[DemoUtterance]:
    split, start, count, change = task
    synthesizer = Synthesizer(seed=1 + start)
    return [_render(synthesizer, split, start + offset, change) for offset in range(count)]


def _render(synthesizer: Synthesizer, split: str, index: int, change: VoiceChange | None) -> DemoUtterance:
    rng = np.random.default_rng([*split.encode(), index])
    sentence = draw_sentence(rng, split)
    voice = sample_voice(rng)
    if change is not None:
        voice = change(index, voice)
    return _add_silence(rng, sentence, synthesizer.speak(sentence.source, voice))


def draw_sentence(rng: np.random.Generator, split: str) -> Sentence:
    """Draw a sentence of a split."""
    while True:
        sentence = sample_sentence(rng)
        if hashlib.sha256(sentence.source_text.encode()).digest()[0] % 16 in SPLITS[split]:
            return sentence


def _add_silence(rng: np.random.Generator, sentence: Sentence, speech: Speech) -> DemoUtterance:
    """Put silence (0–0.6 s, often none) around the speech, a noise floor under it, and a level on it."""
    free = seconds_to_samples(WINDOW_SECONDS) - len(speech.waveform)
    lead, trail = (seconds_to_samples(max(0.0, float(rng.uniform(-0.2, 0.6)))) for _ in range(2))
    lead = min(lead, max(free, 0))
    trail = min(trail, max(free - lead, 0))
    waveform = np.concatenate([np.zeros(lead, np.float32), speech.waveform, np.zeros(trail, np.float32)])
    waveform *= np.float32(10 ** rng.uniform(-1.0, -0.05)) / np.abs(speech.waveform).max()
    waveform += np.float32(10 ** rng.uniform(-4.0, -2.7)) * rng.standard_normal(len(waveform), dtype=np.float32)
    offset = samples_to_seconds(lead)
    return DemoUtterance(sentence, waveform, tuple(offset + end for end in speech.word_ends))
