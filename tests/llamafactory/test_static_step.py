"""Decode steps on static buffers give what the growing cache gives; on a GPU they are CUDA graphs (test_on_devices)."""

import contextlib
import types

import pytest
import torch
from helpers.decoding import ASK, RECIPE, packaged_model, spoken, static_steps, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from simulsa_plugin import evaluate
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.static_step import (
    WARM_UP_RUNS,
    CapturedStep,
    CaptureError,
    StaticSteps,
    why_not_captured,
)
from simulsa_plugin.model.values import GenerationRequest
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Attention, Confidence, LocalAgreement, Offline, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

CELLS = [
    DecodingSetting(Offline(), None),
    *(DecodingSetting(Rollback(b), k) for k in (500, 1000) for b in (0, 3)),
    DecodingSetting(Confidence(0.9), 700),
    DecodingSetting(LocalAgreement(2), 700),
    DecodingSetting(Attention(320), 700),  # needs the attention of every step: never on static buffers
]
TOLERANCE = 1e-5  # of float32 logits, relative to the largest: sums over masked columns are grouped differently


@pytest.fixture(scope="module")
def model():
    return packaged_model()


@pytest.fixture(scope="module")
def waveforms():
    return spoken(40)


@contextlib.contextmanager
def recorded(decoder):
    """The logits of every prediction that is made inside this context, (positions, V) in turn."""
    logits, most_probable = [], decoder.most_probable

    def record(hidden):
        logits.append(decoder._head(hidden).float())
        return most_probable(hidden)

    decoder.most_probable = record
    try:
        yield logits
    finally:
        del decoder.most_probable


def histories(sessions):
    return [[[step.token_ids for step in session.steps] for session in row] for row in sessions]


def read(model, clips):
    return model.encode_prompts([model.render_prompt(ASK, clip) for clip in clips], clips)


def test_sessions_of_all_policies_have_the_same_tokens(model, waveforms):
    sources = [StreamSource(ASK, waveform) for waveform in waveforms]
    expected = histories(decode_batched(model, sources, CELLS, BatchLimits(64)))
    with static_steps(model.decoder) as steps:
        assert histories(decode_batched(model, sources, CELLS, BatchLimits(64))) == expected
    assert 5 < steps.num_sizes < 60
    assert steps.num_captured == 0


def test_logits_of_a_step_are_those_of_the_growing_cache(model, waveforms):
    prompts, requests = read(model, waveforms[:6]), [GenerationRequest()] * 6
    with recorded(model.decoder) as expected:
        model.generate(prompts, requests)
    with static_steps(model.decoder), recorded(model.decoder) as found:
        model.generate(prompts, requests)
    pairs = [pair for pair in zip(found, expected, strict=True) if len(pair[1]) == 6]  # all rows are still there
    assert len(pairs) > 5
    for ours, theirs in pairs:
        assert float((ours - theirs).abs().max()) < TOLERANCE * float(theirs.abs().max())


@pytest.mark.parametrize("template", ["qwen2_audio", "qwen2_omni", "qwen3_omni"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_architecture_with_shared_prompts_decodes_alike(template, attention, tmp_path):
    loaded, prompts = tiny_model(template, attention, tmp_path)
    requests = [GenerationRequest(max_new_tokens=count) for count in (40, 3, 90, 17)]
    expected = loaded.generate(prompts, requests)
    with static_steps(loaded.decoder) as steps:
        found = loaded.generate(prompts, requests)
    assert steps.num_sizes > 1
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


@settings(max_examples=25)
@given(data=st.data())
def test_any_requests_are_answered_alike(model, waveforms, data):
    count = data.draw(st.integers(1, 9))
    prompts = read(model, [waveforms[data.draw(st.integers(0, 3))] for _ in range(count)])
    requests = [
        GenerationRequest(
            tuple(data.draw(st.lists(st.integers(260, 330), max_size=3))),
            tuple(data.draw(st.lists(st.integers(260, 330), max_size=5))),
            data.draw(st.sampled_from([None, 0.5, 0.99])),
            max_new_tokens=data.draw(st.sampled_from([1, 3, 80])),
        )
        for _ in range(count)
    ]
    expected = model.generate(prompts, requests)
    with static_steps(model.decoder):
        assert model.generate(prompts, requests) == expected


def test_a_batch_that_outgrows_the_buffers_goes_on_without_them(model, waveforms):
    prompts = read(model, waveforms[:6])
    requests = [GenerationRequest(stopping_criterion=lambda new: False, max_new_tokens=64)] * 6
    expected = model.generate(prompts, requests)
    longest = max(len(prompt.embeddings) for prompt in prompts)
    room = 1 + longest // 16 * 16 + 16  # the columns of the first size, and not those of the next
    with static_steps(model.decoder, model.bytes_per_token * 6 * room) as steps:
        assert model.generate(prompts, requests) == expected
        assert steps.num_sizes >= 1
    with static_steps(model.decoder, model.bytes_per_token * 6 * 8) as steps:
        assert model.generate(prompts, requests) == expected
        assert steps.num_sizes == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        CaptureError("CUDA error: operation not permitted when stream is capturing"),
    ],
    ids=["memory", "capture"],
)
def test_a_step_that_fails_is_done_without_static_buffers_from_then_on(model, waveforms, monkeypatch, capfd, error):
    prompts, requests = read(model, waveforms[:6]), [GenerationRequest()] * 6
    expected = model.generate(prompts, requests)
    runs = []

    def fail_at_third_run(step):
        runs.append(step)
        if len(runs) == 3:
            raise error
        return step._step()

    monkeypatch.setattr(CapturedStep, "__call__", fail_at_third_run)
    with static_steps(model.decoder):
        assert model.generate(prompts, requests) == expected
        assert model.decoder.static is None
        assert model.generate(prompts, requests) == expected
    (line,) = capfd.readouterr().err.splitlines()
    assert f"decoding goes on without CUDA graphs: {str(error).partition('. ')[0]}. simulsa_cuda_graphs=false" in line
    assert len(runs) == 3


def test_half_of_the_memory_is_for_the_static_buffers():
    loaded = load_backbone(inference_arguments(RECIPE))
    before = loaded.bytes_per_token
    loaded.use_static_steps(1e9, captures=False)
    loaded.use_static_steps(1e9, captures=False)
    assert loaded.bytes_per_token == 2 * before
    assert loaded.decoder.static._max_bytes == 0.5e9


def test_buffers_stay_within_their_memory_and_keep_it_when_a_batch_is_smaller(model, waveforms):
    limit = 2 * model.bytes_per_token * 6 * 128
    with static_steps(model.decoder, limit) as steps:
        for count in (2, 6, 3, 1):
            model.generate(read(model, waveforms[:count]), [GenerationRequest()] * count)
        held = sum(part.nbytes for pair in steps._memory for part in pair)
        assert 0 < held <= limit
        steps.release()
        assert (steps.num_sizes, steps._memory) == (0, [])


# Capture. CUDA's graph is replaced by one that runs the recorded function again, into the tensors of the capture.


class RecordedGraph:
    """What `torch.cuda.CUDAGraph` does, on the processor: the captured run itself has no effect that counts."""

    recording = None

    def replay(self):
        for kept, new in zip(self.result, self.function(), strict=True):
            kept.copy_(new)


@pytest.fixture
def processor_graphs(monkeypatch):
    graphs = []

    @contextlib.contextmanager
    def capture(graph, pool=None):
        assert pool == "pool"
        graphs.append(graph)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(CapturedStep, "_capture", recording_capture(CapturedStep._capture))
    return graphs


def recording_capture(original):
    def capture(step):
        original(step)
        step._graph.function, step._graph.result = step._step, step._result

    return capture


def test_each_size_is_captured_once_it_was_used_a_few_times_and_then_replayed(model, waveforms, processor_graphs):
    sources, cells = [StreamSource(ASK, waveform) for waveform in waveforms[:12]], CELLS[:3]
    expected = histories(decode_batched(model, sources, cells, BatchLimits(64)))
    model.decoder.static = steps = StaticSteps(model.decoder, 1e9, captures=True)
    try:
        found = histories(decode_batched(model, sources, cells, BatchLimits(64)))
    finally:
        model.decoder.static = None
    assert found == expected
    used_often = [one for one in steps._sizes.values() if one.run._runs > WARM_UP_RUNS]
    assert steps.num_captured == len(processor_graphs) == len(used_often) > 0


def test_what_cannot_be_captured_is_said(processor_graphs, monkeypatch):
    def fail(graph, pool=None):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    step = CapturedStep(lambda: (torch.zeros(1),), "pool")
    for _ in range(WARM_UP_RUNS):
        step()
    with pytest.raises(CaptureError, match="not permitted when stream is capturing"):
        step()


@torch.inference_mode()
def test_the_step_compiles_as_one_graph(model, waveforms):
    """No step depends on values, as a CUDA graph cannot; torch.compile refuses what does (fullgraph)."""
    prompts = read(model, waveforms[:3])
    with static_steps(model.decoder) as steps:
        model.generate(prompts, [GenerationRequest()] * 3)
        buffers = next(iter(steps._sizes.values()))
        expected = [one.clone() for one in buffers._step()]
        found = torch.compile(buffers._step, backend="eager", fullgraph=True)()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def pretended(**changes):
    """A language model that could be captured, but for `changes` to its weight, class, modules or configuration."""
    weight = types.SimpleNamespace(device=changes.pop("device", "cuda:0"))
    other = types.SimpleNamespace(device=changes.pop("other_device", weight.device))
    module = types.SimpleNamespace(_hf_hook=changes.pop("hook", None))
    compiles = changes.pop("compiles", True)
    config = {"layer_types": ["full_attention"] * 2, "rope_parameters": None}

    class Decoder:
        _can_compile_fullgraph = compiles

        def parameters(self):
            return iter([weight, other])

        def modules(self):
            return iter([module])

    decoder = Decoder()
    decoder.config = types.SimpleNamespace(**config | changes)
    return decoder


def test_models_that_cannot_be_captured_are_recognised(model):
    assert why_not_captured(pretended()) is None
    assert why_not_captured(model.decoder._decoder) == "it is not on a GPU"
    assert not model.use_cuda_graphs(1e9)
    assert model.decoder.static is None
    for changes, reason in (
        ({"other_device": "cuda:1"}, "spread over several devices"),
        ({"hook": object()}, "spread over several devices or quantized"),
        ({"compiles": False}, "Decoder does not declare that it can be compiled"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"num_experts": 4}, "mixture of experts"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "depends on the length"),
    ):
        assert reason in why_not_captured(pretended(**changes))


def test_qwen2_audio_can_be_captured_but_for_its_device(model):
    decoder = model.decoder._decoder
    config = {name: getattr(decoder.config, name) for name in ("layer_types", "rope_parameters")}
    same = pretended(compiles=decoder._can_compile_fullgraph, **config)
    assert why_not_captured(same) is None


@pytest.mark.parametrize("wanted", [True, False])
def test_the_key_turns_graphs_off(wanted, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Backbone, "use_cuda_graphs", lambda model, memory_bytes: asked.append(memory_bytes))
    write_demo_corpus(tmp_path / "data", rows=0, test_rows=2, processes=1)
    keys = {**RECIPE, "eval_dataset": "demo_test", "dataset_dir": str(tmp_path / "data")}
    keys |= {"simulsa_chunks": "1000", "simulsa_rollbacks": "0", "simulsa_eval_memory_gb": 2}
    evaluate(keys, out=tmp_path / "out", simulsa_cuda_graphs=wanted)
    assert asked == ([2e9] if wanted else [])


def test_the_key_is_recorded_only_where_it_is_turned_off():
    """Results of earlier versions, which had no such key, are continued."""
    assert "simulsa_cuda_graphs" not in EvaluationSettings().relevant_keys()
    assert EvaluationSettings(cuda_graphs=False).relevant_keys()["simulsa_cuda_graphs"] is False
