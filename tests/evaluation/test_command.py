"""The console script: what is a command, what is an error, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulsa_plugin.commands import evaluate
from simulsa_plugin.commands.console import run_command
from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import LogError, UsageError

DATA = Path(__file__).parents[1] / "data" / "latency"
START = "import sys; from simulsa_plugin.commands.evaluate import main; code = main(sys.argv[1:]); "


@pytest.fixture
def runs(monkeypatch) -> list:
    """A stand-in for the runner, which notes how it was called."""
    calls: list = []
    monkeypatch.setattr(evaluate, "_evaluate", lambda *arguments: calls.append(arguments) or 0)
    return calls


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ([], (None, [], Path("results"))),
        (["run"], (None, [], Path("results"))),
        (["r.yaml", "a=1", "--out", "o"], (Path("r.yaml"), ["a=1"], Path("o"))),
        (["run", "r.yaml", "--out", "o", "a=1"], (Path("r.yaml"), ["a=1"], Path("o"))),
        (["a=-1", "b=x y"], (None, ["a=-1", "b=x y"], Path("results"))),
        (["--out=o"], (None, [], Path("o"))),
    ],
)
def test_run_is_what_is_meant_without_a_command(runs, words, call):
    assert main(words) == 0
    assert runs == [call]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["scroe", "x.log"],
            "There is no command scroe. Did you mean score? "
            "Commands are run, tune, score, compare, report, convert, comet.",
        ),
        (["scor"], "There is no command scor. Did you mean score?"),
        (["quux"], "There is no command quux. Commands are run, tune, score, compare, report, convert, comet."),
        (["a.yaml", "x.log"], "Unexpected argument 'x.log': one recipe and key=value are allowed. Commands are run, "),
        (["score"], "the following arguments are required: LOG"),
        (["score", "x", "--unit", "token"], "invalid choice: 'token'"),
        (["score", "x", "--nope"], "unrecognized arguments: --nope"),
        (["run", "--nope"], "unrecognized arguments: --nope"),
        (["run", "--ot", "x"], "unrecognized arguments: --ot. Did you mean --out? See"),
        (["run", "--eval-samples", "9"], "Keys are written key=value: simulsa_eval_samples=… See"),
        (["score", "x", "--chunks", "9"], "unrecognized arguments: --chunks 9. See"),
        (["tune"], "the following arguments are required: --budget"),
        (["tune", "--budget", "fast"], "'fast' is not milliseconds above 0 between commas, such as 1000,2000"),
        (["tune", "--budget", "0"], "'0' is not milliseconds above 0"),
        (["tune", "--budget", "1000", "--quality", "COMET"], "Tune for BLEU or chrF, and add COMET to the result"),
        (["tune", "--budget", "1000", "--latency", "LAAL_CA"], "latency is 'LAAL_CA'; allowed: LAAL, AL,"),
        (["compare", "one"], "compare needs two results or more"),
        (["compare", "a", "b", "--samples", "0"], "--samples is 0"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(runs, capsys, words, message):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("simulsa-eval: error: ")
    assert message in captured.err
    assert (captured.err.count("\n"), captured.out, runs) == (1, "", [])


@pytest.mark.parametrize(
    "words",
    [
        ["-h"],
        ["run", "--help"],
        ["tune", "-h"],
        ["score", "--help"],
        ["compare", "-h"],
        ["convert", "-h"],
        ["comet", "-h"],
        ["--version"],
    ],
)
def test_help_is_printed_without_loading_what_work_needs(words):
    code = (
        START + "print(code, [m for m in ('torch', 'transformers', 'numpy', 'sacrebleu', 'matplotlib', 'yaml') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0 []\n")
    assert done.stdout.startswith(("usage: simulsa-eval", "simulsa-eval "))


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    log = str(DATA / "word_system2.instances.log")
    assert main(["score", log, "--json", str(tmp_path / "no" / "s.json")]) == 1
    assert "Cannot write" in capsys.readouterr().err
    assert main(["score", log, "--json", str(tmp_path)]) == 1
    assert "not a regular file" in capsys.readouterr().err


def test_a_reader_that_leaves_early_gets_no_traceback():
    command = [sys.executable, "-c", START + "sys.exit(code)", "score", str(DATA / "word_system2.instances.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 1)
    process.stderr.close()


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (LogError("two\n lines"), 1, "prog: error: two lines\n"),
        (UsageError("wrong"), 2, "prog: error: wrong\n"),
        (KeyboardInterrupt(), 130, "prog: interrupted. Start the same command again: it goes on where it stopped.\n"),
        (
            SystemExit(0),
            1,
            "prog: error: something called sys.exit(0) in the middle of the work; a custom policy, perhaps.\n",
        ),
        (UsageError("\x1b]0;title\x07 \x9b31m"), 2, "prog: error: \\x1b]0;title\\x07 \\x9b31m\n"),
        (UsageError("long" * 1000), 2, f"prog: error: {'long' * 1000}"[:1999] + "…\n"),
    ],
)
def test_what_the_user_can_act_on_ends_in_a_line_and_a_code(capsys, problem, code, line):
    def fail() -> int:
        raise problem

    assert run_command("prog", fail) == code
    assert capsys.readouterr().err == line


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("prog", lambda: 1 // 0)


def test_a_code_is_passed_on():
    assert run_command("prog", lambda: 1) == 1


@pytest.mark.parametrize("form", ["simuleval", "omnisteval", "simulstream", "texts", "lists"])
@pytest.mark.parametrize("given", ["none", "."])
def test_converting_what_is_not_there_says_what_is_expected(tmp_path, capsys, form, given):
    assert main(["convert", str(tmp_path / given), "--to", form, "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    missing = tmp_path / ("none" if given == "none" else "instances.log")
    assert line.startswith(f"simulsa-eval: error: {missing} does not exist. Give a log, or the folder of a cell of ")
