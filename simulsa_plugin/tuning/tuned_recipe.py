"""The grid that is searched where a recipe names none, and the recipe that a search ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from simulsa_plugin.evaluation.block_decoding import cell_folder
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.result_cells import OFFLINE
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.tuning.search import FINALISTS, TUNED, cell_in_words

# hold_n is not searched unless it is named: with the same number it commits the same text at the same time as rollback.
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
CELLS, HEADS = "simulsa_cells", "simulsa_attention_heads"


def searched_settings(simulsa: Mapping[str, Any]) -> EvaluationSettings:
    """What is searched: the recipe's keys, and the grid for those that it does not have or that are null.

    What only concerns the test set is left out: how many of its utterances are decoded, and whether time is measured.

    Raises:
        UsageError: a value is wrong.
    """
    named = {key: value for key, value in simulsa.items() if value is not None or key not in GRID}
    return EvaluationSettings.from_keys(GRID | named | {"simulsa_measure_time": False, "simulsa_eval_samples": None})


def write_tuned(recipe: Mapping[str, Any], settings: EvaluationSettings, result: Mapping[str, Any], out: Path) -> None:
    """Write the recipe with the chosen cells and no others, and one with all that were decoded on the whole dev set.

    The second serves comparisons that include the choice: another draw of the dev set might have chosen them. Attention
    heads that were found on the dev set are named, so that the test set has no part in them. What is there of an
    earlier call stays, as somebody may have changed it.

    Args:
        recipe: what was searched with, LLaMA-Factory's keys and ours.
        settings: of the search.
        result: frontier.json.
        out: its folder.
    """
    tuned = list(dict.fromkeys(one["cell"] for one in result["budgets"] if one["cell"] is not None))
    finalists = [row["cell"] for row in result["cells"] if row["utterances"] == result["utterances"]]
    others = (
        "Here are all cells that were decoded on the whole dev set, so that the intervals of "
        "`simulsa-eval compare --tuned` include the choice."
    )
    recipe = {**recipe, **({HEADS: heads} if (heads := result.get("attention_heads")) else {})}
    _write(recipe, settings, finalists, [*_head(result), others], out / FINALISTS)
    _write(recipe, settings, tuned, [*_head(result), "Here are these cells alone."], out / TUNED)


def _write(
    recipe: Mapping[str, Any], settings: EvaluationSettings, names: list[str], head: Sequence[str], path: Path
) -> None:
    if path.exists():
        return
    rest = {key: value for key, value in recipe.items() if key not in GRID and key != CELLS}
    keys = _narrowed(settings, rest, names)
    with replacing(path, "w") as handle:
        handle.writelines(f"# {line}\n" for line in head)
        yaml.safe_dump(rest | keys | {CELLS: names}, handle, sort_keys=False, allow_unicode=True, width=120)


def _narrowed(settings: EvaluationSettings, rest: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The keys of the grid with no more values than the cells need; a key that decides nothing is left out."""
    searched = settings.as_keys()
    keys = {key: list(searched[key]) for key in GRID}
    for key in GRID:
        for value in list(keys[key]):
            fewer = keys | {key: [one for one in keys[key] if one != value]}
            if fewer[key] and _makes({**rest, **fewer}, names):
                keys = fewer
    for key in GRID:
        without = {one: values for one, values in keys.items() if one != key}
        if key not in ("simulsa_policies", "simulsa_chunks") and _makes({**rest, **without}, names):
            keys = without
    return keys


def _makes(keys: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether all these cells are among those that the keys make."""
    made = {cell_folder(cell) for cell in plan_cells(EvaluationSettings.from_keys(keys))}
    return set(names) <= made - {OFFLINE}


def _head(result: Mapping[str, Any]) -> list[str]:
    goal, by_name = result["goal"], {row["cell"]: row for row in result["cells"]}
    quality, latency = goal["quality"], goal["latency"]
    lines = [
        f"Written by `simulsa-eval tune`: the best {quality} on the dev set {result['dataset']} within each "
        f"budget of {latency}."
    ]
    for one in result["budgets"]:
        row = by_name.get(one["cell"])
        said = (
            "no cell is within it"
            if row is None
            else (f"{cell_in_words(row)}, on dev {quality} {row[quality]:.2f} at {row[latency]:.0f} ms")
        )
        lines.append(f"{one['budget']:g} ms: {said}")
    return lines
