"""Seconds, memory and traffic of augmenting a share of a very long dataset whose audio lies in a store.

    python tests/bench/bench_stored_rows.py                      # 2,000,000 rows that name objects
    python tests/bench/bench_stored_rows.py --form tar           # … members of a tar shard
    python tests/bench/bench_stored_rows.py --form table         # a table in the store, read by simulsa_corpus

By hand; needs the extra `test`, whose moto is the store, on the same processors. Eight files of audio are named again
and again. Memory is the peak resident size (VmHWM) of `simulsa-augment`, mapped pages included.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import soundfile
import yaml
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.object_store import object_store

ASK = "<audio>Translate the English speech into German."
WORDS = [f"{first}{second}" for first in "der ein kein mein unser jeder".split() for second in ("", "e", "er", "es")]
FILES = 8


def sound(number: int) -> bytes:
    """Return a WAV of noise, 2 to 5.5 s."""
    samples = np.random.default_rng(number).normal(0, 2000, int(16000 * (2 + number / 2))).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV")
    return file.getvalue()


def put_audio(store, form: str) -> list[str]:
    """Put the audio into the store; return what rows call it."""
    from storage.test_corpora_in_stores import make_shard

    from simulsa_plugin.audio.references import tar_reference

    sounds = [sound(number) for number in range(FILES)]
    if form != "tar":
        for number, data in enumerate(sounds):
            store.put(f"set/{number}.wav", data)
        return [f"{number}.wav" if form == "table" else f"s3://corpus/set/{number}.wav" for number in range(FILES)]
    store.put("set/0.tar", make_shard((f"{number}.wav", data) for number, data in enumerate(sounds)))
    names, start = [], 0
    for number, data in enumerate(sounds):
        names.append(tar_reference(f"{number}.wav", "s3://corpus/set/0.tar", start + 512, start + 512 + len(data)))
        start += 512 + -(-len(data) // 512) * 512
    return names


def write_rows(store, folder: Path, rows: int, form: str) -> dict:
    """Write the rows; return the keys of a recipe that reads them."""
    names, drawn = put_audio(store, form), random.Random(1)
    texts = (" ".join(drawn.choice(WORDS) for _ in range(drawn.randint(6, 18))) for _ in range(rows))
    if form == "table":
        table = pyarrow.table({"audio": [names[row % FILES] for row in range(rows)], "translation": list(texts)})
        parquet.write_table(table, folder / "train.parquet")
        store.put("set/train.parquet", (folder / "train.parquet").read_bytes())
        corpus = {"simulsa_corpus": "table", "simulsa_corpus_dir": "s3://corpus/set/train.parquet"}
        return corpus | {"simulsa_target_language": "de", "simulsa_source_language": "en", "dataset": "big"}
    with (folder / "big.jsonl").open("w", encoding="utf-8") as lines:
        for row, text in enumerate(texts):
            turns = [{"role": "user", "content": ASK}, {"role": "assistant", "content": text}]
            lines.write(json.dumps({"messages": turns, "audios": [names[row % FILES]]}) + "\n")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "audios": "audios"}
    entry = {"file_name": "big.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"big": entry}), encoding="utf-8")
    return {"dataset": "big", "dataset_dir": str(folder)}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--ratio", type=float, default=0.001)
    parser.add_argument("--form", choices=("objects", "tar", "table"), default="objects")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, object_store() as store:
        folder = Path(place)
        recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "simulsa_ratio": options.ratio}
        recipe |= write_rows(store, folder, options.rows, options.form)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        store.requests.clear()
        start = time.monotonic()
        command = [sys.executable, "-m", "simulsa_plugin.commands.augment", folder / "recipe.yaml"]
        environment = {**os.environ, **store.environment, "XDG_CACHE_HOME": place, "HF_DATASETS_CACHE": f"{place}/d"}
        subprocess.run([*command, "--out", "s3://corpus/out"], env=environment, check=True)
        seconds, usage = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        read = [sent for method, path, sent in store.requests if method == "GET" and "/set/" in path]
        print(
            f"{options.form}: {options.rows} rows, ratio {options.ratio}: {seconds:.0f} s, "
            f"{usage.ru_utime + usage.ru_stime:.0f} s of processor time, peak {usage.ru_maxrss / 1024:.0f} MB; "
            f"{len(read)} reads of the corpus, {sum(read) / 1e6:.0f} MB; load average {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
