"""`steps.jsonl`: what a session showed and had committed after every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError
from simulsa_plugin.files.json_files import read_jsonl
from simulsa_plugin.streaming.session import Step

STEPS = "steps.jsonl"


@dataclass(frozen=True)
class ShownStep:
    """One step of a session in text.

    Attributes:
        audio_ms: milliseconds of source heard.
        shown: the text on the screen.
        committed: the part of it that will not change, white space at its end included.
        finished: the whole utterance has been heard.
        compute_ms: milliseconds that the step took; None where it was not measured, or the step only read.
        truncated: the limit on new tokens came before the end of turn.
    """

    audio_ms: float
    shown: str
    committed: str
    finished: bool
    compute_ms: float | None = None
    truncated: bool = False


def step_rows(
    identifier: str, steps: Sequence[Step], decode: Callable[[Sequence[int]], str]
) -> Iterator[dict[str, Any]]:
    """The rows of a session.

    Args:
        identifier: of the utterance.
        steps: of the session.
        decode: token ids to text, special tokens left out.
    """
    for number, step in enumerate(steps, 1):
        row = {
            "id": identifier,
            "step": number,
            "audio_ms": step.audio_ms,
            "token_ids": list(step.token_ids),
            "text": decode(step.token_ids).strip(),
            "committed_tokens": step.committed_tokens,
            "committed": decode(step.token_ids[: step.committed_tokens]),
            "finished": step.finished,
        }
        row |= {"truncated": True} if step.truncated else {}
        yield row | ({} if step.compute_ms is None else {"compute_ms": step.compute_ms})


def shown_steps(steps: Sequence[Step], decode: Callable[[Sequence[int]], str]) -> list[ShownStep]:
    """The steps of a session in text; `decode` as for `step_rows`."""
    return [_shown_step(row) for row in step_rows("", steps, decode)]


def read_sessions(paths: Iterable[Path]) -> Iterator[tuple[str, list[ShownStep]]]:
    """(id, steps) of every utterance, from files of steps in order.

    Raises:
        LogError: a row is not one of ours.
        StorageError: a file cannot be read.
    """
    for path in paths:
        for identifier, rows in itertools.groupby(read_jsonl(path), key=lambda row: row.get("id")):
            try:
                yield str(identifier), [_shown_step(row) for row in rows]
            except KeyError as error:
                raise LogError(f"{path} has a row without {error.args[0]}. Run `simulsa-eval run` again.") from error


def _shown_step(row: Mapping[str, Any]) -> ShownStep:
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
