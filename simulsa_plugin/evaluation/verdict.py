"""The closing sentences of a comparison: what is better at which latency, and whether a gain is only a shift."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from simulsa_plugin.evaluation.cells import OFFLINE
from simulsa_plugin.metrics.columns import mean_of

Json = Mapping[str, Any]
BETTER, WORSE, UNCLEAR = "better", "worse", "not distinguishable"


def verdict(curves: Json, cells: Sequence[Json]) -> str:
    """Sentences about one policy, or about all streaming cells.

    Args:
        curves: an entry of `equal_latency`.
        cells: the compared cells.

    "Better" and "worse" are said only where the 95 % interval of the difference does not hold 0.
    """
    quality, latency = curves["quality"], curves["latency"]
    fixed = [cell for cell in cells if curves["policy"] in (None, cell["policy"]) and _is_shared(cell, quality)]
    sentences = [_at_fixed_settings(fixed, quality, latency)] if fixed else []
    if curves["range"] is None:
        return " ".join([*sentences, f"The curves share no range of {latency}: what is better at equal {latency} "
                                     f"cannot be said."])
    sentences.append(_at_equal_latency(curves, quality, latency))
    return " ".join([*sentences, *_conclusion(_judged_cells(fixed, quality), _judge(curves["interval"]))])


def _at_fixed_settings(cells: Sequence[Json], quality: str, latency: str) -> str:
    gain = mean_of([cell["metrics"][quality]["difference"] for cell in cells])
    delay = mean_of([cell["metrics"].get(latency, {}).get("difference") for cell in cells])
    judged = [_judge(cell["metrics"][quality]["interval"]) for cell in cells]
    counts = f"significantly better in {judged.count(BETTER)} of {len(cells)} cells, worse in {judged.count(WORSE)}"
    later = "" if delay is None else f", with {abs(delay):.0f} ms {'more' if delay >= 0 else 'less'} {latency}"
    return f"At fixed (k, b) the other differs by {gain:+.2f} {quality} on average ({counts}){later}."


def _at_equal_latency(curves: Json, quality: str, latency: str) -> str:
    low, high = curves["range"]
    bounds = curves["interval"]
    judged = _judge(bounds)
    interval = "" if bounds is None else f" [{bounds[0]:+.2f}, {bounds[1]:+.2f}]"
    size = f"{curves['mean_difference']:+.2f} {quality}{interval}"
    said = {BETTER: "the other is better", WORSE: "the other is worse",
            UNCLEAR: "no difference can be told", None: "the difference has no interval, so none is claimed"}[judged]
    places = [f"{kind} at {' and '.join(_ranges(curves['points'], latency, kind))} ms"
              for kind in (BETTER, WORSE) if _ranges(curves["points"], latency, kind)]
    where = f"; by itself it is {', '.join(places)}" if places else ""
    return f"At equal {latency} ({low:.0f}–{high:.0f} ms) {said}: {size} on average{where}."


def _conclusion(fixed: str | None, equal: str | None) -> list[str]:
    if equal is None or fixed is None:
        return []
    said = {
        (BETTER, BETTER): "The gain at fixed (k, b) is more than a shift along the curve.",
        (BETTER, UNCLEAR): "The gain at fixed (k, b) is only a shift along the curve: it is paid for with delay.",
        (BETTER, WORSE): "The gain at fixed (k, b) is a shift along a lower curve: as slow, the baseline is better.",
        (UNCLEAR, BETTER): "What is gained is delay: the same quality comes sooner.",
        (WORSE, BETTER): "The loss at fixed (k, b) is a shift along a higher curve: as slow, it is better.",
        (WORSE, UNCLEAR): "The loss at fixed (k, b) is only a shift along the curve: it is repaid in delay.",
        (WORSE, WORSE): "The loss at fixed (k, b) is more than a shift along the curve.",
        (UNCLEAR, WORSE): "What is lost is delay: the same quality comes later.",
    }
    return [said[fixed, equal]] if (fixed, equal) in said else []


def _judged_cells(cells: Sequence[Json], quality: str) -> str | None:
    """Better or worse where most cells are, and none is the opposite; None where no cell has an interval."""
    judged = [found for cell in cells if (found := _judge(cell["metrics"][quality]["interval"])) is not None]
    if not judged:
        return None
    for kind, opposite in ((BETTER, WORSE), (WORSE, BETTER)):
        if 2 * judged.count(kind) > len(judged) and opposite not in judged:
            return kind
    return UNCLEAR


def _ranges(points: Sequence[Json], latency: str, kind: str) -> list[str]:
    """Latencies at which neighbouring points agree, as ranges."""
    ranges = []
    for agreed, group in itertools.groupby(points, key=lambda point: _judge(point["interval"]) == kind):
        places = [f"{point[latency]:.0f}" for point in group]
        if agreed:
            ranges.append(places[0] if len(places) == 1 else f"{places[0]}–{places[-1]}")
    return ranges


def _judge(bounds: Sequence[float] | None) -> str | None:
    """What an interval of a difference in quality says."""
    if bounds is None:
        return None
    return BETTER if bounds[0] > 0 else WORSE if bounds[1] < 0 else UNCLEAR


def _is_shared(cell: Json, quality: str) -> bool:
    return cell["policy"] != OFFLINE and cell["chunk_ms"] is not None and \
        cell["metrics"].get(quality, {}).get("difference") is not None
