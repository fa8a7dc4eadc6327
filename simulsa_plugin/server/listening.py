"""The port and the certificate: taken before anything slow begins, so that mistakes show at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from simulsa_plugin.errors import UsageError


def bind(host: str, port: int) -> socket.socket:
    """Take a port; 0 takes any that is free. Connections wait until they are served.

    Raises:
        UsageError: the port is taken or may not be used, or there is no such host.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host is {host!r}, which has no address ({error}). Use 127.0.0.1, or 0.0.0.0.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed a moment ago is free
        listener.bind(address)
        listener.listen()  # else another socket could still take the port
    except OSError as error:
        listener.close()
        raise UsageError(_refused(host, port, error)) from error
    return listener


def _refused(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is taken by another program. Choose another: --port {port + 1}, or --port 0."
    if error.errno == errno.EACCES:
        return f"Port {port} may be used by root alone. Choose one from 1024 on with --port."
    return f"Cannot listen on port {port} of {host}: {error}. Check --host and --port."


def load_certificate(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Load what HTTPS needs; None where neither is given.

    Raises:
        UsageError: only one is given, or they cannot be used.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("HTTPS needs both: --certificate FILE and --key FILE.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # no question on the terminal
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Cannot use the certificate {certificate} with the key {key}: {error}. "
            "Give PEM files that belong together; the key must have no password."
        ) from error
    return context


def address_of(listener: socket.socket, host: str, *, secure: bool) -> str:
    """Return the address for a browser on this machine."""
    port = listener.getsockname()[1]
    shown = "localhost" if is_everywhere(host) else f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}/"


def is_everywhere(host: str) -> bool:
    """Whether a host stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def run_until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> signal.Signals:
    """Run a server until Ctrl-C or SIGTERM, and return which it was. A second Ctrl-C does not wait for its end."""
    return asyncio.run(_until_signal(serve))


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> signal.Signals:
    stop, received = asyncio.Event(), [signal.SIGTERM]
    before = signal.getsignal(signal.SIGINT)
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        received[0] = number
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        with contextlib.suppress(TypeError):  # a handler that is not Python's
            signal.signal(signal.SIGINT, before)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    await serve(stop)
    return received[0]
