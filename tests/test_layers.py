"""The direction of imports, read from the source: errors ← settings, audio, storage, model ← … ← commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import simulsa_plugin

PACKAGE = Path(simulsa_plugin.__file__).parent
FOUNDATION = {
    "errors",
    "settings",
    "presets",
    "languages",
    "audio",
    "files",
    "model",
    "tables",
    "terminal",
    "run_configuration",
    "sharding",
    "read_ahead",
    "memory",
    "segments",
    "reports",
    "cards",
}
# Part → the parts it may import, besides itself and the version number in the package.
ALLOWED = {
    "errors": set(),
    "settings": {"errors"},
    "presets": {"settings"},
    "terminal": {"tables"},
    "languages": set(),
    "tables": set(),
    "segments": set(),
    "reports": {"audio", "errors", "terminal"},
    "cards": {"errors", "files", "terminal"},
    "worker_processes": set(),
    "read_ahead": set(),
    "memory": set(),
    "audio": {"errors", "files", "segments"},
    "files": {"errors"},
    "model": {"errors", "audio", "segments"},
    "run_configuration": {"errors", "files", "settings"},
    "sharding": {"errors", "terminal"},
    "metrics": {"errors", "segments"},
    "demo": {"errors", "audio", "files", "segments", "terminal"},
    "cluster": FOUNDATION,
    "corpora": FOUNDATION,
    "augmentation": FOUNDATION,
    "streaming": FOUNDATION | {"metrics"},
    "longform": FOUNDATION | {"streaming"},
    "live": FOUNDATION | {"streaming", "longform", "metrics"},
    "logs": {"errors", "files", "metrics", "segments"},
    "evaluation": FOUNDATION | {"streaming", "longform", "metrics", "logs", "worker_processes"},
    "tuning": FOUNDATION | {"streaming", "metrics", "logs", "evaluation"},
    "comparison": FOUNDATION | {"metrics", "logs", "evaluation", "tuning"},
    "llamafactory": FOUNDATION | {"demo", "cluster", "corpora", "augmentation", "streaming", "metrics", "evaluation"},
    "api": FOUNDATION
    | {"demo", "corpora", "augmentation", "streaming", "longform", "live", "metrics", "logs", "evaluation", "tuning"}
    | {"comparison", "llamafactory", "cluster"},
    "agents": FOUNDATION | {"api", "live", "metrics"},
    "server": FOUNDATION | {"longform", "live", "metrics", "api"},
    "commands": FOUNDATION | {"server", "api", "metrics", "logs", "evaluation", "tuning", "comparison"},
    "experiments": FOUNDATION
    | {"demo", "augmentation", "metrics", "logs", "evaluation", "tuning", "comparison", "api", "commands"},
}
TORCH = {"torch", "torchaudio", "transformers", "peft", "accelerate", "deepspeed", "datasets", "llamafactory"}
SLOW_TO_IMPORT = TORCH | {"matplotlib", "sacrebleu", "scipy", "pandas", "numpy"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = ["simulsa_plugin", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, *, at_import_time):
    """Names of the modules that a file imports: anywhere, or only what runs when it is imported."""
    found = set()

    def visit(node):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if not at_import_time or not (typing_only or later):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def own_parts(path):
    """Parts of the package that a file imports."""
    names = [name.split(".") for name in imports(path, at_import_time=False) if name.startswith("simulsa_plugin.")]
    return {name[1] for name in names} - {"__version__"}


def outside(path, *, at_import_time=False):
    return {name.split(".")[0] for name in imports(path, at_import_time=at_import_time)} - {"simulsa_plugin"}


def test_every_part_has_its_place():
    assert {part_of(path) for path in SOURCES} - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_downwards(part):
    wrong = {
        module_name(path): sorted(own_parts(path) - ALLOWED[part] - {part})
        for path in SOURCES
        if part_of(path) == part and own_parts(path) - ALLOWED[part] - {part}
    }
    assert not wrong


def test_augmentation_and_evaluation_never_meet():
    assert "evaluation" not in ALLOWED["augmentation"] | ALLOWED["streaming"]
    assert "augmentation" not in ALLOWED["evaluation"] | ALLOWED["streaming"]


def test_only_one_part_imports_llamafactory():
    assert {part_of(path) for path in SOURCES if "llamafactory" in outside(path)} == {"llamafactory"}


def test_only_that_part_the_pretraining_script_and_voice_activity_import_torch():
    # `datasets` reads tables for a corpus, and lhotse its cuts: both only when such a corpus is asked for.
    slow = {path: (TORCH - {"datasets"} if part_of(path) == "corpora" else TORCH) for path in SOURCES}
    others = [path for path in SOURCES if part_of(path) != "llamafactory"]
    importers = {module_name(path) for path in others if slow[path] & outside(path)}
    assert importers <= {"simulsa_plugin.demo.pretrain", "simulsa_plugin.longform.silero"}


def test_reading_a_corpus_imports_nothing_slow_before_it_must():
    needed = {name.split(".")[0] for name in runs_on_import("simulsa_plugin.corpora.prepare")}
    assert not needed & (SLOW_TO_IMPORT - {"numpy"} | {"lhotse"})


def runs_on_import(module):
    """Every module that importing `module` imports, own ones followed, packages above included."""
    files = {module_name(path): path for path in SOURCES}
    seen, queue = set(), [module]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in files:
            queue += imports(files[name], at_import_time=True)
        if "." in name:
            queue.append(name.rpartition(".")[0])
    return seen


@pytest.mark.parametrize("command", ["augment", "evaluate", "live"])
def test_what_help_needs_is_quick(command):
    needed = {name.split(".")[0] for name in runs_on_import(f"simulsa_plugin.commands.{command}")}
    assert "simulsa_plugin" in needed
    assert not needed & SLOW_TO_IMPORT


def test_the_entry_point_that_every_torch_process_loads_is_standard_library():
    # It runs wherever torch is imported; a missing package must not be its business.
    files = {module_name(path): path for path in SOURCES}
    needed = {name.split(".")[0] for name in runs_on_import("simulsa_plugin.llamafactory.plugin.autoload")}
    assert needed - {"simulsa_plugin"} <= sys.stdlib_module_names
    assert "simulsa_plugin.llamafactory.plugin.autoload" in files


@pytest.mark.parametrize("command", ["augment", "evaluate", "live"])
def test_help_imports_nothing_slow(command):
    program = (
        "import sys\n"
        f"from simulsa_plugin.commands.{command} import main\n"
        "code = main(['--help'])\n"
        f"print(sorted(set({sorted(SLOW_TO_IMPORT)!r}) & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "[]"
    assert "usage: simulsa-" in result.stdout


def test_no_two_test_modules_share_a_name():
    # pytest imports them by their names alone.
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
