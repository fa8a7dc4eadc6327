"""The curves of a comparison as a picture: PNG, or PDF with lines and letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

from simulsa_plugin.comparison.names import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pair = dict[str, Any]
DOTS_PER_INCH = 200
FIRST_LATENCIES = ("LAAL", "LongYAAL", "StreamLAAL")
# Of Okabe and Ito, told apart by the colour-blind; the baseline is black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def curve_pairs(comparison: dict[str, Any]) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """Yield each pair that has curves with those of all streaming cells; of a single policy, its own."""
    for pair in comparison["comparisons"]:
        curves = sorted(pair["equal_latency"], key=lambda one: one["policy"] is not None)
        if curves:
            yield pair, curves[0]


def comparison_figure(comparison: dict[str, Any]) -> Figure:
    """Draw quality over latency: for each result its curve and the baseline's over the compared cells; logs as points.

    Args:
        comparison: the JSON of `compare`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    found = list(curve_pairs(comparison))
    if found:
        _draw_curves(axes, comparison, found)
    else:
        _draw_logs(axes, comparison)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
    return figure


def _draw_curves(axes: Axes, comparison: dict[str, Any], pairs: list[tuple[Pair, dict[str, Any]]]) -> None:
    names = _names(comparison)
    drawn: list[Any] = []
    for number, (pair, curves) in enumerate(pairs):
        baseline, other = (curves["knots"][side] for side in ("baseline", "other"))
        if baseline not in drawn:  # that of other cells is another curve
            label = f"baseline: {names[comparison['baseline']]}"
            cells = f" (cells of {names[pair['other']]})" if drawn else ""
            axes.plot(*_columns(baseline), "o--", color="black", alpha=0.8, label=label + cells)
            drawn.append(baseline)
        axes.plot(*_columns(other), "o-", color=COLOURS[number % len(COLOURS)], label=names[pair["other"]])
    axes.set_xlabel(f"{pairs[0][1]['latency']} ({pairs[0][1]['latency_unit']})")
    axes.set_ylabel(pairs[0][1]["quality"])


def _draw_logs(axes: Axes, comparison: dict[str, Any]) -> None:
    """Draw the single cells that results without curves have in common."""
    names = _names(comparison)
    latency = _latency_of_logs(comparison)
    for number, pair in enumerate(comparison["comparisons"]):
        for cell in pair["cells"]:
            metrics = cell["metrics"]
            sides = [("baseline", comparison["baseline"], "black")] if number == 0 else []
            for side, path, colour in (*sides, ("other", pair["other"], COLOURS[number % len(COLOURS)])):
                point = [metrics.get(name, {}).get(side) for name in (latency, "BLEU")]
                if None not in point:
                    axes.plot([point[0]], [point[1]], "o", color=colour, label=names[path])
    axes.set_xlabel(f"{latency} ({comparison['scale']['time']})")
    axes.set_ylabel("BLEU")


def _latency_of_logs(comparison: dict[str, Any]) -> str:
    present = {name for pair in comparison["comparisons"] for cell in pair["cells"] for name in cell["metrics"]}
    return next((name for name in FIRST_LATENCIES if name in present), FIRST_LATENCIES[0])


def _names(comparison: dict[str, Any]) -> dict[str, str]:
    return short_names([comparison["baseline"], *(pair["other"] for pair in comparison["comparisons"])])


def _columns(points: list[list[float]]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def save_figure(figure: Figure, handle: IO[bytes], form: Literal["png", "pdf"]) -> None:
    """Write a figure without the time of day; letters of a PDF stay letters.

    Args:
        figure: what is written.
        handle: a file open for bytes.
        form: "png", or "pdf" with vectors and TrueType fonts, as publishers ask for.
    """
    import matplotlib

    metadata = {"CreationDate": None} if form == "pdf" else None
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(handle, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
