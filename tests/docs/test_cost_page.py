"""docs/cost.md has what its command prints."""

import json
import subprocess
import sys

from documents import REPOSITORY

SCRIPT = REPOSITORY / "docs" / "estimate_cost.py"


def printed(*options):
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_table_is_what_the_command_prints():
    assert printed() in (REPOSITORY / "docs" / "cost.md").read_text(encoding="utf-8")


def test_measured_rates_take_the_place_of_assumed_ones(tmp_path):
    bench = tmp_path / "gpu.json"
    measured = {"flop_per_second": 2e12, "bytes_per_second": 5e11, "flop_share": 0.25, "bandwidth_share": 0.5}
    bench.write_text(json.dumps({"machine": measured}), encoding="utf-8")
    assert "GPUs of 2 TFLOP/s and 500 GB/s, of which 25% and 50% are reached" in printed("--bench", str(bench))
