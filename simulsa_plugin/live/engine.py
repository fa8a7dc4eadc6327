"""Decoding of several streams at once: steps that are due together are computed in one batch, in one thread."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from simulsa_plugin.live.stream import LiveStream
from simulsa_plugin.metrics.delays import ShownStep
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.streaming.steps import BatchLimits, NextStep, advance_sessions, decoding_bytes, encode_heard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineLoad:
    """What an engine has done.

    Attributes:
        steps: that were computed.
        batches: they were computed in.
        compute_seconds: that these took.
        waiting: steps that wait for their batch now.
    """

    steps: int
    batches: int
    compute_seconds: float
    waiting: int


class LiveEngine:
    """Computes the steps of streams, in a thread of its own; a context manager."""

    def __init__(
        self, model: AudioLanguageModel, limits: BatchLimits, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start the thread.

        Args:
            model: serves all streams, and nobody else meanwhile.
            limits: of a batch.
            clock: gives seconds.
        """
        self._model, self._limits, self._clock = model, limits, clock
        self._waiting: deque[tuple[LiveStream, Future[ShownStep | None]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._steps = self._batches = 0
        self._compute_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="simulsa-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> LiveEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def load(self) -> EngineLoad:
        """What it has done so far."""
        with self._changed:
            return EngineLoad(self._steps, self._batches, self._compute_seconds, len(self._waiting))

    def advance(self, stream: LiveStream) -> Future[ShownStep | None]:
        """Compute the next step of a stream that is due.

        A stream waits for one step at a time. A future that is cancelled before its step begins leaves it due.

        Returns:
            the step, once it is computed; None if none is due. An exception of the model or the policy is the future's.

        Raises:
            RuntimeError: the engine is closed.
        """
        future: Future[ShownStep | None] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append((stream, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the thread after its batch; steps that still wait are cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def _work(self) -> None:
        while self._wait_for_steps():
            self._compute(self._take())  # not kept in a variable: a stream that is given up is freed at once

    def _wait_for_steps(self) -> bool:
        """Wait until a step is waiting; False where the engine is closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return not self._closed

    def _take(self) -> list[tuple[LiveStream, Future[ShownStep | None]]]:
        """Take as many steps as fit into a batch, without those that were cancelled."""
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limits.batch_size))]
        return [(stream, future) for stream, future in taken if future.set_running_or_notify_cancel()]

    def _compute(self, taken: Sequence[tuple[LiveStream, Future[ShownStep | None]]]) -> None:
        prepared = [self._prepare(stream, future) for stream, future in taken]
        for batch in self._fitting([one for one in prepared if one is not None]):
            self._compute_batch(batch)

    def _prepare(self, stream: LiveStream, future: Future[ShownStep | None]) -> _Prepared | None:
        """Begin the next step of a stream; None if none is due or it fails, of which the future tells."""
        try:
            step = stream.next_step()
            if step is not None:
                return _Prepared(stream, step, len(step.session.steps), self._longest_length(step), future)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)
        return None

    def _fitting(self, prepared: Sequence[_Prepared]) -> Iterator[list[_Prepared]]:
        """Split steps into consecutive batches that fit into memory, with at least one step each."""
        batch: list[_Prepared] = []
        longest = 0
        for one in prepared:
            length = max(longest, one.longest_length)
            if batch and decoding_bytes(self._model, len(batch) + 1, length) > self._limits.memory_bytes:
                yield batch
                batch, length = [], one.longest_length
            batch.append(one)
            longest = length
        if batch:
            yield batch

    def _longest_length(self, step: NextStep) -> int:
        """Return the tokens that a step may reach."""
        if step.session.too_short_to_decode:
            return 0
        prompt = self._model.render_prompt(step.source.prompt, step.source.heard_by(step.session))
        output = len(step.session.outputs[-1]) if step.session.outputs else 0
        return len(prompt) + output + self._limits.max_new_tokens

    def _compute_batch(self, batch: Sequence[_Prepared]) -> None:
        start = self._clock()
        try:
            advance_sessions(
                self._model,
                [one.step for one in batch],
                functools.partial(encode_heard, self._model),
                self._limits,
                lambda: 1000 * (self._clock() - start),
            )
        except Exception as error:
            self._recover(batch, error)
        for one in batch:
            if one.is_advanced and not one.future.done():
                one.complete()
        with self._changed:
            self._steps += sum(one.is_advanced for one in batch)
            self._batches += 1
            self._compute_seconds += self._clock() - start

    def _recover(self, batch: Sequence[_Prepared], error: Exception) -> None:
        """Compute the steps of a failed batch one by one, so that a stream fails only through its own step."""
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        logger.warning("a batch of %d steps failed and is computed one by one: %s", len(batch), error)
        for one in batch:
            if not one.is_advanced:
                self._compute_batch([one])


@dataclass(frozen=True)
class _Prepared:
    """A step that a stream has begun: `number` were complete before, and it may reach `longest_length` tokens."""

    stream: LiveStream
    step: NextStep
    number: int
    longest_length: int
    future: Future[ShownStep | None]

    @property
    def is_advanced(self) -> bool:
        return len(self.step.session.steps) > self.number

    def complete(self) -> None:
        """Tell the future of the step, which was computed."""
        try:
            step = self.stream.complete()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(step)
