"""Many sessions, advanced together through rounds of audio time; or one alone, with a stopwatch."""

from __future__ import annotations

import functools
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import UsageError
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import Continuation, Head, Prompt, Request
from simulsa_plugin.streaming.policies import Policy
from simulsa_plugin.streaming.session import Output, Session

Key = tuple[int, int]  # (utterance, samples heard)


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


@dataclass(frozen=True)
class Limits:
    """What a batch may take.

    Attributes:
        max_new_tokens: of one step of one session.
        batch_size: sessions in one batch.
        memory_bytes: of keys and values, were every session of a batch as long as its longest one and to reach
            `max_new_tokens`; and, at another time, of the audio encoder. A batch of one is always allowed.
    """

    max_new_tokens: int = 256
    batch_size: int = 64
    memory_bytes: float = 4e9


def watch_heads(
    model: AudioLanguageModel, cells: Sequence[Cell], some: Callable[[], Sequence[Source]]
) -> tuple[Head, ...]:
    """Tell the model of the attention heads that policies ask for, before `decode` and `decode_alone`.

    Args:
        model: see `decode`.
        cells: settings.
        some: gives utterances about which heads are found where no policy names any, the same ones whenever an
            evaluation is started again; asked only then.

    Returns:
        the heads; none where no policy asks for any.

    Raises:
        UsageError: two policies name different heads, or the model does not have them.
    """
    asked = {cell.policy.heads for cell in cells if cell.policy.heads is not None}
    if len(asked) > 1:
        raise UsageError("Policies name different attention heads; one evaluation has the same for all of them.")
    if not asked:
        return ()
    heads = asked.pop() or _found_heads(model, some())
    model.watch_heads(heads)
    return heads


def _found_heads(model: AudioLanguageModel, sources: Sequence[Source]) -> tuple[Head, ...]:
    prompts = [model.render_prompt(source.prompt, source.waveform) for source in sources]
    return model.find_heads(prompts, [source.waveform for source in sources])


def decode(
    model: AudioLanguageModel,
    sources: Sequence[Source],
    cells: Sequence[Cell],
    limits: Limits,
    *,
    on_finished: Callable[[Session], object] = lambda session: None,
) -> list[list[Session]]:
    """Decode every source in every cell.

    The session that has heard least always goes next. So sessions in one batch have heard about as much, and what the
    model makes of an utterance at a time is made once, for all sessions that have heard exactly that.

    Args:
        model: greedy continuation of forced prefixes.
        sources: utterances of 150 ms or more.
        cells: settings.
        limits: of a batch.
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
    heard = _Heard(model, sources, limits.memory_bytes)
    while queue:
        batch = _next_batch(queue, sessions, heard, limits)
        _advance(model, batch, cells, heard, limits)
        for session in batch:
            if session.finished:
                on_finished(session)
            else:
                heapq.heappush(queue, _due(session))
        heard.forget(row[u] for u in {session.utterance for session in batch} for row in sessions)
    return sessions


def decode_alone(
    model: AudioLanguageModel,
    source: Source,
    cell: Cell,
    limits: Limits,
    clock: Callable[[], float] = time.perf_counter,
) -> Session:
    """Decode one source in one cell, as a user would have it decoded, and measure how long every step takes.

    A step is everything that has to happen once its audio has arrived: features, encoder, prompt, answer.

    Args:
        model: see `decode`.
        source: see `decode`.
        cell: see `decode`.
        limits: see `decode`.
        clock: seconds.

    Returns:
        the finished session, with `compute_ms` of every step.
    """
    session = Session(0, 0, len(source.waveform), cell.chunk_ms)
    while not session.finished:
        if session.only_reads:
            session.read()
            continue
        start = clock()
        request = _request(session, cell.policy, model, limits)
        waveform = source.waveform[: session.due_samples]
        prompts = model.read([model.render_prompt(source.prompt, waveform)], [waveform])
        (continuation,) = model.continue_(prompts, [request])
        _take(session, cell.policy, model, request, continuation, functools.partial(_milliseconds_since, start, clock))
    return session


def _milliseconds_since(start: float, clock: Callable[[], float]) -> float:
    return 1000 * (clock() - start)


def _due(session: Session) -> tuple[int, int, int]:
    return session.due_samples, session.utterance, session.cell


def _next_batch(
    queue: list[tuple[int, int, int]], sessions: Sequence[Sequence[Session]], heard: _Heard, limits: Limits
) -> list[Session]:
    """Sessions that have heard least, as many as the limits allow."""
    batch: list[Session] = []
    decoded = longest_prompt = longest_said = 0
    while queue and len(batch) < limits.batch_size:
        _, utterance, cell = queue[0]
        session = sessions[cell][utterance]
        if not session.only_reads:
            decoded += 1
            longest_prompt = max(longest_prompt, heard.prompt_length(session))
            longest_said = max(longest_said, len(session.outputs[-1]) if session.outputs else 0)
            length = longest_prompt + longest_said + limits.max_new_tokens  # a batch is as wide as its longest rows
            if batch and decoded * length * heard.bytes_per_token > limits.memory_bytes:
                break
        heapq.heappop(queue)
        batch.append(session)
    return batch


def _advance(
    model: AudioLanguageModel, batch: Sequence[Session], cells: Sequence[Cell], heard: _Heard, limits: Limits
) -> None:
    """One step of every session in the batch."""
    decoded = [session for session in batch if not session.only_reads]
    for session in batch:
        if session.only_reads:
            session.read()
    if not decoded:
        return
    policies = [cells[session.cell].policy for session in decoded]
    requests = [_request(session, policy, model, limits) for session, policy in zip(decoded, policies, strict=True)]
    continuations = model.continue_(heard.by(decoded), requests)
    for step in zip(decoded, policies, requests, continuations, strict=True):
        session, policy, request, continuation = step
        _take(session, policy, model, request, continuation)


def _request(session: Session, policy: Policy, model: AudioLanguageModel, limits: Limits) -> Request:
    """What the model is asked for at the next step; what it said before, and must not keep, is the draft."""
    length = policy.prefix_length(session)
    if not 0 <= length <= len(session.token_ids):
        raise _nonsense(policy, f"wants {length} tokens kept of {len(session.token_ids)} that were shown")
    said = session.outputs[-1] if session.outputs else ()
    prefix = session.token_ids[:length]
    draft = said[length:] if said[:length] == prefix else ()
    if session.last_step_is_due:
        return Request(prefix, draft, max_new_tokens=limits.max_new_tokens)
    return Request(
        prefix,
        draft,
        policy.confidence(session),
        policy.recent(session),
        policy.enough(session, model.decode),
        limits.max_new_tokens,
    )


def _take(
    session: Session,
    policy: Policy,
    model: AudioLanguageModel,
    request: Request,
    continuation: Continuation,
    stop_clock: Callable[[], float] | None = None,
) -> None:
    """Let the policy judge what was said; the last step shows and commits everything."""
    output = Output(
        request.prefix + continuation.token_ids,
        model.decode,
        continuation.truncated,
        session.probabilities[: len(request.prefix)] + continuation.probabilities,
    )
    committed = shown = len(output)
    if not session.last_step_is_due:
        committed = policy.committed(session, output)
        shown = policy.shown(session, output, committed)
        are_counts = isinstance(committed, int) and isinstance(shown, int)
        if not are_counts or not 0 <= committed <= shown <= len(output):
            raise _nonsense(policy, f"commits {committed!r} and shows {shown!r} of {len(output)} tokens")
    session.advance(output, shown, committed, stop_clock() if stop_clock else None)


def _nonsense(policy: Policy, what: str) -> UsageError:
    """The error for a policy of the user's own that asks for what cannot be."""
    return UsageError(f"The policy {policy.name} {what}; allowed: 0 ≤ committed ≤ shown ≤ all, kept ≤ shown before.")


class _Heard:
    """What the model makes of utterances at times, kept as long as a session may ask for it."""

    def __init__(self, model: AudioLanguageModel, sources: Sequence[Source], memory_bytes: float) -> None:
        self._model, self._sources, self._memory_bytes = model, sources, memory_bytes
        self.bytes_per_token = model.bytes_per_token
        self._prompts: dict[Key, tuple[int, ...]] = {}
        self._read: dict[Key, Any] = {}

    def prompt_length(self, session: Session) -> int:
        """Tokens of the prompt of a session's next step."""
        return len(self._prompt(_key(session)))

    def by(self, sessions: Sequence[Session]) -> list[Any]:
        """What each session hears next; what has not been read before is read in as few batches as memory allows."""
        keys = [_key(session) for session in sessions]
        new = [key for key in dict.fromkeys(keys) if key not in self._read]
        for part in self._within_memory(new):
            waveforms = [self._sources[utterance].waveform[:samples] for utterance, samples in part]
            read = self._model.read([self._prompt(key) for key in part], waveforms)
            self._read.update(zip(part, read, strict=True))
        return [self._read[key] for key in keys]

    def _within_memory(self, keys: Sequence[Key]) -> Iterator[list[Key]]:
        """Consecutive parts that may be read at once, one key at least in each."""
        part: list[Key] = []
        for key in keys:
            if part and self._model.bytes_to_read([samples for _, samples in (*part, key)]) > self._memory_bytes:
                yield part
                part = []
            part.append(key)
        if part:
            yield part

    def _prompt(self, key: Key) -> tuple[int, ...]:
        if key not in self._prompts:
            source = self._sources[key[0]]
            self._prompts[key] = self._model.render_prompt(source.prompt, source.waveform[: key[1]])
        return self._prompts[key]

    def forget(self, sessions: Iterable[Session]) -> None:
        """Drop what no session will ask for again; `sessions` are all those of some utterances."""
        oldest: dict[int, int] = {}
        for session in sessions:
            due = session.num_samples + 1 if session.finished else session.due_samples
            oldest[session.utterance] = min(due, oldest.get(session.utterance, due))
        for kept in (self._prompts, self._read):
            for key in [key for key in kept if key[1] < oldest.get(key[0], 0)]:
                del kept[key]


def _key(session: Session) -> Key:
    return session.utterance, session.due_samples
