"""The stream of one speaker: audio comes in, steps are computed, and text goes out, each at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.audio.stream_resampling import StreamResampler
from simulsa_plugin.errors import UsageError
from simulsa_plugin.live.engine import LiveEngine
from simulsa_plugin.live.stream import LiveStream
from simulsa_plugin.live.transcript import TextFollower
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES
from simulsa_plugin.metrics.delays import ShownStep
from simulsa_plugin.server.limits import IdleClientError, Limits
from simulsa_plugin.server.protocol import (
    BYTES_PER_SAMPLE,
    END_OF_PROCESSING,
    END_OF_STREAM,
    StreamRequest,
    read_audio,
    read_message,
)


class Client(Protocol):
    """Where audio comes from and text goes to."""

    async def receive(self) -> bytes | str:
        """Wait for the next message."""
        ...

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, and wait until there is room for the next one."""
        ...


class Speaker:
    """Serves one stream."""

    def __init__(
        self,
        client: Client,
        stream: LiveStream,
        engine: LiveEngine,
        request: StreamRequest,
        limits: Limits,
        load: Callable[[], Mapping[str, float]],
    ) -> None:
        """Take a stream that has received nothing; `load` tells how busy the server is."""
        self._client, self._stream, self._engine = client, stream, engine
        self._request, self._limits, self._load = request, limits, load
        self._resampler = StreamResampler(request.sample_rate, waits=True)
        self._packet = bytearray()  # what came in since the last push: less than a frame
        self._follower = TextFollower()
        self._last_step: ShownStep | None = None
        self._audio_ended = self._decoded = False
        self._silence: IdleClientError | None = None
        self._audio_came, self._step_done, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self, first: bytes | str) -> None:
        """Serve the stream from its first message to its end.

        Raises:
            UsageError: the client makes a mistake.
            IdleClientError: it has sent nothing for too long; it has the text of all that it said before.
            ConnectionClosed: it has left.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(first))
                tasks.create_task(self._decode())
                tasks.create_task(self._tell())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if self._silence:
            raise self._silence
        await self._client.send({END_OF_PROCESSING: True})

    async def _hear(self, message: bytes | str) -> None:
        try:
            await self._hear_until_the_end(message)
        except IdleClientError as error:  # simulstream's web client, for one, never says that its stream has ended
            self._silence = error
        await self._push(final=True)
        self._audio_ended = True
        self._audio_came.set()

    async def _hear_until_the_end(self, message: bytes | str) -> None:
        while not self._is_end(message):
            if isinstance(message, bytes):
                self._packet += message
                if len(self._packet) * SAMPLE_RATE >= FRAME_SAMPLES * BYTES_PER_SAMPLE * self._request.sample_rate:
                    await self._push()
            message = await self._client.receive()

    def _is_end(self, message: bytes | str) -> bool:
        """Whether a message ends the stream; settings stay as they are.

        Raises:
            UsageError: the message changes them.
        """
        if isinstance(message, bytes):
            return False
        content = read_message(message)
        if END_OF_STREAM not in content and self._request.updated(content) != self._request:
            raise UsageError("A message changes the settings of a stream that has begun. End it, and begin another.")
        return END_OF_STREAM in content

    async def _push(self, *, final: bool = False) -> None:
        """Hand audio on, and wait until not too much of it is to be decoded: the rest waits at the client."""
        packet, self._packet = bytes(self._packet), bytearray()
        await asyncio.to_thread(self._push_now, packet, final)
        self._audio_came.set()
        while not final and self._stream.late_ms > self._limits.backlog_ms:
            self._step_done.clear()
            await self._step_done.wait()

    def _push_now(self, packet: bytes, final: bool) -> None:
        self._stream.push(self._resampler.push(read_audio(packet), final=final), final=final)

    async def _decode(self) -> None:
        while self._stream.due_steps or not self._audio_ended:
            if not self._stream.due_steps:
                await self._audio_came.wait()
                self._audio_came.clear()
                continue
            step = await asyncio.wrap_future(self._engine.advance(self._stream))
            self._last_step = step or self._last_step
            self._step_done.set()
            self._news.set()
        self._decoded = True
        self._news.set()

    async def _tell(self) -> None:
        """Tell what is new. A client that is slow is told several changes as one."""
        decoded = False
        while not decoded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.status_seconds if self._request.detailed else None):
                    await self._news.wait()
            self._news.clear()
            decoded = self._decoded  # before the text is read: a step that ends meanwhile is told next time
            await self._client.send(self._report())

    def _report(self) -> dict[str, Any]:
        transcript = self._stream.transcript
        change = self._follower.change(transcript)
        deleted, added = change.as_strings(transcript.separator)
        report: dict[str, Any] = {"new": added, "deleted": deleted}
        if self._request.detailed:
            step = self._last_step
            report["simulsa"] = {
                "open": transcript.separator.join(change.open),
                "audio_ms": self._stream.received_ms,
                "heard_ms": 0.0 if step is None else step.audio_ms,
                "late_ms": self._stream.late_ms,
                "compute_ms": None if step is None else step.compute_ms,
                "skipped_steps": self._stream.skipped_steps,
                "load": self._load(),
            }
        return report
