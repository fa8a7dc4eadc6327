"""The verdict of a comparison in sentences: which system is better at equal latency, or only shifted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from simulsa_plugin.comparison.equal_latency import LEAST_THINNED
from simulsa_plugin.evaluation.formatting import format_interval
from simulsa_plugin.evaluation.result_cells import OFFLINE, cell_key
from simulsa_plugin.files.json_files import Json
from simulsa_plugin.metrics.columns import mean_of
from simulsa_plugin.metrics.significance import LEAST_DIFFERING

SIGNIFICANT = 0.05  # p below it
_NAMED = 3  # cells that a sentence names
Direction = Literal["up", "down", "level"]  # of a difference, by its interval
UP: Direction = "up"
DOWN: Direction = "down"
LEVEL: Direction = "level"
# (quality at fixed settings, quality at equal latency, latency at fixed settings) → conclusion; None: any
_CONCLUSIONS: dict[tuple[Direction | None, Direction | None, Direction | None], str] = {
    (UP, UP, None): "The gain at fixed (k, b) is more than a shift along the curve.",
    (UP, LEVEL, UP): "The gain at fixed (k, b) is not shown to be more than a shift along the curve: it costs delay.",
    (UP, LEVEL, None): "The gain at fixed (k, b) does not show at equal latency.",
    (UP, DOWN, UP): "The gain at fixed (k, b) is a shift along a lower curve: as slow, the baseline is better.",
    (LEVEL, UP, DOWN): "The same quality comes sooner.",
    (LEVEL, DOWN, UP): "The same quality comes later.",
    (DOWN, UP, DOWN): "The loss at fixed (k, b) is a shift along a higher curve: as slow, the other is better.",
    (DOWN, LEVEL, DOWN): "The loss at fixed (k, b) is not shown to be more than a shift: it saves delay.",
    (DOWN, DOWN, None): "The loss at fixed (k, b) is more than a shift along the curve.",
}


def verdict(curves: Json, cells: Sequence[Json]) -> str:
    """Summarise the comparison of one policy, or of all streaming cells, in sentences.

    "Better" and "worse" are claimed only where the 95 % interval of the difference excludes 0, delays only where the
    cells' latency intervals do. Only shared cells count.
    """
    quality, latency = curves["quality"], curves["latency"]
    of_policy = [cell for cell in cells if curves["policy"] in (None, cell["policy"])]
    fixed = [cell for cell in of_policy if _is_shared(cell, quality, latency)]
    sentences = [_at_fixed_settings(fixed, quality, latency)] if fixed else []
    if not all(curves["knots"].values()):
        return " ".join(
            [*sentences, f"No curve can be drawn: a side has no streaming cell with {quality} and {latency}."]
        )
    if curves["range"] is None:
        return " ".join(
            [*sentences, f"The curves share no range of {latency}: what is better at equal {latency} cannot be said."]
        )
    sentences += _describe_grids(curves["grids"], latency)
    if not curves["grids"]["comparable"]:
        return " ".join(sentences)
    sentences.append(_at_equal_latency(curves, quality, latency))
    directions = _majority(fixed, quality), _curve_direction(curves), _majority(fixed, latency)
    conclusion = _CONCLUSIONS.get(directions) or _CONCLUSIONS.get((*directions[:2], None))
    return " ".join([*sentences, conclusion] if conclusion else sentences)


def _describe_grids(grids: Json, latency: str) -> list[str]:
    """Name the compared cells, where these are not all."""
    alone = [
        f"only the {side} has {_list_cells(grids[f'{side}_only'])}"
        for side in ("baseline", "other")
        if grids[f"{side}_only"]
    ]
    if not grids["comparable"]:
        return [
            f"The grids differ ({grids['shared']} shared; {'; '.join(alone)}): what is better at equal {latency} "
            f"cannot be told from the choice of cells. Evaluate both in the same cells."
        ]
    if grids["compared"] == "all":
        return ["The policies differ, so each side is compared by the cells that it was given."]
    return (
        [f"The grids differ, so only the {grids['shared']} shared cells are compared ({'; '.join(alone)})."]
        if alone
        else []
    )


def _list_cells(cells: Sequence[Json]) -> str:
    names = [str(cell_key(cell)) for cell in cells]
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _at_fixed_settings(cells: Sequence[Json], quality: str, latency: str) -> str:
    gain, delay = (
        mean_of([cell["metrics"][name]["difference"] for cell in cells]) or 0.0 for name in (quality, latency)
    )
    directions = [_cell_direction(cell, quality) for cell in cells]
    tested = len(cells) - directions.count(None)
    counts = (
        f"significantly better in {directions.count(UP)} of {tested} cells, worse in {directions.count(DOWN)}"
        if tested
        else "no interval, so nothing is claimed"
    )
    later = f"{abs(delay):.0f} ms {'more' if delay > 0 else 'less'} {latency}" if round(delay) else f"as much {latency}"
    return f"At fixed (k, b) the other differs by {gain:+.2f} {quality} on average ({counts}), with {later}."


def _at_equal_latency(curves: Json, quality: str, latency: str) -> str:
    low, high = curves["range"]
    bounds = curves["interval"]
    interval = "" if bounds is None else f" {format_interval(bounds, 2, signed=True)}"
    size = f"{curves['mean_difference']:+.2f} {quality}{interval}"
    claims = {
        UP: "the other is better",
        DOWN: "the other is worse",
        LEVEL: "the difference is not significant",
        None: _no_claim(curves),
    }
    points = sorted(curves["points"], key=lambda point: point[latency])
    direction = _curve_direction(curves)
    word = {UP: "better", DOWN: "worse"}.get(direction or LEVEL)  # of several points one may differ by chance
    places = _ranges(points, latency, direction) if direction and word else []
    if direction == LEVEL and _differ_too_few(curves):
        size += f" ({curves['differing']} utterances differ, too few to tell)"
    where = f"; by itself it is {word} at {' and '.join(places)} ms" if places else ""
    return f"At equal {latency} ({low:.0f}–{high:.0f} ms) {claims[direction]}: {size} on average{where}."


def _no_claim(curves: Json) -> str:
    if curves["sampling_interval"] is not None and min(curves["grids"]["cells"].values()) < LEAST_THINNED:
        return f"none is claimed from fewer than {LEAST_THINNED} cells, as their interpolation has no interval"
    return "the difference has no interval, so none is claimed"


def _majority(cells: Sequence[Json], name: str) -> Direction | None:
    """Return UP or DOWN where most cells are, and none is opposite; LEVEL where all are; None where they disagree."""
    directions = [found for cell in cells if (found := _cell_direction(cell, name)) is not None]
    if not directions:
        return None
    for kind, opposite in ((UP, DOWN), (DOWN, UP)):
        if 2 * directions.count(kind) > len(directions) and opposite not in directions:
            return kind
    return LEVEL if set(directions) == {LEVEL} else None


def _ranges(points: Sequence[Json], latency: str, kind: Direction) -> list[str]:
    """Return ranges of latencies at which neighbouring points have a direction."""
    ranges = []
    for agreed, group in itertools.groupby(points, key=lambda point: _direction(point["interval"]) == kind):
        places = [f"{point[latency]:.0f}" for point in group]
        if agreed:
            ranges.append(places[0] if len(places) == 1 else f"{places[0]}–{places[-1]}")
    return ranges


def _direction(bounds: Sequence[float] | None) -> Direction | None:
    if bounds is None:
        return None
    return UP if bounds[0] > 0 else DOWN if bounds[1] < 0 else LEVEL


def _cell_direction(cell: Json, name: str) -> Direction | None:
    return difference_direction(cell["metrics"][name])


def difference_direction(metric: Json) -> Direction | None:
    """Return the direction of a difference; LEVEL where p is large or few utterances differ, None where unknown.

    Args:
        metric: one of a cell of a pair in the JSON of `compare`, or a point at equal latency.
    """
    direction, p_value = _direction(metric.get("interval")), metric.get("randomisation_p_value")
    insignificant = p_value is not None and p_value >= SIGNIFICANT
    return LEVEL if direction is not None and (insignificant or _differ_too_few(metric)) else direction


def _curve_direction(curves: Json) -> Direction | None:
    """Return the direction of the mean difference; LEVEL where few utterances differ."""
    direction = _direction(curves["interval"])
    return LEVEL if direction is not None and _differ_too_few(curves) else direction


def _differ_too_few(compared: Json) -> bool:
    count = compared.get("differing")
    return count is not None and count < LEAST_DIFFERING


def _is_shared(cell: Json, *names: str) -> bool:
    """Return whether a streaming cell has all metrics on both sides, so that averages are over the same cells."""
    return (
        cell["policy"] != OFFLINE
        and cell["chunk_ms"] is not None
        and all(cell["metrics"].get(name, {}).get("difference") is not None for name in names)
    )
