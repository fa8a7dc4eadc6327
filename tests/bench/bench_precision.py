"""How far results depend on the batch, in float32, bfloat16 and float16: what README and the tolerances rest on.

    python tests/bench/bench_precision.py            # the packaged model on CPU

The packaged model scores the references of spoken clips, and decodes spoken utterances, in batches of 64 and again in
batches of 7. Printed for each number format: the largest and the 99.9th percentile of |Δ log p|, decisions of the
default rule that differ and how many of them were counted as close to the threshold, sessions whose text differs, and
sessions in which any step differs.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.augmentation.method.acceptance import default_threshold
from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus
from simulsa_plugin.llamafactory.data.rendering import load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.model.values import Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

DEMO = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCHES = (64, 7)


def main():
    """Measure every number format and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=5, help="clips of each utterance that are scored")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = corpus(Path(name), options.utterances)
        for dtype in options.dtypes:
            model = in_dtype(DTYPES[dtype])
            print(f"{dtype} ({model.hardware()['device']}, batches of {BATCHES[0]} against {BATCHES[1]})", flush=True)
            print(f"  {scores(model, rows, options)}", flush=True)
            print(f"  {sessions(model, rows)}", flush=True)


def corpus(folder, count):
    """(prompt, waveform, reference) of the embedded test set, spoken anew."""
    write_demo_corpus(folder, rows=0, test_rows=count)
    lines = (folder / f"{TEST_NAME}.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        (Prompt(({"role": "user", "content": row["messages"][0]["content"]},)), read_mono(row["audios"][0]),
         row["messages"][1]["content"])
        for row in map(json.loads, lines)
    ]  # fmt: skip


def in_dtype(dtype):
    """The packaged checkpoint as if it had been saved in another number format."""
    arguments = inference_arguments(DEMO)
    return Backbone(load_backbone(arguments).model.to(dtype), load_renderer(arguments))


def scores(model, rows, options):
    """Log-probabilities of references about clips cut at random."""
    rng = np.random.default_rng(options.seed)
    clips = [
        (model.render(prompt, clip, reference), clip)
        for prompt, waveform, reference in rows
        for share in rng.uniform(0.1, 1.0, options.cuts)
        for clip in [waveform[: max(8000, int(share * len(waveform)))]]
    ]
    one, other = (scored(model, clips, size) for size in BATCHES)
    differences = np.concatenate([np.abs(np.subtract(a, b)) for a, b in zip(one, other, strict=True)])
    bound = math.log(default_threshold(model.output_width))
    decisions = [tuple(next((i for i, p in enumerate(s) if p < bound), len(s)) for s in pair)
                 for pair in zip(one, other, strict=True)]  # fmt: skip
    return (
        f"{len(clips)} clips, {len(differences)} tokens: largest |Δ log p| {differences.max():.2g}, 99.9 % below "
        f"{np.quantile(differences, 0.999):.2g}; {sum(a != b for a, b in decisions)} decisions differ"
    )


def scored(model, clips, size):
    """Log-probabilities of each clip's reference, in batches of `size`."""
    parts = [clips[start : start + size] for start in range(0, len(clips), size)]
    return [one.logprobs for part in parts for one in model.score(*zip(*part, strict=True))]


def sessions(model, rows):
    """Tokens of sessions in five cells."""
    sources = [StreamSource(prompt, waveform) for prompt, waveform, _ in rows]
    cells = [DecodingSetting(Offline(), None), *(DecodingSetting(Rollback(b), k) for k in (500, 1000) for b in (0, 3))]
    one, other = (decode_batched(model, sources, cells, BatchLimits(64, size)) for size in BATCHES)
    pairs = [pair for cell in zip(one, other, strict=True) for pair in zip(*cell, strict=True)]
    texts = sum(a.token_ids != b.token_ids for a, b in pairs)
    steps = sum([s.token_ids for s in a.steps] != [s.token_ids for s in b.steps] for a, b in pairs)
    return f"{len(pairs)} sessions: {texts} end in other tokens, {steps} differ in a step"


if __name__ == "__main__":
    main()
