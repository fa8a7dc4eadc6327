"""The page of a comparison: curves, sentences at equal latency, differences, and the values of every result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from simulsa_plugin.comparison.blocks import Block, Heading, Paragraph
from simulsa_plugin.comparison.comparison_tables import explanations, pair_blocks, regimes_of
from simulsa_plugin.comparison.picture import curve_pairs
from simulsa_plugin.comparison.shown_results import Row, ShownResult
from simulsa_plugin.evaluation.formatting import (
    best_value,
    format_interval,
    format_metric,
    format_parameters,
    metric_digits,
    metric_unit,
)
from simulsa_plugin.evaluation.instance_browser import BROWSER, BROWSER_SCRIPT, SECTION, browser_data
from simulsa_plugin.evaluation.result_cells import CELL_METRICS, cell_key
from simulsa_plugin.metrics.curves import frontier
from simulsa_plugin.reports.page import CHARTS, Column, Value, cards, html_table, render_page, settings_list
from simulsa_plugin.tables import StyledText
from simulsa_plugin.terminal import html_text

SCRIPT = "comparison.js"
FIRST_METRICS = ("BLEU", "chrF", "COMET", "LAAL", "LongYAAL", "StreamLAAL", "YAAL", "NE")  # of the table of all cells
MOST_LINES = 3  # of a paragraph that is shown at once
QUALITIES = ("BLEU", "chrF", "COMET")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def comparison_page(comparison: dict[str, Any], results: Sequence[ShownResult], latency: str) -> str:
    """Return the page of a comparison as HTML, for one file.

    Args:
        comparison: the JSON of `compare`; with `log_points`, see `report`.
        results: the baseline, then the others.
        latency: metric over which quality is drawn.
    """
    names = {result.path: result.name for result in results}
    baseline, *others = results
    title = f"{', '.join(one.name for one in others)} against {baseline.name}" if others else baseline.name
    instances = browser_data([result.folder for result in results if result.folder is not None])
    sections = [
        cards(_first_facts(comparison, results)),
        *_verdicts(comparison, names),
        "<h2>Quality over latency</h2>",
        '<div class="charts" id="curves"></div>',
        *(part for pair in comparison["comparisons"] for part in _pair(pair, comparison, names)),
        *map(_block, regimes_of(comparison)),
        "<h2>All cells</h2>",
        _cells_table(results, comparison["scale"]["time"]),
        SECTION if instances["instances"] else "",
        "<h2>How it was measured</h2>",
        *(f"<p>{html_text(line[:1].upper() + line[1:])}.</p>" for line in explanations(comparison)),
        *(part for result in results for part in _about(result)),
    ]
    data = {"charts": list(_charts(results, latency, comparison["scale"]["time"])), BROWSER: instances}
    scripts = (*CHARTS, *([BROWSER_SCRIPT] if instances["instances"] else []), SCRIPT)
    return render_page(title, sections, data, scripts)


def _first_facts(comparison: dict[str, Any], results: Sequence[ShownResult]) -> dict[str, str]:
    scale = comparison["scale"]
    tests = dict.fromkeys(result.facts["test set"] for result in results if "test set" in result.facts)
    counts = dict.fromkeys(str(row["instances"]) for result in results for row in result.rows if row.get("instances"))
    return {
        ("baseline" if len(results) > 1 else "result"): results[0].name,
        **({"test set": ", ".join(tests)} if tests else {}),
        "instances": ", ".join(counts) or "unknown",
        "latency unit": scale["unit"],
        "BLEU tokenizer": scale["tokenizer"],
    }


def _verdicts(comparison: dict[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """Yield the sentence at equal latency on every other result."""
    said = [(names[pair["other"]], curves["verdict"]) for pair, curves in curve_pairs(comparison)]
    said += [(names[one["other"]], one["sentence"]) for one in comparison.get("log_points", ())]
    if said:
        yield "<h2>At equal latency</h2>"
    for name, sentence in said:
        yield f"<h3>{html_text(name)}</h3><p>{html_text(sentence)}</p>"


def _pair(pair: dict[str, Any], comparison: dict[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    yield f"<h2>{html_text(names[pair['other']])} against {html_text(names[comparison['baseline']])}</h2>"
    yield "<p>Differences are other − baseline; coloured where they are significant.</p>"
    yield from map(_block, pair_blocks(pair, comparison["scale"]["time"]))


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h3>{html_text(block.text)}</h3>"
    if isinstance(block, Paragraph):
        text = "<br>".join(map(html_text, block.lines))
        if len(block.lines) > MOST_LINES:
            return f'<details><summary>{len(block.lines)} notes</summary><p class="note">{text}</p></details>'
        return f"<p>{text}</p>"
    head, *rows = block.rows
    columns = [Column(label, numeric=place > 0) for place, label in enumerate(head)]
    return html_table(columns, ([_value(text) for text in row] for row in rows), block.caption or _caption(head[0]))


def _caption(head: str) -> str:
    """Return what a table shows whose head says it on a terminal."""
    return "Differences of the other metrics" if head == "difference" else f"{head} of both results, and the difference"


def _value(text: str) -> Value:
    """Return a text of a table; the first number in it, if any, sorts."""
    found = _NUMBER.search(text)
    styles = {span.style for span in text.spans} if isinstance(text, StyledText) else set()
    return Value(str(text), float(found.group()) if found else None, best="better" in styles, worse="worse" in styles)


def _cells_table(results: Sequence[ShownResult], time: str) -> str:
    """Tabulate every cell of every result, the best of the streaming cells marked."""
    rows = [(result.name, row) for result in results for row in result.rows]
    rows += [("", row) for row in _limits(results)]
    names = dict.fromkeys((*FIRST_METRICS, *CELL_METRICS))
    metrics = [name for name in names if any(row.get(name) is not None for _, row in rows)]
    streaming = [row for result in results for row in result.streaming]
    best = {name: best_value(name, (row.get(name) for row in streaming)) for name in metrics}
    keys = ["result", "policy", "k (ms)", "b", "parameters"]
    columns = [Column(key, numeric=key in ("k (ms)", "b")) for key in keys]
    columns += [Column(f"{name} {metric_unit(name, time)}".rstrip(), numeric=True) for name in metrics]
    columns.append(Column("instances", numeric=True))
    return html_table(
        columns,
        (
            [name, *_key(row), *(_metric(row, metric, time, best[metric]) for metric in metrics), _count(row)]
            for name, row in rows
        ),
        "All cells: values with 95 % intervals and, where a mean is of some instances only, their number",
    )


def _key(row: Row) -> list[Value | str]:
    numbers = (row.get("chunk_ms"), row.get("rollback"))
    return [
        str(row["policy"]),
        *(Value("–" if value is None else f"{value:g}", value) for value in numbers),
        format_parameters(row.get("parameters") or {}),
    ]


def _metric(row: Row, metric: str, time: str, best: float | None) -> Value:
    value, total = row.get(metric), row.get("instances")
    bounds = (row.get("intervals") or {}).get(metric)
    skipped = ((row.get("counts") or {}).get("skipped") or {}).get(metric)
    partial = value is not None and bool(skipped) and total is not None
    return Value(
        format_metric(metric, value, time),
        value,
        "" if bounds is None else format_interval(bounds, metric_digits(metric, time)),
        f"{total - skipped}/{total}" if partial and total is not None and skipped is not None else "",
        best is not None and value == best and row["chunk_ms"] is not None,
    )


def _count(row: Row) -> Value:
    count = row.get("instances")
    return Value("–" if count is None else str(count), count)


def _about(result: ShownResult) -> Iterator[str]:
    yield f"<h3>{html_text(result.name)}</h3>"
    yield settings_list({"path": result.path, **result.facts})
    if result.signatures:
        yield f"<details><summary>Signatures of {html_text(result.name)}</summary>"
        yield f"{settings_list(result.signatures)}</details>"


def _charts(results: Sequence[ShownResult], latency: str, time: str) -> Iterator[dict[str, Any]]:
    """Yield a chart for every quality that some result has: a curve per result, its other cells as points."""
    for quality in QUALITIES:
        if any(_points(result.streaming, quality, latency, time) for result in results):
            unit = metric_unit(latency, time)
            yield {
                "series": list(_series(results, quality, latency, time)),
                "axes": {
                    "x": f"{latency} ({unit})",
                    "y": quality,
                    "description": f"{quality} over {latency} of {', '.join(one.name for one in results)}; "
                    "the table below has the values",
                    "level": list(_levels(results, quality)),
                },
            }


def _series(results: Sequence[ShownResult], quality: str, latency: str, time: str) -> Iterator[dict[str, Any]]:
    for number, result in enumerate(results):
        points = _points(result.streaming, quality, latency, time)
        curve = frontier((point["x"], point["y"]) for point in points)
        knots = set(zip(curve.latencies.tolist(), curve.qualities.tolist(), strict=True))
        look = {"color": f"series-{number % 8}", "symbol": number}
        on_curve = [point for point in points if (point["x"], point["y"]) in knots]
        below = [point for point in points if (point["x"], point["y"]) not in knots]
        if on_curve:
            yield {"label": result.name, "points": sorted(on_curve, key=lambda point: point["x"]), **look}
        if below:
            yield {"label": f"{result.name}: below its curve", "points": below, "line": False, "hollow": True, **look}
    limits = _points(_limits(results), quality, latency, time)
    if limits:
        ordered = sorted(limits, key=lambda point: point["x"])
        yield {"label": "limit", "points": ordered, "dashed": True, "color": "muted", "symbol": 5}


def _limits(results: Sequence[ShownResult]) -> list[Row]:
    """Return the limits of the test set, in the chunk sizes of all results."""
    return list({str(cell_key(row)): row for result in results for row in result.limits}.values())


def _points(rows: Iterable[Row], quality: str, latency: str, time: str) -> list[dict[str, Any]]:
    return [
        {
            "x": row[latency],
            "y": row[quality],
            "xInterval": (row.get("intervals") or {}).get(latency),
            "yInterval": (row.get("intervals") or {}).get(quality),
            "title": _cell_title(row),
            "lines": [
                f"{name} {format_metric(name, row[name], time)} {metric_unit(name, time)}".rstrip()
                for name in (quality, latency)
            ],
        }
        for row in rows
        if row.get(latency) is not None and row.get(quality) is not None
    ]


def _cell_title(row: Row) -> str:
    return str(cell_key({"chunk_ms": None, "rollback": None} | dict(row)))


def _levels(results: Sequence[ShownResult], quality: str) -> Iterator[dict[str, Any]]:
    """Yield the quality of each offline cell."""
    for result in results:
        if result.offline is not None and result.offline.get(quality) is not None:
            yield {"label": f"{result.name}: offline", "y": result.offline[quality]}
