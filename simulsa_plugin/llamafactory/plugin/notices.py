"""Messages of the plugin inside LLaMA-Factory: on stderr, from the main rank only."""

from __future__ import annotations

import contextlib
import os
import sys

from simulsa_plugin import __version__
from simulsa_plugin.terminal import printable

ANNOUNCED = "SIMULSA_PLUGIN_ANNOUNCED"


def notify(message: str) -> None:
    """Print one line on the first rank; a closed stderr is ignored."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError, ValueError):
            print(printable(f"simulsa_plugin: {message}"), file=sys.stderr, flush=True)


def announce() -> None:
    """Print once that the plugin is active; child processes inherit the mark in their environment."""
    if os.environ.setdefault(ANNOUNCED, "") == "":
        os.environ[ANNOUNCED] = "1"
        notify(f"version {__version__} is active in LLaMA-Factory (SIMULSA_PLUGIN=0 turns it off).")
