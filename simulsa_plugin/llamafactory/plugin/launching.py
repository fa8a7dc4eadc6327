"""Recipe checks and the choice of torchrun before `llamafactory-cli COMMAND` starts."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from simulsa_plugin.augmentation.output_layout import SUFFIX
from simulsa_plugin.errors import DatasetError, SimulsaError, UsageError
from simulsa_plugin.llamafactory.data.dataset_registry import registered_file
from simulsa_plugin.llamafactory.plugin.notices import announce, notify
from simulsa_plugin.llamafactory.plugin.recipe_checks import TRUE_VALUES
from simulsa_plugin.llamafactory.plugin.recipe_keys import GROUPS, TrainingSettings, flags_to_recipe
from simulsa_plugin.settings import KEY_PREFIX, YAML_ERRORS, did_you_mean, split_recipe
from simulsa_plugin.terminal import printable

COMMANDS = frozenset({"train", "chat", "api", "export", "webchat", "webui"})
STARTED_BY_TORCHRUN = frozenset({"RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"})
DEFAULT_FOLDER = "data"  # LLaMA-Factory's dataset_dir
OTHER_LAUNCHERS = ("USE_RAY", "USE_KT")


def with_recipe_checks(launch: Callable[[], None]) -> Callable[[], None]:
    """Wrap LLaMA-Factory's `launch`, which reads the command from `sys.argv`: check the recipe first."""

    @functools.wraps(launch)
    def check_and_launch() -> None:
        if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
            _check_recipe(sys.argv[1], sys.argv[2:])
        launch()

    return check_and_launch


def _check_recipe(command: str, arguments: list[str]) -> None:
    announce()
    if not arguments or "-h" in arguments or "--help" in arguments:
        return
    recipe = read_arguments(arguments)
    split_recipe(recipe, GROUPS)
    if command == "train":
        check_data(recipe)
        _request_torchrun(recipe)


def read_arguments(arguments: list[str]) -> dict[str, Any]:
    """Read a recipe as LLaMA-Factory does: a YAML file and key=value overrides, or flags.

    Raises:
        UsageError: the YAML file cannot be read.
    """
    if not arguments[0].endswith((".yaml", ".yml")):
        return flags_to_recipe(arguments)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.load(arguments[0]), OmegaConf.from_cli(arguments[1:]))
        return dict(OmegaConf.to_container(merged))  # type: ignore[arg-type]  # a list raises
    except (*YAML_ERRORS, OSError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        message = f"Cannot read the recipe {arguments[0]}: {reason}. Give a YAML file of `key: value`."
        raise UsageError(message) from error


def check_data(recipe: Mapping[str, Any]) -> None:
    """Check that datasets exist; a recipe without simulsa keys and datasets is left to LLaMA-Factory.

    Raises:
        DatasetError: dataset_info.json, an entry of it or its file is missing. The message names the command that
            creates the data, where the recipe has it.
    """
    missing = missing_data(recipe)
    ours = any(key.startswith(KEY_PREFIX) for key in recipe) or any(
        name.endswith(SUFFIX) for name in _dataset_names(recipe)
    )
    if not missing or not ours:
        return
    made_by = TrainingSettings.from_keys(recipe).made_by
    if made_by:
        raise DatasetError(f"{missing}. {_advice_to_make(made_by, str(recipe.get('dataset_dir', DEFAULT_FOLDER)))}")
    if "dataset_dir" not in recipe:
        raise DatasetError(
            f"{missing}. The recipe has no dataset_dir, so LLaMA-Factory looks in `data`. "
            "Add dataset_dir=DIR, the --out folder of simulsa-augment."
        )
    raise DatasetError(f"{missing}. Set dataset_dir to the --out folder of simulsa-augment, or correct the name.")


def _advice_to_make(command: str, folder: str) -> str:
    """Name the command that makes the data, unless its --out is another folder than the recipe's dataset_dir."""
    found = re.search(r"""(?<!\S)--out[ =]("[^"]*"|'[^']*'|\S+)""", command)
    made = found[1].strip("\"'") if found else folder
    if Path(made).resolve() != Path(folder).resolve():
        return f"Set dataset_dir, which is {folder}, to the folder of the data; `{command}` would make it in {made}."
    return f"Make the data with: {command}"


def missing_data(recipe: Mapping[str, Any]) -> str | None:
    """Return what is missing first of `dataset` and `eval_dataset`, as a clause; None where everything exists."""
    folder = recipe.get("dataset_dir", DEFAULT_FOLDER)
    elsewhere = not isinstance(folder, str) or folder == "ONLINE" or folder.startswith("REMOTE:")
    if elsewhere or recipe.get("tokenized_path"):
        return None
    info_path = Path(folder) / "dataset_info.json"
    try:
        entries = json.loads(info_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{info_path} does not exist"
    except (OSError, ValueError) as error:
        return f"{info_path} cannot be read ({error})"
    if not isinstance(entries, dict):
        return f"{info_path} holds a {type(entries).__name__} instead of an object of datasets by name"
    names = _dataset_names(recipe)
    problems = (_missing_entry(entries, name, info_path, names) for name in names)
    return next((problem for problem in problems if problem), None)


def _dataset_names(recipe: Mapping[str, Any]) -> list[str]:
    """Return the datasets that a training loads, from `a,b` or [a, b] like LLaMA-Factory."""
    values = [recipe.get(key) or "" for key in ("dataset", "eval_dataset")]
    names = [name for value in values for name in (value if isinstance(value, list) else str(value).split(","))]
    return [str(name).strip() for name in names if str(name).strip()]


def _missing_entry(entries: Mapping[str, Any], name: str, info_path: Path, loaded: Collection[str]) -> str | None:
    if name not in entries:
        others = entries.keys() - {*loaded, name.removesuffix(SUFFIX)}  # `a` is not a misspelling of `a_simulsa`
        hint = did_you_mean(name, sorted(others)).lstrip().replace("Did", "did")
        return f"{info_path} has no dataset {name}{f' ({hint})' if hint else ''}"
    path = registered_file(entries[name], str(info_path.parent))
    return f"{path} (dataset {name}) does not exist" if path and not path.exists() else None


def _request_torchrun(recipe: Mapping[str, Any]) -> None:
    from llamafactory.extras.misc import get_device_count

    config = recipe.get("deepspeed")
    if isinstance(config, str) and config.endswith(".json") and not Path(config).is_file():
        raise UsageError(
            f"deepspeed: {config} does not exist below {Path.cwd()}. "
            "Start from the folder that holds it, or give its absolute path: deepspeed=/…"
        )
    added = torchrun_environment(recipe, os.environ, get_device_count())
    os.environ.update(added)
    if added:
        settings = " ".join(f"{name}={value}" for name, value in added.items())
        notify(f"the recipe sets `deepspeed`, so training starts under torchrun ({settings}).")


def torchrun_environment(recipe: Mapping[str, Any], environ: Mapping[str, str], device_count: int) -> dict[str, str]:
    """Return the environment variables that start a `deepspeed` recipe under torchrun, except those already set.

    LLaMA-Factory refuses `deepspeed` outside torchrun, and requests as many processes as there are GPUs: none, on a
    CPU.
    """
    other = any(environ.get(name, "").lower() in TRUE_VALUES for name in OTHER_LAUNCHERS)
    if not recipe.get("deepspeed") or other or STARTED_BY_TORCHRUN & environ.keys():
        return {}
    wanted = {"FORCE_TORCHRUN": "1"}
    if device_count == 0:
        wanted |= {"NPROC_PER_NODE": "1", "DS_ACCELERATOR": "cpu"}
    return {name: value for name, value in wanted.items() if name not in environ}


def skip_unneeded_compilation(build_shm_op: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap DeepSpeed's `build_shm_op`, which compiles C++ when a run starts on a CPU, and fails without a compiler.

    Its operator speeds up the communication between processes of one machine. A single process does not need it, and
    several fall back to gloo.
    """

    @functools.wraps(build_shm_op)
    def build_if_needed() -> Any:
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        return build_shm_op() if compiler and os.environ.get("WORLD_SIZE", "1") != "1" else None

    return build_if_needed


class TorchrunSubprocess:
    """`subprocess` for LLaMA-Factory's launcher: it runs the torchrun of this Python, with unsplit arguments.

    The launcher joins its command to one text and splits it at white space, which breaks paths with spaces, and takes
    `torchrun` from PATH, which has it only in an activated virtual environment.
    """

    def __init__(self, subprocess: ModuleType, script: str) -> None:
        """Wrap `subprocess` for the launcher, whose file is `script`."""
        self._subprocess = subprocess
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subprocess, name)

    def run(self, command: list[str], **options: Any) -> Any:
        """Run a command, with the launcher's torchrun command corrected."""
        return self._subprocess.run(torchrun_command(command, [self._script, *sys.argv[1:]]), **options)


def torchrun_command(command: list[str], target: list[str]) -> list[str]:
    """Replace `torchrun` by this Python's, and the split target at the end by the original one.

    >>> torchrun_command(["torchrun", "--nnodes", "1", "a", "b.py", "x"], ["a b.py", "x"])[1:]
    ['-m', 'torch.distributed.run', '--nnodes', '1', 'a b.py', 'x']
    """
    split_target = " ".join(target).split()
    options = command[1 : len(command) - len(split_target)]
    if command[:1] != ["torchrun"] or command[1 + len(options) :] != split_target:
        return command
    return [sys.executable, "-m", "torch.distributed.run", *options, *target]


def report_errors_in_one_line() -> None:
    """Print an uncaught SimulsaError as one line instead of a traceback; in torchrun's children too."""
    if getattr(sys.excepthook, "__name__", "") != _print_simulsa_error.__name__:
        sys.excepthook = functools.wraps(_print_simulsa_error)(functools.partial(_print_simulsa_error, sys.excepthook))


def _print_simulsa_error(
    default: Callable[..., object], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, SimulsaError):
        print(printable(f"simulsa_plugin: {' '.join(str(error).split())}"), file=sys.stderr)
    else:
        default(kind, error, trace)
