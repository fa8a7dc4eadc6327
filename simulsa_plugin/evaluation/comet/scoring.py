"""COMET and XCOMET from a local checkpoint, computed by a separate interpreter.

unbabel-comet needs transformers < 5, numpy < 2 and huggingface-hub < 1; LLaMA-Factory needs newer ones. So the two need
separate environments, and `worker.py` computes the scores in the second one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import MissingExtraError, ModelError, UsageError
from simulsa_plugin.evaluation.comet import worker as comet_worker

WORKER = Path(comet_worker.__file__)
_PARTS, _PART_BYTES = 64, 2**18
TRIPLE_KEYS = ("src", "mt", "ref")
# torchmetrics 0.10, which unbabel-comet 2.2 asks for, imports pkg_resources; setuptools 82 has dropped it.
INSTALLING = (
    "COMET needs a separate environment: `python -m venv comet-env && comet-env/bin/pip install "
    "unbabel-comet 'setuptools<82'`; then give comet-env/bin/python."
)


@dataclass(frozen=True)
class CometScores:
    """A score per segment, in input order (mostly 0…1, higher is better), and their signature."""

    scores: tuple[float, ...]
    signature: str


def comet_scores(
    triples: Sequence[Mapping[str, str]], checkpoint: Path, *, python: str | None = None, batch_size: int = 8
) -> CometScores:
    """Score segments with a COMET or XCOMET checkpoint, without network. The corpus score is their mean.

    Runs on a GPU if the interpreter's torch has one. A checkpoint is a pickle: use only one that you trust.

    Args:
        triples: shape (n,), n ≥ 1; texts "mt" (the translation), "src" and "ref". All may lack "src", or "ref", if the
            model does not need it. Other keys are ignored.
        checkpoint: a folder as on the hub (hparams.yaml, checkpoints/model.ckpt), or the .ckpt file in it. The encoder
            it names is a folder, relative to the checkpoint's, or in the Hugging Face cache.
        python: an interpreter with unbabel-comet; None for the current one.
        batch_size: segments scored at a time.

    Raises:
        MissingExtraError: the interpreter has no unbabel-comet.
        UsageError: the checkpoint or the interpreter does not exist, the checkpoint has no hparams.yaml, a triple
            lacks a text that others have or the model needs, or the batch size is less than 1.
        ModelError: the checkpoint cannot be loaded, or scoring failed otherwise.
    """
    if batch_size < 1:
        raise UsageError(f"The batch size for COMET is {batch_size}; allowed: 1 or more.")
    lines = _input_lines(triples)
    try:
        file = comet_worker.find_checkpoint(checkpoint)
    except comet_worker.WorkerError as error:
        raise UsageError(str(error)) from error
    interpreter = os.path.expanduser(python) if python else sys.executable
    with tempfile.TemporaryDirectory(prefix="simulsa-comet-") as folder:
        inputs, output = Path(folder) / "input.jsonl", Path(folder) / "output.json"
        inputs.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        _run_worker([interpreter, str(WORKER), str(file), str(inputs), str(output), "--batch-size", str(batch_size)])
        result = _read_result(output, interpreter)
    return CometScores(_check_scores(result["scores"], len(lines)), _signature(file, result))


def _input_lines(triples: Sequence[Mapping[str, str]]) -> list[str]:
    """Check the triples and write them as JSON; comet would score None as the word "None"."""
    if not triples:
        raise UsageError("There are no segments to score with COMET.")
    names = [name for name in TRIPLE_KEYS if name in triples[0]]
    if "mt" not in names or len(names) == 1:
        raise UsageError(f"COMET scores mt with src, ref or both; the first segment has {', '.join(triples[0])}.")
    for number, triple in enumerate(triples, 1):
        if [name for name in TRIPLE_KEYS if name in triple] != names:
            raise UsageError(f"Segment {number} for COMET has {', '.join(triple)}; the first has {', '.join(names)}.")
        for name in names:
            if not isinstance(triple[name], str):
                raise UsageError(f"Segment {number} for COMET has no text as {name}, but {triple[name]!r}.")
    return [json.dumps({name: triple[name] for name in names}) for triple in triples]


def _run_worker(command: list[str]) -> None:
    # The worker's progress bar goes to stdout, its errors to stderr.
    terminal = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, check=False)
    except OSError as error:
        raise UsageError(
            f"The interpreter for COMET, {command[0]}, cannot be started: {error.strerror}. "
            "Give the path of a Python with unbabel-comet."
        ) from error
    if done.returncode == 0:
        return
    reason = _last_line(done.stderr)
    if done.returncode == comet_worker.EXIT_NO_COMET:
        raise MissingExtraError(f"{reason} {INSTALLING}")
    if done.returncode == comet_worker.EXIT_INPUT:
        raise UsageError(reason)
    raise ModelError(f"COMET failed: {reason or _describe_exit(done.returncode)}")


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _describe_exit(returncode: int) -> str:
    if returncode < 0:
        return f"its process was killed by signal {-returncode}; 9 often means out of memory."
    return f"its process ended with status {returncode} without a message."


def _read_result(path: Path, interpreter: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"COMET failed: {interpreter} exited without error but wrote no scores. Is it a Python interpreter?"
        ) from error
    return result


def _check_scores(scores: Sequence[float], expected: int) -> tuple[float, ...]:
    if len(scores) != expected:
        raise ModelError(f"COMET gave {len(scores)} scores for {expected} segments.")
    bad = [number for number, score in enumerate(scores, 1) if not math.isfinite(score)]
    if bad:
        raise ModelError(
            f"COMET gave {len(bad)} of {expected} segments a score that is not finite, first in "
            f"segment {bad[0]}; the checkpoint may be damaged."
        )
    return tuple(scores)


def _signature(file: Path, result: Mapping[str, Any]) -> str:
    return "|".join(
        [
            "COMET",
            f"checkpoint:{file.parents[1].name}",
            f"content:{_fingerprint(file)}",
            f"segments:{'+'.join(result['segments'])}",
            f"class:{result['class']}",
            f"version:{result['version'].replace(' ', '-')}",
        ]
    )


def _fingerprint(file: Path) -> str:
    """Hash the size and samples of a checkpoint, which may have 40 GB."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as handle:
        for part in range(_PARTS):
            handle.seek(size * part // _PARTS)
            digest.update(handle.read(_PART_BYTES))
    return digest.hexdigest()[:12]
