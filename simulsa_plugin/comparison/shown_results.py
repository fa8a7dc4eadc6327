"""Results as a page shows them: a name, the rows of scores.json, and what a single log has of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.cards import public_name
from simulsa_plugin.comparison.names import path_text, short_names
from simulsa_plugin.evaluation.limit import LIMIT, LIMITS
from simulsa_plugin.evaluation.named_result import NamedResult
from simulsa_plugin.evaluation.result_cells import OFFLINE, Cell, CellKey, read_scores

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ShownResult:
    """A result folder, or a single log.

    Attributes:
        name: as short as tells it from the others.
        path: of the folder or the log.
        rows: its cells as in scores.json; that of a log has no intervals.
        limits: rows of the limits of its test set.
        facts: name → value of what is known about it: test set, model, instances.
        signatures: metric → exact definition.
        folder: the result folder; None for a log.
    """

    name: str
    path: str
    rows: Sequence[Row]
    limits: Sequence[Row]
    facts: Mapping[str, str]
    signatures: Mapping[str, str]
    folder: NamedResult | None = None

    @property
    def streaming(self) -> list[Row]:
        """The rows that are points of a curve: streaming cells, or the one of a log."""
        return [row for row in self.rows if row["policy"] not in (OFFLINE, LIMIT)]

    @property
    def offline(self) -> Row | None:
        """The row of the offline cell; None where there is none."""
        return next((row for row in self.rows if row["policy"] == OFFLINE), None)


def shown_results(results: Sequence[tuple[Path, Mapping[CellKey, Cell], Mapping[str, str]]]) -> list[ShownResult]:
    """Return what is shown of results: of each its path, its cells and the signatures of its scores.

    Raises:
        LogError: the scores.json of a folder cannot be read.
    """
    names = short_names([path_text(path) for path, _, _ in results])
    return [
        _shown_folder(names[path_text(path)], path)
        if path.is_dir()
        else _shown_log(names[path_text(path)], path, cells, signatures)
        for path, cells, signatures in results
    ]


def _public_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what describes a model, without the folders of this machine: the page is sent to others."""

    def public(value: object) -> str:
        return ", ".join(map(public, value)) if isinstance(value, list) else public_name(str(value or ""))

    return {str(key): public(value) if key in ("model", "adapter") else value for key, value in model.items()}


def _shown_folder(name: str, folder: Path) -> ShownResult:
    scores = read_scores(folder)
    model = scores.get("model") or {}
    facts = {
        "test set": scores.get("dataset"),
        "rows": scores.get("rows"),
        **(_public_model(model) if isinstance(model, Mapping) else {"model": model}),
        "skipped utterances": len(scores.get("skipped") or ()),
        "decoded on": ", ".join(map(str, scores.get("decoded_on") or ())),
    }
    signatures = scores.get("signatures")
    return ShownResult(
        name,
        path_text(folder),
        [{"parameters": {}} | row for row in scores["cells"]],
        [{"parameters": {}} | row for row in scores.get(LIMITS) or ()],
        {key: str(value) for key, value in facts.items() if value not in (None, "")},
        {str(key): str(value) for key, value in signatures.items()} if isinstance(signatures, Mapping) else {},
        NamedResult(name, folder, scores),
    )


def _shown_log(name: str, path: Path, cells: Mapping[CellKey, Cell], signatures: Mapping[str, str]) -> ShownResult:
    rows = [
        key.as_json() | dict(cell.values) | {"instances": cell.instances, "counts": {"skipped": dict(cell.skipped)}}
        for key, cell in cells.items()
    ]
    return ShownResult(name, path_text(path), rows, [], {"instances": str(rows[0]["instances"])}, signatures)
