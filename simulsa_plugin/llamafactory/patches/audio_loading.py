"""Audio loading for LLaMA-Factory where torchaudio cannot read files.

Since version 2.9, `torchaudio.load` needs torchcodec and the system's FFmpeg libraries, even for WAV. LLaMA-Factory
0.9.5 reads audio in one module, `data.mm_plugin`, as `torchaudio.load(audio)`; `AudioReader` replaces torchaudio there.
Delete this module when LLaMA-Factory reads audio without torchaudio, or torchaudio again without FFmpeg.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from simulsa_plugin.audio.decoding import read_samples
from simulsa_plugin.audio.references import is_reference
from simulsa_plugin.audio.samples import SAMPLE_RATE, write_wav
from simulsa_plugin.errors import AudioError, SimulsaError

AudioSource = str | os.PathLike[str] | IO[bytes]


class AudioReader:
    """torchaudio with another `load`, which needs no FFmpeg, names the file in its errors, and reads references."""

    def __init__(self, torchaudio: Any) -> None:
        """Wrap `torchaudio`."""
        self._torchaudio = torchaudio
        self._needed: bool | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "_torchaudio":
            raise AttributeError(name)  # an incomplete copy (pickle) would recurse for ever
        return getattr(self._torchaudio, name)

    def load(self, source: AudioSource, *args: Any, **options: Any) -> tuple[torch.Tensor, int]:
        """Read (waveform (channels, num_samples), sample rate), with torchaudio where it works.

        Raises:
            SimulsaError: the file is missing, empty or broken; the message names it.
        """
        if self._needed is None:
            self._needed = not can_read_audio(self._torchaudio)
        if self._needed or is_reference(source):
            return load(source)
        try:
            waveform, sample_rate = self._torchaudio.load(source, *args, **options)
        except Exception as error:  # torchaudio's backends have no common error, and few name the file
            raise _cannot_read(f"{source}: {error}") from error
        if not torch.isfinite(waveform).all():
            raise _cannot_read(f"{source}: holds NaN or infinite samples.")
        return waveform, sample_rate


def can_read_audio(torchaudio: Any) -> bool:
    """Return whether torchaudio reads 10 ms of WAV; installed packages do not tell whether their libraries load."""
    pcm = np.arange(160, dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.wav"
        write_wav(path, pcm)
        try:
            waveform, sample_rate = torchaudio.load(str(path))
        except Exception:  # ImportError, RuntimeError, OSError …: the backends have no common error
            return False
    return sample_rate == SAMPLE_RATE and tuple(waveform.shape) == (1, len(pcm))


def load(source: AudioSource) -> tuple[torch.Tensor, int]:
    """Read audio as `torchaudio.load` does: (channels, num_samples) float32, full scale ±1, at the file's sample rate.

    Clips and recordings are decoded by the same function, `audio.decoding.read_samples`.

    Raises:
        SimulsaError: the file is missing, empty or broken, or cannot be read now; the message names it.
    """
    try:
        samples, sample_rate = read_samples(os.fspath(source) if isinstance(source, os.PathLike) else source)
    except AudioError as error:
        # Not the AudioError itself: worker processes pickle this, and an error with two arguments does not unpickle.
        raise _cannot_read(str(error)) from error
    return torch.from_numpy(np.ascontiguousarray(samples.T)), sample_rate


def _cannot_read(problem: str) -> SimulsaError:
    stop = "" if problem.endswith(".") else "."
    return SimulsaError(f"Cannot read audio: {problem}{stop} Repair it, or take its row out of the dataset.")
