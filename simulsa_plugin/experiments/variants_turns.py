"""Several cuts of one utterance as one conversation: a turn for each cut, whose answer adds to the answers before.

Answers are monotone: what the cuts up to a turn support at most, less what has been said. The last turn brings the
rest of the audio and of the reference, so that a conversation is a whole translation.

A user's turn holds either the audio since the last cut (`delta`) or all audio up to the cut (`prefix`). Our decoding
has neither form: it asks in a single turn about all audio so far, with what is committed as the forced beginning of
the answer. `delta` is how conversational systems stream (each turn is encoded once, and nothing is heard twice), but
at decoding time only its first turn is familiar. `prefix` lies closer: its audio is that of decoding, and what was said
before stands before the answer as the forced beginning does, though as turns of its own. So `prefix` is the default,
and `delta` shows what the audio's form changes. Nearest of all are the same monotone partials as rows of one turn
(`single`), which differ from `simulsa_cuts` alone in that no partial is shorter than an earlier cut's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import seconds_to_samples, to_pcm16, write_wav
from simulsa_plugin.augmentation.labeling import training_row
from simulsa_plugin.augmentation.method.selection import parse_sample_id
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.experiments.variants_data import AUGMENTED_NAME, Augmented, DataRow, Dataset, sharegpt
from simulsa_plugin.files.atomic import replacing

TURN_FORMS = ("prefix", "delta", "single")
SHORTEST_TURN_SECONDS = 0.2  # of new audio in a turn: encoders make no token of much less
AUDIO_PLACEHOLDER = "<audio>"


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        clip: audio up to its end.
        start_seconds: where the turn before ends.
        end_seconds: how much has been heard at its end.
        said: the whole translation after it; never shorter than the one before.
    """

    clip: str
    start_seconds: float
    end_seconds: float
    said: str


def conversations(data: Augmented, form: str, clips: Path) -> dict[str, Dataset]:
    """The dataset `demo_simulsa` with a row for every utterance, or for every turn (`single`).

    Args:
        data: scored cuts, several of each utterance (`simulsa_cuts`).
        form: one of `TURN_FORMS`.
        clips: folder for the audio between cuts (`delta`); it exists.

    Raises:
        DatasetError: no utterance has several cuts.
        AudioError: an utterance is missing or broken.
    """
    by_utterance = [list(group) for _, group in groupby(data.scores, lambda row: parse_sample_id(row["id"])[1])]
    if max(map(len, by_utterance)) < 2:
        raise DatasetError("Every utterance has a single cut. Augment with simulsa_cuts=3 simulsa_ratio=0.3.")
    rows: list[DataRow] = []
    for cuts in by_utterance:
        turns = list(turns_of(cuts))
        if form == "single":
            rows += [training_row({**cuts[0], "clip": turn.clip, "partial": turn.said}) for turn in turns[:-1]]
        else:
            audios = _between(cuts[0], turns, clips) if form == "delta" else [turn.clip for turn in turns]
            rows.append({"messages": _messages(cuts[0]["messages"], turns), "audios": audios})
    return {AUGMENTED_NAME: sharegpt(rows)}


def turns_of(cuts: Sequence[DataRow]) -> Iterator[Turn]:
    """The turns of one utterance: its cuts by time, as far as they bring enough new audio, and its end."""
    said, start = "", 0.0
    duration = cuts[0]["duration_seconds"]
    for row in sorted(cuts, key=lambda row: float(row["cut_seconds"])):
        said = max(said, row["partial"], key=len)  # both are beginnings of one reference
        end = row["cut_seconds"]
        if min(end - start, duration - end) >= SHORTEST_TURN_SECONDS:
            yield Turn(row["clip"], start, end, said)
            start = end
    yield Turn(cuts[0]["audio"], start, duration, cuts[0]["reference"])


def _messages(prompt: Sequence[Mapping[str, str]], turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The prompt in the first turn, audio alone in the others, and what each answer adds, its leading space included.

    So the tokens of all answers together are those of the translation, wherever a token ends.
    """
    messages: list[dict[str, str]] = []
    answers = ["", *(turn.said for turn in turns)]
    for number, (before, now) in enumerate(pairwise(answers)):
        messages += [{"role": "user", "content": AUDIO_PLACEHOLDER}] if number else map(dict, prompt)
        messages.append({"role": "assistant", "content": now[len(before) :]})
    return messages


def _between(row: DataRow, turns: Sequence[Turn], folder: Path) -> list[str]:
    """Clips of the audio between the ends of turns."""
    waveform = read_mono(row["audio"])
    paths = []
    for number, turn in enumerate(turns):
        path = folder / f"{row['id'].rpartition('-')[0]}-turn{number}.wav"
        start, end = (seconds_to_samples(seconds) for seconds in (turn.start_seconds, turn.end_seconds))
        with replacing(path, durable=False) as handle:
            write_wav(handle, to_pcm16(waveform[start:end]))
        paths.append(str(path))
    return paths
