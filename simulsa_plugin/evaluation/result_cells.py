"""Cells of a result folder of `simulsa-eval run`: keys, values, logs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation.budgets import TUNED, are_budgets
from simulsa_plugin.evaluation.formatting import format_parameters
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.metrics.corpus_scores import METRICS
from simulsa_plugin.metrics.long_form import ALL_LONG_METRICS

SCORES = "scores.json"
OFFLINE = "offline"
COMET = "COMET"
COMET_SCORES = "comet.jsonl"  # in a cell's folder: index and score of each instance
CELL_METRICS = (*METRICS, *(name for name in ALL_LONG_METRICS if name not in METRICS), COMET)


@dataclass(frozen=True)
class CellKey:
    """Identifies a cell: policy, chunk (ms) and rollback (tokens), None for offline, and the policy's parameters.

    Attributes:
        parameters: canonical JSON, so that keys can be compared; "" where there are none.
    """

    policy: str
    chunk_ms: float | None = None
    rollback: int | None = None
    parameters: str = ""

    def __str__(self) -> str:
        chunk = "" if self.chunk_ms is None else f" k={self.chunk_ms:g}"
        rollback = "" if self.rollback is None else f" b={self.rollback}"
        parameters = format_parameters(json.loads(self.parameters)) if self.parameters else ""
        return f"{self.policy}{chunk}{rollback} {parameters}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """Return the fields as in `cells` of scores.json."""
        parameters = json.loads(self.parameters) if self.parameters else {}
        return {"policy": self.policy, "chunk_ms": self.chunk_ms, "rollback": self.rollback, "parameters": parameters}


@dataclass(frozen=True)
class Cell:
    """A cell of a result: its values (metric → value or None), and its log where there is one.

    Attributes:
        instances: number of them.
        log: of whole recordings, that of their reference segments.
        skipped: metric → number of instances without a value.
    """

    key: CellKey
    values: Mapping[str, float | None]
    instances: int | None
    log: Path | None
    skipped: Mapping[str, int] = field(default_factory=dict)


def folder_name(
    policy: str, chunk_ms: float | None, rollback: int | None, parameters: Mapping[str, Any] | None = None
) -> str:
    """Return the name of a cell's folder in a result folder; characters that names cannot have are removed.

    >>> folder_name("rollback", 500, 3), folder_name("offline", None, None)
    ('rollback_k500_b3', 'offline')
    >>> folder_name("confidence", 500, 0, {"confidence_threshold": 0.9})
    'confidence_k500_b0_confidence_threshold0.9'
    """
    chunk = "" if chunk_ms is None else f"_k{chunk_ms:g}"
    rest = "".join(f"_{key}{value}" for key, value in (parameters or {}).items())
    return re.sub(r"[^\w.+-]", "", f"{policy}{chunk}{'' if rollback is None else f'_b{rollback}'}{rest}")


def cell_key(row: Mapping[str, Any]) -> CellKey:
    """Return the key of a row of `cells`."""
    parameters = row.get("parameters")
    return CellKey(
        row["policy"], row["chunk_ms"], row["rollback"], json.dumps(parameters, sort_keys=True) if parameters else ""
    )


def read_scores(folder: Path) -> dict[str, Any]:
    """Read the scores.json of a result folder.

    Raises:
        LogError: it is missing, is not a JSON object, or has no list of cells.
    """
    path = folder / SCORES
    try:
        scores = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise LogError(
            f"{folder} holds no {SCORES} that can be read ({error.strerror}). "
            f"Give a folder of `simulsa-eval run`, or an {INSTANCES_LOG}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise LogError(f"{path} is not valid JSON ({error}). Run `simulsa-eval run` again.") from error
    if not isinstance(scores, dict) or not isinstance(scores.get("cells"), list):
        raise LogError(f"{path} has no list `cells`. Give a folder of `simulsa-eval run`.")
    return scores


def read_cells(folder: Path, scores: Mapping[str, Any]) -> dict[CellKey, Cell]:
    """Read the cells of a result folder, in its order.

    Raises:
        LogError: a cell is not an object, has no policy or a value that is not a number, or is repeated.
    """
    cells: dict[CellKey, Cell] = {}
    for number, row in enumerate(scores["cells"], 1):
        where = f"{folder / SCORES}, cell {number}"
        cell = _read_cell(folder, row, where)
        if cell.key in cells:
            raise LogError(f"{where}: {cell.key} is repeated. Run `simulsa-eval run` again.")
        cells[cell.key] = cell
    return cells


def _read_cell(folder: Path, row: object, where: str) -> Cell:
    if not isinstance(row, dict) or not isinstance(row.get("policy"), str) or not row["policy"].isprintable():
        raise LogError(f"{where}: expected an object with a policy.")
    values = {name: _read_number(row, name, where) for name in CELL_METRICS if name in row}
    chunk_ms, rollback = _read_number(row, "chunk_ms", where), _read_number(row, "rollback", where)
    key = cell_key(row | {"chunk_ms": chunk_ms, "rollback": None if rollback is None else int(rollback)})
    name = str(row.get("folder") or folder_name(key.policy, key.chunk_ms, key.rollback, key.as_json()["parameters"]))
    if name != Path(name).name or name == ".." or "\0" in name or len(name) > 255:
        raise LogError(f"{where}: folder is {name[:60]!r}; expected the name of a folder in {folder}.")
    logs = [folder / name / log for log in (RESEGMENTED, INSTANCES_LOG)]
    instances = _read_number(row, "instances", where)
    if not are_budgets(row.get(TUNED)):
        raise LogError(
            f"{where}: tuned is {str(row[TUNED])[:60]!r}; expected a list of objects with latency and budget."
        )
    counts = row.get("counts")
    skipped = counts.get("skipped") if isinstance(counts, dict) else None
    return Cell(
        key,
        values,
        None if instances is None else int(instances),
        next((log for log in logs if log.is_file()), None),
        skipped if isinstance(skipped, dict) else {},
    )


def _read_number(row: Mapping[str, Any], key: str, where: str) -> float | None:
    value = row.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15):
        raise LogError(f"{where}: {key} is {str(value)[:60]!r}; expected a number or null.")
    return None if value is None else float(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")
