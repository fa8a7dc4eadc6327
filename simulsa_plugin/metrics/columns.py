"""Metric values of many instances in columns of numbers, whose memory does not depend on the length of the texts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from simulsa_plugin.metrics.arrays import FloatArray

PERCENTILES = (50, 90)


class MetricColumns:
    """Metric → one value per instance, NaN where an instance has none."""

    def __init__(self, names: Iterable[str]) -> None:
        self._columns = {name: array("d") for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._columns)

    def append(self, values: Mapping[str, float | None]) -> None:
        """Add an instance: a value or None for every metric."""
        for name, column in self._columns.items():
            value = values[name]
            column.append(math.nan if value is None else value)

    def values(self, name: str) -> FloatArray:
        """Return all values, NaN where there is none, shape (instances,)."""
        return np.frombuffer(self._columns[name], dtype=np.float64) if self._columns[name] else np.empty(0)

    def present(self, name: str) -> FloatArray:
        """Return the values without NaN, shape (measured instances,)."""
        values = self.values(name)
        return values[~np.isnan(values)]

    def skipped(self, name: str) -> int:
        """Count the instances without a value."""
        return len(self._columns[name]) - len(self.present(name))

    def mean(self, name: str) -> float | None:
        """Average the values that are present, with a single rounding; None where there are none.

        >>> columns = MetricColumns(["AL"])
        >>> for value in (1.0, None, 3.0):
        ...     columns.append({"AL": value})
        >>> columns.mean("AL"), columns.skipped("AL"), columns.listed("AL")
        (2.0, 1, [1.0, None, 3.0])
        """
        present = self.present(name)
        return math.fsum(present) / len(present) if len(present) else None

    def percentiles(self, name: str) -> dict[str, float | None]:
        """Return the median and the 90th percentile of the present values, linearly interpolated."""
        present = self.present(name)
        found = np.percentile(present, PERCENTILES).tolist() if len(present) else [None] * len(PERCENTILES)
        return {f"p{share}": value for share, value in zip(PERCENTILES, found, strict=True)}

    def listed(self, name: str) -> list[float | None]:
        """Return a value or None for every instance."""
        return [None if math.isnan(value) else value for value in self._columns[name]]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Average the values that are not None; None where there are none.

    >>> mean_of([1.0, None, 3.0]), mean_of([None])
    (2.0, None)
    """
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None
