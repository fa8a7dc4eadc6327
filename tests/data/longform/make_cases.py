"""Write cases.json: scores of long recordings computed by OmniSTEval 0.1.10, where it is installed.

pip install omnisteval==0.1.10 && python tests/data/longform/make_cases.py [NUMBER FILE]
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from pathlib import Path

import yaml
from omnisteval.io import load_resegmentation_inputs
from omnisteval.resegment import resegment
from omnisteval.scoring import evaluate_instances

WORDS = "we saw The old house , by sea . and Then it was gone ! ﬁne Ｔag new".split()
LATENCIES = ("YAAL", "AL", "LAAL", "DAL")
NAMES = {"bleu": "BLEU", "chrf": "chrF"}
NAMES |= {f"long_{name.lower()}": f"Long{name}" for name in LATENCIES}
NAMES |= {f"ca_long_{name.lower()}": f"Long{name}_CA" for name in LATENCIES}


def random_case(seed: int) -> dict:
    """Draw talks with segments, and translations that repeat part of the references, late or after the talk."""
    rng = random.Random(seed)
    char = seed % 3 == 0
    recordings = [_random_recording(rng, f"talks/{number}.wav", char) for number in range(rng.randint(1, 3))]
    return {"unit": "char" if char else "word", "recordings": recordings}


def _random_recording(rng: random.Random, name: str, char: bool) -> dict:
    segments, units, delays, elapsed, now, computed = [], [], [], [], 0, 0
    for _ in range(rng.randint(1, 5)):
        words = [rng.choice(WORDS) for _ in range(rng.randint(0, 7))]
        start, now = now, now + rng.randint(8, 40) * 100
        segments.append({"offset": start / 1000, "duration": (now - start) / 1000, "reference": " ".join(words)})
        said = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in words if rng.random() < 0.9]
        text = list(" ".join(said) + (" " if said else "")) if char else said
        for unit in text:
            units.append(unit)
            computed += rng.randint(0, 2) * 10
            delays.append(max([*delays[-1:], start + rng.randint(0, 60) * 100]))
            elapsed.append(delays[-1] + computed)
        now += rng.choice([0, 0, 700])
    if char and units:
        units, delays, elapsed = units[:-1], delays[:-1], elapsed[:-1]  # no space at the end
    text = ("" if char else " ").join(units)
    return {"source": name, "prediction": text, "delays": delays, "elapsed": elapsed, "segments": segments}


def expected(case: dict) -> dict:
    """Return OmniSTEval's segments and scores of a case."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("segments.yaml", "references.txt", "log.jsonl")}
        parts = [(one["source"], part) for one in case["recordings"] for part in one["segments"]]
        entries = [{"wav": name, "offset": part["offset"], "duration": part["duration"]} for name, part in parts]
        Path(files["segments.yaml"]).write_text(yaml.safe_dump(entries))
        Path(files["references.txt"]).write_text("".join(part["reference"] + "\n" for _, part in parts))
        Path(files["log.jsonl"]).write_text("".join(json.dumps(one) + "\n" for one in case["recordings"]))
        char = case["unit"] == "char"
        inputs = load_resegmentation_inputs(
            files["segments.yaml"], None, files["references.txt"], files["log.jsonl"], char_level=char
        )
        instances, rows = resegment(*inputs, char_level=char)
        scores, _, _ = evaluate_instances(instances, bleu_tokenizer="zh" if char else "13a")
    found = {ours: scores[theirs] for theirs, ours in NAMES.items() if theirs in scores}
    return {
        "segments": [[row["prediction"], row.get("emission_cu", [])] for row in rows],
        "scores": {name: None if math.isnan(value) else value for name, value in found.items()},
    }


def usable(case: dict) -> bool:
    """Return whether OmniSTEval scores a case: each recording has a reference word and a unit."""
    return all(one["delays"] and any(part["reference"] for part in one["segments"]) for one in case["recordings"])


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    cases = [case for case in map(random_case, range(10 * number)) if usable(case)][:number]
    lines = ",\n".join(json.dumps(case | expected(case), ensure_ascii=False) for case in cases)
    Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).with_name("cases.json")).write_text(
        f"[\n{lines}\n]\n", encoding="utf-8"
    )
