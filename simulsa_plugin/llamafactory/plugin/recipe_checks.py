"""Quick checks of a recipe before the libraries are imported, which takes many seconds.

LLaMA-Factory's loaders detect everything that is not checked here.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.demo.checkpoint import resolve_model_name
from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.llamafactory.data.dataset_registry import (
    check_registered_file,
    no_dataset_error,
    read_dataset_info,
    registered_file,
    unknown_dataset_error,
)
from simulsa_plugin.llamafactory.model.arguments import LAUNCH_KEYS, check_named
from simulsa_plugin.settings import check_choice, did_you_mean, unknown_key

INFER_DTYPES = ("auto", "float16", "bfloat16", "float32")  # LLaMA-Factory does not check them
OTHER_HUBS = ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB")
TRUE_VALUES = frozenset({"true", "y", "1"})  # of LLaMA-Factory's environment variables
logger = logging.getLogger(__name__)


def check_recipe(recipe: Mapping[str, Any], datasets: Sequence[str] | None) -> None:
    """Check all keys, the names of model, template and datasets, and that local files exist.

    Args:
        recipe: LLaMA-Factory's keys.
        datasets: names in `dataset_dir`; None where they are created first.

    Raises:
        UsageError: a key is unknown or missing, or the template is unknown.
        ModelError: a model or adapter does not exist, or the template does not support audio.
        DatasetError: a dataset is not registered, or its file is missing or empty.
    """
    _check_keys(recipe)
    check_named(recipe)
    if recipe.get("infer_dtype") is not None:
        check_choice("infer_dtype", str(recipe["infer_dtype"]), INFER_DTYPES)
    _check_template(str(recipe["template"]))
    _check_checkpoint(resolve_model_name(str(recipe["model_name_or_path"])), recipe, "config.json")
    adapters = recipe.get("adapter_name_or_path")
    for adapter in adapters.split(",") if isinstance(adapters, str) else ():
        _check_checkpoint(adapter.strip(), recipe, "adapter_config.json")
    if datasets is not None:
        _check_datasets(recipe.get("dataset_dir", "data"), datasets)


@functools.cache
def known_templates() -> dict[str, bool]:
    """Return LLaMA-Factory's templates, and whether each supports audio, from its source; empty without it.

    Importing them takes many seconds, as it imports transformers.
    """
    trees = _parse_sources("llamafactory", "data/template.py")
    return {name: takes_audio for tree in trees for name, takes_audio in _registered_templates(tree)}


@functools.cache
def llamafactory_keys() -> frozenset[str]:
    """Return the keys that LLaMA-Factory's recipes may have, from its source and that of transformers.

    Empty where they cannot be known without an import: without the sources, or where another package adds keys.
    """
    own = _parse_sources("llamafactory", "hparams/[!e]*_args.py")  # not those of its `eval`
    inherited = _parse_sources("transformers", "training_args*.py")
    if not own or not inherited or os.environ.get("USE_MCA", "").lower() in TRUE_VALUES:
        return frozenset()
    return frozenset(LAUNCH_KEYS).union(*map(_dataclass_fields, [*own, *inherited]))


def _parse_sources(package: str, pattern: str) -> list[ast.Module]:
    """Parse the files of a package that match a pattern; none where one cannot be read."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    try:
        return [
            ast.parse(path.read_text(encoding="utf-8")) for folder in folders for path in Path(folder).glob(pattern)
        ]
    except (OSError, ValueError, SyntaxError):
        return []


def _dataclass_fields(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and not _is_computed(line):
                    yield line.target.id


def _is_computed(field: ast.AnnAssign) -> bool:
    """Return whether a field of a dataclass is not an argument: `field(init=False)`, or a class variable."""
    options = field.value.keywords if isinstance(field.value, ast.Call) else []
    inits = [one.value.value for one in options if one.arg == "init" and isinstance(one.value, ast.Constant)]
    return inits == [False] or "ClassVar" in ast.unparse(field.annotation)


def _registered_templates(tree: ast.Module) -> Iterable[tuple[str, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register_template":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            name, plugin = given.get("name"), given.get("mm_plugin")
            if isinstance(name, ast.Constant):
                takes_audio = isinstance(plugin, ast.Call) and any(one.arg == "audio_token" for one in plugin.keywords)
                yield str(name.value), takes_audio


def _check_keys(recipe: Mapping[str, Any]) -> None:
    known = llamafactory_keys()
    for key in recipe:
        if known and key not in known:
            raise unknown_key(key, known)


def _check_template(name: str) -> None:
    known = known_templates()
    if not known:
        return
    with_audio = sorted(template for template, takes_audio in known.items() if takes_audio)
    if name not in known:
        hint = did_you_mean(name, with_audio) or did_you_mean(name, known)
        raise UsageError(f"There is no template {name}.{hint} Those that take audio: {', '.join(with_audio)}.")
    if with_audio and not known[name]:
        raise ModelError(f"The template {name} takes no audio; for Qwen2-Audio use template: qwen2_audio.")


def _check_checkpoint(name: str, recipe: Mapping[str, Any], file_name: str) -> None:
    """Raise ModelError unless a model or adapter is a folder with `file_name`, or may be a name on a hub."""
    kind = "model" if file_name == "config.json" else "adapter"
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        problem = _folder_problem(folder, file_name)
    elif folder.exists():
        problem = "it is a file; a checkpoint is a folder"
    else:
        problem = _hub_problem(name, recipe, file_name)
    if problem:
        key = f"{kind}_name_or_path"
        raise ModelError(f"Cannot load the {kind} {name}: {problem}. Check {key}.")


def _folder_problem(folder: Path, file_name: str) -> str | None:
    if (folder / file_name).exists():
        return None
    if file_name == "config.json" and (folder / "adapter_config.json").exists():
        return "the folder holds an adapter; name its base here, and the folder as adapter_name_or_path"
    return f"its folder has no {file_name}"


def _hub_problem(name: str, recipe: Mapping[str, Any], file_name: str) -> str | None:
    """Return why a name cannot be on a hub, as far as that is known without the network; None where it may be.

    Says that a hub is asked: a mistyped folder looks like a name there, and a download or its retries take minutes.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is in their documentation

    try:
        validate_repo_id(name)
    except HFValidationError:
        return "there is no such folder, and it is not a name on a hub either (owner/name)"
    if any(os.environ.get(hub, "").lower() in TRUE_VALUES for hub in OTHER_HUBS):
        return None
    cache = recipe.get("cache_dir")
    folder = cache if isinstance(cache, str) else constants.HF_HUB_CACHE
    revision = str(recipe.get("model_revision") or "main")
    if isinstance(try_to_load_from_cache(name, file_name, cache_dir=folder, revision=revision), str):
        return None
    if constants.HF_HUB_OFFLINE:
        return f"there is no such folder, HF_HUB_OFFLINE is set, and {folder} does not hold it"
    logger.info("There is no folder %s, and %s does not hold it: asking the Hugging Face Hub.", name, folder)
    return None


def _check_datasets(dataset_dir: object, names: Sequence[str]) -> None:
    """Raise DatasetError unless local datasets are registered, and their files exist and have content."""
    if not names:
        raise no_dataset_error()
    if not isinstance(dataset_dir, str) or dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:"):
        return
    info = read_dataset_info(dataset_dir)
    for name in names:
        if name not in info:
            raise unknown_dataset_error(name, info, os.path.join(dataset_dir, "dataset_info.json"))
        path = registered_file(info[name], dataset_dir)
        if path:
            check_registered_file(name, path)
