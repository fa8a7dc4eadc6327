"""Batched decoding of many sessions in order of audio time, and timed decoding of a single one."""

from __future__ import annotations

import functools
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.errors import UsageError
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import AttentionHead, Continuation, GenerationRequest, Prompt
from simulsa_plugin.streaming.loops import find_loop
from simulsa_plugin.streaming.policies import Policy
from simulsa_plugin.streaming.session import Arrival, ChunkSchedule, Output, Session
from simulsa_plugin.streaming.windows import SlidingWindow, slide

AudioKey = tuple[int, int, int]  # utterance, and the samples of it that a step hears: from, to


class SessionSource(Protocol):
    """What the steps of a session need of its utterance."""

    @property
    def prompt(self) -> Prompt:
        """About the utterance."""
        ...

    @property
    def window(self) -> SlidingWindow | None:
        """How the utterance is decoded in windows, and loops are cut; None decodes it as one, as it comes."""
        ...

    def heard_by(self, session: Session) -> Waveform:
        """Return what the next step of a session hears, (num_samples,)."""
        ...


@dataclass(frozen=True)
class StreamSource:
    """One utterance to decode.

    Attributes:
        prompt: about the utterance.
        waveform: (num_samples,) at 16 kHz.
        arrivals: gives the arrivals of all steps for a chunk in ms (None for offline), where the utterance is part of
            a longer recording.
        window: how the utterance is decoded in windows, and loops are cut; None decodes it as one, as it comes.
    """

    prompt: Prompt
    waveform: Waveform
    arrivals: Callable[[int | None], Sequence[Arrival]] | None = None
    window: SlidingWindow | None = None

    def new_session(self, utterance: int, setting: int, chunk_ms: int | None) -> Session:
        """Return a session that has received nothing yet."""
        whole = ChunkSchedule(len(self.waveform), chunk_ms)
        return Session(utterance, setting, whole if self.arrivals is None else self.arrivals(chunk_ms))

    @property
    def first_window(self) -> Waveform:
        """The first audio that fits into the window, (num_samples,); all of it where there is no window."""
        return self.waveform if self.window is None else self.waveform[: self.window.samples]

    def heard_by(self, session: Session) -> Waveform:
        """Return what the next step of a session hears, (num_samples,)."""
        return self.waveform[session.window_start : session.due_samples]


@dataclass(frozen=True)
class NextStep:
    """The next step of a session, to be computed."""

    session: Session
    source: SessionSource
    policy: Policy


@dataclass(frozen=True)
class DecodingSetting:
    """A policy and a chunk in ms (None for offline); its results are one cell of the evaluation."""

    policy: Policy
    chunk_ms: int | None


@dataclass(frozen=True)
class BatchLimits:
    """Limits on the size of a batch.

    Attributes:
        max_new_tokens: per step and session.
        batch_size: in sessions.
        memory_bytes: of keys, values and logits, if every session were as long as the longest one and reached
            `max_new_tokens`; and, at another time, of the audio encoder and its features. A batch of one is always
            allowed.
    """

    max_new_tokens: int = 256
    batch_size: int = 64
    memory_bytes: float = 4e9


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
    on_finished: Callable[[Session], object] = lambda session: None,
) -> list[list[Session]]:
    """Decode every source under every setting.

    The session with the least audio always goes next. So sessions of one batch have received about the same amount, and
    an utterance is encoded once for all sessions that have received the same part of it.

    Args:
        model: generates greedily after forced prefixes.
        sources: utterances of 150 ms or more.
        settings: policies with chunks.
        limits: of a batch.
        on_finished: called with every finished session, for progress.

    Returns:
        finished sessions, [setting][source].
    """
    sessions = [
        [source.new_session(u, s, setting.chunk_ms) for u, source in enumerate(sources)]
        for s, setting in enumerate(settings)
    ]
    queue = [_priority(session) for row in sessions for session in row]
    heapq.heapify(queue)
    encoded = _EncodedPromptCache(model, sources, limits.memory_bytes)
    while queue:
        batch = _next_batch(queue, sessions, encoded, limits)
        steps = [NextStep(one, sources[one.utterance], settings[one.setting].policy) for one in batch]
        advance_sessions(model, steps, encoded.prompts, limits)
        for session in batch:
            _slide_window(session, sources[session.utterance], model)
            if session.finished:
                on_finished(session)
            else:
                heapq.heappush(queue, _priority(session))
        encoded.evict(row[u] for u in {session.utterance for session in batch} for row in sessions)
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
        _slide_window(session, source, model)
    return session


def _milliseconds_since(start: float, clock: Callable[[], float]) -> float:
    return 1000 * (clock() - start)


def _priority(session: Session) -> tuple[int, int, int]:
    return session.due_samples, session.utterance, session.setting


def _next_batch(
    queue: list[tuple[int, int, int]],
    sessions: Sequence[Sequence[Session]],
    encoded: _EncodedPromptCache,
    limits: BatchLimits,
) -> list[Session]:
    """Take the sessions with the least audio from the queue, as many as the limits allow."""
    batch: list[Session] = []
    decoded = longest_prompt = longest_output = 0
    while queue and len(batch) < limits.batch_size:
        _, utterance, setting = queue[0]
        session = sessions[setting][utterance]
        if not session.too_short_to_decode:
            decoded += 1
            longest_prompt = max(longest_prompt, encoded.prompt_length(session))
            longest_output = max(longest_output, len(session.outputs[-1]) if session.outputs else 0)
            length = longest_prompt + longest_output + limits.max_new_tokens  # a batch is as wide as its longest rows
            if batch and decoding_bytes(encoded.model, decoded, length) > limits.memory_bytes:
                break
        heapq.heappop(queue)
        batch.append(session)
    return batch


def decoding_bytes(model: AudioLanguageModel, sessions: int, tokens: int) -> int:
    """Return the approximate peak memory to decode sessions that may reach so many tokens each, prompts included."""
    return sessions * (tokens * model.bytes_per_token + model.bytes_per_session)


def advance_sessions(
    model: AudioLanguageModel,
    steps: Sequence[NextStep],
    encode: Callable[[Sequence[NextStep]], Sequence[Any]],
    limits: BatchLimits,
    stop_clock: Callable[[], float] | None = None,
) -> None:
    """Advance sessions by one step each, in one batch.

    Args:
        model: generates greedily after forced prefixes.
        steps: of different sessions.
        encode: returns the encoded prompt of each step, as `AudioLanguageModel.encode_prompts` does.
        limits: of the new tokens; the batch is taken as it is.
        stop_clock: returns the milliseconds that the batch took, where they are measured.

    Raises:
        UsageError: a policy returns counts that are not allowed.
        ModelError: the batch does not fit into memory.
    """
    decoded = [step for step in steps if not step.session.too_short_to_decode]
    for step in steps:
        if step.session.too_short_to_decode:
            step.session.advance_without_decoding()
    if not decoded:
        return
    requests = [_generation_request(step.session, step.policy, model, limits) for step in decoded]
    continuations = model.generate(encode(decoded), requests)
    for step, request, continuation in zip(decoded, requests, continuations, strict=True):
        output = _make_output(step.session, step.source, model, request, continuation)
        _apply_policy(step.session, step.policy, output, stop_clock)


def encode_heard(model: AudioLanguageModel, steps: Sequence[NextStep]) -> list[Any]:
    """Encode the prompts of steps with what they hear, in one batch."""
    waveforms = [step.source.heard_by(step.session) for step in steps]
    prompts = [
        model.render_prompt(step.source.prompt, waveform) for step, waveform in zip(steps, waveforms, strict=True)
    ]
    return model.encode_prompts(prompts, waveforms)


def _generation_request(
    session: Session, policy: Policy, model: AudioLanguageModel, limits: BatchLimits
) -> GenerationRequest:
    """Return the request of a session's next step; the part of the last output that is not forced is its draft."""
    length = max(policy.prefix_length(session), session.forced)
    if not 0 <= length <= len(session.token_ids):
        raise _policy_error(policy, f"keeps {length} of {len(session.token_ids)} tokens that were shown")
    previous = session.outputs[-1] if session.outputs else ()
    prefix = session.token_ids[:length]
    draft = previous[length:] if previous[:length] == prefix else ()
    if session.commits_all:
        return GenerationRequest(prefix, draft, max_new_tokens=limits.max_new_tokens)
    return GenerationRequest(
        prefix,
        draft,
        policy.min_token_probability(session),
        policy.min_audio_ahead(session),
        policy.stopping_criterion(session, model.decode),
        limits.max_new_tokens,
    )


def _make_output(
    session: Session,
    source: SessionSource,
    model: AudioLanguageModel,
    request: GenerationRequest,
    continuation: Continuation,
) -> Output:
    """Return prefix and continuation; of a long recording without repetitions, except those that are forced."""
    forced = len(request.prefix)
    token_ids = request.prefix + continuation.token_ids
    probabilities = session.probabilities[:forced] + continuation.probabilities
    loop = None if source.window is None else find_loop(token_ids)
    if loop is None:
        return Output(token_ids, model.decode, continuation.truncated, probabilities)
    kept = max(forced, loop)
    return Output(token_ids[:kept], model.decode, False, probabilities[:kept], looping=True)


def _apply_policy(
    session: Session, policy: Policy, output: Output, stop_clock: Callable[[], float] | None = None
) -> None:
    """Complete a step with what the policy shows and commits; the last step shows and commits everything."""
    committed = shown = len(output)
    if not session.commits_all:
        committed = policy.committed(session, output)
        shown = policy.shown(session, output, committed)
        are_counts = isinstance(committed, int) and isinstance(shown, int)
        if not are_counts or not 0 <= committed <= shown <= len(output):
            raise _policy_error(policy, f"commits {committed!r} and shows {shown!r} of {len(output)} tokens")
    session.advance(output, shown, committed, stop_clock() if stop_clock else None)


def _slide_window(session: Session, source: SessionSource, model: AudioLanguageModel) -> None:
    if source.window is not None:
        slide(session, source.window, model.decode)


def _policy_error(policy: Policy, what: str) -> UsageError:
    return UsageError(
        f"The policy {policy.name} {what}; allowed: 0 ≤ committed ≤ shown ≤ all tokens, and 0 ≤ kept ≤ shown before."
    )


class _EncodedPromptCache:
    """Encoded prompts by utterance and samples heard, kept as long as a session may need them."""

    def __init__(self, model: AudioLanguageModel, sources: Sequence[StreamSource], memory_bytes: float) -> None:
        self.model, self._sources, self._memory_bytes = model, sources, memory_bytes
        self._token_ids: dict[AudioKey, tuple[int, ...]] = {}
        self._encoded: dict[AudioKey, Any] = {}

    def prompt_length(self, session: Session) -> int:
        """Return the number of prompt tokens of a session's next step."""
        return len(self._prompt_ids(_audio_key(session)))

    def prompts(self, steps: Sequence[NextStep]) -> list[Any]:
        """Return the encoded prompt of each step; new ones are encoded in batches that fit memory."""
        keys = [_audio_key(step.session) for step in steps]
        new = [key for key in dict.fromkeys(keys) if key not in self._encoded]
        for part in self._split_by_memory(new):
            waveforms = [self._waveform(key) for key in part]
            encoded = self.model.encode_prompts([self._prompt_ids(key) for key in part], waveforms)
            self._encoded.update(zip(part, encoded, strict=True))
        return [self._encoded[key] for key in keys]

    def _split_by_memory(self, keys: Sequence[AudioKey]) -> Iterator[list[AudioKey]]:
        """Split keys into consecutive parts that may be encoded at once, with at least one key each."""
        part: list[AudioKey] = []
        for key in keys:
            if part and self.model.encoding_bytes([end - start for _, start, end in (*part, key)]) > self._memory_bytes:
                yield part
                part = []
            part.append(key)
        if part:
            yield part

    def _prompt_ids(self, key: AudioKey) -> tuple[int, ...]:
        if key not in self._token_ids:
            self._token_ids[key] = self.model.render_prompt(self._sources[key[0]].prompt, self._waveform(key))
        return self._token_ids[key]

    def _waveform(self, key: AudioKey) -> Waveform:
        utterance, start, end = key
        return self._sources[utterance].waveform[start:end]

    def evict(self, sessions: Iterable[Session]) -> None:
        """Remove prompts that no session needs again; `sessions` are all those of some utterances."""
        oldest: dict[int, int] = {}
        for session in sessions:
            due = session.num_samples + 1 if session.finished else session.due_samples
            oldest[session.utterance] = min(due, oldest.get(session.utterance, due))
        for kept in (self._token_ids, self._encoded):
            for key in [key for key in kept if key[2] < oldest.get(key[0], 0)]:
                del kept[key]


def _audio_key(session: Session) -> AudioKey:
    return session.utterance, session.window_start, session.due_samples
