"""What clients and server say to each other: the protocol of simulstream 1.0, and more for clients that ask for it.

Binary messages are audio: 16-bit samples, little-endian, mono. Text messages are JSON. A client says `sample_rate`,
`source_lang` and `target_lang`, sends audio, then `end_of_stream`; the server sends `new` and `deleted` text as it
comes, then `end_of_processing`. Another stream may follow. A client that sends `simulsa` chooses the operating point
there, and is told more. Source: simulstream 1.0.0, `server/websocket_server.py` and `message_processor.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, from_pcm16
from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import check_choice, short_repr

END_OF_STREAM, END_OF_PROCESSING = "end_of_stream", "end_of_processing"
SAMPLE_RATES = (8_000, 192_000)  # from, to
BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class StreamRequest:
    """What a client wants of a stream.

    Attributes:
        sample_rate: of its audio, Hz.
        source_language: instead of the recipe's; None or empty for that.
        target_language: likewise.
        detailed: the client takes messages with `simulsa`.
        point: name of an operating point of the recipe.
        keys: recipe keys of an operating point, instead of `point`.
        skip_late: see `LiveStream`.
    """

    sample_rate: int = SAMPLE_RATE
    source_language: str | None = None
    target_language: str | None = None
    detailed: bool = False
    point: str | None = None
    keys: Mapping[str, Any] | None = None
    skip_late: bool = False

    def updated(self, message: Mapping[str, Any]) -> StreamRequest:
        """Return the request with what a message says; keys that are unknown here are simulstream's own business.

        Raises:
            UsageError: a value is not allowed.
        """
        changes: dict[str, Any] = {}
        if "sample_rate" in message:
            changes["sample_rate"] = _sample_rate(message["sample_rate"])
        for name, field in (("source_lang", "source_language"), ("target_lang", "target_language")):
            if name in message:
                changes[field] = _typed(name, message[name], str, "the name or the code of a language") or None
        if "simulsa" in message:
            changes |= _own_changes(_typed("simulsa", message["simulsa"], dict, "a JSON object"))
        return dataclasses.replace(self, **changes)


def _own_changes(wanted: Mapping[str, Any]) -> dict[str, Any]:
    known = {"point": (str, "a name"), "keys": (dict, "a JSON object"), "skip_late": (bool, "true or false")}
    for name in wanted:
        check_choice("A key of simulsa", name, known)
    given = {name: _typed(name, value, *known[name]) for name, value in wanted.items() if value is not None}
    if "point" in given and "keys" in given:
        raise UsageError("simulsa has both point and keys; allowed: one of them.")
    return {"detailed": True, "point": None, "keys": None, "skip_late": False} | given


def _typed(name: str, value: Any, kind: type, allowed: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"{name} is {short_repr(value)}; allowed: {allowed}.")
    return value


def _sample_rate(value: Any) -> int:
    low, high = SAMPLE_RATES
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    if not whole or not low <= value <= high:
        raise UsageError(f"sample_rate is {short_repr(value)}; allowed: a whole number from {low} to {high}.")
    return int(value)


def read_message(text: str) -> dict[str, Any]:
    """Read a text message.

    Raises:
        UsageError: it is not a JSON object.
    """
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"A text message is {short_repr(text)}; allowed: JSON ({error}).") from error
    if not isinstance(message, dict):
        raise UsageError(f"A text message is {short_repr(text)}; allowed: a JSON object.")
    return message


def read_audio(message: bytes) -> Waveform:
    """Return the samples of binary messages, (num_samples,), as float ±1."""
    return from_pcm16(np.frombuffer(message, dtype="<i2"))


def check_audio(message: bytes) -> None:
    """Raise UsageError for half a sample."""
    if len(message) % BYTES_PER_SAMPLE:
        raise UsageError(f"An audio message has {len(message)} bytes; allowed: 16-bit samples, an even number.")


def write_message(message: Mapping[str, Any]) -> str:
    """Write a text message."""
    return orjson.dumps(message).decode()
