"""Files of one cell of a result folder, and its row of scores.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.block_decoding import DecodingJob, cell_folder, steps_file
from simulsa_plugin.evaluation.delays_and_clocks import DelayClockMeans, LongDelayClockMeans
from simulsa_plugin.evaluation.result_cells import COMET_SCORES
from simulsa_plugin.files.atomic import make_own_folder, remove_leftovers, replacing, writing_to
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.steps import STEPS
from simulsa_plugin.metrics.corpus_scores import CorpusScores
from simulsa_plugin.streaming.engine import DecodingSetting


def make_cell_folder(out: Path, cell: DecodingSetting) -> Path:
    """Make the folder of a cell, without leftovers of an earlier result."""
    folder = make_own_folder(out / cell_folder(cell))
    remove_leftovers(folder)
    with writing_to(folder):
        for name in (COMET_SCORES, RESEGMENTED):
            (folder / name).unlink(missing_ok=True)
    return folder


def write_steps(job: DecodingJob, cell: DecodingSetting, folder: Path) -> None:
    """Write a cell's `steps.jsonl` from the decoded blocks."""
    with replacing(folder / STEPS) as handle:
        for block in range(job.num_blocks):
            handle.write(steps_file(job, block, cell).read_bytes())


def cell_row(
    cell: DecodingSetting, folder: Path, found: CorpusScores, means: DelayClockMeans | LongDelayClockMeans
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a cell's row of scores.json, and its signatures."""
    scores = found.as_json()
    counts = scores["counts"] | {"truncated_steps": means.truncated_steps}
    row = {
        "policy": cell.policy.name,
        "chunk_ms": cell.chunk_ms,
        **cell.policy.cell(),
        "folder": folder.name,
        **scores["corpus"],
        **{name: scores[name] for name in ("intervals", "percentiles", "degenerate")},
        **means.as_json(),
        "instances": counts["instances"],
        "empty": counts["empty"],
        "counts": counts,
    }
    return row, scores["signatures"] | {"CA": "clock:cumulative|as:SimulEval-1.1.4"}
