"""Benchmarks are run by hand; what they import is still there."""

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent / "bench").glob("*.py"))
NOT_INSTALLED = ("simuleval", "simuleval_agent")  # see helpers/other_tools.py


def imported_names(script):
    """Pairs of a module and a name in it, or None for the module itself; also of imports inside functions."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_everything_that_a_benchmark_imports_exists(script, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    for module, name in imported_names(script):
        if module.partition(".")[0] not in NOT_INSTALLED:
            found = importlib.import_module(module)
            assert name is None or hasattr(found, name) or importlib.import_module(f"{module}.{name}"), (module, name)
