"""What the server grants to its clients."""

from __future__ import annotations

from dataclasses import dataclass

from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import check_range


class IdleClientError(UsageError):
    """A client has sent nothing for too long."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_speakers: clients at the same time; the next one is told that the server is busy.
        idle_seconds: a client that sends nothing for so long gets the rest of its text, is told so, and disconnected.
        send_seconds: a client that takes no message for so long is disconnected.
        backlog_ms: audio that is received and not yet decoded; more of it waits at the client.
        message_bytes: of one message.
        status_seconds: clients that are told more hear of lag and load at least so often.
    """

    max_speakers: int = 8
    idle_seconds: float = 60.0
    send_seconds: float = 30.0
    backlog_ms: float = 10_000.0
    message_bytes: int = 2**20
    status_seconds: float = 0.5

    def __post_init__(self) -> None:
        check_range("--max-speakers", self.max_speakers, minimum=1)
        check_range("--idle-seconds", self.idle_seconds, above=0)
