"""Where weights go and where they are used: with accelerate's own planner and hooks, without an accelerator.

Two GPUs are played by PyTorch's fake tensors, which have a device and no values: an operation on tensors of two
devices fails with them as it does on real ones. Weights that do not fit are played by a small limit on CPU memory.
"""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
import transformers
from accelerate import dispatch_model, infer_auto_device_map
from helpers import tiny_models
from helpers.fakes import generate_all
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.accelerate import get_balanced_memory

from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model import devices as placement
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.attention import AudioAttention
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.batched_decoding import EncodedPrompt, SharedPromptDecoder
from simulsa_plugin.llamafactory.model.devices import (
    choose_device,
    execution_device,
    parameters_with_values,
    weight_bytes,
)
from simulsa_plugin.llamafactory.model.special_tokens import SpecialTokens
from simulsa_plugin.model.values import GenerationRequest, Prompt

DEMO = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
PROMPT = Prompt(({"role": "user", "content": "<audio>Translate the English speech into German."},))
GB = 10**9


class TestChoice:
    """A process that sees several accelerators takes one, if the model fits there."""

    @pytest.fixture
    def machine(self, monkeypatch):
        """Pretend that a machine has accelerators with so much free memory, and a model so large."""
        used = []

        def make(*free, weights=15 * GB):
            memory = dict(enumerate(free)) | {"cpu": 500 * GB}
            monkeypatch.setattr(torch.accelerator, "device_count", lambda: len(free))
            monkeypatch.setattr(torch.accelerator, "set_device_index", used.append)
            monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: memory)
            monkeypatch.setattr(placement, "weight_bytes", lambda _: weights)
            return used

        return make

    @pytest.mark.parametrize(
        ("free", "chosen"),
        [((80 * GB, 80 * GB), 0), ((5 * GB, 80 * GB), 1), ((20 * GB, 22 * GB, 80 * GB), 1), ((21 * GB, 21 * GB), 0)],
    )
    def test_the_first_accelerator_with_room_is_taken(self, machine, capsys, free, chosen):
        used, before = machine(*free), inference_arguments(DEMO)
        assert choose_device(before).model.device_map == {"": chosen}
        assert used == [chosen]
        assert before.model.device_map == "auto"  # the caller's stays as it is
        said = capsys.readouterr().err
        assert f"{len(free)} accelerators are visible, and this process takes number {chosen} alone" in said
        assert f"torchrun --nproc_per_node {len(free)}" in said

    def test_what_fits_nowhere_is_spread(self, machine, capsys):
        used = machine(16 * GB, 20 * GB)
        assert choose_device(inference_arguments(DEMO)).model.device_map == "auto"
        assert used == []
        said = capsys.readouterr().err
        assert "needs 21.0 GB (15.0 for weights), and no accelerator has more than 20.0 GB free: it is spread" in said

    def test_caches_need_room_besides_the_weights(self, machine):
        machine(24 * GB, 24 * GB)
        arguments = inference_arguments(DEMO)
        assert choose_device(arguments, cache_bytes=7 * GB).model.device_map == {"": 0}
        assert choose_device(arguments, cache_bytes=7 * GB + 1).model.device_map == "auto"

    @pytest.mark.parametrize("free", [(), (80 * GB,)], ids=["none", "one"])
    def test_with_less_than_two_there_is_nothing_to_choose(self, machine, capsys, free):
        machine(*free)  # under torchrun a rank sees its own accelerator alone
        arguments = inference_arguments(DEMO)
        assert choose_device(arguments) is arguments
        assert capsys.readouterr().err == ""

    def test_a_model_of_unknown_size_is_left_to_accelerate(self, machine):
        machine(80 * GB, 80 * GB, weights=None)
        arguments = inference_arguments(DEMO)
        assert choose_device(arguments) is arguments

    def test_llamafactory_places_what_bitsandbytes_quantizes(self, machine):
        machine(80 * GB, 80 * GB)
        arguments = inference_arguments(DEMO)
        arguments.model.quantization_bit = 4
        assert choose_device(arguments) is arguments
        arguments.model.quantization_method = "hqq"
        assert choose_device(arguments).model.device_map == {"": 0}

    def test_loading_goes_where_it_was_chosen(self, machine, monkeypatch):
        machine(80 * GB, 80 * GB)
        seen = []

        def load_model(_, model, __):
            seen.append(model.device_map)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB. If reserved but unallocated …")

        monkeypatch.setattr("llamafactory.model.load_model", load_model)
        with pytest.raises(ModelError, match=r"does not fit: CUDA out of memory\. Take more or larger") as caught:
            load_backbone(inference_arguments(DEMO))
        assert seen == [{"": 0}]
        assert "reserved" not in str(caught.value)


class TestSize:
    """What a model will take is known before it is loaded."""

    @pytest.mark.parametrize("template", ["qwen2_audio", "qwen2_omni", "qwen3_omni", "gemma4n"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_it_is_that_of_the_loaded_model(self, tmp_path, template, dtype):
        folder = tiny_models.write_checkpoint(template, tmp_path / template)
        set_dtype(folder / "config.json", dtype)
        arguments = inference_arguments({"model_name_or_path": str(folder), "template": template})
        config = transformers.AutoConfig.from_pretrained(folder)
        loaded = getattr(transformers, config.architectures[0]).from_pretrained(folder, dtype="auto")
        assert loaded.dtype == getattr(torch, dtype)
        weights, buffers = (
            sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            for tensors in (loaded.parameters(), loaded.buffers())
        )
        assert weights <= weight_bytes(arguments) <= weights + buffers

    def test_a_whole_omni_model_is_loaded_with_its_voice(self, tmp_path):
        sizes = []
        for talks in (False, True):
            folder = tiny_models.write_checkpoint("qwen2_omni", tmp_path / str(talks), talks=talks)
            recipe = {"model_name_or_path": str(folder), "template": "qwen2_omni"}
            sizes.append(weight_bytes(inference_arguments(recipe)))
        assert sizes[1] > 1.2 * sizes[0]

    def test_bits_count_for_linear_layers_less_the_output_layer(self):
        arguments = inference_arguments(DEMO)
        model = load_backbone(arguments).model
        linear = sum(one.weight.numel() for one in model.modules() if isinstance(one, torch.nn.Linear))
        linear -= model.get_output_embeddings().weight.numel()
        whole = weight_bytes(arguments)
        arguments.model.quantization_bit = 4
        assert whole - weight_bytes(arguments) == pytest.approx(linear * 3.5, abs=100)

    def test_adapters_and_their_merging_count(self, tmp_path):
        import peft

        arguments = inference_arguments(DEMO)
        model = load_backbone(arguments).model
        peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path)
        largest = max(weight.numel() * 4 for weight in model.parameters())
        adapted = inference_arguments(DEMO | {"adapter_name_or_path": str(tmp_path)})
        file = (tmp_path / "adapter_model.safetensors").stat().st_size
        assert weight_bytes(adapted) - weight_bytes(arguments) == file + largest

    def test_accelerate_spreads_a_model_that_one_device_would_hold(self):
        # When it does not any more, choosing a device can go.
        model = load_backbone(inference_arguments(DEMO)).model
        balanced = get_balanced_memory(model, {0: GB, 1: GB, "cpu": GB}, model._no_split_modules)
        plan = infer_auto_device_map(model, balanced, no_split_module_classes=list(model._no_split_modules))
        assert set(plan.values()) == {0, 1}


def set_dtype(config_file, dtype):
    """Rewrite a checkpoint's config.json: transformers converts the weights to it while it loads them."""

    def changed(part):
        return {
            key: changed(value) if isinstance(value, dict) else dtype if key == "dtype" else value
            for key, value in part.items()
        }

    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(changed(config) | {"dtype": dtype}), encoding="utf-8")


class _SameDevice(TorchDispatchMode):
    """Fake tensors do not check the device of indices, real GPUs do."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
            for index in args[1]:
                assert index is None or index.device.type == "cpu" or index.device == args[0].device
        return operation(*args, **(kwargs or {}))


class _Adapter:
    def __init__(self, decoder):
        self.decoder = decoder


class TestSpread:
    """A language model that begins on one GPU and ends on another."""

    # Not Qwen3-Omni: its experts are chosen by values, which fake tensors do not have. The decoder is the same.
    @pytest.mark.parametrize("template", ["qwen2_audio", "qwen2_omni"])
    def test_the_shared_prompt_decoder_keeps_each_layers_cache_where_the_layer_is(self, template, tmp_path):
        folder = tiny_models.write_checkpoint(template, tmp_path)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # accelerate compares data pointers, which fake tensors do not have
            model, decoder = spread_model(folder)
            assert {str(weight.device) for weight in decoder.parameters()} == {"cuda:0", "cuda:1"}
            assert str(execution_device(model.get_input_embeddings())) == "cuda:0"
            shared = SharedPromptDecoder(
                model, _Adapter(decoder), SpecialTokens(frozenset({9}), (3,), 0), AudioAttention(decoder)
            )
            shared.greedy_tokens = lambda hidden: (
                (5, 0.5) for _ in shared._head(hidden)
            )  # fake logits have no largest
            short, long = (
                EncodedPrompt(
                    torch.zeros(tokens, shared._embed.embedding_dim, device="cuda:0"),
                    torch.ones(tokens, dtype=torch.bool, device="cuda:0"),
                )
                for tokens in (6, 9)
            )
            requests = [
                GenerationRequest((1, 2), (5, 4), max_new_tokens=3),
                GenerationRequest(max_new_tokens=8),
                GenerationRequest((1,), max_new_tokens=40),
            ]
            with _SameDevice():
                found = shared.generate([short, long, long], requests)
        assert [one.token_ids for one in found] == [(5,) * 3, (5,) * 8, (5,) * 40]


def spread_model(folder):
    """(model, its language model) of fake weights; accelerate plans two devices, and adds its hooks."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model = kind._from_config(config, attn_implementation="sdpa").eval()
    model = getattr(model, "thinker", model)
    model.config.audio_token_id = 1
    decoder = model.language_model.model if hasattr(model, "language_model") else model.model
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    devices, percent = [], 40
    while devices != [0, 1]:  # the planner keeps room for its largest layer, too
        limits, percent = {0: size * percent // 100, 1: 2 * size}, percent + 1
        plan = infer_auto_device_map(model, limits, no_split_module_classes=list(model._no_split_modules))
        devices = [plan_device(plan, model, layer) for layer in decoder.layers]
        assert percent < 300
    plan = {name: f"cuda:{device}" for name, device in plan.items()}
    for name, device in plan.items():
        for part in model.get_submodule(name).modules():
            for own in (part._parameters, part._buffers):
                for key, value in own.items():
                    if value is not None:
                        moved = torch.empty(value.shape, dtype=value.dtype, device=device)
                        own[key] = torch.nn.Parameter(moved, False) if own is part._parameters else moved
    return dispatch_model(model, plan, force_hooks=True, skip_keys=model._skip_keys_device_placement), decoder


def plan_device(plan, model, module):
    """The device of a plan's entry for a module or for what holds it."""
    (name,) = [name for name, one in model.named_modules() if one is module]
    while name not in plan:
        name = name.rpartition(".")[0]
    return plan[name]


class TestKept:
    """Weights that do not fit stay on disk; parameters are on `meta`, and accelerate's hooks bring their values."""

    @pytest.fixture
    def noise(self):
        return (0.1 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)

    @staticmethod
    def results(backbone, noise):
        rendered = backbone.render(PROMPT, noise, "das Haus ist alt")
        continued = generate_all(backbone, [rendered.prompt_ids], [noise], [()], 6)
        return backbone.describe(), backbone.score([rendered], [noise]), continued

    @pytest.mark.parametrize("template", ["qwen2_audio", "gemma4n"])
    def test_all_is_as_with_the_whole_model_and_a_line_says_that_it_is_slow(
        self, template, noise, tmp_path, monkeypatch, capsys
    ):
        arguments = self.arguments(template, tmp_path, monkeypatch)
        whole = load_backbone(arguments)
        expected = self.results(whole, noise)
        assert "do not fit" not in capsys.readouterr().err
        limit_memory(monkeypatch, whole.model, 0.7)
        kept = load_backbone(arguments)
        assert 0 < sum(weight.is_meta for weight in kept.model.parameters()) < len(list(kept.model.parameters()))
        assert "Every pass moves them, which takes many times as long. Take more or larger" in capsys.readouterr().err
        assert self.results(kept, noise) == expected

    @pytest.mark.parametrize("template", ["qwen2_omni", "qwen3_omni"])
    def test_so_it_is_with_the_last_layers_of_an_omni_model(self, template, noise, tmp_path, monkeypatch):
        arguments = self.arguments(template, tmp_path, monkeypatch)
        expected = self.results(load_backbone(arguments), noise)
        plan = {f"thinker.{name}": "cpu" for name in ("audio_tower", "visual", "model.embed_tokens", "model.layers.0")}
        plan |= {f"thinker.{name}": "disk" for name in ("model.layers.1", "model.norm", "model.rotary_emb", "lm_head")}
        monkeypatch.setattr("transformers.modeling_utils._get_device_map", lambda *_: plan)
        kept = load_backbone(arguments)
        assert kept.model.lm_head.weight.is_meta
        assert self.results(kept, noise) == expected

    def test_an_architecture_that_cannot_is_refused_in_one_line(self, tmp_path, monkeypatch):
        # Qwen2-Audio's forward asks a weight of its encoder for the device.
        arguments = self.arguments("qwen2_audio", tmp_path, monkeypatch)
        limit_memory(monkeypatch, load_backbone(arguments).model, 0.2)
        with pytest.raises(ModelError, match="Qwen2AudioForConditionalGeneration cannot compute with these") as caught:
            load_backbone(arguments)
        assert "\n" not in str(caught.value)
        assert "quantization_bit: 4" in str(caught.value)

    def test_a_weight_without_values_anywhere_is_refused(self):
        with pytest.raises(ModelError, match="The weight weight of Linear was not loaded"):
            list(parameters_with_values(torch.nn.Sequential(torch.nn.Linear(2, 2, device="meta"))))

    @staticmethod
    def arguments(template, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # LLaMA-Factory keeps weights in ./offload
        folder = tiny_models.write_checkpoint(template, tmp_path / template)
        return inference_arguments({"model_name_or_path": str(folder), "template": template})


def limit_memory(monkeypatch, model, share):
    """Let transformers' planner find this share of what a model needs."""
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    monkeypatch.setattr(
        "transformers.integrations.accelerate.get_max_memory", lambda _=None: {"cpu": int(size * share)}
    )


def test_a_model_without_hooks_computes_where_its_weights_are():
    layer = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 2))
    assert execution_device(layer) == torch.device("cpu")
    assert execution_device(copy.deepcopy(layer).to("meta")) == torch.device("meta")
    assert dict(parameters_with_values(layer)).keys() == dict(layer.named_parameters()).keys()
