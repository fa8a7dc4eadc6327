"""Several processes at one piece of work: which part is whose, and waiting for the others."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.terminal import FIRST_LINE_SECONDS

POLL_SECONDS = 0.2
STALL_SECONDS = 3600.0  # nothing is written while a block of an evaluation is decoded, or a large model is loaded


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts of the work, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`.

        Raises:
            UsageError: it is something else.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard is {text!r}; allowed: K/N with 1 ≤ K ≤ N, such as 2/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def wait_until(done: Callable[[], bool], progress: Callable[[], object], whom: str) -> None:
    """Wait for other processes for as long as they get on; say so on stderr now and then.

    Args:
        done: whether there is nothing more to wait for.
        progress: what changes while they work.
        whom: they, for messages.

    Raises:
        StorageError: nothing has changed for STALL_SECONDS.
    """
    start = since = time.monotonic()
    last, pause = progress(), FIRST_LINE_SECONDS
    while not done():
        time.sleep(POLL_SECONDS)
        now, found = time.monotonic(), progress()
        if found != last:
            last, since = found, now
        if now - since > STALL_SECONDS:
            raise StorageError(
                f"{whom} wrote nothing for {STALL_SECONDS / 60:.0f} minutes: it was never started, has ended, or "
                "hangs. Start the same command again, with all its processes or with one; it goes on where it stopped."
            )
        if now - start > pause:
            print(f"waiting for {whom}, {(now - since) / 60:.0f} min since it last wrote something", file=sys.stderr)
            pause += max(2 * FIRST_LINE_SECONDS, (now - start) / 2)
