"""The model card of a result: scores in the form of the Hugging Face Hub, and the same for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulsa_plugin.cards import body_part, fenced, metadata_part, public_name, shown
from simulsa_plugin.evaluation.cells_table import key_metrics_rows
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.limit import LIMIT, LIMITS
from simulsa_plugin.evaluation.report import CURVES, ScoresRow, main_latency, training_step
from simulsa_plugin.evaluation.result_cells import cell_key
from simulsa_plugin.settings import words_of_changes
from simulsa_plugin.terminal import markdown_table

OWNER = "simulsa-eval"
_TASK, _TASK_NAME = "translation", "Simultaneous speech translation"
_QUALITIES = ("BLEU", "chrF", "COMET")


def model_card(scores: Mapping[str, Any]) -> str:
    """Return a card whose parts are between marks, with `model-index` in its metadata; `scores`: of scores.json."""
    return f"---\n{metadata_part(OWNER, _metadata(scores))}---\n\n{body_part(OWNER, _body(scores))}"


def scores_section(rows: Sequence[ScoresRow], picture: str) -> list[str]:
    """Return the table of cells as lines of Markdown, and a picture beside the card."""
    return [*markdown_table(key_metrics_rows(rows)), "", f"![Quality over latency]({picture})", ""]


def _metadata(scores: Mapping[str, Any]) -> dict[str, Any]:
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = list(_eval_results(scores))
    metadata = {
        "pipeline_tag": _TASK,
        "tags": ["speech-translation", "simultaneous-translation", "simulsa"],
        "metrics": sorted({one.metric_type for one in results if one.metric_type in ("bleu", "chrf", "comet")}),
    }
    if not results:
        return metadata
    return metadata | {"model-index": eval_results_to_model_index(_model_name(scores), results)}


def _eval_results(scores: Mapping[str, Any]) -> Iterator[Any]:
    """Yield quality and latency of every cell; limits are of no model."""
    from huggingface_hub import EvalResult

    latency, dataset = main_latency(scores["cells"]), str(scores["dataset"])
    for cell in scores["cells"]:
        for name in (*_QUALITIES, latency):
            if cell.get(name) is not None and cell["policy"] != LIMIT:
                yield EvalResult(
                    task_type=_TASK,
                    task_name=_TASK_NAME,
                    dataset_type=dataset,
                    dataset_name=dataset,
                    metric_type=name.lower(),
                    metric_name=f"{name}{' (ms)' if name == latency else ''}, {cell_key(cell)}",
                    metric_value=round(cell[name], 4),
                )


def _model_name(scores: Mapping[str, Any]) -> str:
    """Return the adapter, which is what was trained, else the model."""
    described = scores.get("model") or {}
    adapters = described.get("adapter") or [described.get("model") or "model"]
    return public_name(str(adapters[-1] if isinstance(adapters, list) else adapters))


def _body(scores: Mapping[str, Any]) -> str:
    rows = [*scores["cells"], *scores.get(LIMITS, [])]
    signatures = [f"{name}: {text}" for name, text in scores["signatures"].items()]
    lines = [
        f"## Simultaneous speech translation of {shown(str(scores['dataset']))}",
        "",
        f"{scores['cells'][0]['instances']} instances, decoded and scored by `simulsa-eval`{_when(scores)}; "
        "latencies in ms, k: chunk in ms, b: rollback in tokens; the best streaming values are bold.",
        "",
        *scores_section(rows, CURVES),
        "Signatures and command:",
        "",
        fenced(signatures, "text"),
        fenced([_command(scores)], "bash"),
    ]
    return "\n".join(lines)


def _when(scores: Mapping[str, Any]) -> str:
    step = training_step(scores)
    return "" if step is None else f" after step {step} of the training"


def _command(scores: Mapping[str, Any]) -> str:
    """Return a command that makes the result again, with the keys that are not the defaults."""
    keys = words_of_changes(EvaluationSettings(), scores.get("settings", {}))
    named = [f"model_name_or_path={_model_name(scores)}", f"eval_dataset={scores['dataset']}"]
    words = ["RECIPE.yaml", *named, *keys, "--out", "DIR"]
    return " ".join(["simulsa-eval", *map(shlex.quote, words)])
