"""The examples in the docstrings hold."""

import doctest
import importlib
from pathlib import Path

import pytest

import simulsa_plugin

PACKAGE = Path(simulsa_plugin.__file__).parent
MODULES = sorted(
    ".".join(["simulsa_plugin", *path.relative_to(PACKAGE).with_suffix("").parts])
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples():
    expected = {"simulsa_plugin.metrics.latency", "simulsa_plugin.audio.samples", "simulsa_plugin.languages"}
    assert expected <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
