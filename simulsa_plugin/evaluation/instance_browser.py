"""The part of a page in which instances are looked at and listened to, in one or two systems side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulsa_plugin.evaluation.named_result import NamedResult
from simulsa_plugin.evaluation.report import ScoresRow, is_long_form
from simulsa_plugin.evaluation.result_cells import cell_key, read_cells
from simulsa_plugin.evaluation.shown_instances import Json, shown_instances
from simulsa_plugin.files.json_files import dump_line

BROWSER, BROWSER_SCRIPT = "browser", "instances.js"  # the key of its data, and the asset that reads it
MAX_CELLS = 8  # of all results together, but at least two of each
MAX_TEXT = 2_000_000  # bytes of steps and texts, besides audio, so that the page stays below 5 MB
SECTION = '<h2>Instances</h2><div id="instances"><noscript>Instances are shown by a script.</noscript></div>'


def browser_data(results: Sequence[NamedResult]) -> Json:
    """Return what the browser shows, for the data of a page under the key BROWSER; SECTION and BROWSER_SCRIPT show it.

    Args:
        results: of one test set and one form, all of utterances or all of recordings. The first one that has steps
            chooses the utterances.

    Returns:
        `cells` of all results, `instances`, how many were `left_out` for want of room, and
        how units are counted.

    Raises:
        LogError, StorageError: a log or the steps of a cell cannot be read.
    """
    most = max(2, MAX_CELLS // max(1, len(results)))
    long_form = any(is_long_form(result.rows) for result in results)
    cells: list[Json] = []
    found: list[Json] = []
    for result in results:
        start, of_result = len(cells), list(read_cells(result.folder, result.scores).values())
        cells += [
            {"label": result.label(row), "result": result.name, "key": str(cell_key(row)), "streams": _streams(row)}
            for row in result.scores["cells"]
        ]
        names = [one["id"] for one in found]
        more = shown_instances(result.folder, of_result, result.unit, long_form=long_form, names=names, most=most)
        found += (
            {
                **one,
                "speech": {result.name: one["speech"]},
                "cells": {start + number: cell for number, cell in one["cells"].items()},
            }
            for one in more
        )
    joined = _joined(found)
    kept = _fitting(joined)
    return {
        "cells": cells,
        "instances": kept,
        "left_out": len(joined) - len(kept),
        "unit": results[0].unit if results else "word",
        "long_form": long_form,
    }


def _streams(row: ScoresRow) -> bool:
    return row["chunk_ms"] is not None


def _joined(instances: Iterable[Json]) -> list[Json]:
    """Join the instances that several results share: those of one name, length and reference."""
    found: dict[tuple[str, float, str | None], Json] = {}  # of another length: not the same audio
    for row in instances:
        one = found.setdefault((row["id"], row["seconds"], row["reference"]), {**row, "cells": {}, "speech": {}})
        one["cells"] |= row["cells"]
        one["speech"] |= row["speech"]
        if one["audio"] is None and row["audio"]:
            one |= {"audio": row["audio"], "note": row["note"]}
    return list(found.values())


def _fitting(instances: Sequence[Json]) -> list[Json]:
    """Return the first instance, and all others that fit into the page."""
    room = MAX_TEXT
    kept: list[Json] = []
    for one in instances:
        size = len(dump_line({**one, "audio": None}).encode())
        if size <= room or not kept:
            kept.append(one)
            room -= size
    return kept
