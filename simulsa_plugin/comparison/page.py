"""The page of a comparison: curves, sentences at equal latency, differences, and the values of every result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from simulsa_plugin.comparison.blocks import Block, Heading, Paragraph
from simulsa_plugin.comparison.comparison_tables import explanations, pair_blocks, regimes_of
from simulsa_plugin.comparison.picture import curve_pairs
from simulsa_plugin.comparison.shown_results import Row, ShownResult
from simulsa_plugin.evaluation.budgets import budgets_in_words
from simulsa_plugin.evaluation.formatting import format_interval, format_metric, metric_unit
from simulsa_plugin.evaluation.instance_browser import BROWSER, BROWSER_SCRIPT, SECTION, browser_data
from simulsa_plugin.evaluation.page_table import cells_html
from simulsa_plugin.evaluation.result_cells import CELL_METRICS, cell_key
from simulsa_plugin.metrics.curves import frontier
from simulsa_plugin.reports.page import CHARTS, Column, Value, cards, html_table, render_page, settings_list
from simulsa_plugin.tables import StyledText
from simulsa_plugin.terminal import html_text

SCRIPT = "comparison.js"
FIRST_METRICS = ("BLEU", "chrF", "COMET", "LAAL", "LongYAAL", "StreamLAAL", "YAAL", "NE")  # of the table of all cells
MOST_LINES, MOST_CHARACTERS = 3, 600  # of a paragraph that is shown at once
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
    title = f"{', '.join(one.name for one in others)} compared with {baseline.name}" if others else baseline.name
    instances = browser_data([result.folder for result in results if result.folder is not None])
    sections = [
        cards(
            _first_facts(comparison, results)
            | _mean_differences(comparison, names)
            | _only_values(results, latency, comparison["scale"]["time"])
        ),
        f'<p class="note">{html_text(_scale(comparison))}</p>',
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
    tests = dict.fromkeys(result.facts["test set"] for result in results if "test set" in result.facts)
    counts = dict.fromkeys(str(row["instances"]) for result in results for row in result.rows if row.get("instances"))
    return {
        ("baseline" if len(results) > 1 else "result"): results[0].name,
        **({"test set": ", ".join(tests)} if tests else {}),
        "instances": ", ".join(counts) or "unknown",
    }


def _mean_differences(comparison: dict[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Return the mean difference at equal latency of every other result, with its interval."""
    found = {}
    for pair, curves in curve_pairs(comparison):
        if curves["mean_difference"] is not None:
            interval = f", {format_interval(curves['interval'], 2, signed=True)}" if curves["interval"] else ""
            name = f"{curves['quality']} of {names[pair['other']]} at equal {curves['latency']}{interval}"
            found[name] = format_metric(curves["quality"], curves["mean_difference"], signed=True)
    return found


def _only_values(results: Sequence[ShownResult], latency: str, time: str) -> dict[str, str]:
    """Return the main values of a log that is shown alone."""
    rows = [row for result in results for row in result.rows]
    if len(rows) != 1:
        return {}
    names = ("BLEU", latency)
    return {
        name: f"{format_metric(name, rows[0][name], time)} {metric_unit(name, time)}".rstrip()
        for name in names
        if rows[0].get(name) is not None
    }


def _scale(comparison: dict[str, Any]) -> str:
    scale = comparison["scale"]
    return f"Latency unit: {scale['unit']}; BLEU tokenizer: {scale['tokenizer']}."


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
        if len(block.lines) > MOST_LINES or len(text) > MOST_CHARACTERS:
            summary = f"{len(block.lines)} note{'s' * (len(block.lines) > 1)}"
            return f'<details><summary>{summary}</summary><p class="note">{text}</p></details>'
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
    """Tabulate every cell of every result, and the limits."""
    rows = [(result.name, row) for result in results for row in result.rows]
    metrics = dict.fromkeys((*FIRST_METRICS, *CELL_METRICS))
    return cells_html([*rows, *(("", row) for row in _limits(results))], list(metrics), time)


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
        for place, row in enumerate(row for row in result.streaming if budgets_in_words(row)):
            label = f"{result.name}: tuned on dev for {budgets_in_words(row)}"
            ring = {"line": False, "hollow": True, "radius": 10, "color": "text", "symbol": place}
            if point := _points([row], quality, latency, time):
                yield {"label": label, "points": point, **ring}
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
    for number, result in enumerate(results):
        if result.offline is not None and result.offline.get(quality) is not None:
            color = f"series-{number % 8}"
            yield {"label": f"{result.name}: offline", "y": result.offline[quality], "color": color}
