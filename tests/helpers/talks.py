"""Talks that `ReadingModel` reads, and a detector of speech that hears any sound."""

from pathlib import Path

import numpy as np
import pytest

from helpers.fakes import ASK
from helpers.reading_model import SCALE, WORD_SAMPLES, spoken, text_of
from simulsa_plugin.audio.samples import SAMPLE_RATE, to_pcm16, write_wav
from simulsa_plugin.evaluation import recordings
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES
from simulsa_plugin.model.values import Sample
from simulsa_plugin.segments import ReferenceSegment

BREATH = 0.13  # seconds: at least three frames of silence, and never the five that close a segment that slides
WINDOW = 5.0  # seconds: two sentences with the breath between them, and the first half of a third
VOICE_ACTIVITY = {"vad_min_silence_ms": 500, "vad_pad_ms": 300, "window_seconds": WINDOW}


class EnergyDetector:
    """Takes every frame that is not silent for speech."""

    def reset(self):
        pass

    def probabilities(self, waveform):
        padded = np.pad(waveform, (0, -len(waveform) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
        return (np.abs(padded).max(axis=1) > SCALE / 2).astype(np.float32)


@pytest.fixture
def energy_detector(monkeypatch):
    """No Silero VAD."""
    monkeypatch.setattr(recordings, "SpeechDetector", EnergyDetector)


def sentences(*starts):
    """Sentences of five numbered words, by their first word."""
    return [range(start, start + 5) for start in starts]


def write_talk(path, *paragraphs, lead=1.0, pause=0.8, row=0):
    """A row whose recording has `lead` and, after each paragraph, `pause` seconds of silence; a segment a sentence."""
    parts, segments, position = [_silence(lead)], [], len(_silence(lead))
    for paragraph in paragraphs:
        for number, words in enumerate(paragraph):
            parts += [_silence(BREATH)] if number else []
            position += len(parts[-1]) if number else 0
            segments.append(
                ReferenceSegment(position / SAMPLE_RATE, len(words) * WORD_SAMPLES / SAMPLE_RATE, text_of(words))
            )
            parts.append(spoken(words))
            position += len(parts[-1])
        parts.append(_silence(pause))
        position += len(parts[-1])
    write_wav(Path(path), to_pcm16(np.concatenate(parts)))
    return Sample(row, ASK, " ".join(one.reference for one in segments), str(path), segments=tuple(segments))


def write_talks(folder):
    """Three talks of 3, 2 and 1 paragraphs; one of 6 sentences is longer than the window."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = (
        (sentences(1), sentences(6, 11, 16, 21, 26, 31), sentences(36)),
        (sentences(41, 46), sentences(51)),
        (sentences(61),),
    )
    return [write_talk(folder / f"{row}.wav", *plan, row=row) for row, plan in enumerate(plans)]


def _silence(seconds):
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
