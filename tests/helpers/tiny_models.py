"""Tiny random checkpoints of every audio architecture of LLaMA-Factory that can be built without a model hub.

Configuration, weights, tokenizer and processor come from transformers' own classes, with the names, special tokens and
arithmetic of the released checkpoints; only the sizes are small. The vision towers are there because LLaMA-Factory
sends a blank image through them with every batch.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

SEED = 20250923
HIDDEN, HEADS, LAYERS = 32, 2, 2
MEL_BINS = 32
IMAGE = 56  # pixels, a multiple of every tower's patches
TEXTS = (
    "system\nYou are a helpful assistant.\nuser\nTranslate the English speech into German.\nassistant\nmodel\n",
    "Der Mann hat das Auto gekauft. Die Frau liest ein Buch, und das Kind spielt im Garten für die Ärztin.",
)

# Templates of LLaMA-Factory 0.9.5 that take audio, and why one has no checkpoint here.
UNTESTED = {
    "minicpm_o": "its model, tokenizer and processor classes are no part of transformers: they are Python files beside "
    "the weights on the hub (trust_remote_code), and the copies of those files elsewhere import names that "
    "transformers 5 has dropped (LogitsWarper, WHISPER_ATTENTION_CLASSES)",
}


def write_checkpoint(template: str, folder: Path, **options: Any) -> Path:
    """Write the tiny model that goes with a template of LLaMA-Factory; `talks=True` for a whole Omni model."""
    torch.manual_seed(SEED)
    _WRITERS[template](folder, **options)
    return folder


def missing_package(template: str) -> str | None:
    """What `pip install` would have to add before this architecture can be built."""
    return "timm" if template == "gemma3n" and importlib.util.find_spec("timm") is None else None


def _save(model: Any, processor: Any, folder: Path) -> None:
    _spread(model)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def _spread(model: nn.Module) -> None:
    """Weights so large that a wrong position or a foreign audio moves the probabilities far beyond rounding."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_()


# Qwen


def _byte_level_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a small byte-level BPE."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    return _vocabulary(bpe)


def _vocabulary(bpe: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _qwen_tokenizer(named: dict[str, str], others: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE with ChatML's tokens, those that a processor asks for by name, and more."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _byte_level_vocabulary()
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]}, replace_extra_special_tokens=False)
    tokenizer.add_tokens(list(others))
    return tokenizer


def _whisper_extractor(seconds: int) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=seconds)


def _qwen_text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }


def _whisper_encoder(**more: Any) -> dict[str, Any]:
    return {
        "num_mel_bins": MEL_BINS,
        "d_model": HIDDEN,
        "encoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 2 * HIDDEN,
        **more,
    }


def _write_qwen2_audio(folder: Path) -> None:
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    seconds = 6
    named = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    tokenizer = _qwen_tokenizer(named)
    config = Qwen2AudioConfig(
        audio_config=_whisper_encoder(model_type="qwen2_audio_encoder", max_source_positions=50 * seconds),
        text_config=_qwen_text(tokenizer, model_type="qwen2"),
        audio_token_index=tokenizer.audio_token_id,
        audio_token_id=tokenizer.audio_token_id,
    )
    processor = Qwen2AudioProcessor(feature_extractor=_whisper_extractor(seconds), tokenizer=tokenizer)
    _save(Qwen2AudioForConditionalGeneration(config), processor, folder)


def _omni_processor(kind: Any, tokenizer: Any, patch_size: int, seconds: int) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": IMAGE**2, "longest_edge": IMAGE**2}
    return kind(
        image_processor=Qwen2VLImageProcessor(patch_size=patch_size, size=size),
        video_processor=Qwen2VLVideoProcessor(patch_size=patch_size, size=size),
        feature_extractor=_whisper_extractor(seconds),
        tokenizer=tokenizer,
    )


def _omni_ids(tokenizer: Any) -> dict[str, int]:
    return {
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "audio_end_token_id": tokenizer.audio_eos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
    }


_QWEN2_TALKER = {
    "vocab_size": 64,
    "embedding_size": HIDDEN,
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1_000_000.0},
}
_QWEN2_VOCODER = {
    "dit_config": {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "head_dim": 16,
        "emb_dim": HIDDEN,
        "num_embeds": 65,
        "mel_dim": 16,
        "enc_emb_dim": 16,
        "enc_dim": 16,
        "enc_channels": [16, 16, 16, 16, 48],
        "enc_attention_channels": 8,
        "enc_res2net_scale": 2,
        "enc_se_channels": 8,
    },
    "bigvgan_config": {"mel_dim": 16, "upsample_initial_channel": 64},
}


def _write_qwen2_omni(folder: Path, *, talks: bool = False) -> None:
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration, Qwen2_5OmniProcessor

    tokenizer = _qwen_tokenizer(
        {
            "image_token": "<|IMAGE|>",
            "audio_token": "<|AUDIO|>",
            "video_token": "<|VIDEO|>",
            "vision_bos_token": "<|vision_bos|>",
            "vision_eos_token": "<|vision_eos|>",
            "audio_bos_token": "<|audio_bos|>",
            "audio_eos_token": "<|audio_eos|>",
        }
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1_000_000.0}
    vision = {
        "depth": 1,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": HEADS,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [0],
    }
    thinker = {
        "audio_config": _whisper_encoder(output_dim=HIDDEN),
        "vision_config": vision,
        "text_config": _qwen_text(tokenizer, rope_parameters=rope),
        "audio_token_index": tokenizer.audio_token_id,
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        **_omni_ids(tokenizer),
    }
    # LLaMA-Factory drops the talker as soon as it has loaded it; so it is here for what loading alone depends on.
    voice = {"talker_config": _QWEN2_TALKER, "token2wav_config": _QWEN2_VOCODER} if talks else {}
    config = Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=talks, **voice)
    processor = _omni_processor(Qwen2_5OmniProcessor, tokenizer, patch_size=14, seconds=30)
    _save(Qwen2_5OmniForConditionalGeneration(config), processor, folder)
    torch.save({}, folder / "spk_dict.pt")  # the talker's voices; transformers wants the file


_QWEN3_TALKER = {
    "num_code_groups": 4,
    "thinker_hidden_size": HIDDEN,
    "accept_hidden_layer": 1,
    "speaker_id": {"ethan": 0},
    "spatial_merge_size": 2,
    "text_config": {
        "vocab_size": 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": HIDDEN,
        "shared_expert_intermediate_size": HIDDEN,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
            "rope_theta": 1_000_000.0,
        },
    },
    "code_predictor_config": {
        "vocab_size": 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "num_code_groups": 4,
    },
}
_QWEN3_VOCODER = {
    "codebook_size": 64,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 1,
    "num_quantizers": 4,
    "decoder_dim": 32,
}


def _write_qwen3_omni(folder: Path, *, talks: bool = False) -> None:
    from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeProcessor

    tokenizer = _qwen_tokenizer(
        {
            "image_token": "<|image_pad|>",
            "audio_token": "<|audio_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
        others=("<think>", "</think>"),
    )
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 1_000_000.0}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": HIDDEN}
    vision = {
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": HEADS,
        "patch_size": 14,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    # 100 frames to 13 tokens, as LLaMA-Factory counts them; attention in windows of 4 s
    audio = _whisper_encoder(
        output_dim=HIDDEN, n_window=50, n_window_infer=400, conv_chunksize=500, downsample_hidden_size=8
    )
    thinker = {
        "audio_config": audio,
        "vision_config": vision,
        "text_config": _qwen_text(tokenizer, rope_parameters=rope, head_dim=16, **experts),
        "audio_token_id": tokenizer.audio_token_id,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        **_omni_ids(tokenizer),
    }
    voice = {"talker_config": _QWEN3_TALKER, "code2wav_config": _QWEN3_VOCODER} if talks else {}
    config = Qwen3OmniMoeConfig(thinker_config=thinker, enable_audio_output=talks, **voice)
    processor = _omni_processor(Qwen3OmniMoeProcessor, tokenizer, patch_size=14, seconds=30)
    _save(Qwen3OmniMoeForConditionalGeneration(config), processor, folder)


# Gemma


def _gemma_tokenizer(named: dict[str, str], others: tuple[str, ...]) -> Any:
    """BPE over characters with bytes to fall back to; spaces are «▁»."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), *others]
    trainer = trainers.BpeTrainer(vocab_size=len(special) + 100, special_tokens=special, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    vocabulary, merges = _vocabulary(bpe)
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=named)
    tokenizer.add_special_tokens({"additional_special_tokens": list(others)}, replace_extra_special_tokens=False)
    return tokenizer


_GEMMA_TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "hidden_size_per_layer_input": 8,
    # Windows shorter than the prompt, and half of the layers with the keys of earlier ones, as in the released models.
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def _write_gemma3n(folder: Path) -> None:
    from transformers import (
        Gemma3nAudioFeatureExtractor,
        Gemma3nConfig,
        Gemma3nForConditionalGeneration,
        Gemma3nProcessor,
        SiglipImageProcessor,
    )

    # Ids from `words` on are embedded by the vision tower's table, then by the audio tower's; its last one is padding.
    named = {
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>",
        "boi_token": "<start_of_image>",
        "boa_token": "<start_of_audio>",
    }
    inside = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<start_of_audio>")
    tokenizer = _gemma_tokenizer(named, inside)
    words = tokenizer.eoi_token_id
    text = {
        **_GEMMA_TEXT,
        "vocab_size": words + 5,
        "vocab_size_per_layer_input": words,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    }
    audio = {
        "vocab_offset": words + 2,
        "vocab_size": 3,
        "input_feat_size": MEL_BINS,
        "hidden_size": HIDDEN,
        "conf_num_attention_heads": HEADS,
        "conf_num_hidden_layers": LAYERS,
        "sscp_conv_channel_size": [8, 4],
    }
    # timm's smallest network where the released model has MobileNet-V5, which comes in one size: 300 million weights.
    vision = {
        "architecture": "test_efficientnet",
        "hidden_size": 256,
        "vocab_offset": words,
        "vocab_size": 2,
        "num_classes": 0,
        "label_names": [],
    }
    config = Gemma3nConfig(
        text_config=text,
        audio_config=audio,
        vision_config=vision,
        vision_soft_tokens_per_image=4,
        **_gemma_ids(tokenizer),
        eoa_token_id=tokenizer.eoa_token_id,
    )
    processor = Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(feature_size=MEL_BINS),
        image_processor=SiglipImageProcessor(size={"height": 64, "width": 64}),
        tokenizer=tokenizer,
        image_seq_length=4,
    )
    _save(Gemma3nForConditionalGeneration(config), processor, folder)


def _gemma_ids(tokenizer: Any) -> dict[str, int]:
    names = ("boi_token_id", "eoi_token_id", "image_token_id", "boa_token_id", "audio_token_id")
    return {name: getattr(tokenizer, name) for name in names}


def _write_gemma4n(folder: Path) -> None:
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    named = {
        "boi_token": "<|image>",
        "image_token": "<|image|>",
        "eoi_token": "<image|>",
        "boa_token": "<|audio>",
        "audio_token": "<|audio|>",
        "eoa_token": "<audio|>",
    }
    inside = ("<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", "<|video|>")
    tokenizer = _gemma_tokenizer(named, inside)
    text = {
        **_GEMMA_TEXT,
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        "global_head_dim": 32,
        "use_double_wide_mlp": True,
        "final_logit_softcapping": 30.0,
    }
    audio = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "output_proj_dims": HIDDEN,
        "subsampling_conv_channels": [MEL_BINS, 4],  # transformers takes the first for the number of mel bins, too
    }
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 64,
    }
    config = Gemma4Config(
        text_config=text,
        audio_config=audio,
        vision_config=vision,
        **_gemma_ids(tokenizer),
        eoa_token_index=tokenizer.eoa_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(feature_size=MEL_BINS),
        image_processor=Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(patch_size=4),
    )
    _save(Gemma4ForConditionalGeneration(config), processor, folder)


_WRITERS: dict[str, Callable[..., None]] = {
    "qwen2_audio": _write_qwen2_audio,
    "qwen2_omni": _write_qwen2_omni,
    "qwen3_omni": _write_qwen3_omni,
    "qwen3_omni_nothink": _write_qwen3_omni,
    "gemma3n": _write_gemma3n,
    "gemma4n": _write_gemma4n,
}
TEMPLATES = tuple(_WRITERS)
