"""The examples in the docstrings hold."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "metrics.corpus", "metrics.curves", "metrics.latency", "metrics.quality", "metrics.records", "metrics.significance",
    "metrics.stability", "evaluation.cells", "evaluation.tables",
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    results = doctest.testmod(importlib.import_module(f"simulsa_plugin.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
