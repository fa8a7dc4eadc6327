"""Select and truncate: which rows, cut where, written as clips."""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from simulsa_plugin.audio import from_pcm16, read_mono, samples_to_seconds, to_pcm16, write_wav
from simulsa_plugin.augment.layout import Layout, other_data
from simulsa_plugin.augment.registration import SourceDataset
from simulsa_plugin.augment.selection import generator, sample_id, walk, wanted_samples
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.augment.truncation import cut_samples
from simulsa_plugin.errors import AudioError, DatasetError, ModelError
from simulsa_plugin.model import AudioLanguageModel, RenderedReference, Sample, UnusableRow
from simulsa_plugin.storage import replacing, write_jsonl


@dataclass(frozen=True)
class Cut:
    """A chosen sample with its clip, before scoring; the clip (num_samples,) is what its file holds."""

    id: str
    sample: Sample
    clip: Path
    duration_seconds: float
    num_samples: int
    rendered: RenderedReference


def choose_cuts(
    dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings, layout: Layout
) -> tuple[list[Cut], list[dict[str, Any]]]:
    """Walk the rows until enough could be cut; what fails is listed with its reason, and the next row is tried."""
    wanted, cuts, skipped = wanted_samples(len(dataset), settings), [], []
    with tqdm(total=wanted, desc=f"cut {dataset.name}", unit="clip", disable=None) as progress:
        for row in walk(dataset.name, len(dataset), settings.seed):
            try:
                cuts.append(_cut(dataset, row, model, settings, layout))
                progress.update()
            except _Skip as skip:
                skipped.append({"id": sample_id(dataset.name, row), "reason": skip.reason})
            if len(cuts) == wanted:
                break
    if not cuts:
        write_jsonl(layout.skipped, skipped)
        reasons = dict(Counter(row["reason"] for row in skipped))
        raise DatasetError(
            f"No row of {dataset.name} can be cut; reasons: {reasons}. They are listed in {layout.skipped}."
        )
    if len(cuts) < wanted:
        tqdm.write(
            f"warning: {dataset.name} gives {len(cuts)} of the {wanted} samples asked for; "
            f"the other rows are listed in {layout.skipped}."
        )
    return cuts, skipped


class _Skip(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _cut(dataset: SourceDataset, row: int, model: AudioLanguageModel, settings: AugmentSettings, layout: Layout) -> Cut:
    """Cut one row and write its clip. Raises _Skip with the reason."""
    sample = dataset.sample(row)
    if isinstance(sample, UnusableRow):
        raise _Skip(sample.reason)
    try:
        waveform = read_mono(sample.audio)
    except AudioError as error:
        raise _Skip(f"audio_{error.reason}") from error
    duration = samples_to_seconds(len(waveform))
    if duration <= settings.min_seconds:
        raise _Skip("too_short")
    num_samples = cut_samples(duration, settings, generator(settings.seed, dataset.name, row, 0))
    window_seconds = model.window_seconds or math.inf
    if samples_to_seconds(num_samples) > window_seconds:
        raise _Skip("cut_exceeds_window")
    if settings.acceptance == "ratio" and duration > window_seconds:
        raise _Skip("audio_exceeds_window")  # p(full) would be about a part of it
    pcm = to_pcm16(waveform[:num_samples])
    try:
        rendered = model.render(sample.prompt, from_pcm16(pcm), sample.reference)
    except ModelError as error:
        raise _Skip("not_renderable") from error
    identifier = sample_id(dataset.name, row)
    clip = layout.clips / f"{identifier}.wav"
    _write_clip(clip, pcm)
    return Cut(identifier, sample, clip, duration, num_samples, rendered)


def _write_clip(clip: Path, pcm: npt.NDArray[np.int16]) -> None:
    """Write a clip once; one that is there already holds the same samples."""
    buffer = io.BytesIO()
    write_wav(buffer, pcm)
    if not clip.exists():
        with replacing(clip) as handle:
            handle.write(buffer.getvalue())
    elif clip.read_bytes() != buffer.getvalue():
        raise other_data(clip.parent.parent, clip.stem)
