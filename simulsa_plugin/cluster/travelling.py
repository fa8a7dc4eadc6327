"""Modules of the user's own that go to the workers with what they define."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from ray import cloudpickle


@contextlib.contextmanager
def travelling(modules: Iterable[str]) -> Iterator[None]:
    """Have classes and functions of imported modules pickled by value, as workers may not have their files."""
    found = [sys.modules[name] for name in dict.fromkeys(modules) if name in sys.modules]
    for module in found:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in found:
            cloudpickle.unregister_pickle_by_value(module)
