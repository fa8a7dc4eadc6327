"""Who may ask: which names the server answers to, and which pages may open a WebSocket.

A browser lets any page open a WebSocket to this machine, and says which page it is in `Origin`; a page whose name
resolves to this machine since a moment ago (DNS rebinding) is recognised by `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from simulsa_plugin.errors import UsageError

LOCAL_NAMES = frozenset({"localhost"})


@dataclass(frozen=True)
class Access:
    """What is allowed.

    Attributes:
        origins: of other pages that may open a WebSocket, such as `https://talks.example.org`.
        names: of this server, besides localhost and all IP addresses.
    """

    origins: frozenset[str] = frozenset()
    names: frozenset[str] = LOCAL_NAMES

    @classmethod
    def for_origins(cls, origins: Iterable[str], host: str) -> Access:
        """Allow pages of these origins, and their host names and `host` as names of this server.

        Raises:
            UsageError: one is not an origin.
        """
        allowed = frozenset(origin.rstrip("/").lower() for origin in origins)
        for origin in allowed:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise UsageError(
                    f"--origin is {origin!r}; allowed: scheme and host, such as https://talks.example.org."
                )
        return cls(allowed, LOCAL_NAMES | {host.lower()} | {urlsplit(origin).hostname or "" for origin in allowed})

    def allows_host(self, host: str) -> bool:
        """Whether requests to `host` (name or address, with or without a port) are answered.

        >>> [Access().allows_host(one) for one in ("localhost:8080", "127.0.0.1", "[::1]:8080", "evil.example")]
        [True, True, True, False]
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """Whether a page of `origin` may open a WebSocket at `host`; programs that are not browsers send no origin.

        >>> [Access().allows_origin(one, "localhost:80") for one in (None, "http://localhost:80", "http://evil.example")]
        [True, True, False]
        """
        if origin is None or origin.lower() in self.origins:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
