"""What the plugin adds to `import torch` in every process. By hand: python tests/bench/bench_autoload.py"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 20
TIMED = """
import importlib.metadata, inspect, sys, time  # torch has imported these by then
start = time.perf_counter()
from simulsa_plugin.llamafactory.plugin.autoload import activate
activate()
print(time.perf_counter() - start)
"""


def fresh_interpreter_seconds(bytecode_folder: str) -> float:
    """Import and activation in an interpreter of its own."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode_folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", TIMED]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the first run, which compiles, then median and worst of 20 that find the bytecode."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = fresh_interpreter_seconds(folder)
        warm = [fresh_interpreter_seconds(folder) for _ in range(RUNS)]
    print(f"first ever:  {first * 1e3:.3f} ms")
    print(f"warm:        median {statistics.median(warm) * 1e3:.3f} ms, worst of {RUNS} {max(warm) * 1e3:.3f} ms")
    from simulsa_plugin.llamafactory.plugin.autoload import activate

    start = time.perf_counter()
    for _ in range(1000):
        activate()
    print(f"called again: {(time.perf_counter() - start) * 1e3:.3f} µs")


if __name__ == "__main__":
    main()
