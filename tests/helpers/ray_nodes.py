"""A Ray cluster of several nodes on this machine: real raylets, started by a process of its own.

Ray opens sockets that pytest-socket would not let it, and leaves threads behind.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

QUICK_DETECTION = {  # of a node that has died
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
WAIT_SECONDS = 120
TESTS = Path(__file__).parents[1]


class RayNodes:
    """A head without processors, and nodes of one processor each; `kill_node` and `add_node` change their number."""

    def __init__(self, count, temporary, **system):
        # Sockets lie below the temporary folder, and their paths have at most 107 characters.
        settings = {"RAY_TMPDIR": str(temporary), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        settings["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.ray_nodes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | settings,
        )  # fmt: skip
        self.address = self._ask(f"start {json.dumps(QUICK_DETECTION | system, separators=(',', ':'))}")
        for _ in range(count):
            self.add_node()

    def _ask(self, word):
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer, f"the cluster's process has ended with {self._process.poll()}"
        return answer

    def add_node(self):
        """Start another node."""
        self._ask("add")

    def kill_node_of(self, worker):
        """Kill the raylet that started a worker, and so all workers of its node."""
        (raylet,) = (raylet for raylet, workers in self.workers().items() if worker in workers)
        os.kill(raylet, signal.SIGKILL)
        self._ask(f"forget {raylet}")

    def kill_head(self):
        """Kill the process that holds the cluster together."""
        for process in children(self._process.pid):
            if "gcs_server" in name_of(process):
                os.kill(process, signal.SIGKILL)

    def kill(self):
        """Kill all processes of the cluster at once, as `ray stop --force` does."""
        for process in children(self._process.pid):
            os.kill(process, signal.SIGKILL)

    def workers(self):
        """Process numbers of our workers, by the raylet that started them."""
        raylets = [int(one) for one in self._ask("raylets").split(",")]
        return {
            raylet: [one for one in children(raylet) if name_of(one).startswith("ray::Worker")] for raylet in raylets
        }

    def computing(self):
        """A worker that computes now, as Ray names its process; None where there is none."""
        found = itertools.chain(*self.workers().values())
        return next((worker for worker in found if name_of(worker).startswith("ray::Worker.call")), None)

    def close(self):
        """End everything."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(WAIT_SECONDS)


def processes():
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def children(parent):
    found = []
    for process in processes():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(process)
    return found


def name_of(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def wait_for(condition, what):
    """Wait until `condition()` is true, and return what it gives."""
    start = time.monotonic()
    while time.monotonic() - start < WAIT_SECONDS:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {WAIT_SECONDS} s for {what}")


def serve():
    """Do what stdin says; end with it."""
    from ray.cluster_utils import Cluster

    options = {"object_store_memory": 80 << 20}
    cluster, nodes = None, {}
    for line in sys.stdin:
        match line.split():
            case ["start", system]:
                head = {**options, "num_cpus": 0, "include_dashboard": False, "_system_config": json.loads(system)}
                cluster = Cluster(initialize_head=True, head_node_args=head)
                answer = cluster.address
            case ["add"]:
                node = cluster.add_node(num_cpus=1, **options)
                nodes[raylet_of(node)] = node
                answer = "added"
            case ["forget", raylet]:
                cluster.remove_node(nodes.pop(int(raylet)), allow_graceful=False)
                answer = "forgotten"
            case ["raylets"]:
                answer = ",".join(map(str, nodes))
        print(answer, flush=True)
    if cluster is not None:
        cluster.shutdown()


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


if __name__ == "__main__":
    serve()
