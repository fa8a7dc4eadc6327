"""Scoring of clips against the bare forward passes of the same batches; and a whole `simulsa-augment`, phase by phase.

    python tests/bench/bench_augment.py                    # the packaged model, and a larger one with random weights
    python tests/bench/bench_augment.py --clips 256 --models larger --device cuda
    python tests/bench/bench_augment.py --phases           # a whole run, phase by phase
    python tests/bench/bench_augment.py --cutting          # with audio read ahead by threads, and without

By hand. "score" is what a run does once its clips are cut: read, render, features, forward passes, rows to the journal.
"forward" is the model alone on batches that are collated beforehand. Both are timed in turns. "elsewhere" stands for a
model of 7 B on a GPU: the packaged model, whose forward passes wait for 0.14 s each.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import torch
from rounds import report, time_in_turns

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.augmentation import clips
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import CutSampler
from simulsa_plugin.augmentation.manifest import check_same_configuration, describe_augmentation
from simulsa_plugin.augmentation.method.speculation import make_batches, score_cuts
from simulsa_plugin.augmentation.registration import open_layout
from simulsa_plugin.demo.corpus import OFFLINE_NAME, write_demo_corpus
from simulsa_plugin.files.atomic import make_own_folder
from simulsa_plugin.llamafactory.data.dataset import load_datasets
from simulsa_plugin.llamafactory.data.rendering import load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.reference_scoring import answer_positions

DEMO = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
MODELS = ("packaged", "larger", "elsewhere")
SECONDS_ELSEWHERE = 0.14  # of a batch of 4096 tokens: 57 TFLOP of a model of 7 B at 400 TFLOP/s
RUNS = itertools.count()


def main():
    """Measure each model, or the phases of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--phases", action="store_true")
    parser.add_argument("--cutting", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo_corpus(folder / "data", rows=options.clips, test_rows=0)
        if options.phases or options.cutting:
            (phases if options.phases else cutting)(folder, options)
            return
        for kind in options.models:
            compare(kind, folder, options)


def compare(kind, folder, options):
    """Time the scoring of all clips and the forward passes of the same batches, in turns."""
    model = larger_model(options.device) if kind == "larger" else load_backbone(inference_arguments(DEMO))
    if kind == "elsewhere":
        compute_elsewhere(model)
    (dataset,) = load_datasets(inference_arguments(DEMO | {"dataset_dir": str(folder / "data")}), [OFFLINE_NAME])
    settings = AugmentSettings(ratio=1.0)
    cuts, layout = cut(dataset, model, settings, folder / kind)
    batches = make_batches(cuts, settings)
    ready = [collated(batch, model) for batch in batches]
    parameters = sum(weight.numel() for weight in model.model.parameters())
    print(f"{kind}: {parameters / 1e6:.1f} M parameters, {model.hardware()}; {len(cuts)} clips, {len(batches)} batches")
    calls = {
        "forward": functools.partial(forward, ready, model),
        "score": functools.partial(score, cuts, model, settings, layout),
    }
    timings = time_in_turns(calls, options.rounds)
    for line in report(timings, "forward"):
        print(line)
    best = min(one.wall for one in timings["score"])
    print(f"score: {len(cuts) / best:.0f} clips/s in the best round", flush=True)


def cut(dataset, model, settings, out):
    """Cut all rows into `out`, as a run does before it scores."""
    layout = open_layout(out, dataset.name)
    make_own_folder(layout.clips)
    configuration = describe_augmentation(dataset, model.describe(), settings, model.output_width)
    check_same_configuration(layout, configuration, alone=True)
    return CutSampler(dataset, model, settings, layout).sample()[0], layout


def collated(batch, model):
    """Return a batch as the model takes it, and the positions whose logits are needed."""
    waveforms = [read_mono(one.clip) for one in batch]
    rendered = [
        model.render(one.sample.prompt, waveform, one.sample.reference)
        for one, waveform in zip(batch, waveforms, strict=True)
    ]
    rows = [[*one.prompt_ids, *one.content_ids] for one in rendered]
    return model._collate(rows, waveforms, padding_side="right"), answer_positions(rendered)


@torch.inference_mode()
def forward(ready, model):
    """Run the model alone."""
    for batch, positions in ready:
        logits = model._forward(batch, positions)
    if logits.device.type == "cuda":
        torch.cuda.synchronize()


def score(cuts, model, settings, layout):
    """Score all clips into an empty journal."""
    layout.journal.unlink(missing_ok=True)
    score_cuts(cuts, model, settings, layout)


def compute_elsewhere(model):
    """Let the forward passes of a model take as long as a large one's on a GPU, and no processor time."""

    def wait(batch, positions):
        time.sleep(SECONDS_ELSEWHERE)
        return torch.zeros((len(positions[0]), model.output_width))

    model._forward = wait


def larger_model(device):
    """Qwen2-Audio with random weights, wide enough for its products to outweigh Python; the packaged tokenizer."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

    renderer = load_renderer(inference_arguments(DEMO))
    renderer.processor.feature_extractor = WhisperFeatureExtractor(feature_size=128)
    config = Qwen2AudioConfig()
    config.text_config.update({"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408,
                               "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 6})  # fmt: skip
    audio = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    config.audio_config.update(audio)
    config.audio_token_id = renderer.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    with torch.device(device):
        return Backbone(Qwen2AudioForConditionalGeneration(config).eval(), renderer)


def cutting(folder, options):
    """Cut all rows with audio read ahead, and with audio that is read when it is due, in turns, for several forms."""
    model = load_backbone(inference_arguments(DEMO))
    info = folder / "data" / "dataset_info.json"
    for form in ("wav", "flac", "mp3", "a store that answers after 20 ms"):
        if form in ("flac", "mp3"):
            recode(folder / "data", form)
        (dataset,) = load_datasets(inference_arguments(DEMO | {"dataset_dir": str(info.parent)}), [OFFLINE_NAME])
        if form.startswith("a store"):
            clips.read_mono = read_slowly
        calls = {"ahead": clips.map_ahead, "in turn": in_turn}
        calls = {name: functools.partial(cut_with, way, dataset, model, folder) for name, way in calls.items()}
        print(f"{form}, {options.clips} rows")
        for line in report(time_in_turns(calls, options.rounds), "ahead"):
            print(line, flush=True)
        clips.read_mono = read_mono


def read_slowly(audio):
    """Read a file as if it came from elsewhere."""
    time.sleep(0.02)
    return read_mono(audio)


def in_turn(function, items, **_):
    """Do without threads."""
    yield from map(function, items)


def recode(folder, form):
    """Write all audio again in another form, and name it in the rows."""
    for path in (path for path in (folder / OFFLINE_NAME).iterdir() if path.suffix in (".wav", ".flac")):
        samples, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(f".{form}"), samples, rate)
        path.unlink()
    rows = folder / f"{OFFLINE_NAME}.jsonl"
    rows.write_text(re.sub(r"\.(wav|flac)\"", f'.{form}"', rows.read_text(encoding="utf-8")), encoding="utf-8")


def cut_with(map_ahead, dataset, model, folder):
    """Cut all rows into a new folder."""
    before, clips.map_ahead = clips.map_ahead, map_ahead
    out = folder / f"cut-{next(RUNS)}"
    try:
        cut(dataset, model, AugmentSettings(ratio=1.0), out)
    finally:
        clips.map_ahead = before
        shutil.rmtree(out)


def phases(folder, options):
    """Run the command on all rows in a process of its own, which prints a line for each phase."""
    script = Path(__file__).with_name("phases.py")
    words = [
        *(f"{key}={value}" for key, value in DEMO.items()), f"dataset={OFFLINE_NAME}",
        f"dataset_dir={folder / 'data'}", "simulsa_ratio=1.0", "--out", str(folder / "out"),
    ]  # fmt: skip
    print(f"{options.clips} clips, the packaged model", flush=True)
    subprocess.run([sys.executable, str(script), *words], check=True)
    shutil.rmtree(folder / "out")


if __name__ == "__main__":
    main()
