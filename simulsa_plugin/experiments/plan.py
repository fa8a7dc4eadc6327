"""An experiment as its YAML describes it: arms, and the runs that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import UsageError
from simulsa_plugin.experiments.signature import short_hash
from simulsa_plugin.settings import read_recipe

FOLDER = Path("recipes/experiments")
TRAINED = "recipes/demo_simulsa.yaml"
# Beyond the paper's 5: an offline model with a larger rollback is the honest baseline.
EVALUATED = {"simulsa_chunks": "500,1000", "simulsa_rollbacks": "0,3,5,8,12"}
_KEYS = frozenset({"title", "augment", "train", "evaluate", "arms"})
_ARM_KEYS = frozenset({"recipe", "augment", "train", "evaluate", "policy"})

Keys = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """Augmentation, training and evaluation under one seed; arms and experiments that need the same share it.

    Attributes:
        recipe: that trains.
        content: what the recipe says.
        augment: keys of `simulsa-augment`; None trains on the offline rows alone.
        train: keys that override the recipe.
        evaluate: keys of `simulsa-eval`.
        seed: `seed` and `simulsa_seed` together.
    """

    recipe: str
    content: Keys
    augment: Keys | None
    train: Keys
    evaluate: Keys
    seed: int

    @property
    def model_name(self) -> str:
        """A name for the trained model: what it is made of, hashed; the content of the recipe, not its name."""
        return f"seed{self.seed}_{short_hash([self.content, self.augment, self.train, self.seed])}"

    @property
    def result_name(self) -> str:
        """A name for its evaluation."""
        return f"eval_{short_hash(self.evaluate)}"


@dataclass(frozen=True)
class Arm:
    """One line of the picture: runs over seeds, and the policy whose cells it shows."""

    name: str
    runs: tuple[Run, ...]
    policy: str


@dataclass(frozen=True)
class Experiment:
    """An experiment; the first arm is the baseline of the others."""

    name: str
    title: str
    arms: tuple[Arm, ...]


def names() -> list[str]:
    """Experiments in `recipes/experiments`."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_experiment(name: str, seeds: Sequence[int], overrides: Keys) -> Experiment:
    """Read an experiment.

    Args:
        name: of a file in `recipes/experiments`, or the path of any YAML file.
        seeds: one run of every arm each.
        overrides: keys of training that override all arms'.

    Raises:
        UsageError: there is no such experiment, a key in it is unknown, or a recipe that it names cannot be read.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"There is no experiment {path}; allowed: {', '.join(names()) or 'a YAML file'}. "
                         f"Start from the folder that holds recipes/.")
    described = read_recipe(path)
    _check_keys(path, "", described, _KEYS)
    arms = described.get("arms")
    if not isinstance(arms, Mapping) or not arms:
        raise UsageError(f"{path} has no arms; expected a mapping of names to settings.")
    return Experiment(path.stem, str(described.get("title", path.stem)), tuple(
        _make_arm(path, str(arm), settings or {}, described, seeds, overrides) for arm, settings in arms.items()))


def _make_arm(path: Path, name: str, arm: Keys, common: Keys, seeds: Sequence[int], overrides: Keys) -> Arm:
    _check_keys(path, f"arm {name}, ", arm, _ARM_KEYS)

    def merged(key: str) -> dict[str, Any]:
        return {**(common.get(key) or {}), **(arm.get(key) or {})}

    offline = "recipe" in arm and "augment" not in arm
    recipe = str(arm.get("recipe", TRAINED))
    content = read_recipe(recipe)
    runs = tuple(Run(recipe, content, None if offline else merged("augment"),
                     merged("train") | dict(overrides), EVALUATED | merged("evaluate"), seed) for seed in seeds)
    return Arm(name, runs, arm.get("policy", "rollback"))


def _check_keys(path: Path, where: str, found: Keys, known: frozenset[str]) -> None:
    for key in found:
        if key not in known:
            raise UsageError(f"{path}, {where}{key!r} is unknown; allowed: {', '.join(sorted(known))}.")
