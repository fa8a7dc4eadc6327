"""Reading, cropping and writing audio; the only place that turns seconds into samples."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from simulsa_plugin.errors import AudioError, StorageError
from simulsa_plugin.resampling import resample

SAMPLE_RATE = 16_000  # what LLaMA-Factory's audio processors take, and what clips are written in
MAX_DURATION_SECONDS = 6 * 3600.0  # a header that claims more is broken or hostile
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000  # likewise; a resampling filter grows with the rate
MAX_VALUES = 1 << 30  # samples times channels that are held at once, 4 GiB: 6 h of 48 kHz, or 3 h in stereo
MAX_AMPLITUDE = float(1 << 32)  # 1 is full scale; 32-bit integers that were stored as floats still pass
Waveform = npt.NDArray[np.float32]
_UNKNOWN_COUNT = 1 << 62  # libsndfile's SF_COUNT_MAX, 2⁶³ − 1, and what lies near it
_BEGIN_OF_OGG_STREAM = re.compile(rb"OggS\0[\2\3\6\7]")  # a page with the flag "first page of a logical stream"
_BEGIN_LENGTH = 6
_SCAN_BYTES = 1 << 20
_BLOCK_SECONDS, _BLOCK_VALUES = 10, 1 << 24
# The file's own: it does not exist, or not for us. Everything else the system may say is the system's.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
# FFmpeg's names of containers that hold their own sound: no playlists, no image sequences, no raw samples.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,gsm,ircam,loas,matroska,webm,mov,mp4,mp3,mpc,"
    "mpc8,mpeg,mpegts,nistsphere,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,tta,voc,w64,wav,wsd,wv"
)
_ONE_FILE = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}  # "none" is the name of no protocol


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
        StorageError: the system cannot read the file now: a failing disk, too many open files, too little memory.
    """
    samples, native_rate = read_samples(path)
    return resample(average_channels(samples), native_rate, sample_rate)


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
        StorageError: the system cannot read the file now.
    """
    with opened(path) as handle:
        try:
            with contextlib.closing(open_with_soundfile(handle)) as file:
                samples, rate = _gather(sound_blocks(file, handle), handle), int(file.samplerate)
        except NotForLibsndfile as reason:
            samples, rate = _read_with_av(handle, reason)
        if len(samples) == 0:
            raise AudioError("empty", f"{_name(handle)}: holds no samples.")
        check_amplitude(samples, _name(handle))
    return samples, rate


def _read_with_av(handle: IO[bytes], reason: NotForLibsndfile) -> tuple[npt.NDArray[np.float32], int]:
    with open_with_av(handle, reason) as file:
        return _gather(file.blocks, handle), file.rate


def _gather(blocks: Iterator[Waveform], handle: IO[bytes]) -> Waveform:
    """All blocks as one array. What is really there decides the memory, not what a header claims."""
    pieces, num_values = [], 0
    for block in blocks:
        num_values += block.size
        check_size(num_values, handle)
        pieces.append(block)
    return np.concatenate(pieces or [np.zeros((0, 1), dtype=np.float32)])


@contextlib.contextmanager
def opened(path: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """Open a file to decode it; a handle is taken as it is.

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
        check_file(Path(path))
        # Without waiting: should a pipe take the file's place, opening it would wait for a writer for ever.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
            yield handle
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise AudioError("broken", f"{_name(path)}: cannot be decoded ({error}).") from error
        raise cannot_read(_name(path), error) from error
    except MemoryError as error:
        raise StorageError(
            f"There is not enough memory to read {_name(path)}. Free some and start again, or take its row out."
        ) from error


def cannot_read(name: str, error: OSError) -> AudioError | StorageError:
    """What an OSError means: a file that is not there for us, or a system that fails.

    >>> print(cannot_read("a.wav", OSError(errno.EIO, "Input/output error")))
    Cannot read a.wav: Input/output error. This need not be the file's fault: repair the cause and start again.
    """
    if error.errno in _NOT_THERE:
        return AudioError("missing", f"{name}: cannot be opened ({error.strerror or error}).")
    return StorageError(
        f"Cannot read {name}: {error.strerror or error}. "
        "This need not be the file's fault: repair the cause and start again."
    )


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
    length = max(1, min(round(seconds * file.samplerate), _BLOCK_VALUES // int(file.channels)))
    try:
        while len(block := file.read(length, dtype="float32", always_2d=True)):
            yield block
    except soundfile_errors() as error:
        raise not_for_libsndfile(error, handle) from error


def soundfile_errors() -> tuple[type[Exception], ...]:
    """What `soundfile` raises where libsndfile cannot go on."""
    import soundfile

    return soundfile.LibsndfileError, RuntimeError


def not_for_libsndfile(error: Exception, handle: IO[bytes]) -> NotForLibsndfile:
    """Why libsndfile failed; it does not tell a system that cannot read a file from a file that is broken.

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
    """Whether a second logical stream begins anywhere in an Ogg file; joined files may even share a serial number."""
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
                raise AudioError("broken", f"{_name(handle)}: holds no audio that can be decoded ({reason}).")
            rate = int(streams[0].rate)
            check_rate(rate, handle)
            yield AvFile(rate, _av_blocks(container, rate, handle, reason))
    except (av.FFmpegError, ValueError) as error:
        raise _undecodable(handle, reason, error) from error


def _unnamed(handle: IO[bytes]) -> SimpleNamespace:
    """What FFmpeg may know of a file: what is in it and how its name ends; it takes `%d.png` for many pictures."""
    suffix = Path(_name(handle)).suffix
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
    except (av.FFmpegError, ValueError) as error:
        raise _undecodable(handle, reason, error) from error


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


def _undecodable(handle: IO[bytes], reason: NotForLibsndfile, error: Exception) -> AudioError:
    if reason.is_empty:
        return AudioError("empty", f"{_name(handle)}: holds no samples.")
    cause = getattr(error, "strerror", None) or error
    if getattr(error, "errno", None) == errno.EINVAL:  # also FFmpeg's word for what its whitelist lacks
        cause = "not a container of sound, but a playlist, raw samples or the like"
    return AudioError("broken", f"{_name(handle)}: cannot be decoded ({str(reason).rstrip('.')}; {cause}).")


def check_file(path: Path) -> None:
    """Raise AudioError unless a file with something in it is there: `missing` or `empty`.

    Raises:
        StorageError: the system cannot tell.
    """
    try:
        status = path.stat()
    except ValueError as error:
        raise AudioError("missing", f"{path}: cannot be opened ({error}).") from error
    except OSError as error:
        raise cannot_read(str(path), error) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise AudioError("missing", f"{path}: is not a regular file.")
    if status.st_size == 0:
        raise AudioError("empty", f"{path}: holds zero bytes.")


def check_length(seconds: float, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `too_long` for what is broken or hostile."""
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise AudioError("too_long", f"{_name(path)}: {seconds:.0f} s; allowed: up to {MAX_DURATION_SECONDS:.0f} s.")


def check_size(num_values: int, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `too_long` for what would not fit into memory: samples times channels."""
    if not fits_memory(num_values):
        raise AudioError(
            "too_long",
            f"{_name(path)}: more than {MAX_VALUES / 1e6:.0f} million samples in all channels together, which is what "
            "is held in memory at most. Split it.",
        )


def fits_memory(num_values: int) -> bool:
    """Whether so many samples times channels may be held at once."""
    return num_values <= MAX_VALUES


def check_rate(rate: int, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `broken` for a sample rate that no recording has."""
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            "broken", f"{_name(path)}: {rate} Hz; allowed: from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz."
        )


def check_amplitude(samples: npt.NDArray[np.float32], name: str) -> None:
    """Raise AudioError `broken` unless `is_plausible`."""
    if not is_plausible(samples):
        raise AudioError("broken", f"{name}: holds NaN or infinite samples, or some beyond 2³² times full scale.")


def is_plausible(samples: npt.NDArray[np.float32]) -> bool:
    """Whether no sample is NaN, infinite, or so large that its square soon is.

    >>> [is_plausible(np.array([[value]], dtype=np.float32)) for value in (-1, np.nan, np.inf, 1e30)]
    [True, False, False, False]
    """
    if not samples.size:
        return True
    return bool(samples.max() <= MAX_AMPLITUDE and samples.min() >= -MAX_AMPLITUDE)  # NaN is neither


def _name(path: str | Path | IO[bytes]) -> str:
    return str(path) if isinstance(path, (str, Path)) else str(getattr(path, "name", "audio"))
