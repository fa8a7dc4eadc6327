"""What the models of recipes/ need for weights, gradients and optimizer states: parameters counted, DeepSpeed asked.

    python tests/bench/memory_needs.py                                 # every training recipe of a released model
    python tests/bench/memory_needs.py recipes/qwen2audio_full_z3.yaml --gpus 4

Nothing is downloaded and nothing allocated: the model is built on PyTorch's meta device, from transformers'
configuration class with the sizes of the released config.json where they differ from its defaults (RELEASED below), and
LLaMA-Factory itself chooses what the recipe trains. Activations, buffers and the CUDA context come on top.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import sys
from pathlib import Path

import yaml

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
GB = 2**30  # DeepSpeed's own estimates are printed in these, as «GB»
GPUS = 8
GEMMA4_LAYERS = [*["sliding_attention"] * 5, "full_attention"] * 7

# What LLaMA-Factory trains (of the Omni models their thinker), and where the released config.json differs in size from
# transformers' defaults. Gemma 4's card gives 8 B with embeddings for what comes to 7.94 B here.
RELEASED = {
    "Qwen/Qwen2-Audio-7B": (
        "Qwen2Audio",
        {
            "audio_config": {"model_type": "qwen2_audio_encoder"},
            "text_config": {"model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156032},
        },
    ),
    "Qwen/Qwen2.5-Omni-7B": (
        "Qwen2_5OmniThinker",
        {
            "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
        },
    ),
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": (
        "Qwen3OmniMoeThinker",
        {
            "audio_config": {"output_dim": 2048},
            "vision_config": {"out_hidden_size": 2048},
            "text_config": {"num_hidden_layers": 48, "num_attention_heads": 32, "vocab_size": 152064, "head_dim": 128},
        },
    ),
    "google/gemma-3n-E4B-it": ("Gemma3n", {}),
    "google/gemma-4-E4B-it": (
        "Gemma4",
        {
            "audio_config": {},
            "vision_config": {},
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 42,
                "num_key_value_heads": 2,
                "num_kv_shared_layers": 18,
                "layer_types": GEMMA4_LAYERS,
            },
        },
    ),
}


def build(name):
    """The released model on the meta device."""
    import torch
    import transformers

    kind, changes = RELEASED[name]
    config = getattr(transformers, f"{kind}Config")(**changes)
    with torch.device("meta"):
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config)


def trained(model, recipe):
    """How many parameters the recipe trains, as LLaMA-Factory sets them up."""
    from llamafactory.hparams import FinetuningArguments, ModelArguments
    from llamafactory.model.adapter import init_adapter

    keys = {key: value for key, value in recipe.items() if key in FinetuningArguments.__dataclass_fields__}
    arguments = FinetuningArguments(**keys)
    prepared = init_adapter(model.config, model, ModelArguments(model_name_or_path="meta"), arguments, True)
    return sum(p.numel() for p in prepared.parameters() if p.requires_grad)


def largest_layer(model):
    """As DeepSpeed counts it: the parameters that a module holds itself."""
    return max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())


def linear(model):
    """Parameters that bitsandbytes keeps in four bits: the weights of linear layers, less the output layer's."""
    import torch

    output = model.get_output_embeddings()
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output)


def quietly(function, *arguments):
    """Without the progress of libraries between the numbers."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


def describe(path, gpus):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs_all_cold as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs_all_cold as zero2

    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    name = recipe["model_name_or_path"]
    model = quietly(build, name)
    whole, largest, in_four_bits = sum(p.numel() for p in model.parameters()), largest_layer(model), linear(model)
    updated = quietly(trained, model, recipe)
    print(
        f"\n=== {path.name}: {name}, {whole / 1e9:.2f} B parameters, "
        f"largest layer {largest / 1e6:.0f} M, {updated / 1e6:.1f} M trained ({100 * updated / whole:.2f} %)"
    )
    if recipe["finetuning_type"] == "full":
        for estimate, arguments in ((zero2, (whole,)), (zero3, (whole, largest))):
            estimate(*arguments, num_gpus_per_node=gpus, num_nodes=1)
        return
    # DeepSpeed's estimators take every parameter to be trained. Here most are frozen: they have no gradient and no
    # optimizer state, and take 2 bytes on every GPU, or on all of them together under ZeRO-3.
    print(
        f"frozen weights in bf16: {2 * whole / GB:.1f} GB on each GPU, {2 * whole / gpus / GB:.1f} GB under ZeRO-3 "
        f"on {gpus} GPUs (and {4 * largest / GB:.1f} GB for the largest layer while it is gathered)"
    )
    if recipe.get("quantization_bit") == 4:
        four = in_four_bits / 2 + 2 * (whole - in_four_bits)
        print(f"frozen weights in 4 bits, embeddings and output layer in bf16: {four / GB:.1f} GB")
    print("what is trained, on top of that:")
    zero2(updated, num_gpus_per_node=1, num_nodes=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, help="default: all that train a released model")
    parser.add_argument("--gpus", type=int, default=GPUS, help=f"on one machine (default: {GPUS})")
    options = parser.parse_args()
    for package in ("timm", "deepspeed"):
        if importlib.util.find_spec(package) is None:
            parser.error(f"the package {package} is not installed. Install what the tests need: pip install '.[test]'")
    logging.disable(logging.WARNING)
    for path in options.recipes or sorted(RECIPES.glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        if recipe.get("do_train") and recipe.get("model_name_or_path") in RELEASED:
            describe(path, options.gpus)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
