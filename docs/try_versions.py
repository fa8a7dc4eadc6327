"""Install the project with combinations of versions, one after another, and print what works as a Markdown table.

    python docs/try_versions.py [NAME …] [--python 3.12] [--override 'transformers==5.8.0'] [--logs DIR]

Without a name all of `COMBINATIONS` are tried; --override tries one that is not listed, also beyond the bounds of
pyproject.toml and of LLaMA-Factory (`llamafactory @ file:///…` is a source tree). Needs uv, several GB of disk, and a
quarter of an hour per combination; environments are temporary. uv's settings apply, such as UV_CACHE_DIR.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Combination:
    """Versions to install.

    Attributes:
        name: in the table.
        python: version, which uv looks for on the PATH and among those it manages.
        lowest: take the lowest versions that pyproject.toml allows, instead of the highest.
        pins: requirements beside those of pyproject.toml.
        overrides: requirements in the place of those of pyproject.toml, LLaMA-Factory and every other package.
    """

    name: str
    python: str = "3.11"
    lowest: bool = False
    pins: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


COMBINATIONS = (
    Combination("default"),
    # With pins, since torchvision, which only LLaMA-Factory names, would be the highest, and demand the highest torch.
    Combination("lowest", lowest=True, pins=("torch==2.10.*", "torchaudio==2.10.*")),
    Combination("Python 3.12", python="3.12"),
    Combination("Python 3.13", python="3.13"),
    Combination("Python 3.14", python="3.14"),
    Combination("torch 2.10", pins=("torch==2.10.*", "torchaudio==2.10.*")),
    Combination("torch 2.10 with another torchaudio", pins=("torch==2.10.*",)),
    # Outside of the bounds: why they are where they are.
    Combination("torch 2.9", overrides=("torch==2.9.*", "torchaudio==2.9.*", "torchvision==0.24.*")),
    Combination("torch 2.8", overrides=("torch==2.8.*", "torchaudio==2.8.*", "torchvision==0.23.*")),
    Combination("transformers 5.5", overrides=("transformers==5.5.*",)),
)
SHOWN = ("llamafactory", "transformers", "torch", "peft", "accelerate", "deepspeed", "numpy", "pandas")

# What a user does, with few rows; then tests of what depends most on the versions of other packages.
STEPS = {
    "import": "python -c 'import llamafactory.train.tuner, deepspeed, simulsa_plugin; simulsa_plugin.evaluate'",
    "corpus": """python -c 'from pathlib import Path; from simulsa_plugin.demo.corpus import write_demo_corpus
write_demo_corpus(Path("data"), rows=40, test_rows=3)'""",
    "augment": "simulsa-augment simulsa_samples=4 --out data",
    "train": "llamafactory-cli train recipes/demo_simulsa.yaml max_steps=2 per_device_train_batch_size=2",
    "evaluate": """simulsa-eval model_name_or_path=saves/simulsa template=qwen2_audio dataset_dir=data
        eval_dataset=demo_test simulsa_chunks=1000 simulsa_rollbacks=0 --out results""",
    "tests": """pytest -q -n 0 tests/llamafactory/test_architectures.py::test_augment_train_and_evaluate
        tests/llamafactory/test_training.py::test_the_papers_recipe_trains_two_steps_under_deepspeed
        tests/llamafactory/test_positions.py tests/llamafactory/test_audio_reader.py
        tests/llamafactory/test_cutoff.py tests/longform/test_voice_activity.py
        tests/metrics/test_long_form.py tests/corpora/test_lhotse.py""",
}
STEP_SECONDS = 3600
# In order of preference: pytest's summary, an uncaught exception, a command's own line, uv's explanation.
ERROR_LINES = (r"(?:FAILED|ERROR) .+", r"[\w.]*(?:Error|Exception)\b.*", r"[\w-]+: error: .+", r"(?:error:|\s*[×╰]).+")
LONGEST_ERROR = 260


@dataclass
class Outcome:
    """What became of a combination: installed versions by package, and the step that failed, with its error."""

    combination: Combination
    versions: dict[str, str] = field(default_factory=dict)
    result: str = ""
    error: str = ""


class StepFailed(Exception):
    """A step ended with another exit code than 0; the text is its output."""


def main() -> None:
    """Try the combinations, and print the table when all are done."""
    options = _parse()
    logs = options.logs and Path(options.logs).resolve()
    outcomes = [try_combination(combination, logs) for combination in _chosen(options)]
    print(table(outcomes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [combination.name for combination in COMBINATIONS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--python", default="3.11", help="for --override; default: 3.11")
    parser.add_argument("--override", action="append", default=[], help="a requirement beyond the bounds; repeatable")
    parser.add_argument("--logs", help="folder for the output of each step")
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; allowed: {', '.join(names)}")
    if shutil.which("uv") is None:
        parser.error("uv is not on the PATH. Install it with: pip install uv")
    return options


def _chosen(options: argparse.Namespace) -> list[Combination]:
    if options.override:
        return [Combination(", ".join(options.override), python=options.python, overrides=tuple(options.override))]
    return [combination for combination in COMBINATIONS if combination.name in (options.names or [combination.name])]


def try_combination(combination: Combination, logs: Path | None) -> Outcome:
    """Install a combination into a temporary environment, and run all steps until one fails."""
    outcome = Outcome(combination)
    with tempfile.TemporaryDirectory(prefix="simulsa-versions-") as folder:
        place = Path(folder)
        environment = _environment(place)
        step = "installation"
        try:
            if not _make_venv(combination.python, place, environment):
                outcome.result = f"not tried: uv finds no Python {combination.python}"
                return outcome
            _install(combination, place, environment)
            outcome.versions = _installed(place, environment)
            for step, command in STEPS.items():
                log = _log(logs, combination, step)
                output = _run(shlex.split(command), place / "project", environment, log)
            outcome.result = summary(output)
        except StepFailed as failure:
            outcome.result = f"**fails**: {step}"
            outcome.error = first_error(str(failure).replace(folder, "…"))
    _progress(f"{combination.name}: {outcome.result} {outcome.error}")
    return outcome


def _environment(place: Path) -> dict[str, str]:
    """Return an environment in which the steps neither see this process's packages nor leave files elsewhere."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    cache = subprocess.run(["uv", "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
    folders = {"HOME": place / "home", "TMPDIR": place / "tmp", "XDG_CACHE_HOME": place / "cache"}
    for path in folders.values():
        path.mkdir()
    return {
        **kept,
        **{key: str(path) for key, path in folders.items()},
        "UV_CACHE_DIR": cache,
        "HF_HOME": str(place / "cache" / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "1000",  # pytest shortens the lines of its summary to that
        "PATH": f"{place / 'venv' / 'bin'}{os.pathsep}{kept['PATH']}",
    }


def _make_venv(python: str, place: Path, environment: Mapping[str, str]) -> bool:
    """Make `venv`, and return whether there is such a Python."""
    try:
        _run(["uv", "venv", "--python", python, str(place / "venv")], place, environment)
    except StepFailed:
        return False
    return True


def _install(combination: Combination, place: Path, environment: Mapping[str, str]) -> None:
    """Install the project into `venv`, as a wheel, and make `project`, a copy of the tree without the package."""
    project = place / "project"
    _copy_sources(project)
    overrides = place / "overrides.txt"
    overrides.write_text("\n".join(combination.overrides), encoding="utf-8")
    resolution = "lowest-direct" if combination.lowest else "highest"
    requirements = ["--requirements", "pyproject.toml", "--extra", "test", *combination.pins]
    install = ["uv", "pip", "install", "--python", str(place / "venv")]
    _run([*install, "--resolution", resolution, "--overrides", str(overrides), *requirements], project, environment)
    _run([*install, "--no-deps", "."], project, environment)
    shutil.rmtree(project / "simulsa_plugin")  # what was installed is tried


def _copy_sources(folder: Path) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)


def _installed(place: Path, environment: Mapping[str, str]) -> dict[str, str]:
    listed = _run(["uv", "pip", "list", "--format", "json", "--python", str(place / "venv")], place, environment)
    python = _run(["python", "--version"], place, environment)
    versions = {package["name"]: package["version"] for package in json.loads(listed)}
    return {"python": python.split()[-1], **versions}


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path | None = None) -> str:
    """Run a command, and return what it prints on stdout.

    Raises:
        StepFailed: its exit code is not 0.
    """
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    started = time.monotonic()
    _progress(" ".join(command))
    try:
        done = subprocess.run(
            [program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=STEP_SECONDS
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise StepFailed(f"Error: {error}") from error
    if log:
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
    _progress(f"  exit code {done.returncode} after {time.monotonic() - started:.0f} s")
    if done.returncode:
        raise StepFailed(done.stdout + "\n" + done.stderr)
    return done.stdout


def _log(logs: Path | None, combination: Combination, step: str) -> Path | None:
    if logs is None:
        return None
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{re.sub('[^A-Za-z0-9.]+', '_', combination.name)}-{step}.txt"


def summary(output: str) -> str:
    r"""Return pytest's counts, without the time.

    >>> summary("....\n183 passed, 1 skipped in 333.42s (0:05:33)\n")
    '183 passed, 1 skipped'
    """
    return output.strip().splitlines()[-1].partition(" in ")[0]


def first_error(output: str) -> str:
    r"""Return the line of a failed command that says why, as far as one can be recognised; else its last line.

    >>> first_error("Traceback (most recent call last):\n  File …\nImportError: no name x\n")
    'ImportError: no name x'
    >>> first_error("E   assert 1 == 2\nFAILED tests/a.py::b - assert 1 == 2\n1 failed in 2 s\n")
    'FAILED tests/a.py::b - assert 1 == 2'
    """
    for pattern in ERROR_LINES:
        found = re.search(f"^{pattern}$", output, re.MULTILINE)
        if found:
            return found[0].strip()[:LONGEST_ERROR]
    return (output.strip().splitlines() or ["it printed nothing"])[-1][:LONGEST_ERROR]


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table, with the day and the platform above it."""
    header = ["combination", "Python", *SHOWN, "result", "first error"]
    lines = [header, ["---"] * len(header), *map(_row, outcomes)]
    tried = f"{datetime.date.today()}, {platform.system()} {platform.machine()}"
    return "\n".join([f"Tried on {tried}:", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def _row(outcome: Outcome) -> list[str]:
    versions = [outcome.versions.get(package, "–").partition("+")[0] for package in ("python", *SHOWN)]
    error = outcome.error.replace("|", "\\|").replace("`", "'")
    return [outcome.combination.name, *versions, outcome.result, f"`{error}`" if error else ""]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
