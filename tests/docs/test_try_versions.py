"""The script that tries versions of other packages: what it runs exists, and what it prints is a table."""

import doctest
import importlib.util
import shlex
import sys

import pytest
from documents import REPOSITORY


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("try_versions", REPOSITORY / "docs" / "try_versions.py")
    module = sys.modules["try_versions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["try_versions"]


def test_every_file_and_test_that_is_named_exists(script):
    words = [word for command in script.STEPS.values() for word in shlex.split(command)]
    named = [word.split("::") for word in words if word.startswith(("tests/", "recipes/"))]
    assert len(named) >= 8
    for path, *functions in named:
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        assert all(f"def {function}(" in text for function in functions), path


def test_its_examples_hold(script):
    found = doctest.testmod(script)
    assert found.attempted >= 3
    assert found.failed == 0


def test_a_failure_is_a_row_whose_error_cannot_break_the_table(script):
    outcome = script.Outcome(script.Combination("lowest"), {"python": "3.11.2", "torch": "2.8.0+cpu"}, "fails", "a|`b`")
    *_, row = script.table([outcome]).splitlines()
    assert row == r"| lowest | 3.11.2 | – | – | 2.8.0 | – | – | – | – | – | fails | `a\|'b'` |"
