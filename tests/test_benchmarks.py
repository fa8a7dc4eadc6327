"""Benchmarks are run by hand; what they import is still there."""

import ast
import importlib
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["bench_autoload", "bench_corpus", "bench_from_scores"])
def test_help_is_printed_and_nothing_is_measured(name):
    script = Path(__file__).parent / "bench" / f"{name}.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ") and "show this help message" in done.stdout


def test_ways_are_timed_in_turns_and_compared_round_by_round(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "bench")
    rounds = importlib.import_module("rounds")
    order = []
    timings = rounds.time_in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert [len(taken) for taken in timings.values()] == [3, 3]
    timings = {  # the machine is twice as slow in the second round: the ratio stays
        "ours": [rounds.Timing(1.0, 2.0), rounds.Timing(2.0, 4.0)],
        "theirs": [rounds.Timing(3.0, 8.0), rounds.Timing(6.0, 16.0)],
    }
    head, ours, theirs = rounds.report(timings, "ours")
    assert head.startswith("2 rounds in turns, median [range]; load average ")
    assert ours == "ours    cpu 1.5 [1–2] s, wall 3 [2–4] s"
    assert theirs == "theirs  cpu 4.5 [3–6] s = 3 [3–3] × ours, wall 12 [8–16] s = 4 [4–4] × ours"


def test_processor_time_counts_programs_that_were_waited_for(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "bench")
    rounds = importlib.import_module("rounds")
    busy = "sum(number * number for number in range(3_000_000))"
    taken = rounds.time_call(lambda: subprocess.run([sys.executable, "-c", busy], check=True))
    assert taken.cpu > 0.05
