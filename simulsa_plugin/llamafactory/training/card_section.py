"""What a training adds to the model card (README.md) that LLaMA-Factory has written: its data, and its last scores."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.output_layout import SUFFIX
from simulsa_plugin.cards import CARD, body_part, fenced, read_card, shown, with_parts, write_card
from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation.during_training import History, HistoryRow
from simulsa_plugin.evaluation.model_card import scores_section
from simulsa_plugin.files.atomic import remove_abandoned
from simulsa_plugin.llamafactory.model.arguments import one_line
from simulsa_plugin.llamafactory.plugin.notices import notify
from simulsa_plugin.llamafactory.training.distributed import rank_and_world_size
from simulsa_plugin.run_configuration import read_configuration

OWNER = "simulsa_plugin"


def add_to_model_card(data_arguments: Any, training_arguments: Any, history: History | None) -> None:
    """Add a part between marks to the card of a finished training; the rest of it stays.

    Args:
        data_arguments: of LLaMA-Factory; its datasets, where `simulsa-augment` made some, have signatures.
        training_arguments: of LLaMA-Factory.
        history: of a training that decoded simultaneously.
    """
    if not training_arguments.do_train or rank_and_world_size()[0] != 0:
        return
    folder = Path(training_arguments.output_dir)
    try:
        rows = _rows_of_weights(folder, history, best=training_arguments.load_best_model_at_end) if history else []
        section = [*_data_lines(data_arguments), *(_score_lines(rows, history) if history and rows else ())]
        card = read_card(folder / CARD)
        if section and card is not None:
            remove_abandoned(folder / CARD)
            write_card(folder / CARD, _with_section(card, section))
    except (SimulsaError, OSError) as error:  # the training is done, and its weights are there
        notify(f"{folder / CARD} could not be completed: {one_line(error)}")


def _with_section(card: str, lines: Sequence[str]) -> str:
    part = body_part(OWNER, "\n".join(["## Simultaneous speech translation", "", *lines]))
    return with_parts(card, [part]) or f"{card.rstrip()}\n\n{part}"


def _data_lines(data_arguments: Any) -> Iterator[str]:
    """Yield the signatures of the datasets that `simulsa-augment` made, and the command; nothing without any."""
    names, folder = data_arguments.dataset or [], data_arguments.dataset_dir
    signatures = {name: _signature(Path(folder), name) for name in names} if isinstance(folder, str) else {}
    known = {name: signature for name, signature in signatures.items() if signature}
    if known:
        yield from (f"Trained on {', '.join(map(shown, names))}; simultaneous samples by `simulsa-augment`:", "")
        yield fenced([f"{name}: {signature}" for name, signature in known.items()], "text")
        datasets = shlex.quote(f"dataset={','.join(names)}")
        yield fenced([f"llamafactory-cli train RECIPE.yaml {datasets}"], "bash")


def _signature(folder: Path, name: str) -> str | None:
    manifest = folder / name / "manifest.json"
    if not name.endswith(SUFFIX) or not manifest.is_file():
        return None
    signature = read_configuration(manifest).get("signature")
    return signature if isinstance(signature, str) else None


def _rows_of_weights(folder: Path, history: History, *, best: bool) -> list[HistoryRow]:
    """Return the evaluation of the weights that were saved: the best one where that was loaded, else the last."""
    rows = history.rows()
    step = _best_step(folder) if best else max((row["step"] for row in rows), default=None)
    return [row for row in rows if row["step"] == step]


def _best_step(folder: Path) -> int | None:
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        step = state["best_global_step"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _score_lines(rows: Sequence[HistoryRow], history: History) -> Iterator[str]:
    yield (
        f"Decoded simultaneously after step {rows[0]['step']}, {rows[0]['instances']} instances; latencies in ms, "
        "k: chunk in ms, b: rollback in tokens. Over the training:"
    )
    yield ""
    yield from scores_section(rows, history.picture.name)
