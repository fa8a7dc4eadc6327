"""Many sessions, advanced together through rounds of audio time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulsa_plugin.audio import Waveform
from simulsa_plugin.model import AudioLanguageModel, Prompt
from simulsa_plugin.streaming.policies import Policy
from simulsa_plugin.streaming.session import Session


@dataclass(frozen=True)
class Source:
    """One utterance to decode: its prompt and its waveform (num_samples,) at 16 kHz."""

    prompt: Prompt
    waveform: Waveform


@dataclass(frozen=True)
class Cell:
    """One setting: a policy and a chunk in ms; None for offline."""

    policy: Policy
    chunk_ms: int | None


def decode(
    model: AudioLanguageModel,
    sources: Sequence[Source],
    cells: Sequence[Cell],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_finished: Callable[[Session], object] = lambda session: None,
) -> list[list[Session]]:
    """Decode every source in every cell.

    The session that has heard least always goes next, so that sessions in one batch have heard about as much, and those
    that have heard exactly the same share its rendering.

    Args:
        model: greedy continuation of forced prefixes.
        sources: utterances of 150 ms or more.
        cells: settings.
        max_new_tokens: limit of one step.
        batch_size: sessions in one forward pass.
        on_finished: called with every session that has ended, for progress.

    Returns:
        finished sessions, [cell][source].
    """
    sessions = [
        [Session(u, c, len(source.waveform), cell.chunk_ms) for u, source in enumerate(sources)]
        for c, cell in enumerate(cells)
    ]
    queue = [_due(session) for row in sessions for session in row]
    heapq.heapify(queue)
    prompts = _PromptCache(model, sources)
    while queue:
        batch = [sessions[c][u] for _, u, c in (heapq.heappop(queue) for _ in range(min(batch_size, len(queue))))]
        _advance(model, batch, sources, cells, prompts, max_new_tokens)
        for session in batch:
            if session.finished:
                on_finished(session)
            else:
                heapq.heappush(queue, _due(session))
    return sessions


def _due(session: Session) -> tuple[int, int, int]:
    return session.due_samples, session.utterance, session.cell


def _advance(
    model: AudioLanguageModel,
    batch: Sequence[Session],
    sources: Sequence[Source],
    cells: Sequence[Cell],
    prompts: _PromptCache,
    max_new_tokens: int,
) -> None:
    """One step of every session in the batch."""
    heard = [session for session in batch if not session.only_reads]
    for session in batch:
        if session.only_reads:
            session.read()
    if not heard:
        return
    keep = [cells[session.cell].policy.prefix_length(session) for session in heard]
    continuations = model.continue_(
        [prompts.of(session) for session in heard],
        [sources[session.utterance].waveform[: session.due_samples] for session in heard],
        [session.token_ids[:length] for session, length in zip(heard, keep, strict=True)],
        max_new_tokens,
    )
    for session, length, continuation in zip(heard, keep, continuations, strict=True):
        committed = cells[session.cell].policy.committed(
            session, length + len(continuation.token_ids), session.last_step_is_due
        )
        session.advance(length, continuation, committed)


class _PromptCache:
    """Prompts of the audio heard last; sessions that have heard the same ask one after another."""

    def __init__(self, model: AudioLanguageModel, sources: Sequence[Source]) -> None:
        self._model, self._sources = model, sources
        self._key: tuple[int, int] | None = None
        self._prompt: tuple[int, ...] = ()

    def of(self, session: Session) -> tuple[int, ...]:
        """The prompt about what the session hears at its next step."""
        key = (session.utterance, session.due_samples)
        if key != self._key:
            source = self._sources[session.utterance]
            self._prompt = self._model.render_prompt(source.prompt, source.waveform[: session.due_samples])
            self._key = key
        return self._prompt
