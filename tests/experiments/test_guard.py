"""Commands that experiments run end with their runner, and all that they have started too. Processes are real."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import PATIENCE_SECONDS, wait_until

from simulsa_plugin.experiments.guard import run_guarded

REPOSITORY = Path(__file__).parents[2]
# A training as torchrun makes it: a launcher, and a worker in a session of its own, and one whose launcher has gone.
TRAINING = """#!{python}
import os, subprocess, sys, time
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
worker = subprocess.Popen(SLEEP, start_new_session=True)
LAUNCHER = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=-3).pid)"
adrift = subprocess.run([sys.executable, "-c", LAUNCHER, *SLEEP], stdout=subprocess.PIPE, text=True)
with open(sys.argv[1] + ".part", "w") as file:
    print(os.getpid(), worker.pid, adrift.stdout, file=file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""
RUNNER = """
import sys
from pathlib import Path
from simulsa_plugin.experiments import runs
runs.BIN = Path(sys.argv[1])
runs._run_command(Path(sys.argv[1]), "train", sys.argv[2])
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "train").write_text(TRAINING.format(python=sys.executable))
    (tmp_path / "train").chmod(0o755)
    return tmp_path


def is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(place):
    runners = []
    yield lambda: runners.append(begin(place)) or runners[-1]
    for runner in [runner for runner, _ in runners]:
        runner.kill()
        runner.wait()


def begin(place, name="pids"):
    """A runner whose training runs, and the numbers of the training's processes."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(place), str(place / name)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until((place / name).exists)
    return runner, [int(number) for number in (place / name).read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training_and_its_workers_end_with_a_runner_that_is_killed(start, number):
    runner, processes = start()
    assert len(processes) == 3
    assert all(map(is_alive, processes))
    runner.send_signal(number)
    runner.wait(PATIENCE_SECONDS)
    wait_until(lambda: not any(map(is_alive, processes)))


def test_ctrl_c_at_a_terminal_reaches_the_whole_group_and_ends_it(start):
    runner, processes = start()
    os.killpg(runner.pid, signal.SIGINT)
    runner.wait(PATIENCE_SECONDS)
    wait_until(lambda: not any(map(is_alive, processes)))


def test_a_training_ends_with_its_guard(start):
    runner, processes = start()
    guard = int(Path(f"/proc/{processes[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    runner.wait(PATIENCE_SECONDS)
    wait_until(lambda: not is_alive(processes[0]))
    for left in processes[1:]:
        os.kill(left, signal.SIGKILL)


def test_who_starts_again_waits_for_what_is_left(start, place):
    runner, processes = start()
    (place / "next").write_text(
        f"#!/bin/sh\nfor pid in {' '.join(map(str, processes))}; do\n"
        "case $(cat /proc/$pid/stat 2>&1) in *') Z '*|*'No such'*) ;; *) exit 9;; esac; done\n"
    )
    (place / "next").chmod(0o755)
    os.kill(runner.pid, signal.SIGKILL)
    with (place / "log").open("w") as log:
        assert run_guarded([str(place / "next")], place, log) == 0
    runner.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143)])
def test_the_exit_code_is_the_commands(tmp_path, script, code):
    with (tmp_path / "log").open("w") as log:
        # `cat` would wait, were there any input
        assert run_guarded(["/bin/sh", "-c", f"cat; echo said; {script}"], tmp_path, log) == code
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_command_that_is_not_there_is_one_line(tmp_path):
    with (tmp_path / "log").open("w") as log:
        assert run_guarded([str(tmp_path / "gone")], tmp_path, log) == 127
    assert (tmp_path / "log").read_text() == f"Cannot run {tmp_path / 'gone'}: No such file or directory.\n"
