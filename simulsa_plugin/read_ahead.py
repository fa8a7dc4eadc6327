"""Results in order, made by threads while those before them are in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1, ahead: int | None = None
) -> Generator[Result]:
    """Yield `function(item)` for every item, in order; close the iterator to stop early, which waits for the threads.

    An error is raised where its item is due, and ends the iteration.

    Args:
        function: runs on the threads.
        items: are taken on the caller's thread.
        threads: how many work at once.
        ahead: results that are made, or are waiting, beyond the one in use; as many as there are threads by default.

    >>> list(map_ahead(abs, [-1, -2, -3]))
    [1, 2, 3]
    """
    ahead = threads if ahead is None else ahead
    pending = deque[Future[Result]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
