"""Seconds and memory of deciding again over 100,000 rows. By hand: python tests/bench/bench_from_scores.py"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, TOKENS = 100_000, 30
RULES = ("threshold", "greedy", "ratio", "lookback")
# Peak memory of a process counts that of the one it was forked from: a small starter in between forgets this one's.
STARTER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def write_scores(path: Path, rows: int = ROWS) -> None:
    """Rows as a run writes them, with all scores, beside the manifest that knows V."""
    rng = random.Random(0)
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as handle:
        for number in range(rows):
            handle.write(json.dumps(score_row(rng, number), ensure_ascii=False) + "\n")
    settings = {"simulsa_samples": rows, "simulsa_seed": 42, "simulsa_extra_scores": ["full", "lookback"]}
    manifest = {"dataset": "big", "rows": 2 * rows, "output_width": 151_646, "settings": settings}
    (path.parent / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def score_row(rng: random.Random, number: int) -> dict:
    """One row: words of four letters, each a token, likely at first and unlikely later."""
    logprobs = [-rng.expovariate(1.0) * (1 + token / 3) for token in range(TOKENS)]
    return {
        "id": f"big-{number:08d}-0",
        "audio": f"/speech/{number:08d}.wav",
        "clip": f"big_simulsa/clips/big-{number:08d}-0.wav",
        "duration_seconds": 6.0,
        "cut_seconds": 0.5 + rng.random() * 4.5,
        "silence_seconds": [0.0, 0.0],
        "messages": [{"role": "user", "content": "<audio>Translate the English speech into German."}],
        "reference": " ".join(["wort"] * TOKENS),
        "token_ids": [7] * TOKENS,
        "char_ends": [4 + 5 * token for token in range(TOKENS)],
        "logprobs": logprobs,
        "greedy": [7 if logprob > -3 else 8 for logprob in logprobs],
        "margins": [logprob + 3 for logprob in logprobs],
        "eos_logprob": -1.0,
        "unstable_prefixes": [],
        "logprobs_full": [logprob / 2 for logprob in logprobs],
        "logprobs_lookback": [logprob * 2 for logprob in logprobs],
        "lookback_ms": 200.0,
    }


def decide(scores: Path, rule: str, out: Path) -> tuple[float, float]:
    """Seconds, and MiB of memory at most, of the command in a process of its own."""
    program = Path(sys.executable).parent / "simulsa-augment"
    words = ["--from-scores", str(scores), f"simulsa_acceptance={rule}", "--out", str(out)]
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", STARTER, str(program), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"simulsa-augment ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Print seconds and peak memory of every rule, and of a hundredth of the rows for comparison."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = (Path(folder) / name / "big_simulsa" / "scores.jsonl" for name in ("small", "large"))
        write_scores(small, ROWS // 100)
        write_scores(large)
        size = large.stat().st_size / 1e6
        seconds, mebibytes = decide(small, "threshold", Path(folder) / "few")
        print(f"{ROWS // 100:>7} rows, threshold: {seconds:6.2f} s, {mebibytes:6.1f} MiB")
        for rule in RULES:
            seconds, mebibytes = decide(large, rule, Path(folder) / "many")
            print(f"{ROWS:>7} rows ({size:.0f} MB), {rule}: {seconds:6.2f} s, {mebibytes:6.1f} MiB")


if __name__ == "__main__":
    main()
