"""Processes that work beside this one and never outlive it.

Each has a pipe of its own with at most one task in it, and there are no threads. So Ctrl-C reaches this process alone,
wherever it is, and one whose parent has gone, by SIGKILL as well, finds the end of its pipe and ends. A pool of
`concurrent.futures` promises neither: Ctrl-C can leave it waiting for a lock, and its processes stay. Those of
`multiprocessing` cannot be kept from Ctrl-C while they start: its resource tracker lets the signal through.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from typing import Any

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from simulsa_plugin.worker_processes import serve
serve(int(sys.argv[1]))
"""


class Task(Future[Any]):
    """A call that some process will make; whoever asks for its result drives all of them."""

    def __init__(self, processes: Processes, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self._processes = processes
        self.call = function, arguments

    def result(self, timeout: float | None = None) -> Any:
        """Return what the function returned, or raise what it raised; `timeout` is not used."""
        self._processes.finish(self)
        return super().result()

    def settle(self, outcome: tuple[Any, Exception | None]) -> None:
        """Store the outcome of the call."""
        value, error = outcome
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)


class Processes(Executor):
    """Makes calls in `count` processes, in the order given; what is sent to them must be picklable.

    They are fresh processes, as a copy of a process with threads may hang. The work of one that dies is done
    by another, or here where none is left.
    """

    def __init__(self, count: int) -> None:
        self._waiting: deque[Task] = deque()
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Task | None] = {}  # None: it is starting
        self._processes: list[subprocess.Popen[bytes]] = []
        with _interrupts_held():  # a process inherits what is held: Ctrl-C never reaches it
            for _ in range(count):
                self._start()

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", _PROGRAM, str(number), json.dumps(sys.path)]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(number,))
            )
        self._busy[ours] = None

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Task:
        """Have a call made; arguments by position only."""
        if named:
            raise TypeError("Processes.submit takes arguments by position only.")
        task = Task(self, function, arguments)
        self._waiting.append(task)
        self._advance(0)
        return task

    def finish(self, task: Task) -> None:
        """Wait until a task is done."""
        while not task.done():
            self._advance(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes at once, whatever they do."""
        for connection in [*self._busy, *self._idle]:
            connection.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _advance(self, timeout: float | None) -> None:
        """Take the answers that are there, or come within `timeout` seconds, and give out what waits."""
        for connection in wait(list(self._busy), timeout) if self._busy else ():
            self._receive(connection)  # type: ignore[arg-type]  # these are all connections
        while self._idle and self._waiting:
            self._send(self._idle.pop(), self._waiting.popleft())
        while self._waiting and not self._busy:
            task = self._waiting.popleft()
            task.settle(_call(*task.call))

    def _receive(self, connection: Connection) -> None:
        task = self._busy.pop(connection)
        try:
            outcome = connection.recv()
        except (EOFError, OSError):
            self._forget(connection, task)
            return
        if task is not None:
            task.settle(outcome)
        self._idle.append(connection)

    def _send(self, connection: Connection, task: Task) -> None:
        try:
            connection.send(task.call)
        except OSError:
            self._forget(connection, task)
        else:
            self._busy[connection] = task

    def _forget(self, connection: Connection, task: Task | None) -> None:
        """Give up a process that has died, perhaps for lack of memory."""
        connection.close()
        if task is not None:
            self._waiting.appendleft(task)


def serve(number: int) -> None:
    """Make the calls that come through a pipe, given by its file descriptor, until it is closed."""
    with contextlib.suppress(EOFError, OSError), Connection(number) as connection:  # its other end is closed
        connection.send(None)  # this process has started
        while True:
            function, arguments = connection.recv()
            connection.send(_call(function, arguments))


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    try:
        return function(*arguments), None
    except Exception as error:  # it is raised again where the result is asked for
        return None, error


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back; it comes when this is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
