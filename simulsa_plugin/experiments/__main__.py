"""Augment, train and evaluate over seeds and settings; resumes after a stop.

`python -m simulsa_plugin.experiments NAME --out DIR`, from the folder that holds `recipes/` and `data/`. NAME is a
file in recipes/experiments, or any YAML file. Arms and experiments share runs of equal settings.
"""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.commands.console import Parser, run_command
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.experiments.description import Arm, Experiment
    from simulsa_plugin.experiments.runs import RunFolders

_PROG = "simulsa_plugin.experiments"


def main(argv: Sequence[str] | None = None) -> int:
    """Run or resume an experiment."""
    return run_command(_PROG, lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser(prog=f"python -m {_PROG}", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "experiment", metavar="NAME", help="a file of recipes/experiments (shares, mixing …), or any YAML file"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="output folder of runs, tables and pictures"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="output of `simulsa-augment --out data/` (default: data)",
    )
    parser.add_argument(
        "--seeds",
        type=_parse_integers,
        default=(1, 2, 3),
        metavar="N,N…",
        help="seed and simulsa_seed together (default: 1,2,3)",
    )
    parser.add_argument("--train", nargs="*", default=[], metavar="key=value", help="overrides of every training")
    options = parser.parse_args(argv)
    from simulsa_plugin.experiments.description import read_experiment
    from simulsa_plugin.settings import read_recipe

    experiment = read_experiment(options.experiment, options.seeds, read_recipe(None, options.train))
    if not (options.data / "dataset_info.json").exists():
        raise UsageError(f"{options.data} holds no dataset_info.json. Create it: simulsa-augment --out {options.data}")
    from simulsa_plugin.files.atomic import make_folder
    from simulsa_plugin.files.locks import locked

    out = make_folder(options.out)
    with locked(out):
        _run_experiment(experiment, options.seeds, options.data, out)
    return 0


def _run_experiment(experiment: Experiment, seeds: Sequence[int], data: Path, out: Path) -> None:
    from simulsa_plugin.experiments.runs import do_run
    from simulsa_plugin.files.atomic import replacing
    from simulsa_plugin.files.json_files import write_json
    from simulsa_plugin.files.ownership import claim

    claim(out, [f"{experiment.name}.{suffix}" for suffix in ("json", "png", "txt")])
    for position in range(
        len(seeds)
    ):  # all arms of a seed before the next seed, so that partial results can be compared
        for arm in experiment.arms:
            do_run(arm.runs[position], data, out)
    done = [(arm, [do_run(run, data, out) for run in arm.runs]) for arm in experiment.arms]
    summary, lines = _summarise(experiment.title, done, len(seeds), out / f"{experiment.name}.png")
    with replacing(out / f"{experiment.name}.txt", "w") as handle:
        handle.write("\n".join([experiment.title, "", *lines, ""]))
    write_json(out / f"{experiment.name}.json", summary | {"title": experiment.title, "seeds": list(seeds)})
    print("\n".join(lines))
    print(f"Written to {out}: {experiment.name}.json, {experiment.name}.txt, {experiment.name}.png")


def _summarise(
    title: str, done: Sequence[tuple[Arm, Sequence[RunFolders]]], seeds: int, picture: Path
) -> tuple[dict[str, Any], list[str]]:
    """Summarise fixed settings, tuned ones or both, where all arms have them; draw the tuned ones if there are any."""
    from simulsa_plugin.experiments.summary import average_arm, draw_curves, summarise, summary_table
    from simulsa_plugin.experiments.tuned_arms import draw_tuned, read_tuned_arm, summarise_tuned, tuned_table
    from simulsa_plugin.metrics.significance import Bootstrap

    summary: dict[str, Any] = {}
    lines: list[str] = []
    fixed = [(arm, [run.result for run in runs if run.result]) for arm, runs in done]
    if all(folders for _, folders in fixed):
        arms = [average_arm(arm.name, folders, arm.policy, Bootstrap()) for arm, folders in fixed]
        summary |= summarise(arms)
        lines += summary_table(summary, seeds)
        draw_curves(title, arms, picture)
    searched = [(arm, [(run.tuning, run.tested) for run in runs if run.tuning and run.tested]) for arm, runs in done]
    if all(folders for _, folders in searched):
        tuned = summarise_tuned(
            [read_tuned_arm(arm.name, folders, Bootstrap()) for arm, folders in searched], Bootstrap()
        )
        summary |= {"tuned": tuned}
        lines += [*([""] if lines else []), *tuned_table(tuned, seeds)]
        draw_tuned(title, tuned, picture)
    return summary, lines


def _parse_integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    raise SystemExit(main())
