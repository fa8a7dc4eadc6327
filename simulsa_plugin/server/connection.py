"""One client: its streams, one after another, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.server.limits import IdleClientError, Limits
from simulsa_plugin.server.protocol import END_OF_STREAM, StreamRequest, check_audio, read_message, write_message
from simulsa_plugin.server.speaker import Speaker

if TYPE_CHECKING:
    from simulsa_plugin.api.live_system import LiveSystem

logger = logging.getLogger(__name__)


class SlowClientError(Exception):
    """A client takes no messages."""


class Connection:
    """A client of the server."""

    def __init__(
        self,
        socket: ServerConnection,
        system: LiveSystem,
        limits: Limits,
        load: Callable[[], Mapping[str, float]],
    ) -> None:
        """Take a socket that is open; `load` tells how busy the server is."""
        self._socket, self._system, self._limits, self._load = socket, system, limits, load

    async def serve(self) -> None:
        """Translate one stream after another, until the client leaves or makes a mistake."""
        try:
            while True:
                await self._serve_stream()
        except ConnectionClosed:
            pass
        except SlowClientError:
            self._socket.transport.abort()
        except SimulsaError as error:
            await self.refuse(str(error), CloseCode.POLICY_VIOLATION)
        except Exception as error:
            logger.error("A stream failed: %s: %s", type(error).__name__, error)
            await self.refuse("The stream failed; the server's log has the cause.", CloseCode.INTERNAL_ERROR)

    async def refuse(self, reason: str, code: CloseCode, **more: Any) -> None:
        """Tell why, and close."""
        with contextlib.suppress(ConnectionClosed, SlowClientError):
            await self.send({"error": reason, **more})
            await asyncio.gather(self._socket.close(code), self._drop_messages())

    async def _drop_messages(self) -> None:
        """Read what the client has sent, to the end: its goodbye comes after that."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._socket.recv()

    async def receive(self) -> bytes | str:
        """Wait for the next message.

        Raises:
            IdleClientError: nothing comes.
            UsageError: half a sample.
            ConnectionClosed: the client has left.
        """
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                message = await self._socket.recv()
        except TimeoutError as error:
            raise IdleClientError(
                f"Nothing came for {self._limits.idle_seconds:g} s. Connect again when there is audio."
            ) from error
        if isinstance(message, bytes):
            check_audio(message)
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, and wait until the socket has room for the next one.

        Raises:
            SlowClientError: it has none for too long.
            ConnectionClosed: the client has left.
        """
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                await self._socket.send(write_message(message))
        except TimeoutError as error:
            raise SlowClientError from error

    async def _serve_stream(self) -> None:
        request = StreamRequest()
        while isinstance(message := await self.receive(), str):
            content = read_message(message)
            if END_OF_STREAM in content:
                break
            request = request.updated(content)
        stream = await asyncio.to_thread(self._open, request)
        speaker = Speaker(self, stream, self._system.engine, request, self._limits, self._load)
        await speaker.run(message)

    def _open(self, request: StreamRequest) -> Any:
        point = request.point if request.keys is None else self._system.choose_point(request.keys)
        return self._system.new_stream(
            point,
            source_language=request.source_language,
            target_language=request.target_language,
            skip_late=request.skip_late,
        )
