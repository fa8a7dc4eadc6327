"""Presets: defaults that stand behind the keys that are named, in every command that reads them."""

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.fakes import write_offline

from simulsa_plugin.api.recipe import Recipe, open_recipe
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.commands import augment, evaluate
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings, HookSettings
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.presets import PAPER, PRESETS, READ_BY, RECOMMENDED, Preset, apply_preset
from simulsa_plugin.streaming.catalogue import POLICIES, PolicyOptions
from simulsa_plugin.tuning.tuned_recipe import searched_settings

GROUPS = (AugmentSettings, EvaluationSettings, HookSettings)


@pytest.mark.parametrize("group", GROUPS)
def test_papers_values_are_the_defaults_of_the_keys(group):
    # So a recipe without a preset does what it did before there were any.
    keys, preset = apply_preset({"simulsa_preset": "paper"}, [group])
    assert group.from_keys(keys) == group()
    assert preset.values  # something was compared
    assert apply_preset({}, [group]) == ({}, None)


def test_recommended_is_ten_per_cent_and_a_confidence_stop():
    keys, _ = apply_preset({"simulsa_preset": "recommended"}, GROUPS)
    assert AugmentSettings.from_keys(keys).ratio == 0.1
    cells = plan_cells(EvaluationSettings.from_keys(keys))
    assert {cell.policy.name for cell in cells} >= {"offline", "confidence"}
    assert len(cells) <= 21  # a bare evaluation is a matter of a minute or two


@pytest.mark.parametrize("name", PRESETS)
def test_every_key_of_a_preset_is_one_that_some_command_reads(name):
    assert PRESETS[name].keys() <= {key for group in GROUPS for key in group.keys()}
    GROUPS[0].from_keys(PRESETS[name]), GROUPS[1].from_keys(PRESETS[name]), GROUPS[2].from_keys(PRESETS[name])


def test_the_documented_table_is_what_counts():
    lines = (Path(__file__).resolve().parents[1] / "docs" / "quickstart.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| key | `paper` | `recommended` |") + 2
    table = {key: cells for key, *cells in (line.strip("| ").split(" | ") for line in lines[start : start + 5])}
    assert table == {
        f"`{key}`": [_shown(PRESETS[name].get(key)) for name in ("paper", "recommended")]
        for key in PRESETS[RECOMMENDED]
        if not key.startswith("simulsa_eval_")
    }


def _typed(value):
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _shown(value):
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_a_named_key_counts_more_than_a_preset_and_a_named_preset_more_than_the_default():
    given = {"simulsa_ratio": 0.05, "simulsa_seed": 7, "simulsa_chunks": 500}
    keys, preset = apply_preset(given, [AugmentSettings], RECOMMENDED)
    assert keys == given  # and no key of evaluation is added to them
    assert preset == Preset(RECOMMENDED, {})
    keys, preset = apply_preset({"simulsa_preset": "paper"}, [AugmentSettings], RECOMMENDED)
    assert (keys, preset) == ({"simulsa_ratio": 0.01}, Preset(PAPER, {"simulsa_ratio": 0.01}))
    assert apply_preset({"simulsa_preset": None}, [AugmentSettings], RECOMMENDED)[0] == {"simulsa_ratio": 0.1}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("papr", r"simulsa_preset is 'papr'; allowed: paper, recommended\. Did you mean paper\?"),
        ("best", r"simulsa_preset is 'best'; allowed: paper, recommended\.$"),
        (["paper"], r"simulsa_preset is \['paper'\]; allowed: a word\."),
    ],
)
def test_an_unknown_preset_is_refused(value, message):
    with pytest.raises(UsageError, match=message):
        apply_preset({"simulsa_preset": value}, GROUPS)


@pytest.mark.parametrize(
    ("main", "words"), [(augment.main, []), (evaluate.main, []), (evaluate.main, ["tune", "--budget", "1000"])]
)
def test_every_command_refuses_it_before_anything_is_made(main, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "simulsa_preset=recomended"]) == 2
    assert "Did you mean recommended?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset": "demo", "dataset_dir": "data"}


def write_recipe(folder, **keys):
    (folder / "r.yaml").write_text(json.dumps(RECIPE | keys), encoding="utf-8")
    return folder / "r.yaml"


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        ([], RECOMMENDED),
        (["model_name_or_path=saves/simulsa"], RECOMMENDED),
        (["simulsa_preset=paper"], PAPER),
        (["dataset=demo", "dataset_dir=data"], None),
        (["eval_dataset=demo_test", "dataset_dir=data"], None),
        (["simulsa_corpus=table"], None),
        (["dataset=demo", "simulsa_preset=recommended"], RECOMMENDED),
    ],
)
def test_only_the_embedded_default_has_a_preset_of_its_own(words, preset):
    recipe = open_recipe(None, words, [AugmentSettings], RECOMMENDED)
    assert (recipe.preset and recipe.preset.name) == preset
    assert recipe.simulsa.get("simulsa_ratio") == {RECOMMENDED: 0.1, PAPER: 0.01, None: None}[preset]


OF_POLICIES = {f"simulsa_{one.name}" for one in dataclasses.fields(PolicyOptions)} | {"simulsa_confidence_threshold"}


def decoded(keys):
    return [dataclasses.asdict(cell) for cell in plan_cells(EvaluationSettings.from_keys(keys))]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("key", "other"), [("simulsa_rollbacks", 7), ("simulsa_confidence_threshold", 0.123)])
def test_of_a_preset_only_keys_that_change_what_is_decoded_are_told(key, other, policy):
    named = {"simulsa_policies": policy, "simulsa_chunks": 500}
    matters = decoded(named) != decoded(named | {key: other})
    for value in (policy, [policy], f"{policy},retranslation"):
        given = named | {"simulsa_policies": value, "simulsa_preset": "recommended"}
        keys, preset = apply_preset(given, [EvaluationSettings])
        assert key in keys  # it counts, as before
        assert (key in preset.values) == matters


def test_of_a_training_too_only_keys_of_decoded_policies_are_told():
    for policy in POLICIES:
        for name in PRESETS:
            given = {"simulsa_preset": name, "simulsa_eval_policies": policy}
            keys, preset = apply_preset(given, [HookSettings, EvaluationSettings])
            assert keys.keys() >= PRESETS[name].keys() - {"simulsa_ratio"}
            readers = {"simulsa_eval_rollbacks": {"rollback"}}
            readers["simulsa_confidence_threshold"] = {"confidence", "agreement_or_confidence"}
            told = {"simulsa_eval_chunks", *(key for key, read_by in readers.items() if policy in read_by)}
            assert preset.values.keys() == told & PRESETS[name].keys()


def test_every_key_of_a_preset_that_not_all_policies_read_is_known():
    present = {key for preset in PRESETS.values() for key in preset}
    assert {key for key in present if key.replace("_eval_", "_") in OF_POLICIES} == set(READ_BY)


@pytest.mark.parametrize(("main", "key"), [(augment.main, "simulsa_ratio"), (evaluate.main, "simulsa_policies")])
@pytest.mark.parametrize(("words", "name"), [([], RECOMMENDED), (["simulsa_preset=paper"], PAPER)])
def test_a_bare_command_is_as_recommended_and_the_papers_is_one_word_away(
    main, key, words, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simulsa_plugin.demo.corpus.write_demo_corpus", lambda *_, **__: pytest.fail("it speaks now"))
    with pytest.raises(pytest.fail.Exception):
        main(["model_name_or_path=simulsa-demo", *words])
    assert capsys.readouterr().out.startswith(f"preset {name}: {key}={_typed(PRESETS[name][key])}")


def test_a_recipe_without_a_preset_is_read_as_before(tmp_path):
    recipe = open_recipe(write_recipe(tmp_path, simulsa_seed=1), [], [AugmentSettings], RECOMMENDED)
    assert recipe == Recipe({"simulsa_seed": 1}, RECIPE, embedded=False)


def test_the_command_line_names_the_preset_of_a_recipe_anew(tmp_path):
    path = write_recipe(tmp_path, simulsa_preset="recommended", simulsa_chunks=[250])
    recipe = open_recipe(path, ["simulsa_rollbacks=2"], [EvaluationSettings])
    settings = EvaluationSettings.from_keys(recipe.simulsa)
    assert (settings.chunks, settings.rollbacks) == ((250,), (2,))
    assert "confidence" in settings.policies
    again = open_recipe(path, ["simulsa_preset=paper"], [EvaluationSettings])
    assert EvaluationSettings.from_keys(again.simulsa) == EvaluationSettings(chunks=(250,))


def test_a_preset_is_not_what_is_searched():
    for name in PRESETS:
        recipe = open_recipe(None, [f"simulsa_preset={name}"])
        assert searched_settings(recipe.simulsa) == searched_settings({})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with an offline dataset in data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_offline(tmp_path / "data", 20)
    return tmp_path


def test_augmentation_says_and_notes_what_it_took(place, capsys):
    words = [*(f"{key}={value}" for key, value in (RECIPE | {"dataset": "toy"}).items()), "simulsa_min_seconds=0.2"]
    for preset, samples in (("recommended", 2), ("paper", 1)):
        out = place / preset
        assert augment.main([*words, f"simulsa_preset={preset}", "--out", str(out)]) == 0
        ratio = PRESETS[preset]["simulsa_ratio"]
        assert capsys.readouterr().out.startswith(f"preset {preset}: simulsa_ratio={ratio:g}\n")
        manifest = json.loads((out / "toy_simulsa" / "manifest.json").read_text(encoding="utf-8"))
        assert (manifest["settings"]["simulsa_ratio"], manifest["counts"]["samples"]) == (ratio, samples)
    # The paper's settings under no name are the same work; others are refused.
    assert augment.main([*words, "--out", str(place / "paper")]) == 0
    assert not capsys.readouterr().out.startswith("preset")
    assert augment.main([*words, "simulsa_preset=recommended", "--out", str(place / "paper")]) == 1
    assert "simulsa_ratio" in capsys.readouterr().err


def test_a_decision_over_scores_takes_all_of_them_unless_a_preset_is_named(place, capsys):
    words = [*(f"{key}={value}" for key, value in (RECIPE | {"dataset": "toy"}).items()), "simulsa_min_seconds=0.2"]
    assert augment.main([*words, "simulsa_ratio=0.5", "--out", "half"]) == 0
    capsys.readouterr()
    again = ["--from-scores", "half/toy_simulsa/scores.jsonl"]
    assert augment.main([*again, "--out", "all"]) == 0
    assert capsys.readouterr().out.startswith("toy: 10 partial samples")
    assert augment.main([*again, "simulsa_preset=recommended", "--out", "some"]) == 0
    assert capsys.readouterr().out.startswith("preset recommended: simulsa_ratio=0.1\ntoy: 2 partial samples")


def test_an_evaluation_says_and_notes_what_it_took(place, capsys):
    words = [
        *(f"{key}={value}" for key, value in RECIPE.items() if key != "dataset"),
        "eval_dataset=toy",
        "simulsa_chunks=1000",
        "simulsa_confidence_threshold=0.5",
        "simulsa_max_new_tokens=8",
        "simulsa_eval_samples=2",
    ]
    assert evaluate.main([*words, "simulsa_preset=recommended", "--out", "results"]) == 0
    policies = ",".join(PRESETS[RECOMMENDED]["simulsa_policies"])
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith(f"preset recommended: simulsa_policies={policies}")
    assert "simulsa_chunks" not in first  # that was named
    assert second.startswith("test set toy: 2 of 20 rows")
    scores = json.loads((place / "results" / "scores.json").read_text(encoding="utf-8"))
    assert [cell["policy"] for cell in scores["cells"]] == ["offline", *PRESETS[RECOMMENDED]["simulsa_policies"]]
    assert evaluate.main([*words, "--out", "results"]) == 1  # other cells
    assert "choose another --out" in capsys.readouterr().err.lower()


def test_a_search_says_that_it_searches(place, monkeypatch, capsys):
    monkeypatch.setattr("simulsa_plugin.api.loading.load_model_and_data", lambda *_: pytest.fail("it would load now"))
    words = [*(f"{key}={value}" for key, value in RECIPE.items() if key != "dataset"), "simulsa_dev_dataset=toy"]
    with pytest.raises(pytest.fail.Exception):
        evaluate.main(["tune", *words, "simulsa_preset=recommended", "--budget", "1000"])
    assert capsys.readouterr().out == "preset recommended: it sets no cells here, where they are searched\n"
