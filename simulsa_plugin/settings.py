"""Recipes (YAML + key=value) to frozen dataclasses: every key is known, typed and checked before work starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from simulsa_plugin.errors import UsageError

PREFIX = "simulsa_"
LISTABLE = 50  # more keys than this help nobody in an error message
S = TypeVar("S", bound="Settings")


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-4` is a number (OmegaConf, and so LLaMA-Factory, reads it as one)."""


_RecipeLoader.yaml_implicit_resolvers = {
    key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the groups of `simulsa_*` keys; a field `ratio` is the key `simulsa_ratio`."""

    @classmethod
    def keys(cls) -> dict[str, dataclasses.Field[Any]]:
        """Recipe key → field."""
        return {PREFIX + field.name: field for field in dataclasses.fields(cls)}

    @classmethod
    def from_keys(cls: type[S], values: Mapping[str, Any]) -> S:
        """Build from recipe keys; keys of other groups are ignored here (see `check_known`).

        Raises:
            UsageError: a value has the wrong type or is out of its range.
        """
        hints = typing.get_type_hints(cls)
        known = cls.keys()
        chosen = {
            known[key].name: _convert(key, value, hints[known[key].name])
            for key, value in values.items()
            if key in known
        }
        return cls(**chosen)

    def as_keys(self) -> dict[str, Any]:
        """The group as recipe keys and JSON values, for manifests."""
        values = {key: getattr(self, field.name) for key, field in self.keys().items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def read_recipe(path: str | Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML recipe and apply `key=value` overrides (values are YAML, as in LLaMA-Factory).

    Args:
        path: the recipe, or None for an empty one.
        overrides: strings `key=value`.

    Raises:
        UsageError: the file is missing, is no YAML mapping, or an override has no `=`.
    """
    recipe: dict[str, Any] = {}
    if path is not None:
        recipe = _load_yaml_mapping(Path(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"Cannot read the argument {override!r}: expected key=value, such as simulsa_ratio=0.05.")
        recipe[key.strip()] = _parse_yaml(value, f"the value of {key}")
    return recipe


def split_recipe(recipe: Mapping[str, Any], groups: Iterable[type[Settings]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a recipe into (`simulsa_*` keys, LLaMA-Factory's keys).

    Raises:
        UsageError: a `simulsa_*` key belongs to no group; the nearest known key is named.
    """
    own = {key: value for key, value in recipe.items() if key.startswith(PREFIX)}
    known = {key for group in groups for key in group.keys()}
    for key in own:
        if key not in known:
            raise unknown_key(key, known)
    return own, {key: value for key, value in recipe.items() if not key.startswith(PREFIX)}


def unknown_key(key: str, known: Iterable[str]) -> UsageError:
    """The error for a key nobody reads, with the nearest known one."""
    known = sorted(known)
    own = {name.removeprefix(PREFIX): name for name in known}  # a shared prefix would make everything near
    near = difflib.get_close_matches(key.removeprefix(PREFIX), own, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean {own[near[0]]}?"
    elif len(known) <= LISTABLE:
        hint = f"allowed: {', '.join(known)}."
    else:
        hint = f"none of the {len(known)} known keys is like it. Remove it; the README lists the keys of this plugin."
    return UsageError(f"Unknown key {key}: {hint}")


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise UsageError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise UsageError(f"{key} is {value!r}; allowed: {', '.join(allowed)}.")


def check_range(
    key: str,
    value: float | None,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> None:
    """Raise UsageError unless `value` is finite and in the range; None passes (not set)."""
    if value is None:
        return
    if (
        not math.isfinite(value)
        or (above is not None and value <= above)
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
    ):
        bounds = [
            f"> {above}" if above is not None else "",
            f"≥ {minimum}" if minimum is not None else "",
            f"≤ {maximum}" if maximum is not None else "",
        ]
        raise UsageError(f"{key} is {value}; allowed: a number {' and '.join(b for b in bounds if b)}.")


def _load_yaml_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the recipe {path}: {error}. Give the path of a YAML file.") from error
    recipe = _parse_yaml(text, f"the recipe {path}")
    if recipe is None:
        return {}
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise UsageError(f"The recipe {path} holds a {type(recipe).__name__}; expected lines of `key: value`.")
    return recipe


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"Cannot read {where} as YAML: {' '.join(str(error).split())}") from error


def _convert(key: str, value: Any, hint: Any) -> Any:
    """Convert a YAML value to the annotated type, without guessing."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(key, value, hint)
    if origin is Mapping:
        return _as_mapping(key, value)
    if origin is tuple:
        return tuple(_convert(key, item, arguments[0]) for item in _as_list(value))
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[hint]
    raise UsageError(f"{key} is {value!r}; allowed: {wanted}.")


def _as_mapping(key: str, value: Any) -> dict[str, str]:
    """`{a: x, b: y}` and `a:x,b:y` are both mappings."""
    if isinstance(value, str):
        pairs = [pair.partition(":") for pair in value.split(",")]
        if all(name.strip() and colon and of.strip() for name, colon, of in pairs):
            value = {name.strip(): of.strip() for name, _, of in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for pair in value.items() for word in pair):
        raise UsageError(f"{key} is {value!r}; allowed: names to names, such as {key}=name:other,name:other.")
    return dict(value)


def _as_list(value: Any) -> list[Any]:
    """`500,1000`, `[500, 1000]` and `500` are all lists."""
    if isinstance(value, str):
        return [_parse_yaml(item, "a list") for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]
