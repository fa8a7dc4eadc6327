"""The work behind `simulsa-eval tune`: the best setting within each latency budget, found on a dev set.

Successive halving over utterances: every cell is decoded on a few, those that may still be the best at a budget on
more, the last on all. Each part is a `decoding.Job` whose blocks a killed run goes on from; what is decoded next
follows from what was decoded before, so it ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulsa_plugin.errors import DatasetError
from simulsa_plugin.evaluation.block_decoding import (
    DecodingJob,
    cell_folder,
    decode_blocks,
    find_attention_heads,
    read_instances,
    read_steps,
)
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.formatting import format_parameters
from simulsa_plugin.evaluation.reference_checks import check_references
from simulsa_plugin.evaluation.result_folder import FILE_CHECKSUMS
from simulsa_plugin.evaluation.run import describe_evaluation, plan_cells, refuse_other_evaluation, run_folder
from simulsa_plugin.files.atomic import make_folder, make_own_folder, refuse_link, remove_leftovers
from simulsa_plugin.files.checksums import checksums, read_sealed, refuse_damaged, write_sealed
from simulsa_plugin.files.json_files import dump_line
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import claim, refuse_foreign
from simulsa_plugin.logs.simuleval import INSTANCES_LOG, write_simuleval_log
from simulsa_plugin.metrics.arrays import FloatArray
from simulsa_plugin.metrics.corpus_scores import CorpusScorer, CorpusScores
from simulsa_plugin.metrics.curves import frontier
from simulsa_plugin.metrics.delays import emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.significance import (
    LEAST_UTTERANCES,
    Bootstrap,
    Statistics,
    bootstrap_metrics,
    interval,
)
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import Sample, UnusableRow
from simulsa_plugin.streaming.engine import BatchLimits, DecodingSetting
from simulsa_plugin.tables import align
from simulsa_plugin.tuning.halving import (
    KEPT,
    Goal,
    best_shares,
    best_within,
    neighbours,
    promising,
    rungs,
    spread_order,
    with_trust,
)

logger = logging.getLogger(__name__)
FRONTIER, TUNED, FINALISTS = "frontier.json", "tuned.yaml", "finalists.yaml"
DEV_LOGS = "dev"  # a folder per cell that was decoded on the whole dev set
SEARCH = "search"  # what is decoded, until the search is finished; `run` has a folder of its own
SECOND_LOOKS = 2  # after all rungs, at one cell for each budget
NAMES = (SEARCH, FRONTIER, DEV_LOGS, TUNED, FINALISTS)  # what a search writes into its folder


@dataclass(frozen=True)
class Scored:
    """A cell on the utterances that it has been decoded on.

    Attributes:
        utterances: how many.
        measured: how many of them have a latency.
        value: (quality, latency).
        samples: both on each resample, shape (2, resamples); none for fewer than two utterances.
    """

    utterances: int
    measured: int
    value: tuple[float | None, float | None]
    samples: FloatArray | None


@dataclass
class Search:
    """What has been decoded so far.

    Attributes:
        job: its rows are the dev set, its cells the candidates, its folder that of the parts.
        goal: what is tuned for.
        settings: of the evaluation.
        order: positions of the rows in the order in which they are taken.
        beside: candidates that are neighbours of each.
        taken: rows that each candidate has been given, the first of `order`.
        records: candidate → row → what was emitted.
        scored: each candidate's score on its records.
        shares: each candidate's share at each budget, when it was last compared.
        sessions: decoded.
        parts: decoded.
    """

    job: DecodingJob
    goal: Goal
    settings: EvaluationSettings
    order: Sequence[int]
    beside: Sequence[Sequence[int]]
    taken: list[int]
    records: list[dict[int, EmissionRecord]]
    scored: dict[int, Scored] = field(default_factory=dict)
    shares: dict[int, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    sessions: int = 0
    parts: int = 0


def search_frontier(
    model: AudioLanguageModel,
    name: str,
    rows: Sequence[Sample | UnusableRow],
    settings: EvaluationSettings,
    goal: Goal,
    out: Path,
) -> dict[str, Any]:
    """Find the best cell within each budget; write frontier.json, and the logs of the cells decoded on all utterances.

    Started again after a stop, it goes on, and ends with the same bytes; a folder that is finished is only read.

    Args:
        model: what decodes.
        name: of the dev set.
        rows: the dev set.
        settings: all cells of these but offline are candidates.
        goal: metrics and budgets.
        out: folder of the result.

    Returns:
        The content of frontier.json.

    Raises:
        UsageError, MissingExtraError: as `run.evaluate`.
        DatasetError: there is no utterance, or none can be decoded.
        StorageError: the folder cannot be used, or holds other work.
    """
    if not rows:
        raise DatasetError(f"The dev set {name} has no rows. Name a dataset that has some.")
    check_references(name, rows, settings)
    limits = BatchLimits(settings.max_new_tokens, settings.eval_batch_size, settings.eval_memory_gb * 1e9)
    claim(make_folder(out), NAMES, recognised=_is_known(out))
    job = DecodingJob(model, name, rows, plan_cells(settings)[1:], limits, False, make_own_folder(out / SEARCH))
    work = describe_evaluation(job, settings) | {"goal": dataclasses.asdict(goal) | {"budgets": list(goal.budgets)}}
    with locked(out):
        finished = read_sealed(out / FRONTIER)
        if finished is not None:
            refuse_other_evaluation(out, finished, work, decodes=False)
            refuse_damaged(out, finished.get(FILE_CHECKSUMS) or {}, _decode_again(out))
            shutil.rmtree(job.folder, ignore_errors=True)  # of a run that was killed at its very end
            return finished
        for path in (FRONTIER, TUNED, FINALISTS):
            remove_leftovers(out, path)
        job = dataclasses.replace(job, work=_begin(job, work, out))
        search = _search(job, settings, goal)
        return _finish(search, work, out)


def refuse_foreign_files(out: Path) -> None:
    """Raise StorageError where a link, or what no search has made, stands in the place of what is written."""
    refuse_foreign(out, NAMES, recognised=_is_known(out))


def _is_known(out: Path) -> bool:
    """Whether the folder has a finished search, with or without a list of what it made."""
    for name in NAMES:
        refuse_link(out / name)
    return read_sealed(out / FRONTIER) is not None


def _decode_again(out: Path) -> str:
    """The next step for a finished search of which a log is damaged."""
    return (
        f"Remove {out / FRONTIER} and start `simulsa-eval tune` again, which decodes everything again, or choose "
        f"another --out."
    )


def _begin(job: DecodingJob, work: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write down what is searched, or see that it is what was begun; the work as it was begun."""
    run = run_folder(out, FRONTIER, SEARCH)
    noted = run.read(run.started)
    if noted is not None:
        refuse_other_evaluation(out, noted, work, decodes=True)
        return noted
    run.begin(work)
    return run.read(run.started) or work


def _search(job: DecodingJob, settings: EvaluationSettings, goal: Goal) -> Search:
    order = spread_order([len(row.reference) if isinstance(row, Sample) else 0 for row in job.rows])
    everything = list(range(len(job.cells)))
    search = Search(
        job, goal, settings, order, neighbours(_places(job.cells)), [0] * len(everything), [{} for _ in everything]
    )
    left, steps = everything, rungs(len(job.rows))
    for number, utterances in enumerate(steps, 1):
        logger.info(f"{len(left)} of {len(everything)} cells on {utterances} of {len(job.rows)} utterances")
        _decode(search, left, utterances)
        left = _promising(search, left, round(len(everything) * KEPT**number)) if utterances < len(job.rows) else left
    while slow := _within_reach(search):
        logger.info(f"{len(slow)} more cells on all utterances: the best so far turned out too slow")
        _decode(search, slow, len(job.rows))
    for _ in range(SECOND_LOOKS):
        better = _perhaps_better(search)
        if not better:
            break
        logger.info(f"{len(better)} more cells on all utterances: by the utterances they have had they may be better")
        _decode(search, better, len(job.rows))
    if not any(search.records):
        raise DatasetError(
            f"No utterance of {job.name} can be decoded; {len(search.skipped)} were skipped, "
            f"the first for {next(iter(search.skipped.values()))}."
        )
    return search


def _places(cells: Sequence[DecodingSetting]) -> list[tuple[str, int, int]]:
    """Where the cells lie in their policies' grids: numbers of chunk and value, see `neighbours`."""
    chunks = sorted({cell.chunk_ms or 0 for cell in cells})
    values: dict[str, dict[str, int]] = defaultdict(dict)
    for cell in cells:
        seen = values[cell.policy.name]
        seen.setdefault(dump_line(cell.policy.cell()), len(seen))
    return [
        (cell.policy.name, chunks.index(cell.chunk_ms or 0), values[cell.policy.name][dump_line(cell.policy.cell())])
        for cell in cells
    ]


def _decode(search: Search, cells: Sequence[int], utterances: int) -> None:
    """Decode cells on the first utterances of the order, and score them on these."""
    groups: dict[int, list[int]] = defaultdict(list)
    for cell in cells:
        groups[search.taken[cell]].append(cell)
    for taken, group in sorted(groups.items()):
        rows = [search.job.rows[position] for position in sorted(search.order[taken:utterances])]
        part = dataclasses.replace(
            search.job,
            rows=rows,
            cells=[search.job.cells[cell] for cell in group],
            folder=search.job.folder / f"{search.parts:03d}",
            complete_blocks=set(),
        )
        search.parts += 1
        decode_blocks(part)
        _take(search, part, group)
        for cell in group:
            search.taken[cell] = utterances
    search.scored |= {cell: _score(search, cell) for cell in cells}


def _take(search: Search, part: DecodingJob, cells: Sequence[int]) -> None:
    """The records of what was decoded."""
    instances = list(read_instances(part))
    search.skipped |= {one["id"]: one["skipped"] for one in instances if "skipped" in one}
    search.sessions += len(cells) * sum("skipped" not in one for one in instances)
    samples = {part.identifier(row): row for row in part.rows if isinstance(row, Sample)}
    for cell in cells:
        for identifier, steps in read_steps(part, search.job.cells[cell]):
            sample = samples[identifier]
            search.records[cell][sample.row] = emission_record(
                steps, sample.row, sample.reference, sample.audio, search.settings.latency_unit
            )


def _score(search: Search, cell: int) -> Scored:
    goal, records = search.goal, search.records[cell]
    scorer = _scorer(search, records.values())
    scores, statistics = scorer.scores(), scorer.statistics()
    measured = len(records) - scores.counts["skipped"][goal.latency]
    value = _value(goal, scores) if records else (None, None)
    if len(records) < LEAST_UTTERANCES:
        return Scored(len(records), measured, value, None)
    needed = Statistics(
        {goal.quality: statistics.quality[goal.quality]}, {goal.latency: statistics.values[goal.latency]}, {}
    )
    found = bootstrap_metrics(needed, len(records), Bootstrap())
    return Scored(len(records), measured, value, np.stack([found[goal.quality], found[goal.latency]]))


def _scorer(search: Search, records: Iterable[EmissionRecord]) -> CorpusScorer:
    """What counts some utterances, in the order of the dev set."""
    scorer = CorpusScorer(Measure(search.settings.latency_unit), search.settings.bleu_tokenizer, keep=True)
    for record in sorted(records, key=lambda record: record.index):
        scorer.add(record)
    return scorer


def _value(goal: Goal, scores: CorpusScores) -> tuple[float | None, float | None]:
    """(Quality, latency)."""
    return scores.corpus[goal.quality], scores.corpus[goal.latency]


def _promising(search: Search, cells: list[int], keep: int) -> list[int]:
    """Those of the cells that go on; all of them where there are too few utterances to tell."""
    samples = [one.samples for cell in cells if (one := search.scored[cell]).samples is not None]
    if len(samples) < len(cells):
        return cells
    qualities, latencies = np.stack(samples, axis=1)
    shares = np.zeros((len(search.goal.budgets), len(search.taken)))
    for share, budget in zip(shares, search.goal.budgets, strict=True):
        share[cells] = best_shares(qualities, latencies, budget)
    search.shares |= {cell: shares[:, cell].tolist() for cell in cells}
    worth = np.stack([with_trust(share, search.beside, search.taken) for share in shares])
    open_ = sorted({*cells, *np.flatnonzero(worth.any(axis=0)).tolist()})  # also what was given up beside the best
    kept = promising(list(worth[:, open_]), [search.scored[cell].value for cell in open_], search.goal, keep)
    return [open_[position] for position in kept]


def _within_reach(search: Search) -> list[int]:
    """Cells that were given up, and may be within a budget that no cell decoded on all utterances is within."""
    everything = len(search.job.rows)
    full, given_up = (
        [cell for cell, taken in enumerate(search.taken) if (taken == everything) == whole] for whole in (True, False)
    )
    found: set[int] = set()
    for budget in search.goal.budgets:
        if _tuned(search, full, budget) is None:
            reachable = [cell for cell in given_up if _may_be_within(search.scored[cell], budget)]
            shares = [np.zeros(len(reachable))]
            values = [search.scored[cell].value for cell in reachable]
            found |= {reachable[one] for one in promising(shares, values, Goal((budget,)), 0)}
    return sorted(found)


def _perhaps_better(search: Search) -> list[int]:
    """For each budget the cell given up that is now predicted to be the best within it, where that beats the chosen.

    The few utterances that decided at first may have been faster or easier than the rest. How the cells decoded on all
    utterances differ between those few and all of them tells by how much (a control variate).
    """
    full = [cell for cell, taken in enumerate(search.taken) if taken == len(search.job.rows)]
    shifts = {taken: _shift(search, full, taken) for taken in set(search.taken) - {len(search.job.rows)}}
    predicted = {
        cell: tuple(
            None if value is None else value + shift
            for value, shift in zip(search.scored[cell].value, shifts[taken], strict=True)
        )
        for cell, taken in enumerate(search.taken)
        if taken in shifts and cell in search.scored
    }
    cells, found = list(predicted), set()
    for budget in search.goal.budgets:
        position = best_within([predicted[cell][0] for cell in cells], [predicted[cell][1] for cell in cells], budget)
        chosen = _tuned(search, full, budget)
        if position is None or chosen is None:
            continue
        promised, reached = predicted[cells[position]][0], search.scored[chosen].value[0]
        if promised is not None and reached is not None and promised > reached:
            found.add(cells[position])
    return sorted(found)


def _shift(search: Search, full: Sequence[int], taken: int) -> tuple[float, float]:
    """By how much (quality, latency) on all utterances exceed those on the first ones, on average over some cells."""
    rows = {search.job.rows[position].row for position in search.order[:taken]}
    differences = []
    for cell in full:
        had = [one for row, one in search.records[cell].items() if row in rows]
        few = _value(search.goal, _scorer(search, had).scores()) if had else (None, None)
        pairs = list(zip(few, search.scored[cell].value, strict=True))
        if all(one is not None and two is not None for one, two in pairs):
            differences.append([two - one for one, two in pairs if one is not None and two is not None])
    quality, latency = np.mean(differences, axis=0).tolist() if differences else (0.0, 0.0)
    return quality, latency


def _may_be_within(scored: Scored, budget: float) -> bool:
    bounds = None if scored.samples is None else interval(scored.samples[1])
    return bounds is not None and bounds.low <= budget


def _tuned(search: Search, full: Sequence[int], budget: float) -> int | None:
    values = [search.scored[cell].value for cell in full]
    position = best_within([value[0] for value in values], [value[1] for value in values], budget)
    return None if position is None else full[position]


def _finish(search: Search, work: dict[str, Any], out: Path) -> dict[str, Any]:
    job, goal = search.job, search.goal
    full = [cell for cell, taken in enumerate(search.taken) if taken == len(job.rows)]
    chosen = {budget: _tuned(search, full, budget) for budget in goal.budgets}
    curve = frontier(
        (latency, quality)
        for cell in full
        for quality, latency in [search.scored[cell].value]
        if quality is not None and latency is not None
    )
    knots = set(zip(curve.qualities.tolist(), curve.latencies.tolist(), strict=True))
    rows = [
        _row(search, cell, [budget for budget, one in chosen.items() if one == cell]) for cell in range(len(job.cells))
    ]
    points = [rows[cell] for cell in full if search.scored[cell].value in knots]
    make_own_folder(out / DEV_LOGS)
    for cell in full:
        _write_log(search.records[cell], out / DEV_LOGS / cell_folder(job.cells[cell]))
    logs = [f"{DEV_LOGS}/{cell_folder(job.cells[cell])}/{INSTANCES_LOG}" for cell in full]
    usable = len(job.rows) - len(search.skipped)
    content = {
        "budgets": [
            {"budget": budget, "cell": None if cell is None else rows[cell]["cell"]} for budget, cell in chosen.items()
        ],
        "points": sorted(points, key=lambda row: (row[goal.latency], row["cell"])),
        "sessions": {"decoded": search.sessions, "grid": usable * len(job.cells)},
        "cells": rows,
        "utterances": usable,
        "skipped": [{"id": one, "reason": reason} for one, reason in sorted(search.skipped.items())],
        "attention_heads": find_attention_heads(job),
        **work,
        "model": job.work["model"],
        FILE_CHECKSUMS: checksums(out, logs),
    }
    write_sealed(out / FRONTIER, content)  # last: its presence says that everything else is there
    shutil.rmtree(job.folder, ignore_errors=True)
    return read_sealed(out / FRONTIER) or content


def _row(search: Search, cell: int, budgets: Iterable[float]) -> dict[str, Any]:
    goal, scored, candidate = search.goal, search.scored[cell], search.job.cells[cell]
    bounds = [None, None] if scored.samples is None else [interval(values) for values in scored.samples]
    return {
        "cell": cell_folder(candidate),
        "policy": candidate.policy.name,
        "chunk_ms": candidate.chunk_ms,
        **candidate.policy.cell(),
        "utterances": scored.utterances,
        goal.quality: scored.value[0],
        goal.latency: scored.value[1],
        "measured": scored.measured,
        "intervals": {
            name: found and [found.low, found.high]
            for name, found in zip((goal.quality, goal.latency), bounds, strict=True)
        },
        "best_share": {
            f"{budget:g}": share for budget, share in zip(goal.budgets, search.shares.get(cell, ()), strict=False)
        },
        "tuned_at": list(budgets),
    }


def _write_log(records: Mapping[int, EmissionRecord], folder: Path) -> None:
    remove_leftovers(make_own_folder(folder), INSTANCES_LOG)
    ordered = (dataclasses.replace(records[row], index=index) for index, row in enumerate(sorted(records)))
    write_simuleval_log(folder / INSTANCES_LOG, ordered)


def frontier_table(result: Mapping[str, Any]) -> list[str]:
    """The lines that `tune` prints of a result: the frontier with its budgets, and what the search took."""
    quality, latency = result["goal"]["quality"], result["goal"]["latency"]
    rows = [["budget ms", f"{latency} ms", "[low, high]", quality, "[low, high]", "cell"]]
    for point in result["points"]:
        budgets = ",".join(f"{budget:g}" for budget in point["tuned_at"])
        parts = "" if point["measured"] == point["utterances"] else f" ({point['measured']}/{point['utterances']})"
        rows.append(
            [
                budgets or "–",
                f"{point[latency]:.0f}{parts}",
                _bounds(point["intervals"][latency], 0),
                f"{point[quality]:.2f}",
                _bounds(point["intervals"][quality], 2),
                cell_in_words(point),
            ]
        )
    sessions = result["sessions"]
    times = sessions["grid"] / max(1, sessions["decoded"])
    lines = [
        f"frontier on {result['dataset']}, of the cells decoded on all {result['utterances']} utterances "
        "(95 % of resamples of the utterances):",
        *align(rows),
    ]
    lines += [
        f"{one['budget']:g} ms: no cell has so little {latency}; the least is {_least(result, latency)}"
        for one in result["budgets"]
        if one["cell"] is None
    ]
    return [
        *lines,
        f"decoded {sessions['decoded']:,} sessions; the whole grid of {len(result['cells'])} cells has "
        f"{sessions['grid']:,} ({times:.1f} times as many)",
    ]


def cell_in_words(row: Mapping[str, Any]) -> str:
    """A cell's policy, chunk and parameters.

    >>> cell_in_words({"policy": "wait_k", "chunk_ms": 500, "rollback": None, "parameters": {"wait_k": 3}})
    'wait_k k=500 wait_k=3'
    """
    rollback = "" if row["rollback"] is None or row["parameters"] else f" b={row['rollback']}"
    return f"{row['policy']} k={row['chunk_ms']:g}{rollback} {format_parameters(row['parameters'])}".rstrip()


def _bounds(bounds: Sequence[float] | None, digits: int) -> str:
    return "–" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _least(result: Mapping[str, Any], latency: str) -> str:
    found = [(row[latency], cell_in_words(row)) for row in result["cells"] if row[latency] is not None]
    return "unknown" if not found else "{:.0f} ms ({})".format(*min(found))
