"""Tables and sentences of a comparison, and the lines that `compare` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from simulsa_plugin.comparison.blocks import Block, Heading, Paragraph, Table, terminal_lines
from simulsa_plugin.comparison.regimes import regimes_blocks
from simulsa_plugin.comparison.verdict import DOWN, LEVEL, UP, difference_direction
from simulsa_plugin.evaluation.formatting import (
    better_direction,
    format_interval,
    format_metric,
    format_number,
    format_parameters,
    format_range,
    metric_digits,
    metric_unit,
    name_cells,
)
from simulsa_plugin.evaluation.result_cells import CELL_METRICS, CellKey
from simulsa_plugin.metrics.quality import QUALITY_METRICS
from simulsa_plugin.metrics.significance import LEAST_DIFFERING
from simulsa_plugin.tables import styled, without_empty_columns

MAIN_LATENCIES = ("LAAL", "LongYAAL", "StreamLAAL")  # the first that there is

Rows: TypeAlias = list[list[str]]  # of a table, its head first


def comparison_tables(comparison: dict[str, Any]) -> list[str]:
    """Return the lines that `compare` prints; significant differences are emphasised, see `StyledText`."""
    first = f"{'baseline' if comparison['comparisons'] else 'result'}: {comparison['baseline']}"
    return terminal_lines([Paragraph((first, *explanations(comparison))), *_result_blocks(comparison)])


def comparison_document(comparison: dict[str, Any]) -> list[Block]:
    """Return the blocks of a comparison as a document: what is printed, with a title and the explanations last."""
    others = [pair["other"] for pair in comparison["comparisons"]]
    title = f"{', '.join(others)} compared with {comparison['baseline']}" if others else comparison["baseline"]
    return [Heading(title, 1), *_result_blocks(comparison), Paragraph(tuple(explanations(comparison)))]


def _result_blocks(comparison: dict[str, Any]) -> Iterator[Block]:
    for pair in comparison["comparisons"]:
        yield Heading(f"other: {pair['other']}")
        yield from pair_blocks(pair, comparison["scale"]["time"])
    yield from regimes_of(comparison)


def regimes_of(comparison: dict[str, Any]) -> list[Block]:
    """Return the table of the regimes of a comparison; nothing where there are none."""
    regimes = comparison.get("regimes")
    return regimes_blocks(regimes["rows"], regimes["quality"], regimes["latency"]) if regimes else []


def pair_blocks(pair: dict[str, Any], time: str) -> Iterator[Block]:
    """Yield what a comparison says of a result and the baseline: tables, notes, curves, sentences.

    Args:
        pair: one of `comparisons` in the JSON of `compare`.
        time: unit of latencies.
    """
    yield from metric_tables(pair["cells"], time)
    others = other_metrics_table(pair["cells"], time)
    if others:
        yield Table(others)
    notes = pair_notes(pair["cells"], time)
    if notes:
        yield Paragraph(tuple(notes))
    for curves in pair["equal_latency"]:
        yield from curve_blocks(curves)
        yield Paragraph((curves["verdict"],))
    for at in pair.get("tuned", ()):
        yield Paragraph((at["sentence"],))


def curve_blocks(curves: dict[str, Any]) -> Iterator[Block]:
    """Yield the table of two curves at equal latency, without the sentences of its verdict."""
    rows = curve_table(curves)
    if not rows:
        yield Paragraph((curve_title(curves),))
        return
    yield Table(rows, curve_title(curves))
    yield Paragraph((curve_summary(curves),), tight=True)


def explanations(comparison: dict[str, Any]) -> list[str]:
    """Return how the values were measured, and what the columns of the tables mean."""
    scale, bootstrap = comparison["scale"], comparison["bootstrap"]
    lines = [
        f"measured: latency unit {scale['unit']}, length of the {scale['length']}, BLEU tokenizer {scale['tokenizer']}",
        f"[low, high]: 95 % of {bootstrap['samples']} paired resamples of {_resampled(bootstrap['method'])}, "
        f"seed {bootstrap['seed']}; – where a value, a log or more than 10 % of the resamples are missing",
    ]
    return lines + (_explanations_of_pairs(bootstrap["trials"]) if comparison["comparisons"] else [])


def _explanations_of_pairs(trials: int) -> list[str]:
    return [
        "at equal latency: also over random halves of the cells, for the error of interpolation; "
        "– near an end of the range, which too few halves reach",
        f"p: paired randomisation (BLEU, chrF), exact where few utterances differ, else {trials} trials",
    ]


def _resampled(method: str) -> str:
    return "the recordings and segments within them" if "recordings" in method else "the utterances"


def _main_metrics(cells: Iterable[dict[str, Any]]) -> tuple[str, str, str]:
    """Return the metrics that have a table of their own: quality, latency, quality."""
    present = {name for cell in cells for name in cell["metrics"]}
    return "BLEU", next((name for name in MAIN_LATENCIES if name in present), MAIN_LATENCIES[0]), "chrF"


def metric_tables(cells: Sequence[dict[str, Any]], time: str) -> list[Table]:
    """Tabulate the main metrics in the cells of both results: values, difference, interval, significance.

    Args:
        cells: of a pair in the JSON of `compare`.
        time: unit of latencies.
    """
    shared = [cell for cell in cells if not cell["missing"]]
    return [
        _metric_table(shared, name, time)
        for name in _main_metrics(cells)
        if any(value is not None for cell in shared for value in _values(cell, name))
    ]


def _values(cell: dict[str, Any], metric: str) -> tuple[float | None, float | None]:
    value = cell["metrics"].get(metric, {})
    return value.get("baseline"), value.get("other")


def _metric_table(cells: Sequence[dict[str, Any]], metric: str, time: str) -> Table:
    has_test = metric in QUALITY_METRICS
    head = [_with_unit(metric, time), "baseline", "other", "diff", "[low, high]"]
    rows = [head + (["p", "differ", "p of sacrebleu"] if has_test else [])]
    for cell in cells:
        value = cell["metrics"].get(metric, {})
        row = [
            cell_name(cell),
            format_metric(metric, value.get("baseline"), time),
            format_metric(metric, value.get("other"), time),
            _format_difference(metric, value, time),
            _format_bounds(metric, value.get("interval"), time),
        ]
        rows.append(row + (_format_tests(value) if has_test else []))
    return Table(rows, extra=frozenset({6, 7} if has_test else ()))


def _format_tests(value: dict[str, Any]) -> list[str]:
    """Return p, how many utterances differ, and the p of sacrebleu."""
    if value.get("randomisation_p_value") is None:
        return ["–"] * 3
    p_values = (value[name] for name in ("randomisation_p_value", "sacrebleu_randomisation_p_value"))
    ours, theirs = (format_number(p_value, 4) for p_value in p_values)
    return [ours, f"{value['differing']}/{value['utterances']}", theirs]


def other_metrics_table(cells: Sequence[dict[str, Any]], time: str) -> Rows:
    """Tabulate the differences of all other metrics, in the cells that have any; empty where there are none."""
    main = _main_metrics(cells)
    names = [name for name in CELL_METRICS if name not in main]
    rows = [
        [cell_name(cell), *(_format_difference(name, cell["metrics"].get(name, {}), time) for name in names)]
        for cell in cells
        if any(cell["metrics"].get(name, {}).get("difference") is not None for name in names)
    ]
    head = ["difference", *(_with_unit(name, time) for name in names)]
    return without_empty_columns([head, *rows]) if rows else []


def pair_notes(cells: Sequence[dict[str, Any]], time: str) -> list[str]:
    """Return lines on what the tables lack: cells of one side, few differing utterances, values of some instances."""
    return [
        *_cells_of_one_side(cells, time),
        *_few_differing(cells),
        *(line for side in ("baseline", "other") for line in _partial_values(cells, side)),
    ]


def _cells_of_one_side(cells: Sequence[dict[str, Any]], time: str) -> Iterator[str]:
    """Yield the cells that one of the results lacks, with the main values of the other."""
    for cell in cells:
        if cell["missing"]:
            side = "baseline" if cell["missing"] == "other" else "other"
            values = (
                f"{name} {format_metric(name, cell['metrics'].get(name, {}).get(side), time)} {metric_unit(name, time)}"
                for name in _main_metrics(cells)
            )
            yield f"not in the {cell['missing']}: {cell_name(cell)} ({', '.join(map(str.rstrip, values))})"


def _few_differing(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield in how few utterances the qualities differ, where that says nothing about chance; in which cells."""
    found: dict[tuple[int, str], dict[str, int]] = {}
    for cell in cells:
        few: dict[tuple[int, int], list[str]] = {}
        for name in QUALITY_METRICS:
            value = cell["metrics"].get(name, {})
            if value.get("differing") is not None and value["differing"] < LEAST_DIFFERING:
                few.setdefault((value["differing"], value["utterances"]), []).append(name)
        for (differing, utterances), names in few.items():
            found.setdefault((utterances, ", ".join(names)), {})[cell_name(cell)] = differing
    for (utterances, metrics), counts in found.items():
        yield (
            f"{_which(counts, cells)}: {format_range(counts.values())} of {utterances} utterances differ in {metrics}, "
            "too few to tell"
        )


def _partial_values(cells: Sequence[dict[str, Any]], side: str) -> Iterator[str]:
    """Yield the numbers of instances that values of a side rest on, where these are not all; in which cells."""
    found: dict[tuple[int, str], dict[str, int]] = {}
    for cell in cells:
        total, by_count = cell["instances"][side], dict[int, list[str]]()
        for name, metric in cell["metrics"].items():
            count = metric["measured"][side]
            if total is not None and count is not None and 0 < count < total and metric["difference"] is not None:
                by_count.setdefault(count, []).append(name)
        for count, names in sorted(by_count.items()):
            found.setdefault((total, ", ".join(names)), {})[cell_name(cell)] = count
    for (total, metrics), counts in found.items():
        yield (
            f"{_which(counts, cells)}: of the {side}'s {total} instances, {format_range(counts.values())} have a "
            f"value of {metrics}"
        )


def _which(chosen: Iterable[str], cells: Iterable[dict[str, Any]]) -> str:
    """Name the cells that a note is about; those of one result alone are not compared."""
    return name_cells(chosen, (cell_name(cell) for cell in cells if not cell["missing"]))


def curve_title(curves: dict[str, Any]) -> str:
    """Return what is compared at equal latency, and in which range."""
    quality, latency = curves["quality"], curves["latency"]
    title = f"{quality} at equal {latency}, " + (
        f"policy {curves['policy']}" if curves["policy"] else "all streaming cells"
    )
    if curves["range"] is None:
        return f"{title}: the curves share no range of {latency}."
    low, high = curves["range"]
    compared = f"interpolated between the best of {_cells_compared(curves['grids'])}"
    return f"{title} ({compared}; common range {low:.0f}–{high:.0f} ms)"


def curve_table(curves: dict[str, Any]) -> Rows:
    """Tabulate two curves at the same latencies; empty where they share no range."""
    quality, latency = curves["quality"], curves["latency"]
    if curves["range"] is None:
        return []
    head = [f"{latency} ms", "baseline", "other", "diff", "[low, high]"]
    return [
        head,
        *(
            [
                f"{point[latency]:.0f}",
                format_metric(quality, point["baseline"]),
                format_metric(quality, point["other"]),
                _format_difference(quality, point),
                _format_bounds(quality, point["interval"]),
            ]
            for point in curves["points"]
        ),
    ]


def curve_summary(curves: dict[str, Any]) -> str:
    """Return a line on the mean difference of two curves that share a range, and on the area between them."""
    quality = curves["quality"]
    mean = {"difference": curves["mean_difference"], "interval": curves["interval"]}
    return (
        f"mean difference {_format_difference(quality, mean)} {_format_bounds(quality, curves['interval'])} "
        f"(over utterances alone {_format_bounds(quality, curves['sampling_interval'])}), "
        f"area {curves['area']:+.1f} {quality}·ms {format_interval(curves['area_interval'], 1, signed=True)}"
    )


def _cells_compared(grids: dict[str, Any]) -> str:
    counts = grids["cells"]
    return (
        f"{counts['baseline']} cells of both sides"
        if grids["compared"] == "shared"
        else f"the baseline's {counts['baseline']} and the other's {counts['other']} cells"
    )


def cell_name(cell: dict[str, Any]) -> str:
    """Return the name of a cell of a pair."""
    parameters = format_parameters(cell["parameters"])
    return f"{CellKey(cell['policy'], cell['chunk_ms'], cell['rollback'])} {parameters}".rstrip()


def _with_unit(name: str, time: str) -> str:
    return f"{name} {metric_unit(name, time)}".rstrip()


def _format_difference(metric: str, value: dict[str, Any], time: str = "ms") -> str:
    """Format a difference; a significant one is emphasised as better or worse."""
    return styled(format_metric(metric, value.get("difference"), time, signed=True), difference_style(metric, value))


def difference_style(metric: str, value: dict[str, Any]) -> str | None:
    """Return "better" or "worse" for a significant difference of a metric; None for any other."""
    direction = {UP: 1, DOWN: -1}.get(difference_direction(value) or LEVEL, 0) * better_direction(metric)
    return {1: "better", -1: "worse"}.get(direction)


def _format_bounds(metric: str, bounds: Sequence[float] | None, time: str = "ms") -> str:
    return format_interval(bounds, metric_digits(metric, time), signed=True)
