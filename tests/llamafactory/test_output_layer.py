"""V is the number of logits, however the weight of the output layer is stored; it stands behind τ and ratio floors."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from helpers import tiny_models
from offline_data import SHAREGPT, make_folder, register, turns, write_rows
from torch import nn

from simulsa_plugin.commands import augment
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.model import output_layer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.output_layer import check_logits, fp32_product, output_width
from simulsa_plugin.model.values import Prompt

ASK = "<audio>Translate the English speech into German."
V, HIDDEN = 320, 128
quantizing = pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")


class _Packed(nn.Module):
    """As bitsandbytes' Linear4bit with fp32 storage: eight 4-bit values in each float, in one column."""

    in_features, out_features = HIDDEN, V

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(V * HIDDEN // 8, 1), requires_grad=False)


class _Config:
    def __init__(self, vocab_size):
        if vocab_size is not None:
            self.vocab_size = vocab_size

    def get_text_config(self, decoder):
        assert decoder
        return self


class _Model:
    def __init__(self, layer, vocab_size):
        self.layer, self.config = layer, _Config(vocab_size)

    def get_output_embeddings(self):
        return self.layer


@pytest.mark.parametrize("vocab_size", [V, None], ids=["configured", "not configured"])
@pytest.mark.parametrize("make", [_Packed, lambda: nn.Linear(HIDDEN, V, device="meta")], ids=["packed", "dense"])
def test_the_width_is_that_of_the_logits(make, vocab_size):
    assert output_width(_Model(make(), vocab_size)) == V


@pytest.mark.parametrize("layer", [_Packed(), nn.Linear(HIDDEN, V)])
@pytest.mark.parametrize("vocab_size", [V + 1, V * HIDDEN // 8])
def test_another_width_than_the_configurations_is_refused(layer, vocab_size):
    with pytest.raises(ModelError, match=f"has 320 outputs, the configuration a vocabulary of {vocab_size}"):
        output_width(_Model(layer, vocab_size))


@pytest.mark.parametrize("layer", [nn.Identity(), None])
def test_a_layer_without_a_width_is_refused(layer):
    with pytest.raises(ModelError, match="has None outputs"):
        output_width(_Model(layer, V))


def test_logits_of_another_width_are_refused():
    check_logits(V, V)
    with pytest.raises(ModelError, match="returns 321 logits at each position, its configuration has 320"):
        check_logits(V + 1, V)


@pytest.fixture(scope="module")
def demo():
    return load_backbone(inference_arguments({"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"})).model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "trained", [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}]
)
def test_an_adapter_around_the_output_layer_leaves_its_width(demo, trained, tied):
    model = copy.deepcopy(demo)
    if tied:
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = True
        model.tie_weights()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **trained))
    assert type(adapted.get_output_embeddings()) is not nn.Linear
    assert output_width(adapted) == demo.config.get_text_config().vocab_size


def test_a_vocabulary_resized_for_new_tokens_is_counted(demo):
    model = copy.deepcopy(demo)
    model.resize_token_embeddings(model.config.get_text_config().vocab_size + 7)
    assert output_width(model) == demo.config.get_text_config().vocab_size + 7


@pytest.fixture(scope="module", params=["qwen2_omni", "qwen3_omni"])
def whole_omni(request, tmp_path_factory):
    """(template, folder) of a checkpoint with a talker and a vocoder, as the released ones have them."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, tiny_models.write_checkpoint(request.param, folder, talks=True)


@pytest.fixture
def plain_kernels(monkeypatch):
    """Keep bitsandbytes' AVX-512 kernel out: it fails on layers narrower than a block of 64, as tiny models have."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@quantizing
@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_whole_omni_model_in_few_bits_keeps_its_width(whole_omni, bits):
    template, folder = whole_omni
    recipe = {"model_name_or_path": str(folder), "template": template, "quantization_bit": bits}
    model = load_backbone(inference_arguments(recipe))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = config["thinker_config"]["text_config"]["vocab_size"]
    layer = model.model.get_output_embeddings()
    assert type(layer).__name__ == {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
    assert (layer.weight.shape[0] == vocabulary) is (bits == 8)  # four bits are packed: this is what went wrong
    assert model.output_width == vocabulary
    noise = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    rendered = model.render(Prompt(({"role": "user", "content": ASK},)), noise, "das haus ist alt")
    (scores,) = model.score([rendered], [noise])
    assert max(scores.greedy) < vocabulary


@quantizing
@pytest.mark.usefixtures("plain_kernels")
def test_thresholds_of_a_whole_omni_model_in_four_bits_are_percent_of_its_vocabulary(whole_omni, tmp_path, monkeypatch):
    template, folder = whole_omni
    data = make_folder(tmp_path, monkeypatch)
    write_rows(data / "toy.jsonl", [{"messages": turns(ASK, "das Haus"), "audios": ["wav/0.wav"]}] * 2)
    register(data, {"toy": SHAREGPT | {"file_name": "toy.jsonl"}})
    assert (
        augment.main(
            [
                f"model_name_or_path={folder}",
                f"template={template}",
                "quantization_bit=4",
                "dataset=toy",
                f"dataset_dir={data}",
                "simulsa_samples=1",
                "simulsa_acceptance=ratio",
                "--out",
                "out",
            ]
        )
        == 0
    )
    manifest = json.loads(Path("out/toy_simulsa/manifest.json").read_text(encoding="utf-8"))
    assert manifest["output_width"] == len(load_tokenizer(folder))


def load_tokenizer(folder):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


# The product in fp32


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_of_half_precision_are_the_product_in_fp32(dtype, bias, monkeypatch):
    monkeypatch.setattr(output_layer, "ROWS_AT_ONCE", 100)  # the weight is converted in parts: 320 rows
    layer, hidden = nn.Linear(HIDDEN, V, bias=bias).to(dtype), 9 * torch.randn(2, 3, HIDDEN).to(dtype)
    expected = nn.functional.linear(hidden.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with fp32_product(layer):
        found = layer(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-5)
    rounded = layer(hidden)  # as it was
    assert rounded.dtype == dtype
    assert float((rounded.double() - expected).abs().max()) > 100 * float((found.double() - expected).abs().max())


@torch.inference_mode()
def test_autocast_does_not_round_the_product():
    layer, hidden = nn.Linear(HIDDEN, V), torch.randn(3, HIDDEN)
    expected = layer(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with fp32_product(layer):
            torch.testing.assert_close(layer(hidden), expected)
        assert layer(hidden).dtype == torch.bfloat16


def test_the_layer_is_as_it_was_after_an_error():
    layer = nn.Linear(HIDDEN, V).to(torch.bfloat16)
    with pytest.raises(ZeroDivisionError), fp32_product(layer):
        _ = 1 // 0
    assert "forward" not in vars(layer)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(HIDDEN, V), nn.Linear(HIDDEN, V, device="meta", dtype=torch.bfloat16), _Packed()],
    ids=["fp32", "elsewhere", "quantized"],
)
def test_other_layers_keep_their_own_product(layer):
    with fp32_product(layer):
        assert "forward" not in vars(layer)


@torch.inference_mode()
@pytest.mark.parametrize("template", ["qwen2_audio", "gemma3n"])
def test_scores_and_decoding_use_it(template, tmp_path):
    from simulsa_plugin.model.values import GenerationRequest

    recipe = {"model_name_or_path": str(tiny_models.write_checkpoint(template, tmp_path)), "template": template}
    backbone = load_backbone(inference_arguments(recipe))
    backbone.model.to(torch.bfloat16)
    waveform = np.random.default_rng(0).uniform(-0.3, 0.3, 32_000).astype(np.float32)
    rendered = backbone.render(Prompt(({"role": "user", "content": ASK},)), waveform, "Das Kind spielt im Garten.")
    dtypes = []
    layer = backbone.model.get_output_embeddings()
    handle = layer.register_forward_hook(lambda _, __, logits: dtypes.append(logits.dtype))
    try:
        backbone.score([rendered], [waveform])
        backbone.generate(
            backbone.encode_prompts([rendered.prompt_ids], [waveform]), [GenerationRequest(max_new_tokens=2)]
        )
    finally:
        handle.remove()
    assert set(dtypes) == {torch.float32}
    assert len(dtypes) > 1
