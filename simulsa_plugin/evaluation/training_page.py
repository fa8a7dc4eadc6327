"""simulsa_eval.html of a training: metrics over its steps, the last evaluation, and examples with their audio."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.errors import AudioError
from simulsa_plugin.evaluation.formatting import format_metric, metric_unit
from simulsa_plugin.evaluation.result_cells import cell_key
from simulsa_plugin.evaluation.training_examples import Example, TrainingExamples
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.metrics.corpus_scores import METRICS
from simulsa_plugin.reports.page import CHARTS, Column, Value, cards, html_table, render_page
from simulsa_plugin.reports.sound import audio_address
from simulsa_plugin.terminal import html_text

SCRIPTS = (*CHARTS, "training.js")
DRAWN = ("BLEU", "chrF", "LAAL", "NE")  # over the steps
LONGEST_AUDIO_SECONDS = 60.0  # of an example, or it has no player

Row = Mapping[str, Any]


def training_page(rows: Sequence[Row], examples: TrainingExamples, reports: Mapping[str, str] | None = None) -> str:
    """Return the page of a training as HTML, for one file.

    Args:
        rows: of the history: the cells of every evaluation, in the order of the steps.
        examples: of the last evaluation.
        reports: of single evaluations, once the training is done: what one is of → its place, seen from the page.
    """
    steps = list(dict.fromkeys(row["step"] for row in rows))
    last = [row for row in rows if row["step"] == steps[-1]]
    facts = {
        "test set": examples.dataset,
        "utterances": str(last[0]["instances"]),
        "evaluations": str(len(steps)),
        "last step": str(steps[-1]),
    }
    sections = [
        cards(facts),
        *_links(reports or {}),
        '<h2>Over the training</h2><div class="charts" id="over-steps"></div>',
        "<h2>Quality over latency</h2>",
        f'<p class="note">Hollow: step {steps[-2]}, the evaluation before.</p>' if len(steps) > 1 else "",
        '<figure id="curves"></figure>',
        f"<h2>Examples of step {steps[-1]}</h2>",
        '<p class="note">In brackets: seconds of audio that had been received before the part after them.</p>',
        *map(_example, examples.rows),
        "<h2>Evaluations</h2>",
        _table(rows),
    ]
    title = f"Simultaneous translation of {examples.dataset} during training"
    return render_page(title, sections, {"metrics": list(_over_steps(rows)), "curves": _curves(rows, steps)}, SCRIPTS)


def write_training_page(
    path: Path, rows: Sequence[Row], examples: TrainingExamples, reports: Mapping[str, str] | None = None
) -> None:
    """Write the page of a training, see `training_page`.

    Raises:
        StorageError: the file cannot be written.
    """
    page = training_page(rows, examples, reports)
    with replacing(path, "w") as handle:
        handle.write(page)


def _links(reports: Mapping[str, str]) -> Iterator[str]:
    if reports:
        links = ", ".join(
            f'<a href="{html.escape(place, quote=True)}">{html_text(name)}</a>' for name, place in reports.items()
        )
        yield f"<p>Reports with intervals, and instances to look at and to listen to: {links}.</p>"


def _table(rows: Sequence[Row]) -> str:
    metrics = [name for name in METRICS if any(row.get(name) is not None for row in rows)]
    columns = [Column("step", numeric=True), Column("cell")]
    columns += [Column(f"{name} {metric_unit(name)}".rstrip(), numeric=True) for name in metrics]
    columns += [Column(name, numeric=True) for name in ("empty", "truncated steps")]
    return html_table(
        columns,
        (
            [
                _count(row["step"]),
                str(cell_key(row)),
                *(Value(format_metric(name, row.get(name)), row.get(name)) for name in metrics),
                *(_count(row[name]) for name in ("empty", "truncated_steps")),
            ]
            for row in reversed(rows)
        ),
        "Every evaluation, the last one first",
    )


def _count(number: int) -> Value:
    return Value(str(number), number)


def _over_steps(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield a chart per metric: a line per cell over the steps."""
    for metric in DRAWN:
        series: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row.get(metric) is not None:
                series.setdefault(str(cell_key(row)), []).append({"x": row["step"], "y": row[metric]})
        if any(point["y"] for points in series.values() for point in points):
            lines = [{"label": label, "points": points} for label, points in series.items()]
            label = f"{metric} ({unit})" if (unit := metric_unit(metric)) else metric
            yield {"series": lines, "y": label, "description": f"{metric} of every cell over the steps"}


def _curves(rows: Sequence[Row], steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return the streaming cells of the last evaluation, and of the one before it."""
    found = []
    for age, step in enumerate(reversed(steps[-2:])):
        points = [
            {
                "x": row["LAAL"],
                "y": row["BLEU"],
                "title": f"{cell_key(row)}, step {step}",
                "lines": [f"{name} {format_metric(name, row[name])}" for name in ("BLEU", "LAAL")],
            }
            for row in rows
            if row["step"] == step and row["chunk_ms"] is not None and None not in (row["BLEU"], row["LAAL"])
        ]
        points.sort(key=lambda point: point["x"])
        found.append({"label": f"step {step}", "points": points, "line": False, "hollow": age > 0})
    return [series for series in found if series["points"]]


def _example(example: Example) -> str:
    lines = "".join(
        f'<dt>{html_text(name)}</dt><dd dir="auto">{html_text(text) or "–"}</dd>'
        for name, text in (("reference", example.reference), *example.texts.items())
    )
    return f'<h3>{html_text(example.name)}</h3>{_player(example)}<dl class="settings">{lines}</dl>'


def _player(example: Example) -> str:
    """Return a player with the audio; nothing where it is long, or has gone."""
    try:
        waveform = read_mono(example.audio)
        if samples_to_seconds(len(waveform)) > LONGEST_AUDIO_SECONDS:
            return ""
        address = audio_address(waveform)
    except AudioError:
        return ""
    label = html.escape(f"Audio of {example.name}", quote=True)
    return f'<audio controls preload="none" aria-label="{label}" src="{address}"></audio>'
