"""Reading, cropping and writing audio; the only place that turns seconds into samples."""

from __future__ import annotations

import contextlib
import io
import math
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

    libsndfile reads wav, flac, mp3, ogg and opus; PyAV, which ships its own FFmpeg, reads the rest (m4a, webm …).
    Channels are averaged and the whole is resampled as in LLaMA-Factory, so that training hears the same samples.

    Returns:
        waveform (num_samples,), full scale ±1.

    Raises:
        AudioError: `missing`, `empty`, `broken` or `too_long`.
    """
    samples, native_rate = _decode(path)
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


def _decode(path: str | Path | IO[bytes]) -> tuple[npt.NDArray[np.float32], int]:
    """(samples (num_samples, channels), native rate)."""
    import soundfile

    if isinstance(path, (str, Path)):
        check_file(Path(path))
    try:
        with soundfile.SoundFile(path if not isinstance(path, Path) else str(path)) as file:
            check_length(file.frames / file.samplerate, path)
            samples = file.read(dtype="float32", always_2d=True)
            native_rate = int(file.samplerate)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: the name ends in .raw
        if not isinstance(path, (str, Path)):
            path.seek(0)
        samples, native_rate = _decode_with_av(path, error)
    if len(samples) == 0:
        raise AudioError("empty", f"{_name(path)}: holds no samples.")
    return samples, native_rate


def _decode_with_av(path: str | Path | IO[bytes], first_error: Exception) -> tuple[npt.NDArray[np.float32], int]:
    with open_with_av(path, first_error) as file:
        chunks, total = [np.zeros((0, 1), dtype=np.float32)], 0
        for block in file.blocks:
            total += len(block)
            check_length(total / file.rate, path)
            chunks.append(block)
    return np.concatenate(chunks[1:] or chunks), file.rate


class AvFile(NamedTuple):
    """An audio file that FFmpeg decodes.

    Attributes:
        rate: its own.
        seconds: its length as the header has it; None where the header does not say, as in a recorded live stream.
        blocks: (num_samples, channels) from the start.
    """

    rate: int
    seconds: float | None
    blocks: Iterator[Waveform]


@contextlib.contextmanager
def open_with_av(path: str | Path | IO[bytes], first_error: Exception) -> Iterator[AvFile]:
    """Open what libsndfile does not read.

    Args:
        path: file or handle.
        first_error: what libsndfile said, for the message.

    Raises:
        AudioError: `broken`; the blocks raise it as well, where they cannot be decoded.
    """
    import av

    try:
        with av.open(str(path) if isinstance(path, Path) else path, mode="r") as container:
            if not container.streams.audio or not container.streams.audio[0].rate:
                raise AudioError("broken", f"{_name(path)}: holds no audio.")
            seconds = container.duration / av.time_base if container.duration else None
            yield AvFile(int(container.streams.audio[0].rate), seconds, _av_blocks(container, path, first_error))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _undecodable(path, first_error, error) from error


def _av_blocks(container: Any, path: str | Path | IO[bytes], first_error: Exception) -> Iterator[Waveform]:
    import av

    stream = container.streams.audio[0]
    try:
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=int(stream.rate))
        for frame in container.decode(stream):
            for part in resampler.resample(frame):
                yield part.to_ndarray().T.astype(np.float32)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _undecodable(path, first_error, error) from error


def _undecodable(path: str | Path | IO[bytes], first_error: Exception, error: Exception) -> AudioError:
    return AudioError("broken", f"{_name(path)}: cannot be decoded ({first_error}; {error}).")


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
