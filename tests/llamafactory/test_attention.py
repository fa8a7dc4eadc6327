"""Which heads of a model follow the audio, and that watching them leaves nothing behind."""

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2 import modeling_qwen2

from simulsa_plugin.audio.samples import from_pcm16, to_pcm16
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.attention import AudioAttention, concordance, select_alignment_heads
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.model.values import GenerationRequest, Prompt

RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
ASK = Prompt(({"role": "user", "content": PROMPT},))


@pytest.fixture(scope="module")
def model():
    return load_backbone(inference_arguments(RECIPE))


@pytest.fixture(scope="module")
def heard(model):
    """(prompts, waveforms) of eight utterances."""
    clips = [from_pcm16(to_pcm16(utterance.waveform)) for utterance in iterate_utterances("test", 8)]
    return [model.render_prompt(ASK, clip) for clip in clips], clips


def test_concordance_on_paper():
    pace = torch.linspace(0, 1, 5)
    heads = torch.stack([pace, 1 - pace, pace * 0 + 0.5, 0.4 + 0.2 * pace, pace * 0])
    # Half as far from its mean everywhere: 2 · 0.2 · v / (0.04 v + v), with v the variance of the pace.
    assert concordance(heads).tolist() == pytest.approx([1, -1, 0, 0.4 / 1.04, 0])


def test_the_best_head_is_joined_by_those_that_are_nearly_as_good():
    scores = {(0, 0): 0.1, (1, 3): 4.0, (1, 2): 3.3, (2, 0): 3.1}
    assert select_alignment_heads(scores) == ((1, 2), (1, 3))
    assert select_alignment_heads({(0, head): 1.0 for head in range(30)}) == tuple((0, head) for head in range(8))


def test_the_packaged_model_has_a_head_that_follows_the_audio(model, heard):
    assert model.find_alignment_heads(*heard) == ((2, 2),)
    model.set_alignment_heads(((2, 2),))
    # Half of the audio is heard: what it would look for in the other half comes to its end.
    prompts = [model.render_prompt(ASK, clip[: len(clip) // 2]) for clip in heard[1]]
    encoded = model.encode_prompts(prompts, [clip[: len(clip) // 2] for clip in heard[1]])
    lengths = {}
    for ahead in (None, 0.05, 0.25, 0.5):
        answers = model.generate(encoded, [GenerationRequest(min_audio_ahead=ahead)] * 8)
        lengths[ahead] = sum(len(one.token_ids) for one in answers)
    assert lengths[None] > 1.5 * lengths[0.25] > 0
    assert lengths[0.05] >= lengths[0.25] >= lengths[0.5]


@pytest.mark.parametrize("flash_attn", ["sdpa", "disabled"])
def test_nothing_stays_behind_after_an_answer_or_an_error(heard, flash_attn, monkeypatch):
    model = load_backbone(inference_arguments({**RECIPE, "flash_attn": flash_attn}))
    kind = "eager" if flash_attn == "disabled" else "sdpa"
    assert model.model.language_model.config._attn_implementation == kind
    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping), modeling_qwen2.eager_attention_forward
    model.set_alignment_heads(((1, 1), (2, 2)))
    prompts, clips = (column[:3] for column in heard)
    found = [decoder.generate(decoder.encode_prompts(prompts, clips), [GenerationRequest(min_audio_ahead=0.1)] * 3)
             for decoder in (model.decoder, model.plain_decoder)]  # fmt: skip
    assert found[0] == found[1]
    unlimited = model.generate(model.encode_prompts(prompts, clips), [GenerationRequest()] * 3)
    assert [one.token_ids for one in found[0]] != [one.token_ids for one in unlimited]
    monkeypatch.setattr(model.decoder, "greedy_tokens", lambda hidden: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        model.generate(model.encode_prompts(prompts, clips), [GenerationRequest(min_audio_ahead=0.1)] * 3)
    assert (dict(ALL_ATTENTION_FUNCTIONS._local_mapping), modeling_qwen2.eager_attention_forward) == before


def test_attention_is_in_fp32_under_the_autocast_of_a_training(model):
    model.set_alignment_heads(((2, 2),))
    audio, seen = torch.ones((1, 600), dtype=torch.bool), []
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 3, 64), torch.randn(1, 4, 600, 64)
    module = model.model.language_model.model.layers[2].self_attn
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), model._attention.recording(audio) as record:
            record.add(module, query, key, None)
            seen.append(record._layers[0])
    assert torch.equal(*seen)


def test_heads_that_are_not_there_are_refused(model):
    with pytest.raises(UsageError, match=r"names 3/0; allowed: layers 0, 1, 2, heads 0 to 3\.$"):
        model.set_alignment_heads(((1, 1), (3, 0)))
    with pytest.raises(ModelError, match="finds no attention over the whole audio in this model"):
        AudioAttention(torch.nn.Linear(2, 2)).all_heads()


def test_a_prompt_without_an_answer_counts_for_nothing(model):
    silence = np.zeros(4000, dtype=np.float32)
    assert model.find_alignment_heads([model.render_prompt(ASK, silence)], [silence])
