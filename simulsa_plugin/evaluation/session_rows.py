"""Converts sessions to rows of `steps.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from simulsa_plugin.logs.steps import LEFT, SEGMENT
from simulsa_plugin.streaming.session import Decode, Step


def step_rows(
    identifier: str,
    steps: Sequence[Step],
    decode: Decode,
    left_token_ids: Sequence[Sequence[int]] = (),
    segment: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a session.

    Args:
        identifier: of the utterance, or of its recording.
        steps: of the session.
        decode: token ids to text, without special tokens.
        left_token_ids: tokens that left with each window of the session.
        segment: number of the utterance in its recording; None where it is a recording of its own.
    """
    window = 0
    for number, step in enumerate(steps, 1):
        row = {
            "id": identifier,
            **({} if segment is None else {SEGMENT: segment}),
            "step": number,
            "audio_ms": step.audio_ms,
            "token_ids": list(step.token_ids),
            "text": decode(step.token_ids).strip(),
            "committed_tokens": step.committed_tokens,
            "committed": decode(step.token_ids[: step.committed_tokens]),
            "finished": step.finished,
        }
        row |= {"truncated": True} if step.truncated else {}
        row |= {"looping": True} if step.looping else {}
        if step.window > window:
            row |= {LEFT: decode(left_token_ids[window]).strip()}
            window = step.window
        yield row | ({} if step.compute_ms is None else {"compute_ms": step.compute_ms})
