"""Reading, cropping and writing audio; the only place that turns seconds into samples."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulsa_plugin.errors import AudioError
from simulsa_plugin.resampling import resample

SAMPLE_RATE = 16_000  # what LLaMA-Factory's audio processors take, and what clips are written in
MAX_DURATION_SECONDS = 6 * 3600.0  # a header that claims more is broken or hostile
MAX_SAMPLE_RATE = 768_000  # likewise; a resampling filter grows with the rate
Waveform = npt.NDArray[np.float32]
_UNKNOWN_COUNT = 1 << 62  # libsndfile's SF_COUNT_MAX, 2⁶³ − 1, and what lies near it
_BEGIN_OF_OGG_STREAM = re.compile(rb"OggS\0[\2\3\6\7]")  # a page with the flag "first page of a logical stream"
_BEGIN_LENGTH = 6
_SCAN_BYTES = 1 << 20


def seconds_to_samples(seconds: float, sample_rate: int = SAMPLE_RATE) -> int:
    """Seconds to the nearest sample, halves up (METHOD: a cut is rounded to a sample once).

    >>> seconds_to_samples(0.5), seconds_to_samples(1.00003)
    (8000, 16000)
    """
    return math.floor(seconds * sample_rate + 0.5)


def samples_to_seconds(num_samples: int, sample_rate: int = SAMPLE_RATE) -> float:
    """Samples to seconds.

    >>> samples_to_seconds(8000)
    0.5
    """
    return num_samples / sample_rate


def read_mono(path: str | Path | IO[bytes], sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Read a whole file as mono float32 at `sample_rate`.

    libsndfile reads wav, flac, ogg and opus; PyAV, which ships its own FFmpeg, reads the rest (mp3, m4a, webm …).
    Channels are averaged and the whole is resampled as in LLaMA-Factory, so that training hears the same samples.

    Returns:
        waveform (num_samples,), full scale ±1.

    Raises:
        AudioError: `missing`, `empty`, `broken` or `too_long`.
    """
    samples, native_rate = read_samples(path)
    waveform = average_channels(samples)
    if not np.isfinite(waveform).all():
        raise AudioError("broken", f"{_name(path)}: holds NaN or infinite samples.")
    check_rate(native_rate, path)
    return resample(waveform, native_rate, sample_rate)


def average_channels(samples: npt.NDArray[np.float32]) -> Waveform:
    """(num_samples, channels) to (num_samples,).

    >>> average_channels(np.array([[0.5, 0.25]], dtype=np.float32)).tolist()
    [0.375]
    """
    mono: Waveform = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mono


def to_pcm16(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Float ±1 to 16-bit samples, rounded and clipped.

    >>> to_pcm16(np.array([0.0, 1.0, -1.0], dtype=np.float32)).tolist()
    [0, 32767, -32768]
    """
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def from_pcm16(samples: npt.NDArray[np.int16]) -> Waveform:
    """16-bit samples to float ±1, as every reader gives them back."""
    return (samples / np.float32(32768.0)).astype(np.float32)


def write_wav(handle: IO[bytes] | Path, pcm: npt.NDArray[np.int16], sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono PCM16 WAV; the bytes depend on the samples alone.

    Raises:
        OSError: the disk refuses, or whatever else the handle's own `write` raises.
    """
    import soundfile

    encoded = io.BytesIO()  # libsndfile hides why a write failed, and prints what a handle raises instead of raising it
    soundfile.write(encoded, pcm, sample_rate, format="WAV", subtype="PCM_16")
    if isinstance(handle, Path):
        handle.write_bytes(encoded.getvalue())
    else:
        handle.write(encoded.getvalue())


def read_samples(path: str | Path | IO[bytes]) -> tuple[npt.NDArray[np.float32], int]:
    """Decode a whole file: (samples (num_samples, channels) of full scale ±1, its own sample rate).

    Raises:
        AudioError: `missing`, `empty`, `broken` or `too_long`.
    """
    import soundfile

    if isinstance(path, (str, Path)):
        check_file(Path(path))
    try:
        with open_with_soundfile(path) as file:
            samples, rate = file.read(dtype="float32", always_2d=True), int(file.samplerate)
    except NotForLibsndfile as reason:
        samples, rate = _read_with_av(path, reason)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        samples, rate = _read_with_av(path, NotForLibsndfile(str(error)))
    if len(samples) == 0:
        raise AudioError("empty", f"{_name(path)}: holds no samples.")
    return samples, rate


def _read_with_av(path: str | Path | IO[bytes], reason: NotForLibsndfile) -> tuple[npt.NDArray[np.float32], int]:
    with open_with_av(path, reason) as file:
        blocks = list(file.blocks)
    return np.concatenate(blocks or [np.zeros((0, 1), dtype=np.float32)]), file.rate


class NotForLibsndfile(Exception):
    """Why libsndfile cannot be trusted with a file.

    Attributes:
        is_mpeg: it is a bare MPEG stream (MP3, MP2), whatever its name ends in.
        is_empty: its header says that it holds no samples.
    """

    def __init__(self, reason: str, *, is_mpeg: bool = False, is_empty: bool = False) -> None:
        super().__init__(reason)
        self.is_mpeg = is_mpeg
        self.is_empty = is_empty


def open_with_soundfile(path: str | Path | IO[bytes]) -> Any:
    """Open a file as a `soundfile.SoundFile` where libsndfile knows how many samples it holds.

    libsndfile reads no further than the count that it has on opening. That count is an estimate for MP3 (from the
    first frame, or a tag that speaks of the first of two joined files), covers only the first link of chained Ogg, and
    is unknown for a FLAC that was written to a pipe.

    Raises:
        NotForLibsndfile: libsndfile does not read the file, or not all of it.
        AudioError: `too_long`.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(str(path) if isinstance(path, Path) else path)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: the name ends in .raw
        raise NotForLibsndfile(str(error)) from error
    try:
        _check_count(file, path)
        check_length(file.frames / file.samplerate, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_count(file: Any, path: str | Path | IO[bytes]) -> None:
    if file.subtype.startswith("MPEG"):
        raise NotForLibsndfile("libsndfile estimates its length", is_mpeg=file.format == "MP3")
    if file.frames == 0:  # also a WAV whose recorder never went back to write the size
        raise NotForLibsndfile("its header counts no samples", is_empty=True)
    if file.format == "OGG" and _is_chained_ogg(path):
        raise NotForLibsndfile("libsndfile reads the first of several streams")
    if file.frames >= _UNKNOWN_COUNT:
        raise NotForLibsndfile("its header does not count its samples")


def _is_chained_ogg(path: str | Path | IO[bytes]) -> bool:
    """Whether a second logical stream begins anywhere in an Ogg file; joined files may even share a serial number."""
    if isinstance(path, (str, Path)):
        with open(path, "rb") as handle:
            return _is_chained_ogg(handle)
    position, found, chunk = path.tell(), 0, b""
    path.seek(0)
    while found < 2 and (more := path.read(_SCAN_BYTES)):
        chunk = chunk[-_BEGIN_LENGTH + 1 :] + more
        found += len(_BEGIN_OF_OGG_STREAM.findall(chunk))
    path.seek(position)
    return found > 1


class AvFile(NamedTuple):
    """An audio file that FFmpeg decodes.

    Attributes:
        rate: its own.
        blocks: (num_samples, channels) from the start, all with as many channels as the first.
    """

    rate: int
    blocks: Iterator[Waveform]


@contextlib.contextmanager
def open_with_av(path: str | Path | IO[bytes], reason: NotForLibsndfile) -> Iterator[AvFile]:
    """Open what libsndfile does not read, or not to its end.

    Args:
        path: file or handle.
        reason: why not libsndfile.

    Raises:
        AudioError: `broken`; the blocks raise it as well, where they cannot be decoded, or `too_long`.
    """
    import av

    if not isinstance(path, (str, Path)):
        path.seek(0)
    # "file:": a colon in the name is not the end of a protocol.
    source = f"file:{path}" if isinstance(path, (str, Path)) else path
    try:
        with av.open(source, mode="r", format="mp3" if reason.is_mpeg else None) as container:
            if not container.streams.audio or not container.streams.audio[0].rate:
                raise AudioError("broken", f"{_name(path)}: holds no audio.")
            rate = int(container.streams.audio[0].rate)
            yield AvFile(rate, _av_blocks(container, rate, path, reason))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _undecodable(path, reason, error) from error


def _av_blocks(container: Any, rate: int, path: str | Path | IO[bytes], reason: NotForLibsndfile) -> Iterator[Waveform]:
    channels = total = 0
    for frame in _joined(_at_rate(_frames(container, path, reason), rate)):
        block = _to_floats(frame)
        channels, total = channels or block.shape[1], total + len(block)
        check_length(total / rate, path)
        yield block if block.shape[1] == channels else np.repeat(average_channels(block)[:, None], channels, axis=1)


def _frames(container: Any, path: str | Path | IO[bytes], reason: NotForLibsndfile) -> Iterator[Any]:
    """What FFmpeg decodes; a bare MPEG stream goes on after junk (the tags of joined files), as in all players."""
    import av

    try:
        for packet in container.demux(container.streams.audio[0]):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if not reason.is_mpeg:
                    raise
                continue
            yield from frames
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _undecodable(path, reason, error) from error


def _at_rate(frames: Iterator[Any], rate: int) -> Iterator[Any]:
    """Frames at one sample rate: in joined files it may change, and FFmpeg resamples what comes at another."""
    import av

    for (frame_rate, layout, *_), stretch in itertools.groupby(frames, key=_kind):
        if frame_rate == rate:
            yield from stretch
            continue
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        for frame in stretch:
            frame.pts = None
            yield from resampler.resample(frame)
        yield from resampler.resample(None)


def _kind(frame: Any) -> tuple[Any, ...]:
    return frame.sample_rate, frame.layout.name, frame.format.name, frame.time_base


def _joined(frames: Iterator[Any]) -> Iterator[Any]:
    """Frames of a second at least, of one kind each: what Python does for a frame of 20 ms costs more than decoding."""
    import av

    for _, stretch in itertools.groupby(frames, key=_kind):
        fifo = av.AudioFifo()
        try:
            for frame in stretch:
                frame.pts = None  # else a gap in the timestamps is an error
                fifo.write(frame)
                if fifo.samples >= frame.sample_rate:
                    yield fifo.read()
        except AudioError:
            if fifo.samples:  # what came before the damage
                yield fifo.read()
            raise
        if fifo.samples:
            yield fifo.read()


def _to_floats(frame: Any) -> Waveform:
    """(num_samples, channels), full scale ±1."""
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.int16) - 128).astype(np.int8)
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _undecodable(path: str | Path | IO[bytes], reason: NotForLibsndfile, error: Exception) -> AudioError:
    if reason.is_empty:
        return AudioError("empty", f"{_name(path)}: holds no samples.")
    return AudioError("broken", f"{_name(path)}: cannot be decoded ({reason}; {error}).")


def check_file(path: Path) -> None:
    """Raise AudioError unless a file with something in it is there: `missing` or `empty`."""
    try:
        if not path.is_file():
            raise AudioError("missing", f"{path}: no such file.")
        if path.stat().st_size == 0:
            raise AudioError("empty", f"{path}: holds zero bytes.")
    except (OSError, ValueError) as error:
        raise AudioError("missing", f"{path}: cannot be opened ({error}).") from error


def check_length(seconds: float, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `too_long` for what is broken or hostile."""
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise AudioError("too_long", f"{_name(path)}: {seconds:.0f} s; allowed: up to {MAX_DURATION_SECONDS:.0f} s.")


def check_rate(rate: int, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `broken` for a sample rate that no recording has."""
    if rate > MAX_SAMPLE_RATE:
        raise AudioError("broken", f"{_name(path)}: {rate} Hz; allowed: up to {MAX_SAMPLE_RATE} Hz.")


def _name(path: str | Path | IO[bytes]) -> str:
    return str(path) if isinstance(path, (str, Path)) else getattr(path, "name", "audio")
