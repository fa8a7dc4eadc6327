"""Recipes on their way into LLaMA-Factory's parser."""

import pickle

import pytest

from simulsa_plugin.demo.checkpoint import checkpoint_path, resolve_model_name
from simulsa_plugin.errors import UsageError
from simulsa_plugin.llamafactory.plugin import recipe_keys


@pytest.fixture(autouse=True)
def a_machine_without_gpu(monkeypatch):
    monkeypatch.setattr(recipe_keys, "_device_count", lambda: 0)


def test_simulsa_demo_is_the_packaged_checkpoint_in_any_folder(tmp_path, monkeypatch):
    (tmp_path / "simulsa-demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model_name("simulsa-demo") == str(checkpoint_path())
    assert resolve_model_name("./simulsa-demo") == "./simulsa-demo"
    assert checkpoint_path().is_absolute()


def test_model_names_in_a_recipe_are_resolved():
    recipe = {"model_name_or_path": "simulsa-demo", "ref_model": "simulsa-demo", "output_dir": "simulsa-demo"}
    adapted = recipe_keys.adapt_recipe(recipe)
    assert adapted == {
        "model_name_or_path": str(checkpoint_path()),
        "ref_model": str(checkpoint_path()),
        "output_dir": "simulsa-demo",
    }
    assert recipe["model_name_or_path"] == "simulsa-demo"  # the caller's dict is not changed


@pytest.mark.parametrize("flags", [["--model_name_or_path", "simulsa-demo"], ["--model_name_or_path=simulsa-demo"]])
def test_model_names_in_flags_are_resolved(flags):
    assert str(checkpoint_path()) in " ".join(recipe_keys.adapt_flags(flags))


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UsageError, match="simulsa_ratoi: did you mean simulsa_ratio"):
        recipe_keys.adapt_recipe({"simulsa_ratoi": 0.05})
    with pytest.raises(UsageError, match="simulsa_ratoi: did you mean simulsa_ratio"):
        recipe_keys.adapt_flags(["--simulsa_ratoi", "0.05"])


def test_bf16_is_left_out_without_a_gpu_and_said_once(capsys):
    assert recipe_keys.adapt_recipe({"bf16": True})["bf16"] is False
    assert capsys.readouterr().err == "simulsa_plugin: bf16 needs a GPU, and there is none: going on in fp32.\n"


def test_bf16_stays_where_there_is_a_gpu_or_the_cpu_is_asked_for(monkeypatch):
    assert recipe_keys.adapt_recipe({"bf16": True, "use_cpu": True})["bf16"] is True
    monkeypatch.setattr(recipe_keys, "_device_count", lambda: 1)
    assert recipe_keys.adapt_recipe({"bf16": True})["bf16"] is True


def test_llamafactory_takes_the_keys_of_every_command():
    from llamafactory.hparams.parser import _parse_infer_args

    recipe = {
        "model_name_or_path": "simulsa-demo",
        "template": "qwen2_audio",
        "simulsa_ratio": 0.05,
        "simulsa_made_by": "simulsa-augment --out data/",
    }
    model, data, _, _ = _parse_infer_args(recipe)
    assert model.model_name_or_path == str(checkpoint_path())
    assert (data.template, data.simulsa_ratio) == ("qwen2_audio", 0.05)


def test_llamafactory_takes_the_keys_as_flags():
    from llamafactory.hparams.parser import _parse_infer_args

    model, data, _, _ = _parse_infer_args(["--model_name_or_path", "simulsa-demo", "--simulsa_ratio", "0.05"])
    assert model.model_name_or_path == str(checkpoint_path())
    assert data.simulsa_ratio == "0.05"


def test_the_arguments_pickle_as_ray_and_datasets_need_it():
    from simulsa_plugin.llamafactory.plugin.data_arguments import SimulsaDataArguments

    arguments = SimulsaDataArguments(template="qwen2_audio", simulsa_ratio="0.05")
    assert pickle.loads(pickle.dumps(arguments)) == arguments
