"""`steps.jsonl`: the displayed and the committed text of a session after every step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.metrics.delays import ShownStep

STEPS = "steps.jsonl"


def read_sessions(paths: Iterable[Path]) -> Iterator[tuple[str, list[ShownStep]]]:
    """Yield (id, steps) of every utterance, from files of steps in order.

    Raises:
        LogError: a row lacks a key.
        StorageError: a file cannot be read.
    """
    for path in paths:
        for identifier, rows in itertools.groupby(read_jsonl(path), key=lambda row: row.get("id")):
            try:
                yield str(identifier), [parse_step(row) for row in rows]
            except KeyError as error:
                raise LogError(f"{path} has a row without {error.args[0]}. Run `simulsa-eval run` again.") from error


def parse_step(row: Mapping[str, Any]) -> ShownStep:
    """Parse a row of `steps.jsonl`.

    Raises:
        LogError: its text is missing.
        KeyError: another key is missing.
    """
    if not isinstance(row["text"], str) or not isinstance(row["committed"], str):
        raise LogError("A row of steps has no text. Run `simulsa-eval run` again.")
    return ShownStep(
        row["audio_ms"],
        row["text"],
        row["committed"],
        row["finished"],
        row.get("compute_ms"),
        row.get("truncated", False),
    )
