"""Audio files to samples, by libsndfile, or FFmpeg where that cannot."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulsa_plugin.audio.checks import (
    cannot_read,
    check_amplitude,
    check_file,
    check_length,
    check_rate,
    check_size,
    name_of,
)
from simulsa_plugin.audio.references import is_reference, open_reference
from simulsa_plugin.audio.resampling import resample_waveform
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, average_channels, seconds_to_samples
from simulsa_plugin.errors import AudioError, StorageError

_UNKNOWN_COUNT = 1 << 62  # libsndfile's SF_COUNT_MAX, 2⁶³ − 1, and what lies near it
_BEGIN_OF_OGG_STREAM = re.compile(rb"OggS\0[\2\3\6\7]")  # a page with the flag "first page of a logical stream"
_BEGIN_LENGTH = 6
_SCAN_BYTES = 1 << 20
_BLOCK_SECONDS, _BLOCK_VALUES = 10, 1 << 24
# FFmpeg's names of containers that hold their own sound: no playlists, no image sequences, no raw samples.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,ircam,loas,matroska,webm,mov,mp4,mp3,mpc,"
    "mpc8,mpeg,mpegts,nistsphere,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,tta,voc,w64,wav,wsd,wv"
)
_ONE_FILE = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}  # "none" is the name of no protocol


def read_mono(path: str | Path | IO[bytes], sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Read a whole file as mono float32 at `sample_rate`.

    libsndfile reads wav, flac, ogg and opus; PyAV, which ships its own FFmpeg, reads the rest (mp3, m4a, webm …).
    Channels are averaged and the whole is resampled as in LLaMA-Factory, so that training hears the same samples.

    Returns:
        waveform (num_samples,), full scale ±1.

    Raises:
        AudioError: `missing`, `empty`, `broken` or `too_long`.
        StorageError: the system cannot read the file now: a failing disk, too many open files, too little memory.
    """
    samples, native_rate = read_samples(path)
    return resample_waveform(average_channels(samples), native_rate, sample_rate)


def read_samples(path: str | Path | IO[bytes]) -> tuple[npt.NDArray[np.float32], int]:
    """Decode a whole file: (samples (num_samples, channels) of full scale ±1, its own sample rate).

    Raises:
        AudioError: `missing`, `empty`, `broken` or `too_long`.
        StorageError: the system cannot read the file now.
    """
    with opened(path) as handle:
        try:
            with contextlib.closing(open_with_soundfile(handle)) as file:
                samples, rate = _gather(sound_blocks(file, handle), handle), int(file.samplerate)
        except NotForLibsndfile as reason:
            samples, rate = _read_with_av(handle, reason)
        if len(samples) == 0:
            raise AudioError("empty", f"{name_of(handle)}: holds no samples.")
        check_amplitude(samples, name_of(handle))
    return samples, rate


def _read_with_av(handle: IO[bytes], reason: NotForLibsndfile) -> tuple[npt.NDArray[np.float32], int]:
    with open_with_av(handle, reason) as file:
        return _gather(file.blocks, handle), file.rate


def _gather(blocks: Iterator[Waveform], handle: IO[bytes]) -> Waveform:
    """Join all blocks into one array. The actual data decides the memory, not what a header claims."""
    pieces, num_values = [], 0
    for block in blocks:
        num_values += block.size
        check_size(num_values, handle)
        pieces.append(block)
    return np.concatenate(pieces or [np.zeros((0, 1), dtype=np.float32)])


@contextlib.contextmanager
def opened(path: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """Open a file to decode it, or what a reference names; a handle is taken as it is.

    The decoders name no cause where the system refuses to read, so a failing disk looks like broken audio to them. It
    must not: an utterance would be dropped for good.

    Raises:
        AudioError: `missing` or `empty`; `broken`, where what is done meanwhile raises OSError for an invalid jump.
        StorageError: the system cannot read the file now, or has no memory for it.
    """
    try:
        if not isinstance(path, (str, Path)):
            yield path
            return
        if isinstance(path, str) and is_reference(path):
            with open_reference(path) as handle:
                yield handle
            return
        check_file(Path(path))
        # Without waiting: should a pipe take the file's place, opening it would wait for a writer for ever.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
            yield handle
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise AudioError("broken", f"{name_of(path)}: cannot be decoded ({error}).") from error
        raise cannot_read(name_of(path), error) from error
    except MemoryError as error:
        raise StorageError(
            f"There is not enough memory to read {name_of(path)}. Free some and start again, or take its row out."
        ) from error


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


def open_with_soundfile(handle: IO[bytes]) -> Any:
    """Open a file as a `soundfile.SoundFile` where libsndfile knows how many samples it holds.

    libsndfile reads no further than the count that it has on opening. That count is an estimate for MP3 (from the
    first frame, or a tag that speaks of the first of two joined files), covers only the first link of chained Ogg, and
    is unknown for a FLAC that was written to a pipe.

    Args:
        handle: of `opened`; it outlives the SoundFile, which does not close it.

    Raises:
        NotForLibsndfile: libsndfile does not read the file, or not all of it.
        AudioError: `too_long`, or `broken` for its sample rate.
    """
    import soundfile

    handle.seek(0)
    failures: tuple[type[Exception], ...] = (*soundfile_errors(), TypeError)  # TypeError: its name ends in .raw
    try:
        # By its number libsndfile reads a file without Python; a Ctrl-C inside a callback from C would be lost.
        source = handle.fileno() if isinstance(handle, io.FileIO) else handle
        file = soundfile.SoundFile(source, closefd=False)
    except failures as error:
        raise not_for_libsndfile(error, handle) from error
    try:
        _check_count(file, handle)
        check_rate(int(file.samplerate), handle)
        check_length(file.frames / file.samplerate, handle)
    except BaseException:
        file.close()
        raise
    return file


def sound_blocks(file: Any, handle: IO[bytes], seconds: float = _BLOCK_SECONDS) -> Iterator[Waveform]:
    """Read a file of libsndfile from where it stands to where it really ends, which its header may not know.

    Args:
        file: of `open_with_soundfile`.
        handle: the same file.
        seconds: of a block, at least a sample; less where there are very many channels.

    Yields:
        (num_samples, channels).

    Raises:
        NotForLibsndfile: it cannot be decoded.
        OSError: the system cannot read it.
    """
    file.seekable = lambda: False  # else soundfile jumps after each reading, to where it is
    length = max(1, min(seconds_to_samples(seconds, file.samplerate), _BLOCK_VALUES // int(file.channels)))
    try:
        while len(block := file.read(length, dtype="float32", always_2d=True)):
            yield block
    except soundfile_errors() as error:
        raise not_for_libsndfile(error, handle) from error


def soundfile_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that `soundfile` raises where libsndfile cannot go on."""
    import soundfile

    return soundfile.LibsndfileError, RuntimeError


def not_for_libsndfile(error: Exception, handle: IO[bytes]) -> NotForLibsndfile:
    """Return the error of libsndfile; it does not tell a system that cannot read a file from a file that is broken.

    Raises:
        OSError: the system cannot read the file.
    """
    handle.seek(0)
    while handle.read(_SCAN_BYTES):
        pass
    return NotForLibsndfile(getattr(error, "error_string", str(error)))  # without the prefix, a number of ours


def _check_count(file: Any, handle: IO[bytes]) -> None:
    if file.subtype.startswith("MPEG"):
        raise NotForLibsndfile("libsndfile estimates its length", is_mpeg=file.format == "MP3")
    if file.frames == 0:  # also a WAV whose recorder never went back to write the size
        raise NotForLibsndfile("its header counts no samples", is_empty=True)
    if file.format == "OGG" and _is_chained_ogg(handle):
        raise NotForLibsndfile("libsndfile reads the first of several streams")
    if file.frames >= _UNKNOWN_COUNT:
        raise NotForLibsndfile("its header does not count its samples")


def _is_chained_ogg(handle: IO[bytes]) -> bool:
    """Return whether a second logical stream begins in an Ogg file; joined files may even share a serial number."""
    position, found, chunk = handle.tell(), 0, b""
    handle.seek(0)
    while found < 2 and (more := handle.read(_SCAN_BYTES)):
        chunk = chunk[-_BEGIN_LENGTH + 1 :] + more
        found += len(_BEGIN_OF_OGG_STREAM.findall(chunk))
    handle.seek(position)
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
def open_with_av(handle: IO[bytes], reason: NotForLibsndfile) -> Iterator[AvFile]:
    """Open what libsndfile does not read, or not to its end.

    FFmpeg also knows playlists, which name other files and addresses. They are refused before any of that is opened:
    only containers that hold their own sound are allowed, and nothing besides the handle can be opened.

    Args:
        handle: of `opened`.
        reason: why not libsndfile.

    Raises:
        AudioError: `broken`; the blocks raise it as well, where they cannot be decoded, or `too_long`.
        OSError: the system cannot read the file; likewise.
    """
    import av

    handle.seek(0)
    try:
        # `container_options`: with `options`, PyAV crashes where a header announces fewer streams than there are (FLV).
        form = "mp3" if reason.is_mpeg else None
        with av.open(_unnamed(handle), "r", form, container_options=_ONE_FILE) as container:
            streams = container.streams.audio
            # Without a codec context FFmpeg has no decoder for it: an unknown format tag, or a sample of 0 bits.
            if not streams or streams[0].codec_context is None or not streams[0].rate:
                raise AudioError("broken", f"{name_of(handle)}: holds no audio that can be decoded ({reason}).")
            rate = int(streams[0].rate)
            check_rate(rate, handle)
            yield AvFile(rate, _av_blocks(container, rate, handle, reason))
    except (av.FFmpegError, ValueError) as error:
        raise _undecodable(handle, reason, error) from error


def _unnamed(handle: IO[bytes]) -> SimpleNamespace:
    """Return what FFmpeg may know of a file: content and ending; it takes `%d.png` for many pictures."""
    suffix = Path(name_of(handle)).suffix
    name = f"audio{suffix}" if suffix[1:].isalnum() else "audio"
    return SimpleNamespace(name=name, read=handle.read, seek=handle.seek, tell=handle.tell)


def _av_blocks(container: Any, rate: int, handle: IO[bytes], reason: NotForLibsndfile) -> Iterator[Waveform]:
    channels = total = 0
    for frame in _joined(_at_rate(_frames(container, handle, reason), rate)):
        block = _to_floats(frame)
        channels, total = channels or block.shape[1], total + len(block)
        check_length(total / rate, handle)
        yield block if block.shape[1] == channels else np.repeat(average_channels(block)[:, None], channels, axis=1)


def _frames(container: Any, handle: IO[bytes], reason: NotForLibsndfile) -> Iterator[Any]:
    """Yield the frames that FFmpeg decodes; a bare MPEG stream goes on after junk, such as tags of joined files."""
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
    except (av.FFmpegError, ValueError) as error:
        raise _undecodable(handle, reason, error) from error


def _at_rate(frames: Iterator[Any], rate: int) -> Iterator[Any]:
    """Yield frames at one sample rate: in joined files it may change, and FFmpeg resamples what comes at another."""
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
    """Yield frames of a second at least, of one kind each: Python spends more on a frame of 20 ms than its decoding."""
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
    """Convert to (num_samples, channels), full scale ±1."""
    samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.int16) - 128).astype(np.int8)
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _undecodable(handle: IO[bytes], reason: NotForLibsndfile, error: Exception) -> AudioError:
    if reason.is_empty:
        return AudioError("empty", f"{name_of(handle)}: holds no samples.")
    cause = getattr(error, "strerror", None) or error
    if getattr(error, "errno", None) == errno.EINVAL:  # also FFmpeg's word for what its whitelist lacks
        cause = "not a container of sound, but a playlist, raw samples or the like"
    return AudioError("broken", f"{name_of(handle)}: cannot be decoded ({str(reason).rstrip('.')}; {cause}).")
