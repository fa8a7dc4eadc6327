"""A result folder under the name that a report gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.evaluation.limit import LIMITS
from simulsa_plugin.evaluation.report import ScoresRow
from simulsa_plugin.evaluation.result_cells import cell_key
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.records import LatencyUnit, check_unit


@dataclass(frozen=True)
class NamedResult:
    """A result in a report.

    Attributes:
        name: how the report calls it; empty where there is only one.
        folder: of `simulsa-eval run`.
        scores: its scores.json.
    """

    name: str
    folder: Path
    scores: Mapping[str, Any]

    @property
    def rows(self) -> list[ScoresRow]:
        """Its cells and limits."""
        return [*self.scores["cells"], *self.scores.get(LIMITS, [])]

    @property
    def unit(self) -> LatencyUnit:
        """Its latency unit."""
        return check_unit(self.signature_field("latency", "unit") or Measure().unit)

    def label(self, cell: ScoresRow) -> str:
        """Return what the report calls a cell."""
        return f"{self.name}: {cell_key(cell)}" if self.name else str(cell_key(cell))

    def signature_field(self, metric: str, field: str) -> str:
        """Return a field of a signature; empty where there is none."""
        signatures = self.scores.get("signatures")
        text = str(signatures.get(metric, "")) if isinstance(signatures, Mapping) else ""
        return dict(part.partition(":")[::2] for part in text.split("|")).get(field, "")
