"""A speech processor for simulstream 1.0: its inference, servers and clients run a recipe's model.

simulstream loads this module by the `type` of its YAML; nothing else imports it, and simulstream is not a dependency.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from simulstream.server.speech_processors import SAMPLE_RATE, SpeechProcessor
from simulstream.server.speech_processors.incremental_output import IncrementalOutput

from simulsa_plugin.agents.shared_system import shared_system
from simulsa_plugin.agents.simulstream_options import ProcessorOptions, read_options
from simulsa_plugin.api.live_system import LiveSystem
from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import SimulsaError, UsageError
from simulsa_plugin.live.stream import LiveStream
from simulsa_plugin.live.transcript import TextFollower

logger = logging.getLogger(__name__)


class SimulstreamProcessor(SpeechProcessor):  # type: ignore[misc]  # simulstream has no types
    """Decodes one stream at a time; all processors of a recipe share a model, and so do their batches.

    Tokens are latency units: words, or characters. A stream begins with its first chunk and ends with `end_of_stream`
    or with a chunk shorter than `speech_chunk_size`, which simulstream hands over at the end alone. Such an end is
    known in time, as in evaluation; and simulstream, which merges the last two outputs, would lose what the second one
    deletes if the first one writes nothing.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__(config)
        self._options, self._system = _load(config)
        self._stream: LiveStream | None = None
        self._follower = TextFollower()
        self._written = 0  # tokens that simulstream has, all streams since `clear`
        self._languages: dict[str, str] = {}
        self._separator = " " if self._system.settings.latency_unit == "word" else ""

    @classmethod
    def load_model(cls, config: SimpleNamespace) -> None:
        """Load the model, unless another processor has.

        Raises:
            SystemExit: the configuration or the recipe is wrong; the log says why in one line.
        """
        try:
            _load(config)
        except SimulsaError as error:
            logger.error("%s", error)
            raise SystemExit(error.exit_code) from error

    @property
    def speech_chunk_size(self) -> float:
        """Seconds of audio in a chunk."""
        cell = self._system.points[self._system.default_point]
        return self._options.speech_chunk_size or (cell.chunk_ms or 0) / 1000

    def set_source_language(self, language: str) -> None:
        """Name the spoken language of the streams that follow.

        Raises:
            UsageError: the language is unknown.
        """
        self._set_language("source_language", language)

    def set_target_language(self, language: str) -> None:
        """Name the language that the streams that follow are translated into.

        Raises:
            UsageError: the language is unknown, or the prompt has none such.
        """
        self._set_language("target_language", language)

    def process_chunk(self, waveform: Waveform) -> IncrementalOutput:
        """Decode the steps that are due with the next chunk, (num_samples,) at 16 kHz, and return what changed."""
        if self._stream is None:
            self._stream = self._new_stream()
            self._follower = TextFollower(only_committed=self._options.text == "committed")
        return self._advance(self._stream, waveform, final=len(waveform) < int(self.speech_chunk_size * SAMPLE_RATE))

    def end_of_stream(self) -> IncrementalOutput:
        """Decode what is left and return what changed."""
        if self._stream is None:
            return IncrementalOutput([], "", [], "")
        return self._advance(self._stream, np.zeros(0, dtype=np.float32), final=True)

    def tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join tokens, as simulstream's detokenizer `simuleval` does."""
        return self._separator.join(tokens)

    def clear(self) -> None:
        """Forget the stream, also in its middle, and the languages."""
        self._stream, self._written, self._languages = None, 0, {}

    def _new_stream(self) -> LiveStream:
        return self._system.new_stream(
            source_language=self._languages.get("source_language"),
            target_language=self._languages.get("target_language"),
        )

    def _advance(self, stream: LiveStream, waveform: Waveform, *, final: bool) -> IncrementalOutput:
        stream.push(waveform, final=final)
        while stream.due_steps:
            self._system.engine.advance(stream).result()
        if final:
            self._stream = None
        change = self._follower.change(stream.transcript)
        kept = self._written - len(change.deleted)
        self._written = kept + len(change.added)
        return IncrementalOutput(
            list(change.added), self._after(kept, change.added), list(change.deleted), self._after(kept, change.deleted)
        )

    def _after(self, kept: int, tokens: Sequence[str]) -> str:
        """Return the characters that tokens take after those that are kept; simulstream's web client appends them."""
        return (self._separator if kept and tokens else "") + self.tokens_to_string(tokens)

    def _set_language(self, name: str, language: str) -> None:
        languages = self._languages | {name: language}
        self._system.prompts.prompt(**languages)
        self._languages = languages
        if self._system.prompts.fixed is not None:
            _warn_of_fixed_prompt(name, language)


@functools.cache  # once is enough
def _warn_of_fixed_prompt(name: str, language: str) -> None:
    logger.warning(
        "The prompt is that of the recipe's dataset, so the client's %s %r changes nothing. "
        "Set simulsa_prompt to name languages.",
        name,
        language,
    )


def _load(config: SimpleNamespace) -> tuple[ProcessorOptions, LiveSystem]:
    options = read_options(config)
    system = shared_system(options.recipe, options.keys or {})
    unit = getattr(config, "latency_unit", system.settings.latency_unit)
    if unit != system.settings.latency_unit:
        raise UsageError(
            f"latency_unit is {unit!r}, and the recipe's unit is {system.settings.latency_unit!r}. "
            "Set both to the same; simulsa_unit is the recipe's key."
        )
    return options, system
