"""`steps.jsonl`: the displayed and the committed text of a session after every step."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.metrics.delays import ShownStep, join_texts

STEPS = "steps.jsonl"
SEGMENT = "segment"  # key: number of the speech segment in its recording
LEFT = "left"  # key: text that left when the window of this step began


def read_sessions(paths: Iterable[Path]) -> Iterator[tuple[str, list[ShownStep]]]:
    """Yield (id, steps) of every session, from files of steps in order; a recording has one for each speech segment.

    Raises:
        LogError: a row lacks a key.
        StorageError: a file cannot be read.
    """
    for path in paths:
        for (identifier, _), rows in itertools.groupby(read_jsonl(path), lambda row: (row.get("id"), row.get(SEGMENT))):
            try:
                yield str(identifier), list(parse_session(rows))
            except KeyError as error:
                raise LogError(f"{path} has a row without {error.args[0]}. Run `simulsa-eval run` again.") from error


def group_recordings(
    sessions: Iterable[tuple[str, list[ShownStep]]],
) -> Iterator[tuple[str, list[list[ShownStep]]]]:
    """Yield (id, the sessions of its speech segments in order) of every recording, from `read_sessions`."""
    for identifier, group in itertools.groupby(sessions, key=lambda session: session[0]):
        yield identifier, [steps for _, steps in group]


def parse_session(rows: Iterable[Mapping[str, Any]]) -> Iterator[ShownStep]:
    """Yield the steps of a session's rows; texts that have left its window come before those of the window."""
    left = ""
    for row in rows:
        left = join_texts(left, row[LEFT]) if row.get(LEFT) else left
        step = parse_step(row)
        yield (
            dataclasses.replace(step, shown=join_texts(left, step.shown), committed=join_texts(left, step.committed))
            if left
            else step
        )


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
        row.get("looping", False),
    )
