"""Augment, train and evaluate over seeds; goes on where it stopped.

`python -m simulsa_plugin.experiments mixing --out results/`: run it from the folder that holds `recipes/` and `data/`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.commands.console import run_command
from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation.cells import SCORES, read_scores
from simulsa_plugin.storage import make_folder, write_json
from simulsa_plugin.tables import align

PROG = "simulsa_plugin.experiments"
BIN = Path(sys.executable).parent
ROLLBACKS = (0, 3, 5, 8, 12)  # beyond the paper's 5: an offline model with a larger rollback is the honest baseline
VALUES = ("BLEU", "LAAL")


@dataclass(frozen=True)
class Arm:
    """One side of an experiment: a share of simultaneous samples and the recipe that trains with or without them."""

    name: str
    ratio: float | None
    recipe: str


ARMS = (Arm("0 %", None, "recipes/demo_offline.yaml"), Arm("1 %", 0.01, "recipes/demo_simulsa.yaml"))


def main() -> int:
    """Run `mixing`: 0 % against 1 % under equal steps."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROG}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=["mixing"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"), help="what `simulsa-augment --out data/` made")
    parser.add_argument("--seeds", default="1,2,3", help="seed and simulsa_seed together")
    options = parser.parse_args()
    return run_command(
        PROG, lambda: mixing(options.out, options.data, [int(seed) for seed in options.seeds.split(",")])
    )


def mixing(out: Path, data: Path, seeds: Sequence[int]) -> int:
    """Every seed and arm, then the table over seeds.

    Raises:
        SimulsaError: a command failed; it is named, and what it said stands in its log.
    """
    make_folder(out)
    results: dict[str, list[Mapping[str, Any]]] = {}
    for seed in seeds:
        for arm in ARMS:
            folder = out / f"{arm.recipe.split('_')[-1].removesuffix('.yaml')}_seed{seed}"
            if not (folder / "eval" / SCORES).exists():
                _run_arm(arm, seed, data, make_folder(folder))
            results.setdefault(arm.name, []).append(read_scores(folder / "eval"))
    rows = summarise(results)
    write_json(out / "mixing.json", rows)
    print("\n".join(align([list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)])))
    return 0


def _run_arm(arm: Arm, seed: int, data: Path, folder: Path) -> None:
    dataset_dir = data
    if arm.ratio is not None:
        dataset_dir = folder / "data"
        _call(
            folder,
            "simulsa-augment",
            "dataset=demo",
            f"dataset_dir={data}",
            f"simulsa_seed={seed}",
            f"simulsa_ratio={arm.ratio}",
            "--out",
            str(dataset_dir),
        )
    _call(
        folder,
        "llamafactory-cli",
        "train",
        arm.recipe,
        f"dataset_dir={dataset_dir}",
        f"seed={seed}",
        f"output_dir={folder / 'model'}",
    )
    _call(
        folder,
        "simulsa-eval",
        f"model_name_or_path={folder / 'model'}",
        f"simulsa_rollbacks={','.join(map(str, ROLLBACKS))}",
        "--out",
        str(folder / "eval"),
    )


def _call(folder: Path, command: str, *arguments: str) -> None:
    """Run one command as typed; its output goes to a log."""
    print("$", command, *arguments, flush=True)
    log = folder / f"{command}.log"
    with log.open("w", encoding="utf-8") as handle:
        done = subprocess.run([str(BIN / command), *arguments], stdout=handle, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SimulsaError(f"{command} failed with exit code {done.returncode}; see {log}.")


def summarise(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row per cell: mean and standard deviation (n − 1) over seeds, for every arm.

    Args:
        results: arm → the scores.json of each seed.
    """
    first = next(iter(results.values()))[0]["cells"]
    rows = []
    for position, cell in enumerate(first):
        row: dict[str, Any] = {"chunk_ms": cell["chunk_ms"], "rollback": cell["rollback"]}
        for arm, runs in results.items():
            for value in VALUES:
                row[f"{arm} {value}"] = _mean_and_sd(run["cells"][position][value] for run in runs)
        rows.append(row)
    return rows


def _mean_and_sd(values: Iterable[float]) -> list[float]:
    numbers = list(values)
    return [statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{value[0]:.1f} ± {value[1]:.1f}"
    return "–" if value is None else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
