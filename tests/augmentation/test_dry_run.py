"""`--dry-run`: what it says is what the run then does, it refuses what the run would refuse, and it leaves no trace."""

import json
import re
import shutil

import pytest
import soundfile
import torch
from helpers.fakes import ByteModel, ListDataset, make_dataset, write_noise
from helpers.files import tree

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.dry_run import dry_run
from simulsa_plugin.augmentation.manifest import describe_augmentation
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.commands import augment as command
from simulsa_plugin.demo.checkpoint import checkpoint_path
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.errors import StorageError
from simulsa_plugin.model.cost import Layers, Machine, ModelSize, duration
from simulsa_plugin.sharding import Shard

SETTINGS = AugmentSettings(samples=10, batch_size=4, cuts=2, silence_ms=100.0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("offline"), 12)


def say(dataset, out, settings=SETTINGS, model=None, size=None, machine=None):
    model = model or ByteModel()
    described = describe_augmentation(dataset, model.describe(), settings)
    return "\n".join(dry_run(dataset, model, size, settings, out, described, machine))


class Noting(ByteModel):
    """Keeps the numbers of tokens and samples of every row of every batch."""

    def score(self, rendered, waveforms):
        self.samples = [*getattr(self, "samples", []), [len(one) for one in waveforms]]
        self.tokens = [*getattr(self, "tokens", []), [len(one.prompt_ids) + len(one.content_ids) for one in rendered]]
        return super().score(rendered, waveforms)


def test_what_it_says_is_what_the_run_does(tmp_path):
    rows = [("a b c", write_noise(tmp_path / f"{row}.wav", 4.0, seed=row)) for row in range(5)]
    dataset = ListDataset("toy", ["multi_turn", *rows])
    size = ModelSize(3_000_000, Layers(1_000_000), Layers(2_000_000), 0, 2)
    text = say(dataset, tmp_path / "out", size=size, machine=Machine(1e9, 1e9, 0.5, 0.5, "abacus"))
    model = Noting()
    manifest = augment_dataset(dataset, model, SETTINGS, tmp_path / "out").manifest
    clips = [soundfile.info(path) for path in (tmp_path / "out" / "toy_simulsa" / "clips").iterdir()]
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "out" / "toy_simulsa" / "clips").iterdir())
    samples = manifest["counts"]["samples"]
    assert (samples, manifest["skipped"]) == (10, {"multi_turn": 1})
    assert f"toy: would cut {samples} of 10 samples asked for, from 6 rows; " in text
    assert "skipped on the way: multi_turn 1" in text
    assert f"clips: {sum(one.frames for one in clips) / 16_000:.1f} s of audio, {num_bytes / 1e6:.1f} MB" in text
    assert f"scoring: {len(model.batches)} batches of up to 4 clips; " in text
    padded = sum(len(batch) * max(batch) for batch in model.tokens)
    assert f"; {sum(map(sum, model.tokens))} tokens, {padded} with padding" in text
    # 2 · (decoder parameters · positions + encoder parameters · 50 frames for each second of a batch's longest clip).
    frames = sum(len(batch) * max(batch) / 320 for batch in model.samples)
    operations = 2 * (2_000_000 * padded + 1_000_000 * frames)
    assert "model: 3.0 M parameters, 0.01 GB of weights" in text
    assert f"about {operations / 1e12:.3g} TFLOP" in text
    assert f"time: about {duration(operations / 1e9 / 0.5)} on one abacus; calculated from the size" in text
    assert "it reaches 0.001 TFLOP/s in a large matrix product and 1 GB/s in a large copy" in text


def test_scoring_whole_and_earlier_audio_is_counted(toy, tmp_path):
    settings = AugmentSettings(samples=4, extra_scores=("full", "lookback"))
    assert "each scored 3 times" in say(toy, tmp_path / "out", settings)


def test_nothing_is_written(toy, tmp_path):
    say(toy, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path / "out")
    before = tree(tmp_path)
    say(toy, tmp_path / "out")
    assert tree(tmp_path) == before


def test_what_a_folder_holds_is_said(toy, tmp_path):
    out = tmp_path / "out"
    assert "0 of 10 scored so far" in say(toy, out)
    augment_shard(toy, ByteModel(), SETTINGS, out, Shard(1, 3))
    assert "4 of 10 scored so far" in say(toy, out)  # the first of three batches: 4, 4, 2
    augment_shard(toy, ByteModel(), SETTINGS, out, Shard(1, 2))
    assert "6 of 10 scored so far" in say(toy, out)  # it scored the first again, and the third
    journal = out / "toy_simulsa" / "shards" / "1-of-2" / "scores.partial.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert "5 of 10 scored so far" in say(toy, out)  # a torn row is no row
    augment_dataset(toy, ByteModel(), SETTINGS, out)
    assert f"{out / 'toy_simulsa'} is finished: a run would change nothing" in say(toy, out)
    (out / "toy_simulsa" / "manifest.json").rename(tmp_path / "manifest.json")
    assert "all scored; a run would decide and finish" in say(toy, out)


def refused(dataset, out, settings, model):
    """What a dry run and the run after it say, which is the same."""
    said = []
    for attempt in (
        lambda: say(dataset, out, settings, model),
        lambda: augment_dataset(dataset, model, settings, out),
    ):
        with pytest.raises(StorageError) as error:
            attempt()
        said.append(str(error.value))
    assert said[0] == said[1]
    return said[0]


@pytest.mark.parametrize("stopped", [True, False])
def test_it_refuses_what_the_run_would_refuse(toy, tmp_path, stopped):
    out = tmp_path / "out"
    if stopped:
        augment_shard(toy, ByteModel(), SETTINGS, out, Shard(1, 2))
    else:
        augment_dataset(toy, ByteModel(), SETTINGS, out)
    model = ByteModel()
    assert "other settings: simulsa_seed was 42, now 1" in refused(
        toy, out, AugmentSettings(samples=10, batch_size=4, cuts=2, silence_ms=100.0, seed=1), model
    )
    assert "other settings: model was bytes, now other" in refused(
        toy, out, SETTINGS, ByteModel(description={"model": "other"})
    )
    assert "other settings: rows was 12, now 11" in refused(
        ListDataset("toy", toy.rows[:-1], toy.entry), out, SETTINGS, model
    )
    assert "other settings: source was" in refused(
        ListDataset("toy", toy.rows, {"file_name": "/x"}), out, SETTINGS, model
    )
    if stopped:
        other = ListDataset("toy", [(f"ja {reference}", audio) for reference, audio in toy.rows], toy.entry)
        assert "other data under the same name" in refused(other, out, SETTINGS, model)


def test_other_audio_behind_the_same_clips_is_refused(toy, tmp_path):
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path / "out")
    (tmp_path / "other").mkdir()
    rows = [
        (reference, write_noise(tmp_path / "other" / f"{row}.wav", soundfile.info(audio).duration, seed=99 + row))
        for row, (reference, audio) in enumerate(toy.rows)
    ]
    said = refused(ListDataset("toy", rows, toy.entry), tmp_path / "out", SETTINGS, ByteModel())
    assert "other data under the same name" in said


def test_the_offline_file_itself_is_not_replaced(toy, tmp_path):
    dataset = ListDataset("toy", toy.rows, {"file_name": str(tmp_path / "toy.jsonl")}, relative=True)
    assert "is the offline dataset itself" in refused(dataset, tmp_path, SETTINGS, ByteModel())


def test_what_is_known_without_weights_is_part_of_the_work(toy):
    model = ByteModel()
    setup = describe_augmentation(toy, model.describe(), SETTINGS)
    work = describe_augmentation(toy, model.describe(), SETTINGS, model.output_width)
    assert setup.items() <= work.items()


# --------------------------------------------------------------------------------------------- the packaged checkpoint


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    write_demo_corpus(folder, rows=12, test_rows=0, processes=1)
    return folder


def words(spoken, out, *more):
    keys = ["dataset=demo", f"dataset_dir={spoken}", "simulsa_ratio=1", "simulsa_batch_size=5", *more]
    return [*keys, "--out", str(out)]


def test_the_command_loads_no_weights_writes_nothing_and_says_what_the_run_does(spoken, tmp_path, capsys):
    bare = tmp_path / "bare"  # the checkpoint without its weights: whoever loads them fails
    shutil.copytree(checkpoint_path(), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    before = tree(tmp_path)
    assert command.main(words(spoken, tmp_path / "out", f"model_name_or_path={bare}", "--dry-run")) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()

    assert command.main(words(spoken, tmp_path / "out")) == 0
    folder = tmp_path / "out" / "demo_simulsa"
    counts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["counts"]
    clips = list((folder / "clips").iterdir())
    assert f"would cut {counts['samples']} of {counts['wanted']} samples asked for, from 12 rows" in text
    seconds = sum(soundfile.info(path).duration for path in clips)
    assert f"clips: {seconds:.1f} s of audio, {sum(path.stat().st_size for path in clips) / 1e6:.1f} MB" in text
    assert f"scoring: {math_ceil(counts['samples'], 5)} batches of up to 5 clips" in text
    total = int(re.search(r"; (\d+) tokens", text)[1])
    assert total > counts["tokens"] + 12 * 12  # references, prompts, and 25 audio tokens for each of 0.5 s and more
    parameters = sum(weight.numel() for weight in loaded().parameters())
    assert f"model: {parameters / 1e6:.1f} M parameters, {parameters * 4 / 1e9:.2f} GB of weights" in text


def math_ceil(number, size):
    return -(-number // size)


def loaded():
    from transformers import Qwen2AudioForConditionalGeneration

    return Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint_path(), dtype=torch.float32)


def test_the_size_is_that_of_the_loaded_model():
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.model_size import model_size

    model, found = loaded(), model_size(inference_arguments({"model_name_or_path": "simulsa-demo", "template": "x"}))
    count = {name: weight.numel() for name, weight in model.named_parameters()}
    encoder = {name: size for name, size in count.items() if "audio_tower" in name and "embed" not in name}
    assert found.parameters == sum(count.values())
    # The first convolution has two positions for each of the others.
    assert found.encoder.parameters == sum(encoder.values()) + sum(n for name, n in encoder.items() if "conv1" in name)
    text = {name: size for name, size in count.items() if "audio_tower" not in name and "embed_tokens" not in name}
    assert found.language_model.parameters == sum(size for name, size in text.items() if "lm_head" not in name)
    assert found.output_parameters == model.get_output_embeddings().weight.numel()
    assert found.dtype_bytes == 4


def test_of_an_omni_model_the_part_that_translates_is_counted(tmp_path):
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    from simulsa_plugin.llamafactory.model.arguments import inference_arguments
    from simulsa_plugin.llamafactory.model.model_size import model_size

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
             "intermediate_size": 16, "vocab_size": 160_000}  # fmt: skip
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "output_dim": 16}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    rope = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
    config = Qwen2_5OmniConfig(
        thinker_config={"text_config": small | rope, "audio_config": audio, "vision_config": vision},
        talker_config=small | rope | {"embedding_size": 16, "head_dim": 8},
        dtype="bfloat16",
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        whole = Qwen2_5OmniForConditionalGeneration(config)
    arguments = inference_arguments({"model_name_or_path": str(tmp_path), "template": "qwen2_omni"})
    found = model_size(arguments)
    # llamafactory.model.loader: `model = getattr(model, "thinker")`.
    assert found.parameters == sum(weight.numel() for weight in whole.thinker.parameters())
    assert found.parameters < sum(weight.numel() for weight in whole.parameters())
    tower = whole.thinker.audio_tower
    # Two positions of the first convolution for each of the others; the embeddings of two marks are only looked up.
    expected = sum(w.numel() for w in [*tower.parameters(), *tower.conv1.parameters()]) - 2 * 16
    assert found.encoder.parameters == expected
    assert (found.encoder.count, found.encoder.width) == (1, 16)
    assert found.dtype_bytes == 2


def test_the_embedded_default_without_its_corpus_says_what_comes_first(tmp_path, capsys):
    assert command.main(["--dry-run", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "preset recommended: simulsa_ratio=0.1\ndemo: would first synthesise 8000 training and 200 test "
    )
    assert err == ""
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_default_with_its_corpus_is_planned(spoken, tmp_path, capsys):
    shutil.copytree(spoken, tmp_path / "out")
    before = tree(tmp_path)
    assert command.main(["--dry-run", "simulsa_ratio=0.5", "--out", str(tmp_path / "out")]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "preset recommended: all its keys are set explicitly"
    assert second.startswith("demo: would cut 6 of 6 samples asked for, from 12 rows")
    assert tree(tmp_path) == before
