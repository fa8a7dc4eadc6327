"""Batched decoding of many sessions in order of audio time, and timed decoding of a single one."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulsa_plugin.errors import UsageError
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import AttentionHead
from simulsa_plugin.streaming.policies import Policy
from simulsa_plugin.streaming.scheduling import DecodingBatch, EncodedPrompts, SessionQueue
from simulsa_plugin.streaming.session import Session
from simulsa_plugin.streaming.steps import (
    BatchLimits,
    NextStep,
    StreamSource,
    advance_sessions,
    encode_heard,
    slide_window,
)

REFILL_SHARE = 0.25  # of a batch that may be left when others join it


@dataclass(frozen=True)
class DecodingSetting:
    """A policy and a chunk in ms (None for offline); its results are one cell of the evaluation."""

    policy: Policy
    chunk_ms: int | None


def choose_alignment_heads(
    model: AudioLanguageModel, settings: Sequence[DecodingSetting], load_sources: Callable[[], Sequence[StreamSource]]
) -> tuple[AttentionHead, ...]:
    """Set the attention heads that the policies need, before `decode_batched` or `decode_timed`.

    Args:
        model: see `decode_batched`.
        settings: see `decode_batched`.
        load_sources: called where a policy needs heads and names none; gives the utterances on which they are found,
            the same ones whenever an evaluation is started again.

    Returns:
        the heads; empty where no policy needs any.

    Raises:
        UsageError: two policies name different heads, or the model does not have them.
    """
    requested = {setting.policy.heads for setting in settings if setting.policy.heads is not None}
    if len(requested) > 1:
        raise UsageError("Policies name different attention heads; give all policies of one evaluation the same.")
    if not requested:
        return ()
    heads = requested.pop() or _find_heads(model, load_sources())
    model.set_alignment_heads(heads)
    return heads


def _find_heads(model: AudioLanguageModel, sources: Sequence[StreamSource]) -> tuple[AttentionHead, ...]:
    prompts = [model.render_prompt(source.prompt, source.first_window) for source in sources]
    return model.find_alignment_heads(prompts, [source.first_window for source in sources])


def decode_batched(
    model: AudioLanguageModel,
    sources: Sequence[StreamSource],
    settings: Sequence[DecodingSetting],
    limits: BatchLimits,
    *,
    on_step: Callable[[Session], object] = lambda session: None,
) -> list[list[Session]]:
    """Decode every source under every setting.

    Those with the least audio go next. So sessions of one batch have received about the same amount, and the sessions
    of an utterance share the prompt about what they have received.

    Args:
        model: generates greedily after forced prefixes.
        sources: utterances of 150 ms or more.
        settings: policies with chunks.
        limits: of a batch.
        on_step: called with every session that has completed a step, for progress.

    Returns:
        finished sessions, [setting][source].
    """
    sessions = [
        [source.new_session(u, s, setting.chunk_ms) for u, source in enumerate(sources)]
        for s, setting in enumerate(settings)
    ]
    queue = SessionQueue(session for row in sessions for session in row)
    encoded = EncodedPrompts(model, sources, limits.memory_bytes)
    batch = DecodingBatch(
        model, encoded, limits, lambda one: NextStep(one, sources[one.utterance], settings[one.setting].policy)
    )
    while (new := batch.admit(queue)) or batch.utterances:
        others_wait = bool(new and queue.first())
        completed = batch.advance(new, int(REFILL_SHARE * (len(batch) + len(new))) if others_wait else 0)
        for session in completed:
            on_step(session)
        queue.put((session for session in completed if not session.finished), decoding=batch.utterances)
        encoded.evict(row[u] for u in {session.utterance for session in completed} for row in sessions)
    return sessions


def decode_timed(
    model: AudioLanguageModel,
    source: StreamSource,
    setting: DecodingSetting,
    limits: BatchLimits,
    clock: Callable[[], float] = time.perf_counter,
) -> Session:
    """Decode one source under one setting as in live use, and measure how long every step takes.

    The time of a step covers everything after its audio has arrived: features, encoder, prompt, answer.

    Args:
        model: see `decode_batched`.
        source: see `decode_batched`.
        setting: see `decode_batched`.
        limits: see `decode_batched`.
        clock: gives seconds.

    Returns:
        the finished session, with `compute_ms` of every step.
    """
    session = source.new_session(0, 0, setting.chunk_ms)
    step = NextStep(session, source, setting.policy)
    while not session.finished:
        stop_clock = functools.partial(_milliseconds_since, clock(), clock)
        advance_sessions(model, [step], functools.partial(encode_heard, model), limits, stop_clock)
        slide_window(step, model)
    return session


def _milliseconds_since(start: float, clock: Callable[[], float]) -> float:
    return 1000 * (clock() - start)
