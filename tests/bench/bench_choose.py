"""Seconds and memory of choosing 1 % of a very long dataset, phase by phase of a whole `simulsa-augment`.

    python tests/bench/bench_choose.py                       # 1,000,000 rows of sharegpt about eight files of audio
    python tests/bench/bench_choose.py --form alpaca --relative
    python tests/bench/bench_choose.py --dry-run             # chooses and cuts, and stops there

By hand. Every run is a process of its own with an empty cache of `datasets`. Memory is the peak resident size (VmHWM),
of which pages of mapped files are a part that the kernel may drop.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ASK = "<audio>Translate the English speech into German."
WORDS = [f"{first}{second}" for first in "der ein kein mein unser jeder".split() for second in ("", "e", "er", "es")]


def write_dataset(folder: Path, rows: int, form: str, *, relative: bool, broken: bool) -> None:
    """Write `big.jsonl` of `rows` rows about eight files of audio, and dataset_info.json."""
    from simulsa_plugin.audio.samples import SAMPLE_RATE, write_wav

    drawn, noise = random.Random(1), np.random.default_rng(1)
    for number in range(8):
        samples = noise.normal(0, 2000, int(SAMPLE_RATE * (2 + number / 2))).astype(np.int16)
        write_wav(folder / f"{number}.wav", samples)
    names = [f"{number}.wav" if relative else str(folder / f"{number}.wav") for number in range(8)]
    with (folder / "big.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(rows):
            text = " ".join(drawn.choice(WORDS) for _ in range(drawn.randint(6, 18)))
            audio = "gone.wav" if broken and number % 100 == 0 else names[number % 8]
            lines.write(json.dumps(_row(form, text, audio)) + "\n")
    alpaca = {"prompt": "instruction", "query": "input", "response": "output"}
    columns = {"audios": "audios"} | ({"messages": "messages"} if form == "sharegpt" else alpaca)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "big.jsonl", "formatting": form, "columns": columns}
    entry |= {"tags": tags} if form == "sharegpt" else {}
    (folder / "dataset_info.json").write_text(json.dumps({"big": entry}), encoding="utf-8")


def _row(form: str, text: str, audio: str) -> dict:
    if form == "alpaca":
        return {"instruction": ASK, "input": "", "output": text, "audios": [audio]}
    return {"messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": text}], "audios": [audio]}


def main() -> None:
    """Write the dataset and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ratio", type=float, default=0.01)
    parser.add_argument("--form", choices=("sharegpt", "alpaca"), default="sharegpt")
    parser.add_argument("--relative", action="store_true", help="relative paths: the offline rows are rewritten")
    parser.add_argument("--broken", action="store_true", help="each hundredth row has no audio: every row is looked at")
    parser.add_argument("--dry-run", action="store_true", help="stop when all rows are chosen and cut")
    parser.add_argument("--again", action="store_true", help="run a second time, with what the first has cached")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_dataset(folder, options.rows, options.form, relative=options.relative, broken=options.broken)
        size = (folder / "big.jsonl").stat().st_size / 1e6
        print(f"{options.rows} rows ({options.form}, {size:.0f} MB); load average {os.getloadavg()[0]:.1f}")
        print("   clock, processor time, peak memory, of it private now:")
        words = [
            "model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset=big", f"dataset_dir={folder}",
            f"simulsa_ratio={options.ratio}", "--out", str(folder / "out"), *(["--dry-run"] if options.dry_run else []),
        ]  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("phases.py")), *words]
        for _ in range(2 if options.again else 1):
            subprocess.run(command, env=os.environ | {"HF_DATASETS_CACHE": str(folder / "cache")}, check=True)


if __name__ == "__main__":
    main()
