"""Adapters, precision, quantization and keys of training, with the packaged checkpoint through the public functions."""

import importlib.util
import shutil

import numpy as np
import peft
import pytest
import torch
from offline_data import ASK, SHAREGPT, make_folder, register, turns, write_rows

from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.llamafactory.data.dataset import load_datasets
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.model.values import Prompt

RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
# What a recipe for training holds besides; none of it bears on what is scored.
TRAINING_KEYS = {
    "stage": "sft",
    "do_train": True,
    "output_dir": "saves",
    "seed": 3,
    "num_train_epochs": 2.0,
    "bf16": True,
    "deepspeed": "recipes/deepspeed/z2.json",
    "report_to": "none",
    "overwrite_output_dir": True,
    "lora_rank": 8,
    "lora_alpha": 32,
    "lora_target": "all",
    "additional_target": "lm_head",
    "pissa_init": True,
    "freeze_vision_tower": False,
    "freeze_trainable_layers": 1,
    "use_dora": True,
    "create_new_adapter": True,
    "resize_vocab": True,
    "packing": True,
    "neat_packing": True,
    "streaming": True,
    "max_samples": 5,
    "tokenized_path": "tokenized",
    "mask_history": True,
    "train_on_prompt": True,
    "cutoff_len": 64,
    "val_size": 0.1,
    "eval_dataset": "b",
    "mix_strategy": "interleave_under",
    "interleave_probs": "0.5,0.5",
    "overwrite_cache": False,
    "use_galore": True,
    "use_badam": True,
    "use_swanlab": True,
    "plot_loss": True,
    "enable_liger_kernel": True,
    "use_unsloth": True,
    "infer_backend": "vllm",
    "predict_with_generate": True,
}


def backbone(**keys):
    return load_backbone(inference_arguments(RECIPE | keys))


def logprobs(model):
    """Of one reference about one second of noise."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    rendered = model.render(Prompt(({"role": "user", "content": f"{ASK} into German."},)), noise, "das haus ist alt")
    return np.array(model.score([rendered], [noise])[0].logprobs)


@pytest.fixture(scope="module")
def plain():
    return logprobs(backbone())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two LoRA adapters whose weights are no zeros."""
    folders = []
    for number in range(2):
        torch.manual_seed(number)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        folders.append(str(tmp_path_factory.mktemp("adapters") / str(number)))
        peft.get_peft_model(backbone().model, config).save_pretrained(folders[-1])
    return folders


@pytest.mark.parametrize("chosen", [[0], [0, 1]])
def test_adapters_are_merged_into_the_model_that_scores(adapters, plain, chosen):
    # peft itself merges them one after the other
    expected = backbone()
    for number in chosen:
        expected.model = peft.PeftModel.from_pretrained(expected.model, adapters[number]).merge_and_unload()
    paths = [adapters[number] for number in chosen]
    model = backbone(adapter_name_or_path=", ".join(paths))
    assert model.describe()["adapter"] == paths
    assert logprobs(model) == pytest.approx(logprobs(expected), abs=1e-5)
    assert np.abs(logprobs(model) - plain).max() > 0.1


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16", "bfloat16"])
def test_infer_dtype_leaves_the_weights_as_the_checkpoint_has_them(plain, dtype):
    # LLaMA-Factory 0.9.5 loads them so for training, too; the key reaches quantization alone
    model = backbone(infer_dtype=dtype)
    assert model.describe()["dtype"] == "float32"
    assert logprobs(model).tolist() == plain.tolist()


def test_a_checkpoint_in_bfloat16_is_scored_in_bfloat16(tmp_path, plain):
    model = backbone()
    model.model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    source = model.describe()["model"]
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(f"{source}/{name}", tmp_path / "half")
    half = backbone(model_name_or_path=str(tmp_path / "half"))
    assert half.describe()["dtype"] == "bfloat16"
    assert logprobs(half) == pytest.approx(plain, abs=0.2)  # eight bits of mantissa
    assert logprobs(half).tolist() != plain.tolist()


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("bits", "near"), [(8, 0.2), (4, 1.5)])
def test_quantized_models_score_about_as_the_whole_one(adapters, plain, bits, near):
    quantized = backbone(quantization_bit=bits)
    kinds = {type(module).__name__ for module in quantized.model.modules()}
    assert {8: "Linear8bitLt", 4: "Linear4bit"}[bits] in kinds
    assert logprobs(quantized) == pytest.approx(plain, abs=near)
    assert logprobs(quantized).tolist() != plain.tolist()
    adapted = backbone(quantization_bit=bits, adapter_name_or_path=adapters[0])
    expected = logprobs(backbone(adapter_name_or_path=adapters[0]))
    assert logprobs(adapted) == pytest.approx(expected, abs=near)


@pytest.mark.skipif(HAS_BITSANDBYTES, reason="bitsandbytes is installed")
def test_quantization_without_bitsandbytes_is_one_line():
    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        backbone(quantization_bit=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("attention", "implementation"), [("sdpa", "sdpa"), ("disabled", "eager")])
def test_the_attention_of_the_recipe_is_used(plain, attention, implementation):
    model = backbone(flash_attn=attention)
    assert model.model.config._attn_implementation == implementation
    assert logprobs(model) == pytest.approx(plain, abs=1e-4)


def test_keys_of_the_model_reach_llamafactory():
    keys = {"trust_remote_code": True, "rope_scaling": "linear", "model_revision": "other", "cache_dir": "cache"}
    arguments = inference_arguments(RECIPE | keys | {"default_system": "Kurz.", "enable_thinking": False})
    assert {key: getattr(arguments.model, key) for key in keys} == keys
    assert (arguments.data.default_system, arguments.data.enable_thinking) == ("Kurz.", False)


def test_a_whole_training_recipe_scores_as_the_bare_one(tmp_path, monkeypatch, plain):
    folder = make_folder(tmp_path, monkeypatch)
    row = {"messages": turns(ASK, "Hallo"), "audios": ["wav/0.wav"]}
    write_rows(folder / "a.jsonl", [row] * 7)
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    recipe = RECIPE | TRAINING_KEYS | {"dataset": "a,b", "dataset_dir": str(folder)}
    arguments = inference_arguments(recipe)
    (dataset,) = load_datasets(arguments, ["a"])
    assert len(dataset) == 7
    assert dataset.sample(6).reference == "Hallo"
    assert logprobs(load_backbone(arguments)).tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"adapter_name_or_path": ["a", "b"]}, UsageError, r"is a list; .* Write  adapter_name_or_path: a,b"),
        ({"adapter_name_or_path": "gone"}, ModelError, r"Cannot load the model .* 'gone'"),
        ({"adapter_name_or_path": "a", "finetuning_type": "full"}, ModelError, "Adapter is only valid for the LoRA"),
        ({"quantization_bit": 4, "adapter_name_or_path": "a,b"}, ModelError, "only accepts a single adapter"),
        ({"quantization_bit": 4, "finetuning_type": "full"}, ModelError, "only compatible with the LoRA or OFT"),
        ({"quantization_bit": 3}, ModelError, "only accepts 4-bit or 8-bit"),
        ({"quantization_bit": 4, "quantization_method": "hqq"}, ModelError, "hqq"),
        ({"finetuning_type": "laura"}, ModelError, "Invalid fine-tuning method"),
        ({"template": "nonsense"}, ModelError, "Template nonsense does not exist"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(keys, error, said):
    with pytest.raises(error, match=said) as caught:
        backbone(**keys)
    assert "\n" not in str(caught.value)
