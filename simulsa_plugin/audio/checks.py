"""Refuse audio that is too long, too large or not audio before memory is spent on it."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from simulsa_plugin.errors import AudioError, StorageError

MISSING = "missing"  # the reason why a file that is not accessible cannot be used
MAX_DURATION_SECONDS = 6 * 3600.0  # a header that claims more is broken or hostile
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000  # likewise; a resampling filter grows with the rate
MAX_VALUES = 1 << 30  # samples times channels that are held at once, 4 GiB: 6 h of 48 kHz, or 3 h in stereo
MAX_AMPLITUDE = float(1 << 32)  # 1 is full scale; 32-bit integers that were stored as floats still pass
# The file's own: it does not exist, or not for us. Everything else the system may say is the system's.
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}


def cannot_read(name: str, error: OSError) -> AudioError | StorageError:
    """Tell what an OSError means: a file that is not accessible, or a system that fails.

    >>> print(cannot_read("a.wav", OSError(errno.EIO, "Input/output error")))
    Cannot read a.wav: Input/output error. This need not be the file's fault: repair the cause and start again.
    """
    if error.errno in _NOT_THERE:
        return AudioError(MISSING, f"{name}: cannot be opened ({error.strerror or error}).")
    return StorageError(
        f"Cannot read {name}: {error.strerror or error}. "
        "This need not be the file's fault: repair the cause and start again."
    )


def check_file(path: Path) -> None:
    """Raise AudioError unless a file with something in it is there: `missing` or `empty`.

    Raises:
        StorageError: the system cannot tell.
    """
    try:
        status = path.stat()
    except ValueError as error:
        raise AudioError(MISSING, f"{path}: cannot be opened ({error}).") from error
    except OSError as error:
        raise cannot_read(str(path), error) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise AudioError(MISSING, f"{path}: is not a regular file.")
    if status.st_size == 0:
        raise AudioError("empty", f"{path}: holds zero bytes.")


def check_length(seconds: float, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `too_long` for what is broken or hostile."""
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise AudioError("too_long", f"{name_of(path)}: {seconds:.0f} s; allowed: up to {MAX_DURATION_SECONDS:.0f} s.")


def check_size(num_values: int, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `too_long` for what would not fit into memory: samples times channels."""
    if not fits_memory(num_values):
        raise AudioError(
            "too_long",
            f"{name_of(path)}: more than {MAX_VALUES / 1e6:.0f} million samples in all channels together, which is "
            "what is held in memory at most. Split it.",
        )


def fits_memory(num_values: int) -> bool:
    """Return whether this number of samples times channels may be held at once."""
    return num_values <= MAX_VALUES


def check_rate(rate: int, path: str | Path | IO[bytes]) -> None:
    """Raise AudioError `broken` for a sample rate that no recording has."""
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            "broken", f"{name_of(path)}: {rate} Hz; allowed: from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz."
        )


def check_amplitude(samples: npt.NDArray[np.float32], name: str) -> None:
    """Raise AudioError `broken` unless `is_plausible`."""
    if not is_plausible(samples):
        raise AudioError("broken", f"{name}: holds NaN or infinite samples, or some beyond 2³² times full scale.")


def is_plausible(samples: npt.NDArray[np.float32]) -> bool:
    """Return whether no sample is NaN, infinite, or so large that its square soon is.

    >>> [is_plausible(np.array([[value]], dtype=np.float32)) for value in (-1, np.nan, np.inf, 1e30)]
    [True, False, False, False]
    """
    if not samples.size:
        return True
    return bool(samples.max() <= MAX_AMPLITUDE and samples.min() >= -MAX_AMPLITUDE)  # NaN is neither


def name_of(path: str | Path | IO[bytes]) -> str:
    """Return the name of a file or an open handle for messages."""
    return str(path) if isinstance(path, (str, Path)) else str(getattr(path, "name", "audio"))
