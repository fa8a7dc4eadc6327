"""The page and its files, served from memory; headers that let it load nothing from elsewhere."""

from __future__ import annotations

import http
from importlib import resources

from websockets.datastructures import Headers
from websockets.http11 import Response

from simulsa_plugin.errors import StorageError

_SCRIPT, _STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
# Address → package, file in it, content type. Style and theme are those of the reports.
FILES = {
    "/": ("simulsa_plugin.server", "page/index.html", "text/html; charset=utf-8"),
    "/live.css": ("simulsa_plugin.server", "page/live.css", _STYLE),
    "/live.js": ("simulsa_plugin.server", "page/live.js", _SCRIPT),
    "/sources.js": ("simulsa_plugin.server", "page/sources.js", _SCRIPT),
    "/client.js": ("simulsa_plugin.server", "page/client.js", _SCRIPT),
    "/transcript.js": ("simulsa_plugin.server", "page/transcript.js", _SCRIPT),
    "/settings.js": ("simulsa_plugin.server", "page/settings.js", _SCRIPT),
    "/packets.js": ("simulsa_plugin.server", "page/packets.js", _SCRIPT),
    "/style.css": ("simulsa_plugin.reports", "assets/style.css", _STYLE),
    "/page.js": ("simulsa_plugin.reports", "assets/page.js", _SCRIPT),
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), display-capture=(self)",
    "Cache-Control": "no-cache",
    "Connection": "close",
}


class Site:
    """The files, read once."""

    def __init__(self) -> None:
        """Read the files.

        Raises:
            StorageError: the installation lacks one.
        """
        try:
            self._content = {
                path: resources.files(package).joinpath(*name.split("/")).read_bytes()
                for path, (package, name, _) in FILES.items()
            }
        except OSError as error:
            raise StorageError(f"A file of the page is missing: {error}. Install the package again.") from error

    def page(self, path: str, host: str) -> Response:
        """Return the file at a path, or 404; `host` is what the browser calls this server."""
        if path not in FILES:
            return text_response(http.HTTPStatus.NOT_FOUND, "There is no such page here.")
        return response(http.HTTPStatus.OK, self._content[path], FILES[path][2], host)


def text_response(status: http.HTTPStatus, text: str) -> Response:
    """Return a response of one line."""
    return response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def response(status: http.HTTPStatus, body: bytes, content_type: str, host: str = "") -> Response:
    """Return a response with the headers that all have; `host` may be asked for a WebSocket."""
    sockets = f" ws://{host} wss://{host}" if host else ""  # not every browser takes 'self' for them
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{sockets}; img-src data:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    more = {"Content-Type": content_type, "Content-Length": str(len(body)), "Content-Security-Policy": policy}
    return Response(status.value, status.phrase, Headers(_HEADERS | more), body)
