"""How busy the engine has been in the last seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from simulsa_plugin.live.engine import EngineLoad

SPAN_SECONDS = 5.0


class LoadMeter:
    """Watches an engine whose load is read again and again."""

    def __init__(self, read: Callable[[], EngineLoad], clock: Callable[[], float] = time.monotonic) -> None:
        """Watch from now on; `clock` gives seconds."""
        self._read, self._clock = read, clock
        self._seen: deque[tuple[float, EngineLoad]] = deque([(clock(), read())])

    def measure(self) -> dict[str, float]:
        """Return `busy`, the share of the last seconds in which it computed; mean `batch`; steps `waiting` now."""
        now, load = self._clock(), self._read()
        while len(self._seen) > 1 and self._seen[1][0] <= now - SPAN_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        if now - self._seen[-1][0] >= SPAN_SECONDS / 10:
            self._seen.append((now, load))
        steps, batches = load.steps - before.steps, load.batches - before.batches
        busy = (load.compute_seconds - before.compute_seconds) / (now - since) if now > since else 0.0
        return {"busy": min(1.0, busy), "batch": steps / batches if batches else 0.0, "waiting": load.waiting}
