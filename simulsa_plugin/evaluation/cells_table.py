"""The table that `simulsa-eval run` prints: the key metrics of every cell within the width of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from simulsa_plugin.evaluation.formatting import best_value, format_measured, metric_digits
from simulsa_plugin.evaluation.report import (
    COUNT_COLUMNS,
    TSV,
    ScoresRow,
    cell_notes,
    is_long_form,
    is_streaming,
    measured_instances,
    value_columns,
)
from simulsa_plugin.evaluation.result_cells import COMET, cell_key
from simulsa_plugin.tables import TERMINAL_WIDTH, align, styled

# The most important first: those that do not fit beside the others are left out.
KEY_METRICS = ("BLEU", "chrF", COMET, "LAAL", "LAAL_CA", "YAAL", "NE", "LAAL_above_limit", "AL", "AP", "DAL")
KEY_LONG_METRICS = (
    *("BLEU", "chrF", COMET, "LongYAAL", "LongYAAL_CA", "NE"),
    *("LongLAAL", "StreamLAAL", "LongYAAL_above_limit"),
)


def cells_table(cells: Sequence[ScoresRow], width: int = TERMINAL_WIDTH) -> list[str]:
    """Format the key metrics of cells and limits as aligned lines, followed by notes.

    Left out are columns without a value, counts that are the same in every cell, and metrics that do not fit; a note
    says which. The best of the streaming cells are emphasised, see `StyledText`. All metrics are in scores.tsv.

    Args:
        cells: rows of `cells` and of the limits of scores.json.
        width: columns of characters that the table takes at most.
    """
    key_metrics = KEY_LONG_METRICS if is_long_form(cells) else KEY_METRICS
    metrics = [name for name in key_metrics if any(cell.get(name) is not None for cell in cells)]
    counts = list(_shown_counts(cells))
    lines = align(_table(cells, metrics, counts))
    while len(metrics) > 1 and max(map(len, lines)) > width:
        del metrics[-1]
        lines = align(_table(cells, metrics, counts))
    return [*lines, *cell_notes(cells, metrics), *_further_metrics(cells, metrics)]


def key_metrics_rows(cells: Sequence[ScoresRow]) -> list[list[str]]:
    """Return rows of text with a head: the key metrics that some cell has, and counts that differ."""
    key_metrics = KEY_LONG_METRICS if is_long_form(cells) else KEY_METRICS
    metrics = [name for name in key_metrics if any(cell.get(name) is not None for cell in cells)]
    return _table(cells, metrics, list(_shown_counts(cells)))


def _table(cells: Sequence[ScoresRow], metrics: Sequence[str], counts: Sequence[str]) -> list[list[str]]:
    best = {name: best_value(name, (cell.get(name) for cell in cells if is_streaming(cell))) for name in metrics}
    rows = [
        [
            str(cell_key(cell)),
            *(_format_value(cell, name, best[name]) for name in metrics),
            *(str(cell[name]) for name in counts),
        ]
        for cell in cells
    ]
    return [["cell", *metrics, *counts], *rows]


def _format_value(cell: ScoresRow, metric: str, best: float | None) -> str:
    """Format a value, and how many instances have one where these are not all."""
    value = cell.get(metric)
    text = format_measured(value, measured_instances(cell, metric), cell["instances"], metric_digits(metric))
    return styled(text, "best" if best is not None and value == best and is_streaming(cell) else None)


def _shown_counts(cells: Sequence[ScoresRow]) -> Iterator[str]:
    """Yield the counts that differ between cells, and of instances without output or skipped those above 0."""
    for name in COUNT_COLUMNS:
        found = {cell[name] for cell in cells}
        if len(found) > 1 or (name != "instances" and any(found)):
            yield name


def _further_metrics(cells: Sequence[ScoresRow], shown: Sequence[str]) -> Iterator[str]:
    """Yield where metrics are that have a value, and no column."""
    names = [
        name for name in value_columns(cells) if name not in shown and any(cell.get(name) is not None for cell in cells)
    ]
    if names:
        yield from textwrap.wrap(f"also in {TSV}: {', '.join(names)}", TERMINAL_WIDTH)
