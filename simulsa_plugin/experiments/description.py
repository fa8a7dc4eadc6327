"""Reads experiments from YAML: arms, and the runs that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import UsageError
from simulsa_plugin.experiments.signature import short_hash
from simulsa_plugin.settings import read_recipe
from simulsa_plugin.tuning.tuned_recipe import GRID

FOLDER = Path("recipes/experiments")
DEFAULT_RECIPE = "recipes/demo_simulsa.yaml"
# Beyond the paper's 5: an offline model with a larger rollback is the honest baseline.
DEFAULT_EVALUATION = {"simulsa_chunks": "500,1000", "simulsa_rollbacks": "0,3,5,8,12"}
GOAL = ("budget", "latency", "quality")  # options of `simulsa-eval tune`, not keys
_KEYS = frozenset({"title", "augment", "train", "evaluate", "tune", "test", "arms"})
_ARM_KEYS = frozenset(
    {"recipe", "augment", "scored_by", "starts_from", "variant", "train", "evaluate", "tune", "test", "policy"}
)

Keys = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """Augmentation, training and evaluation with one seed; shared by arms and experiments with equal settings.

    Attributes:
        recipe: of the training.
        content: of the recipe.
        augment: keys of `simulsa-augment`; None to train on the offline rows alone.
        train: keys that override the recipe.
        evaluate: keys of `simulsa-eval` for fixed settings; None for no such evaluation.
        seed: for `seed` and `simulsa_seed`.
        tune: keys of `simulsa-eval tune` with `budget`, `latency` and `quality`; None for no tuning.
        test: keys that override the tuned recipe on the test set.
        scored_by: the run whose model scores the cuts; None for the packaged one.
        starts_from: the run whose model is trained further; None for the model of the recipe.
        variant: arguments of `experiments.variants`, which changes the augmented rows before training; None for none.
    """

    recipe: str
    content: Keys
    augment: Keys | None
    train: Keys
    evaluate: Keys | None
    seed: int
    tune: Keys | None = None
    test: Keys = field(default_factory=dict)
    scored_by: Run | None = None
    starts_from: Run | None = None
    variant: str | None = None

    @property
    def model_name(self) -> str:
        """A name for the trained model: a hash of its settings, with the content of the recipe instead of its name."""
        settings: list[object] = [self.content, self.augment, self.train, self.seed]
        settings += [] if self.scored_by is None else [self.scored_by.model_name]
        settings += [] if self.starts_from is None else ["from", self.starts_from.model_name]
        settings += [] if self.variant is None else [self.variant]
        return f"seed{self.seed}_{short_hash(settings)}"

    @property
    def result_name(self) -> str:
        """A name for the evaluation of fixed settings."""
        return f"eval_{short_hash(self.evaluate)}"

    @property
    def tuning_name(self) -> str:
        """A name for the search on the dev set, which depends on the default grid."""
        return f"tune_{short_hash([self.tune, GRID])}"


@dataclass(frozen=True)
class Arm:
    """One line of the picture: runs over seeds, and the policy of its cells."""

    name: str
    runs: tuple[Run, ...]
    policy: str


@dataclass(frozen=True)
class Experiment:
    """An experiment; the first arm is the baseline of the others."""

    name: str
    title: str
    arms: tuple[Arm, ...]


def experiment_names() -> list[str]:
    """List the experiments in `recipes/experiments`."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_experiment(name: str, seeds: Sequence[int], overrides: Keys) -> Experiment:
    """Read an experiment.

    Args:
        name: of a file in `recipes/experiments`, or the path of any YAML file.
        seeds: one run of every arm each.
        overrides: training keys that override those of all arms.

    Raises:
        UsageError: there is no such experiment, a key in it is unknown, a recipe cannot be read, the arms are tuned for
            different goals, or a seed is repeated.
    """
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds repeats a seed: {', '.join(map(str, seeds))}.")
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(
            f"There is no experiment {path}; allowed: {', '.join(experiment_names()) or 'a YAML file'}. "
            f"Start from the folder that holds recipes/."
        )
    described = read_recipe(path)
    _check_keys(path, "", described, _KEYS)
    arms = described.get("arms")
    if not isinstance(arms, Mapping) or not arms:
        raise UsageError(f"{path} has no arms; expected a mapping of names to settings.")
    read: dict[str, Arm] = {}
    for name, settings in arms.items():
        read[str(name)] = _read_arm(path, str(name), settings or {}, described, read, seeds, overrides)
    goals = {
        None if (tune := arm.runs[0].tune) is None else tuple(str(tune.get(key)) for key in GOAL)
        for arm in read.values()
    }
    if len(goals) > 1:
        raise UsageError(
            f"{path}: its arms are tuned for other goals, or only some are. Give all of them a tune "
            f"with the same {', '.join(GOAL)}."
        )
    return Experiment(path.stem, str(described.get("title", path.stem)), tuple(read.values()))


def _read_arm(
    path: Path, name: str, arm: Keys, common: Keys, before: Mapping[str, Arm], seeds: Sequence[int], overrides: Keys
) -> Arm:
    _check_keys(path, f"arm {name}, ", arm, _ARM_KEYS)

    def run_of(key: str, number: int) -> Run | None:
        if arm.get(key) is None:
            return None
        if arm[key] not in before:
            raise UsageError(
                f"{path}, arm {name}: {key} is {arm[key]!r}; allowed: an arm above it: "
                f"{', '.join(before) or 'there is none'}."
            )
        return before[arm[key]].runs[number]

    tuned = "tune" in common or "tune" in arm

    def merged(key: str) -> dict[str, Any]:
        return {**(common.get(key) or {}), **(arm.get(key) or {})}

    offline = "recipe" in arm and "augment" not in arm
    recipe = str(arm.get("recipe", DEFAULT_RECIPE))
    content = read_recipe(recipe)
    evaluate = DEFAULT_EVALUATION | merged("evaluate") if not tuned or merged("evaluate") else None
    tune = merged("tune") if tuned else None
    if tune is not None and "budget" not in tune:
        raise UsageError(f"{path}, arm {name}: tune has no budget. Add budget: with milliseconds of mean latency.")
    runs = tuple(
        Run(
            recipe,
            content,
            None if offline else merged("augment"),
            merged("train") | dict(overrides),
            evaluate,
            seed,
            tune,
            merged("test"),
            run_of("scored_by", number),
            run_of("starts_from", number),
            arm.get("variant"),
        )
        for number, seed in enumerate(seeds)
    )
    return Arm(name, runs, arm.get("policy", "rollback"))


def _check_keys(path: Path, where: str, found: Keys, known: frozenset[str]) -> None:
    for key in found:
        if key not in known:
            raise UsageError(f"{path}, {where}{key!r} is unknown; allowed: {', '.join(sorted(known))}.")
