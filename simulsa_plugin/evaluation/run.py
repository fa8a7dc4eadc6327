"""Decode a test set in every cell, score it, write the result folder."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simulsa_plugin import __version__
from simulsa_plugin.audio import read_mono, samples_to_seconds
from simulsa_plugin.errors import AudioError, DatasetError, ModelError
from simulsa_plugin.evaluation.cells import LOG, SCORES, folder_name
from simulsa_plugin.evaluation.emissions import emission_record, shown_units
from simulsa_plugin.evaluation.logs import write_log
from simulsa_plugin.evaluation.report import write_report
from simulsa_plugin.evaluation.settings import EvaluationSettings
from simulsa_plugin.metrics.corpus import score_records
from simulsa_plugin.metrics.stability import normalized_erasure
from simulsa_plugin.model import AudioLanguageModel, Sample, UnusableRow
from simulsa_plugin.storage import locked, make_folder, write_json, write_jsonl
from simulsa_plugin.streaming.engine import Cell, Source, decode
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.session import SAMPLES_PER_MS, SHORTEST_MS, Session

BLOCK = 128  # utterances whose audio is in memory at once


@dataclass(frozen=True)
class Instance:
    """An utterance that is decoded in every cell."""

    id: str
    sample: Sample


@dataclass(frozen=True)
class Skipped:
    """An utterance that no cell decodes, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Decoded:
    """The finished sessions of a test set, [cell][instance], and what was left out of every cell."""

    instances: list[Instance]
    sessions: list[list[Session]]
    skipped: list[Skipped]
    longer_than_window: int


def evaluate(
    model: AudioLanguageModel, name: str, rows: Sequence[Sample | UnusableRow], settings: EvaluationSettings, out: Path
) -> list[dict[str, Any]]:
    """Decode and score a test set; write scores.json, scores.tsv, curves.png, report.html and a folder per cell.

    Args:
        model: what decodes.
        name: the dataset's name.
        rows: the test set in order.
        settings: cells and units.
        out: result folder.

    Returns:
        the cells of scores.json.

    Raises:
        DatasetError: no utterance can be decoded.
        StorageError: the folder cannot be used.
    """
    with locked(make_folder(out)):
        cells = list(plan_cells(settings))
        decoded = decode_all(model, name, rows, cells, settings)
        scored = [
            write_cell(model, cell, sessions, decoded, settings, out)
            for cell, sessions in zip(cells, decoded.sessions, strict=True)
        ]
        scores: dict[str, Any] = {
            "cells": [row for row, _ in scored],
            "signatures": scored[0][1],
            "dataset": name,
            "model": model.describe(),
            "settings": settings.as_keys(),
            "skipped": [vars(skipped) for skipped in decoded.skipped],
            "versions": {"simulsa-plugin": __version__},
        }
        write_json(out / SCORES, scores)
        write_report(scores, out)
    return [row for row, _ in scored]


def plan_cells(settings: EvaluationSettings) -> Iterator[Cell]:
    """Offline, then every chunk and rollback."""
    yield Cell(Offline(), None)
    for chunk in settings.chunks:
        for rollback in settings.rollbacks:
            yield Cell(Rollback(rollback, settings.rollback_floor), chunk)


def decode_all(
    model: AudioLanguageModel,
    name: str,
    rows: Sequence[Sample | UnusableRow],
    cells: Sequence[Cell],
    settings: EvaluationSettings,
) -> Decoded:
    """Decode a test set block by block; utterances that cannot be decoded are left out of every cell alike."""
    decoded = Decoded([], [[] for _ in cells], [], 0)
    longer = 0
    with tqdm(total=len(rows) * len(cells), desc=f"decode {name}", unit="session", disable=None) as progress:
        for start in range(0, len(rows), BLOCK):
            sources: list[Source] = []
            for row in rows[start : start + BLOCK]:
                loaded = _load(model, name, row)
                if isinstance(loaded, Skipped):
                    decoded.skipped.append(loaded)
                    progress.update(len(cells))
                    continue
                decoded.instances.append(loaded[0])
                sources.append(loaded[1])
                longer += samples_to_seconds(len(loaded[1].waveform)) > (model.window_seconds or math.inf)
            finished = decode(
                model,
                sources,
                cells,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.eval_batch_size,
                on_finished=lambda _: progress.update(),
            )
            for all_sessions, sessions in zip(decoded.sessions, finished, strict=True):
                all_sessions += sessions
    if not decoded.instances:
        reasons = dict(Counter(skipped.reason for skipped in decoded.skipped))
        raise DatasetError(f"No utterance of {name} can be decoded; reasons: {reasons}.")
    return dataclasses.replace(decoded, longer_than_window=longer)


def _load(model: AudioLanguageModel, name: str, row: Sample | UnusableRow) -> tuple[Instance, Source] | Skipped:
    identifier = f"{name}-{row.row:08d}"
    if isinstance(row, UnusableRow):
        return Skipped(identifier, row.reason)
    try:
        waveform = read_mono(row.audio)
        if len(waveform) < SHORTEST_MS * SAMPLES_PER_MS:
            return Skipped(identifier, "too_short")
        model.render_prompt(row.prompt, waveform)
    except AudioError as error:
        return Skipped(identifier, f"audio_{error.reason}")
    except ModelError:
        return Skipped(identifier, "not_renderable")
    return Instance(identifier, row), Source(row.prompt, waveform)


def write_cell(
    model: AudioLanguageModel,
    cell: Cell,
    sessions: Sequence[Session],
    decoded: Decoded,
    settings: EvaluationSettings,
    out: Path,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write a cell's `instances.log` and `steps.jsonl`; return its row of scores.json and its signatures."""
    unit = settings.latency_unit
    policy = cell.policy.cell()
    folder = make_folder(out / folder_name(cell.policy.name, cell.chunk_ms, policy["rollback"]))
    records = [
        emission_record(session, index, instance.sample.reference, instance.sample.audio, unit, model.decode)
        for index, (session, instance) in enumerate(zip(sessions, decoded.instances, strict=True))
    ]
    write_log(folder / LOG, records)
    write_jsonl(folder / "steps.jsonl", _step_rows(model, sessions, decoded.instances))
    scores = score_records(records, unit=unit, tokenizer=settings.bleu_tokenizer)
    erasure = normalized_erasure([shown_units(session, unit, model.decode) for session in sessions])
    counts = {
        **scores.counts,
        "truncated_steps": sum(step.truncated for session in sessions for step in session.steps),
        "longer_than_window": decoded.longer_than_window,
    }
    row = {
        "policy": cell.policy.name,
        "chunk_ms": cell.chunk_ms,
        **policy,
        "folder": folder.name,
        **scores.corpus,
        "NE": erasure,
        "instances": len(records),
        "empty": counts["empty"],
        "skipped": len(decoded.skipped),
        "counts": counts,
    }
    return row, scores.signatures


def _step_rows(
    model: AudioLanguageModel, sessions: Sequence[Session], instances: Sequence[Instance]
) -> Iterator[dict[str, Any]]:
    for session, instance in zip(sessions, instances, strict=True):
        for number, step in enumerate(session.steps, 1):
            yield {
                "id": instance.id,
                "step": number,
                "audio_ms": step.audio_ms,
                "token_ids": list(step.token_ids),
                "text": model.decode(step.token_ids).strip(),
                "committed_tokens": step.committed_tokens,
                "finished": step.finished,
            }
