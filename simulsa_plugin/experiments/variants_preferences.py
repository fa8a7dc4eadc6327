"""Preference pairs about where to stop, for LLaMA-Factory's own `stage: dpo`.

*A cut clip*: chosen is the partial translation, rejected the same partial with the offline model's continuation. The
model decodes freely after the partial as a forced prefix, so the rejected answer is its real output, and the answers
differ only in the decision to stop and what follows. `greedy` in scores.jsonl cannot be used: each of its tokens
follows the reference, not the model's output. Cuts where the model stops as well give no pair.

*The whole utterance*: chosen is the reference, rejected the partial, which stops too early. Without these pairs
stopping would always be right, and could be learned without the audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.experiments.variants_data import Augmented, DataRow, Dataset
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import GenerationRequest, Prompt

PREFERENCES = "demo_preferences"
CLIPS_PER_BATCH = 32  # clips that are decoded at once
ENTRY: dict[str, Any] = SHAREGPT_ENTRY | {
    "ranking": True,
    "columns": {"messages": "messages", "audios": "audios", "chosen": "chosen", "rejected": "rejected"},
}


def preferences(data: Augmented, model: AudioLanguageModel) -> dict[str, Dataset]:
    """Make the dataset `demo_preferences`: both pairs of every cut, where the answers differ.

    Raises:
        AudioError: a clip is missing or damaged.
    """
    rows: list[DataRow] = []
    for start in range(0, len(data.scores), CLIPS_PER_BATCH):
        part = data.scores[start : start + CLIPS_PER_BATCH]
        for row, longer in zip(part, _continue_partials(model, part), strict=True):
            rows += _preference_pairs(row, longer)
    return {PREFERENCES: Dataset(rows, ENTRY)}


def _continue_partials(model: AudioLanguageModel, rows: Sequence[DataRow]) -> list[str | None]:
    """Decode each partial and its continuation by the model; None where it reaches the limit on new tokens."""
    waveforms: list[Waveform] = [read_mono(row["clip"]) for row in rows]
    prompts = [
        model.render_prompt(Prompt(tuple(row["messages"])), waveform)
        for row, waveform in zip(rows, waveforms, strict=True)
    ]
    requests = [GenerationRequest(prefix=tuple(row["token_ids"][: row["accepted_tokens"]])) for row in rows]
    continuations = model.generate(model.encode_prompts(prompts, waveforms), requests)
    return [
        None if one.truncated else model.decode((*request.prefix, *one.token_ids)).strip()
        for request, one in zip(requests, continuations, strict=True)
    ]


def _preference_pairs(row: DataRow, longer: str | None) -> Iterator[DataRow]:
    if longer is not None and longer != row["partial"]:
        yield _preference(row, row["clip"], row["partial"], longer)
    if row["partial"] != row["reference"]:
        yield _preference(row, row["audio"], row["reference"], row["partial"])


def _preference(row: DataRow, audio: str, chosen: str, rejected: str) -> DataRow:
    answers = {
        "chosen": {"role": "assistant", "content": chosen},
        "rejected": {"role": "assistant", "content": rejected},
    }
    return {"messages": row["messages"], **answers, "audios": [audio]}
