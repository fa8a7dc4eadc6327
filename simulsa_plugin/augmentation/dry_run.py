"""Dry run: what a run would do, and its cost; nothing is scored, nothing is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.samples import SAMPLE_RATE, samples_to_seconds
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import Cut, CutSampler, scored_clips
from simulsa_plugin.augmentation.manifest import refuse_other_configuration
from simulsa_plugin.augmentation.method.selection import wanted_samples
from simulsa_plugin.augmentation.method.speculation import check_scored, make_batches
from simulsa_plugin.augmentation.output_layout import WAV_HEADER_BYTES, Layout
from simulsa_plugin.augmentation.registration import SourceDataset, offline_entry, refuse_foreign_output
from simulsa_plugin.model.protocol import Renderer

ENCODER_FRAMES_PER_SECOND = 50  # of Whisper-like encoders, which run over their whole window


@dataclass(frozen=True)
class ModelSize:
    """A model's size, known from its configuration.

    Attributes:
        parameters: in all.
        encoder_parameters: of them, in the audio encoder.
        dtype_bytes: bytes for each.
    """

    parameters: int
    encoder_parameters: int
    dtype_bytes: int


def dry_run(
    dataset: SourceDataset,
    renderer: Renderer,
    size: ModelSize | None,
    settings: AugmentSettings,
    out: Path,
    described: Mapping[str, Any],
) -> list[str]:
    """Choose rows and cuts as a run would, and count.

    Args:
        dataset: what would be cut.
        renderer: of the model that would score.
        size: of that model; None where its configuration does not tell.
        settings: the `simulsa_*` keys.
        out: output folder; it need not exist.
        described: of `describe_augmentation`, without what only the weights tell.

    Raises:
        StorageError: the run would refuse the folder.
        DatasetError: not one row could be cut.
    """
    layout = Layout(out.absolute(), dataset.name)
    refuse_foreign_output(layout)
    refuse_other_configuration(layout, described)
    offline_entry(dataset, settings, layout)  # refuses what it cannot register
    known = scored_clips(layout)
    sampler = CutSampler(dataset, renderer, settings, layout, write_clips=False, scored_clips=known)
    cuts, skipped, warnings = sampler.sample()
    reasons = dict(sorted(Counter(one.reason for one in skipped).items()))
    wanted = wanted_samples(len(dataset), settings)
    batches = make_batches(cuts, settings.batch_size)
    passes = 1 + len(settings.scored_extras)
    return [
        f"{dataset.name}: would cut {len(cuts)} of {wanted} samples asked for, from {len(dataset)} rows; "
        f"skipped on the way: {reasons or 'none'}",
        f"  {_clips_line(cuts)}",
        f"  scoring: {len(batches)} batches of up to {settings.batch_size} clips"
        f"{f', each scored {passes} times' if passes > 1 else ''}; {_tokens_line(batches)}",
        f"  {_cost_line(batches, passes, size, renderer)}",
        f"  {_state_line(layout, cuts)}",
        *(f"  warning: {warning}" for warning in warnings),
    ]


def _clips_line(cuts: Sequence[Cut]) -> str:
    samples = sum(cut.clip_samples for cut in cuts)
    num_bytes = 2 * samples + len(cuts) * WAV_HEADER_BYTES
    return f"clips: {samples_to_seconds(samples):.1f} s of audio, {num_bytes / 1e6:.1f} MB in the output folder"


def _tokens_line(batches: Sequence[Sequence[Cut]]) -> str:
    real = sum(cut.prompt_tokens + cut.reference_tokens for batch in batches for cut in batch)
    return f"{real} tokens, {_padded_tokens(batches)} with padding"


def _padded_tokens(batches: Sequence[Sequence[Cut]]) -> int:
    return sum(len(batch) * max(cut.prompt_tokens + cut.reference_tokens for cut in batch) for batch in batches)


def _cost_line(batches: Sequence[Sequence[Cut]], passes: int, size: ModelSize | None, renderer: Renderer) -> str:
    if size is None:
        return "model: size not known from its configuration"
    clips = sum(map(len, batches))
    seconds = renderer.window_seconds
    frames = seconds * ENCODER_FRAMES_PER_SECOND if seconds else _mean_seconds(batches) * ENCODER_FRAMES_PER_SECOND
    operations = (
        2.0
        * passes
        * (
            (size.parameters - size.encoder_parameters) * _padded_tokens(batches)
            + size.encoder_parameters * frames * clips
        )
    )
    return (
        f"model: {size.parameters / 1e6:.1f} M parameters, "
        f"{size.parameters * size.dtype_bytes / 1e9:.2f} GB of weights; "
        f"about {operations / 1e12:.3g} TFLOP (2 · parameters · positions), "
        f"{operations / 1e14:.3g} s at a sustained 100 TFLOP/s"
    )


def _mean_seconds(batches: Sequence[Sequence[Cut]]) -> float:
    lengths = [cut.clip_samples / SAMPLE_RATE for batch in batches for cut in batch]
    return sum(lengths) / len(lengths)


def _state_line(layout: Layout, cuts: Sequence[Cut]) -> str:
    if layout.manifest.exists():
        return f"{layout.folder} is finished: a run would change nothing"
    if layout.scores.exists():
        return f"{layout.folder}: all scored; a run would decide and finish"
    by_id = {cut.id: cut for cut in cuts}
    done = set()
    for row in (row for journal in layout.journals() for row in _whole_rows(journal)):
        if row["id"] in by_id:
            check_scored(row, by_id[row["id"]], layout)
            done.add(row["id"])
    return f"{layout.folder}: {len(done)} of {len(cuts)} scored so far"


def _whole_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield rows of a journal that another process may be writing; it is only read."""
    with journal.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                row["id"]
            except (ValueError, TypeError, KeyError):
                return  # torn: a run would score from here on
            yield row
