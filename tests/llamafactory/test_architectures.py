"""Every audio architecture of LLaMA-Factory, as a tiny random checkpoint: rendered, scored, continued, cut, trained.

What is right is said by transformers alone: a second copy of the model, and inputs from its own processor.
"""

import contextlib
import copy
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_models
from helpers.fakes import generate_all
from helpers.files import read_json
from helpers.forked_programs import run_program
from offline_data import SHAREGPT, make_folder, register, turns, write_rows

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import to_pcm16, write_wav
from simulsa_plugin.commands import augment, evaluate
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.files.json_files import write_json
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.counted_prompts import load_counting_renderer
from simulsa_plugin.llamafactory.patches.batch_invariance import make_batch_invariant
from simulsa_plugin.model.values import GenerationRequest, Prompt

ASK = "<audio>Translate the English speech into German."
PROMPT = Prompt(({"role": "user", "content": ASK},))
# No shorter than the pieces of Qwen3-Omni's encoder, which pads less otherwise alone: see `TestCompany`.
SECONDS = (1.0, 2.53, 1.7, 3.7)
NEW_TOKENS = 12
TRAINING = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "freeze_vision_tower": False,
    "freeze_multi_modal_projector": False,
    "dataset": "toy,toy_simulsa",
    "dataset_dir": "out",
    "cutoff_len": 1024,
    "preprocessing_num_workers": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 3,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "output_dir": "trained",
}
MEDIA = ("audio_token", "image_token", "video_token")


class Architecture:
    """A tiny checkpoint behind LLaMA-Factory, and a second copy of it in stock transformers."""

    def __init__(self, template, folder):
        self.template, self.folder = template, tiny_models.write_checkpoint(template, folder)
        self.recipe = {"model_name_or_path": str(folder), "template": template}
        self.backbone = load_backbone(inference_arguments(self.recipe))
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        config = transformers.AutoConfig.from_pretrained(folder)
        whole = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
        self.model = getattr(whole, "thinker", whole)

    def heard(self, waveform):
        """What transformers' processor makes of an audio: the model's inputs, and how many tokens it takes."""
        padded = {"padding": "max_length"}  # as LLaMA-Factory pads it: Gemma 3n hears how an audio ends
        made = self.processor(
            text=self.processor.audio_token, audio=[waveform], audio_kwargs=padded, return_tensors="pt"
        )
        tokens = int((made.pop("input_ids") == self.model.config.audio_token_id).sum())
        text_alone = ("attention_mask", "token_type_ids", "mm_token_type_ids")
        return {name: value for name, value in made.items() if name not in text_alone}, tokens

    @torch.inference_mode()
    def logprobs(self, ids, waveform):
        """(len(ids), V), of one unpadded sequence without a blank image."""
        ids = torch.tensor([list(ids)])
        logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **self.heard(waveform)[0]).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)


@pytest.fixture(scope="module", params=tiny_models.TEMPLATES)
def tiny(request, tmp_path_factory):
    missing = tiny_models.missing_package(request.param)
    if missing:
        pytest.skip(f"{request.param} needs {missing}, which is not installed")
    return Architecture(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """(path, waveform, German) of four utterances, each cut to its own length."""
    folder, found = tmp_path_factory.mktemp("clips"), []
    for index, (seconds, utterance) in enumerate(zip(SECONDS, iterate_utterances("test", len(SECONDS)), strict=True)):
        path = folder / f"{index}.wav"
        write_wav(path, to_pcm16(np.resize(utterance.waveform, round(16_000 * seconds))))
        found.append((str(path), read_mono(path), utterance.sentence.target_text))
    return found


@pytest.fixture(scope="module")
def rendered(tiny, clips):
    return [tiny.backbone.render(PROMPT, waveform, text) for _, waveform, text in clips]


@pytest.fixture(scope="module")
def waveforms(clips):
    return [waveform for _, waveform, _ in clips]


@pytest.fixture
def llamafactory(tmp_path, clean_environment):
    """Type `llamafactory-cli …` in `tmp_path`."""

    def run(*words):
        return run_program("llamafactory-cli", *words, folder=tmp_path, environment=clean_environment)

    return run


def test_every_template_with_audio_is_tested_or_has_a_reason():
    from llamafactory.data.template import TEMPLATES

    takes_audio = {name for name, template in TEMPLATES.items() if template.mm_plugin.audio_token}
    assert takes_audio == {*tiny_models.TEMPLATES, *tiny_models.UNTESTED}


@pytest.mark.parametrize("template", tiny_models.UNTESTED)
def test_an_untested_template_says_why(template):
    pytest.skip(f"{template}: {tiny_models.UNTESTED[template]}")


def test_the_prompt_has_as_many_audio_tokens_as_the_model_wants(tiny, rendered, waveforms):
    audio = tiny.model.config.audio_token_id
    for one, waveform in zip(rendered, waveforms, strict=True):
        assert one.prompt_ids.count(audio) == tiny.heard(waveform)[1] > 0


def test_without_weights_prompts_have_as_many_audio_tokens(tiny, clips, rendered, monkeypatch):
    renderer = load_counting_renderer(inference_arguments(tiny.recipe))
    assert not hasattr(renderer, "model")
    assert [renderer.render(PROMPT, waveform, text) for _, waveform, text in clips] == rendered
    if not tiny.template.startswith("gemma"):  # the architecture has no formula here
        monkeypatch.setattr(renderer.template, "encode_oneturn", None)
        _, waveform, _ = clips[1]
        assert renderer.render_prompt(PROMPT, waveform) == rendered[1].prompt_ids


def test_prompt_content_and_end_are_what_training_labels(tiny, clips, rendered):
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    backbone = tiny.backbone
    supervised = SupervisedDatasetProcessor(
        template=backbone.template,
        tokenizer=backbone.tokenizer,
        processor=backbone.processor,
        data_args=DataArguments(template=tiny.template, cutoff_len=2048),
    )
    rows = supervised.preprocess_dataset(
        {
            "_prompt": [[{"role": "user", "content": ASK}]] * len(clips),
            "_response": [[{"role": "assistant", "content": text}] for _, _, text in clips],
            "_audios": [[path] for path, _, _ in clips],
            **{name: [None] * len(clips) for name in ("_system", "_tools", "_images", "_videos")},
        }
    )
    for one, (_, _, text), input_ids, labels in zip(rendered, clips, rows["input_ids"], rows["labels"], strict=True):
        length = len(one.prompt_ids) + len(one.content_ids)
        assert [*one.prompt_ids, *one.content_ids] == input_ids[:length]
        assert input_ids[length] == backbone._eos_id()
        assert [label for label in labels if label != -100][-len(input_ids[length:]) :] == input_ids[length:]
        assert backbone.decode(one.content_ids) == text


@pytest.mark.parametrize("tiny", ["gemma4n"], indirect=True)
def test_llamafactory_alone_counts_the_characters_of_a_path(tiny, clips):
    # When it no longer does, `audio_tokens` can go.
    plugin, path = tiny.backbone.template.mm_plugin, clips[0][0]
    alone = type(plugin).process_messages.__wrapped__
    (message,) = alone(plugin, list(PROMPT.messages), [], [], [path], tiny.backbone.processor)
    assert tiny.processor.audio_token not in message["content"]  # too few for a single token
    (message,) = plugin.process_messages(list(PROMPT.messages), [], [], [path], tiny.backbone.processor)
    assert message["content"].count(tiny.processor.audio_token) == tiny.heard(clips[0][1])[1]


def test_scores_are_those_of_stock_transformers_in_any_company(tiny, rendered, waveforms):
    together = tiny.backbone.score(rendered, waveforms)
    for one, waveform, score in zip(rendered, waveforms, together, strict=True):
        ids = [*one.prompt_ids, *one.content_ids, tiny.backbone._eos_id()]
        logprobs = tiny.logprobs(ids, waveform)
        expected = [logprobs[place - 1, ids[place]].item() for place in range(len(one.prompt_ids), len(ids))]
        (alone,) = tiny.backbone.score([one], [waveform])
        for found in (score, alone):
            assert [*found.logprobs, found.eos_logprob] == pytest.approx(expected, abs=1e-4)


def test_clips_below_a_second_score_the_same_in_any_company(tiny, rendered, waveforms):
    clips = [waveform[:samples] for waveform, samples in zip(waveforms, (8000, 15_000), strict=False)]
    short = [tiny.backbone.render(PROMPT, clip, "Das Kind spielt im Garten.") for clip in clips]
    for company, heard in ((short, clips), ([*short, *rendered], [*clips, *waveforms])):
        together = tiny.backbone.score(company, heard)
        for one, clip, score in zip(short, clips, together, strict=False):
            (alone,) = tiny.backbone.score([one], [clip])
            assert score.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_the_audio_is_what_is_scored(tiny, rendered, waveforms):
    # A model that ignored the audio would pass everything above.
    right = tiny.backbone.score(rendered, waveforms)
    wrong = tiny.backbone.score(rendered, [waveform[::-1].copy() for waveform in waveforms])
    for one, other in zip(right, wrong, strict=True):
        assert np.abs(np.subtract(one.logprobs, other.logprobs)).max() > 5e-3


def test_continuations_are_the_argmax_of_one_forward_pass_after_another(tiny, rendered, waveforms):
    prompts = [one.prompt_ids for one in rendered]
    prefixes = [one.content_ids[: 3 * index] for index, one in enumerate(rendered)]
    together = generate_all(tiny.backbone, prompts, waveforms, prefixes, NEW_TOKENS)
    for prompt, waveform, prefix, found in zip(prompts, waveforms, prefixes, together, strict=True):
        assert found.token_ids == tuple(greedy(tiny, [*prompt, *prefix], waveform))
        assert [found] == generate_all(tiny.backbone, [prompt], [waveform], [prefix], NEW_TOKENS)
    assert len({one.token_ids for one in together}) == len(together)


def greedy(tiny, ids, waveform):
    """Up to the end of turn; what stands for media is passed over."""
    passed_over = list(tiny.backbone.plain_decoder.special.suppressed)
    for _ in range(NEW_TOKENS):
        last = tiny.logprobs(ids, waveform)[-1].clone()
        last[passed_over] = -torch.inf
        if int(last.argmax()) in tiny.backbone.plain_decoder.special.stop:
            return
        ids = [*ids, int(last.argmax())]
        yield ids[-1]


@pytest.fixture
def eager(tiny, monkeypatch):
    """The second copy tells its attention to text and audio."""
    decoder = tiny.model.get_decoder()
    for module in getattr(decoder, "model", decoder).modules():  # an Omni model gives itself
        if isinstance(getattr(module, "layer_idx", None), int) and hasattr(module, "q_proj"):
            monkeypatch.setattr(module.config, "_attn_implementation", "eager")
    return tiny


@torch.inference_mode()
def audio_ahead_by_transformers(tiny, ids, waveform, heads):
    """(heads, len(ids)) shares of the audio behind the place with the most attention; the last row is of all heads."""
    ids = torch.tensor([list(ids)])
    made = tiny.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True,
                      **tiny.heard(waveform)[0]).attentions  # fmt: skip
    audio = ids[0] == tiny.model.config.audio_token_id
    of_audio = torch.stack([made[layer][0, head][:, audio] for layer, head in heads])
    of_audio = of_audio / of_audio.sum(-1, keepdim=True)
    places = torch.cat([of_audio, of_audio.mean(0, keepdim=True)]).argmax(-1)
    return 1 - (places + 1) / audio.sum()


@torch.inference_mode()
def test_attention_is_that_of_transformers(eager, rendered, waveforms):
    backbone = eager.backbone
    heads = backbone._attention.all_heads()
    of_layers = [
        layer
        for layer in range(eager.model.config.get_text_config().num_hidden_layers)
        if not eager.template.startswith("gemma") or layer % 2
    ]  # their others have a window of 16
    assert heads == [(layer, head) for layer in of_layers for head in range(tiny_models.HEADS)]
    for one, waveform in zip(rendered, waveforms, strict=True):
        ids = [*one.prompt_ids, *one.content_ids]
        batch = backbone._collate([ids], [waveform], padding_side="right")
        with backbone._attention.recording(batch["input_ids"] == backbone._audio_token, heads) as record:
            everywhere = torch.zeros(len(ids), dtype=torch.long), torch.arange(len(ids))
            logits = backbone._forward(batch, everywhere)
            found = record.audio_ahead_by_head()[0]
        assert torch.equal(logits, backbone._forward(batch, everywhere))  # watching changes nothing
        after = len(one.prompt_ids) - len(one.prompt_ids) // 8  # from here on there is audio before
        expected = audio_ahead_by_transformers(eager, ids, waveform, heads)[:-1]
        torch.testing.assert_close(found[:, after : len(ids)], expected[:, after:])


@pytest.mark.parametrize("way", ["decoder", "plain_decoder"])
def test_answers_end_where_the_model_looks_at_the_end_of_the_audio(eager, rendered, waveforms, way):
    backbone, decoder = eager.backbone, getattr(eager.backbone, way)
    heads = backbone._attention.all_heads()[1:]
    backbone.set_alignment_heads(heads)
    prompts = [one.prompt_ids for one in rendered]
    prefixes = [one.content_ids[: 3 * index] for index, one in enumerate(rendered)]
    answers, audio_ahead = [], []
    for prompt, waveform, prefix in zip(prompts, waveforms, prefixes, strict=True):
        answers.append(tuple(greedy(eager, [*prompt, *prefix], waveform)))
        ids = [*prompt, *prefix, *answers[-1]]
        audio_ahead.append(
            audio_ahead_by_transformers(eager, ids, waveform, heads)[-1][-len(answers[-1]) - 1 :].tolist()
        )
    shares = sorted(share for row in audio_ahead for share in row)
    for recent in (0.0, shares[len(shares) // 10] + 1e-4, shares[len(shares) // 4] + 1e-4, 1.1):
        requests = [GenerationRequest(prefix, (*answer[:2], 5), min_audio_ahead=recent if row else None,
                                      max_new_tokens=NEW_TOKENS)
                    for row, (prefix, answer) in enumerate(zip(prefixes, answers, strict=True))]  # fmt: skip
        ends = [next((place for place, share in enumerate(row) if share < recent), NEW_TOKENS) for row in audio_ahead]
        with torch.inference_mode():
            together = decoder.generate(decoder.encode_prompts(prompts, waveforms), requests)
            alone = [decoder.generate(decoder.encode_prompts([prompt], [waveform]), [request])[0]
                     for prompt, waveform, request in zip(prompts, waveforms, requests, strict=True)]  # fmt: skip
        assert [one.token_ids for one in together] == [answers[0], *(one[:end] for one, end in
                                                       list(zip(answers, ends, strict=True))[1:])]  # fmt: skip
        assert together == alone


def test_heads_are_found_from_what_the_model_says(tiny, rendered, waveforms):
    heads = tiny.backbone.find_alignment_heads([one.prompt_ids for one in rendered], waveforms)
    assert 1 <= len(heads) <= 8
    assert set(heads) <= set(tiny.backbone._attention.all_heads())


def test_what_stands_for_media_is_among_the_tokens_passed_over(tiny):
    tokenizer = tiny.backbone.tokenizer
    media = {getattr(tiny.backbone.template.mm_plugin, name) for name in MEDIA} - {None}
    assert {tokenizer.convert_tokens_to_ids(token) for token in media} <= set(
        tiny.backbone.plain_decoder.special.suppressed
    )


def test_audio_beyond_the_window_is_not_heard(tiny):
    seconds = tiny.backbone.window_seconds
    window = np.random.default_rng(0).uniform(-0.3, 0.3, round(16_000 * seconds)).astype(np.float32)
    longer = np.concatenate([window, window[:16_000]])
    one, other = tiny.backbone.render(PROMPT, window, "ja"), tiny.backbone.render(PROMPT, longer, "ja")
    assert one == other
    assert tiny.backbone.score([one], [window]) == tiny.backbone.score([other], [longer])


@pytest.mark.parametrize("tiny", ["qwen2_audio", "qwen2_omni", "qwen3_omni"], indirect=True)
def test_features_are_as_long_as_the_longest_clip_and_score_as_the_whole_window(tiny, rendered, waveforms, monkeypatch):
    # Scores from the processor's own full padding, through the same weights: only the features differ.
    backbone, window = tiny.backbone, round(tiny.backbone.window_seconds * 100)
    rows = [[*one.prompt_ids, *one.content_ids] for one in rendered]
    short = backbone._collate(rows, waveforms, padding_side="right")
    found = backbone.score(rendered, waveforms)
    with monkeypatch.context() as patch:
        for name in ("batch_window", "trim"):
            patch.setattr(
                backbone._adapter,
                name,
                {"batch_window": lambda _: contextlib.nullcontext(), "trim": lambda batch: batch}[name],
            )
        whole = backbone._collate(rows, waveforms, padding_side="right")
        expected = backbone.score(rendered, waveforms)
    assert whole["input_features"].shape[-1] == window
    assert short["input_features"].shape[-1] <= 100 * max(SECONDS) + 9 < window
    assert torch.equal(short["feature_attention_mask"].sum(-1), whole["feature_attention_mask"].sum(-1))
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("tiny", ["qwen2_omni", "qwen3_omni"], indirect=True)
def test_omni_encoders_take_memory_by_the_square_of_the_batch(tiny):
    # Their attention mask is over all audios in a row: ten clips of 10 s take ten times what two batches of five take.
    count = tiny.backbone.encoding_bytes
    mask = (10 * 501) ** 2 * 4
    assert mask < count([160_000] * 10) < 2 * mask
    assert 2 * count([160_000] * 5) < 0.65 * count([160_000] * 10)
    masks, encoder = [], tiny.backbone.model.audio_tower
    make_mask = encoder._prepare_attention_mask
    encoder._prepare_attention_mask = lambda *given: masks.append(make_mask(*given)) or masks[-1]
    try:
        with torch.inference_mode():
            tiny.backbone._adapter.embed([np.zeros(16_000, dtype=np.float32)] * 3)
    finally:
        del encoder._prepare_attention_mask
    assert masks[0].numel() * masks[0].element_size() <= count([16_000] * 3)


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "pt", "rm", "ppo"])
def test_every_stage_of_training_loads_the_fixed_encoder(stage):
    workflow = importlib.import_module(f"llamafactory.train.{stage}.workflow")
    assert workflow.load_model is importlib.import_module("llamafactory.model.loader").load_model
    assert workflow.load_model.__wrapped__.__module__ == "llamafactory.model.loader"


@pytest.mark.parametrize("tiny", ["qwen3_omni"], indirect=True)
class TestCompany:
    """Qwen3-Omni's encoder cuts audio into pieces of 100 frames, 13 tokens; here it attends within four of them."""

    FRAMES = torch.randn(tiny_models.MEL_BINS, 800, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def heard(self, model, *lengths):
        frames = torch.cat([self.FRAMES[:, :length] for length in lengths], dim=1)
        return model.audio_tower(frames, feature_lens=torch.tensor(lengths)).last_hidden_state

    def test_what_follows_a_window_is_not_heard_within_it(self, tiny):
        short = self.heard(tiny.backbone.model, 400)
        assert len(short) == 52
        for lengths in ((800,), (400, 800), (400, 100)):
            torch.testing.assert_close(self.heard(tiny.backbone.model, *lengths)[:52], short, atol=1e-5, rtol=0)
            # Stock transformers: when it keeps to the windows, too, `batch_invariance` can be deleted.
            assert (self.heard(tiny.model, *lengths)[:52] - short).abs().max() > 1e-2

    @pytest.mark.parametrize("frames", [100, 350, 400])
    def test_alone_within_one_window_it_is_stock_transformers(self, tiny, frames):
        expected = self.heard(tiny.model, frames)
        torch.testing.assert_close(self.heard(tiny.backbone.model, frames), expected, atol=0, rtol=0)

    def test_training_hears_what_is_scored(self, tiny):
        from llamafactory.train.sft import workflow

        arguments = inference_arguments(tiny.recipe)
        model = workflow.load_model(tiny.backbone.tokenizer, arguments.model, arguments.finetuning)
        for lengths in ((400, 100), (50,)):
            scored = self.heard(tiny.backbone.model, *lengths)
            torch.testing.assert_close(self.heard(model, *lengths), scored, atol=0, rtol=0)

    def test_fixing_twice_is_fixing_once(self, tiny):
        encoder = tiny.backbone.model.audio_tower
        before = encoder.forward, [len(layer._forward_pre_hooks) for layer in encoder.layers]
        make_batch_invariant(tiny.backbone.model)
        assert (encoder.forward, [len(layer._forward_pre_hooks) for layer in encoder.layers]) == before
        assert {*before[1]} == {1}

    def test_a_deep_copy_encodes_with_its_own_weights(self, tiny):
        copied = copy.deepcopy(tiny.backbone.model)
        with torch.no_grad():
            for weight in copied.audio_tower.parameters():
                weight.zero_()
        for lengths in ((400, 100), (50,)):
            assert float(self.heard(copied, *lengths).abs().max()) == 0
            assert float(self.heard(tiny.backbone.model, *lengths).abs().max()) > 0

    @pytest.mark.parametrize("frames", [1, 15, 50, 99])
    def test_below_a_second_an_audio_is_the_same_alone_and_beside_others(self, tiny, frames):
        model = tiny.backbone.model
        alone = self.heard(model, frames)
        for lengths in ((frames, 30), (frames, 100), (frames, 250)):
            torch.testing.assert_close(self.heard(model, *lengths)[: len(alone)], alone, atol=1e-5, rtol=0)

    def test_stock_transformers_pads_an_audio_below_a_second_only_beside_others(self, tiny):
        # When it does so alone as well, `_padding_to_a_piece` can go.
        stock, padded = self.heard(tiny.model, 50), self.heard(tiny.backbone.model, 50)
        assert (padded - stock).abs().max() > 1e-3


@pytest.mark.parametrize("tiny", sorted({*tiny_models.TEMPLATES} - {"qwen3_omni_nothink"}), indirect=True)
def test_augment_train_and_evaluate(tiny, clips, llamafactory, tmp_path, monkeypatch):
    data = make_folder(tmp_path, monkeypatch, audios=0)
    write_rows(data / "toy.jsonl", [{"messages": turns(ASK, text), "audios": [path]} for path, _, text in clips])
    register(data, {"toy": SHAREGPT | {"file_name": "toy.jsonl"}})
    two_are_cut(tiny)
    two_steps_are_trained(tiny, llamafactory)
    two_are_decoded(tiny)


def two_are_cut(tiny):
    model = [f"{key}={value}" for key, value in tiny.recipe.items()]
    # The threshold lies among the probabilities that random weights give.
    assert (
        augment.main(
            [
                *model,
                "dataset=toy",
                "dataset_dir=data",
                "simulsa_samples=2",
                "simulsa_min_seconds=1",
                "simulsa_max_seconds=3",
                "simulsa_threshold=0.0005",
                "--audit",
                "2",
                "--out",
                "out",
            ]
        )
        == 0
    )
    manifest, audit = read_json("out/toy_simulsa/manifest.json"), read_json("out/toy_simulsa/audit.json")
    assert (manifest["counts"]["samples"], manifest["skipped"]) == (2, {})
    assert audit["tokens"] == manifest["counts"]["tokens"] > 0
    assert audit["largest_difference"] <= audit["tolerance"]
    assert set(read_json("out/dataset_info.json")) == {"toy", "toy_simulsa"}


def two_steps_are_trained(tiny, llamafactory):
    write_json(Path("train.yaml"), tiny.recipe | TRAINING)
    done = llamafactory("train", "train.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    state = read_json("trained/trainer_state.json")
    losses = [step["loss"] for step in state["log_history"] if "loss" in step]
    assert (state["global_step"], len(losses)) == (2, 2)
    assert np.isfinite(losses).all()
    assert Path("trained/model.safetensors").is_file()


def two_are_decoded(tiny):
    assert (
        evaluate.main(
            [
                f"template={tiny.template}",
                "model_name_or_path=trained",
                "eval_dataset=toy",
                "dataset_dir=data",
                "simulsa_chunks=1000",
                "simulsa_rollbacks=0,3",
                "simulsa_max_new_tokens=8",
                "simulsa_eval_samples=2",
                "--out",
                "results",
            ]
        )
        == 0
    )
    scores = read_json("results/scores.json")
    assert scores["model"]["weights"] != tiny.backbone.describe()["weights"]
    found = [(cell["policy"], cell["chunk_ms"], cell["rollback"], cell["instances"]) for cell in scores["cells"]]
    assert found == [("offline", None, None, 2), ("rollback", 1000, 0, 2), ("rollback", 1000, 3, 2)]
