"""`simulsa-eval run`: decodes a test set in every cell, scores it, writes the result folder."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import DatasetError, StorageError, UsageError
from simulsa_plugin.evaluation.block_decoding import (
    BLOCK_NOTE,
    STARTED,
    DecodingJob,
    cell_folder,
    decode_blocks,
    is_complete,
    read_instances,
    read_steps,
    recorded_work,
    remove_blocks,
    wait_for_blocks,
)
from simulsa_plugin.evaluation.budgets import TUNED, parse_budgets
from simulsa_plugin.evaluation.cell_files import make_cell_folder, write_log, write_steps
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.limit import LIMITS, SupportedPrefixes, add_distances, limits
from simulsa_plugin.evaluation.loading import DecodedRow
from simulsa_plugin.evaluation.long_form import recording_record, write_long_cell
from simulsa_plugin.evaluation.reference_checks import check_references
from simulsa_plugin.evaluation.report import REPORT_FILES
from simulsa_plugin.evaluation.result_cells import SCORES
from simulsa_plugin.evaluation.result_folder import check_files, check_sealed, write_scores
from simulsa_plugin.evaluation.speech_file import SPEECH, write_speech
from simulsa_plugin.evaluation.test_set import TestSet, read_test_set, skipped_rows
from simulsa_plugin.files.atomic import (
    make_folder,
    make_own_folder,
    refuse_link,
    remove_leftovers,
)
from simulsa_plugin.files.checksums import read_sealed, write_sealed
from simulsa_plugin.files.json_files import dump_line
from simulsa_plugin.files.locks import locked
from simulsa_plugin.files.ownership import OWNED, claim, refuse_foreign
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, write_segments
from simulsa_plugin.metrics.delays import emission_record
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import EmissionRecord, LatencyUnit
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.replicas import ReplicatedModel
from simulsa_plugin.model.values import Sample, UnusableRow, advice_on_audio
from simulsa_plugin.run_configuration import (
    RunFolder,
    read_configuration,
    unequal_weights,
    versions,
)
from simulsa_plugin.settings import did_you_mean, short_repr
from simulsa_plugin.sharding import Shard
from simulsa_plugin.streaming.catalogue import make_policies, policy_sources
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.policies import Offline
from simulsa_plugin.streaming.steps import BatchLimits
from simulsa_plugin.tables import list_counts

_LISTED_CELLS = 20  # in the error for an unknown one
logger = logging.getLogger(__name__)
DECODING = "decoding"


def run_evaluation(
    model: AudioLanguageModel | ReplicatedModel,
    name: str,
    rows: Sequence[Sample | UnusableRow],
    settings: EvaluationSettings,
    out: Path,
    share: Shard | None = None,
    truth: SupportedPrefixes | None = None,
) -> list[dict[str, Any]]:
    """Decode and score a test set; write scores.json, scores.tsv, curves.png, report.html and a folder per cell.

    A stopped run resumes, and ends with the same bytes; a finished folder is only read.

    Args:
        model: the model.
        name: the dataset's name.
        rows: the test set in order.
        settings: cells and units.
        out: result folder.
        share: the part of this process among several; the first one waits for the others, and writes the result.
        truth: supported parts of the references, for the limit.

    Returns:
        The cells of scores.json, then its limits; empty for all shares but the first.

    Raises:
        UsageError, MissingExtraError: a policy cannot be made, or the references do not fit the unit or the tokenizer;
            see `plan_cells` and `check_references`.
        DatasetError: there are no utterances, or none can be decoded.
        StorageError: the folder cannot be used, or holds another evaluation.
    """
    if not rows:
        raise DatasetError(f"The dataset {name} has no rows. Name a test set that has some.")
    cells = plan_cells(settings)
    check_references(name, rows, settings)
    limits = BatchLimits(settings.max_new_tokens, settings.eval_batch_size, settings.eval_memory_gb * 1e9)
    refuse_foreign_results(out, settings)
    if (out / OWNED).exists():  # it may be damaged
        claim(out, _output_names(cells, long_form=settings.is_long_form), recognised=_has_evaluation(out))
    job = DecodingJob(model, name, rows, cells, limits, settings.measure_time, make_folder(out) / DECODING)
    work = describe_evaluation(job, settings)
    first = share is None or share.number == 1
    if (out / SCORES).exists():
        found = _read_finished(job, work, out)
        return found if first else []
    test_set = read_test_set(rows, settings, model.window_seconds)
    job = dataclasses.replace(job, rows=test_set.decoded)
    if share and not first:
        _decode_share(job, work, share, out)
        return []
    with locked(out):
        if (out / SCORES).exists():  # written by the process that held the lock
            return _read_finished(job, work, out)
        for path in (SCORES, *REPORT_FILES):
            remove_leftovers(out, path)
        job = _begin(job, work, out)
        decode_blocks(job, share)
        wait_for_blocks(job)
        return _finish(job, test_set, work, settings, out, truth)


def refuse_foreign_results(out: Path, settings: EvaluationSettings) -> None:
    """Raise StorageError where links or foreign files are in the place of results."""
    names = _output_names(plan_cells(settings), long_form=settings.is_long_form)
    refuse_foreign(out, names, recognised=_has_evaluation(out))


def _output_names(cells: Sequence[DecodingSetting], *, long_form: bool) -> list[str]:
    more = (SEGMENTS, REFERENCES, SPEECH) if long_form else ()
    return [DECODING, SCORES, *REPORT_FILES, *more, *map(cell_folder, cells)]


def _has_evaluation(out: Path) -> bool:
    """Return whether the folder has an evaluation; earlier versions kept no list of their files."""
    for path in (out / SCORES, out / DECODING, out / DECODING / STARTED):
        refuse_link(path)
    if (out / SCORES).exists():
        return isinstance(read_configuration(out / SCORES).get("settings"), dict)
    return any(read_sealed(path) for path in [out / DECODING / STARTED, *(out / DECODING).glob(f"*/{BLOCK_NOTE}")])


def plan_cells(settings: EvaluationSettings) -> list[DecodingSetting]:
    """Return offline, then for every policy each chunk with each of its settings, restricted to `settings.cells`.

    Raises:
        UsageError: a policy cannot be made, two cells have the same name, or `cells` has an unknown one.
    """
    named = [make_policies(name, settings.policy_options) for name in settings.policies]
    cells = [DecodingSetting(policy, chunk) for policies in named for chunk in settings.chunks for policy in policies]
    folders = Counter(map(cell_folder, cells))
    for folder in (name for name, count in folders.items() if count > 1):
        raise UsageError(
            f"simulsa_policies gives {folders[folder]} cells by the name {folder}. "
            "Rename your policies, or give them different parameters in cell()."
        )
    return [DecodingSetting(Offline(), None), *_select_cells(cells, settings.cells)]


def _select_cells(cells: Sequence[DecodingSetting], names: Sequence[str] | None) -> list[DecodingSetting]:
    """Return the cells that `simulsa_cells` names; all where it is not set."""
    if names is None:
        return list(cells)
    folders = [cell_folder(cell) for cell in cells]
    for name in names:
        if name not in folders:
            shown = folders[:_LISTED_CELLS] + ["…"] * (len(folders) > _LISTED_CELLS)
            hint = did_you_mean(name, folders) or f" They are {', '.join(shown)}."
            raise UsageError(
                f"simulsa_cells names {short_repr(name)}, which is not among the {len(folders)} cells of "
                f"simulsa_policies, simulsa_chunks and the policies' keys.{hint}"
            )
    return [cell for cell, folder in zip(cells, folders, strict=True) if folder in names]


def _decode_share(job: DecodingJob, work: dict[str, Any], share: Shard, out: Path) -> None:
    """Decode a share; a process that starts after the end leaves no files."""
    try:
        if not (out / SCORES).exists():
            decode_blocks(_begin(job, work, out), share)
    except StorageError:
        if not (out / SCORES).exists():  # else another process has finished and removed the blocks
            raise
    if (out / SCORES).exists():
        _read_finished(job, work, out)


def _begin(job: DecodingJob, work: dict[str, Any], out: Path) -> DecodingJob:
    """Record the configuration, or compare it with the recorded one; return the job with the recorded one."""
    long_form = "simulsa_longform" in work["settings"]
    claim(out, _output_names(job.cells, long_form=long_form), recognised=_has_evaluation(out))
    with locked(make_own_folder(job.folder), wait=True):
        run = run_folder(out, SCORES)
        noted = run.read(run.started)
        begun = noted or recorded_work(job)  # after a crash only the blocks may be left
        if noted is None:
            run.begin(begun or work)
        job = dataclasses.replace(job, work=run.read(run.started) or {})
        if begun is not None:
            decodes = not all(is_complete(job, block) for block in range(job.num_blocks))
            refuse_other_evaluation(out, begun, work, decodes=decodes)
        return job


def _read_finished(job: DecodingJob, work: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """Read the cells of a finished folder, verify its files, and remove left-over blocks."""
    scores = read_configuration(out / SCORES)
    check_sealed(scores, out)
    refuse_other_evaluation(out, scores, work, decodes=False)
    check_files(scores, out)
    remove_blocks(job)
    cells: list[dict[str, Any]] = [*scores["cells"], *scores.get(LIMITS, [])]
    return cells


def describe_evaluation(job: DecodingJob, settings: EvaluationSettings) -> dict[str, Any]:
    """Return the configuration that determines the result."""
    hardware = {"hardware": job.model.hardware()} if job.measures_time else {}
    return describe_result(job.name, job.rows, job.model.describe(), settings) | hardware


def describe_result(
    name: str, rows: Sequence[DecodedRow], model: Mapping[str, Any], settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the test set, the model and the settings of a result, for scores.json."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{dump_line([row.row, *_row_content(row)])}\n".encode())
    own = policy_sources(settings.policies)
    packages = ["simulsa-plugin", *(["silero-vad"] if settings.is_long_form else [])]
    return {
        "dataset": name,
        "rows": len(rows),
        "content": digest.hexdigest(),
        "model": dict(model),
        "settings": settings.relevant_keys(),
        "versions": versions(*packages),
        **({"policies": own} if own else {}),
    }


def _row_content(row: DecodedRow) -> list[Any]:
    if not isinstance(row, Sample):
        return [row.reason] if isinstance(row, UnusableRow) else []
    segments = [[one.offset_seconds, one.duration_seconds, one.reference] for one in row.segments]
    return [row.audio, row.reference, vars(row.prompt), *([segments] if segments else [])]


def run_folder(out: Path, finished: str, blocks: str = DECODING) -> RunFolder:
    """Return the record of an evaluation or a search: begun beside its `blocks`, finished with the file `finished`."""
    return RunFolder(out, out / blocks / STARTED, out / finished, "an evaluation", read_sealed, write_sealed)


def refuse_other_evaluation(
    out: Path,
    before: dict[str, Any],
    work: dict[str, Any],
    *,
    decodes: bool,
    next_step: str = "Choose another --out.",
) -> None:
    """Check that a folder has the same configuration; `decodes`: whether some blocks are still to be decoded.

    Raises:
        StorageError: the configurations differ.
    """
    run_folder(out, SCORES).refuse_other(before, work, next_step, computes=decodes)
    if before["model"].get("weights") != work["model"].get("weights"):
        logger.warning(f"{out}: {unequal_weights(before, work)}")


def _finish(
    job: DecodingJob,
    test_set: TestSet,
    work: dict[str, Any],
    settings: EvaluationSettings,
    out: Path,
    truth: SupportedPrefixes | None,
) -> list[dict[str, Any]]:
    instances = list(read_instances(job))
    skipped = [*test_set.skipped(job.identifier), *skipped_rows(instances)]
    if not test_set.any_usable(instances):
        reasons = Counter(one["reason"] for one in skipped)
        remove_blocks(job)  # so that a corrected test set can use the folder
        audio = next((row.audio for row in test_set.rows if isinstance(row, Sample | UnusableRow) and row.audio), None)
        first = f" The first audio is {audio}." if audio else ""
        raise DatasetError(
            f"No utterance of {job.name} can be decoded; reasons: {list_counts(reasons)}."
            f"{first}{advice_on_audio(reasons)}"
        )
    if test_set.recordings is None:
        scored = [_write_cell(job, cell, settings, out) for cell in job.cells]
    else:
        named = ((one.sample.audio, one.references) for one in test_set.usable)
        write_segments(out / SEGMENTS, out / REFERENCES, named)
        write_speech(out / SPEECH, test_set.usable, job.identifier)
        scored = [write_long_cell(job, cell, test_set, settings, out) for cell in job.cells]
    longer = sum(one.get("longer_than_window", False) for one in instances)
    for row, _ in scored:
        row["skipped"] = len(skipped)
        row["counts"]["longer_than_window"] = longer
    cells = [row for row, _ in scored]
    budgets = parse_budgets(settings.tuned)
    for row in cells:
        row |= {TUNED: budgets[row["folder"]]} if row["folder"] in budgets else {}
    limit_rows = _score_limits(job, test_set, settings, truth, cells[0]) if truth else []
    add_distances(cells, limit_rows)
    scores: dict[str, Any] = {
        "cells": cells,
        **({LIMITS: limit_rows} if limit_rows else {}),
        "signatures": scored[0][1],
        **work,
        "model": job.work["model"],  # the one that decoded: this process may be on another device
        "decoded_on": sorted({one["device"] for one in instances if "skipped" not in one}),
        "skipped": skipped,
        **test_set.as_json(),
    }
    write_scores(scores, out)
    remove_blocks(job)
    return [*cells, *limit_rows]


def _samples(job: DecodingJob) -> dict[str, Sample]:
    return {job.identifier(row): row for row in job.rows if isinstance(row, Sample)}


def _score_limits(
    job: DecodingJob,
    test_set: TestSet,
    settings: EvaluationSettings,
    truth: SupportedPrefixes,
    offline: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Score the limit of what the offline cell decoded; instances without truth are counted as skipped."""
    unit = settings.latency_unit
    if test_set.recordings is None:
        records = _utterance_records(job, unit)
    else:
        records = ((one.row, recording_record(one, [], number, unit)) for number, one in enumerate(test_set.usable))
    rows = limits(records, truth, settings.chunks, Measure(unit), settings.bleu_tokenizer)
    for row in rows:
        row["skipped"] = offline["instances"] + offline["skipped"] - row["instances"]
    return rows


def _utterance_records(job: DecodingJob, unit: LatencyUnit) -> Iterator[tuple[int, EmissionRecord]]:
    samples = _samples(job)
    for index, (identifier, steps) in enumerate(read_steps(job, job.cells[0])):
        sample = samples[identifier]
        yield sample.row, emission_record(steps, index, sample.reference, "", unit)


def _write_cell(
    job: DecodingJob, cell: DecodingSetting, settings: EvaluationSettings, out: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write a cell's `instances.log` and `steps.jsonl`; return its row of scores.json and its signatures."""
    folder, samples = make_cell_folder(out, cell), _samples(job)
    sessions = ((samples[identifier], steps) for identifier, steps in read_steps(job, cell))
    scored = write_log(folder, cell, settings, sessions)
    write_steps(job, cell, folder)
    return scored
