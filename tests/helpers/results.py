"""Result folders made of the logs in tests/data/latency, as `simulsa-eval run` writes them."""

import dataclasses
import json
from pathlib import Path

from simulsa_plugin.logs.reader import Log
from simulsa_plugin.logs.simuleval import write_simuleval_log
from simulsa_plugin.metrics.corpus_scores import score_records

LOGS = Path(__file__).parents[1] / "data" / "latency"
STRONG, FAST = LOGS / "word.instances.log", LOGS / "word_system2.instances.log"


def records_of(path):
    return list(Log(path).records())


def delayed(records, milliseconds):
    return [dataclasses.replace(one, delays=tuple(delay + milliseconds for delay in one.delays)) for one in records]


def write_result(folder, logs, name="test"):
    """Write a folder with a cell per chunk (ms) → records, all with the policy rollback and b = 0."""
    cells = []
    for chunk_ms, records in logs.items():
        scores = score_records(records)
        key = {"policy": "rollback", "chunk_ms": chunk_ms, "rollback": 0, "parameters": {}}
        cells.append(key | {"instances": len(records), "counts": {"skipped": scores.counts["skipped"]}} | scores.corpus)
        place = folder / f"rollback_k{chunk_ms}_b0"
        place.mkdir(parents=True)
        write_simuleval_log(place / "instances.log", records)
    content = {"dataset": name, "model": {"model": "<b>m</b>"}, "cells": cells, "signatures": scores.signatures}
    (folder / "scores.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def curve(shift=0.0):
    """Three cells whose quality rises with their latency, all later by `shift` ms."""
    fast, strong = delayed(records_of(FAST), shift), delayed(records_of(STRONG), shift)
    half = len(fast) // 2
    return {500: fast, 1000: [*fast[:half], *delayed(strong[half:], 300.0)], 1500: delayed(strong, 600.0)}
