"""Audio for LLaMA-Factory on machines where torchaudio cannot read any.

From version 2.9 on, `torchaudio.load` needs torchcodec and the system's FFmpeg libraries, even for WAV. LLaMA-Factory
reads audio in one place, `data.mm_plugin`, as `torchaudio.load(audio)`; `AudioReader` stands in for torchaudio there.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from simulsa_plugin.audio.decoding import read_samples
from simulsa_plugin.audio.samples import SAMPLE_RATE, write_wav
from simulsa_plugin.errors import AudioError, SimulsaError

Source = str | os.PathLike[str] | IO[bytes]


class AudioReader:
    """torchaudio as `mm_plugin` sees it: with a `load` that works here and names its file, and the rest as it is."""

    def __init__(self, torchaudio: Any) -> None:
        """Stand in for `torchaudio`."""
        self._torchaudio = torchaudio
        self._needed: bool | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "_torchaudio":
            raise AttributeError(name)  # a half-built copy (pickle) would ask for it for ever
        return getattr(self._torchaudio, name)

    def load(self, source: Source, *args: Any, **options: Any) -> tuple[torch.Tensor, int]:
        """Read (waveform (channels, num_samples), sample rate), by torchaudio where it can read at all.

        Raises:
            SimulsaError: the file is missing, empty or broken; it is named.
        """
        if self._needed is None:
            self._needed = not can_read_audio(self._torchaudio)
        if self._needed:
            return load(source)
        try:
            waveform, sample_rate = self._torchaudio.load(source, *args, **options)
        except Exception as error:  # torchaudio's backends agree on no error, and few of them say which file it was
            raise _cannot_read(f"{source}: {error}") from error
        if not torch.isfinite(waveform).all():
            raise _cannot_read(f"{source}: holds NaN or infinite samples.")
        return waveform, sample_rate


def can_read_audio(torchaudio: Any) -> bool:
    """Try it on 10 ms of WAV: what is installed does not tell whether the libraries behind it load."""
    pcm = np.arange(160, dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.wav"
        write_wav(path, pcm)
        try:
            waveform, sample_rate = torchaudio.load(str(path))
        except Exception:  # ImportError, RuntimeError, OSError …: torchaudio's backends agree on no error
            return False
    return sample_rate == SAMPLE_RATE and tuple(waveform.shape) == (1, len(pcm))


def load(source: Source) -> tuple[torch.Tensor, int]:
    """Read audio as `torchaudio.load` does: (channels, num_samples) float32, full scale ±1, at the file's own rate.

    Clips and recordings are decoded in the same way, see `audio.decoding.read_samples`.

    Raises:
        SimulsaError: the file is missing, empty or broken, or the system cannot read it now; it is named.
    """
    try:
        samples, sample_rate = read_samples(os.fspath(source) if isinstance(source, os.PathLike) else source)
    except AudioError as error:
        # Not the AudioError itself: worker processes send this to their parent, and two arguments do not unpickle.
        raise _cannot_read(str(error)) from error
    return torch.from_numpy(np.ascontiguousarray(samples.T)), sample_rate


def _cannot_read(problem: str) -> SimulsaError:
    stop = "" if problem.endswith(".") else "."
    return SimulsaError(f"Cannot read audio: {problem}{stop} Repair it, or take its row out of the dataset.")
