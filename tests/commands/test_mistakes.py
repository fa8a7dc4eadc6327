"""What users get wrong, typed as they type it: one line, an exit code, no traceback and no noise."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.fakes import write_noise

from simulsa_plugin.commands import augment, evaluate

COMMANDS = {"simulsa-augment": augment.main, "simulsa-eval": evaluate.main}
MODEL = ["model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset_dir=data"]
SHAREGPT = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "audios": "audios"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data/ (a good set, one without audio, one whose file is gone) and a few broken recipes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    good = [row("Der Mann hat das Auto gekauft.", write_noise(tmp_path / "a.wav", 2.0))]
    write_set(tmp_path / "data" / "good.jsonl", good)
    write_set(tmp_path / "data" / "mute.jsonl", [{"messages": good[0]["messages"], "audios": []}])
    info = {
        "good": SHAREGPT | {"file_name": "good.jsonl"},
        "gone": SHAREGPT | {"file_name": "gone.jsonl"},
        "mute": SHAREGPT | {"file_name": "mute.jsonl"},
        "text": {"file_name": "good.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}},
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder, config in (("adapter", "adapter_config.json"), ("broken_model", "config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / config).write_text("{}", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: }", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "no_model.yaml").write_text(
        "template: qwen2_audio\ndataset: good\ndataset_dir: data\n", encoding="utf-8"
    )
    (tmp_path / "no_template.yaml").write_text(
        "model_name_or_path: simulsa-demo\ndataset: good\ndataset_dir: data\n", encoding="utf-8"
    )
    (tmp_path / "no_data.yaml").write_text(
        "model_name_or_path: simulsa-demo\ntemplate: qwen2_audio\n", encoding="utf-8"
    )
    return tmp_path


def row(reference, audio):
    return {
        "messages": [
            {"role": "user", "content": "<audio>Translate the English speech into German."},
            {"role": "assistant", "content": reference},
        ],
        "audios": [audio],
    }


def write_set(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


MISTAKES = [
    (["gone.yaml"], 2, "Cannot read the recipe gone.yaml: No such file or directory. Give the path of"),
    (["broken.yaml"], 2, "Cannot read the recipe broken.yaml as YAML"),
    (["bytes.yaml"], 2, "Cannot read the recipe bytes.yaml"),
    (["list.yaml"], 2, "The recipe list.yaml holds a list"),
    (["data"], 2, "Cannot read the recipe data: Is a directory."),
    (["a.yaml", "b.yaml"], 2, "Unexpected argument 'b.yaml'"),
    (["no_data.yaml", "simulsa_ratio", "=", "0.5"], 2, "are allowed. Write key=value without spaces around ="),
    (["--loud"], 2, "unrecognized arguments: --loud"),
    (["--ratio", "0.5"], 2, "Keys are written key=value: simulsa_ratio=…"),
    (["=5"], 2, "expected key=value"),
    (["simulsa_ratoi=0.05"], 2, "Unknown key simulsa_ratoi: did you mean simulsa_ratio?"),
    ([*MODEL, "dataset=good", "learning_rat=1"], 2, "Unknown key learning_rat: did you mean learning_rate?"),
    (["no_model.yaml"], 2, "The recipe has no model_name_or_path"),
    (["no_template.yaml"], 2, "The recipe has no template"),
    (["no_data.yaml"], 1, "The recipe names no dataset"),
    (
        [*MODEL, "dataset=nosuch"],
        1,
        "No dataset nosuch in data/dataset_info.json; registered there: gone, good, mute, text",
    ),
    ([*MODEL, "dataset=text"], 1, "The dataset text has no audio"),
    ([*MODEL, "dataset=gone"], 1, "gone.jsonl does not exist"),
    ([*MODEL, "dataset=good", "dataset_dir=elsewhere"], 1, "No dataset is registered in elsewhere"),
    ([*MODEL, "dataset=good", "template=qwen3"], 1, "The template qwen3 takes no audio"),
    ([*MODEL, "dataset=goood"], 1, "registered there: gone, good, mute, text. Did you mean good?"),
    ([*MODEL, "dataset=good", "template=qwen2audio"], 2, "There is no template qwen2audio. Did you mean qwen2_audio?"),
    ([*MODEL, "dataset=good", "template=[qwen2_audio]"], 2, "template is ['qwen2_audio']; allowed: a name"),
    ([*MODEL, "dataset=good", "infer_dtype=bfloat17"], 2, "allowed: auto, float16, bfloat16, float32. Did you mean bf"),
    ([*MODEL, "dataset=good", "model_name_or_path=no/model/here"], 1, "Cannot load the model no/model/here"),
    ([*MODEL, "dataset=good", "model_name_or_path=Qwen/No-Such"], 1, "HF_HUB_OFFLINE is set"),
    ([*MODEL, "dataset=good", "model_name_or_path=data"], 1, "Cannot load the model data: its folder has no config"),
    ([*MODEL, "dataset=good", "model_name_or_path=adapter"], 1, "the folder holds an adapter; name its base here"),
    ([*MODEL, "dataset=good", "model_name_or_path=file"], 1, "Cannot load the model file: it is a file"),
    ([*MODEL, "dataset=good", "adapter_name_or_path=nowhere"], 1, "nowhere"),
    (["--out", "file"], 1, "file is a file; the output needs a folder"),
    (["--out", "file/below"], 1, "lies below a file"),
]
OWN_MISTAKES = [
    ("simulsa-augment", ["simulsa_ratio=0"], 2, "simulsa_ratio is 0"),
    ("simulsa-augment", ["simulsa_ratio=many"], 2, "simulsa_ratio is 'many'; allowed: a number"),
    ("simulsa-augment", ["simulsa_truncation=gamma"], 2, "allowed: beta_decay, beta_full, beta_discrete, uniform"),
    ("simulsa-augment", [*MODEL, "dataset=mute"], 1, "No row of mute can be cut; reasons:"),
    ("simulsa-eval", ["simulsa_chunks=0"], 2, "simulsa_chunks is 0"),
    ("simulsa-eval", ["simulsa_target_language=cn"], 2, "simulsa_target_language is 'cn', which is not a language tag"),
    (  # before the model is loaded
        "simulsa-eval",
        [*MODEL, "dataset=good", "model_name_or_path=broken_model", "simulsa_target_language=zh"],
        2,
        "1 of 1 references of good are written with spaces between words, and simulsa_target_language is 'zh'",
    ),
    ("simulsa-eval", [*MODEL, "dataset=good,mute"], 2, "One test set is evaluated at a time"),
    ("simulsa-eval", [*MODEL, "eval_dataset=mute"], 1, "No utterance of mute can be decoded; reasons:"),
]


def test_a_tokenizer_that_is_not_there_shows_before_a_corpus_is_read_or_a_model_loaded(place, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "MeCab", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    words = [
        "simulsa_corpus=table",
        "simulsa_corpus_dir=nowhere",
        "model_name_or_path=no/model/here",
        "template=qwen2_audio",
        "simulsa_target_language=ja",
        "--out",
        "out",
    ]
    assert evaluate.main(words) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("simulsa-eval: error: The BLEU tokenizer ja-mecab cannot start: ")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("program", "words", "code", "said"),
    [(program, *mistake) for program in COMMANDS for mistake in MISTAKES] + OWN_MISTAKES,
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(place, capfd, program, words, code, said):
    words = words if "--out" in words else [*words, "--out", "out"]
    assert COMMANDS[program](words) == code
    out, err = capfd.readouterr()
    assert not [line for line in out.splitlines() if not line.startswith("test set ")]  # what is evaluated
    lines = [
        line for line in err.splitlines() if not line.startswith(("cut ", "decode ", "\r"))
    ]  # progress on a terminal
    assert len(lines) == 1, err
    assert lines[0].startswith((f"{program}: error: ", f"{program} run: error: "))
    assert said in lines[0]


@pytest.mark.parametrize("program", ["augment", "evaluate"])
@pytest.mark.parametrize(
    "mistake",
    [
        "model_name_or_path=no/model/here",
        "model_name_or_path=owner/name",
        "dataset=gone",
        "dataset=nosuch",
        "learning_rat=1",
        "template=qwen2audio",
        "template=qwen3",
        "adapter_name_or_path=nowhere/at/all",
    ],
)
def test_names_are_looked_up_before_anything_heavy_is_imported(place, program, mistake):
    code = (
        f"import sys; from simulsa_plugin.commands.{program} import main; code = main(sys.argv[1:]); "
        "sys.exit(99 if {'torch', 'transformers', 'llamafactory'} & sys.modules.keys() else code)"
    )
    words = [*MODEL, "dataset=good", mistake, "--out", "out"]
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert (result.returncode in (1, 2), result.stdout, result.stderr.count("\n")) == (True, "", 1), result.stderr


@pytest.mark.parametrize("program", sorted(COMMANDS))
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modle_name_or_path=foo"], "did you mean model_name_or_path?"),
        (
            [*MODEL, "learning_rat=1", "simulsa_corpus=table", "simulsa_corpus_dir=data/good.jsonl", "dataset=new"],
            "did you mean learning_rate?",
        ),
    ],
)
def test_a_misspelt_key_is_refused_before_anything_is_written(place, capfd, program, words, said):
    assert COMMANDS[program]([*words, "--out", "new"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{program}: error: Unknown key ")
    assert line.endswith(said)
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("simulsa-augment", ["{}/recipe.yaml"]),
        ("simulsa-augment", ["--from-scores", "{}/scores.jsonl"]),
        ("simulsa-eval", ["{}/tuned.yaml"]),
        ("simulsa-eval", ["tune", "{}/recipe.yaml", "--budget", "1000"]),
        ("simulsa-eval", ["score", "{}/instances.log"]),
        ("simulsa-eval", ["compare", "data", "{}/results"]),
        ("simulsa-eval", ["report", "data", "--out", "{}/page.html"]),
    ],
)
def test_an_address_where_a_path_is_expected_is_one_line_with_what_to_do(place, capfd, program, words):
    before = set(place.rglob("*"))
    assert COMMANDS[program]([word.format("s3://me:secret@bucket/run") for word in words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "s3://…@bucket/run" in line and "secret" not in line
    assert "is an address, and a path on this machine is expected; copy it (aws s3 cp, or aws s3 sync" in line
    assert set(place.rglob("*")) == before


def test_the_keys_read_from_the_source_are_those_of_llamafactory(monkeypatch):
    from dataclasses import fields

    from llamafactory.hparams import parser

    from simulsa_plugin.llamafactory.model.arguments import LAUNCH_KEYS
    from simulsa_plugin.llamafactory.plugin.recipe_checks import llamafactory_keys

    groups = {group for group in [*parser._INFER_ARGS, *parser._TRAIN_ARGS]}
    names = {field.name for group in groups for field in fields(group) if field.init}
    own = {name for name in names if name.startswith("simulsa_")}  # where the plugin is on
    assert llamafactory_keys.__wrapped__() == (names - own) | LAUNCH_KEYS
    monkeypatch.setenv("USE_MCA", "1")  # keys of mcore_adapter are not known without an import
    assert llamafactory_keys.__wrapped__() == set()


def test_the_dtypes_are_those_of_llamafactory():
    from typing import get_args, get_type_hints

    from llamafactory.hparams import ModelArguments

    from simulsa_plugin.llamafactory.plugin.recipe_checks import INFER_DTYPES

    assert get_args(get_type_hints(ModelArguments)["infer_dtype"]) == INFER_DTYPES


def test_the_templates_read_from_the_source_are_those_of_llamafactory():
    from llamafactory.data.template import TEMPLATES

    from simulsa_plugin.llamafactory.plugin.recipe_checks import known_templates

    with_audio = {name for name, template in TEMPLATES.items() if template.mm_plugin.audio_token is not None}
    assert known_templates().keys() == TEMPLATES.keys()
    assert {name for name, takes_audio in known_templates().items() if takes_audio} == with_audio


@pytest.mark.parametrize(
    ("name", "said"),
    [("saves/simulsa", True), ("Qwen/Cached", False), ("model", False)],
    ids=["typo", "cached", "folder"],
)
def test_a_name_that_the_hub_is_asked_for_is_told_before_its_minutes(place, monkeypatch, caplog, name, said):
    from huggingface_hub import constants

    from simulsa_plugin.llamafactory.plugin.recipe_checks import check_recipe

    cache = place / "cache"
    snapshot = cache / "models--Qwen--Cached" / "snapshots" / "f00"  # the layout of huggingface_hub's cache
    for path, content in ((snapshot / "config.json", "{}"), (snapshot.parents[1] / "refs" / "main", "f00")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    caplog.set_level("INFO", "simulsa_plugin")
    check_recipe({"model_name_or_path": name, "template": "qwen2_audio"}, None)
    line = f"There is no folder {name}, and {cache} does not hold it: asking the Hugging Face Hub."
    assert caplog.messages == ([line] if said else [])


def test_a_process_of_its_own_is_as_quiet(place):
    # In this process LLaMA-Factory's loggers have been set up long ago; a user's process starts fresh.
    program = Path(sys.executable).parent / "simulsa-augment"
    words = [*MODEL, "dataset=good", "model_name_or_path=broken_model"]
    result = subprocess.run([program, *words], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("simulsa-augment: error: Cannot load the model broken_model: ")


@pytest.fixture
def odd(place):
    """A dataset of every kind of audio, with the reason why it cannot be used, or None."""
    rng = np.random.default_rng(0)
    for rate in (8_000, 44_100, 48_000):
        soundfile.write(f"{rate}.wav", rng.normal(0, 0.1, 2 * rate), rate)
    soundfile.write("stereo.flac", rng.normal(0, 0.1, (32_000, 2)), 16_000)
    soundfile.write("speech.mp3", rng.normal(0, 0.1, 88_200), 44_100)
    write_noise("long.wav", 20.0)
    write_noise("short.wav", 0.1)
    Path("zero.wav").write_bytes(b"")
    Path("text.wav").write_bytes(b"this is no audio " * 20)
    write_noise("no_samples.wav", 0.0)
    kinds = {
        "8000.wav": None,
        "44100.wav": None,
        "48000.wav": None,
        "stereo.flac": None,
        "speech.mp3": None,
        "long.wav": None,
        "short.wav": "too_short",
        "zero.wav": "audio_empty",
        "no_samples.wav": "audio_empty",
        "text.wav": "audio_broken",
        "missing.wav": "audio_missing",
    }
    odd = [{"id": f"odd {name}", **row("Das Haus ist neu.", str(place / name))} for name in kinds]
    write_set(place / "data" / "odd.jsonl", odd)
    info = json.loads((place / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    info["odd"] = SHAREGPT | {"file_name": "odd.jsonl"}
    (place / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return kinds


def test_every_clip_is_augmented_or_listed(place, odd, capfd):
    words = [*MODEL, "dataset=odd", "simulsa_ratio=1", "--out", "out"]
    assert augment.main(words) == 0
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    names = dict(enumerate(odd))

    def rows(name):
        lines = (place / "out" / "odd_simulsa" / name).read_text(encoding="utf-8").splitlines()
        return {names[int(one["id"].split("-")[1])]: one for one in map(json.loads, lines)}

    expected = {name: reason for name, reason in odd.items() if reason}
    skipped = rows("skipped.jsonl")
    assert {name: one["reason"] for name, one in skipped.items()} == expected
    assert {name: (one["audio"], one["source_id"]) for name, one in skipped.items()} == {
        name: (str(place / name), f"odd {name}") for name in expected
    }
    assert skipped["short.wav"]["cause"] == "the audio has 0.100 s, and simulsa_min_seconds is 0.5"
    assert str(place / "missing.wav") in skipped["missing.wav"]["cause"]
    assert all(one["cause"] for one in skipped.values())
    scores = rows("scores.jsonl")
    assert set(scores) == set(odd) - set(expected)
    for name, one in scores.items():
        info = soundfile.info(one["clip"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert one["source_id"] == f"odd {name}"  # what the offline file itself calls the row
        assert one["duration_seconds"] == pytest.approx(20.0 if name == "long.wav" else 2.0, abs=0.1)
    assert "gives 6 of the 11 samples asked for" in " ".join((out + err).split())
    assert "odd: 6 partial samples from 11 rows" in out
    assert "audio_broken 1, audio_empty 2, audio_missing 1, too_short 1" in out


def test_every_clip_is_decoded_or_listed(place, odd, capfd):
    words = [
        *MODEL,
        "dataset=odd",
        "simulsa_chunks=1000",
        "simulsa_rollbacks=3",
        "simulsa_max_new_tokens=8",
        "--out",
        "out",
    ]
    assert evaluate.main(words) == 0
    assert "Traceback" not in capfd.readouterr().err
    scores = json.loads((place / "out" / "scores.json").read_text(encoding="utf-8"))
    names = list(odd)
    assert {names[int(one["id"].split("-")[1])]: one["reason"] for one in scores["skipped"]} == {
        name: reason for name, reason in odd.items() if reason
    }
    assert {(cell["instances"], cell["skipped"], cell["counts"]["longer_than_window"]) for cell in scores["cells"]} == {
        (6, 5, 1)
    }


def test_what_augment_wrote_is_what_evaluation_and_training_read(place):
    # The folder alone: the offline entry is absolute, the clips are, and LLaMA-Factory's own loader finds both.
    assert augment.main([*MODEL, "dataset=good", "simulsa_min_seconds=0.2", "--out", "out"]) == 0
    (place / "elsewhere").mkdir()
    shutil.move(place / "data" / "dataset_info.json", place / "elsewhere")
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments

    recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset_dir": "out"}
    offline, partial = load_datasets(inference_arguments(recipe), ["good", "good_simulsa"])
    assert offline.sample(0).audio == str(place / "a.wav")
    kept = json.loads((place / "out" / "good_simulsa.jsonl").read_text(encoding="utf-8"))
    assert partial.rows[0]["_response"] == [kept["messages"][-1]]
    assert partial.rows[0]["_audios"] == kept["audios"]
    assert Path(kept["audios"][0]).is_file()


@pytest.mark.parametrize(
    ("keys", "warning"),
    [
        (("dataset=good",), "the recipe has no eval_dataset, and the test set good is the training dataset good:"),
        (("dataset=mute,good", "eval_dataset=good"), "warning: the test set good is the training dataset good:"),
        (("dataset=again", "eval_dataset=good"), "the test set good is the training dataset again, registered with"),
        (("dataset=mute", "eval_dataset=good"), None),
        (("eval_dataset=good",), None),
    ],
)
def test_what_is_tested_is_said_and_a_warning_where_it_is_trained_on(place, capfd, keys, warning):
    info = json.loads((place / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    info["again"] = info["good"]
    (place / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    words = [*MODEL, *keys, "simulsa_chunks=1000", "simulsa_rollbacks=3", "simulsa_max_new_tokens=4", "--out", "out"]
    assert evaluate.main(words) == 0
    out, err = capfd.readouterr()
    assert out.startswith("test set good: 1 of 1 rows, model simulsa-demo, latency unit word, BLEU tokenizer 13a\n")
    assert (warning in err) if warning else ("warning" not in err)
