"""Parts of long recordings, each decoded once at most."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from simulsa_plugin.audio.checks import MAX_DURATION_SECONDS, check_amplitude, check_size, fits_memory, is_plausible
from simulsa_plugin.audio.decoding import (
    NotForLibsndfile,
    not_for_libsndfile,
    open_with_av,
    open_with_soundfile,
    opened,
    sound_blocks,
    soundfile_errors,
)
from simulsa_plugin.audio.resampling import resample_waveform
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, average_channels, seconds_to_samples
from simulsa_plugin.errors import AudioError
from simulsa_plugin.segments import OVERSHOOT_SECONDS

# Subtypes of libsndfile in which a sample stands for itself, also after a jump; FLAC's are PCM.
_EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC_")
_FLOATS = ("FLOAT", "DOUBLE")


@dataclass(frozen=True)
class Span:
    """A part of a recording, half-open.

    Attributes:
        start_seconds: from the start of the recording.
        end_seconds: likewise; None is the end of the recording.
        channel: from 0; None averages the channels.
    """

    start_seconds: float = 0.0
    end_seconds: float | None = None
    channel: int | None = None


@dataclass(frozen=True)
class AudioInfo:
    """An audio file.

    Attributes:
        seconds: its length.
        channels: how many.
        problem: why it cannot be used whole, though parts of it may: `broken`, NaN somewhere, or `too_long`.
    """

    seconds: float
    channels: int
    problem: str = ""


class _Reader(Protocol):
    """A recording that is read from its start towards its end."""

    rate: int

    def read(self, start: int, stop: int) -> Waveform:
        """Read samples [start, stop) as (num_samples, channels), as far as they go; `start` never falls.

        Raises:
            AudioError: `broken`.
        """
        ...


def read_parts(
    path: str | Path, spans: Sequence[Span], sample_rate: int = SAMPLE_RATE
) -> Iterator[tuple[int, Waveform | AudioError]]:
    """Yield parts of one recording, mono at `sample_rate`; the recording is read once, and never held whole.

    A part is what `read_mono` would give for a file with just these samples: cut at the recording's own rate, then
    resampled. What reaches up to half a second past the end is taken as far as it goes.

    Args:
        path: the recording, or a reference to it.
        spans: its parts, in any order.
        sample_rate: of the result.

    Yields:
        (which part, waveform (num_samples,)), by start; or an AudioError in place of the waveform: `beyond_end`,
        `no_duration`, `no_channel`, `broken`.

    Raises:
        AudioError: none can be read: `missing`, `empty`, `broken`, `too_long`.
        StorageError: the system cannot read the recording now.
    """
    with _open_recording(path) as reader:
        for index in sorted(range(len(spans)), key=lambda number: spans[number].start_seconds):
            try:
                yield index, _read_part(reader, spans[index], sample_rate)
            except AudioError as error:
                yield index, error


def audio_info(path: str | Path) -> AudioInfo:
    """Return length and channels of an audio file, as decoding gives them.

    libsndfile's header has them; the first sample is decoded as a proof. What PyAV reads is decoded to its end: the
    lengths of MP3, AAC and other containers' headers are estimates, or those of a video.

    Raises:
        AudioError: `missing`, `empty`, `broken` or `too_long`.
        StorageError: the system cannot read the file now.
    """
    with opened(path) as handle:
        try:
            with contextlib.closing(open_with_soundfile(handle)) as file:
                info = _info_with_soundfile(file, handle)
        except NotForLibsndfile as reason:
            with open_with_av(handle, reason) as decoding:
                info = _walked(decoding.blocks, decoding.rate)
    if not info.seconds:
        raise AudioError("empty", f"{path}: holds no samples.")
    return info


def _info_with_soundfile(file: Any, handle: IO[bytes]) -> AudioInfo:
    if file.subtype in _FLOATS:  # these can hold NaN anywhere
        return _walked(sound_blocks(file, handle), int(file.samplerate))
    frames, channels = file.frames, int(file.channels)
    try:
        if file.format == "FLAC":  # its header may promise what a broken download has not brought
            file.seek(frames - 1)
        frames *= len(next(sound_blocks(file, handle, seconds=0), ()))  # a header alone is not audio
    except soundfile_errors() as error:
        raise not_for_libsndfile(error, handle) from error
    return AudioInfo(frames / file.samplerate, channels, _too_large(frames * channels))


def _walked(blocks: Iterator[Waveform], rate: int) -> AudioInfo:
    num_samples = channels = 0
    problem = ""
    for block in blocks:
        num_samples, channels = num_samples + len(block), block.shape[1]
        problem = problem or ("" if is_plausible(block) else "broken")
    return AudioInfo(num_samples / rate, channels, problem or _too_large(num_samples * channels))


def _too_large(num_values: int) -> str:
    return "" if fits_memory(num_values) else "too_long"


def _read_part(reader: _Reader, span: Span, sample_rate: int) -> Waveform:
    begin, end = span.start_seconds, span.end_seconds
    start = seconds_to_samples(begin, reader.rate)
    stop = seconds_to_samples(MAX_DURATION_SECONDS if end is None else end, reader.rate)
    if stop <= start:
        raise AudioError("no_duration", f"The part from {begin} s to {end} s holds no samples.")
    samples = reader.read(start, stop)
    missing_seconds = (stop - start - len(samples)) / reader.rate
    if not len(samples) or (end is not None and missing_seconds > OVERSHOOT_SECONDS):
        raise AudioError("beyond_end", f"The part from {begin} s to {end} s ends after its recording.")
    chosen = _select_channel(samples, span.channel)
    check_amplitude(chosen, f"The part from {begin} s to {end} s")
    return resample_waveform(average_channels(chosen), reader.rate, sample_rate)


def _select_channel(samples: Waveform, channel: int | None) -> Waveform:
    """Select all channels of (num_samples, channels), or one."""
    if channel is None:
        return samples
    if channel >= samples.shape[1]:
        raise AudioError("no_channel", f"The recording has {samples.shape[1]} channels, and none numbered {channel}.")
    return samples[:, channel : channel + 1]


@contextlib.contextmanager
def _open_recording(path: str | Path) -> Iterator[_Reader]:
    with opened(path) as handle:
        try:
            file = open_with_soundfile(handle)
        except NotForLibsndfile as reason:
            with open_with_av(handle, reason) as decoding:
                yield _Stream(decoding.blocks, decoding.rate, handle)
        else:
            kind = _Jumping if file.subtype.startswith(_EXACT) else _Playing
            with contextlib.closing(kind(file, handle)) as reader:
                yield reader


class _Jumping:
    """A lossless file: what lies between the parts is not read."""

    def __init__(self, file: Any, handle: IO[bytes]) -> None:
        self.rate = int(file.samplerate)
        self._file = file
        self._handle = handle

    def read(self, start: int, stop: int) -> Waveform:
        stop = min(stop, self._file.frames)
        if start >= stop:
            return np.zeros((0, 1), dtype=np.float32)
        check_size((stop - start) * self._file.channels, self._handle)
        try:
            self._file.seek(start)
            samples: Waveform = self._file.read(stop - start, dtype="float32", always_2d=True)
        except soundfile_errors() as error:
            reason = not_for_libsndfile(error, self._handle)
            self._open_again()
            raise _undecodable_recording(self._handle, reason) from error
        return samples

    def _open_again(self) -> None:
        """Open a new FLAC decoder: one that has failed fails at every other place as well."""
        self._file.close()
        with contextlib.suppress(NotForLibsndfile):  # then the next part finds a closed file
            self._file = open_with_soundfile(self._handle)

    def close(self) -> None:
        self._file.close()


class _Stream:
    """A recording that comes in blocks; only what the next part may need is kept."""

    def __init__(self, blocks: Iterator[Waveform], rate: int, handle: IO[bytes]) -> None:
        self.rate = rate
        self._handle = handle
        self._blocks = blocks
        self._kept: deque[Waveform] = deque()
        self._begin = self._end = 0  # which samples are kept
        self._failure: AudioError | None = None

    def read(self, start: int, stop: int) -> Waveform:
        self._forget(start)
        while self._end < stop and (block := self._next()) is not None:
            self._kept.append(block)
            self._end += len(block)
            self._forget(start)
            check_size((self._end - self._begin) * block.shape[1], self._handle)
        pieces, begin = [np.zeros((0, 1), dtype=np.float32)], self._begin
        for block in self._kept:
            if begin >= stop:
                break
            pieces.append(block[max(0, start - begin) : stop - begin])
            begin += len(block)
        return np.concatenate(pieces[1:] or pieces)

    def _next(self) -> Waveform | None:
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._blocks, None)
        except AudioError as error:
            self._failure = error  # nothing that comes after it can be had either
            raise

    def _forget(self, start: int) -> None:
        while self._kept and self._begin + len(self._kept[0]) <= start:
            self._begin += len(self._kept.popleft())


class _Playing(_Stream):
    """A lossy file: seeking restarts its decoder, and what follows differs from continuous playback."""

    def __init__(self, file: Any, handle: IO[bytes]) -> None:
        super().__init__(_sound_blocks(file, handle), int(file.samplerate), handle)
        self._file = file

    def close(self) -> None:
        self._file.close()


def _sound_blocks(file: Any, handle: IO[bytes]) -> Iterator[Waveform]:
    try:
        yield from sound_blocks(file, handle)
    except NotForLibsndfile as reason:
        raise _undecodable_recording(handle, reason) from reason


def _undecodable_recording(handle: IO[bytes], reason: NotForLibsndfile) -> AudioError:
    return AudioError("broken", f"{handle.name}: cannot be decoded ({reason}).")
