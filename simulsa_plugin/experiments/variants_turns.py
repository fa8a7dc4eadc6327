"""Several cuts of one utterance as one conversation: a turn for each cut, whose answer adds to the answers before.

Answers are monotone: the longest partial of the cuts up to a turn, without the answers before. The last turn has the
rest of the audio and of the reference, so that a conversation is a whole translation.

A user's turn holds either the audio since the last cut (`delta`) or all audio up to the cut (`prefix`). Simultaneous
decoding has neither form: its single turn has all audio so far, with the committed text as a forced prefix of the
answer. `delta` is how conversational systems stream (all audio is encoded once), but only its first turn matches
decoding. `prefix` is closer: its audio is that of decoding, and the earlier text precedes the answer like the forced
prefix, though in separate turns. So `prefix` is the default, and `delta` isolates the effect of the audio's form.
Closest are the same monotone partials as rows of one turn (`single`), which differ from `simulsa_cuts` only in that no
partial is shorter than that of an earlier cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal, get_args

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import seconds_to_samples, to_pcm16, write_wav
from simulsa_plugin.augmentation.labeling import training_row
from simulsa_plugin.augmentation.method.selection import parse_sample_id
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.experiments.variants_data import AUGMENTED_NAME, Augmented, DataRow, Dataset, sharegpt
from simulsa_plugin.files.atomic import replacing

TurnForm = Literal["prefix", "delta", "single"]
TURN_FORMS: tuple[TurnForm, ...] = get_args(TurnForm)
SHORTEST_TURN_SECONDS = 0.2  # of new audio in a turn: encoders need about as much for a token
AUDIO_MARK = "<audio>"


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        clip: audio up to the end of the turn.
        start_seconds: end of the previous turn.
        end_seconds: audio received at the end of the turn.
        translation: the whole translation after the turn; never shorter than before.
    """

    clip: str
    start_seconds: float
    end_seconds: float
    translation: str


def conversations(data: Augmented, form: TurnForm, clips: Path) -> dict[str, Dataset]:
    """Make the dataset `demo_simulsa` with a row for every utterance, or for every turn (`single`).

    Args:
        data: scored cuts, several of each utterance (`simulsa_cuts`).
        form: one of `TURN_FORMS`.
        clips: existing folder for the audio between cuts (`delta`).

    Raises:
        DatasetError: no utterance has several cuts.
        AudioError: an utterance is missing or damaged.
    """
    by_utterance = [list(group) for _, group in groupby(data.scores, lambda row: parse_sample_id(row["id"])[1])]
    if max(map(len, by_utterance)) < 2:
        raise DatasetError("Every utterance has a single cut. Augment with simulsa_cuts=3 simulsa_ratio=0.3.")
    rows: list[DataRow] = []
    for cuts in by_utterance:
        turns = list(turns_of(cuts))
        if form == "single":
            rows += [training_row({**cuts[0], "clip": turn.clip, "partial": turn.translation}) for turn in turns[:-1]]
        else:
            audios = _write_clips(cuts[0], turns, clips) if form == "delta" else [turn.clip for turn in turns]
            rows.append({"messages": _messages(cuts[0]["messages"], turns), "audios": audios})
    return {AUGMENTED_NAME: sharegpt(rows)}


def turns_of(cuts: Sequence[DataRow]) -> Iterator[Turn]:
    """Yield the turns of an utterance: its cuts by time, if they have enough new audio, and its end."""
    translation, start = "", 0.0
    duration = cuts[0]["duration_seconds"]
    for row in sorted(cuts, key=lambda row: float(row["cut_seconds"])):
        translation = max(translation, row["partial"], key=len)  # both are prefixes of the reference
        end = row["cut_seconds"]
        if min(end - start, duration - end) >= SHORTEST_TURN_SECONDS:
            yield Turn(row["clip"], start, end, translation)
            start = end
    yield Turn(cuts[0]["audio"], start, duration, cuts[0]["reference"])


def _messages(prompt: Sequence[Mapping[str, str]], turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Make messages: the prompt in the first turn, audio alone in the others, and what each answer adds.

    Answers keep their leading space, so that together their tokens are those of the translation.
    """
    messages: list[dict[str, str]] = []
    answers = ["", *(turn.translation for turn in turns)]
    for number, (before, now) in enumerate(pairwise(answers)):
        messages += [{"role": "user", "content": AUDIO_MARK}] if number else map(dict, prompt)
        messages.append({"role": "assistant", "content": now[len(before) :]})
    return messages


def _write_clips(row: DataRow, turns: Sequence[Turn], folder: Path) -> list[str]:
    waveform = read_mono(row["audio"])
    paths = []
    for number, turn in enumerate(turns):
        path = folder / f"{row['id'].rpartition('-')[0]}-turn{number}.wav"
        start, end = (seconds_to_samples(seconds) for seconds in (turn.start_seconds, turn.end_seconds))
        with replacing(path, durable=False) as handle:
            write_wav(handle, to_pcm16(waveform[start:end]))
        paths.append(str(path))
    return paths
