"""The packaged checkpoint behind the protocol, against plain transformers and LLaMA-Factory's processor."""

import dataclasses
import unicodedata

import numpy as np
import pytest
import torch
from helpers.fakes import generate_all, write_noise
from tokenizers import normalizers

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import to_pcm16, write_wav
from simulsa_plugin.demo.checkpoint import checkpoint_path
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.errors import ModelError, UsageError
from simulsa_plugin.llamafactory.data.rendering import TemplateRenderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.model.values import Prompt

ASK = Prompt(({"role": "user", "content": PROMPT},))
RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
UTTERANCES = 32


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """(path, waveform, German) of test utterances, each cut where another number of its words has been heard."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for index, utterance in enumerate(iterate_utterances("test", UTTERANCES)):
        end = max(8000, len(utterance.waveform) * (index % 5 + 1) // 5)
        write_wav(folder / f"{index}.wav", to_pcm16(utterance.waveform[:end]))
        path = str(folder / f"{index}.wav")
        found.append((path, read_mono(path), utterance.sentence.target_text))
    return found


@pytest.fixture(scope="module", params=["sdpa", "disabled"], ids=["sdpa", "eager"])
def backbone(request):
    loaded = load_backbone(inference_arguments(RECIPE | {"flash_attn": request.param}))
    assert loaded.model.config._attn_implementation == {"sdpa": "sdpa", "disabled": "eager"}[request.param]
    return loaded


@pytest.fixture(scope="module")
def sdpa():
    return load_backbone(inference_arguments(RECIPE))


@pytest.fixture(scope="module")
def plain():
    """The checkpoint in stock transformers."""
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    model = Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint_path(), dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(checkpoint_path())


@pytest.fixture(scope="module")
def trained(clips, sdpa):
    """(input_ids, labels) of every clip, as LLaMA-Factory's training makes them of the same row."""
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    processor = SupervisedDatasetProcessor(
        template=sdpa.template,
        tokenizer=sdpa.tokenizer,
        processor=sdpa.processor,
        data_args=DataArguments(template="qwen2_audio", cutoff_len=2048),
    )
    columns = {
        "_prompt": [list(ASK.messages)] * len(clips),
        "_response": [[{"role": "assistant", "content": text}] for _, _, text in clips],
        "_audios": [[path] for path, _, _ in clips],
    }
    columns |= {
        name: [value] * len(clips)
        for name, value in (("_system", ""), ("_tools", ""), ("_images", None), ("_videos", None))
    }
    rows = processor.preprocess_dataset(columns)
    return list(zip(rows["input_ids"], rows["labels"], strict=True))


def features(processor, waveform):
    extracted = processor.feature_extractor(
        waveform, sampling_rate=16_000, return_attention_mask=True, padding="max_length", return_tensors="pt"
    )
    return {"input_features": extracted["input_features"], "feature_attention_mask": extracted["attention_mask"]}


def test_prompt_content_and_end_are_what_training_labels(backbone, clips, trained):
    end = backbone.tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    for (_, waveform, text), (input_ids, labels) in zip(clips, trained, strict=True):
        rendered = backbone.render(ASK, waveform, text)
        assert [*rendered.prompt_ids, *rendered.content_ids, *end] == input_ids
        assert [label for label in labels if label != -100] == [*rendered.content_ids, *end]
        assert backbone.render_prompt(ASK, waveform) == rendered.prompt_ids


@torch.inference_mode()
def test_scores_are_those_of_a_plain_forward_pass_over_trainings_own_input(backbone, plain, clips, trained):
    model, processor = plain
    rendered = [backbone.render(ASK, waveform, text) for _, waveform, text in clips]
    scores = backbone.score(rendered, [waveform for _, waveform, _ in clips])
    for (_, waveform, _), (input_ids, labels), score in zip(clips, trained, scores, strict=True):
        ids = torch.tensor([input_ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **features(processor, waveform)).logits[0]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        places = [place for place, label in enumerate(labels) if label != -100]
        content, eos = places[:-2], places[-2]  # the end of turn is «<|im_end|>» and a line feed
        expected = [logprobs[place - 1, input_ids[place]].item() for place in content]
        np.testing.assert_allclose(score.logprobs, expected, atol=1e-4)
        assert score.eos_logprob == pytest.approx(logprobs[eos - 1, input_ids[eos]].item(), abs=1e-4)
        assert list(score.greedy) == [logprobs[place - 1].argmax().item() for place in content]
        assert max(score.logprobs) <= 0


def test_a_batch_scores_as_its_rows_alone(backbone, clips):
    rendered = [backbone.render(ASK, waveform, text) for _, waveform, text in clips]
    waveforms = [waveform for _, waveform, _ in clips]
    together = backbone.score(rendered, waveforms)
    for one, waveform, score in zip(rendered, waveforms, together, strict=True):
        (alone,) = backbone.score([one], [waveform])
        np.testing.assert_allclose(score.logprobs, alone.logprobs, atol=1e-4)
        assert score.eos_logprob == pytest.approx(alone.eos_logprob, abs=1e-4)
        assert len(score.logprobs) == len(score.greedy) == len(one.content_ids)


def test_logits_of_answers_alone_are_computed(backbone, clips):
    computed = []
    hook = backbone.model.get_output_embeddings().register_forward_hook(
        lambda layer, inputs, logits: computed.append(tuple(logits.shape))
    )
    rendered = [backbone.render(ASK, waveform, text) for _, waveform, text in clips]
    try:
        backbone.score(rendered, [waveform for _, waveform, _ in clips])
    finally:
        hook.remove()
    # each token of an answer, and the end of turn after it
    assert computed == [(sum(len(one.content_ids) + 1 for one in rendered), backbone.output_width)]


def test_the_audio_is_what_is_scored(sdpa, clips):
    # A model that ignored the audio would pass everything above.
    _, waveform, text = clips[4]  # heard whole
    rendered = sdpa.render(ASK, waveform, text)
    ((right,), (wrong,)) = sdpa.score([rendered], [waveform]), sdpa.score([rendered], [waveform[::-1].copy()])
    assert sum(right.logprobs) > sum(wrong.logprobs) + 5


@torch.inference_mode()
def test_continuations_are_generates_one_by_one(backbone, plain, clips, trained):
    model, processor = plain
    stop = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompts = [backbone.render_prompt(ASK, waveform) for _, waveform, _ in clips]
    prefixes = [
        backbone.render(ASK, waveform, text).content_ids[: index % 7] for index, (_, waveform, text) in enumerate(clips)
    ]
    found = generate_all(backbone, prompts, [waveform for _, waveform, _ in clips], prefixes, 64)
    for (_, waveform, _), prompt, prefix, one in zip(clips, prompts, prefixes, found, strict=True):
        ids = torch.tensor([[*prompt, *prefix]])
        generated = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **features(processor, waveform),
            do_sample=False,
            max_new_tokens=64,
            eos_token_id=stop,
        )[0, ids.shape[1] :].tolist()
        assert one.token_ids == tuple(generated[: generated.index(stop)])
        assert not one.truncated
    assert len({one.token_ids for one in found}) > UTTERANCES // 2


def test_whole_utterances_are_translated(sdpa, clips):
    whole = clips[4::5]  # those that were not cut
    prompts = [sdpa.render_prompt(ASK, waveform) for _, waveform, _ in whole]
    found = generate_all(sdpa, prompts, [waveform for _, waveform, _ in whole], [()] * len(whole), 64)
    right = sum(sdpa.decode(one.token_ids) == text for one, (_, _, text) in zip(found, whole, strict=True))
    assert right >= len(whole) - 1  # 99.6 BLEU on held-out utterances


def test_the_limit_on_new_tokens_is_said(sdpa, clips):
    _, waveform, _ = clips[4]
    prompt = sdpa.render_prompt(ASK, waveform)
    length = len(generate_all(sdpa, [prompt], [waveform], [()], 64)[0].token_ids)
    for limit, truncated in ((length - 1, True), (length, True), (length + 1, False)):  # the end of turn takes one
        (one,) = generate_all(sdpa, [prompt], [waveform], [()], limit)
        assert (len(one.token_ids), one.truncated) == (min(limit, length), truncated)


@pytest.mark.parametrize(
    "defaults",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 40},
        {"num_beams": 4},
        {"do_sample": True, "temperature": 5.0},
    ],
)
def test_a_checkpoints_generation_defaults_do_not_bend_greedy_search(sdpa, clips, defaults):
    waveforms = [waveform for _, waveform, _ in clips[4:24:5]]
    prompts = [sdpa.render_prompt(ASK, waveform) for waveform in waveforms]
    expected = generate_all(sdpa, prompts, waveforms, [()] * 4, 64)
    before = sdpa.model.generation_config
    sdpa.model.generation_config = changed = type(before)(**before.to_diff_dict() | defaults)
    try:
        assert generate_all(sdpa, prompts, waveforms, [()] * 4, 64) == expected
        assert sdpa.model.generation_config is changed  # and the model is handed back as it was
    finally:
        sdpa.model.generation_config = before


@pytest.mark.parametrize("text", ["Straße für die Ärztin", "über", "你好 🙂", "ein  Haus \n", "Mu\u0308ll"])
def test_char_ends_count_whole_characters(sdpa, clips, text):
    rendered = sdpa.render(ASK, clips[0][1], text)
    pieces = [sdpa.tokenizer.convert_ids_to_tokens(token) for token in rendered.content_ids]
    assert sdpa.decode(rendered.content_ids) == text
    # From the bytes behind each token (byte-level BPE spells them as letters), not from the decoder.
    spelling = {letter: byte for byte, letter in _byte_letters().items()}
    heard = b""
    for piece, end in zip(pieces, rendered.char_ends, strict=True):
        heard += bytes(spelling[letter] for letter in piece)
        try:
            assert end == len(heard.decode())
        except UnicodeDecodeError:
            assert end is None


NFD = unicodedata.normalize("NFD", "Die Ärztin fährt für das Kind nach München")


@pytest.mark.parametrize(
    ("normalizer", "reference"),
    [
        (normalizers.NFC(), NFD),
        (normalizers.NFC(), "Tiếng Việt".replace("ế", "e\u0302\u0301")),
        (normalizers.NFC(), "한국어".replace("한", "\u1112\u1161\u11ab")),
        (normalizers.NFD(), "Die Ärztin fährt"),
        (normalizers.NFKC(), "ﬁnden Ｄｅｒ ½ …"),
        (normalizers.Lowercase(), "Der Große Mann"),
        (normalizers.Strip(), "  Der Mann \n"),
        (normalizers.Replace("``", '"'), "``Der Mann``"),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "Die Ärztin fährt"),
    ],
    ids=str,
)
def test_char_ends_are_places_in_the_reference_whatever_the_tokenizer_normalizes(
    sdpa, clips, monkeypatch, normalizer, reference
):
    monkeypatch.setattr(sdpa.tokenizer.backend_tokenizer, "normalizer", normalizer)
    renderer = TemplateRenderer(sdpa.tokenizer, sdpa.processor, sdpa.template, {})
    rendered = renderer.render(ASK, clips[0][1], reference)
    assert renderer.decode(rendered.content_ids) == normalizer.normalize_str(reference) != reference
    expected = []
    for count in range(1, len(rendered.content_ids) + 1):
        text = renderer.decode(rendered.content_ids[:count])
        # tokenizers' own normalizer says which beginnings of the reference become this text.
        expected += [next((end for end in range(len(reference) + 1)
                           if normalizer.normalize_str(reference[:end]) == text
                           and not unicodedata.combining(reference[end : end + 1] or "x")), None)]  # fmt: skip
    assert list(rendered.char_ends) == expected
    assert expected[-1] == len(reference.rstrip() if isinstance(normalizer, normalizers.Strip) else reference)


def test_a_decomposed_reference_keeps_as_many_tokens_as_the_composed_one(sdpa, clips, monkeypatch):
    monkeypatch.setattr(sdpa.tokenizer.backend_tokenizer, "normalizer", normalizers.NFC())
    composed, decomposed = (sdpa.render(ASK, clips[0][1], unicodedata.normalize(form, NFD)) for form in ("NFC", "NFD"))
    assert decomposed.content_ids == composed.content_ids
    assert [end is None for end in decomposed.char_ends] == [end is None for end in composed.char_ends]
    assert sdpa.unstable_prefixes(decomposed, NFD) == ()
    for end, other in zip(composed.char_ends, decomposed.char_ends, strict=True):
        if end is not None:
            assert unicodedata.normalize("NFC", NFD[:other]) == unicodedata.normalize("NFC", NFD)[:end]
            assert not unicodedata.combining(NFD[other : other + 1] or "x")


def _byte_letters():
    """GPT-2's spelling of bytes (Radford et al. 2019, `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def test_a_system_prompt_is_rendered(sdpa, clips):
    waveform = clips[0][1]
    own = sdpa.render_prompt(dataclasses.replace(ASK, system="Sei kurz."), waveform)
    assert "Sei kurz." in sdpa.tokenizer.decode(own)
    assert "Sei kurz." not in sdpa.tokenizer.decode(sdpa.render_prompt(ASK, waveform))


def test_the_template_does_not_carry_a_prompt_without_its_audio(sdpa, clips):
    with pytest.raises(ModelError, match="the template refuses the prompt"):
        sdpa.render_prompt(Prompt(({"role": "user", "content": "<audio><audio>Translate."},)), clips[0][1])


def test_what_the_model_is_stands_in_its_description(sdpa):
    description = sdpa.describe()
    assert description["model"] == str(checkpoint_path())
    assert (description["template"], description["dtype"], description["device"]) == ("qwen2_audio", "float32", "cpu")
    assert sdpa.window_seconds == 6.0
    assert sdpa.output_width == sdpa.model.get_output_embeddings().weight.shape[0]


def test_weights_trained_again_are_another_model(sdpa):
    before = sdpa.describe()
    assert sdpa.describe() == before
    weight = sdpa.model.get_output_embeddings().weight
    with torch.no_grad():
        weight[0, 0] += 0.25
        try:
            assert sdpa.describe()["weights"] != before["weights"]
        finally:
            weight[0, 0] -= 0.25
    assert sdpa.describe() == before


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model_name_or_path": None}, UsageError, "The recipe has no model_name_or_path"),
        ({"template": None}, UsageError, "The recipe has no template"),
        ({"template": "qwen3"}, ModelError, "The template qwen3 takes no audio"),
        ({"template": "qwen9_audio"}, ModelError, "qwen9_audio"),
        ({"model_name_or_path": "/no/such/model"}, ModelError, "Cannot load the model /no/such/model"),
        ({"adapter_name_or_path": "/no/such/adapter"}, ModelError, "/no/such/adapter"),
        ({"modle": "x"}, UsageError, "Unknown key modle"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(change, error, said):
    recipe = {key: value for key, value in (RECIPE | change).items() if value is not None}
    with pytest.raises(error, match=said) as caught:
        load_backbone(inference_arguments(recipe))
    assert "\n" not in str(caught.value)


def test_very_short_audio_does_not_break_a_batch(sdpa, tmp_path):
    # transformers' merge of audio and text fails where every row has a single audio token; 150 ms are 3.
    waveforms = [read_mono(write_noise(tmp_path / f"{i}.wav", 0.15, seed=i)) for i in range(2)]
    prompts = [sdpa.render_prompt(ASK, waveform) for waveform in waveforms]
    assert len(generate_all(sdpa, prompts, waveforms, [()] * 2, 4)) == 2
