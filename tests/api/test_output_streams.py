"""Who may print: the commands. Everything else logs or returns its messages, so that a notebook stays quiet."""

import ast
from pathlib import Path

import simulsa_plugin

PACKAGE = Path(simulsa_plugin.__file__).parent
PRINTING = {
    "commands",
    "experiments",  # commands as well
    "llamafactory/plugin",  # speaks inside `llamafactory-cli`
    "terminal.py",  # progress, where it is wanted
    "sharding.py",  # of several processes that wait for each other, which only commands start
    "evaluation/comet/worker.py",  # a process of its own
    "demo/pretrain.py",  # a script
    "agents/simuleval_agent.py",  # a program of SimulEval, which a mistake ends
}


def prints(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)


def test_only_commands_print():
    printing = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if prints(path)}
    assert {path for path in printing if not any(path.startswith(allowed) for allowed in PRINTING)} == set()
    assert "commands/augment.py" in printing
