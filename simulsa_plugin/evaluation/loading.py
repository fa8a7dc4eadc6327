"""Rows of a test set to what the engine decodes, or the reason why one cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import AudioError, ModelError
from simulsa_plugin.evaluation.recordings import SpeechUtterance, load_utterances
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.streaming.session import MIN_DECODED_MS, SAMPLES_PER_MS
from simulsa_plugin.streaming.steps import StreamSource

DecodedRow = Sample | UnusableRow | SpeechUtterance


def load_sources(model: AudioLanguageModel, rows: Sequence[DecodedRow]) -> Iterator[StreamSource | str]:
    """Load rows as `load_rows` does, and check their prompts."""
    return (check_prompt(model, loaded) for loaded in load_rows(rows))


def load_rows(rows: Sequence[DecodedRow]) -> Iterator[StreamSource | str]:
    """Load rows, or speech segments of recordings; a recording is read once for those that stand together.

    Yields:
        what the engine decodes, or why the row cannot be decoded.
    """
    segments = [row for row in rows if isinstance(row, SpeechUtterance)]
    whole = (row for row in rows if not isinstance(row, SpeechUtterance))
    yield from load_utterances(segments) if segments else map(_load_row, whole)


def load_waveform(audio: str) -> Waveform | str:
    """Load an audio file, or return the reason why it cannot be decoded."""
    try:
        waveform = read_mono(audio)
    except AudioError as error:
        return f"audio_{error.reason}"
    return waveform if len(waveform) >= MIN_DECODED_MS * SAMPLES_PER_MS else "too_short"


def _load_row(row: Sample | UnusableRow) -> StreamSource | str:
    if isinstance(row, UnusableRow):
        return row.reason
    waveform = load_waveform(row.audio)
    return waveform if isinstance(waveform, str) else StreamSource(row.prompt, waveform)


def check_prompt(model: AudioLanguageModel, source: StreamSource | str) -> StreamSource | str:
    """Return a source, or why it cannot be decoded: the template refuses its prompt."""
    if isinstance(source, str):
        return source
    try:
        model.render_prompt(source.prompt, source.first_window)
    except ModelError:
        return "not_renderable"
    return source
