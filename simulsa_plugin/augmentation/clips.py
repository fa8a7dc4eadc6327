"""Select rows, truncate them, and write the clips."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.references import is_grouped, reading_order
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, from_pcm16, samples_to_seconds, to_pcm16, write_wav
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import (
    Skipped,
    first_causes,
    generator,
    sample_id,
    walk,
    wanted_samples,
)
from simulsa_plugin.augmentation.method.silence import draw_silence, noise_floor, surround
from simulsa_plugin.augmentation.method.truncation import cut_samples
from simulsa_plugin.augmentation.output_layout import Layout, audio_name, other_data
from simulsa_plugin.augmentation.registration import SourceDataset
from simulsa_plugin.errors import AudioError, DatasetError, ModelError
from simulsa_plugin.files.atomic import replacing, sync_files
from simulsa_plugin.files.json_files import crc32_hex, read_whole_rows, write_jsonl
from simulsa_plugin.model.protocol import Renderer
from simulsa_plugin.model.values import Sample, UnusableRow, advice_on_audio
from simulsa_plugin.read_ahead import map_ahead
from simulsa_plugin.tables import list_counts
from simulsa_plugin.terminal import progress

_READERS = 4  # files that are read ahead of the walk: a store answers after a while
_LARGE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Cut:
    """A chosen sample, before scoring; small, for all of a run are in memory at once.

    Attributes:
        id: see `sample_id`.
        sample: the row that was cut.
        folder: of its clip.
        duration_seconds: of the source.
        num_samples: of the source that are heard.
        lead: samples of silence before it.
        trail: samples of silence after it.
        prompt_tokens: of the rendered clip, audio tokens included.
        reference_tokens: of the rendered reference.
        clip_checksum: CRC-32 of the clip's samples.
    """

    id: str
    sample: Sample
    folder: Path
    duration_seconds: float
    num_samples: int
    lead: int
    trail: int
    prompt_tokens: int
    reference_tokens: int
    clip_checksum: str

    @property
    def clip(self) -> Path:
        """Its file: `lead` samples of silence, `num_samples` of the source, `trail` samples of silence."""
        return self.folder / f"{self.id}.wav"

    @property
    def clip_samples(self) -> int:
        """Length of the clip in samples."""
        return self.lead + self.num_samples + self.trail


@dataclass(frozen=True, slots=True)
class _Reading:
    """A row, and its audio or what is wrong with that; None where it has not been read."""

    row: Sample | UnusableRow
    audio: Waveform | AudioError | None = None


def _is_large(audio: str) -> bool:
    """Return whether a file may be so long that several of its kind would take much memory."""
    try:
        return os.path.getsize(audio) > _LARGE_BYTES
    except (OSError, ValueError):  # it lies in a store, or is not there
        return False


class _Skip(Exception):
    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(reason)
        self.reason, self.cause = reason, cause


class _SkipCut(_Skip):
    """This cut is skipped; another one of the same row may be usable."""


class _SkipRow(_Skip):
    """No cut of this row is usable."""


@dataclass(frozen=True)
class CutSampler:
    """What the walk over one dataset needs; `write_clips: False` only looks.

    Attributes:
        scored_clips: of the rows that are scored already; see `scored_clips`.
    """

    dataset: SourceDataset
    renderer: Renderer
    settings: AugmentSettings
    layout: Layout
    write_clips: bool = True
    scored_clips: Mapping[str, str | None] = field(default_factory=dict)

    def sample(self) -> tuple[list[Cut], list[Skipped], list[str]]:
        """Walk the rows until enough could be cut; what fails is listed with its reason, and the next one is tried.

        Returns:
            The cuts; what was skipped; warnings.

        Raises:
            DatasetError: not one row can be cut.
            StorageError: a clip of a scored row holds other audio than the dataset has now.
        """
        wanted = wanted_samples(len(self.dataset), self.settings)
        cuts: list[Cut] = []
        skipped: list[Skipped] = []
        with progress(wanted, f"cut {self.dataset.name}", "clip") as counting:
            for outcome in self.outcomes():
                if isinstance(outcome, Skipped):
                    skipped.append(outcome)
                    continue
                cuts.append(outcome)
                counting.update()
                if len(cuts) == wanted:
                    break
        warnings = self._check_enough(cuts, skipped, wanted)
        if self.write_clips:
            sync_files(cut.clip for cut in cuts)  # from here on, rows and files speak of them
        return cuts, skipped, warnings

    def outcomes(self) -> Iterator[Cut | Skipped]:
        """Walk over all rows: yield every cut of a row, or why it was skipped."""
        together = self._read_together() if self.write_clips else {}
        order = walk(self.dataset.name, len(self.dataset), self.settings.seed)
        rows = (together.pop(row) if row in together else self._find(row) for row in order)
        with closing(map_ahead(self._read_unless_cut, rows, threads=_READERS)) as readings:
            for reading in readings:
                yield from self._outcomes_of(reading) if isinstance(reading, _Reading) else reading

    def _read_together(self) -> dict[int, list[Cut | Skipped]]:
        """Cut the rows that the walk takes for certain and whose audio lies beside others', in the order of the files.

        A walk in its own order would read a row group of a parquet file again for each of its rows.
        """
        certain = wanted_samples(len(self.dataset), self.settings) // self.settings.cuts
        rows = islice(walk(self.dataset.name, len(self.dataset), self.settings.seed), certain)
        samples = (sample for sample in map(self.dataset.sample, rows) if isinstance(sample, Sample))
        grouped = [sample for sample in samples if is_grouped(sample.audio)]
        ordered = sorted(grouped, key=lambda one: reading_order(one.audio))
        with closing(map_ahead(self._read, ordered, threads=_READERS)) as readings:
            return {reading.row.row: list(self._outcomes_of(reading)) for reading in readings}

    def _find(self, row: int) -> Sample | UnusableRow | DatasetError:
        """Return a row, or why there is none: it may never be needed, as rows are found ahead."""
        try:
            return self.dataset.sample(row)
        except DatasetError as error:
            return error

    def _read_unless_cut(
        self, found: Sample | UnusableRow | DatasetError | list[Cut | Skipped]
    ) -> _Reading | list[Cut | Skipped]:
        if isinstance(found, DatasetError):
            raise found
        return found if isinstance(found, list) else self._read(found)

    def _outcomes_of(self, reading: _Reading) -> Iterator[Cut | Skipped]:
        number, found = 0, reading.row
        try:
            sample, waveform = self._usable(reading)
            taken: set[int] = set()
            for number in range(self.settings.cuts):
                try:
                    cut = self._cut(sample, waveform, number, taken)
                except _SkipCut as skip:
                    yield self._skipped(found, number, skip)
                    continue
                taken.add(cut.num_samples)
                yield cut
        except _SkipRow as skip:
            yield self._skipped(found, number, skip)

    def _skipped(self, row: Sample | UnusableRow, number: int, skip: _Skip) -> Skipped:
        identifier = sample_id(self.dataset.name, row.row, number)
        audio = row.audio and audio_name(row.audio, self.layout.out, portable=self.settings.portable)
        return Skipped(identifier, skip.reason, audio, skip.cause, row.source_id)

    def _read(self, row: Sample | UnusableRow) -> _Reading:
        """Read the audio of a row, on any thread; that of a large file is read when it is due, one at a time."""
        if isinstance(row, UnusableRow) or _is_large(row.audio):
            return _Reading(row)
        try:
            return _Reading(row, read_mono(row.audio))
        except AudioError as error:
            return _Reading(row, error)

    def _usable(self, reading: _Reading) -> tuple[Sample, Waveform]:
        """Return a row that can be cut, with its audio. Raises _SkipRow with the reason."""
        sample = reading.row
        if isinstance(sample, UnusableRow):
            raise _SkipRow(sample.reason, sample.cause)
        try:
            waveform = read_mono(sample.audio) if reading.audio is None else reading.audio
        except AudioError as error:
            raise _SkipRow(f"audio_{error.reason}", str(error)) from error
        if isinstance(waveform, AudioError):
            raise _SkipRow(f"audio_{waveform.reason}", str(waveform)) from waveform
        duration = samples_to_seconds(len(waveform))
        if duration <= self.settings.min_seconds:
            least = f"simulsa_min_seconds is {self.settings.min_seconds}"
            raise _SkipRow("too_short", f"the audio has {duration:.3f} s, and {least}")
        if "full" in self.settings.scored_extras and duration > self._window_seconds:
            # p(full) would be about a part of it
            raise _SkipRow("audio_exceeds_window", f"the audio has {duration:.3f} s{self._window_in_words}")
        return sample, waveform

    def _cut(self, sample: Sample, waveform: Waveform, number: int, taken: set[int]) -> Cut:
        """Cut a row and write its clip. Raises _SkipCut with the reason."""
        key = (self.settings.seed, self.dataset.name, sample.row, number)
        duration = samples_to_seconds(len(waveform))
        num_samples = cut_samples(duration, self.settings, generator(*key))
        if num_samples in taken:
            raise _SkipCut("same_cut", "another cut of the row ends at the same sample")
        if samples_to_seconds(num_samples) > self._window_seconds:
            heard = samples_to_seconds(num_samples)
            raise _SkipCut("cut_exceeds_window", f"the cut has {heard:.3f} s{self._window_in_words}")
        rng = generator(*key, "silence")
        lead, trail = draw_silence(self.settings.silence_ms, self._room(num_samples), rng)
        floor = noise_floor(waveform) if lead + trail else 0.0
        pcm = to_pcm16(surround(waveform[:num_samples], lead, trail, floor, rng))
        try:
            tokens = self.renderer.count_tokens(sample.prompt, from_pcm16(pcm), sample.reference)
        except ModelError as error:
            # the template refuses prompt or reference, whatever the cut
            raise _SkipRow("not_renderable", str(error)) from error
        identifier = sample_id(self.dataset.name, sample.row, number)
        checksum = crc32_hex(pcm.astype("<i2").tobytes())
        cut = Cut(identifier, sample, self.layout.clips, duration, num_samples, lead, trail, *tokens, checksum)
        if self.scored_clips.get(identifier) not in (None, checksum):
            raise other_data(self.layout.folder, identifier)
        if self.write_clips:
            self._keep_clip(cut, pcm)
        return cut

    def _keep_clip(self, cut: Cut, pcm: npt.NDArray[np.int16]) -> None:
        """Write a clip, unless it is there; one that a crash has damaged is replaced.

        Raises:
            StorageError: its row was scored with what is there, and cannot say that this is damaged.
        """
        buffer = io.BytesIO()
        write_wav(buffer, pcm)
        if cut.clip.exists() and cut.clip.read_bytes() == buffer.getvalue():
            return
        if cut.clip.exists() and cut.id in self.scored_clips and self.scored_clips[cut.id] is None:
            raise other_data(self.layout.folder, cut.id)
        with replacing(cut.clip, durable=False) as handle:
            handle.write(buffer.getvalue())

    @property
    def _window_in_words(self) -> str:
        return f", and the model takes no more than {self._window_seconds:g} s"

    @property
    def _window_seconds(self) -> float:
        return self.renderer.window_seconds or math.inf

    def _room(self, num_samples: int) -> int:
        """Return how many samples of silence fit into the model's window beside a cut."""
        longest = self.settings.silence_ms * 2 * SAMPLE_RATE / 1000 + num_samples
        return math.floor(min(self._window_seconds * SAMPLE_RATE, longest)) - num_samples

    def _check_enough(self, cuts: list[Cut], skipped: list[Skipped], wanted: int) -> list[str]:
        """Return a warning for too few cuts. Raises DatasetError where there is none."""
        if not cuts:
            if self.write_clips:
                write_jsonl(self.layout.skipped, (one.as_row() for one in skipped))
            reasons = Counter(one.reason for one in skipped)
            first = first_causes(skipped, all_reasons=True).items()
            causes = "".join(f" First {reason}: {cause.rstrip('.')}." for reason, cause in first)
            raise DatasetError(
                f"No row of {self.dataset.name} can be cut; reasons: {list_counts(reasons)}.{causes} "
                f"They are listed in {self.layout.skipped}.{advice_on_audio(reasons)}"
            )
        if len(cuts) < wanted:
            return [
                f"{self.dataset.name} gives {len(cuts)} of the {wanted} samples asked for; "
                f"what was skipped is listed in {self.layout.skipped}."
            ]
        return []


def scored_clips(layout: Layout) -> dict[str, str | None]:
    """Return the checksum of each clip that a row was scored with; None where a row of an older version has none.

    Other processes may be adding rows meanwhile.
    """
    found: dict[str, str | None] = {}
    for path in (*layout.journals(), layout.scores):
        for row in read_whole_rows(path) if path.exists() else ():
            if isinstance(row.get("id"), str):
                found[row["id"]] = row.get("clip_checksum")
    return found
