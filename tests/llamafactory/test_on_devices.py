"""The packaged model on the devices that are here: on the processor always, on GPUs with `pytest -m gpu`.

On one device the numbers of a batch may differ from those alone in the last digits. In float32 no token may; in
bfloat16 few sessions, and log-probabilities by less than the tolerance of docs/gpu_and_slurm.md. `-s` shows what
changes, and how often.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from simulsa_plugin.audio.samples import from_pcm16, to_pcm16
from simulsa_plugin.demo.corpus import iterate_utterances, write_demo_corpus
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.llamafactory.data.rendering import load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.model.values import Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched, decode_timed
from simulsa_plugin.streaming.policies import Confidence, LocalAgreement, Offline, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
ASK = Prompt(({"role": "user", "content": PROMPT},))
SETTINGS = [
    DecodingSetting(Offline(), None),
    DecodingSetting(Rollback(3), 1000),
    DecodingSetting(Confidence(0.9), 1000),
    DecodingSetting(LocalAgreement(2), 1000),
]
LIMITS = BatchLimits(64)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25}  # of log-probabilities
GPU = pytest.mark.gpu
RECIPES = Path(__file__).parents[2] / "recipes"


def gpus(count):
    """A reason to skip a test for so many GPUs."""
    return pytest.mark.skipif(torch.cuda.device_count() < count, reason=f"{count} GPUs are needed")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((device, dtype), id=f"{device}-{dtype}".replace("torch.", ""), marks=[GPU] * (device == "cuda"))
        for device in ("cpu", "cuda")
        for dtype in TOLERANCE
    ],
)
def model(request):
    device, dtype = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("a GPU is needed")
    arguments = inference_arguments(RECIPE)
    return Backbone(load_backbone(arguments).model.to(device, dtype), load_renderer(arguments))


@pytest.fixture(scope="module")
def utterances():
    return [(from_pcm16(to_pcm16(one.waveform)), one.sentence.target_text) for one in iterate_utterances("test", 16)]


def tokens(session):
    return [step.token_ids for step in session.steps]


def compare_sessions(model, found, expected, what):
    """Print how many sessions differ, and in how many steps; none may in float32, and one of ten in bfloat16."""
    pairs = [pair for rows in zip(found, expected, strict=True) for pair in zip(*rows, strict=True)]
    steps = [pair for sessions in pairs for pair in zip(*map(tokens, sessions), strict=True)]
    different = sum(tokens(one) != tokens(other) for one, other in pairs)
    ends = sum(one.token_ids != other.token_ids for one, other in pairs)
    print(
        f"{model.describe()['device']} {model.model.dtype}, {what}: {different} of {len(pairs)} sessions differ, "
        f"{ends} in their last output, {sum(one != other for one, other in steps)} of {len(steps)} steps"
    )
    assert different <= (0 if model.model.dtype == torch.float32 else 0.1 * len(pairs))


def test_batches_decode_as_sessions_alone(model, utterances):
    sources = [StreamSource(ASK, waveform) for waveform, _ in utterances]
    together = decode_batched(model, sources, SETTINGS, LIMITS)
    alone = [[decode_timed(model, source, setting, LIMITS) for source in sources] for setting in SETTINGS]
    compare_sessions(model, together, alone, "batches against one by one")


@pytest.mark.parametrize("batch_size", [64, 1])
def test_static_buffers_decode_as_the_growing_cache(model, utterances, batch_size):
    """On a GPU these are CUDA graphs."""
    sources, limits = [StreamSource(ASK, waveform) for waveform, _ in utterances], BatchLimits(64, batch_size)
    expected = decode_batched(model, sources, SETTINGS, limits)
    on_gpu = model.describe()["device"] == "cuda"
    model.use_static_steps(1e9, captures=on_gpu)
    steps = model.decoder.static
    try:
        found = decode_batched(model, sources, SETTINGS, limits)
    finally:
        model.decoder.static = None
    print(f"{steps.num_captured} of {steps.num_sizes} sizes were captured")
    assert steps.num_sizes > 0
    assert (steps.num_captured > 0) == on_gpu
    compare_sessions(model, found, expected, f"static buffers against the growing cache, batches of {batch_size}")


def test_batches_score_as_references_alone(model, utterances):
    clips = [waveform[: len(waveform) * 2 // 3] for waveform, _ in utterances]
    rendered = [model.render(ASK, clip, text) for clip, (_, text) in zip(clips, utterances, strict=True)]
    together = model.score(rendered, clips)
    alone = [model.score([one], [clip])[0] for one, clip in zip(rendered, clips, strict=True)]
    differences = np.concatenate(
        [np.abs(np.subtract(one.logprobs, other.logprobs)) for one, other in zip(together, alone, strict=True)]
    )
    greedy = sum(one.greedy != other.greedy for one, other in zip(together, alone, strict=True))
    print(
        f"{model.describe()['device']} {model.model.dtype}: log p differs by {differences.max():.2g} at most, in 99 % "
        f"of {len(differences)} tokens by less than {np.quantile(differences, 0.99):.2g}; in {greedy} of {len(clips)} "
        "clips another token is the most probable one"
    )
    assert differences.max() < TOLERANCE[model.model.dtype]


@GPU
@gpus(1)
def test_qwen2_audio_decodes_with_cuda_graphs_by_default(utterances):
    loaded = load_backbone(inference_arguments(RECIPE))
    assert loaded.use_cuda_graphs(1e9)
    decode_batched(loaded, [StreamSource(ASK, waveform) for waveform, _ in utterances], SETTINGS, LIMITS)
    assert loaded.decoder.static.num_captured > 0


@pytest.fixture
def filled_gpu():
    """Fill the memory of a GPU but for some bytes; it is freed at the end."""
    filler = []

    def fill(left):
        torch.cuda.empty_cache()
        filler.append(torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda"))

    yield fill
    filler.clear()
    torch.cuda.empty_cache()


@GPU
@gpus(1)
def test_without_memory_for_graphs_a_batch_is_decoded_without_them(utterances, filled_gpu, capfd):
    one = Backbone(
        load_backbone(inference_arguments(RECIPE)).model.to("cuda"), load_renderer(inference_arguments(RECIPE))
    )
    sources = [StreamSource(ASK, waveform) for waveform, _ in utterances]
    expected = decode_batched(one, sources, SETTINGS, LIMITS)
    one.use_static_steps(1e12, captures=True)
    filled_gpu(left=48 * 2**20)
    found = decode_batched(one, sources, SETTINGS, BatchLimits(64, 64, 1e12))
    print("graphs were given up" if one.decoder.static is None else "graphs found enough memory")
    compare_sessions(one, found, expected, "on a GPU that is full")
    if one.decoder.static is None:
        assert "decoding goes on without CUDA graphs" in capfd.readouterr().err


@GPU
@gpus(1)
def test_a_batch_that_does_not_fit_into_a_gpu_is_decoded_in_halves(utterances):
    arguments = inference_arguments(RECIPE)
    one = Backbone(load_backbone(arguments).model.to("cuda"), load_renderer(arguments))
    sources = [StreamSource(ASK, waveform) for waveform, _ in utterances] * 32
    expected = decode_batched(one, sources[: len(utterances)], SETTINGS, LIMITS)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * 2**20) / total)
    try:
        found = decode_batched(one, sources, SETTINGS, BatchLimits(64, 4096, 1e12))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert one._split_notified
    for some, others in zip(found, expected, strict=True):
        assert [tokens(session) for session in some[: len(utterances)]] == [tokens(session) for session in others]


@GPU
@gpus(1)
def test_a_recipe_is_placed_on_a_gpu():
    loaded = load_backbone(inference_arguments(RECIPE))
    assert loaded.describe()["device"] == "cuda"
    assert {parameter.device.index for parameter in loaded.model.parameters()} == {0}


@GPU
@gpus(2)
def test_a_model_that_fits_on_one_of_several_gpus_is_placed_there_alone(capfd):
    loaded = load_backbone(inference_arguments(RECIPE))
    assert {parameter.device.index for parameter in loaded.model.parameters()} == {0}
    assert "accelerators are visible, and this process takes number 0 alone" in capfd.readouterr().err


@GPU
@gpus(2)
def test_a_model_on_two_gpus_decodes_as_on_one(utterances):
    from accelerate import dispatch_model, infer_auto_device_map

    sources = [StreamSource(ASK, waveform) for waveform, _ in utterances]
    arguments = inference_arguments(RECIPE)
    alone = Backbone(load_backbone(arguments).model.to("cuda"), load_renderer(arguments))
    expected = decode_batched(alone, sources, SETTINGS, LIMITS)
    model = load_backbone(arguments).model.cpu()
    half = sum(weight.numel() * weight.element_size() for weight in model.parameters()) * 6 // 10
    plan = infer_auto_device_map(model, {0: half, 1: 2 * half}, no_split_module_classes=model._no_split_modules)
    spread = Backbone(dispatch_model(model, plan), load_renderer(arguments))
    assert {parameter.device.index for parameter in spread.model.parameters()} == {0, 1}
    assert not spread.use_cuda_graphs(1e9)
    found = decode_batched(spread, sources, SETTINGS, LIMITS)
    assert [[tokens(one) for one in row] for row in found] == [[tokens(one) for one in row] for row in expected]


@GPU
@pytest.mark.parametrize(
    ("count", "keys"),
    [
        pytest.param(1, ["bf16=true"], marks=gpus(1), id="bf16"),
        pytest.param(2, ["bf16=true", "deepspeed=z2.json"], marks=gpus(2), id="zero2"),
        pytest.param(2, ["bf16=true", "deepspeed=z3.json"], marks=gpus(2), id="zero3"),
    ],
)
def test_training_decodes_at_its_evaluations(count, keys, tmp_path):
    write_demo_corpus(tmp_path / "data", rows=64)
    keys = [key.replace("deepspeed=", f"deepspeed={RECIPES}/deepspeed/") for key in keys]
    keys += ["dataset=demo", "eval_dataset=demo_test", "simulsa_eval_dataset=demo_test", "simulsa_eval_samples=8"]
    keys += ["max_steps=2", "eval_strategy=steps", "eval_steps=2", "output_dir=saved"]
    start = "import sys; from llamafactory.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "train", str(RECIPES / "demo_offline.yaml"), *keys],
        cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count)))},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "saved" / "simulsa_eval.jsonl").stat().st_size > 0
