"""Runs that are really killed (SIGKILL): a server that imports and loads everything once forks a process for each.

A test file that uses this is a program as well: as one it calls `serve`, and its tests talk to that through `Server`.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from helpers.files import tree

TESTS = Path(__file__).resolve().parents[1]
MOST_RUNS = 400  # far more than are ever needed: a broken run must not go on for ever
# Events of the interpreter that come before something changes on the disk.
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "fcntl.flock"}


def serve(work):
    """Answer requests on standard input, one JSON object a line, until it ends; `work(request, out)` is a run."""
    for line in sys.stdin:
        print(json.dumps(run_once(json.loads(line), work)), flush=True)


def run_once(request, work):
    """Fork one run; kill it after `seconds`, or before its `change`-th change of the disk."""
    started, ready = os.pipe()
    child = os.fork()
    if not child:
        os.close(started)
        os._exit(run_in_child(request, work, ready))
    os.close(ready)
    os.read(started, 1)
    begin, handle = time.monotonic(), os.pidfd_open(child)
    if not select.select([handle], [], [], request.get("seconds"))[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    os.close(started)
    return {"status": status, "seconds": time.monotonic() - begin}


def run_in_child(request, work, ready):
    try:
        if "change" in request:
            sys.addaudithook(killer(request["change"], request["out"]))
        os.write(ready, b".")
        work(request, Path(request["out"]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def killer(change, out):
    """An audit hook that kills its process before the `change`-th change of the disk."""
    seen = 0

    def hook(event, args):
        nonlocal seen
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return  # to read, or to put on the disk what is there
        if event in CHANGES and (isinstance(args[0], int) or os.fsdecode(args[0]).startswith(out)):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


class Server:
    """The server, as the tests ask it: the program `script` with its arguments, whose runs write into `out`."""

    def __init__(self, script, arguments, out):
        self.out = out
        paths = [str(TESTS), *sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
        self.log = out.with_name(f"server{id(self)}.log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **request):
        self.process.stdin.write(json.dumps({"out": str(self.out), **request}) + "\n")
        self.process.stdin.flush()

    def answer(self):
        answer = self.process.stdout.readline()
        self.log.seek(0)
        assert answer, self.log.read()
        answer = json.loads(answer)
        assert answer["status"] in (0, -signal.SIGKILL), self.log.read()
        return answer

    def run(self, **request):
        self.ask(**request)
        return self.answer()

    def undisturbed(self):
        """(every file, seconds) of a run that nothing stops; its folder is out of the way afterwards."""
        trees = []
        for _ in range(2):  # the first one reads the programs from the disk
            answer = self.run()
            assert answer["status"] == 0
            trees.append(tree(self.out))
            shutil.rmtree(self.out)
        assert trees[0] == trees[1]
        return trees[1], answer["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
