"""The default grid of a search, and the recipes that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from simulsa_plugin.evaluation.block_decoding import cell_folder
from simulsa_plugin.evaluation.budgets import name_budget
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.result_cells import OFFLINE
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.tuning.frontier_file import FINALISTS, TUNED, cell_in_words

# hold_n is not in the default grid: with the same number it commits the same text at the same time as rollback.
GRID: dict[str, list[Any]] = {
    "simulsa_policies": ["rollback", "confidence", "local_agreement", "wait_k"],
    "simulsa_chunks": [160, 250, 320, 500, 750, 1000, 1500, 2000],
    "simulsa_rollbacks": list(range(13)),
    "simulsa_confidence_threshold": [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999],
    "simulsa_confidence_window": [1],
    "simulsa_attention_ms": [160, 240, 320, 400, 480, 640, 800, 960],
    "simulsa_hold_n": list(range(1, 13)),
    "simulsa_agreement_n": [2, 3],
    "simulsa_wait_k": [1, 2, 3, 4, 5],
}
CELLS_KEY, TUNED_KEY, HEADS_KEY = "simulsa_cells", "simulsa_tuned", "simulsa_attention_heads"


def searched_settings(simulsa: Mapping[str, Any]) -> EvaluationSettings:
    """Return the settings of a search: the recipe's keys, and the grid for those that are missing or null.

    Keys of the test set are ignored: how many of its utterances are decoded, and whether time is measured.

    Raises:
        UsageError: a value is wrong.
    """
    named = {key: value for key, value in simulsa.items() if value is not None or key not in GRID}
    return EvaluationSettings.from_keys(
        GRID | named | {"simulsa_measure_time": False, "simulsa_eval_samples": None, TUNED_KEY: {}}
    )


def write_tuned(recipe: Mapping[str, Any], settings: EvaluationSettings, result: Mapping[str, Any], out: Path) -> None:
    """Write a recipe with the chosen cells, and one with all cells that were decoded on the whole dev set.

    Both name the budgets of the chosen cells, so that a report shows them.

    The second serves comparisons that include the choice: another sample of the dev set might have chosen other cells.
    Attention heads that were found on the dev set are named, so that they do not depend on the test set. Existing files
    are kept, as a user may have changed them.

    Args:
        recipe: of the search, with LLaMA-Factory's keys and `simulsa_*`.
        settings: of the search.
        result: frontier.json.
        out: its folder.
    """
    tuned = list(dict.fromkeys(one["cell"] for one in result["budgets"] if one["cell"] is not None))
    budgets = {
        name_budget(result["goal"]["latency"], one["budget"]): one["cell"]
        for one in result["budgets"]
        if one["cell"] is not None
    }
    finalists = [row["cell"] for row in result["cells"] if row["utterances"] == result["utterances"]]
    others = (
        "Here are all cells that were decoded on the whole dev set, so that the intervals of "
        "`simulsa-eval compare --tuned` include the choice."
    )
    recipe = {**recipe, TUNED_KEY: budgets, **({HEADS_KEY: heads} if (heads := result.get("attention_heads")) else {})}
    _write_recipe(recipe, settings, finalists, [*_header(result), others], out / FINALISTS)
    _write_recipe(recipe, settings, tuned, [*_header(result), "Here are these cells alone."], out / TUNED)


def _write_recipe(
    recipe: Mapping[str, Any], settings: EvaluationSettings, names: list[str], head: Sequence[str], path: Path
) -> None:
    if path.exists():
        return
    rest = {key: value for key, value in recipe.items() if key not in GRID and key not in (CELLS_KEY, TUNED_KEY)}
    keys = _narrow_grid(settings, rest, names)
    named = {CELLS_KEY: names, TUNED_KEY: recipe[TUNED_KEY]}
    with replacing(path, "w") as handle:
        handle.writelines(f"# {line}\n" for line in head)
        yaml.safe_dump(rest | keys | named, handle, sort_keys=False, allow_unicode=True, width=120)


def _narrow_grid(settings: EvaluationSettings, rest: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of the grid with only the values that the cells need, without keys that have no effect."""
    searched = settings.relevant_keys()
    keys = {key: list(searched[key]) for key in GRID}
    for key in GRID:
        for value in list(keys[key]):
            fewer = keys | {key: [one for one in keys[key] if one != value]}
            if fewer[key] and _covers({**rest, **fewer}, names):
                keys = fewer
    for key in GRID:
        without = {one: values for one, values in keys.items() if one != key}
        if key not in ("simulsa_policies", "simulsa_chunks") and _covers({**rest, **without}, names):
            keys = without
    return keys


def _covers(keys: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Return whether all these cells are among those of the keys."""
    cells = {cell_folder(cell) for cell in plan_cells(EvaluationSettings.from_keys(keys))}
    return set(names) <= cells - {OFFLINE}


def _header(result: Mapping[str, Any]) -> list[str]:
    goal, by_name = result["goal"], {row["cell"]: row for row in result["cells"]}
    quality, latency = goal["quality"], goal["latency"]
    lines = [
        f"Written by `simulsa-eval tune`: the best {quality} on the dev set {result['dataset']} within each "
        f"budget of {latency}."
    ]
    for one in result["budgets"]:
        row = by_name.get(one["cell"])
        result_text = (
            "no cell is within it"
            if row is None
            else (f"{cell_in_words(row)}, on dev {quality} {row[quality]:.2f} at {row[latency]:.0f} ms")
        )
        lines.append(f"{one['budget']:g} ms: {result_text}")
    return lines
