"""Processes beside this one: the same results, none left behind by Ctrl-C, SIGTERM or SIGKILL, and no hang."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import PATIENCE_SECONDS, wait_until

from simulsa_plugin.worker_processes import Processes

DATA = Path(__file__).parents[1] / "data" / "latency"


def double(number):
    return 2 * number


def fail(number):
    raise ValueError(f"{number} is too much")


def die_with(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"


def test_calls_are_answered_in_any_order_and_errors_are_raised_where_they_are_asked_for():
    with Processes(2) as processes:
        tasks = [processes.submit(double, number) for number in range(20)]
        failing = processes.submit(fail, 7)
        assert [task.result() for task in reversed(tasks)] == [2 * number for number in reversed(range(20))]
        with pytest.raises(ValueError, match="7 is too much"):
            failing.result()
        big = processes.submit(len, "x" * 10**7)  # more than a pipe holds
        assert big.result() == 10**7


def test_what_dead_processes_had_to_do_is_done_here():
    with Processes(2) as processes:
        tasks = [processes.submit(double, 1), processes.submit(die_with, os.getpid()), processes.submit(double, 2)]
        assert [task.result() for task in tasks] == [2, "here", 4]


@pytest.fixture(scope="module")
def long_log(tmp_path_factory):
    """A log that takes a while."""
    path = tmp_path_factory.mktemp("long") / "instances.log"
    lines = (DATA / "word_system2.instances.log").read_bytes()
    path.write_bytes(lines * (40 * 2**20 // len(lines)))
    return path


def session(number):
    """Processes of a session that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def has_worked(pid, ticks):
    """Whether a process beside the first of its session has computed for `ticks` hundredths of a second."""
    for other in session(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()
            if other != pid and int(fields[11]) + int(fields[12]) >= ticks:
                return True
    return False


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="no other processes on one core")
@pytest.mark.parametrize("ticks", [0, 20], ids=["they start", "they count"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_long_log_that_is_stopped_ends_at_once_and_leaves_no_process(long_log, number, ticks):
    program = Path(sys.executable).parent / "simulsa-eval"
    with subprocess.Popen(
        [program, "score", long_log], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_until(lambda: has_worked(process.pid, ticks))
        assert process.poll() is None  # it is still at work
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to all
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        wait_until(lambda: not session(process.pid))
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert out == ""
    lines = err.splitlines()
    assert [line.startswith("simulsa-eval: interrupted") for line in lines] == [True] * (number == signal.SIGINT), err
