"""Budgets of latency for which cells were chosen on a dev set: as recipes name them, in cells, and in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import did_you_mean, short_repr

TUNED = "tuned"  # of a cell in scores.json: [{latency, budget}]
_BUDGET = re.compile(r"([A-Za-z_]{1,40})@(\d{1,12}(?:\.\d{1,12})?)")

Budget = dict[str, Any]


def parse_budgets(tuned: Mapping[str, str]) -> dict[str, list[Budget]]:
    """Return cell → the budgets for which it was chosen, from `simulsa_tuned`.

    Raises:
        UsageError: a budget is not METRIC@MS.

    >>> parse_budgets({"LAAL@1000": "wait_k_k500_wait_k3"})
    {'wait_k_k500_wait_k3': [{'latency': 'LAAL', 'budget': 1000.0}]}
    """
    found: dict[str, list[Budget]] = {}
    for name, cell in tuned.items():
        match = _BUDGET.fullmatch(name)
        if match is None or not float(match[2]):
            raise UsageError(f"simulsa_tuned has the budget {short_repr(name)}; allowed: METRIC@MS, such as LAAL@1000.")
        found.setdefault(cell, []).append({"latency": match[1], "budget": float(match[2])})
    return found


def name_budget(latency: str, budget: float) -> str:
    """Return a budget as a key of `simulsa_tuned`.

    >>> name_budget("LAAL", 1000.0)
    'LAAL@1000'
    """
    return f"{latency}@{budget:.12f}".rstrip("0").rstrip(".")


def check_tuned(tuned: Mapping[str, str], cells: Iterable[str]) -> None:
    """Check that tuned cells are among those that are decoded.

    Raises:
        UsageError: one is not.
    """
    cells = list(cells)
    for budget, name in tuned.items():
        if name not in cells:
            raise UsageError(
                f"simulsa_tuned names {short_repr(name)} for {budget}, which is not among the {len(cells)} cells that "
                f"are decoded.{did_you_mean(name, cells)} Leave it out, or decode it as well."
            )


def are_budgets(value: object) -> bool:
    """Return whether a value of a scores.json, which anybody may have written, is what TUNED has, or nothing."""
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(one, dict)
            and isinstance(one.get("latency"), str)
            and isinstance(one.get("budget"), (int, float))
            for one in value
        )
    )


def budgets_in_words(row: Mapping[str, Any]) -> str:
    """Describe the budgets for which a cell of scores.json was chosen; empty where there are none.

    >>> budgets_in_words({"tuned": [{"latency": "LAAL", "budget": 700.0}, {"latency": "LAAL", "budget": 900.5}]})
    'LAAL ≤ 700 ms, LAAL ≤ 900.5 ms'
    """
    return ", ".join(f"{one['latency']} ≤ {one['budget']:g} ms" for one in row.get(TUNED) or ())
