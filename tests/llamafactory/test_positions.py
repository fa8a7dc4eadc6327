"""Positions in bf16: a model has to hear its tokens where they stand, in our commands and in LLaMA-Factory's training.

Without images and videos a token's position is its place, as in any language model: 0, 1, 2 …
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_models
from llamafactory.data.collator import PairwiseDataCollatorWithPadding, SFTDataCollatorWith4DAttentionMask

from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.patches import position_ids as positions
from simulsa_plugin.model.values import Prompt

PROMPT = Prompt(({"role": "user", "content": "<audio>Translate the English speech into German."},))
SECONDS = 20  # more than 256 tokens in Qwen3-Omni, which makes 13 of a second
HALF = torch.bfloat16


@pytest.fixture(scope="module", params=tiny_models.TEMPLATES)
def backbone(request, tmp_path_factory):
    """A tiny model in bf16."""
    if tiny_models.missing_package(request.param):
        pytest.skip(f"needs {tiny_models.missing_package(request.param)}")
    folder = tiny_models.write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    loaded = load_backbone(inference_arguments({"model_name_or_path": str(folder), "template": request.param}))
    loaded.model.to(HALF)
    return loaded


@pytest.fixture(scope="module")
def noise():
    return (0.1 * np.random.default_rng(0).standard_normal(16_000 * SECONDS)).astype(np.float32)


def token_ids(backbone, waveform):
    rendered = backbone.render(PROMPT, waveform, "Der Mann hat das Auto gekauft. " * 6)
    return [*rendered.prompt_ids, *rendered.content_ids]


def training_rows(backbone, waveform):
    ids = token_ids(backbone, waveform)
    rest = {"images": None, "videos": None, "audios": [waveform]}
    return [{"input_ids": list(ids), "attention_mask": [1] * len(ids), "labels": list(ids), **rest}]


def collator(kind, backbone, **options):
    """As the workflows of LLaMA-Factory make it."""
    return kind(
        template=backbone.template,
        model=backbone.model,
        tokenizer=backbone.tokenizer,
        processor=backbone.processor,
        label_pad_token_id=-100,
        pad_to_multiple_of=8,
        **options,
    )


def under_deepspeed(batch):
    """The batch as transformers' Trainer hands it to a model under DeepSpeed with bf16."""
    trainer = object.__new__(transformers.Trainer)
    trainer.args, trainer.is_deepspeed_enabled = SimpleNamespace(device=torch.device("cpu")), True
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: HALF))
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    return trainer._prepare_input(dict(batch))


def are_places(found, length):
    return torch.equal(found[..., :length].double(), torch.arange(length).double().expand(*found.shape[:-1], -1))


@pytest.mark.parametrize("hooked", [True, False], ids=["plugin on", "plugin off"])
@pytest.mark.parametrize("backbone", ["qwen2_omni", "qwen3_omni", "qwen3_omni_nothink"], indirect=True)
def test_a_model_in_bf16_gets_exact_positions(backbone, noise, monkeypatch, hooked):
    if not hooked:
        method = "_compute_rope_position_ids"
        wrapped = getattr(SFTDataCollatorWith4DAttentionMask, method)
        monkeypatch.setattr(SFTDataCollatorWith4DAttentionMask.__base__, method, wrapped.__wrapped__)
    ids = token_ids(backbone, noise)
    batch = backbone._collate([ids], [noise], padding_side="right")
    assert len(ids) > 256
    assert are_places(batch["position_ids"], len(ids))
    assert batch["input_features"].dtype == HALF


def test_only_features_lose_precision(backbone, noise):
    # Every input of every architecture, so that one with new floating-point inputs shows here.
    waveforms = [noise, noise[:16_000]]
    rows = [token_ids(backbone, waveform) for waveform in waveforms]
    found = backbone._collate(rows, waveforms, padding_side="right")
    backbone.model.float()
    try:
        exact = backbone._collate(rows, waveforms, padding_side="right")
    finally:
        backbone.model.to(HALF)
    assert found.keys() == exact.keys()
    tensors = {name: value for name, value in exact.items() if isinstance(value, torch.Tensor)}
    rounded = {name for name, value in tensors.items() if found[name].dtype != value.dtype}
    assert rounded == tensors.keys() & {"input_features", "pixel_values"}
    assert all(torch.equal(found[name], value) for name, value in tensors.items() if name not in rounded)


@pytest.mark.parametrize("backbone", ["qwen2_omni", "qwen3_omni", "qwen3_omni_nothink"], indirect=True)
def test_a_training_in_bf16_gets_exact_positions(backbone, noise):
    rows = training_rows(backbone, noise)
    length = len(rows[0]["input_ids"])
    batch = collator(SFTDataCollatorWith4DAttentionMask, backbone, compute_dtype=HALF)(rows)
    assert batch["input_features"].dtype == HALF  # LLaMA-Factory casts what is floating point
    for given in (batch, under_deepspeed(batch)):
        assert are_places(given["position_ids"], length)


@pytest.mark.parametrize("backbone", ["qwen2_omni", "qwen3_omni"], indirect=True)
def test_a_pairwise_training_under_deepspeed_gets_exact_positions(backbone, noise):
    (row,) = training_rows(backbone, noise)
    length = len(row["input_ids"])
    media = {name: row.pop(name) for name in ("images", "videos", "audios")}
    pair = {f"{side}_{name}": value for side in ("chosen", "rejected") for name, value in row.items()} | media
    batch = under_deepspeed(collator(PairwiseDataCollatorWithPadding, backbone)([pair]))
    assert batch["input_features"].dtype == HALF
    assert are_places(batch["position_ids"], length)


def test_nothing_but_features_of_a_training_batch_is_floating_point(backbone, noise):
    # So that no cast of floating-point inputs (LLaMA-Factory's, DeepSpeed's, FSDP's) finds anything else.
    batch = collator(SFTDataCollatorWith4DAttentionMask, backbone)(training_rows(backbone, noise))
    floating = {name for name, value in batch.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    assert floating <= {"input_features", "pixel_values"}


def test_fractional_positions_of_a_video_stay_and_are_announced_once(capsys, monkeypatch):
    monkeypatch.setattr(positions, "_notified", set())
    fractions = torch.tensor([0.0, 6.5, 13.0])
    for _ in range(2):
        assert positions.as_integers(fractions) is fractions
    assert capsys.readouterr().err.count("positions of a video are fractions") == 1


def test_whole_positions_become_integers_without_a_word(capsys):
    whole = positions.as_integers(torch.tensor([[0.0, 1.0, 400.0, -3.0]]))
    assert (whole.dtype, whole.tolist()) == (torch.int64, [[0, 1, 400, -3]])
    assert capsys.readouterr().err == ""
