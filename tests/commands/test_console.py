"""What a command does with its terminal: streams of any kind, Ctrl-C at any time, and how far the work is."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from simulsa_plugin.terminal import FIRST_LINE_SECONDS, ProgressLines, SafeStream, Shares, announce, progress_shown

LOG = Path(__file__).parents[1] / "data" / "latency" / "word_system2.instances.log"
COMMAND = "import sys; from simulsa_plugin.commands.{} import main; sys.exit(main(sys.argv[1:]))"
SCORE = [sys.executable, "-c", COMMAND.format("evaluate"), "score"]
GOES_ON = "interrupted. Start the same command again: it goes on where it stopped.\n"


def run(words, **options):
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, **options)


def log_of(path, source):
    row = {
        "index": 0,
        "prediction": "a b",
        "delays": [500.0, 900.0],
        "elapsed": [600.0, 1000.0],
        "prediction_length": 2,
        "reference": "a b",
        "source": [source],
        "source_length": 1000.0,
    }
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_gets_the_others_by_their_number(tmp_path, encoding):
    log = log_of(tmp_path / "译文.log", "a.wav")
    done = run([*SCORE, log, "--json", str(tmp_path / "scores.json")], env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u8bd1\u6587.log: SimulEval" in done.stdout
    assert (tmp_path / "scores.json").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path, closed):
    words = " ".join(f"'{word}'" for word in [*SCORE, str(LOG), "--json", str(tmp_path / "scores.json")])
    done = run(["bash", "-c", f"{words} {closed}"])
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["counts"]


@pytest.mark.parametrize(("redirected", "code"), [("| true", 1), ("2>&1 | true", 1), ("1</dev/null", 1)])
def test_an_output_that_cannot_be_written_is_no_traceback(redirected, code):
    words = " ".join(f"'{word}'" for word in [*SCORE, str(LOG), "--sentences"])
    done = run(["bash", "-c", f"set -o pipefail; {words} {redirected}"])
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == code


@pytest.mark.parametrize("program", ["augment", "evaluate"])
def test_an_output_folder_whose_name_is_not_utf_8_is_refused(tmp_path, program):
    words = [sys.executable, "-c", COMMAND.format(program), "--out", os.fsencode(tmp_path) + b"/caf\xe9"]
    done = run(words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert r"caf\udce9' is not UTF-8" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_address_with_one_slash_is_not_taken_for_a_folder(tmp_path):
    done = run([sys.executable, "-c", COMMAND.format("augment"), "--out", "s3:/bucket/run"], cwd=tmp_path)
    assert done.returncode == 2
    assert "s3:/bucket/run is neither a folder nor an address: write s3://… or ./s3:/bucket/run" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_log_whose_name_is_not_utf_8_is_scored(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.log"
    Path(os.fsdecode(path)).write_bytes(LOG.read_bytes())
    done = run([*SCORE, path, "--json", str(tmp_path / "scores.json")])
    assert (done.returncode, done.stderr) == (0, "")
    assert r"caf\udce9.log: SimulEval" in done.stdout


def test_names_do_not_act_on_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[31m\x9b1mb.log"
    log_of(path, "a.wav")
    done = run([*SCORE, str(path), "--references", str(tmp_path / "\x1b[2Jgone")])
    assert done.returncode == 1
    assert r"\x1b[2Jgone" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    done = run([*SCORE, str(path)])
    assert r"a\x1b[31m\x9b1mb.log: SimulEval" in done.stdout


def test_bars_go_back_and_up_but_what_they_name_does_not():
    out = io.StringIO()
    stream = SafeStream(out, bars=True)
    for text in ("\rcut \x1b[31m\rdemo", "\x1b[A\x1b[A", "\n"):
        stream.write(text)
    assert out.getvalue() == "\rcut \\x1b[31m\\x0ddemo\x1b[A\x1b[A\n"
    SafeStream(out).write("\r\x1b[A")
    assert out.getvalue().endswith("\n\\x0d\\x1b[A")


def test_without_a_terminal_there_is_a_line_now_and_then(capsys):
    now = 0.0
    lines = ProgressLines(1000, "score", "clip", initial=100, clock=lambda: now)
    said = []
    for second in range(1, 1801):  # half an hour, one clip in two seconds
        now = float(second)
        if second % 2 == 0:
            lines.update()
        line = capsys.readouterr().err
        if line:
            said.append((second, line))
    assert said[0] == (FIRST_LINE_SECONDS, "score: 115 of 1000 clips (12%), 30.0/min, about 30 min left\n")
    assert [second for second, _ in said] == [30, 90, 150, 226, 340, 510, 766, 1150, 1726]


def test_no_time_left_is_told_before_a_hundredth_is_done(capsys):
    now = 0.0
    lines = ProgressLines(4200, "decode", "session", clock=lambda: now)
    now = FIRST_LINE_SECONDS
    lines.update()
    assert capsys.readouterr().err == "decode: 1 of 4200 sessions (0%), 2.0/min\n"
    now = 10 * FIRST_LINE_SECONDS
    lines.update(41)
    assert capsys.readouterr().err == "decode: 42 of 4200 sessions (1%), 8.4/min, about 8.2 h left\n"


def test_shares_of_sessions_are_counted_by_whole_ones():
    class Counting:
        done = 0

        def update(self, n):
            assert n > 0
            self.done += n

    counting = Counting()
    shares = Shares(counting)
    for step in range(49):  # seven sessions of seven steps, side by side
        shares.add(1 / 7)
        assert counting.done == (step + 1) // 7
    shares.add(3)
    shares.add(0)
    assert counting.done == 10


def test_a_short_run_without_a_terminal_says_nothing(capsys):
    lines = ProgressLines(3, "score", "clip", clock=lambda: 0.0)
    lines.update(3)
    assert capsys.readouterr().err == ""


def interrupted(code, words, when, tmp_path):
    """Start a command in a session of its own, press Ctrl-C when `when(process, stderr so far)` says so."""
    with open(tmp_path / "err", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=err,
            start_new_session=True,
            cwd=tmp_path,
            text=True,
        )
    deadline = time.monotonic() + 120
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    left, deadline = "?", time.monotonic() + 5  # a helper of multiprocessing ends a moment after its parent
    while left and time.monotonic() < deadline:
        left = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return process.returncode, out, (tmp_path / "err").read_text(encoding="utf-8"), left


def test_ctrl_c_while_worker_processes_speak_the_corpus_is_one_line(tmp_path):
    def spoken():
        return len(list(tmp_path.glob("out/demo/*.wav"))) > 3

    code, out, err, left = interrupted(COMMAND.format("augment"), ["--out", "out"], spoken, tmp_path)
    assert (code, err, left) == (130, f"simulsa-augment: {GOES_ON}", "")
    assert out == "preset recommended: simulsa_ratio=0.1\n"


def test_ctrl_c_during_imports_is_one_line(tmp_path):
    marker = tmp_path / "importing"
    code = f"""
import importlib.abc, sys
class Notice(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "transformers":
            open({str(marker)!r}, "w").close()
sys.meta_path.insert(0, Notice())
{COMMAND.format("evaluate")}"""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text('{"a": {"file_name": "a.jsonl"}}', encoding="utf-8")
    (tmp_path / "data" / "a.jsonl").write_text("", encoding="utf-8")
    words = ["model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset=a", "--out", "out"]
    code, out, err, left = interrupted(code, words, marker.exists, tmp_path)
    assert (code, out, err, left) == (130, "", f"simulsa-eval: {GOES_ON}", "")


SWALLOWED = """
import sys, time
from simulsa_plugin.commands import interruption
from simulsa_plugin.commands.console import run_command
interruption.UNWINDING_SECONDS = 0.5
def work():
    open("working", "w").close()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:  # as a callback of ctypes does
            pass
sys.exit(run_command("prog", work))
"""


def test_ctrl_c_ends_the_process_also_where_a_library_swallows_it(tmp_path):
    code, _, err, _ = interrupted(SWALLOWED, [], (tmp_path / "working").exists, tmp_path)
    assert (code, err) == (130, f"prog: {GOES_ON}")


@pytest.mark.parametrize("made", ["ImportError('torch')", "SystemExit(0)", "OSError(5, 'x')", "UsageError('x')"])
def test_ctrl_c_of_which_a_library_makes_another_error_is_still_ctrl_c(tmp_path, made):
    code = f"""
import sys, os, signal
from simulsa_plugin.commands.console import run_command
from simulsa_plugin.errors import UsageError
def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise {made}
sys.exit(run_command("prog", work))"""
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"prog: {GOES_ON}")


def test_on_a_terminal_there_is_a_bar(tmp_path):
    code = (
        "from simulsa_plugin.terminal import *\nwith standard_streams():\n"
        "    list(tracked(range(3), 3, 'cut \\x1b[1m', 'clip'))"
    )
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    subprocess.run([sys.executable, "-c", code], stderr=follower, check=True)
    os.set_blocking(leader, False)
    with open(leader, "rb", buffering=0, closefd=True) as terminal:
        shown = terminal.readall().decode()
    os.close(follower)
    assert r"cut \x1b[1m: 100%" in shown
    assert "\x1b" not in shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_takes_seconds_is_announced_on_a_terminal_alone(monkeypatch):
    for stream, said in ((io.StringIO(), ""), (Terminal(), "importing \\x1b[1m\n")):
        monkeypatch.setattr(sys, "stderr", stream)
        announce("importing \x1b[1m")
        assert stream.getvalue() == said
    with progress_shown(False):
        announce("again")
    assert stream.getvalue() == said


def test_the_import_of_the_libraries_is_announced_once():
    code = (
        "import sys; sys.stderr.isatty = lambda: True\n"
        "from simulsa_plugin.api.loading import activate_plugin\n"
        "activate_plugin(); import torch; activate_plugin()"
    )
    assert run([sys.executable, "-c", code]).stderr.count("importing PyTorch and LLaMA-Factory\n") == 1


@pytest.mark.parametrize("program", ["augment", "evaluate"])
def test_python_m_runs_the_command_as_well(program):
    done = run([sys.executable, "-m", f"simulsa_plugin.commands.{program}", "--nope"])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "unrecognized arguments: --nope" in done.stderr
