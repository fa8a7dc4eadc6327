"""The last and the best evaluation of a training as results of `simulsa-eval run`, each with its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.block_decoding import cell_folder, row_identifier
from simulsa_plugin.evaluation.cell_files import make_cell_folder, write_log
from simulsa_plugin.evaluation.during_training import Sessions, TrainingEvaluation
from simulsa_plugin.evaluation.report import REPORT_FILES, TRAINING
from simulsa_plugin.evaluation.result_cells import SCORES
from simulsa_plugin.evaluation.result_folder import write_scores
from simulsa_plugin.evaluation.run import describe_result
from simulsa_plugin.files.atomic import make_folder, writing_to
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.files.ownership import OWNED, claim
from simulsa_plugin.logs.steps import STEPS, parse_session

RESULTS, LAST, BEST = "simulsa_eval", "last", "best"  # a folder in output_dir, and those in it


def write_training_results(
    folder: Path, plan: TrainingEvaluation, kept: Mapping[int, Sessions], best: int | None, model: Mapping[str, Any]
) -> dict[str, int]:
    """Write the last evaluation, and the best one where it is another, as `simulsa-eval run` would.

    Args:
        folder: of the training.
        plan: what was decoded.
        kept: step of the training → its sessions of all utterances.
        best: step of the trainer's best model, if it chose one.
        model: what was trained, as in scores.json.

    Returns:
        Name → step, of the folders below `simulsa_eval`.

    Raises:
        StorageError: something cannot be written, or files of others are in the way.
    """
    last = max(kept)
    steps = {LAST: last} | ({BEST: best} if best in kept and best is not None and best != last else {})
    remove_training_results(folder)
    for name, step in steps.items():
        _write_result(folder / RESULTS / name, plan, kept[step], dict(model), step)
    return steps


def remove_training_results(folder: Path) -> None:
    """Remove scores and reports of an earlier training in the same folder; its logs stay until they are replaced.

    Raises:
        StorageError: they cannot be removed.
    """
    for out in (folder / RESULTS / name for name in (LAST, BEST)):
        if (out / OWNED).is_file():
            with writing_to(out):
                for name in (SCORES, *REPORT_FILES):
                    (out / name).unlink(missing_ok=True)


def _write_result(out: Path, plan: TrainingEvaluation, sessions: Sessions, model: dict[str, Any], step: int) -> None:
    claim(make_folder(out), [SCORES, *REPORT_FILES, *map(cell_folder, plan.cells)])
    scored = [_write_cell(out, plan, sessions, position) for position in range(len(plan.cells))]
    skipped = [{"id": row_identifier(plan.dataset, one.row), "reason": one.reason} for one in plan.skipped_rows]
    scores = {
        "cells": [row | {"skipped": len(skipped)} for row, _ in scored],
        "signatures": scored[0][1],
        **describe_result(plan.dataset, plan.rows, model, plan.settings),
        TRAINING: {"step": step},
        "skipped": skipped,
    }
    write_scores(scores, out)


def _write_cell(
    out: Path, plan: TrainingEvaluation, sessions: Sessions, position: int
) -> tuple[dict[str, Any], dict[str, str]]:
    cell = plan.cells[position]
    folder = make_cell_folder(out, cell)
    of_cell = [sessions[number][position] for number in range(len(plan.samples))]
    scored = write_log(
        folder,
        cell,
        plan.settings,
        ((sample, list(parse_session(rows))) for sample, rows in zip(plan.samples, of_cell, strict=True)),
    )
    write_jsonl(folder / STEPS, (row for rows in of_cell for row in rows))
    return scored
