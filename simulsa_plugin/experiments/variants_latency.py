"""A latency word in the prompt: one model for several latencies, each requested by name.

Every cut is labelled with three thresholds, without a model: a low one commits early, the paper's 100 / V is in
between, a high one commits late; the prompt names it (`… Latency: low.`). The offline rows have the words in turn as
well: with a plain prompt there, a word would distinguish a cut from a whole utterance, and the model could learn to
stop early from the prompt instead of from the audio. All words have the same answer to a whole utterance.

With every cut under each word there are three times as many simultaneous rows as cuts. For equal shares use
fewer cuts, or `one_word`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.labeling import training_row
from simulsa_plugin.augmentation.method.acceptance import decide
from simulsa_plugin.demo.corpus import OFFLINE_NAME
from simulsa_plugin.experiments.variants_data import AUGMENTED_NAME, Augmented, DataRow, Dataset, sharegpt
from simulsa_plugin.settings import check_range

LOW, NORMAL, HIGH = "low", "normal", "high"
WORDS = (LOW, NORMAL, HIGH)

Messages = Sequence[Mapping[str, str]]


def check_thresholds(low: float, high: float) -> dict[str, float | None]:
    """Return the threshold τ of each word; None is 100 / V.

    Raises:
        UsageError: one of them is not a probability.
    """
    check_range("--low", low, above=0, maximum=1)
    check_range("--high", high, above=0, maximum=1)
    return {LOW: low, NORMAL: None, HIGH: high}


def latency_words(
    data: Augmented, evaluation_sets: Mapping[str, Dataset], thresholds: Mapping[str, float | None], *, one_word: bool
) -> dict[str, Dataset]:
    """Make `demo` and `demo_simulsa` with words in their prompts, and every evaluation set once for each word.

    Args:
        data: scored cuts.
        evaluation_sets: NAME becomes NAME_low, NAME_normal and NAME_high.
        thresholds: of each word; None is 100 / V.
        one_word: use one word per cut, in turn, instead of all of them.
    """
    offline = [with_word(row, word) for row, word in zip(data.offline_rows(), _cycle_words(), strict=False)]
    asked = (
        zip(data.scores, _cycle_words(), strict=False)
        if one_word
        else ((row, word) for row in data.scores for word in WORDS)
    )
    cuts = [with_word(_relabel(row, thresholds[word], data.output_width), word) for row, word in asked]
    worded = {
        f"{name}_{word}": replace(one, rows=[with_word(row, word) for row in one.rows])
        for name, one in evaluation_sets.items()
        for word in WORDS
    }
    return {OFFLINE_NAME: sharegpt(offline, data.truth.rows), AUGMENTED_NAME: sharegpt(cuts), **worded}


def with_word(row: DataRow, word: str) -> dict[str, Any]:
    """Add a requested latency to the prompt of a row.

    >>> with_word({"messages": [{"role": "user", "content": "<audio>Translate."}], "audios": ["a.wav"]}, "low")
    {'messages': [{'role': 'user', 'content': '<audio>Translate. Latency: low.'}], 'audios': ['a.wav']}
    """
    messages: Messages = row["messages"]
    asked = [
        {**turn, "content": f"{turn['content']} Latency: {word}."} if turn["role"] == "user" else turn
        for turn in messages
    ]
    return {**row, "messages": asked}


def _relabel(row: DataRow, threshold: float | None, output_width: int) -> dict[str, Any]:
    decision = decide(row, AugmentSettings(threshold=threshold), output_width)
    return training_row({**row, "partial": decision.partial})


def _cycle_words() -> Iterator[str]:
    return itertools.cycle(WORDS)
