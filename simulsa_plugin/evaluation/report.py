"""The report of a run: scores.tsv, curves.png, report.html and model_card.md."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.evaluation.budgets import budgets_in_words
from simulsa_plugin.evaluation.formatting import format_range, is_partial, name_cells
from simulsa_plugin.evaluation.limit import ABOVE, LIMIT, LIMITS
from simulsa_plugin.evaluation.result_cells import COMET, CellKey, cell_key
from simulsa_plugin.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TSV, CURVES, PAGE, MODEL_CARD = REPORT_FILES = ("scores.tsv", "curves.png", "report.html", "model_card.md")
TRAINING = "training"  # of scores.json: see `training_step`
KEY_COLUMNS = ("policy", "chunk_ms", "rollback")
PARAMETERS = "parameters"  # a column where some cell has any
VALUE_COLUMNS = ("BLEU", "chrF", "AL", "LAAL", "AP", "DAL", "ATD", "YAAL", "StartOffset", "EndOffset", "SWF", "NE")
LONG_COLUMNS = ("BLEU", "chrF", "LongYAAL", "LongLAAL", "LongAL", "LongDAL", "StreamLAAL", "NE")  # of long recordings
# A column where some cell has a value.
OPTIONAL_COLUMNS = (COMET, "LAAL_CA", "LAAL_CA_CU", "LongYAAL_CA", "LongYAAL_CA_CU", "StreamLAAL_CA", *ABOVE.values())
COUNT_COLUMNS = ("instances", "empty", "skipped")
# Of `counts`, and in the notes.
ODD_COUNTS = ("longer_than_window", "truncated_steps")
ODD_LONG_COUNTS = ("truncated_steps", "looping_steps", "hallucinated_units", "hallucinated_seconds", "unclaimed_units")
LONG_FORM_NOTES = {
    "hallucinated_units": "units were written about speech that has no reference segment",
    "looping_steps": "steps had their output cut because it repeated itself",
}

ScoresRow = Mapping[str, Any]


def write_result_report(scores: Mapping[str, Any], out: Path) -> None:
    """Write `scores.tsv`, `curves.png`, `report.html` and `model_card.md` beside scores.json."""
    cells = _table_rows(scores)
    with replacing(out / TSV, "w") as handle:
        handle.writelines("\t".join(row) + "\n" for row in _tsv_rows(cells))
    with replacing(out / CURVES) as handle:
        curves_figure(cells).savefig(handle, format="png", dpi=120)
    from simulsa_plugin.evaluation.model_card import model_card
    from simulsa_plugin.evaluation.named_result import NamedResult
    from simulsa_plugin.evaluation.report_page import result_page

    with replacing(out / PAGE, "w") as handle:
        handle.write(result_page([NamedResult("", out, scores)], _title(scores)))
    with replacing(out / MODEL_CARD, "w") as handle:
        handle.write(model_card(scores))


def _title(scores: Mapping[str, Any]) -> str:
    step = training_step(scores)
    after = "" if step is None else f" after step {step} of a training"
    return f"Simultaneous translation of {scores['dataset']}{after}"


def training_step(scores: Mapping[str, Any]) -> int | None:
    """Return the step of a training after which the model was evaluated, of a scores.json that has one."""
    training = scores.get(TRAINING)
    step = training.get("step") if isinstance(training, Mapping) else None
    return step if isinstance(step, int) else None


def _table_rows(scores: Mapping[str, Any]) -> list[ScoresRow]:
    return [*scores["cells"], *scores.get(LIMITS, [])]


def _tsv_rows(cells: Sequence[ScoresRow]) -> Iterator[list[str]]:
    """Yield the rows of scores.tsv; after the counts: parameters as JSON, and how many instances have each value."""
    values = value_columns(cells)
    columns = [*KEY_COLUMNS, *values, *COUNT_COLUMNS]
    yield [*columns, PARAMETERS, *_odd_counts(cells), *(f"{name}_measured" for name in values)]
    for cell in cells:
        found = [cell.get(name) for name in columns]
        found += [
            json.dumps(cell[PARAMETERS], sort_keys=True) if cell.get(PARAMETERS) else None,
            *(cell.get("counts", {}).get(name) for name in _odd_counts(cells)),
            *(measured_instances(cell, name) for name in values),
        ]
        yield ["" if value is None else str(value) for value in found]


def cell_notes(cells: Sequence[ScoresRow], columns: Sequence[str]) -> list[str]:
    """Return a line for everything odd about the cells, and what (m/n) means where one of the columns has it."""
    notes = []
    degenerate = [cell for cell in cells if cell.get("degenerate")]
    if degenerate:
        notes.append(
            f"{_which(degenerate, cells)}: likely degenerate, SWF and EFSW differ by more than 20 points "
            "(OmniSTEval's test)"
        )
    truncated = [cell for cell in cells if cell.get("counts", {}).get("truncated_steps")]
    if truncated:
        count = format_range(cell["counts"]["truncated_steps"] for cell in truncated)
        notes.append(f"{_which(truncated, cells)}: {count} steps were truncated by the limit on new tokens")
    tuned = [f"{cell_key(cell)} for {budgets}" for cell in cells if (budgets := budgets_in_words(cell))]
    if tuned:
        notes.append(f"tuned on dev: {'; '.join(dict.fromkeys(tuned))}")
    for name, said in LONG_FORM_NOTES.items():
        notes += _range_note(cells, name, said)
    longer = 0 if is_long_form(cells) else _longer_than_window(cells)
    if longer:
        notes.append(
            f"{longer} utterances are longer than the model's window: it ignores the rest "
            "(simulsa_longform=window decodes all)"
        )
    if any(
        is_partial(cell.get(name), measured_instances(cell, name), cell["instances"])
        for cell in cells
        for name in columns
    ):
        notes.append("(m/n): the mean of m of n instances; the others have no value")
    return notes


def _which(chosen: Sequence[ScoresRow], cells: Sequence[ScoresRow]) -> str:
    """Name the cells that a note is about."""
    streaming = [str(cell_key(cell)) for cell in cells if is_streaming(cell)]
    return name_cells((str(cell_key(cell)) for cell in chosen), streaming, "streaming cells")


def _range_note(cells: Sequence[ScoresRow], name: str, text: str) -> Iterator[str]:
    """Yield a note for all cells together, where one of them has such a count."""
    counts = [count for cell in cells if (count := cell.get("counts", {}).get(name)) is not None]
    if any(counts):
        yield f"{format_range(counts)} {text} ({name}, by cell in scores.tsv)"


def main_latency(cells: Sequence[ScoresRow]) -> str:
    """Return the latency over which quality is drawn: LAAL, of long recordings LongYAAL."""
    return "LongYAAL" if is_long_form(cells) else "LAAL"


def is_long_form(cells: Sequence[ScoresRow]) -> bool:
    """Whether the cells are of whole recordings."""
    return any("LongYAAL" in cell for cell in cells)


def is_streaming(cell: ScoresRow) -> bool:
    """Whether a row is a cell that writes before the end; not offline, and not a limit."""
    return cell["chunk_ms"] is not None and cell["policy"] != LIMIT


def _odd_counts(cells: Sequence[ScoresRow]) -> Sequence[str]:
    return ODD_LONG_COUNTS if is_long_form(cells) else ODD_COUNTS


def _longer_than_window(cells: Sequence[ScoresRow]) -> int:
    return max((cell.get("counts", {}).get("longer_than_window") or 0 for cell in cells), default=0)


def value_columns(cells: Sequence[ScoresRow]) -> list[str]:
    """Return the metrics of scores.tsv: those of the form of the result, and others that some cell has."""
    columns = LONG_COLUMNS if is_long_form(cells) else VALUE_COLUMNS
    return [*columns, *(name for name in OPTIONAL_COLUMNS if any(cell.get(name) is not None for cell in cells))]


def measured_instances(cell: ScoresRow, name: str) -> int | None:
    """Return how many instances have a value; None where the scores do not record it."""
    skipped = cell.get("counts", {}).get("skipped", {}).get(name)
    return None if skipped is None else cell["instances"] - skipped


def curves_figure(cells: Sequence[ScoresRow], quality: str = "BLEU", latency: str | None = None) -> Figure:
    """Draw quality over latency with 95 % intervals, one line per policy, rollback and parameters; offline as a level.

    Args:
        cells: rows of `cells` and of the limits of scores.json.
        quality: metric on the vertical axis.
        latency: metric on the horizontal axis, in ms; by default `main_latency`.
    """
    from matplotlib.figure import Figure

    latency = latency or main_latency(cells)

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[ScoresRow]] = {}
    limit: list[ScoresRow] = []
    for cell in cells:
        if cell["policy"] == LIMIT:
            limit += [cell] if quality in cell and latency in cell else []
        elif cell["chunk_ms"] is None:
            axes.axhline(cell.get(quality) or 0.0, linestyle="--", color="grey", label="offline")
        elif cell.get(latency) is not None and cell.get(quality) is not None:
            key = cell_key(cell)
            lines.setdefault(str(CellKey(key.policy, None, key.rollback, key.parameters)), []).append(cell)
    for label, points in lines.items():
        axes.errorbar(
            [cell[latency] for cell in points],
            [cell[quality] for cell in points],
            yerr=_cell_error_bars(points, quality),
            xerr=_cell_error_bars(points, latency),
            marker="o",
            capsize=2,
            label=label,
        )
        for cell in points:
            axes.annotate(
                f"{cell['chunk_ms']}",
                (cell[latency], cell[quality]),
                textcoords="offset points",
                xytext=(4, -10),
                fontsize=7,
            )
    _ring_tuned(axes, cells, quality, latency)
    if limit:
        axes.plot([cell[latency] for cell in limit], [cell[quality] for cell in limit], "k*:", label="limit")
    axes.set_xlabel(f"{latency} (ms); numbers: chunk (ms); bars: 95 %")
    axes.set_ylabel(quality)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _ring_tuned(axes: Axes, cells: Sequence[ScoresRow], quality: str, latency: str) -> None:
    """Draw a ring around each cell that was chosen for a budget on a dev set."""
    chosen = [cell for cell in cells if budgets_in_words(cell) and None not in (cell.get(quality), cell.get(latency))]
    for cell, marker in zip(chosen, itertools.cycle("os^D")):
        label = f"tuned on dev: {budgets_in_words(cell)}"
        axes.plot(cell[latency], cell[quality], marker, markersize=13, fillstyle="none", color="black", label=label)


def _cell_error_bars(cells: Sequence[ScoresRow], name: str) -> list[list[float]]:
    return error_bars([cell[name] for cell in cells], [cell.get("intervals", {}).get(name) for cell in cells])


def error_bars(values: Sequence[float], intervals: Sequence[Sequence[float] | None]) -> list[list[float]]:
    """Return how far intervals reach below and above their values, as matplotlib draws them; 0 where there is none.

    >>> error_bars([2.0, 5.0], [[1.0, 4.0], None])
    [[1.0, 0.0], [2.0, 0.0]]
    """
    known = [interval or (value, value) for value, interval in zip(values, intervals, strict=True)]
    return [
        [max(0.0, value - low) for value, (low, _) in zip(values, known, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, known, strict=True)],
    ]
