"""Search for the best setting within each latency budget on a dev set, as `simulsa-eval tune` does.

Successive halving over utterances: every cell is decoded on a few, those that may still be the best at a budget on
more, the last on all. Each part is a `block_decoding.DecodingJob` whose blocks a killed run resumes from; the next part
depends on the results before alone, so a resumed search ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.evaluation.block_decoding import HEAD_SEARCH_ROWS, DecodingJob
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.formatting import counted
from simulsa_plugin.evaluation.recordings import Recording
from simulsa_plugin.evaluation.reference_checks import check_references
from simulsa_plugin.evaluation.result_folder import FILE_CHECKSUMS
from simulsa_plugin.evaluation.run import describe_evaluation, plan_cells, refuse_other_evaluation, run_folder
from simulsa_plugin.evaluation.test_set import TestSet, read_test_set
from simulsa_plugin.files.atomic import make_folder, make_own_folder, refuse_link, remove_leftovers
from simulsa_plugin.files.checksums import read_sealed, refuse_damaged
from simulsa_plugin.files.json_files import dump_line
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import claim, refuse_foreign
from simulsa_plugin.metrics.significance import interval
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.replicas import ReplicatedModel
from simulsa_plugin.model.values import Sample, UnusableRow, advice_on_audio
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.steps import BatchLimits
from simulsa_plugin.tuning.candidates import (
    Candidates,
    CandidateScore,
    decode_and_score,
    goal_value,
    make_scorer,
)
from simulsa_plugin.tuning.frontier_file import DEV_LOGS, FINALISTS, FRONTIER, TUNED, write_frontier
from simulsa_plugin.tuning.halving import (
    KEPT_SHARE,
    Goal,
    best_shares,
    best_within,
    neighbours,
    promising,
    rungs,
    shares_with_neighbours,
    spread_order,
)

logger = logging.getLogger(__name__)

SEARCH = "search"  # folder of decoded parts until the search is finished; `run` uses another one
NAMES = (SEARCH, FRONTIER, DEV_LOGS, TUNED, FINALISTS)  # files and folders of a search
MAX_RECHECKS = 2  # after all rungs, of one cell for each budget


def search_frontier(
    model: AudioLanguageModel | ReplicatedModel,
    name: str,
    rows: Sequence[Sample | UnusableRow],
    settings: EvaluationSettings,
    goal: Goal,
    out: Path,
) -> dict[str, Any]:
    """Find the best cell within each budget; write frontier.json, and the logs of the cells decoded on all utterances.

    Started again after a stop, it resumes, and ends with the same bytes; a finished folder is only read.

    Args:
        model: decodes the dev set.
        name: of the dev set.
        rows: the dev set.
        settings: all cells of these but offline are candidates.
        goal: metrics and budgets.
        out: folder of the result.

    Returns:
        The content of frontier.json.

    Raises:
        UsageError, MissingExtraError: as `run.evaluate`.
        DatasetError: there are no utterances, or none can be decoded.
        StorageError: the folder cannot be used, or holds another search.
    """
    if not rows:
        raise DatasetError(f"The dev set {name} has no rows. Name a dataset that has some.")
    check_references(name, rows, settings)
    limits = BatchLimits(settings.max_new_tokens, settings.eval_batch_size, settings.eval_memory_gb * 1e9)
    claim(make_folder(out), NAMES, recognised=_has_finished_search(out))
    job = DecodingJob(model, name, rows, plan_cells(settings)[1:], limits, False, make_own_folder(out / SEARCH))
    work = describe_evaluation(job, settings) | {"goal": dataclasses.asdict(goal) | {"budgets": list(goal.budgets)}}
    with locked(out):
        finished = read_sealed(out / FRONTIER)
        if finished is not None:
            refuse_other_evaluation(out, finished, work, decodes=False, next_step=_keep_logs(out / DEV_LOGS))
            refuse_damaged(out, finished.get(FILE_CHECKSUMS) or {}, _next_step_if_damaged(out))
            shutil.rmtree(job.folder, ignore_errors=True)  # of a run that was killed at its very end
            return finished
        for path in (FRONTIER, TUNED, FINALISTS):
            remove_leftovers(out, path)
        dev_set = read_test_set(rows, settings, model.window_seconds)
        job = dataclasses.replace(
            job,
            rows=dev_set.decoded,
            head_rows=dev_set.decoded[:HEAD_SEARCH_ROWS],
            work=_start_or_resume(job, work, out),
        )
        return write_frontier(_search(job, dev_set, settings, goal), work, out)


def refuse_foreign_files(out: Path) -> None:
    """Raise StorageError where a file or link that no search has written has the name of a result."""
    refuse_foreign(out, NAMES, recognised=_has_finished_search(out))


def _has_finished_search(out: Path) -> bool:
    """Return whether the folder has a finished search. Raises StorageError for links among its files."""
    for name in NAMES:
        refuse_link(out / name)
    return read_sealed(out / FRONTIER) is not None


def _keep_logs(folder: Path) -> str:
    """Return the advice for a search with other settings, whose cells were decoded into `folder`."""
    return f"The logs of its decoded cells are kept in {folder}. Choose another --out, where cells are decoded again."


def _next_step_if_damaged(out: Path) -> str:
    """Return the advice for a finished search with a damaged log."""
    return (
        f"Remove {out / FRONTIER} and start `simulsa-eval tune` again, which decodes everything again, or choose "
        f"another --out."
    )


def _start_or_resume(job: DecodingJob, work: dict[str, Any], out: Path) -> dict[str, Any]:
    """Record the configuration of the search, or check it against the recorded one. Return the recorded one."""
    run = run_folder(out, FRONTIER, SEARCH)
    noted = run.read(run.started)
    if noted is not None:
        refuse_other_evaluation(out, noted, work, decodes=True, next_step=_keep_logs(job.folder))
        return noted
    run.begin(work)
    return run.read(run.started) or work


def _search(job: DecodingJob, dev_set: TestSet, settings: EvaluationSettings, goal: Goal) -> Candidates:
    order = spread_order([_reference_length(row) for row in dev_set.rows])
    everything, kind = list(range(len(job.cells))), "utterances" if dev_set.recordings is None else "recordings"
    beside = neighbours(_grid_positions(job.cells))
    candidates = Candidates(
        job, dev_set, goal, settings, order, beside, [0] * len(everything), [{} for _ in everything]
    )
    left, steps = everything, rungs(len(dev_set.rows))
    for number, utterances in enumerate(steps, 1):
        logger.info(f"{len(left)} of {len(everything)} cells on {utterances} of {len(dev_set.rows)} {kind}")
        decode_and_score(candidates, left, utterances)
        if utterances < len(dev_set.rows):
            left = _select_promising(candidates, left, round(len(everything) * KEPT_SHARE**number))
    while dropped := _dropped_within_reach(candidates):
        logger.info(f"{counted(len(dropped), 'more cell')} on all {kind}: no cell is within a budget yet")
        decode_and_score(candidates, dropped, len(dev_set.rows))
    for _ in range(MAX_RECHECKS):
        better = _predicted_better(candidates)
        if not better:
            break
        logger.info(f"{counted(len(better), 'more cell')} on all {kind}: predicted to be better than the best so far")
        decode_and_score(candidates, better, len(dev_set.rows))
    if not any(candidates.records):
        raise DatasetError(
            f"No utterance of {job.name} can be decoded; {len(candidates.skipped)} were skipped, "
            f"the first for {next(iter(candidates.skipped.values()))}.{advice_on_audio(candidates.skipped.values())}"
        )
    return candidates


def _reference_length(row: Sample | UnusableRow | Recording) -> int:
    if isinstance(row, UnusableRow):
        return 0
    return len(row.sample.reference if isinstance(row, Recording) else row.reference)


def _grid_positions(cells: Sequence[DecodingSetting]) -> list[tuple[str, int, int]]:
    """Return each cell's policy, and its indices of chunk and parameters, see `neighbours`."""
    chunks = sorted({cell.chunk_ms or 0 for cell in cells})
    values: dict[str, dict[str, int]] = defaultdict(dict)
    for cell in cells:
        seen = values[cell.policy.name]
        seen.setdefault(dump_line(cell.policy.cell()), len(seen))
    return [
        (cell.policy.name, chunks.index(cell.chunk_ms or 0), values[cell.policy.name][dump_line(cell.policy.cell())])
        for cell in cells
    ]


def _select_promising(candidates: Candidates, cells: list[int], keep: int) -> list[int]:
    """Return the cells that go on; all of them where there are too few utterances for resampling."""
    samples = [one.samples for cell in cells if (one := candidates.scores[cell]).samples is not None]
    if len(samples) < len(cells):
        return cells
    qualities, latencies = np.stack(samples, axis=1)
    shares = np.zeros((len(candidates.goal.budgets), len(candidates.utterances)))
    for share, budget in zip(shares, candidates.goal.budgets, strict=True):
        share[cells] = best_shares(qualities, latencies, budget)
    candidates.shares |= {cell: shares[:, cell].tolist() for cell in cells}
    worth = np.stack([shares_with_neighbours(share, candidates.neighbours, candidates.utterances) for share in shares])
    eligible = sorted({*cells, *np.flatnonzero(worth.any(axis=0)).tolist()})  # with dropped neighbours of the best
    kept = promising(
        list(worth[:, eligible]), [candidates.scores[cell].value for cell in eligible], candidates.goal, keep
    )
    return [eligible[position] for position in kept]


def _dropped_within_reach(candidates: Candidates) -> list[int]:
    """Return dropped cells that may be within a budget within which no cell decoded on all utterances is."""
    full = candidates.decoded_on_all()
    dropped = sorted({*range(len(candidates.utterances))} - {*full})
    found: set[int] = set()
    for budget in candidates.goal.budgets:
        if candidates.best_within(full, budget) is None:
            reachable = [cell for cell in dropped if _may_be_within(candidates.scores[cell], budget)]
            shares = [np.zeros(len(reachable))]
            values = [candidates.scores[cell].value for cell in reachable]
            found |= {reachable[one] for one in promising(shares, values, Goal((budget,)), 0)}
    return sorted(found)


def _predicted_better(candidates: Candidates) -> list[int]:
    """Return for each budget the dropped cell that is predicted to be better within it than the best so far, if any.

    The first utterances may be faster or easier than the rest. The mean difference between those and all utterances, of
    the cells that were decoded on all, corrects the value of a dropped cell (a control variate).
    """
    full = candidates.decoded_on_all()
    shifts = {
        count: _mean_shift(candidates, full, count)
        for count in set(candidates.utterances) - {len(candidates.dev_set.rows)}
    }
    predicted = {
        cell: tuple(
            None if value is None else value + shift
            for value, shift in zip(candidates.scores[cell].value, shifts[count], strict=True)
        )
        for cell, count in enumerate(candidates.utterances)
        if count in shifts and cell in candidates.scores
    }
    cells, found = list(predicted), set()
    for budget in candidates.goal.budgets:
        position = best_within([predicted[cell][0] for cell in cells], [predicted[cell][1] for cell in cells], budget)
        chosen = candidates.best_within(full, budget)
        if position is None or chosen is None:
            continue
        promised, reached = predicted[cells[position]][0], candidates.scores[chosen].value[0]
        if promised is not None and reached is not None and promised > reached:
            found.add(cells[position])
    return sorted(found)


def _mean_shift(candidates: Candidates, full: Sequence[int], utterances: int) -> tuple[float, float]:
    """Return the mean over some cells of (quality, latency) on all utterances, less those on the first `utterances`."""
    rows = {candidates.dev_set.rows[position].row for position in candidates.order[:utterances]}
    differences = []
    for cell in full:
        had = [one for row, one in candidates.records[cell].items() if row in rows]
        few = goal_value(candidates.goal, make_scorer(candidates, had).scores()) if had else (None, None)
        pairs = list(zip(few, candidates.scores[cell].value, strict=True))
        if all(one is not None and two is not None for one, two in pairs):
            differences.append([two - one for one, two in pairs if one is not None and two is not None])
    quality, latency = np.mean(differences, axis=0).tolist() if differences else (0.0, 0.0)
    return quality, latency


def _may_be_within(score: CandidateScore, budget: float) -> bool:
    bounds = None if score.samples is None else interval(score.samples[1])
    return bounds is not None and bounds.low <= budget
