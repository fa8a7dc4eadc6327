"""Numbers as tables and messages show them: units, decimals, intervals, counts, policy parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from simulsa_plugin.metrics.instance import PERCENT_METRICS

MILLISECONDS, SOURCE_TOKENS = "ms", "tokens"  # of source audio, or of source text


def counted(count: int, thing: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "recording"), counted(30, "segment")
    ('1 recording', '30 segments')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def time_unit(signatures: Mapping[str, str]) -> str:
    """Return the unit of the latencies that signatures describe: ms, or tokens where the source is text.

    >>> time_unit({"latency": "unit:word|time:source-tokens|as:SimulEval-1.1.4"}), time_unit({})
    ('tokens', 'ms')
    """
    return SOURCE_TOKENS if "time:source-tokens" in signatures.get("latency", "").split("|") else MILLISECONDS


def metric_unit(metric: str, time: str = MILLISECONDS) -> str:
    """Return the unit of a metric: that of time for latencies, % for shares, none for ratios and scores of 0…100.

    >>> metric_unit("LAAL_CA"), metric_unit("StreamAP"), metric_unit("BLEU"), metric_unit("SWF")
    ('ms', '', '', '%')
    """
    name = metric.removesuffix("_CU").removesuffix("_CA").removeprefix("Stream")
    return "%" if name in PERCENT_METRICS else "" if name in ("BLEU", "chrF", "COMET", "AP", "NE") else time


def metric_digits(metric: str, time: str = MILLISECONDS) -> int:
    """Return the decimals with which a metric is shown: what its noise leaves of it.

    >>> [metric_digits(name) for name in ("BLEU", "COMET", "LAAL_CA", "AP", "NE", "SWF")], metric_digits("AL", "tokens")
    ([2, 4, 0, 3, 3, 1], 3)
    """
    if metric in ("BLEU", "chrF"):
        return 2
    unit = metric_unit(metric, time)
    return 4 if metric == "COMET" else {MILLISECONDS: 0, "%": 1}.get(unit, 3)


def better_direction(metric: str) -> int:
    """Return 1 where higher values of a metric are better, -1 where lower are, 0 where neither.

    >>> [better_direction(name) for name in ("BLEU", "LongYAAL", "NE", "SWF")]
    [1, -1, -1, 0]
    """
    if metric in ("BLEU", "chrF", "COMET"):
        return 1
    return 0 if metric in PERCENT_METRICS else -1


def best_value(metric: str, values: Iterable[float | None]) -> float | None:
    """Return the best of the values that there are; None where fewer than two differ, or none is better.

    >>> best_value("BLEU", [20.0, None, 30.0]), best_value("LAAL", [900.0, 800.0]), best_value("SWF", [1.0, 2.0])
    (30.0, 800.0, None)
    """
    direction, known = better_direction(metric), {value for value in values if value is not None}
    return max(known, key=lambda value: direction * value) if direction and len(known) > 1 else None


def format_metric(metric: str, value: float | None, time: str = MILLISECONDS, *, signed: bool = False) -> str:
    """Format a value of a metric, or a difference of two, with the decimals of the metric; a dash where there is none.

    >>> format_metric("LAAL", 1234.5678), format_metric("BLEU", 0.125, signed=True), format_metric("NE", None)
    ('1235', '+0.12', '–')
    """
    return format_number(value, metric_digits(metric, time), signed=signed)


def format_number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Format a number; a dash where there is none.

    >>> format_number(12.3456), format_number(1.26, 1, signed=True), format_number(None)
    ('12.346', '+1.3', '–')
    """
    return "–" if value is None else f"{value:{'+' if signed else ''}.{digits}f}"


def format_interval(bounds: Sequence[float] | None, digits: int = 3, *, signed: bool = False) -> str:
    """Format the two bounds of an interval; a dash where there is none.

    >>> format_interval([1.0, 2.5], 1), format_interval((-1.0, 2.0), 0, signed=True), format_interval(None)
    ('[1.0, 2.5]', '[-1, +2]', '–')
    """
    if bounds is None:
        return format_number(None)
    return f"[{', '.join(format_number(bound, digits, signed=signed) for bound in bounds)}]"


def format_measured(value: float | None, measured: int | None, total: int | None, digits: int = 3) -> str:
    """Format a mean, and how many instances it rests on where these are not all.

    >>> format_measured(1.0, 3, 4), format_measured(1.0, 4, 4), format_measured(None, 0, 4)
    ('1.000 (3/4)', '1.000', '–')
    """
    return format_number(value, digits) + (f" ({measured}/{total})" if is_partial(value, measured, total) else "")


def is_partial(value: float | None, measured: int | None, total: int | None) -> bool:
    """Whether there is a value, and it is known to rest on fewer instances than there are."""
    return value is not None and measured is not None and total is not None and measured != total


def format_range(counts: Iterable[int | float]) -> str:
    """Format the least and the greatest of some counts, or the one that all are.

    >>> format_range([3, 7, 3]), format_range([2, 2])
    ('3 to 7', '2')
    """
    counts = list(counts)
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def name_cells(chosen: Iterable[str], cells: Iterable[str], kind: str = "cells") -> str:
    """Name some of the cells that a note is about; where it is about all of three or more, "all".

    >>> name_cells(["a", "b"], ["a", "b", "c"]), name_cells(["a", "b", "c"], ["a", "b", "c"])
    ('a, b', 'all 3 cells')
    """
    named, everything = dict.fromkeys(chosen), dict.fromkeys(cells)
    if len(everything) > 2 and named.keys() == everything.keys():
        return f"all {len(everything)} {kind}"
    return ", ".join(named)


def format_parameters(parameters: object) -> str:
    """Format the parameters of a policy.

    >>> format_parameters({"wait_k": 3}), format_parameters({})
    ('wait_k=3', '')
    """
    if not isinstance(parameters, Mapping):
        return str(parameters)
    return " ".join(f"{key}={value}" for key, value in parameters.items())
