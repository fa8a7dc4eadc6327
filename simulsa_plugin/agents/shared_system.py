"""One loaded model for all agents of a process that name the same recipe, so that their streams share batches."""

from __future__ import annotations

import atexit
import json
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulsa_plugin.api.live_system import LiveSystem

logger = logging.getLogger(__name__)
_LOCK = threading.Lock()
_SYSTEMS: dict[str, LiveSystem] = {}


def shared_system(recipe: str | None, keys: Mapping[str, Any]) -> LiveSystem:
    """Return the system of a recipe with one cell; the first call loads it, and it stays open until the process ends.

    Args:
        recipe: path of the recipe; None for the embedded default.
        keys: instead of those of the recipe.

    Raises:
        SimulsaError: see `open_live_system`.
    """
    from simulsa_plugin.api.live_system import open_live_system

    name = json.dumps([recipe, dict(keys)], sort_keys=True, default=str)
    with _LOCK:
        if name not in _SYSTEMS:
            _SYSTEMS[name] = open_live_system(recipe, keys, single_point=True)
            atexit.register(_close, _SYSTEMS[name])
        return _SYSTEMS[name]


def _close(system: LiveSystem) -> None:
    system.close()
    load = system.engine.load
    if load.batches:
        logger.info("decoded %d steps in %d batches, %.1f s", load.steps, load.batches, load.compute_seconds)
