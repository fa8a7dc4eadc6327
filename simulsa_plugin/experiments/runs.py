"""Runs: the commands that a user would type, each done once; what was stopped goes on."""

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
from simulsa_plugin.tuning.search import FINALISTS

RUN_NOTE = "run.json"
BIN = Path(sys.executable).parent
_PAPER = {"simulsa_preset": "paper"}  # what an arm does not say is as in the paper
_AUGMENTED = {"dataset": "demo"}  # unless an arm says otherwise
TRAINED_NOTE = "trained.json"  # written when the training has ended well
MODEL = "model"


@dataclass(frozen=True)
class Done:
    """Folders of a run.

    Attributes:
        model: the trained model.
        result: of `simulsa-eval` in fixed settings; None where the experiment wants none.
        tuning: of `simulsa-eval tune`; None likewise.
        tested: of `simulsa-eval` on the test set, in every setting that was decoded on the whole dev set.
    """

    model: Path
    result: Path | None
    tuning: Path | None
    tested: Path | None


def do_run(run: Run, data: Path, out: Path) -> Done:
    """Augment, train, evaluate and tune, as far as it is not done.

    The folders are named by what the run is made of, so that a recipe or data of other content is another run.

    Args:
        run: what.
        data: what `simulsa-augment --out data/` made.
        out: holds a folder for every run.

    Raises:
        SimulsaError: a command failed; it is named, and what it said stands in its log.
    """
    model = _do_training(run, data, out)
    folder = model.parent
    result = None if run.evaluate is None else _evaluate(run, run.evaluate, folder)
    if run.tune is None:
        return Done(model, result, None, None)
    tuning = _tune(run, run.tune, folder)
    return Done(model, result, tuning, _test(run, tuning, folder))


def _do_training(run: Run, data: Path, out: Path) -> Path:
    """Train where it is not done; the model's folder."""
    signature = _signature(run, data)
    name = f"{run.model_name}_{signature}"
    claim(out, [name], recognised=(out / name / RUN_NOTE).is_file())
    folder = make_own_folder(out / name)
    if not (folder / TRAINED_NOTE).exists():
        scorer, start = (
            None if one is None else _do_training(one, data, out) for one in (run.scored_by, run.starts_from)
        )
        made_of = {
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
        write_json(folder / RUN_NOTE, json.loads(json.dumps(made_of, default=str)))  # YAML knows dates, JSON does not
        _train(run, data, folder, scorer, start)
        write_json(folder / TRAINED_NOTE, {"model": MODEL})
    return folder / MODEL


def _evaluate(run: Run, evaluate: Keys, folder: Path) -> Path:
    result = folder / (run.result_name + _content_of_datasets(evaluate))
    if not (result / SCORES).exists():
        keys = {"model_name_or_path": folder / MODEL} | _PAPER | dict(evaluate)
        _call(folder, "simulsa-eval", *_words(keys), "--out", str(result))
    return result


def _tune(run: Run, tune: Keys, folder: Path) -> Path:
    tuning = folder / (run.tuning_name + _content_of_datasets(tune))
    if not (tuning / FINALISTS).exists():
        keys = {"model_name_or_path": folder / MODEL} | {key: tune[key] for key in tune if key not in GOAL}
        goal = [word for key in GOAL if key in tune for word in (f"--{key}", str(tune[key]))]
        _call(folder, "simulsa-eval", "tune", *_words(keys), *goal, "--out", str(tuning))
    return tuning


def _test(run: Run, tuning: Path, folder: Path) -> Path:
    tested = folder / f"{tuning.name}_test_{short_hash(run.test)}{_content_of_datasets(run.test)}"
    if not (tested / SCORES).exists():
        _call(folder, "simulsa-eval", str(tuning / FINALISTS), *_words(run.test), "--out", str(tested))
    return tested


def _signature(run: Run, data: Path) -> str:
    """Of the data that a model is made of; simultaneous samples are made of it in the run's own folder."""
    if run.augment is not None:
        keys = _AUGMENTED | dict(run.augment)
    else:
        keys = dict(run.content) | {"dataset_dir": data} | dict(run.train)
    return data_signature(Path(keys.get("dataset_dir", data)), named_datasets(keys))


def _content_of_datasets(keys: Keys) -> str:
    """A suffix for results on datasets that are not the embedded ones: their content."""
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
        _call(folder, "simulsa-augment", *_words(keys), "--out", str(dataset_dir))
    if run.variant is not None:
        augmented, dataset_dir = dataset_dir, folder / "variant"
        _call(
            folder,
            "python",
            "-m",
            "simulsa_plugin.experiments.variants",
            *run.variant.split(),
            "--data",
            str(augmented),
            "--out",
            str(dataset_dir),
        )
    with writing_to(folder / MODEL), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / MODEL)  # of a training that was stopped: what it left may be half a file
    training: dict[str, Any] = {"model_name_or_path": start} if start else {}
    training |= {"dataset_dir": dataset_dir, "seed": run.seed, "output_dir": folder / MODEL} | dict(run.train)
    _call(folder, "llamafactory-cli", "train", run.recipe, *_words(training))


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
