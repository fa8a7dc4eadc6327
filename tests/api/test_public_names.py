"""The public surface of the package: every name is documented and annotated, and nothing else is public."""

import inspect
import pkgutil
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import simulsa_plugin

PAGE = Path(__file__).parents[2] / "docs" / "python_api.md"
CALLABLES = sorted(name for name in simulsa_plugin.__all__ if not name.startswith("__"))
FUNCTIONS = sorted(name for name in CALLABLES if name.islower())
HEAVY = ("torch", "numpy", "pandas", "yaml", "transformers", "llamafactory", "matplotlib")


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_else_is_public():
    assert [name for name in dir(simulsa_plugin) if not name.startswith("__")] == CALLABLES
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = simulsa_plugin.nothing


@pytest.mark.parametrize("name", CALLABLES)
def test_a_public_name_is_documented_annotated_and_says_what_it_is(name):
    found = getattr(simulsa_plugin, name)
    assert found.__name__ == name
    assert f"`{name}" in PAGE.read_text(encoding="utf-8")
    assert found.__doc__
    functions = [found] if inspect.isfunction(found) else list(methods(found))
    assert functions or issubclass(found, Exception)
    for function in functions:
        assert function.__doc__, function.__qualname__
        parameters = [one for one in inspect.signature(function).parameters.values() if one.name not in ("self", "cls")]
        assert all(one.annotation is not one.empty for one in parameters), function.__qualname__
        assert "return" in function.__annotations__, function.__qualname__


def methods(found):
    for name, member in vars(found).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(function):
            yield function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_explained(name):
    function = getattr(simulsa_plugin, name)
    explained = set(re.findall(r"^ {8}(\w+): ", function.__doc__, re.MULTILINE))
    assert set(inspect.signature(function).parameters) <= explained


def test_no_subpackage_takes_the_name_of_a_function():
    modules = {module.name for module in pkgutil.iter_modules(simulsa_plugin.__path__)}
    assert not modules & set(simulsa_plugin.__all__)


@pytest.mark.parametrize(
    "before",
    [
        "import simulsa_plugin",
        "import simulsa_plugin.augmentation.pipeline",
        "import simulsa_plugin.commands.augment, simulsa_plugin.commands.evaluate",
        "import simulsa_plugin.api.augment_recipe, simulsa_plugin.evaluation.score, simulsa_plugin.comparison.compare",
        "from simulsa_plugin import augment; import simulsa_plugin.augmentation",
    ],
)
def test_a_function_is_what_one_gets_in_every_order_of_imports(before):
    code = f"{before}\nimport simulsa_plugin\nprint([type(getattr(simulsa_plugin, n)).__name__ for n in {FUNCTIONS}])"
    assert in_a_new_process(code) == str(["function"] * len(FUNCTIONS))


def test_the_import_is_light():
    code = f"import simulsa_plugin, sys; print([m for m in {HEAVY} if m in sys.modules], len(sys.modules) < 200)"
    assert in_a_new_process(code) == "[] True"


def test_all_names_come_with_a_star_import():
    assert in_a_new_process("from simulsa_plugin import *; print(evaluate.__name__, Policy.__name__)") == (
        "evaluate Policy"
    )


def test_types_are_for_type_checkers():
    assert (Path(simulsa_plugin.__file__).parent / "py.typed").exists()


def test_annotations_can_be_resolved():
    for name in ("augment", "evaluate", "tune", "compare", "report", "score"):
        function = getattr(simulsa_plugin, name)
        names = vars(sys.modules[function.__module__])
        from simulsa_plugin.metrics.records import LatencyUnit

        assert typing.get_type_hints(function, names | {"LatencyUnit": LatencyUnit})["return"]
