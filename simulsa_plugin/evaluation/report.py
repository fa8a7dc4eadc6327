"""What a person reads of a run: a table on the terminal, scores.tsv, curves.png and report.html."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.tables import shown
from simulsa_plugin.storage import replacing
from simulsa_plugin.tables import align

KEYS = ("policy", "chunk_ms", "rollback")
VALUES = ("BLEU", "chrF", "AL", "LAAL", "AP", "DAL", "ATD", "YAAL", "NE")
COUNTS = ("instances", "empty", "skipped")


def write_report(scores: Mapping[str, Any], out: Path) -> None:
    """Write `scores.tsv`, `curves.png` and `report.html` beside scores.json."""
    cells = scores["cells"]
    with replacing(out / "scores.tsv", "w") as handle:
        handle.writelines("\t".join(row) + "\n" for row in [[*KEYS, *VALUES, *COUNTS], *map(_exact, cells)])
    with replacing(out / "curves.png") as handle:
        _draw(cells, handle)
    with replacing(out / "report.html", "w") as handle:
        handle.write(_page(scores))


def table(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells as aligned lines."""
    return align(
        [
            [*KEYS, *VALUES, *COUNTS],
            *([*_key(cell), *(shown(cell[name]) for name in VALUES), *_counts(cell)] for cell in cells),
        ]
    )


def _key(cell: Mapping[str, Any]) -> list[str]:
    return ["–" if cell[name] is None else str(cell[name]) for name in KEYS]


def _counts(cell: Mapping[str, Any]) -> list[str]:
    return [str(cell[name]) for name in COUNTS]


def _exact(cell: Mapping[str, Any]) -> list[str]:
    return ["" if cell[name] is None else str(cell[name]) for name in (*KEYS, *VALUES, *COUNTS)]


def _draw(cells: Sequence[Mapping[str, Any]], handle: Any) -> None:
    """BLEU over LAAL, one line per rollback; offline as a level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for policy, rollback in dict.fromkeys(
        (cell["policy"], cell["rollback"]) for cell in cells if cell["chunk_ms"] is not None
    ):
        points = [
            cell
            for cell in cells
            if (cell["policy"], cell["rollback"]) == (policy, rollback) and cell["LAAL"] is not None
        ]
        axes.plot(
            [cell["LAAL"] for cell in points],
            [cell["BLEU"] for cell in points],
            marker="o",
            label=f"{policy}, b = {rollback}",
        )
        for cell in points:
            axes.annotate(
                f"{cell['chunk_ms']}",
                (cell["LAAL"], cell["BLEU"]),
                textcoords="offset points",
                xytext=(4, -10),
                fontsize=7,
            )
    for cell in cells:
        if cell["chunk_ms"] is None:
            axes.axhline(cell["BLEU"], linestyle="--", color="grey", label="offline")
    axes.set_xlabel("LAAL (ms); numbers: chunk (ms)")
    axes.set_ylabel("BLEU")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(handle, format="png", dpi=120)


def _page(scores: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*KEYS, *VALUES, *COUNTS))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(text)}</td>" for text in [*_key(cell), *(shown(cell[v]) for v in VALUES), *_counts(cell)]
        )
        + "</tr>\n"
        for cell in scores["cells"]
    )
    signatures = "".join(
        f"<li><code>{html.escape(name)}: {html.escape(str(text))}</code></li>"
        for name, text in scores["signatures"].items()
    )
    model = html.escape(", ".join(f"{key}: {value}" for key, value in scores["model"].items()))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Simultaneous translation</title>\n'
        "<style>body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{padding:.2em .7em;text-align:right}"
        "tr:nth-child(even){background:#f4f4f4}</style></head><body>\n"
        f"<h1>{html.escape(scores['dataset'])}</h1><p>{model}</p>\n<table><tr>{head}</tr>\n{body}</table>\n"
        f"<p>Latencies in ms of source heard (not computation-aware); "
        f"{len(scores['skipped'])} utterances skipped in every cell.</p>\n"
        f'<img src="curves.png" alt="BLEU over LAAL"><h2>Signatures</h2><ul>{signatures}</ul></body></html>\n'
    )
