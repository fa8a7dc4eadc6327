"""Talks that `ReadingModel` reads, and a detector of speech that hears any sound."""

from pathlib import Path

import numpy as np
import pytest

from helpers.fakes import ASK
from helpers.reading_model import SCALE, WORD_SAMPLES, spoken, text_of
from simulsa_plugin.audio.samples import SAMPLE_RATE, to_pcm16, write_wav
from simulsa_plugin.evaluation import recordings
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.logs.steps import parse_session
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES, VoiceActivitySettings, find_speech, segment_arrivals
from simulsa_plugin.model.values import Sample
from simulsa_plugin.segments import ReferenceSegment
from simulsa_plugin.streaming.engine import decode_batched
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource
from simulsa_plugin.streaming.windows import SlidingWindow

BREATH = 0.13  # seconds: at least three frames of silence, and never the five that close a segment that slides
WINDOW = 5.0  # seconds: two sentences with the breath between them, and the first half of a third
SLIDING = VoiceActivitySettings(min_silence_ms=500, pad_ms=300, window_seconds=WINDOW, slides=True)
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


def spoken_talk(first=1):
    """A talk of 30 words from this number on, whose second paragraph is longer than the window."""
    parts = [_silence(1)]
    for paragraph in (sentences(first), sentences(*range(first + 5, first + 25, 5)), sentences(first + 25)):
        for number, words in enumerate(paragraph):
            parts += [_silence(BREATH)] * bool(number) + [spoken(words)]
        parts.append(_silence(1))
    return np.concatenate(parts)


def evaluated_steps(model, waveform, setting):
    """Steps in text, as evaluation of a whole recording gives them."""
    segments = find_speech(EnergyDetector().probabilities(waveform), len(waveform), SLIDING)
    sources = [
        StreamSource(
            ASK,
            waveform[each.start : each.end],
            lambda chunk, each=each: segment_arrivals(each, chunk * 16, len(waveform)),
            SlidingWindow(round(WINDOW * SAMPLE_RATE), each.pauses),
        )
        for each in segments
    ]
    (sessions,) = decode_batched(model, sources, [setting], BatchLimits(64, batch_size=4))
    return [
        step for one in sessions for step in parse_session(step_rows("", one.steps, model.decode, one.left_token_ids))
    ]


def evaluated_text(model, waveform, setting):
    """What is shown in the end."""
    return " ".join(step.shown for step in evaluated_steps(model, waveform, setting) if step.finished)


def _silence(seconds):
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
