"""`simulsa-live`: parse the command line, load the model, serve."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulsa_plugin import __version__
from simulsa_plugin.commands.console import Parser, recipe_and_overrides, run_command
from simulsa_plugin.errors import MissingExtraError

if TYPE_CHECKING:
    import socket
    import ssl

    from simulsa_plugin.server.server import LiveServer

LIVE_COMMAND = "simulsa-live"
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080
logger = logging.getLogger(__name__)

_DESCRIPTION = """\
Translate speech in a browser while it is spoken: microphone, file or the sound of a tab goes in, and the translation
grows, commits and is taken back on the screen. Clients of simulstream can use the same port.

RECIPE.yaml is any LLaMA-Factory recipe with model_name_or_path and template; its streaming cells (simulsa_policies,
simulsa_chunks and the policies' keys, or simulsa_cells) are the operating points that may be chosen. Without a recipe,
the embedded default is served."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns:
        0 after SIGTERM; 1 where the work failed; 2 where the command line or the recipe is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(LIVE_COMMAND, lambda: _run_live(words), interrupted="ended.")


def _parser() -> Parser:
    parser = Parser(
        prog=LIVE_COMMAND,
        usage=f"{LIVE_COMMAND} [RECIPE.yaml] [key=value …] [--host HOST] [--port PORT] …",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{LIVE_COMMAND} {__version__}")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE.yaml | key=value",
        help="a LLaMA-Factory recipe with simulsa_* keys, and keys that override it (without a recipe: the embedded "
        "default, as recommended)",
    )
    parser.add_argument(
        "--host",
        default=DEFAULT_HOST,
        help=f"address to listen on (default: {DEFAULT_HOST}, this machine alone; 0.0.0.0: every network)",
    )
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help=f"port to listen on (default: {DEFAULT_PORT}; 0: any free one)"
    )
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="URL",
        help="address by which a proxy publishes this server, or of another page that may use it, such as "
        "https://talks.example.org; may be repeated (default: its own page alone)",
    )
    parser.add_argument(
        "--max-speakers", type=int, default=8, metavar="N", help="clients at the same time (default: 8)"
    )
    parser.add_argument(
        "--idle-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="a client that sends nothing for so long gets the rest of its text and is disconnected (default: 60)",
    )
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="certificate chain for HTTPS, in PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key of the certificate, in PEM")
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; allowed: 0 to 65535")
    return int(text)


def _run_live(words: list[str]) -> int:
    options = _parser().parse_intermixed_args(words)
    path, overrides = recipe_and_overrides(options.words)
    _require_websockets()
    from simulsa_plugin.server.access import Access
    from simulsa_plugin.server.limits import Limits
    from simulsa_plugin.server.listening import bind, load_certificate
    from simulsa_plugin.server.server import LiveServer

    access = Access.for_origins(options.origin, options.host)
    limits = Limits(options.max_speakers, options.idle_seconds)
    tls = load_certificate(options.certificate, options.key)
    with bind(options.host, options.port) as listener:
        from simulsa_plugin.api.live_system import open_live_system

        system = open_live_system(path, overrides, default_longform="window", endless=True)
        try:
            return _serve(LiveServer(system, access, limits), listener, options.host, tls)
        finally:
            system.close()


def _require_websockets() -> None:
    try:
        import websockets  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.for_package(LIVE_COMMAND, "websockets", "live") from error


def _serve(server: LiveServer, listener: socket.socket, host: str, tls: ssl.SSLContext | None) -> int:
    """Serve until a signal; Ctrl-C is handled by whoever calls, as in all commands."""
    from simulsa_plugin.server.listening import address_of, is_loopback, run_until_signal

    if not is_loopback(host):
        logger.warning("%s", _open_to_others(tls is not None))
    address = address_of(listener, host, secure=tls is not None)
    received = run_until_signal(
        lambda stop: server.run(listener, stop, tls, lambda: logger.info("%s is served at %s", server.name, address))
    )
    if received is signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _open_to_others(secure: bool) -> str:
    reached = "Everybody who reaches this machine can use the model."
    microphone = " Without --certificate and --key, browsers on other machines do not give the microphone."
    return reached if secure else reached + microphone
