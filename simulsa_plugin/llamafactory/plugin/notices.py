"""Lines the plugin says inside LLaMA-Factory: on stderr, from the main rank alone."""

from __future__ import annotations

import contextlib
import os
import sys

from simulsa_plugin import __version__
from simulsa_plugin.terminal import printable

ANNOUNCED = "SIMULSA_PLUGIN_ANNOUNCED"


def notify(message: str) -> None:
    """Say one line, unless this is another rank than the first; a stderr that has gone is no reason to fail."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError, ValueError):
            print(printable(f"simulsa_plugin: {message}"), file=sys.stderr, flush=True)


def announce() -> None:
    """Say once that the plugin is active; child processes inherit that it has been said."""
    if os.environ.setdefault(ANNOUNCED, "") == "":
        os.environ[ANNOUNCED] = "1"
        notify(f"version {__version__} is active in LLaMA-Factory (SIMULSA_PLUGIN=0 turns it off).")
