"""Runs the public commands, each once; stopped runs are resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation.result_cells import SCORES
from simulsa_plugin.experiments.description import GOAL, Keys, Run
from simulsa_plugin.experiments.guard import run_guarded
from simulsa_plugin.experiments.signature import data_signature, named_datasets, short_hash
from simulsa_plugin.files.atomic import make_own_folder, refuse_link, writing_to
from simulsa_plugin.files.json_files import write_json
from simulsa_plugin.files.ownership import claim
from simulsa_plugin.tuning.frontier_file import FINALISTS

RUN_NOTE = "run.json"
BIN = Path(sys.executable).parent
_PAPER = {"simulsa_preset": "paper"}  # settings that an arm lacks are those of the paper
_AUGMENTED = {"dataset": "demo"}  # unless an arm overrides it
TRAINED_NOTE = "trained.json"  # written when the training has succeeded
MODEL = "model"


@dataclass(frozen=True)
class RunFolders:
    """Folders of a run.

    Attributes:
        model: the trained model.
        result: of `simulsa-eval` in fixed settings; None where the experiment has none.
        tuning: of `simulsa-eval tune`; None likewise.
        tested: of `simulsa-eval` on the test set, in every cell that was decoded on the whole dev set.
    """

    model: Path
    result: Path | None
    tuning: Path | None
    tested: Path | None


def do_run(run: Run, data: Path, out: Path) -> RunFolders:
    """Augment, train, evaluate and tune; completed steps are skipped.

    Folders are named by hashes of settings and data, so that changed recipes or data give another run.

    Args:
        run: the run.
        data: output of `simulsa-augment --out data/`.
        out: holds a folder for every run.

    Raises:
        SimulsaError: a command failed; the message has its log.
    """
    model = _train_once(run, data, out)
    folder = model.parent
    result = None if run.evaluate is None else _evaluate(run, run.evaluate, folder)
    if run.tune is None:
        return RunFolders(model, result, None, None)
    tuning = _tune(run, run.tune, folder)
    return RunFolders(model, result, tuning, _test(run, tuning, folder))


def _train_once(run: Run, data: Path, out: Path) -> Path:
    """Train unless it is done; return the model's folder."""
    signature = _training_data_signature(run, data)
    name = f"{run.model_name}_{signature}"
    claim(out, [name], recognised=(out / name / RUN_NOTE).is_file())
    folder = make_own_folder(out / name)
    if not (folder / TRAINED_NOTE).exists():
        scorer, start = (
            None if one is None else _train_once(one, data, out) for one in (run.scored_by, run.starts_from)
        )
        description = {
            "recipe": run.recipe,
            "content": run.content,
            "augment": run.augment,
            "train": run.train,
            "scored_by": scorer,
            "starts_from": start,
            "variant": run.variant,
            "seed": run.seed,
            "data": str(data),
            "data_signature": signature,
        }
        # YAML knows dates, JSON does not
        write_json(folder / RUN_NOTE, json.loads(json.dumps(description, default=str)))
        _train(run, data, folder, scorer, start)
        write_json(folder / TRAINED_NOTE, {"model": MODEL})
    return folder / MODEL


def _evaluate(run: Run, evaluate: Keys, folder: Path) -> Path:
    result = folder / (run.result_name + _dataset_suffix(evaluate))
    if not (result / SCORES).exists():
        keys = {"model_name_or_path": folder / MODEL} | _PAPER | dict(evaluate)
        _run_command(folder, "simulsa-eval", *_as_arguments(keys), "--out", str(result))
    return result


def _tune(run: Run, tune: Keys, folder: Path) -> Path:
    tuning = folder / (run.tuning_name + _dataset_suffix(tune))
    if not (tuning / FINALISTS).exists():
        keys = {"model_name_or_path": folder / MODEL} | {key: tune[key] for key in tune if key not in GOAL}
        goal = [word for key in GOAL if key in tune for word in (f"--{key}", str(tune[key]))]
        _run_command(folder, "simulsa-eval", "tune", *_as_arguments(keys), *goal, "--out", str(tuning))
    return tuning


def _test(run: Run, tuning: Path, folder: Path) -> Path:
    tested = folder / f"{tuning.name}_test_{short_hash(run.test)}{_dataset_suffix(run.test)}"
    if not (tested / SCORES).exists():
        _run_command(folder, "simulsa-eval", str(tuning / FINALISTS), *_as_arguments(run.test), "--out", str(tested))
    return tested


def _training_data_signature(run: Run, data: Path) -> str:
    """Hash the training data; simultaneous samples are made from it in the folder of the run."""
    if run.augment is not None:
        keys = _AUGMENTED | dict(run.augment)
    else:
        keys = dict(run.content) | {"dataset_dir": data} | dict(run.train)
    return data_signature(Path(keys.get("dataset_dir", data)), named_datasets(keys))


def _dataset_suffix(keys: Keys) -> str:
    """Return a suffix for results on other than the embedded datasets: a hash of their content."""
    place = keys.get("dataset_dir")
    if not isinstance(place, str):
        return ""
    return f"_{data_signature(Path(place), named_datasets(keys, {'dataset': keys.get('simulsa_dev_dataset')}))}"


def _train(run: Run, data: Path, folder: Path, scorer: Path | None, start: Path | None) -> None:
    dataset_dir = data
    if run.augment is not None:
        dataset_dir = folder / "data"
        keys: dict[str, Any] = {"model_name_or_path": scorer} if scorer else {}
        keys |= _PAPER | _AUGMENTED | {"dataset_dir": data, "simulsa_seed": run.seed} | dict(run.augment)
        _run_command(folder, "simulsa-augment", *_as_arguments(keys), "--out", str(dataset_dir))
    if run.variant is not None:
        augmented, dataset_dir = dataset_dir, folder / "variant"
        kind = ["-m", "simulsa_plugin.experiments.variants", *run.variant.split()]
        _run_command(folder, "python", *kind, "--data", str(augmented), "--out", str(dataset_dir))
    with writing_to(folder / MODEL), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / MODEL)  # of a stopped training, with files that may be incomplete
    training: dict[str, Any] = {"model_name_or_path": start} if start else {}
    training |= {"dataset_dir": dataset_dir, "seed": run.seed, "output_dir": folder / MODEL} | dict(run.train)
    _run_command(folder, "llamafactory-cli", "train", run.recipe, *_as_arguments(training))


def _as_arguments(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in keys.items()]


def _run_command(folder: Path, command: str, *arguments: str) -> None:
    """Run a command, with its output in a log; it ends with this process."""
    print("$", command, *arguments, flush=True)
    log = folder / f"{command}.log"
    refuse_link(log)
    with log.open("w", encoding="utf-8") as handle:
        code = run_guarded([str(BIN / command), *arguments], folder, handle)
    if code:
        raise SimulsaError(f"{command} failed with exit code {code}; see {log}.")
