"""Which sessions are decoded together, and when others join them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simulsa_plugin.audio.samples import Waveform
from simulsa_plugin.model.open_batch import open_batch
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import GenerationRequest
from simulsa_plugin.streaming.session import Session
from simulsa_plugin.streaming.steps import (
    BatchLimits,
    NextStep,
    StreamSource,
    advance_short,
    complete,
    decoding_bytes,
    generation_request,
    slide_window,
)

AudioKey = tuple[int, int, int]  # utterance, and the samples of it that a step hears: from, to


class SessionQueue:
    """Groups of sessions of one utterance that hear the same next; the group with the least audio goes first.

    An utterance is decoded one group at a time: its sessions advance together, and each prompt is computed once.
    """

    def __init__(self, sessions: Iterable[Session]) -> None:
        self._waiting: dict[int, list[Session]] = {}  # by utterance
        self._heap: list[tuple[int, int]] = []  # samples heard next, utterance
        self.put(sessions, decoding=())

    def put(self, sessions: Iterable[Session], decoding: Iterable[int]) -> None:
        """Add sessions.

        Args:
            sessions: in any order.
            decoding: utterances of which others are being decoded; these wait.
        """
        for session in sessions:
            self._waiting.setdefault(session.utterance, []).append(session)
        queued = {utterance for _, utterance in self._heap} | {*decoding}
        for utterance in self._waiting.keys() - queued:
            due = min(session.due_samples for session in self._waiting[utterance])
            heapq.heappush(self._heap, (due, utterance))

    def first(self) -> list[Session]:
        """Return the next group; empty where there is none that does not wait."""
        if not self._heap:
            return []
        due, utterance = self._heap[0]
        return [session for session in self._waiting[utterance] if session.due_samples == due]

    def take(self, sessions: Sequence[Session]) -> None:
        """Remove sessions of the next group; if some are left, they wait."""
        _, utterance = heapq.heappop(self._heap)
        taken = {session.setting for session in sessions}
        left = [session for session in self._waiting.pop(utterance) if session.setting not in taken]
        if left:
            self._waiting[utterance] = left


class DecodingBatch:
    """Sessions that are decoded together; others are admitted while some go on.

    Args:
        model: generates.
        encoded: its prompts.
        limits: of the batch.
        next_step: returns the next step of a session.
    """

    def __init__(
        self,
        model: AudioLanguageModel,
        encoded: EncodedPrompts,
        limits: BatchLimits,
        next_step: Callable[[Session], NextStep],
    ) -> None:
        self._model, self._encoded, self._limits, self._next_step = model, encoded, limits, next_step
        self._batch = open_batch(model)
        self._running: dict[int, tuple[NextStep, GenerationRequest]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._running)

    @property
    def utterances(self) -> set[int]:
        """Utterances that are being decoded."""
        return {step.session.utterance for step, _ in self._running.values()}

    def _size(self) -> _BatchSize:
        size = _BatchSize(self._encoded, self._limits)
        for step, _ in self._running.values():
            size = size.including(step.session)
        return size

    def admit(self, queue: SessionQueue) -> list[NextStep]:
        """Take the groups with the least audio from the queue, as many as the limits allow."""
        admitted: list[Session] = []
        size = self._size()
        while group := queue.first():
            larger, fitting = size.including_first(group)
            if len(fitting) < len(group) and size.sessions:  # a part only if nothing else is decoded
                break
            queue.take(fitting)
            admitted += fitting
            size = larger
        return [self._next_step(session) for session in admitted]

    def advance(self, steps: Sequence[NextStep], unfinished: int) -> list[Session]:
        """Begin steps, and decode until no more than a number of all are left.

        Returns:
            sessions that have completed a step.
        """
        completed, decoded = advance_short(steps)
        prompts = self._encoded.prompts(decoded, beside=self._size().bytes)
        requests = [generation_request(step, self._model, self._limits) for step in decoded]
        self._running.update(enumerate(zip(decoded, requests, strict=True), self._count))
        self._count += len(decoded)
        answers = self._batch.extend(prompts, requests, unfinished)
        for number, continuation in answers.items():
            step, request = self._running.pop(number)
            complete(step, self._model, request, continuation)
            completed.append(step)
        for step in completed:
            slide_window(step, self._model)
        return [step.session for step in completed]


@dataclass(frozen=True)
class _BatchSize:
    """How many sessions a batch has, how many of them are decoded, and its longest prompt and output, in tokens."""

    encoded: EncodedPrompts
    limits: BatchLimits
    sessions: int = 0
    decoded: int = 0
    prompt: int = 0
    output: int = 0

    def including(self, session: Session) -> _BatchSize:
        """Return the size with a session; all rows of a batch are as wide as its longest."""
        if session.too_short_to_decode:
            return replace(self, sessions=self.sessions + 1)
        return replace(
            self,
            sessions=self.sessions + 1,
            decoded=self.decoded + 1,
            prompt=max(self.prompt, self.encoded.prompt_length(session)),
            output=max(self.output, len(session.outputs[-1]) if session.outputs else 0),
        )

    def including_first(self, group: Sequence[Session]) -> tuple[_BatchSize, list[Session]]:
        """Return the size with the first sessions of a group, as many as the limits allow, and these; alone, one."""
        size, fitting = self, []
        for session in group:
            larger = size.including(session)
            if size.sessions and not larger.is_allowed:
                break
            size = larger
            fitting.append(session)
        return size, fitting

    @property
    def bytes(self) -> int:
        """The approximate peak memory of decoding it."""
        tokens = self.prompt + self.output + self.limits.max_new_tokens
        return decoding_bytes(self.encoded.model, self.decoded, tokens)

    @property
    def is_allowed(self) -> bool:
        """Whether the limits allow it."""
        return self.sessions <= self.limits.batch_size and self.bytes <= self.limits.memory_bytes


class EncodedPrompts:
    """Encoded prompts by utterance and samples heard, kept as long as a session may need them."""

    def __init__(self, model: AudioLanguageModel, sources: Sequence[StreamSource], memory_bytes: float) -> None:
        self.model, self._sources, self._memory_bytes = model, sources, memory_bytes
        self._token_ids: dict[AudioKey, tuple[int, ...]] = {}
        self._encoded: dict[AudioKey, Any] = {}

    def prompt_length(self, session: Session) -> int:
        """Return the number of prompt tokens of a session's next step."""
        return len(self._prompt_ids(_audio_key(session)))

    def prompts(self, steps: Sequence[NextStep], *, beside: int = 0) -> list[Any]:
        """Return the encoded prompt of each step; new ones are encoded in batches that fit memory.

        Args:
            steps: of sessions that begin.
            beside: bytes of the sessions that are being decoded.
        """
        keys = [_audio_key(step.session) for step in steps]
        new = [key for key in dict.fromkeys(keys) if key not in self._encoded]
        for part in self._split_by_memory(new, self._memory_bytes - beside):
            waveforms = [self._waveform(key) for key in part]
            encoded = self.model.encode_prompts([self._prompt_ids(key) for key in part], waveforms)
            self._encoded.update(zip(part, encoded, strict=True))
        return [self._encoded[key] for key in keys]

    def _split_by_memory(self, keys: Sequence[AudioKey], memory_bytes: float) -> Iterator[list[AudioKey]]:
        """Split keys into consecutive parts that may be encoded at once, with at least one key each."""
        part: list[AudioKey] = []
        for key in keys:
            if part and self.model.encoding_bytes([end - start for _, start, end in (*part, key)]) > memory_bytes:
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
