"""Qwen2-Audio with random weights, built on its device: nothing is downloaded."""

from __future__ import annotations

import os

import torch
from transformers import Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

from simulsa_plugin.llamafactory.data.rendering import load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.model_size import qwen2_audio_7b, size_of

DEMO = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
WORK_BYTES = 20e9  # besides the weights: keys and values several times over, activations, graphs
# Width, layers and heads of the language model; width, layers and heads of the encoder.
SMALLER = {"tiny": ((64, 2, 4), (64, 2, 4)), "small": ((1024, 8, 16), (512, 6, 8))}
SIZES = ("7b", *SMALLER)


def random_config(size="7b", layers=None):
    """The published configuration, or a smaller one; `layers` of both the encoder and the language model."""
    config = qwen2_audio_7b()
    if size in SMALLER:
        (width, depth, heads), (encoder_width, encoder_depth, encoder_heads) = SMALLER[size]
        config.text_config.update({"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth,
                                   "num_attention_heads": heads, "num_key_value_heads": heads})  # fmt: skip
        config.audio_config.update({"d_model": encoder_width, "encoder_ffn_dim": 4 * encoder_width,
                                    "encoder_layers": encoder_depth,
                                    "encoder_attention_heads": encoder_heads})  # fmt: skip
    if size == "tiny":
        config.text_config.vocab_size = len(random_renderer().tokenizer)
    if layers is not None:
        config.text_config.num_hidden_layers = config.audio_config.encoder_layers = layers
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    config.audio_token_id = random_renderer().tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config._attn_implementation = "sdpa"
    return config


def random_model(config, dtype, device):
    """The model with random weights; SystemExit where it does not fit."""
    with torch.device("meta"):
        needed = size_of(Qwen2AudioForConditionalGeneration(config)).parameters * dtype.itemsize + WORK_BYTES
    free = free_bytes(device)
    if device == "cuda" and free < needed:
        raise SystemExit(
            f"The model needs {needed / 1e9:.0f} GB with {WORK_BYTES / 1e9:.0f} to work with, and {free / 1e9:.0f} GB "
            "are free. Take a larger GPU, or fewer --layers."
        )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2AudioForConditionalGeneration._from_config(config, dtype=dtype).eval()


def free_bytes(device):
    """Memory that is free on the GPU or on this machine."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def random_renderer():
    """The packaged tokenizer with the published model's window: 30 s, 128 bands."""
    renderer = load_renderer(inference_arguments(DEMO))
    renderer.processor.feature_extractor = WhisperFeatureExtractor(feature_size=128)
    return renderer
