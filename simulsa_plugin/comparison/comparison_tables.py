"""Tables of a comparison, as aligned text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from simulsa_plugin.comparison.regimes import regimes_table
from simulsa_plugin.evaluation.formatting import format_interval, format_number, format_parameters, metric_unit
from simulsa_plugin.evaluation.result_cells import CELL_METRICS, CellKey
from simulsa_plugin.metrics.quality import QUALITY_METRICS
from simulsa_plugin.tables import align

MAIN_LATENCIES = ("LAAL", "LongYAAL", "StreamLAAL")  # the first that there is


def comparison_tables(comparison: dict[str, Any]) -> list[str]:
    """Return the lines that `compare` prints."""
    scale, bootstrap = comparison["scale"], comparison["bootstrap"]
    lines = [
        f"{'baseline' if comparison['comparisons'] else 'result'}: {comparison['baseline']}",
        f"measured: unit {scale['unit']}, length of the {scale['length']}, BLEU tokenizer {scale['tokenizer']}",
        f"[low, high]: 95 % of {bootstrap['samples']} paired resamples of {_resampled(bootstrap['method'])}, "
        f"seed {bootstrap['seed']}; – where a value, a log or more than 10 % of the resamples are missing",
    ]
    if comparison["comparisons"]:
        lines += _explanations_of_pairs(bootstrap["trials"])
    for pair in comparison["comparisons"]:
        lines += [
            "",
            f"other: {pair['other']}",
            "",
            *_main_table(pair["cells"], scale["time"]),
            *_other_table(pair["cells"], scale["time"]),
        ]
        lines += _notes(pair["cells"])
        for curves in pair["equal_latency"]:
            lines += ["", *_curve_table(curves), "", curves["verdict"]]
        lines += [line for at in pair.get("tuned", ()) for line in ("", at["sentence"])]
    regimes = comparison.get("regimes")
    return lines + (["", *regimes_table(regimes["rows"], regimes["quality"], regimes["latency"])] if regimes else [])


def _explanations_of_pairs(trials: int) -> list[str]:
    return [
        "at equal latency: also over random halves of the cells, for the error of interpolation; "
        "– near an end of the range, which too few halves reach",
        f"p: paired randomisation (BLEU, chrF), exact where few utterances differ, else {trials} "
        "trials; then utterances that differ, of all; then the p of sacrebleu, too small where few differ",
    ]


def _resampled(method: str) -> str:
    return "the recordings and segments within them" if "recordings" in method else "the utterances"


def _main_metrics(cells: Iterable[dict[str, Any]]) -> tuple[str, str, str]:
    """Return the metrics of the main table: quality, latency, quality."""
    present = {name for cell in cells for name in cell["metrics"]}
    return "BLEU", next((name for name in MAIN_LATENCIES if name in present), MAIN_LATENCIES[0]), "chrF"


def _main_table(cells: Sequence[dict[str, Any]], time: str) -> list[str]:
    header, main = ["cell"], _main_metrics(cells)
    for name in main:
        header += [_with_unit(name, time), "other", "diff"]
        header += ["[low, high]"] + (["p, differ, sacrebleu's p"] if name in QUALITY_METRICS else [])
    rows = [header]
    for cell in cells:
        row = [_cell_name(cell)]
        for name in main:
            value = cell["metrics"].get(name, {})
            row += [
                format_number(value.get("baseline")),
                format_number(value.get("other")),
                _format_difference(value.get("difference")),
            ]
            row += [_format_bounds(value.get("interval"))]
            row += [_format_test(value)] if name in QUALITY_METRICS else []
        rows.append(row)
    return align(rows)


def _other_table(cells: Sequence[dict[str, Any]], time: str) -> list[str]:
    """Tabulate differences of the other metrics that some cell has on both sides."""

    def difference(cell: dict[str, Any], name: str) -> float | None:
        found: float | None = cell["metrics"].get(name, {}).get("difference")
        return found

    main = _main_metrics(cells)
    names = [
        name for name in CELL_METRICS if name not in main and any(difference(cell, name) is not None for cell in cells)
    ]
    if not names:
        return []
    rows = [["difference", *(_with_unit(name, time) for name in names)]]
    rows += [[_cell_name(cell), *(_format_difference(difference(cell, name)) for name in names)] for cell in cells]
    return ["", *align(rows)]


def _notes(cells: Iterable[dict[str, Any]]) -> list[str]:
    """Note the cells whose values rest on some of the instances only: LAAL first, then others by their number."""
    lines = [line for cell in cells for side in ("baseline", "other") for line in _partial_values(cell, side)]
    return ["", *lines] if lines else []


def _partial_values(cell: dict[str, Any], side: str) -> Iterator[str]:
    total, counts = cell["instances"][side], {}
    for name, metric in cell["metrics"].items():
        count = metric["measured"][side]
        if total is not None and count is not None and 0 < count < total and metric["difference"] is not None:
            counts[name] = count
    laal = counts.pop("LAAL", None)
    if laal is not None:
        yield (
            f"{_cell_name(cell)}: LAAL of the {side} is that of {laal} of {total} instances; {total - laal} have none"
        )
    for count in sorted(set(counts.values())):
        names = ", ".join(name for name in counts if counts[name] == count)
        yield f"{_cell_name(cell)}: of the {side}'s {total} instances, {count} have a value of {names}"


def _curve_table(curves: dict[str, Any]) -> list[str]:
    quality, latency = curves["quality"], curves["latency"]
    title = f"{quality} at equal {latency}, " + (
        f"policy {curves['policy']}" if curves["policy"] else "all streaming cells"
    )
    if curves["range"] is None:
        return [f"{title}: the curves share no range of {latency}."]
    low, high = curves["range"]
    rows = [[f"{latency} ms", "baseline", "other", "diff", "[low, high]"]]
    rows += [
        [
            f"{point[latency]:.0f}",
            format_number(point["baseline"]),
            format_number(point["other"]),
            _format_difference(point["difference"]),
            _format_bounds(point["interval"]),
        ]
        for point in curves["points"]
    ]
    return [
        f"{title} (interpolated between the best of {_cells_compared(curves['grids'])}; "
        f"common range {low:.0f}–{high:.0f} ms)",
        *align(rows),
        f"mean difference {_format_difference(curves['mean_difference'])} {_format_bounds(curves['interval'])} "
        f"(over utterances alone {_format_bounds(curves['sampling_interval'])}), "
        f"area {curves['area']:+.1f} {quality}·ms {_format_bounds(curves['area_interval'])}",
    ]


def _cells_compared(grids: dict[str, Any]) -> str:
    counts = grids["cells"]
    return (
        f"{counts['baseline']} cells of both sides"
        if grids["compared"] == "shared"
        else f"the baseline's {counts['baseline']} and the other's {counts['other']} cells"
    )


def _cell_name(cell: dict[str, Any]) -> str:
    parameters = format_parameters(cell["parameters"])
    name = str(CellKey(cell["policy"], cell["chunk_ms"], cell["rollback"])) + (f" {parameters}" if parameters else "")
    return f"{name} (not in the {cell['missing']})" if cell["missing"] else name


def _with_unit(name: str, time: str) -> str:
    return f"{name} {metric_unit(name, time)}".rstrip()


def _format_difference(value: float | None) -> str:
    return format_number(value, signed=True)


def _format_test(value: dict[str, Any]) -> str:
    if value.get("randomisation_p_value") is None:
        return "–"
    theirs = value["sacrebleu_randomisation_p_value"]
    return f"{value['randomisation_p_value']:.4f} {value['differing']}/{value['utterances']} {format_number(theirs, 4)}"


def _format_bounds(bounds: Sequence[float] | None) -> str:
    return format_interval(bounds, 2, signed=True)
