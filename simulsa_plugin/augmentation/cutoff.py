"""Whole utterances against the `cutoff_len` of the training: clips are short, the offline rows need not be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.augmentation.method.selection import parse_sample_id
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.registration import SourceDataset
from simulsa_plugin.errors import AudioError, ModelError
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.model.protocol import Renderer
from simulsa_plugin.model.values import Sample

DEFAULT_CUTOFF_LEN = 2048  # of LLaMA-Factory


def cutoff_line(dataset: SourceDataset, renderer: Renderer, layout: Layout, cutoff_len: int) -> str | None:
    """Say how many of the utterances that were cut are, whole, longer than `cutoff_len` tokens; None where none is.

    From the longest audio on, utterances are rendered unless their answer fits behind the prompt of a longer one: a run
    in which all fit costs a few utterances.

    Args:
        dataset: that was cut.
        renderer: of the model.
        layout: of the finished run, whose scores name the utterances and their seconds.
        cutoff_len: tokens of prompt and answer that LLaMA-Factory keeps.
    """
    rows = {parse_sample_id(row["id"])[1]: row for row in read_jsonl(layout.scores)}
    longer: list[int] = []
    prompt_bound = sys.maxsize  # tokens that no prompt from here on has more of, but for those of longer texts
    shortest_text = 0
    for number in sorted(rows, key=lambda number: (-rows[number]["duration_seconds"], number)):
        answer, text = len(rows[number]["token_ids"]) + renderer.end_tokens, _text_bytes(rows[number])
        if prompt_bound + max(0, text - shortest_text) + answer <= cutoff_len:
            continue
        prompt = _prompt_tokens(dataset, renderer, number)
        if prompt is None:
            continue
        prompt_bound, shortest_text = prompt, text
        longer += [prompt + answer] if prompt + answer > cutoff_len else []
    if not longer:
        return None
    return (
        f"cutoff_len: {cutoff_len} is less than {len(longer)} of the {len(rows)} utterances of {dataset.name} that "
        f"were cut need in training (up to {max(longer)} tokens): LLaMA-Factory cuts such rows off, and a training "
        f"stops where audio tokens are lost. Set cutoff_len to {max(longer)} or more."
    )


def _prompt_tokens(dataset: SourceDataset, renderer: Renderer, row: int) -> int | None:
    """Count the tokens of a whole row's prompt, audio included; None where it cannot be read any more."""
    sample = dataset.sample(row)
    if not isinstance(sample, Sample):
        return None
    try:
        return len(renderer.render(sample.prompt, read_mono(sample.audio), sample.reference).prompt_ids)
    except (AudioError, ModelError):
        return None


def _text_bytes(row: Mapping[str, Any]) -> int:
    """Count the bytes of a prompt's text: it never has more tokens."""
    return sum(len(message["content"].encode()) for message in row["messages"])
