"""English speech with word times, through the espeak-ng library that the `espeakng-loader` package carries."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, from_pcm16
from simulsa_plugin.errors import SimulsaError

VOICES = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = ("", "m1", "m3", "m7", "f1", "f2", "f3", "f4")
_OUTPUT_SYNCHRONOUS, _DONT_EXIT, _UTF8, _EVENT_WORD = 2, 0x8000, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4


@dataclass(frozen=True)
class Voice:
    """How a sentence is spoken: espeak-ng's voice and variant, words per minute, pitch and pitch range (0–100)."""

    name: str
    words_per_minute: int
    pitch: int
    pitch_range: int


@dataclass(frozen=True)
class Speech:
    """A spoken sentence.

    Attributes:
        waveform: (num_samples,) at 16 kHz, starting with the first word and ending with the last.
        word_ends: seconds at which each word has been spoken; not decreasing.
    """

    waveform: Waveform
    word_ends: tuple[float, ...]


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Synthesizer:
    """The espeak-ng library.

    It keeps one global state, noise generator included, that no call resets: the same sequence of sentences after the
    same seed *in a fresh process* gives the same samples, and nothing less does.
    """

    def __init__(self, seed: int) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data_path = espeakng_loader.get_data_path().encode()
        self._native_rate = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, _DONT_EXIT)
        if self._native_rate <= 0:
            raise SimulsaError("espeak-ng cannot find its voices. Reinstall the package espeakng-loader.")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._blocks: list[npt.NDArray[np.int16]] = []
        self._onsets: dict[int, float] = {}  # text position → seconds
        self._callback = _Callback(self._receive)  # kept: ctypes frees what nobody holds
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        position = 0
        while events[position].type != 0:
            event = events[position]
            if event.type == _EVENT_WORD:
                self._onsets.setdefault(event.text_position - 1, event.audio_position / 1000)
            position += 1
        return 0

    def speak(self, words: Sequence[str], voice: Voice) -> Speech:
        """Speak words with one voice.

        Raises:
            SimulsaError: espeak-ng has no such voice or made no sound.
        """
        self._blocks, self._onsets = [], {}
        text = " ".join(words)
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise SimulsaError(f"espeak-ng has no voice {voice.name!r}.")
        for parameter, value in ((_RATE, voice.words_per_minute), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._blocks:
            raise SimulsaError(f"espeak-ng made no sound for {text!r}.")
        import soxr  # not the plugin's resampling: the demo's audio, and all that was measured on it, stays as it is

        waveform = from_pcm16(np.concatenate(self._blocks))
        at_16_khz = soxr.resample(waveform, self._native_rate, SAMPLE_RATE, quality="HQ")
        return self._trimmed(np.ascontiguousarray(at_16_khz, dtype=np.float32), words)

    def _trimmed(self, waveform: Waveform, words: Sequence[str]) -> Speech:
        """Cut the silence at both ends; a word ends where the next one with an onset begins."""
        loud = np.flatnonzero(np.abs(waveform) > 1e-3)
        first, last = int(loud[0]), int(loud[-1]) + 1
        duration = (last - first) / SAMPLE_RATE
        ends: list[float] = []
        position = len(" ".join(words))
        next_onset = duration
        for word in reversed(words):
            position -= len(word)
            ends.append(next_onset)
            onset = self._onsets.get(position)  # espeak-ng joins some pairs ("of the"); they end together
            if onset is not None:
                next_onset = min(max(onset - first / SAMPLE_RATE, 0.0), next_onset)
            position -= 1
        return Speech(waveform[first:last], tuple(reversed(ends)))


def sample_voice(rng: np.random.Generator) -> Voice:
    """Draw a voice: accent, speaker variant, 165–235 words per minute, pitch and range."""
    variant = VARIANTS[int(rng.integers(len(VARIANTS)))]
    accent = VOICES[int(rng.integers(len(VOICES)))]
    return Voice(
        name=f"{accent}+{variant}" if variant else accent,
        words_per_minute=int(rng.integers(165, 236)),
        pitch=int(rng.integers(25, 76)),
        pitch_range=int(rng.integers(30, 71)),
    )
