"""report.html of one or several results: curves, tables that sort, and instances to look at and to listen to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

from simulsa_plugin.evaluation.budgets import budgets_in_words
from simulsa_plugin.evaluation.formatting import format_metric, format_number, metric_digits
from simulsa_plugin.evaluation.instance_browser import BROWSER, BROWSER_SCRIPT, SECTION, browser_data
from simulsa_plugin.evaluation.limit import LIMIT
from simulsa_plugin.evaluation.named_result import NamedResult
from simulsa_plugin.evaluation.page_table import cells_html, number_value
from simulsa_plugin.evaluation.report import (
    ScoresRow,
    cell_notes,
    is_long_form,
    is_streaming,
    main_latency,
    training_step,
    value_columns,
)
from simulsa_plugin.evaluation.result_cells import CellKey, cell_key
from simulsa_plugin.metrics.delays import CLOCKS, DELAY_KINDS
from simulsa_plugin.reports.names import model_name
from simulsa_plugin.reports.page import CHARTS, Column, Value, cards, html_table, render_page, settings_list
from simulsa_plugin.terminal import html_text

QUALITIES = ("BLEU", "chrF", "COMET")
LATENCY_BOUNDS = (1000, 2000, 4000)  # ms, of the values that are shown first
SHOWN_BOUNDS = 2
LATENCIES = (
    "LAAL",
    "YAAL",
    "AL",
    "DAL",
    "ATD",
    "LAAL_CA",
    "LongYAAL",
    "LongLAAL",
    "LongAL",
    "StreamLAAL",
    "LongYAAL_CA",
)


def result_page(results: Sequence[NamedResult], title: str) -> str:
    """Return the HTML of a report.

    Args:
        results: of one form, all of utterances or all of recordings; the baseline first.
        title: of the page.
    """
    rows = [row for result in results for row in result.rows]
    return render_page(
        title, _sections(results, rows), _data(results, rows), (*CHARTS, BROWSER_SCRIPT, "evaluation.js")
    )


def _sections(results: Sequence[NamedResult], rows: Sequence[ScoresRow]) -> Iterator[str]:
    yield from (_overview(result) for result in results)
    yield (
        '<div class="overview"><section><h2>Quality over latency</h2><div class="controls" id="axes"></div>'
        '<figure id="curves"></figure></section>'
        '<section><h2>Quality over chunk</h2><figure id="by-chunk"></figure></section>'
        '<section><h2>Normalised erasure</h2><figure id="erasure"></figure></section></div>'
    )
    named = [(result.name, row) for result in results for row in result.rows]
    yield f"<h2>Cells</h2>{cells_html(named, value_columns(rows))}"
    yield "".join(f'<p class="note">{html_text(note)}</p>' for note in cell_notes(rows, value_columns(rows)))
    yield SECTION
    yield f"<h2>{main_latency(rows)} by three delays, and on three clocks</h2>" + _clocks_table(results)
    yield (
        '<p class="note">First stable: from then on the unit is displayed. Last written: it was not written again. '
        "Committed: nothing can change it. Cumulative: all computation so far, as in SimulEval; per step: that of the "
        "step, as in simulstream; queue: a step starts when its audio has arrived and the step before it is done, the "
        "real waiting time. Clocks have values where computation was measured.</p>"
    )
    for result in results:
        heading = f" of {html_text(result.name)}" if result.name else ""
        yield f"<h2>Signatures{heading}</h2>{settings_list(result.scores['signatures'])}"
        yield f"<details><summary>Settings{heading}</summary>{settings_list(_settings(result.scores))}</details>"


def _overview(result: NamedResult) -> str:
    scores = result.scores
    offline = next((row for row in result.rows if row["chunk_ms"] is None and row["policy"] != LIMIT), None)
    values, note = _first_cells(result.rows)
    if offline:
        values["BLEU offline"] = offline
    facts = {
        "test set": str(scores["dataset"]),
        "recordings" if is_long_form(result.rows) else "utterances": _decoded(scores),
        "model": model_name(scores["model"]),
        **{name: format_metric("BLEU", row.get("BLEU")) for name, row in values.items()},
    }
    reasons = Counter(str(one.get("reason")) for one in scores["skipped"])
    known = {
        "cells": str(len(scores["cells"])),
        "latency unit": result.unit,
        "BLEU tokenizer": result.signature_field("BLEU", "tok"),
        "skipped in every cell": ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none",
    }
    line = "; ".join(f"{name}: {text}" for name, text in known.items() if text)
    notes = "".join(
        f'<p class="note">{html_text(text)}</p>' for text in (note, f"{line[:1].upper()}{line[1:]}.") if text
    )
    return f"{_heading(result.name)}{cards({name: value for name, value in facts.items() if value})}{notes}"


def _first_cells(rows: Sequence[ScoresRow]) -> tuple[dict[str, ScoresRow], str]:
    """Return the cells whose BLEU is shown first, by what is said of them, and which they are."""
    tuned = {f"BLEU, tuned for {said}": row for row in rows if (said := budgets_in_words(row))}
    if tuned:
        return dict(list(tuned.items())[:SHOWN_BOUNDS]), ""
    latency, best = main_latency(rows), best_within(rows)
    cells = "; ".join(f"≤ {bound} ms: {cell_key(row)}" for bound, row in best.items())
    return (
        {f"best BLEU with {latency} ≤ {bound} ms": row for bound, row in best.items()},
        f"Best cells of this test set: {cells}. To report one, choose it on a dev set (simulsa-eval tune)."
        if best
        else "",
    )


def _decoded(scores: Mapping[str, Any]) -> str:
    rows, skipped = scores["rows"], len(scores["skipped"])
    return f"{rows - skipped:,} of {rows:,}" if skipped else f"{rows:,}"


def best_within(rows: Sequence[ScoresRow]) -> dict[int, ScoresRow]:
    """Return the streaming cell of the highest BLEU by bound of latency (ms), for two bounds whose cells differ.

    >>> cells = [{"policy": "wait_k", "chunk_ms": k, "BLEU": k / 100, "LAAL": k} for k in (900, 1500, 3500)]
    >>> {bound: row["chunk_ms"] for bound, row in best_within(cells).items()}
    {1000: 900, 2000: 1500}
    """
    latency = main_latency(rows)
    cells = [row for row in rows if is_streaming(row) and None not in (row.get(latency), row.get("BLEU"))]
    found: dict[int, ScoresRow] = {}
    for bound in LATENCY_BOUNDS:
        within = [row for row in cells if row[latency] <= bound]
        if within and (best := max(within, key=lambda row: float(row["BLEU"]))) not in found.values():
            found[bound] = best
    return dict(list(found.items())[:SHOWN_BOUNDS])


def _heading(name: str) -> str:
    return f"<h2>{html_text(name)}</h2>" if name else ""


def _settings(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determined the result: the settings, the model, and what decoded it."""
    model = {key: value for key, value in scores["model"].items() if value is not None}
    decoded_on = {"decoded on": scores["decoded_on"]} if scores.get("decoded_on") else {}
    step = training_step(scores)
    training = {} if step is None else {"training step": step}
    return {**scores.get("settings", {}), **model, **training, **scores.get("versions", {}), **decoded_on}


def _clocks_table(results: Sequence[NamedResult]) -> str:
    """Return the table of delays and clocks, with the columns that have any value."""
    columns = [
        Column("cell"),
        *(Column(f"{name.replace('_', ' ')} ms", numeric=True) for name in (*DELAY_KINDS, *CLOCKS)),
        Column("real-time factor", numeric=True),
    ]
    rows = [
        [
            Value(result.label(cell)),
            *(_mean(cell, "delays", name, main_latency(result.rows)) for name in DELAY_KINDS),
            *(_mean(cell, "clocks", name, main_latency(result.rows)) for name in CLOCKS),
            number_value(cell.get("real_time_factor")),
        ]
        for result in results
        for cell in result.scores["cells"]
    ]
    used = [
        not column.numeric or any(row[place].number is not None for row in rows) for place, column in enumerate(columns)
    ]
    return html_table(list(compress(columns, used)), [list(compress(row, used)) for row in rows])


def _mean(cell: ScoresRow, group: str, name: str, latency: str) -> Value:
    means = (cell.get(group) or {}).get(name)
    value = None if means is None else means.get(latency)
    return Value("–") if value is None else Value(format_number(value, metric_digits(latency)), value)


def _data(results: Sequence[NamedResult], rows: Sequence[ScoresRow]) -> dict[str, Any]:
    present = {name for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    return {
        "qualities": [name for name in QUALITIES if name in present],
        "latencies": [name for name in _ordered_latencies(rows) if name in present],
        "cells": [_cell_json(result, row) for result in results for row in result.rows],
        BROWSER: browser_data(results),
    }


def _ordered_latencies(rows: Sequence[ScoresRow]) -> list[str]:
    return list(dict.fromkeys([main_latency(rows), *LATENCIES]))


def _cell_json(result: NamedResult, row: ScoresRow) -> dict[str, Any]:
    key = cell_key(row)
    series = CellKey(key.policy, None, key.rollback, key.parameters)
    return {
        "label": result.label(row),
        "series": f"{result.name}: {series}" if result.name else str(series),
        "chunk": row["chunk_ms"],
        "tuned": budgets_in_words(row),
        "kind": LIMIT if row["policy"] == LIMIT else "offline" if row["chunk_ms"] is None else "streaming",
        "values": {
            name: row[name] for name in (*QUALITIES, *LATENCIES, "NE") if isinstance(row.get(name), (int, float))
        },
        "intervals": {name: bounds for name, bounds in (row.get("intervals") or {}).items() if bounds},
    }
