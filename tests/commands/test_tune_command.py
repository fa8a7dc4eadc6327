"""`simulsa-eval tune` as users type it: what it refuses and warns of before the model is loaded, and what it writes."""

import contextlib
import json

import pytest
from helpers.fakes import write_offline

from simulsa_plugin.api import output_place
from simulsa_plugin.api.dev_set import dev_set_warnings, recipe_dev_set
from simulsa_plugin.api.recipe import Recipe
from simulsa_plugin.commands import evaluate
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.demo.corpus import DEV_NAME, SPLITS, TEST_NAME
from simulsa_plugin.demo.talks import DEV_TALK_MINUTES, DEV_TALKS_NAME, TALKS_NAME
from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import read_recipe

MODEL = ["model_name_or_path=simulsa-demo", "template=qwen2_audio"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data/, in which the set `toy` is also registered as `test`, and as `other` from a copy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_offline(tmp_path / "data", 4)
    info = json.loads((tmp_path / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    (tmp_path / "data" / "other.jsonl").write_bytes((tmp_path / "data" / "offline.jsonl").read_bytes())
    info |= {"test": info["toy"], "other": info["toy"] | {"file_name": "other.jsonl"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return tmp_path


def test_the_embedded_corpus_is_not_searched_for_an_address(place, monkeypatch, capsys):
    monkeypatch.setattr(output_place, "output_at", lambda out: contextlib.nullcontext(place / "work"))
    assert evaluate.main(["tune", "--budget", "1000", "--out", "s3://bucket/tuned"]) == 2
    assert "the embedded corpus is made in folders. Give a recipe, or a folder." in capsys.readouterr().err
    assert not (place / "work").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval_dataset=toy"], "and the recipe names none. Set simulsa_dev_dataset=NAME to a set in dataset_info.json"),
        (["eval_dataset=toy", "simulsa_dev_dataset=tou"], "tou"),
        (
            ["eval_dataset=toy", "simulsa_dev_dataset=other", "simulsa_cells=rollback_k500_b33"],
            "simulsa_cells names 'rollback_k500_b33', which is not among the 248 cells",
        ),
        (
            [
                "simulsa_policies=rollback",
                "simulsa_rollbacks=0,3",
                "simulsa_chunks=500",
                "simulsa_cells=k500",
                "eval_dataset=toy",
                "simulsa_dev_dataset=other",
            ],
            "They are rollback_k500_b0, rollback_k500_b3.",
        ),
        (["simulsa_policies=[]", "simulsa_dev_dataset=other"], "There is no cell to choose from"),
        (
            ["simulsa_corpus=mustc", "simulsa_corpus_dir=data"],
            "Set simulsa_dev_split to one that is neither trained on",
        ),
    ],
)
def test_mistakes_show_before_anything_is_loaded(place, monkeypatch, capsys, words, message):
    monkeypatch.setattr("simulsa_plugin.api.loading.load_model_and_data", lambda *_: pytest.fail("loaded"))
    assert evaluate.main(["tune", *MODEL, "dataset_dir=data", *words, "--budget", "1000"]) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("dev", "keys", "warned"),
    [
        ("toy", {"eval_dataset": "toy"}, ["is the test set, too"]),
        ("toy", {"eval_dataset": "test"}, ["is the test set, too"]),  # the same rows by another name
        ("toy", {"dataset": "test"}, ["is the test set, too"]),  # without eval_dataset, run takes dataset
        ("toy", {"eval_dataset": "other", "dataset": "test"}, ["the training dataset test, registered with the same"]),
        ("toy", {"eval_dataset": "other"}, []),
        ("toy", {}, []),
    ],
)
def test_a_dev_set_that_is_tested_or_trained_on_is_warned_of(place, dev, keys, warned):
    class Dataset:
        name, entry = dev, {"file_name": str(place / "data" / "offline.jsonl")}

    lines = dev_set_warnings(Recipe({}, {"dataset_dir": "data"} | keys, embedded=False), Dataset())
    assert len(lines) == len(warned)
    assert all(one in line for one, line in zip(warned, lines, strict=True))


def test_a_corpus_has_a_split_of_its_own_to_choose_on(place):
    (place / "data" / "train").mkdir()
    simulsa = {
        "simulsa_corpus": "mustc",
        "simulsa_corpus_dir": "data",
        "simulsa_source_language": "en",
        "simulsa_target_language": "de",
        "simulsa_dev_split": "dev",
    }
    toolkit = {"template": "qwen2_audio", "eval_dataset": "my_test"}
    dev = recipe_dev_set(Recipe(simulsa, toolkit, embedded=False))
    assert (dev.name, dev.registered, dev.warnings) == ("mustc_en_de_dev", False, ())
    same = recipe_dev_set(Recipe(simulsa | {"simulsa_dev_split": "tst-COMMON"}, toolkit, embedded=False))
    assert "is the test set, too" in same.warnings[0]
    assert CorpusSettings.from_keys(simulsa).dev_split == ("dev",)


def test_the_embedded_dev_set_shares_no_sentence_with_training_and_test(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr("simulsa_plugin.demo.corpus.iterate_utterances", lambda split, count, processes: split)
    monkeypatch.setattr(
        "simulsa_plugin.demo.corpus.write_utterances",
        lambda folder, name, split, count: written.append((name, split, count)),
    )
    dev = recipe_dev_set(Recipe({}, {}, embedded=True))
    keys = dev.make(tmp_path, False)
    assert dev.name == DEV_NAME
    assert keys == {"eval_dataset": TEST_NAME, "dataset_dir": str(tmp_path / "corpus")}
    assert written == [(TEST_NAME, "test", 200), (DEV_NAME, "heldout", 200)]
    assert not set(SPLITS["heldout"]) & {*SPLITS["test"], *SPLITS["train"], *SPLITS["pretrain"]}


@pytest.mark.parametrize("longform", ["window", "vad"])
def test_recordings_are_tuned_on_talks_of_their_own_and_tested_on_others(monkeypatch, tmp_path, longform):
    written = []
    monkeypatch.setattr(
        "simulsa_plugin.demo.talks.write_demo_talks",
        lambda folder, name=TALKS_NAME, **how: written.append((folder, name, how.get("split"), how.get("minutes"))),
    )
    dev = recipe_dev_set(Recipe({"simulsa_longform": longform}, {}, embedded=True))
    folder = tmp_path / "corpus"
    assert dev.name == DEV_TALKS_NAME
    assert dev.make(tmp_path, False) == {"eval_dataset": TALKS_NAME, "dataset_dir": str(folder)}
    # None are the defaults: those of the test talks
    assert written == [(folder, TALKS_NAME, None, None), (folder, DEV_TALKS_NAME, "heldout", DEV_TALK_MINUTES)]


def test_what_it_writes_evaluates_the_test_set(place, capsys):
    words = [
        *MODEL,
        "dataset_dir=data",
        "simulsa_dev_dataset=other",
        "eval_dataset=toy",
        "simulsa_policies=wait_k",
        "simulsa_wait_k=1,2",
        "simulsa_chunks=1000,2000",
        "simulsa_max_new_tokens=8",
        "simulsa_unit=word",
        "simulsa_tokenizer=13a",
        "simulsa_dev_samples=3",
    ]
    assert evaluate.main(["tune", *words, "--budget", "100000", "--out", "tuned"]) == 0
    out = capsys.readouterr().out
    first, second = out.splitlines()[:2]
    assert first == "dev set other: 3 rows, model simulsa-demo, latency unit word, BLEU tokenizer 13a"
    assert second.startswith("4 of 4 cells on 3 of 3 utt")
    assert "Now the test set: simulsa-eval tuned/tuned.yaml --out RESULTS" in out
    recipe = read_recipe("tuned/tuned.yaml")
    assert recipe["eval_dataset"] == "toy"
    assert evaluate.main(["tuned/tuned.yaml", "--out", "results"]) == 0
    cells = json.loads((place / "results" / "scores.json").read_text(encoding="utf-8"))["cells"]
    assert [row["folder"] for row in cells] == ["offline", *recipe["simulsa_cells"]]
    assert capsys.readouterr().out.startswith("test set toy: 4 of 4 rows")
    with pytest.raises(UsageError, match="No cell is within any budget"):
        evaluate._tune([*words, "--budget", "0.001", "--out", "none"])


def test_the_latency_of_a_goal_is_one_of_the_dev_sets_form():
    from simulsa_plugin.api.tune_recipe import USUAL_LATENCY, goal_of_form
    from simulsa_plugin.tuning.halving import Goal

    usual = Goal((1000.0,), USUAL_LATENCY)
    assert [goal_of_form(usual, long_form=one).latency for one in (False, True)] == ["LAAL", "LongYAAL"]
    assert goal_of_form(Goal((1000.0,), "StreamLAAL"), long_form=True).latency == "StreamLAAL"
    with pytest.raises(UsageError, match="latency is LAAL, which is not measured with simulsa_longform; allowed: Long"):
        goal_of_form(Goal((1000.0,), "LAAL"), long_form=True)
