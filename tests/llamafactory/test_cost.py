"""Estimated operations against those that PyTorch counts in the model itself, and against what the engine does."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import write_checkpoint
from torch.utils.flop_counter import FlopCounterMode

from simulsa_plugin.audio.samples import from_pcm16, to_pcm16
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.model_size import qwen2_audio_7b, size_of
from simulsa_plugin.model.cost import Layers, ModelSize, Utterance, decoding_work, scoring_work
from simulsa_plugin.model.values import GenerationRequest, Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

ASK = Prompt(({"role": "user", "content": PROMPT},))
DEMO = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}


def load(template, folder):
    """A tiny model whose attention PyTorch can count."""
    keys = DEMO if template == "demo" else {"model_name_or_path": str(write_checkpoint(template, folder / "model"))}
    loaded = load_backbone(inference_arguments({"template": template} | keys))
    for module in loaded.model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = "eager"
    return loaded


def counted(call):
    """Operations of a call, in modules that have weights and outside of them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(("template", "tolerance"), [("demo", 0.02), ("qwen2_audio", 0.02), ("qwen2_omni", 0.08)])
def test_scoring_a_clip_takes_the_estimated_operations(template, tolerance, tmp_path):
    """Omni models also encode the blank image that LLaMA-Factory adds to every batch."""
    loaded = load(template, tmp_path)
    clip = (0.1 * np.random.default_rng(0).standard_normal(64_000)).astype(np.float32)
    rendered = loaded.render(ASK, clip, "Der Hund hat das alte Haus gesehen.")
    audio_tokens = loaded._adapter.num_tokens(len(clip))
    one = Utterance(4.0, len(rendered.prompt_ids) - audio_tokens, audio_tokens, len(rendered.content_ids))
    expected = scoring_work(size_of(loaded.model, loaded.processor), [one]).flop
    features = counted(lambda: loaded._collate([list(rendered.prompt_ids)], [clip], padding_side="right"))
    found = counted(lambda: loaded.score([rendered], [clip])) - features
    assert found == pytest.approx(expected, rel=tolerance)


def test_of_a_mixture_of_experts_those_that_a_token_meets_are_counted(tmp_path):
    loaded = load("qwen3_omni", tmp_path)
    decoder = loaded.decoder._decoder
    linear = sum(weight.numel() for name, weight in decoder.named_parameters() if "experts" not in name)
    experts = sum(weight.numel() for name, weight in decoder.named_parameters() if "experts" in name)
    share = decoder.config.num_experts_per_tok / decoder.config.num_experts
    assert 0 < share < 1
    expected = linear - decoder.embed_tokens.weight.numel() + share * experts
    assert size_of(loaded.model, loaded.processor).language_model.parameters == expected


def test_a_decode_step_takes_the_estimated_operations_and_its_cache_the_estimated_bytes(tmp_path):
    loaded = load("demo", tmp_path)
    size = size_of(loaded.model, loaded.processor)
    embedding = loaded.model.config.text_config.hidden_size * size.dtype_bytes  # of the prompt, kept beside the cache
    assert size.bytes_per_token + embedding == loaded.bytes_per_token
    clip = from_pcm16(to_pcm16(next(iter(iterate_utterances("test", 1))).waveform))
    prompts = loaded.encode_prompts([loaded.render_prompt(ASK, clip)], [clip])
    endless = {"stopping_criterion": lambda new: False}
    few, more = (
        counted(lambda count=count: loaded.generate(prompts, [GenerationRequest(max_new_tokens=count, **endless)]))
        for count in (1, 6)
    )
    length = len(prompts[0].embeddings)
    expected = sum(size.language_model.flop(1, length + token) + 2 * size.output_parameters for token in range(1, 6))
    assert more - few == pytest.approx(expected, rel=0.02)


def test_decoding_takes_about_the_estimated_passes(monkeypatch):
    loaded = load_backbone(inference_arguments(DEMO))
    utterances = list(iterate_utterances("test", 60))
    sources = [StreamSource(ASK, from_pcm16(to_pcm16(one.waveform))) for one in utterances]
    cells = [DecodingSetting(Offline(), None)]
    cells += [DecodingSetting(Rollback(b), k) for k in (500, 1000, 1500, 2000) for b in (0, 3, 5)]
    passes, hidden_states = [], loaded.decoder.hidden_states

    def noted(embeddings, mask, position_ids, cache):
        tokens = embeddings.shape[1]
        itself = mask[:, 0, :, -tokens:].diagonal(dim1=1, dim2=2) == 0  # padding does not attend to itself
        passes.append((tokens, int(itself.sum())))
        return hidden_states(embeddings, mask, position_ids, cache)

    monkeypatch.setattr(loaded.decoder, "hidden_states", noted)
    decode_batched(loaded, sources, cells, BatchLimits(64))
    shape = [
        Utterance(
            len(source.waveform) / 16_000,
            len(loaded.render_prompt(ASK, source.waveform)) - loaded._adapter.num_tokens(len(source.waveform)),
            loaded._adapter.num_tokens(len(source.waveform)),
            len(loaded.tokenizer(one.sentence.target_text)["input_ids"]),
        )
        for source, one in zip(sources, utterances, strict=True)
    ]
    # Of a model with one parameter, which takes two operations for each token.
    token = ModelSize(1, Layers(0), Layers(1), 0, 1)
    work = decoding_work(token, shape, [cell.chunk_ms and cell.chunk_ms / 1000 for cell in cells], 64)
    read = sum(tokens for length, tokens in passes if length > 1)
    steps = sum(length == 1 for length, _ in passes)
    assert work.flop / 2 == pytest.approx(read, rel=0.2)  # what all prompts begin with is read once
    assert work.decode_steps == pytest.approx(steps, rel=0.25)


def test_the_published_model_has_the_published_number_of_parameters():
    """Qwen2-Audio-7B is said to have 8.2 billion parameters (arXiv 2407.10759, section 2), the encoder 640 million."""
    from transformers import Qwen2AudioForConditionalGeneration

    with torch.device("meta"):
        size = size_of(Qwen2AudioForConditionalGeneration(qwen2_audio_7b()))
    assert size.parameters == pytest.approx(8.2e9, rel=0.03)
    assert size.encoder.parameters == pytest.approx(640e6, rel=0.03)
    assert (size.language_model.count, size.encoder.count, size.dtype_bytes) == (32, 32, 2)
