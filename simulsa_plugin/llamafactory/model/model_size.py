"""Size of a model, from its configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.llamafactory.model.arguments import InferenceArguments, silence_libraries
from simulsa_plugin.model.cost import Layers, ModelSize

WITH_THINKER = ("qwen2_5_omni", "qwen3_omni_moe")  # LLaMA-Factory trains this part and drops the speech output
AUDIO_TOWERS = ("audio_tower", "apm", "audio_encoder")  # as transformers and LLaMA-Factory name them
OTHER_PARTS = ("visual", "vision_tower", "embed_vision", "lm_head", "talker", "token2wav")  # not met by text and audio
WHISPER_HOP = 160  # samples between frames
FRAMES_PER_POSITION = 2
ENCODER_LAYERS = ("encoder_layers", "num_hidden_layers", "conf_num_hidden_layers")
ENCODER_WIDTHS = ("d_model", "hidden_size")


def model_size(arguments: InferenceArguments, processor: Any = None) -> ModelSize | None:
    """Count the parameters of a model, built on PyTorch's meta device, which needs no memory.

    Args:
        arguments: model and adapter.
        processor: of the model; None takes Whisper's frames.

    Returns:
        the size; None where its class cannot be built from its configuration.
    """
    model = build_on_meta(arguments.model)
    return None if model is None else size_of(model, processor)


def size_of(model: Any, processor: Any = None) -> ModelSize:
    """Count the parameters of a transformers model, whose weights may be on the meta device; see `model_size`."""
    config = model.config
    if getattr(config, "model_type", None) in WITH_THINKER:
        model = model.thinker
    text, output = model.config.get_text_config(decoder=True), model.get_output_embeddings()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    experts = getattr(text, "num_experts_per_tok", None)
    share = experts / text.num_experts if experts else 1.0
    audio = getattr(model.config, "audio_config", None)
    return ModelSize(
        parameters=model.num_parameters(),
        encoder=Layers(
            _matrix_parameters(model, inside=AUDIO_TOWERS), _first(audio, ENCODER_LAYERS), _first(audio, ENCODER_WIDTHS)
        ),
        language_model=Layers(
            _matrix_parameters(model, outside=(*AUDIO_TOWERS, *OTHER_PARTS), share_of_experts=share),
            text.num_hidden_layers,
            heads * head_width,
            kv_heads * head_width,
        ),
        output_parameters=output.weight.shape[0] * text.hidden_size,
        dtype_bytes=torch_bytes(getattr(config, "dtype", None)),
        positions_per_second=SAMPLE_RATE
        / getattr(getattr(processor, "feature_extractor", None), "hop_length", WHISPER_HOP)
        / FRAMES_PER_POSITION,
    )


def qwen2_audio_7b() -> Any:
    """Return the configuration of the published Qwen2-Audio-7B, to build it with random weights, or with none."""
    from transformers import Qwen2AudioConfig

    config = Qwen2AudioConfig(dtype="bfloat16")  # transformers' default of the encoder is that of the checkpoint
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 32}
    config.text_config.update({"vocab_size": 156_032, "hidden_size": 4096, "intermediate_size": 11_008} | heads)
    return config


def torch_bytes(dtype: Any) -> int:
    """Return the bytes of a number; of float32 where the configuration names no format."""
    import torch

    return int(torch.empty(0, dtype=dtype or torch.float32).element_size())


def _matrix_parameters(
    model: Any, *, inside: Sequence[str] = (), outside: Sequence[str] = (), share_of_experts: float = 1.0
) -> int:
    """Count the numbers that each position is multiplied with: no embeddings; of experts the share that it meets.

    Args:
        model: any module.
        inside: names of modules; only what is inside one of them counts, if there are any.
        outside: names of modules that do not count.
        share_of_experts: that one position meets.
    """
    total = 0.0
    for name, part in model.named_modules():
        names = set(name.split("."))
        if names & set(outside) or (inside and not names & set(inside)) or type(part).__name__.endswith("Embedding"):
            continue
        factor = 2 if name.endswith("conv1") else share_of_experts if "experts" in names else 1  # conv1: two frames
        total += factor * sum(weight.numel() for weight in part.parameters(recurse=False))
    return round(total)


def _first(config: Any, names: Sequence[str]) -> int:
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None)), 0)


def build_on_meta(model_arguments: Any) -> Any:
    """Build a checkpoint's model on PyTorch's meta device, where weights have shapes and no values.

    Returns:
        the model; None where its class cannot be built from its configuration.
    """
    silence_libraries()
    import torch
    from llamafactory.model.loader import load_config

    try:
        config = load_config(model_arguments)
        with torch.device("meta"):
            return _auto_class(config).from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError, OSError):
        return None  # remote code, or a class that needs its weights: the size is unknown


def _auto_class(config: Any) -> Any:
    """Return the class that LLaMA-Factory's loader uses for a configuration."""
    import transformers

    for name in ("AutoModelForImageTextToText", "AutoModelForSeq2SeqLM", "AutoModelForTextToWaveform"):
        if type(config) in getattr(transformers, name)._model_mapping:
            return getattr(transformers, name)
    return transformers.AutoModelForCausalLM
