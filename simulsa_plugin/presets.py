"""Named sets of defaults for the `simulsa_*` keys: what the paper did, and what was measured to be better.

Only defaults: a key that a recipe or the command line names always counts. What a run did is in its manifest.json or
scores.json as the settings themselves, so that the name alone never has to be looked up, and two names for the same
settings are the same work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.settings import KEY_PREFIX, Settings, as_list, check_choice

KEY = "simulsa_preset"
PAPER, RECOMMENDED = "paper", "recommended"
# All other keys have one default, the paper's: cuts by Beta(1, 3) in 0.5–5 s, accepted up to the first p < 100 / V.
#
# Evidence, on the embedded corpus (recipes/experiments/README.md): at a fixed rollback 1 % of simultaneous samples
# gains much, at equal latency nothing; 10 % decoded by `confidence` gains 18 BLEU [5, 25] within a LAAL of 1 s on the
# best policy of a model that was trained offline (three seeds), and loses none offline; 50 % gains more (one seed) and
# loses 0.7 offline. Cells: what `simulsa-eval tune` chose on the dev set for both models,
# thinned out. The model with 10 % wants chunks of 160 ms and .95–.99 below 900 ms, and .99 in chunks of 500 and 1000
# ms above; the offline model, which must get its due, .99 and .999 in the longer ones. Rollback 0, which is
# `confidence` with a threshold of 0, is the fast end of the curve, and lets a simulsa_rollbacks that is named be
# decoded; chunks of 2000 ms are the slow end.
PRESETS: dict[str, dict[str, Any]] = {
    PAPER: {
        "simulsa_ratio": 0.01,
        "simulsa_policies": ("rollback",),
        "simulsa_rollbacks": (0, 3, 5),
        "simulsa_chunks": (500, 1000, 1500, 2000),
        "simulsa_eval_policies": ("rollback",),
        "simulsa_eval_rollbacks": (0, 3),
        "simulsa_eval_chunks": (500, 1000),
    },
    RECOMMENDED: {
        "simulsa_ratio": 0.1,
        "simulsa_policies": ("rollback", "confidence"),
        "simulsa_rollbacks": (0,),
        "simulsa_confidence_threshold": (0.95, 0.99, 0.999),
        "simulsa_chunks": (160, 500, 1000, 2000),
        "simulsa_eval_policies": ("confidence",),
        "simulsa_eval_chunks": (500,),
    },
}
POLICIES_KEY, EVAL = "simulsa_policies", f"{KEY_PREFIX}eval_"
READ_BY = {  # keys that only some policies read → those
    "simulsa_rollbacks": {"rollback"},
    "simulsa_confidence_threshold": {"confidence", "agreement_or_confidence"},
    "simulsa_eval_rollbacks": {"rollback"},
}


@dataclass(frozen=True)
class PresetSettings(Settings):
    """The key that names a preset.

    Attributes:
        preset: `paper` or `recommended`, defaults for keys that are not set; null: the keys' own defaults.

    Raises:
        UsageError: there is no such preset.
    """

    preset: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None:
            check_choice(KEY, self.preset, PRESETS)


@dataclass(frozen=True)
class Preset:
    """A preset as far as it counts in one command.

    Attributes:
        name: one of PRESETS.
        values: recipe key → value, of the keys that were not set explicitly and have an effect.
    """

    name: str
    values: Mapping[str, Any]

    def __str__(self) -> str:
        """Describe the preset in a line.

        >>> print(Preset("paper", {"simulsa_rollbacks": (0, 3)}))
        preset paper: simulsa_rollbacks=0,3
        """
        words = [f"{key}={_typed(value)}" for key, value in self.values.items()]
        return f"preset {self.name}: {' '.join(words) or 'all its keys are set explicitly'}"


def apply_preset(
    keys: Mapping[str, Any], groups: Iterable[type[Settings]], default: str | None = None
) -> tuple[dict[str, Any], Preset | None]:
    """Let a preset stand behind the keys that are named.

    Args:
        keys: the `simulsa_*` keys of a recipe and the command line.
        groups: whose keys the command reads; the preset's others are left out.
        default: the preset where `keys` names none.

    Returns:
        The keys, with the preset's values where `keys` has none and without KEY; and the preset, if there is one, with
        the values that have an effect: not those that only policies read which are not decoded, nor those in whose
        place a training reads the key with `eval_`.

    Raises:
        UsageError: there is no such preset; the nearest name and all names are told.
    """
    name = PresetSettings.from_keys(keys).preset or default
    named = {key: value for key, value in keys.items() if key != KEY}
    if name is None:
        return named, None
    read = {key for group in groups for key in group.keys()}
    values = {key: value for key, value in PRESETS[name].items() if key in read and key not in named}
    keys = values | named
    return keys, Preset(name, {key: value for key, value in values.items() if _has_effect(key, keys, read)})


def _has_effect(key: str, keys: Mapping[str, Any], read: Collection[str]) -> bool:
    if _of_training(key) in read:
        return False
    policies = keys.get(_of_training(POLICIES_KEY) if _of_training(POLICIES_KEY) in read else POLICIES_KEY)
    return key not in READ_BY or policies is None or not READ_BY[key].isdisjoint(as_list(policies))


def _of_training(key: str) -> str:
    return EVAL + key.removeprefix(KEY_PREFIX)


def _typed(value: Any) -> str:
    """Format a value as it is typed behind `key=`."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
