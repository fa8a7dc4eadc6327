"""The server: one port for the page and its WebSocket, one model for all speakers."""

from __future__ import annotations

import asyncio
import http
import logging
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from simulsa_plugin.server.access import Access
from simulsa_plugin.server.connection import Connection
from simulsa_plugin.server.description import describe_system
from simulsa_plugin.server.limits import Limits
from simulsa_plugin.server.load import LoadMeter
from simulsa_plugin.server.protocol import write_message
from simulsa_plugin.server.site import Site, response, text_response
from simulsa_plugin.settings import short_repr

if TYPE_CHECKING:
    from simulsa_plugin.api.live_system import LiveSystem

SOCKET_PATHS = ("/", "/ws")
SYSTEM_PATH = "/system.json"
HANDSHAKE_SECONDS = 10.0
NAMED_ORIGINS = 10  # that were refused: any page in a browser on this machine can add one
QUEUED_MESSAGES = 4  # of a client that sends faster than it is read; more stay on its side
logger = logging.getLogger(__name__)
# The library reports each connection that is not finished, with a traceback: anybody who reaches the port causes them.
_quiet = logging.getLogger("simulsa_plugin.server.websockets")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class LiveServer:
    """Serves a system to browsers, and to clients of simulstream."""

    def __init__(self, system: LiveSystem, access: Access, limits: Limits) -> None:
        """Read the page's files."""
        self._system, self._access, self._limits = system, access, limits
        self._site, self._meter = Site(), LoadMeter(lambda: system.engine.load)
        self._speakers = 0
        self._refused_origins: set[str] = set()

    @property
    def name(self) -> str:
        """The model's name, for people."""
        return self._system.model_name

    async def run(
        self,
        listener: socket.socket,
        stop: asyncio.Event,
        tls: ssl.SSLContext | None = None,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until `stop` is set; who is connected then is told so (close code 1001).

        Args:
            listener: bound to an address.
            stop: ends the server.
            tls: certificate and key.
            on_start: called when connections are accepted.
        """
        async with serve(
            self._serve_client,
            sock=listener,
            ssl=tls,
            process_request=self._answer,
            compression=None,
            server_header=None,
            open_timeout=HANDSHAKE_SECONDS,
            ping_interval=None,  # the answers would wait behind audio that is not read yet; silence ends a connection
            max_size=self._limits.message_bytes,
            max_queue=QUEUED_MESSAGES,
            logger=_quiet,
        ):
            on_start()
            await stop.wait()

    async def _serve_client(self, client: ServerConnection) -> None:
        connection = Connection(client, self._system, self._limits, self._load)
        if self._speakers >= self._limits.max_speakers:
            busy = f"The server is busy: {self._speakers} of {self._limits.max_speakers} speakers. Try again later."
            await connection.refuse(busy, CloseCode.TRY_AGAIN_LATER, busy=True)
            return
        self._speakers += 1
        try:
            await connection.serve()
        finally:
            self._speakers -= 1

    def _answer(self, client: ServerConnection, request: Request) -> Response | None:
        """Answer a request for a file or a refusal; None opens the WebSocket."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        if len(hosts) != 1 or not self._access.allows_host(hosts[0]):
            return text_response(
                http.HTTPStatus.FORBIDDEN, "This server has another name. Start it with --origin for this one."
            )
        path = urlsplit(request.path).path
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return self._system_page() if path == SYSTEM_PATH else self._site.page(path, hosts[0])
        if path not in SOCKET_PATHS:
            return text_response(http.HTTPStatus.NOT_FOUND, f"WebSockets are at {' and '.join(SOCKET_PATHS)}.")
        if len(origins) > 1 or not self._access.allows_origin(next(iter(origins), None), hosts[0]):
            self._name_refused(origins[0])
            return text_response(
                http.HTTPStatus.FORBIDDEN,
                "Pages of other sites are not allowed. Start the server with --origin for them.",
            )
        return None

    def _name_refused(self, origin: str) -> None:
        """Log an origin once: a page is not told by its browser why its WebSocket does not open."""
        if origin not in self._refused_origins and len(self._refused_origins) < NAMED_ORIGINS:
            self._refused_origins.add(origin)
            logger.warning("A page of %s was refused. If it is yours, name it with --origin.", short_repr(origin))

    def _load(self) -> dict[str, float]:
        return self._meter.measure() | {"speakers": self._speakers, "max_speakers": self._limits.max_speakers}

    def _system_page(self) -> Response:
        content = describe_system(self._system) | {"load": self._load()}
        return response(http.HTTPStatus.OK, write_message(content).encode(), "application/json")
