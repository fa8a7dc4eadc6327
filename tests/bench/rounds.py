"""Timings of several ways of doing one thing, in turns (A B A B …), so that a busy machine slows all of them alike."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: processor time of this process and of those that it waited for, and on the clock."""

    cpu: float
    wall: float


def time_call(call: Callable[[], object]) -> Timing:
    """Time one call; on a GPU the call itself must wait for its end."""
    before, start = os.times(), time.perf_counter()
    call()
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return Timing(cpu, time.perf_counter() - start)


def time_in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Timing]]:
    """Time every call once in each round."""
    timings: dict[str, list[Timing]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timings[name].append(time_call(call))
    return timings


def report(timings: Mapping[str, Sequence[Timing]], base: str) -> Iterator[str]:
    """Yield lines: for each way median and range of its seconds, and of their ratios to `base` round by round."""
    rounds, (load, *_) = len(timings[base]), os.getloadavg()
    yield f"{rounds} rounds in turns, median [range]; load average {load:.1f} on {os.cpu_count()} processors"
    width = max(map(len, timings))
    for name, taken in timings.items():
        yield f"{name:{width}}  " + ", ".join(
            f"{kind} {_spread([getattr(one, kind) for one in taken])} s"
            + ("" if name == base else f" = {_spread(_ratios(taken, timings[base], kind))} × {base}")
            for kind in ("cpu", "wall")
        )


def _ratios(taken: Sequence[Timing], base: Sequence[Timing], kind: str) -> list[float]:
    pairs = [(getattr(one, kind), getattr(other, kind)) for one, other in zip(taken, base, strict=True)]
    return [one / other if other else math.nan for one, other in pairs]  # what only waits takes no processor time


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} [{min(values):.3g}–{max(values):.3g}]"
