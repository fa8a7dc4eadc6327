"""The YAML of simulstream's processor, and the model that processors of one process share."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from simulsa_plugin import agents
from simulsa_plugin.agents import shared_system
from simulsa_plugin.agents.simulstream_options import ProcessorOptions, read_options
from simulsa_plugin.api.recipe import open_recipe
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import plan_cells

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSORS = [
    path for path in sorted((REPOSITORY / "recipes" / "simulstream").glob("*.yaml")) if "server" not in path.stem
]


def test_mappings_come_back_from_simulstreams_namespaces():
    config = SimpleNamespace(
        type="x.Processor",
        latency_unit="word",
        recipe="r.yaml",
        keys=SimpleNamespace(simulsa_chunks=[500], deeper=SimpleNamespace(a=[SimpleNamespace(b=1)])),
        text="shown",
    )
    keys = {"simulsa_chunks": [500], "deeper": {"a": [{"b": 1}]}}
    assert read_options(config) == ProcessorOptions("r.yaml", keys, None, "shown")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"recip": "r.yaml"}, "Unknown key recip: did you mean recipe?"),
        ({"text": "all"}, "text is 'all'; allowed: committed, shown."),
        ({"speech_chunk_size": 0}, "speech_chunk_size is 0; allowed: a number > 0."),
        ({"speech_chunk_size": "500 ms"}, "speech_chunk_size is '500 ms'; allowed: seconds."),
        ({"speech_chunk_size": True}, "speech_chunk_size is True; allowed: seconds."),
        ({"recipe": ["r.yaml"]}, "recipe is ['r.yaml']; allowed: the path of a YAML file."),
        ({"keys": ["simulsa_chunks=500"]}, "keys is ['simulsa_chunks=500']; allowed: lines of `key: value` below it."),
        ({"base_speech_processor_class": "x"}, "Set type to this processor, and simulsa_longform: vad below keys."),
    ],
)
def test_a_mistake_is_one_clear_line(keys, message):
    with pytest.raises(UsageError) as error:
        read_options(SimpleNamespace(type="x.Processor", **keys))
    assert str(error.value).endswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", PROCESSORS, ids=lambda path: path.stem)
def test_our_files_name_known_keys_and_one_cell(path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = read_options(SimpleNamespace(**config))
    recipe = open_recipe(REPOSITORY / options.recipe if options.recipe else None, options.keys or {})
    (chunk,) = {cell.chunk_ms for cell in plan_cells(EvaluationSettings.from_keys(recipe.simulsa))} - {None}
    assert options.speech_chunk_size in (chunk / 1000, 0.1)
    module, _, name = config["type"].rpartition(".")
    assert module == agents.__name__
    assert name in agents.__all__


def test_a_recipe_is_loaded_once_for_each_set_of_keys(monkeypatch):
    loaded = []

    def load(recipe, keys, *, single_point):
        loaded.append((recipe, keys, single_point))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("simulsa_plugin.api.live_system.open_live_system", load)
    monkeypatch.setattr(shared_system, "_SYSTEMS", {})
    monkeypatch.setattr("atexit.register", lambda *_: None)
    first = shared_system.shared_system("r.yaml", {"a": 1, "b": [2]})
    assert shared_system.shared_system("r.yaml", {"b": [2], "a": 1}) is first
    assert shared_system.shared_system("r.yaml", {"a": 1}) is not first
    assert loaded == [("r.yaml", {"a": 1, "b": [2]}, True), ("r.yaml", {"a": 1}, True)]
