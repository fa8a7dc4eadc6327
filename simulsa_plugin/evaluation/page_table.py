"""The table of all cells on a page, of one result or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulsa_plugin.evaluation.budgets import budgets_in_words
from simulsa_plugin.evaluation.formatting import (
    MILLISECONDS,
    best_value,
    format_interval,
    format_number,
    is_partial,
    metric_digits,
    metric_unit,
)
from simulsa_plugin.evaluation.report import COUNT_COLUMNS, ScoresRow, is_streaming, measured_instances
from simulsa_plugin.reports.page import Column, Value, html_table

CAPTION = "All cells: values with 95 % intervals and, where a mean is of some instances only, their number"


def cells_html(rows: Sequence[tuple[str, ScoresRow]], metrics: Sequence[str], time: str = MILLISECONDS) -> str:
    """Return the table of cells as HTML: what identifies each, the metrics that some have, counts; the best is marked.

    Args:
        rows: the name of a result, empty where there is only one, and a row of scores.json, or of a log, which may lack
            counts.
        metrics: in the order of the columns.
        time: unit of latencies.
    """
    cells = [row for _, row in rows]
    metrics = [name for name in metrics if any(row.get(name) is not None for row in cells)]
    parameters = list(dict.fromkeys(name for row in cells for name in row.get("parameters") or {}))
    best = {name: best_value(name, (row.get(name) for row in cells if is_streaming(row))) for name in metrics}
    counts = [name for name in COUNT_COLUMNS if any(row.get(name) is not None for row in cells)]
    named, tuned = any(name for name, _ in rows), any(map(budgets_in_words, cells))
    columns = [
        *([Column("result")] if named else []),
        Column("policy"),
        Column("chunk ms", numeric=True),
        Column("rollback", numeric=True),
        *(Column(name.replace("_", " "), numeric=True) for name in parameters),
        *([Column("tuned on dev for")] if tuned else []),
        *(Column(f"{name} {metric_unit(name, time)}".rstrip(), numeric=True) for name in metrics),
        *(Column(name, numeric=True) for name in counts),
    ]
    lines = [
        [
            *([name] if named else []),
            row["policy"],
            number_value(row["chunk_ms"]),
            number_value(row["rollback"]),
            *(number_value((row.get("parameters") or {}).get(parameter)) for parameter in parameters),
            *([budgets_in_words(row)] if tuned else []),
            *(_metric_value(row, metric, best[metric], time) for metric in metrics),
            *(number_value(row.get(count)) for count in counts),
        ]
        for name, row in rows
    ]
    return html_table(columns, lines, CAPTION)


def number_value(value: Any) -> Value:
    """Return a number as a value of a table, a dash where there is none; another value, of a parameter, as text."""
    if value is None:
        return Value("–")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Value(f"{value:g}" if is_number else str(value), float(value) if is_number else None)


def _metric_value(row: ScoresRow, metric: str, best: float | None, time: str) -> Value:
    value, digits, measured = row.get(metric), metric_digits(metric, time), measured_instances(row, metric)
    if value is None:
        return Value("–")
    bounds = (row.get("intervals") or {}).get(metric)
    return Value(
        format_number(value, digits),
        value,
        format_interval(bounds, digits) if bounds else "",
        f"{measured} of {row['instances']}" if is_partial(value, measured, row.get("instances")) else "",
        is_streaming(row) and value == best,
    )
