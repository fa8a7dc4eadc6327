"""Seconds that `simulsa-eval score`, SimulEval and OmniSTEval take for the same log, as commands, side by side.

    python tests/bench/bench_score.py                      # 10,000 instances, three tools
    python tests/bench/bench_score.py --memory 1000000     # the memory of ours on a long log

SimulEval computes BLEU and its latencies, OmniSTEval and ours chrF and YAAL as well, ours also ATD, offsets, shares and
the computation-aware values; SimulEval is asked for those with --computation-aware.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.other_tools import unpack
from rounds import report, time_call, time_in_turns

WORDS = [f"{first}{second}" for first in "der ein kein mein unser jeder".split() for second in ("", "e", "er", "es")]


def write_log(path: Path, count: int) -> None:
    """A log of `count` instances of about twelve words, with elapsed times."""
    drawn = random.Random(1)
    with path.open("w", encoding="utf-8") as log:
        for index in range(count):
            words = [drawn.choice(WORDS) for _ in range(drawn.randint(6, 18))]
            said = [word if drawn.random() < 0.8 else drawn.choice(WORDS) for word in words]
            length = 350.0 * len(words)
            delays = [min(500.0 * (i // 2 + 1), length) for i in range(len(said))]
            elapsed = [delay + 40.0 * (i + 1) for i, delay in enumerate(delays)]
            log.write(
                json.dumps(
                    {
                        "index": index,
                        "prediction": " ".join(said),
                        "delays": delays,
                        "elapsed": elapsed,
                        "prediction_length": len(said),
                        "reference": " ".join(words),
                        "source": f"{index}.wav",
                        "source_length": length,
                    }
                )
                + "\n"
            )


def run(command: list[str], packages: Path | None = None) -> None:
    """Run a whole command."""
    environment = os.environ | ({} if packages is None else {"PYTHONPATH": str(packages), "PYTHONWARNINGS": "ignore"})
    subprocess.run(command, env=environment, check=True, capture_output=True)


def compare_tools(work: Path, count: int, times: int) -> None:
    """Print processor time and wall time of each tool, taken in turns."""
    log, references = work / "instances.log", work / "refs.txt"
    write_log(log, count)
    references.write_text("".join(json.loads(line)["reference"] + "\n" for line in log.open(encoding="utf-8")))
    python = [sys.executable, "-m"]
    ours = [sys.executable, "-c", "from simulsa_plugin.commands.evaluate import main; main()", "score", str(log)]
    commands = {
        "simulsa-eval": (ours, None),
        "simulsa-eval --intervals": ([*ours, "--intervals"], None),
        "SimulEval 1.1.4": (
            [
                *python,
                "simuleval.cli",
                "--score-only",
                "--output",
                str(work),
                "--source-type",
                "speech",
                "--target-type",
                "text",
                "--quality-metrics",
                "BLEU",
                "--computation-aware",
                "--latency-metrics",
                "AL",
                "LAAL",
                "AP",
                "DAL",
                "ATD",
                "StartOffset",
                "EndOffset",
            ],
            unpack("simuleval", work / "simuleval"),
        ),
        "OmniSTEval 0.1.10": (
            [
                *python,
                "omnisteval.cli",
                "shortform",
                "--hypothesis_file",
                str(log),
                "--ref_sentences_file",
                str(references),
                "--word_level",
            ],
            unpack("omnisteval", work / "omnisteval"),
        ),
    }
    calls = {name: functools.partial(run, *command) for name, command in commands.items()}
    print(f"{count} instances")
    for line in report(time_in_turns(calls, times), "simulsa-eval"):
        print(line)


def measure_memory(work: Path, count: int) -> None:
    """Print the largest resident size of a scoring."""
    log = work / "long.log"
    write_log(log, count)
    code = (
        "import resource, sys; from simulsa_plugin.commands.evaluate import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command, printed = [sys.executable, "-c", code, "score", str(log)], []
    timing = time_call(
        lambda: printed.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    )
    print(
        f"{count} instances, {log.stat().st_size / 1e6:.0f} MB: {timing.wall:.0f} s, {timing.cpu:.0f} s of processor "
        f"time, at most {int(printed[0].split()[-1]) / 1024:.0f} MB of memory; load average {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=10000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--memory", type=int, help="instances of a log whose scoring's memory is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if options.memory:
            measure_memory(Path(work), options.memory)
        else:
            compare_tools(Path(work), options.instances, options.times)


if __name__ == "__main__":
    main()
