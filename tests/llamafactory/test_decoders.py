"""Faster paths against transformers' own: encoders as short as the audio, prompts read once, drafts, batches."""

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor
from transformers.cache_utils import Cache, DynamicLayer

from simulsa_plugin.audio.samples import from_pcm16, to_pcm16
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.errors import ModelError
from simulsa_plugin.llamafactory.data.rendering import load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.audio_encoder import Qwen2AudioAdapter
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.batched_decoding import SharedPromptDecoder
from simulsa_plugin.llamafactory.model.features import UnpaddedWhisperFeatureExtractor, batch_window
from simulsa_plugin.llamafactory.model.kv_cache import PreallocatedCacheLayer
from simulsa_plugin.llamafactory.model.plain_decoding import _GreedyRecorder
from simulsa_plugin.model.values import GenerationRequest, Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched, decode_timed
from simulsa_plugin.streaming.policies import (
    AgreementOrConfidence,
    Attention,
    Confidence,
    HoldN,
    LocalAgreement,
    Offline,
    Retranslation,
    Rollback,
    WaitK,
)
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
ASK = Prompt(({"role": "user", "content": PROMPT},))
LENGTHS = (2400, 2401, 8000, 15_999, 16_320, 47_999, 80_000, 96_000)
HEADS = ((1, 1), (2, 2))
POLICIES = [
    *(DecodingSetting(Rollback(b), k) for k in (500, 1000) for b in (0, 3)),
    *(DecodingSetting(policy, 700) for policy in (Rollback(3, floor=False), Confidence(0.9), Confidence(0.9, 3),
                                       AgreementOrConfidence(2, 0.9), Attention(320), HoldN(3), LocalAgreement(2),
                                       LocalAgreement(3), WaitK(2), WaitK(3, "char"), Retranslation())),
    DecodingSetting(Offline(), None),
]  # fmt: skip


@pytest.fixture(scope="module")
def fast():
    loaded = load_backbone(inference_arguments(RECIPE))
    assert isinstance(loaded.decoder, SharedPromptDecoder)
    loaded.set_alignment_heads(HEADS)
    return loaded


@pytest.fixture(scope="module")
def stock():
    """The same weights as transformers has them: whole windows, `generate`, nothing shared."""
    arguments = inference_arguments(RECIPE)
    loaded = Backbone(load_backbone(arguments).model, load_renderer(arguments), adapts=False)
    loaded.set_alignment_heads(HEADS)
    return loaded


@pytest.fixture(scope="module")
def waveforms():
    return [from_pcm16(to_pcm16(utterance.waveform)) for utterance in iterate_utterances("test", 200)]


def noise(length, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)


# Features


@pytest.mark.parametrize("options", [{"feature_size": 128}, {"feature_size": 80, "hop_length": 320, "chunk_length": 6}])
@pytest.mark.parametrize("length", [1, 160, 399, 400, 401, 16_000, 95_999, 96_000, 96_001, 500_000])
def test_short_features_are_those_of_the_whole_window(options, length):
    batch = [noise(length), noise(max(1, length // 3), seed=1), np.zeros(length, dtype=np.float32)]
    call = {"sampling_rate": 16_000, "return_attention_mask": True, "padding": "max_length", "return_tensors": "np"}
    whole = WhisperFeatureExtractor(**options)(batch, **call)
    short = UnpaddedWhisperFeatureExtractor(**options)(batch, **call)
    # A processor may multiply small matrices in another order than large ones: the last bit differs on some.
    assert np.allclose(whole["input_features"], short["input_features"], rtol=0, atol=1e-6)
    assert np.array_equal(whole["attention_mask"], short["attention_mask"])


@pytest.mark.parametrize("kind", [WhisperFeatureExtractor, UnpaddedWhisperFeatureExtractor])
@pytest.mark.parametrize("options", [{"chunk_length": 300}, {"feature_size": 80, "hop_length": 320, "chunk_length": 6}])
@pytest.mark.parametrize("length", [1, 160, 399, 400, 401, 16_000, 16_100, 95_999, 96_000, 96_001, 500_000])
def test_features_padded_to_the_longest_clip_are_those_of_the_whole_window(kind, options, length):
    extractor = kind(**options)
    batch = [noise(length), noise(max(1, length // 3), seed=1)]
    call = {"sampling_rate": 16_000, "return_attention_mask": True, "padding": "max_length", "return_tensors": "np"}
    whole = extractor(batch, **call)
    with batch_window(extractor, batch):
        short = extractor(batch, **call)
    frames, window = short["input_features"].shape[-1], whole["input_features"].shape[-1]
    assert frames <= min(window, -(-length // extractor.hop_length) + 9)
    assert np.allclose(whole["input_features"][..., :frames], short["input_features"], rtol=0, atol=1e-6)
    assert np.array_equal(whole["attention_mask"][:, :frames], short["attention_mask"])
    assert not whole["attention_mask"][:, frames:].any()
    # As many frames without sound as the encoders' convolutions, and cutting to multiples of four, look at.
    assert frames == window or frames - whole["attention_mask"].sum(-1).max() >= 6
    assert extractor.n_samples == options["chunk_length"] * 16_000


def test_the_window_is_restored_after_an_error():
    extractor = WhisperFeatureExtractor()
    with pytest.raises(ZeroDivisionError), batch_window(extractor, [noise(8000)]):
        _ = 1 // 0
    assert extractor.n_samples == 480_000


# Encoder


@torch.inference_mode()
def embedded_by_transformers(stock, waveform):
    """(audio tokens, width) as Qwen2-Audio's own forward puts them among the text."""
    seen = []
    hook = stock.model.language_model.model.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["inputs_embeds"]), with_kwargs=True
    )
    ids = list(stock.render_prompt(ASK, waveform))
    try:
        stock.model(**stock._collate([ids], [waveform], padding_side="right"))
    finally:
        hook.remove()
    return seen[0][0][torch.tensor(ids) == stock.model.config.audio_token_id]


@torch.inference_mode()
def test_short_windows_encode_as_whole_ones_do(fast, stock):
    clips = [noise(length, seed=length) for length in LENGTHS]
    together = fast._adapter.embed(clips)
    for clip, of_batch in zip(clips, together, strict=True):
        expected = embedded_by_transformers(stock, clip)
        (alone,) = fast._adapter.embed([clip])
        assert alone.shape == expected.shape
        scale = float(expected.abs().max())
        assert float((alone - expected).abs().max()) < 1e-5 * scale
        assert float((of_batch - expected).abs().max()) < 1e-5 * scale


def test_scores_of_short_windows_are_those_of_whole_ones(fast, stock, waveforms):
    clips = [waveform[: len(waveform) // (1 + number % 4)] for number, waveform in enumerate(waveforms[:12])]
    rendered = [fast.render(ASK, clip, "Der Hund hat das alte Haus gesehen.") for clip in clips]
    for ours, theirs in zip(fast.score(rendered, clips), stock.score(rendered, clips), strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_prompts_are_llamafactorys_for_every_length_and_wording(fast, stock):
    rng = random.Random(0)
    prompts = [ASK, dataclasses.replace(ASK, system="Kurz."), Prompt(({"role": "user", "content": "Say:<audio>"},))]
    for number in range(60):
        clip, prompt = noise(rng.randrange(2400, 110_000)), prompts[number % 3]
        assert fast.render_prompt(prompt, clip) == stock.render_prompt(prompt, clip)


def test_the_model_is_whole_again_after_a_short_window(fast):
    encoder = fast.model.audio_tower
    table, window = encoder.embed_positions, encoder.config.max_source_positions
    fast._adapter.embed([noise(8000)])
    with pytest.raises(ValueError, match="to be of length 300, but found 8"):
        encoder(torch.zeros(1, 3, 8))
    assert (encoder.embed_positions, encoder.config.max_source_positions) == (table, window)


@torch.inference_mode()
def test_an_encoder_of_the_published_width_gives_the_same_in_a_short_window():
    from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

    torch.manual_seed(0)
    encoder = Qwen2AudioEncoder(Qwen2AudioEncoderConfig(encoder_layers=2)).eval()  # 1280 wide, 20 heads, 128 bands
    whole = WhisperFeatureExtractor(feature_size=128)

    class Model:
        audio_tower, multi_modal_projector = encoder, torch.nn.Identity()
        language_model = type("Text", (), {"model": None})

    class Processor:
        feature_extractor = whole

    clips = [noise(48_000), noise(20_000, seed=1)]
    made = whole(clips, sampling_rate=16_000, return_attention_mask=True, padding="max_length", return_tensors="pt")
    heard = (made["attention_mask"].sum(-1) - 1) // 2 + 1
    mask = torch.where(torch.arange(1500) < heard[:, None], 0.0, -torch.inf)[:, None, None].expand(-1, 1, 1500, -1)
    expected = encoder(made["input_features"], attention_mask=mask).last_hidden_state
    for ours, theirs in zip(Qwen2AudioAdapter(Model, Processor).embed(clips), expected, strict=True):
        assert float((ours - theirs[: len(ours)]).abs().max()) < 1e-5 * float(theirs[: len(ours)].abs().max())


# Drafts


@pytest.fixture(scope="module")
def answers(fast, waveforms):
    """(what was read, whole answer) of twelve utterances."""
    clips = waveforms[:12]
    read = fast.encode_prompts([fast.render_prompt(ASK, clip) for clip in clips], clips)
    return list(zip(read, [one.token_ids for one in fast.generate(read, [GenerationRequest()] * 12)], strict=True))


def drafts_for(answer, number, fast):
    rng = random.Random(number)
    stop, media = next(iter(fast.decoder.special.stop)), fast.decoder.special.suppressed[0]
    wrong = tuple(rng.randrange(fast.output_width) for _ in range(rng.randrange(1, 30)))
    half, early = answer[: len(answer) // 2], (*answer[:2], stop)
    return [(), answer, half, wrong, (*answer[:3], *wrong), (*answer, *wrong), early, (media, *answer), answer[:1] * 40]


def test_no_draft_changes_an_answer(fast, answers):
    prompts, requests, expected = [], [], []
    for number, (read, answer) in enumerate(answers):
        for place, draft in enumerate(drafts_for(answer, number, fast)):
            kept = (number + place) % 4
            prompts.append(read)
            requests.append(GenerationRequest(answer[:kept], draft[kept:] if draft[:kept] == answer[:kept] else draft))
            expected.append(answer[kept:])
    assert [one.token_ids for one in fast.generate(prompts, requests)] == expected
    for prompt, request, answer in list(zip(prompts, requests, expected, strict=True))[::7]:
        assert fast.generate([prompt], [request])[0].token_ids == answer


def count_passes(fast, prompts, requests):
    calls, hidden = [], fast.decoder.hidden_states
    fast.decoder.hidden_states = lambda *inputs: calls.append(tuple(inputs[0].shape[:2])) or hidden(*inputs)
    try:
        fast.generate(prompts, requests)
    finally:
        del fast.decoder.hidden_states
    return calls


def test_a_right_draft_is_checked_in_the_pass_that_reads_it(fast, answers):
    read, answer = answers[0]
    # One pass: the prompt, the draft, and the end behind it.
    assert len(count_passes(fast, [read], [GenerationRequest(draft=answer)])) == 1
    assert len(count_passes(fast, [read], [GenerationRequest()])) == 1 + len(answer)
    half = len(answer) // 2
    assert len(count_passes(fast, [read], [GenerationRequest(answer[:2], answer[2:half])])) == 1 + len(answer) - half


def test_the_draft_of_one_request_serves_others_about_the_same_prompt(fast, answers):
    read, answer = answers[0]
    without_draft = [GenerationRequest(), GenerationRequest(answer[:1]), GenerationRequest(max_new_tokens=3)]
    assert len(count_passes(fast, [read] * 4, [*without_draft, GenerationRequest(draft=answer)])) == 1


def test_a_prompt_is_read_once_for_all_its_answers(fast, answers):
    (one, answer), (other, _) = answers[:2]
    wrong = (*answer[:2], 7)
    prefixes = ((), (), answer[:1], answer[:5], wrong)
    calls = count_passes(fast, [one, other, one, one, one], [GenerationRequest(prefix) for prefix in prefixes])
    before_audio = one.embeddings.shape[0] - int(one.audio.sum()) - after_audio(one)
    assert calls[0] == (1, before_audio)  # what both prompts begin with
    # The rest of both prompts; after one of them the longest prefix, which begins with two others, and a wrong token.
    assert calls[1] == (2, max(len(one.audio) + 5 + 1, len(other.audio)) - before_audio)
    assert calls[2] == (3, 1)  # the other prompt; after the longest prefix, where the others are too; the wrong one


def after_audio(prompt):
    return len(prompt.audio) - 1 - int(prompt.audio.nonzero()[-1])


def test_requests_share_a_row_as_long_as_they_are_at_the_same_token(fast, answers):
    read, answer = answers[0]
    thresholds = (None, 0.2, 0.9, 0.99, 1.0)
    requests = [GenerationRequest(min_token_probability=threshold) for threshold in thresholds]
    requests += [GenerationRequest(answer[:2], answer[2:4]), GenerationRequest((), answer[:3], max_new_tokens=4)]
    requests += [GenerationRequest((), (*answer[:2], 7, 8)), GenerationRequest((*answer[:2], 7))]
    alone = [fast.generate([read], [request])[0] for request in requests]
    together = fast.generate([read] * len(requests), requests)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.truncated for one in together] == [one.truncated for one in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
    calls = count_passes(fast, [read] * len(requests), requests)
    # The prompt, four tokens of the answer, and three wrong ones; the first wrong token is one node.
    assert calls[0] == (1, len(read.audio) + 4 + 2)
    assert max(rows for rows, _ in calls[1:]) <= 2  # after the answer's fourth token, and after a wrong one


def test_attention_that_takes_no_dense_mask_is_replaced_while_decoding(fast, answers, monkeypatch):
    read, answer = answers[0]
    config = fast.decoder._decoder.config
    monkeypatch.setattr(config, "_attn_implementation", "flash_attention_2")  # not installed: it would fail
    assert fast.generate([read], [GenerationRequest()])[0].token_ids == answer
    assert config._attn_implementation == "flash_attention_2"


def test_a_model_with_a_sliding_window_is_decoded_by_transformers(fast, monkeypatch):
    attention = fast.decoder._decoder.layers[0].self_attn
    monkeypatch.setattr(attention, "sliding_window", 8, raising=False)  # a dense mask would reach beyond it
    windowed = Backbone(fast.model, fast)
    assert windowed.decoder is windowed.plain_decoder


def test_eager_attention_gets_a_mask_to_add(fast, answers, monkeypatch):
    monkeypatch.setattr(fast.decoder._decoder.config, "_attn_implementation", "eager")
    requests = [GenerationRequest(answer[:2], answer[2:5]) for _, answer in answers[:3]]
    found = fast.generate([read for read, _ in answers[:3]], requests)
    assert [one.token_ids for one in found] == [answer[2:] for _, answer in answers[:3]]


def drawn_requests(data, answer):
    """Requests about one prompt whose prefixes and drafts follow the answer, or leave it."""
    kept = data.draw(st.integers(0, len(answer)))
    drafted = data.draw(st.integers(0, 6))
    tokens = list(answer[: kept + drafted])
    wrong = data.draw(st.none() | st.integers(0, max(0, len(tokens) - 1)))
    if wrong is not None and tokens:
        tokens[wrong] = data.draw(st.sampled_from([7, 300]))
    return GenerationRequest(
        tuple(tokens[:kept]),
        tuple(tokens[kept:]),
        data.draw(st.sampled_from([None, 0.5, 0.99])),
        max_new_tokens=data.draw(st.sampled_from([1, 3, 256])),
    )


@settings(max_examples=40)
@given(data=st.data())
def test_any_requests_together_are_answered_as_alone(fast, answers, data):
    chosen = [answers[data.draw(st.integers(0, 2))] for _ in range(data.draw(st.integers(1, 12)))]
    prompts, requests = [read for read, _ in chosen], [drawn_requests(data, answer) for _, answer in chosen]
    alone = [fast.generate([read], [request])[0] for read, request in zip(prompts, requests, strict=True)]
    together = fast.generate(prompts, requests)
    assert [(one.token_ids, one.truncated) for one in together] == [(one.token_ids, one.truncated) for one in alone]


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(max_new_tokens=3),
        GenerationRequest(max_new_tokens=1),
        GenerationRequest(min_audio_ahead=0.15),
        GenerationRequest(min_token_probability=0.9),
        GenerationRequest(min_token_probability=0.999),
        GenerationRequest(stopping_criterion=lambda new: len(new) >= 4),
        GenerationRequest(min_token_probability=0.5, stopping_criterion=lambda new: len(new) >= 9, max_new_tokens=9),
    ],
)
def test_answers_end_where_transformers_ends_them(fast, stock, waveforms, request_):
    clips = [waveform[: len(waveform) // 2] for waveform in waveforms[:8]]
    prompts = [fast.render_prompt(ASK, clip) for clip in clips]
    requests = [dataclasses.replace(request_, draft=tuple(range(300, 300 + number))) for number in range(8)]
    expected = stock.generate(stock.encode_prompts(prompts, clips), [request_] * 8)
    found = fast.generate(fast.encode_prompts(prompts, clips), requests)
    assert found == expected
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours.probabilities) == len(ours.token_ids)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


def test_a_prompt_that_does_not_fit_its_audio_is_refused(fast, waveforms):
    prompt = fast.render_prompt(ASK, waveforms[0])
    with pytest.raises(ModelError, match=r"a prompt has \d+ audio tokens for \d+ of the encoder"):
        fast.encode_prompts([prompt], [waveforms[0][:8000]])


def test_the_cache_that_grows_in_steps_is_transformers_own():
    torch.manual_seed(0)
    ours, theirs = Cache(layer_class_to_replicate=PreallocatedCacheLayer), Cache(layer_class_to_replicate=DynamicLayer)
    for number, length in enumerate((5, 1, 1, 40, 1, 1, 33, 1)):
        rows = theirs.layers[0].keys.shape[0] if number else 3
        states = [torch.randn(rows, 2, length, 4) for _ in range(2)]
        for found, expected in zip(ours.update(*states, 0), theirs.update(*states, 0), strict=True):
            assert torch.equal(found, expected)
        if number in (1, 4):
            indices = torch.tensor([0, 2, 2, 1][: 4 - number // 2])
            ours.batch_select_indices(indices)
            theirs.batch_select_indices(indices)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_the_probability_of_the_chosen_token_is_kept_and_no_logits():
    logits = torch.tensor([[4.0, 1.0, 2.0, 3.0], [0.0, 5.0, 0.0, 5.5]])
    for never, best in (((0,), (3, 3)), ((3, 0), (2, 1)), ((), (0, 3))):
        chooser = _GreedyRecorder(never)
        chosen = chooser(None, logits.clone()).argmax(-1)
        assert tuple(chosen.tolist()) == best
        # The softmax is over all tokens, those that are never chosen included.
        expected = torch.softmax(logits, -1)[torch.arange(2), chosen]
        (found,) = chooser.probabilities
        torch.testing.assert_close(found, expected)


# Memory


def limited(monkeypatch, decoder, name, rows, error):
    """Let a method of the decoder run out of memory for more than `rows` rows; the sizes that it is called with."""
    method, sizes = getattr(decoder, name), []

    def work(first, *others):
        sizes.append(len(first))
        if len(first) > rows:
            raise error
        return method(first, *others)

    monkeypatch.setattr(decoder, name, work)
    return sizes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError("Unable to allocate 5.50 GiB for an array with shape (64, 4800000)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["accelerator", "host", "numpy"])
@pytest.mark.parametrize("name", ["encode_prompts", "hidden_states"])
def test_a_batch_that_does_not_fit_is_decoded_in_halves(fast, waveforms, monkeypatch, capfd, name, error):
    sources, cells = sources_of(waveforms[:9]), [POLICIES[1], POLICIES[-1]]
    expected = histories(decode_batched(fast, sources, cells, BatchLimits(64)))
    sizes = limited(monkeypatch, fast.decoder, name, 2, error)
    monkeypatch.setattr(fast, "_split_notified", False)
    assert histories(decode_batched(fast, sources, cells, BatchLimits(64))) == expected
    assert max(sizes) > 2
    (line,) = capfd.readouterr().err.splitlines()  # said once, not for every batch
    assert "does not fit into memory and is decoded in halves" in line


@pytest.mark.parametrize("name", ["encode_prompts", "hidden_states"])
def test_a_single_session_that_does_not_fit_is_one_line(fast, waveforms, monkeypatch, name):
    limited(monkeypatch, fast.decoder, name, 0, OUT_OF_MEMORY[0])
    with pytest.raises(ModelError, match=r"^A single session does not fit into memory\. Take a larger accelerator"):
        decode_batched(fast, sources_of(waveforms[:3]), [POLICIES[0]], BatchLimits(64))


@pytest.mark.parametrize("name", ["encode_prompts", "hidden_states"])
def test_other_errors_are_not_taken_for_a_lack_of_memory(fast, waveforms, monkeypatch, name):
    sizes = limited(monkeypatch, fast.decoder, name, 0, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        decode_batched(fast, sources_of(waveforms[:3]), [POLICIES[-1]], BatchLimits(64))
    assert len(sizes) == 1


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["accelerator", "host", "numpy"])
def test_scores_of_a_single_clip_that_does_not_fit_are_one_line(fast, waveforms, monkeypatch, error):
    sizes = []

    def fail(batch, *_, **__):
        sizes.append(len(batch["input_ids"]))
        raise error

    monkeypatch.setattr(fast, "_forward", fail)
    clips = waveforms[:3]
    rendered = [fast.render(ASK, clip, "Der Hund schläft.") for clip in clips]
    for count in (3, 1):
        with pytest.raises(ModelError, match=r"^A single clip does not fit into memory\. Take a larger accelerator"):
            fast.score(rendered[:count], clips[:count])
    assert sizes == [3, 2, 1, 1]  # in halves first


def test_what_collating_and_encoding_extract_is_as_long_as_the_longest_clip(fast, monkeypatch):
    # 300 s, as Qwen-Omni's extractor: 64 clips of 3 s would take 5.5 GB.
    monkeypatch.setattr(fast.processor.feature_extractor, "n_samples", 300 * 16_000)
    clips = [noise(8000), noise(48_000, seed=1)]
    prompts = [list(fast.render_prompt(ASK, clip)) for clip in clips]
    widths, extract = [], UnpaddedWhisperFeatureExtractor._torch_extract_fbank_features

    def noting(self, waveform, *options):
        widths.append(waveform.shape[-1])
        return extract(self, waveform, *options)

    monkeypatch.setattr(UnpaddedWhisperFeatureExtractor, "_torch_extract_fbank_features", noting)
    fast._adapter.embed(clips)
    batch = fast._collate(prompts, clips, padding_side="right")
    assert batch["input_features"].shape[-1] <= 150 + 6  # the packaged model's frames are 320 samples apart
    assert max(widths) <= 48_000 + 9 * 320


def test_the_encoders_bytes_are_those_on_paper(fast):
    # One layer of the packaged encoder in fp32: 3 s are 150 frames of 320 samples, 75 positions, and 4 more.
    config = fast.model.audio_tower.config
    positions = 79
    layer = positions * (8 * config.d_model + 2 * config.encoder_ffn_dim) * 4 + positions**2 * 4
    # Features: 201 frequencies, complex and as magnitudes, and 64 bands three times.
    features = 150 * (201 * 12 + 64 * 12)
    assert fast.encoding_bytes([48_000]) == layer + features
    assert fast.encoding_bytes([48_000, 8000, 100]) == 3 * (layer + features)  # rows are padded to the longest


def test_the_bytes_of_a_session_are_those_on_paper(fast, stock):
    # Three layers with four heads of 48, keys and values, and an embedding of 192, in fp32; 768 logits three times.
    for model in (fast, stock):
        assert model.bytes_per_token == (2 * 3 * 192 + 192) * 4
        assert model.bytes_per_session == 768 * 12


# Sessions


def histories(decoded):
    return [[[dataclasses.astuple(step) for step in session.steps] for session in sessions] for sessions in decoded]


def alone(model, sources, cells):
    """Step by step, session by session; what was measured is no part of a history."""
    sessions = [
        [decode_timed(model, source, cell, BatchLimits(64), lambda: 0.0) for source in sources] for cell in cells
    ]
    for session in (session for of_cell in sessions for session in of_cell):
        session.steps = [dataclasses.replace(step, compute_ms=None) for step in session.steps]
    return histories(sessions)


def sources_of(waveforms):
    return [StreamSource(ASK, waveform) for waveform in waveforms]


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_no_batch_and_no_order_changes_a_step(fast, waveforms, count):
    sources = sources_of(waveforms[:count])
    cells = [POLICIES[1], *POLICIES[5:11], *POLICIES[-2:]]
    expected = histories(decode_batched(fast, sources, cells, BatchLimits(64, 64)))
    backwards = decode_batched(fast, sources[::-1], cells[::-1], BatchLimits(64, 23))
    assert [sessions[::-1] for sessions in histories(backwards)][::-1] == expected
    tight = decode_batched(fast, sources[:8], cells, BatchLimits(64, 64, memory_bytes=600 * fast.bytes_per_token))
    assert histories(tight) == [sessions[:8] for sessions in expected]


def test_steps_are_those_of_transformers_one_by_one(fast, stock, waveforms):
    sources = sources_of(waveforms[:6])
    assert histories(decode_batched(fast, sources, POLICIES, BatchLimits(64))) == alone(stock, sources, POLICIES)


@pytest.mark.slow
def test_steps_of_200_utterances_are_those_of_transformers_one_by_one(fast, stock, waveforms):
    sources = sources_of(waveforms)
    assert histories(decode_batched(fast, sources, POLICIES, BatchLimits(64))) == alone(stock, sources, POLICIES)


# The model of a training is only borrowed


def state(model):
    """Everything that hangs on a model's modules but for tensors' values: name → (class, attributes)."""
    return {name: (type(module), attributes(module), {key: id(child) for key, child in module._modules.items()},
                   len(module._forward_pre_hooks), len(module._forward_hooks))
            for name, module in model.named_modules()}  # fmt: skip


def attributes(module):
    plain = (int, float, str, bool, tuple, type(None))
    return {key: value if isinstance(value, plain) else id(value) for key, value in vars(module).items()
            if not key.startswith("_")}  # fmt: skip


def test_evaluations_leave_the_model_as_it_was(stock, waveforms):
    model, clips = stock.model, [waveform[:24_000] for waveform in waveforms[:2]]
    before, config = state(model), model.config.to_dict()
    for _ in range(3):
        borrowed = Backbone(model, load_renderer(inference_arguments(RECIPE)))
        sources = [StreamSource(ASK, clip) for clip in clips]
        decode_batched(borrowed, sources, [DecodingSetting(Rollback(3), 500)], BatchLimits())
        decode_timed(borrowed, sources[0], DecodingSetting(Confidence(0.9), 500), BatchLimits())
        rendered = [borrowed.render(ASK, clip, "Der Hund hat das alte Haus gesehen.") for clip in clips]
        borrowed.score(rendered, clips)
        assert state(model) == before
    assert model.config.to_dict() == config


def test_a_failure_in_the_encoder_leaves_it_as_it_was(stock, waveforms):
    encoder = stock.model.audio_tower
    before = state(stock.model)
    borrowed = Backbone(stock.model, load_renderer(inference_arguments(RECIPE)))
    handle = encoder.conv1.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("planted")))
    try:
        with pytest.raises(RuntimeError, match="planted"):
            borrowed._adapter.embed([waveforms[0]])
    finally:
        handle.remove()
    assert state(stock.model) == before


@torch.inference_mode()
def test_a_deep_copy_after_an_evaluation_has_its_own_encoder(stock, waveforms):
    Backbone(stock.model, load_renderer(inference_arguments(RECIPE)))._adapter.embed([waveforms[0]])
    copied = copy.deepcopy(stock.model)
    for weight in copied.audio_tower.parameters():
        weight.zero_()
    (zeros,) = Backbone(copied, load_renderer(inference_arguments(RECIPE)))._adapter.embed([waveforms[0]])
    (kept,) = Backbone(stock.model, load_renderer(inference_arguments(RECIPE)))._adapter.embed([waveforms[0]])
    assert float((zeros[0] - zeros[-1]).abs().max()) == 0  # an encoder of zeros says the same everywhere
    assert float((kept[0] - kept[-1]).abs().max()) > 0
