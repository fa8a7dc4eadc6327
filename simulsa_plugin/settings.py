"""Recipes (YAML + key=value) to frozen dataclasses: every key is known, typed and checked before work starts."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
import reprlib
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from simulsa_plugin.errors import UsageError

KEY_PREFIX = "simulsa_"
LISTABLE = 50  # more keys than this help nobody in an error message
MAX_SHOWN_CHARACTERS = 80  # characters of a value in a message
MAX_RECIPE_BYTES = 1_000_000
# Aliases count as often as they stand: a few lines of them can say gigabytes, or hold themselves.
MAX_RECIPE_VALUES = 100_000
MAX_RECIPE_DEPTH = 50
# Whatever PyYAML's constructors raise for `!!int abc`, a date without a 13th month, or a thousand brackets.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
# What would change the colours of a terminal or move its cursor, and what cannot be stored as UTF-8.
_CONTROL_IN_RECIPES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN_CHARACTERS
S = TypeVar("S", bound="Settings")


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 as OmegaConf, and so LLaMA-Factory, reads it.

    `1e-4` is a number, a date is text, and a duplicate key is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys all differ."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:merge":
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, Hashable) and key in seen:
                    problem = f"found the key {key!r} twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen |= {key} if isinstance(key, Hashable) else set()
        return super().construct_mapping(node, deep)


_RecipeLoader.yaml_implicit_resolvers = {
    key: [resolver for resolver in value if resolver[0] != "tag:yaml.org,2002:timestamp"]
    for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()
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
        """Return recipe key → field."""
        return {KEY_PREFIX + field.name: field for field in dataclasses.fields(cls)}

    @classmethod
    def from_keys(cls: type[S], values: Mapping[str, Any]) -> S:
        """Build from recipe keys; keys of other groups are ignored here (see `check_known`).

        Raises:
            UsageError: a value has the wrong type or is out of its range.
        """
        hints = typing.get_type_hints(cls)
        known = cls.keys()
        chosen = {
            known[key].name: _convert_value(key, value, hints[known[key].name])
            for key, value in values.items()
            if key in known
        }
        return cls(**chosen)

    def as_keys(self) -> dict[str, Any]:
        """Return the group as recipe keys and JSON values, for manifests."""
        values = {key: getattr(self, field.name) for key, field in self.keys().items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def words_of_changes(settings: Settings, keys: Mapping[str, Any]) -> list[str]:
    """Return `key=value` for a command of the keys of a group that are set to something else than in `settings`.

    Args:
        settings: the defaults.
        keys: of a recipe or a manifest; those of other groups are left out, and those that are null.
    """
    defaults = settings.as_keys()
    changed = {key: value for key, value in keys.items() if key in defaults and value not in (None, defaults[key])}
    return [f"{key}={_flow_yaml(value)}" for key, value in changed.items()]


def _flow_yaml(value: Any) -> str:
    r"""Return a value as YAML in one line.

    >>> _flow_yaml([500, 1000]), _flow_yaml(False), _flow_yaml("beta_full"), _flow_yaml("1")
    ('[500, 1000]', 'false', 'beta_full', "'1'")
    """
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("...\n").strip()


def read_recipe(path: str | Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML recipe and apply `key=value` overrides (values are YAML, as in LLaMA-Factory).

    Args:
        path: the recipe, or None for an empty one.
        overrides: strings `key=value`.

    Raises:
        UsageError: the file is missing, is not a YAML mapping, or an override has no `=`.
    """
    recipe: dict[str, Any] = {}
    if path is not None:
        recipe = _load_yaml_mapping(Path(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"Cannot read the argument {short_repr(override)}: expected key=value, such as simulsa_ratio=0.05."
            )
        recipe[key.strip()] = _parse_yaml(value, f"the value of {key}")
    return recipe


def split_recipe(recipe: Mapping[str, Any], groups: Iterable[type[Settings]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a recipe into (`simulsa_*` keys, LLaMA-Factory's keys).

    Raises:
        UsageError: a `simulsa_*` key belongs to no group; the nearest known key is named.
    """
    own = {key: value for key, value in recipe.items() if key.startswith(KEY_PREFIX)}
    known = {key for group in groups for key in group.keys()}
    for key in own:
        if key not in known:
            raise unknown_key(key, known)
    return own, {key: value for key, value in recipe.items() if not key.startswith(KEY_PREFIX)}


def unknown_key(key: str, known: Iterable[str]) -> UsageError:
    """Return the error for an unknown key, with the nearest known one."""
    known = sorted(known)
    own = {name.removeprefix(KEY_PREFIX): name for name in known}  # a shared prefix would make everything near
    near = difflib.get_close_matches(key.removeprefix(KEY_PREFIX), own, n=1)
    if near:
        hint = f"did you mean {own[near[0]]}?"
    elif len(known) <= LISTABLE:
        hint = f"allowed: {', '.join(known)}."
    else:
        hint = f"no similar key among the {len(known)} known ones. Remove it; docs/reference.md lists all keys."
    return UsageError(f"Unknown key {key}: {hint}")


def did_you_mean(word: str, known: Iterable[str], *, compared_from: int = 0) -> str:
    """Return a sentence with the nearest known word, with a space before it; empty where none is near.

    Args:
        word: that is not known.
        known: words.
        compared_from: how many characters all have in common, such as the dashes of options, and do not count.

    >>> did_you_mean("qwen2audio", ["qwen2_vl", "qwen2_audio"]), did_you_mean("xyzzy", ["qwen2_audio"])
    (' Did you mean qwen2_audio?', '')
    >>> did_you_mean("--ratio", ["--version"], compared_from=2), did_you_mean("--ot", ["--out"], compared_from=2)
    ('', ' Did you mean --out?')
    """
    compared = {one[compared_from:]: one for one in known}
    near = difflib.get_close_matches(word[compared_from:], compared, n=1)
    return f" Did you mean {compared[near[0]]}?" if near else ""


def list_some(names: Iterable[str], most: int = LISTABLE) -> str:
    """List the first names, and how many more there are.

    >>> list_some(["a", "b"]), list_some("abcdef", 3), list_some([])
    ('a, b', 'a, b, c, and 3 more', 'none')
    """
    names = list(names)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more]) or "none"


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise UsageError unless `value` is one of `allowed`; the nearest is named."""
    allowed = list(allowed)
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise UsageError(f"{key} is {short_repr(value)}; allowed: {', '.join(allowed)}.{hint}")


def short_repr(value: object) -> str:
    """Format a value for a message: as Python writes it, cut where that is long.

    >>> short_repr("a"), len(short_repr("a" * 1000)), short_repr(10**9999)
    ("'a'", 80, 'a number of thousands of digits')
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


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
        raise UsageError(f"{key} is {short_repr(value)}; allowed: a number {' and '.join(b for b in bounds if b)}.")


def _load_yaml_mapping(path: Path) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > MAX_RECIPE_BYTES:
            raise UsageError(f"The recipe {path} has over {MAX_RECIPE_BYTES:,} bytes. Give the path of a YAML file.")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with a NUL
        reason = getattr(error, "strerror", None) or error  # the name is said already
        raise UsageError(f"Cannot read the recipe {path}: {reason}. Give the path of a YAML file.") from error
    recipe = _parse_yaml(text, f"the recipe {path}")
    if recipe is None:
        return {}
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise UsageError(f"The recipe {path} holds a {type(recipe).__name__}; expected lines of `key: value`.")
    return recipe


def _parse_yaml(text: str, where: str) -> Any:
    try:
        value = yaml.load(text, Loader=_RecipeLoader)
    except YAML_ERRORS as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UsageError(f"Cannot read {where} as YAML: {reason}") from error
    problem = _odd_content(value)
    if problem:
        raise UsageError(f"Cannot use {where}: it holds {problem}.")
    return value


def _odd_content(value: Any) -> str | None:
    """Name content that no recipe needs, and that would harm whoever prints or stores it; None where there is none."""
    level, room = [value], MAX_RECIPE_VALUES
    for _ in range(MAX_RECIPE_DEPTH):
        texts = {id(one): one for one in level if isinstance(one, str)}
        if any(_CONTROL_IN_RECIPES.search(text) for text in texts.values()):
            return "control characters, or half of a surrogate pair"
        level = list(itertools.islice(itertools.chain.from_iterable(map(_nested_values, level)), room + 1))
        room -= len(level)
        if room < 0:
            return f"more than {MAX_RECIPE_VALUES:,} values, aliases counted as often as they stand"
        if not level:
            return None
    return f"more than {MAX_RECIPE_DEPTH} levels of lists or mappings"


def _nested_values(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return itertools.chain(value, value.values())
    return value if isinstance(value, (list, tuple, set)) else ()


def _convert_value(key: str, value: Any, hint: Any) -> Any:
    """Convert a YAML value to the annotated type, without guessing."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    hint = str if origin is typing.Literal else hint  # its group checks which text
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert_value(key, value, hint)
    if origin is Mapping:
        return _as_mapping(key, value)
    if origin is tuple:
        return tuple(_convert_value(key, item, arguments[0]) for item in as_list(value))
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_moderate(value):
        if hint is int and isinstance(value, int):
            return value
        if hint in (float, str):
            return hint(value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[hint]
    raise UsageError(f"{key} is {short_repr(value)}; allowed: {wanted}.")


def _is_moderate(value: float) -> bool:
    """Return whether arrays, JSON's readers and the other libraries hold it, too."""
    return isinstance(value, float) or -(2**63) <= value < 2**63


def _as_mapping(key: str, value: Any) -> dict[str, str]:
    """Convert `{a: x, b: y}` or `a:x,b:y` to a mapping."""
    if isinstance(value, str):
        pairs = [pair.partition(":") for pair in value.split(",")]
        if all(name.strip() and colon and of.strip() for name, colon, of in pairs):
            value = {name.strip(): of.strip() for name, _, of in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for pair in value.items() for word in pair):
        raise UsageError(f"{key} is {short_repr(value)}; allowed: pairs of names, such as {key}=name:other,name:other.")
    return dict(value)


def as_list(value: Any) -> list[Any]:
    """Convert `500,1000`, `[500, 1000]` or `500`, as a recipe may have them, to a list."""
    if isinstance(value, str):
        return [_parse_yaml(item, "a list") for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]
