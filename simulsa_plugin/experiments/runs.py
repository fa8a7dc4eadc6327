"""Runs: the commands that a user would type, each done once; what was stopped goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation.cells import SCORES
from simulsa_plugin.experiments.guard import run_guarded
from simulsa_plugin.experiments.plan import Run
from simulsa_plugin.experiments.signature import data_signature, dataset_names
from simulsa_plugin.ownership import claim
from simulsa_plugin.storage import make_own_folder, refuse_link, write_json, writing_to

MADE_OF = "run.json"
BIN = Path(sys.executable).parent
_AUGMENTED = {"dataset": "demo"}  # unless an arm says otherwise
TRAINED = "trained.json"  # written when the training has ended well
MODEL = "model"


def do_run(run: Run, data: Path, out: Path) -> Path:
    """Augment, train and evaluate, as far as it is not done.

    The folders are named by what the run is made of, so that a recipe or data of other content is another run.

    Args:
        run: what.
        data: what `simulsa-augment --out data/` made.
        out: holds a folder for every run.

    Returns:
        The result folder of `simulsa-eval`.

    Raises:
        SimulsaError: a command failed; it is named, and what it said stands in its log.
    """
    signature = _signature(run, data)
    name = f"{run.model_name}_{signature}"
    claim(out, [name], recognised=(out / name / MADE_OF).is_file())
    folder = make_own_folder(out / name)
    result = folder / _result_name(run)
    if (result / SCORES).exists():
        return result
    made_of = {"recipe": run.recipe, "content": run.content, "augment": run.augment, "train": run.train,
               "seed": run.seed, "data": str(data), "data_signature": signature}
    write_json(folder / MADE_OF, json.loads(json.dumps(made_of, default=str)))  # YAML knows dates, JSON does not
    if not (folder / TRAINED).exists():
        _train(run, data, folder)
        write_json(folder / TRAINED, {"model": MODEL})
    keys = {"model_name_or_path": folder / MODEL} | dict(run.evaluate)
    _call(folder, "simulsa-eval", *_words(keys), "--out", str(result))
    return result


def _signature(run: Run, data: Path) -> str:
    """Of the data that a model is made of; simultaneous samples are made of it in the run's own folder."""
    if run.augment is not None:
        keys = _AUGMENTED | dict(run.augment)
    else:
        keys = dict(run.content) | {"dataset_dir": data} | dict(run.train)
    return data_signature(Path(keys.get("dataset_dir", data)), dataset_names(keys))


def _result_name(run: Run) -> str:
    """With test data of its own, a result is also named by their content."""
    place = run.evaluate.get("dataset_dir")
    if not isinstance(place, str):
        return run.result_name
    return f"{run.result_name}_{data_signature(Path(place), dataset_names(run.evaluate))}"


def _train(run: Run, data: Path, folder: Path) -> None:
    dataset_dir = data
    if run.augment is not None:
        dataset_dir = folder / "data"
        keys = _AUGMENTED | {"dataset_dir": data, "simulsa_seed": run.seed} | dict(run.augment)
        _call(folder, "simulsa-augment", *_words(keys), "--out", str(dataset_dir))
    with writing_to(folder / MODEL), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / MODEL)  # of a training that was stopped: what it left may be half a file
    keys = {"dataset_dir": dataset_dir, "seed": run.seed, "output_dir": folder / MODEL} | dict(run.train)
    _call(folder, "llamafactory-cli", "train", run.recipe, *_words(keys))


def _words(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


def _call(folder: Path, command: str, *arguments: str) -> None:
    """Run one command as typed; its output goes to a log, and it ends with this process."""
    print("$", command, *arguments, flush=True)
    log = folder / f"{command}.log"
    refuse_link(log)
    with log.open("w", encoding="utf-8") as handle:
        code = run_guarded([str(BIN / command), *arguments], folder, handle)
    if code:
        raise SimulsaError(f"{command} failed with exit code {code}; see {log}.")
