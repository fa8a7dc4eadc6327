"""Whole utterances against the `cutoff_len` of the training: clips are short, the offline rows need not be."""

from __future__ import annotations

from simulsa_plugin.audio import read_mono
from simulsa_plugin.augment.layout import Layout
from simulsa_plugin.augment.registration import SourceDataset
from simulsa_plugin.augment.selection import parse_sample_id
from simulsa_plugin.errors import AudioError, ModelError
from simulsa_plugin.model import Renderer, Sample
from simulsa_plugin.storage import read_jsonl

DEFAULT_CUTOFF_LEN = 2048  # of LLaMA-Factory


def cutoff_line(dataset: SourceDataset, renderer: Renderer, layout: Layout, cutoff_len: int) -> str | None:
    """Say how many of the utterances that were cut are, whole, longer than `cutoff_len` tokens; None where none is.

    The longest are rendered until one fits, so that a run in which all fit costs a single utterance.

    Args:
        dataset: that was cut.
        renderer: of the model.
        layout: of the finished run, whose scores name the utterances and their seconds.
        cutoff_len: tokens of prompt and answer that LLaMA-Factory keeps.
    """
    seconds = {parse_sample_id(row["id"])[1]: row["duration_seconds"] for row in read_jsonl(layout.scores)}
    longer: list[int] = []
    for row in sorted(seconds, key=lambda row: (-seconds[row], row)):
        tokens = _tokens(dataset, renderer, row)
        if tokens is not None and tokens <= cutoff_len:
            break
        longer += [tokens] if tokens is not None else []
    if not longer:
        return None
    return (
        f"cutoff_len: {cutoff_len} is less than {len(longer)} of the {len(seconds)} utterances of {dataset.name} that "
        f"were cut need in training (up to {max(longer)} tokens): LLaMA-Factory cuts such rows off, and a training "
        f"stops where audio tokens are lost. Set cutoff_len to {max(longer)} or more."
    )


def _tokens(dataset: SourceDataset, renderer: Renderer, row: int) -> int | None:
    """Tokens of a whole row, its end of turn counted as one; None where it cannot be read (any more)."""
    sample = dataset.sample(row)
    if not isinstance(sample, Sample):
        return None
    try:
        rendered = renderer.render(sample.prompt, read_mono(sample.audio), sample.reference)
    except (AudioError, ModelError):
        return None
    return len(rendered.prompt_ids) + len(rendered.content_ids) + 1
