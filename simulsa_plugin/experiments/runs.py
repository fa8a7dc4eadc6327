"""Runs: the commands that a user would type, each done once; what was stopped goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation.cells import SCORES
from simulsa_plugin.experiments.plan import Run
from simulsa_plugin.storage import make_folder, write_json

BIN = Path(sys.executable).parent
TRAINED = "all_results.json"  # LLaMA-Factory writes it when the model is saved


def do_run(run: Run, data: Path, out: Path) -> Path:
    """Augment, train and evaluate, as far as it is not done.

    Args:
        run: what.
        data: what `simulsa-augment --out data/` made.
        out: holds a folder for every run.

    Returns:
        The result folder of `simulsa-eval`.

    Raises:
        SimulsaError: a command failed; it is named, and what it said stands in its log.
    """
    folder = make_folder(out / run.model_name)
    result = folder / run.result_name
    if (result / SCORES).exists():
        return result
    made_of = {"recipe": run.recipe, "augment": run.augment, "train": run.train, "seed": run.seed}
    write_json(folder / "run.json", made_of)
    if not (folder / "model" / TRAINED).exists():
        _train(run, data, folder)
    keys = {"model_name_or_path": folder / "model"} | dict(run.evaluate)
    _call(folder, "simulsa-eval", *_words(keys), "--out", str(result))
    return result


def _train(run: Run, data: Path, folder: Path) -> None:
    dataset_dir = data
    if run.augment is not None:
        dataset_dir = folder / "data"
        keys = {"dataset": "demo", "dataset_dir": data, "simulsa_seed": run.seed} | dict(run.augment)
        _call(folder, "simulsa-augment", *_words(keys), "--out", str(dataset_dir))
    keys = {"dataset_dir": dataset_dir, "seed": run.seed, "output_dir": folder / "model"} | dict(run.train)
    _call(folder, "llamafactory-cli", "train", run.recipe, *_words(keys))


def _words(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


def _call(folder: Path, command: str, *arguments: str) -> None:
    """Run one command as typed; its output goes to a log."""
    print("$", command, *arguments, flush=True)
    log = folder / f"{command}.log"
    with log.open("w", encoding="utf-8") as handle:
        done = subprocess.run([str(BIN / command), *arguments], stdout=handle, stderr=subprocess.STDOUT, check=False,
                              env=os.environ | {"TQDM_DISABLE": "1"})
    if done.returncode:
        raise SimulsaError(f"{command} failed with exit code {done.returncode}; see {log}.")
