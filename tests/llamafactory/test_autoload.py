"""The entry point that PyTorch loads in every process: what it may not do, and what it does to LLaMA-Factory."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def python(tmp_path, clean_environment):
    """Run code in a fresh interpreter; packages in `tmp_path` shadow the real ones."""

    def run(code, **environment):
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=tmp_path,
            env=clean_environment | {"PYTHONPATH": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result

    return run


@pytest.fixture
def fake_toolkit(tmp_path):
    """A package `llamafactory` that holds one module."""

    def write(name, code):
        folder = tmp_path / "llamafactory"
        for part in name.split(".")[:-1]:
            folder = folder / part
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        (tmp_path / "llamafactory" / "__init__.py").touch()
        (folder / f"{name.split('.')[-1]}.py").write_text(textwrap.dedent(code), encoding="utf-8")

    return write


def test_it_imports_the_standard_library_alone(python):
    result = python("""
        import sys
        before = set(sys.modules)
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new - sys.stdlib_module_names))
    """)
    assert result.stdout.strip() == "['simulsa_plugin']"


def test_importing_torch_activates_it_and_says_nothing(python):
    result = python("import torch, sys; print([type(f).__name__ for f in sys.meta_path].count('ModuleWatcher'))")
    assert result.stdout.strip() == "1"
    assert "simulsa" not in result.stderr


def test_the_switch_turns_it_off(python):
    result = python(
        """
        from simulsa_plugin.llamafactory.plugin import autoload
        import sys
        autoload.activate()
        print([type(f).__name__ for f in sys.meta_path].count("ModuleWatcher"))
    """,
        SIMULSA_PLUGIN="0",
    )
    assert result.stdout.strip() == "0"


def test_our_commands_have_it_where_torch_may_not_load_it_and_say_that_training_has_not(python):
    result = python(
        """
        import sys
        from simulsa_plugin.api.loading import activate_plugin
        activate_plugin()
        import torch
        print([type(f).__name__ for f in sys.meta_path].count("ModuleWatcher"))
    """,
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert result.stdout.strip() == "1"
    assert result.stderr.startswith("TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps PyTorch from loading")
    assert result.stderr.count("\n") == 1


def test_activating_twice_is_activating_once(python):
    result = python("""
        from simulsa_plugin.llamafactory.plugin import autoload
        import sys
        autoload.activate(), autoload.activate()
        print([type(f).__name__ for f in sys.meta_path].count("ModuleWatcher"))
    """)
    assert result.stdout.strip() == "1"


def test_without_llamafactory_an_import_of_it_fails_as_ever(python, tmp_path):
    (tmp_path / "llamafactory").mkdir()
    (tmp_path / "llamafactory" / "__init__.py").touch()  # a package without any of the modules
    result = python("""
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        try:
            import llamafactory.launcher
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert result.stdout.strip() == "No module named 'llamafactory.launcher'"
    assert result.stderr == ""


def test_an_extended_module_keeps_its_loader_and_source(python, fake_toolkit):
    fake_toolkit(
        "launcher",
        """
        import subprocess
        def launch():
            print("launched")
    """,
    )
    result = python("""
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        import inspect, llamafactory.launcher as launcher
        print(type(launcher.__loader__).__name__, type(launcher.__spec__.loader).__name__)
        launcher.launch()
        print(hasattr(launcher.launch, "__wrapped__"), "launched" in inspect.getsource(launcher))
    """)
    assert result.stdout.split() == ["SourceFileLoader", "SourceFileLoader", "launched", "True", "True"]


def test_a_module_imported_before_torch_is_extended_too(python, fake_toolkit):
    fake_toolkit("launcher", "import subprocess\ndef launch(): pass\n")
    result = python("""
        import llamafactory.launcher as launcher
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        print(hasattr(launcher.launch, "__wrapped__"))
    """)
    assert result.stdout.strip() == "True"


def test_a_module_that_imports_torch_while_it_is_executed_is_left_alone(python, fake_toolkit):
    fake_toolkit(
        "launcher",
        """
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()  # as `import torch` does
        import subprocess
        def launch(): pass
    """,
    )
    result = python("import llamafactory.launcher as launcher; print(hasattr(launcher.launch, '__wrapped__'))")
    assert result.stdout.strip() == "False"
    assert result.stderr == ""


def test_a_hook_that_is_gone_is_named_and_the_rest_works(python, fake_toolkit):
    fake_toolkit("launcher", "import subprocess\ndef begin(): return 'begun'\n")
    result = python("""
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        import llamafactory.launcher as launcher
        print(launcher.begin(), type(launcher.subprocess).__name__)
    """)
    assert result.stdout.split() == ["begun", "TorchrunSubprocess"]
    assert result.stderr.count("\n") == 1
    assert "llamafactory.launcher.launch" in result.stderr


def test_a_failing_extension_leaves_the_module_as_it_is(python, fake_toolkit):
    fake_toolkit("hparams.parser", "def read_args(args=None): return args\n_TRAIN_ARGS = _INFER_ARGS = []\n")
    result = python("""
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        import llamafactory.hparams.parser as parser  # it has no data_args module beside it
        print(parser.read_args({"seed": 1}))
    """)
    assert result.stdout.strip() == "{'seed': 1}"
    assert result.stderr.startswith("simulsa_plugin: cannot extend llamafactory.hparams.parser")


@pytest.mark.parametrize(
    ("module", "way"),
    [
        ("v1.launcher", "USE_V1=1"),
        ("train.mca.workflow", "mca"),
        ("train.hyper_parallel.workflow", "hyper_parallel"),
    ],
)
def test_a_way_past_the_plugin_is_said(python, fake_toolkit, module, way):
    if "." in module.removeprefix("v1."):
        fake_toolkit("train.other", "")  # the packages above it
    fake_toolkit(module, "")
    result = python(f"""
        from simulsa_plugin.llamafactory.plugin import autoload
        autoload.activate()
        import llamafactory.{module}
    """)
    assert result.stderr.startswith(
        f"simulsa_plugin: {way} uses a part of LLaMA-Factory that this plugin does not extend: its keys"
    )
    assert result.stderr.count("\n") == 1
