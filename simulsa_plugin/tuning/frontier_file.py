"""Result of a search: frontier.json, the logs of the cells decoded on the whole dev set, and a table of both."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.block_decoding import cell_folder, find_attention_heads
from simulsa_plugin.evaluation.formatting import format_parameters
from simulsa_plugin.evaluation.result_folder import FILE_CHECKSUMS
from simulsa_plugin.evaluation.skipped_note import skipped_note
from simulsa_plugin.files.atomic import make_own_folder, remove_leftovers
from simulsa_plugin.files.checksums import checksums, read_sealed, write_sealed
from simulsa_plugin.logs.omnisteval import RESEGMENTED, write_omnisteval_log
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, write_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG, write_simuleval_log
from simulsa_plugin.metrics.curves import frontier
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer
from simulsa_plugin.metrics.significance import interval
from simulsa_plugin.tables import align_wrapped, styled
from simulsa_plugin.tuning.candidates import Candidates

FRONTIER, TUNED, FINALISTS = "frontier.json", "tuned.yaml", "finalists.yaml"
DEV_LOGS = "dev"  # with a folder for each cell that was decoded on the whole dev set


def write_frontier(candidates: Candidates, work: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the logs of the cells decoded on the whole dev set, and frontier.json; remove what the search decoded.

    Args:
        candidates: of a completed candidates.
        work: configuration of the candidates.
        out: folder of the result.

    Returns:
        The content of frontier.json.
    """
    job, goal = candidates.job, candidates.goal
    full = candidates.decoded_on_all()
    chosen = {budget: candidates.best_within(full, budget) for budget in goal.budgets}
    curve = frontier(
        (latency, quality)
        for cell in full
        for quality, latency in [candidates.scores[cell].value]
        if quality is not None and latency is not None
    )
    knots = set(zip(curve.qualities.tolist(), curve.latencies.tolist(), strict=True))
    rows = [
        _result_row(candidates, cell, [budget for budget, one in chosen.items() if one == cell])
        for cell in range(len(job.cells))
    ]
    points = [rows[cell] for cell in full if candidates.scores[cell].value in knots]
    make_own_folder(out / DEV_LOGS)
    logs = [
        f"{DEV_LOGS}/{cell_folder(job.cells[cell])}/{name}"
        for cell in full
        for name in _write_logs(candidates, cell, out / DEV_LOGS / cell_folder(job.cells[cell]))
    ]
    if candidates.dev_set.recordings is not None:
        logs += [f"{DEV_LOGS}/{name}" for name in _write_segments(candidates, out / DEV_LOGS)]
    usable = max((candidates.scores[cell].utterances for cell in full), default=0)
    content = {
        "budgets": [
            {"budget": budget, "cell": None if cell is None else rows[cell]["cell"]} for budget, cell in chosen.items()
        ],
        "points": sorted(points, key=lambda row: (row[goal.latency], row["cell"])),
        "sessions": {"decoded": candidates.sessions, "grid": _sessions_of_grid(candidates, usable)},
        "cells": rows,
        "utterances": usable,
        "skipped": [{"id": one, "reason": reason} for one, reason in sorted(candidates.skipped.items())],
        "attention_heads": find_attention_heads(job),
        **work,
        "model": job.work["model"],
        FILE_CHECKSUMS: checksums(out, logs),
    }
    write_sealed(out / FRONTIER, content)  # last: its presence shows that everything else is complete
    shutil.rmtree(job.folder, ignore_errors=True)
    return read_sealed(out / FRONTIER) or content


def _sessions_of_grid(candidates: Candidates, usable: int) -> int:
    """Return how many sessions there are; of recordings each speech segment is one."""
    in_recordings = candidates.dev_set.recordings is not None
    return (len(candidates.job.rows) if in_recordings else usable) * len(candidates.job.cells)


def _result_row(candidates: Candidates, cell: int, budgets: Iterable[float]) -> dict[str, Any]:
    goal, score, setting = candidates.goal, candidates.scores[cell], candidates.job.cells[cell]
    bounds = [None, None] if score.samples is None else [interval(values) for values in score.samples]
    return {
        "cell": cell_folder(setting),
        "policy": setting.policy.name,
        "chunk_ms": setting.chunk_ms,
        **setting.policy.cell(),
        "utterances": score.utterances,
        goal.quality: score.value[0],
        goal.latency: score.value[1],
        "measured": score.measured,
        "intervals": {
            name: found and [found.low, found.high]
            for name, found in zip((goal.quality, goal.latency), bounds, strict=True)
        },
        "best_share": {
            f"{budget:g}": share for budget, share in zip(goal.budgets, candidates.shares.get(cell, ()), strict=False)
        },
        "tuned_at": list(budgets),
    }


def _write_segments(candidates: Candidates, folder: Path) -> tuple[str, str]:
    """Write the reference segments of the recordings, by which their logs are read again; return the files' names."""
    for name in (SEGMENTS, REFERENCES):
        remove_leftovers(folder, name)
    recordings = ((one.sample.audio, one.references) for one in candidates.dev_set.usable)
    write_segments(folder / SEGMENTS, folder / REFERENCES, recordings)
    return SEGMENTS, REFERENCES


def _write_logs(candidates: Candidates, cell: int, folder: Path) -> list[str]:
    """Write the logs of a cell; of recordings also that of their segments. Return their names."""
    remove_leftovers(make_own_folder(folder), INSTANCES_LOG)
    records = candidates.records[cell]
    ordered = [dataclasses.replace(records[row], index=index) for index, row in enumerate(sorted(records))]
    write_simuleval_log(folder / INSTANCES_LOG, ordered)
    if candidates.dev_set.recordings is None:
        return [INSTANCES_LOG]
    scorer = LongFormScorer(Measure(candidates.settings.latency_unit), candidates.settings.bleu_tokenizer)
    references = {recording.row: recording.references for recording in candidates.dev_set.usable}
    remove_leftovers(folder, RESEGMENTED)
    write_omnisteval_log(
        folder / RESEGMENTED, [part for row in sorted(records) for part in scorer.add(records[row], references[row])]
    )
    return [INSTANCES_LOG, RESEGMENTED]


def frontier_table(result: Mapping[str, Any]) -> list[str]:
    """Format a result as lines: the frontier with its budgets, and the number of decoded sessions."""
    quality, latency = result["goal"]["quality"], result["goal"]["latency"]
    rows = [["cell", "budget ms", f"{latency} ms", "[low, high]", quality, "[low, high]"]]
    for point in result["points"]:
        budgets = ",".join(f"{budget:g}" for budget in point["tuned_at"])
        parts = "" if point["measured"] == point["utterances"] else f" ({point['measured']}/{point['utterances']})"
        rows.append(
            [
                styled(cell_in_words(point), "best" if budgets else None),
                budgets or "–",
                f"{point[latency]:.0f}{parts}",
                _format_interval(point["intervals"][latency], 0),
                f"{point[quality]:.2f}",
                _format_interval(point["intervals"][quality], 2),
            ]
        )
    sessions = result["sessions"]
    times = sessions["grid"] / max(1, sessions["decoded"])
    long_form = "simulsa_longform" in result["settings"]
    counted, resampled = (
        ("reference segments", "recordings and their segments") if long_form else ("utterances", "utterances")
    )
    lines = [
        f"frontier on {result['dataset']}, of the cells decoded on all {result['utterances']} {counted} "
        f"(95 % of resamples of the {resampled}):",
        *align_wrapped(rows),
    ]
    lines += [
        f"{one['budget']:g} ms: no cell has so little {latency}; the least is {_lowest_latency(result, latency)}"
        for one in result["budgets"]
        if one["cell"] is None
    ]
    return [
        *lines,
        *skipped_note(result["skipped"], "frontier.json"),
        f"decoded {sessions['decoded']:,} sessions; the whole grid of {len(result['cells'])} cells has "
        f"{sessions['grid']:,} ({times:.1f} times as many)",
    ]


def cell_in_words(row: Mapping[str, Any]) -> str:
    """Format a cell's policy, chunk and parameters.

    >>> cell_in_words({"policy": "wait_k", "chunk_ms": 500, "rollback": None, "parameters": {"wait_k": 3}})
    'wait_k k=500 wait_k=3'
    """
    rollback = "" if row["rollback"] is None or row["parameters"] else f" b={row['rollback']}"
    return f"{row['policy']} k={row['chunk_ms']:g}{rollback} {format_parameters(row['parameters'])}".rstrip()


def _format_interval(bounds: Sequence[float] | None, digits: int) -> str:
    return "–" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _lowest_latency(result: Mapping[str, Any], latency: str) -> str:
    found = [(row[latency], cell_in_words(row)) for row in result["cells"] if row[latency] is not None]
    return "unknown" if not found else "{:.0f} ms ({})".format(*min(found))
