"""Where models compute is read and checked before anything heavy; no cluster is needed for that."""

import importlib.util
import pickle
import subprocess
import sys

import pytest

from simulsa_plugin.api.engine import read_engine, with_absolute_paths
from simulsa_plugin.api.recipe import open_recipe
from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.commands.augment import main
from simulsa_plugin.errors import AudioError, MissingExtraError, UsageError
from simulsa_plugin.sharding import Shard

RAY = {"simulsa_engine": "ray"}


def test_without_ray_the_command_ends_before_it_does_anything(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    assert main(["simulsa_engine=ray", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        "simulsa-augment: error: simulsa_engine: ray needs the package ray. Install it: pip install ray, "
        "or all of the extra, in the clone: pip install '.[ray]'.\n"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(MissingExtraError):
        read_engine(open_recipe(None, RAY))


def test_ray_shares_the_work_out_by_itself():
    pytest.importorskip("ray")
    assert read_engine(open_recipe(None, RAY)) == ClusterSettings("ray")
    with pytest.raises(UsageError, match="shares the work out by itself"):
        read_engine(open_recipe(None, RAY), Shard(1, 2))
    with pytest.raises(UsageError, match="simulsa_measure_time is for a single process"):
        read_engine(open_recipe(None, RAY), measures_time=True)
    assert read_engine(open_recipe(None), Shard(1, 2), measures_time=True) == ClusterSettings()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001"])
def test_a_cluster_that_is_not_there_is_told_before_anything_is_read(tmp_path, address):
    pytest.importorskip("ray")
    program = (
        "import sys; from simulsa_plugin.commands.augment import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'ray', 'llamafactory'} & sys.modules.keys(); sys.exit(code)"
    )
    words = ["simulsa_engine=ray", f"simulsa_ray_address={address}", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert (
        done.stderr.startswith(f"simulsa-augment: error: The Ray cluster {address} ") and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("engine", "spark", "allowed: local, ray"),
        ("ray_workers", 0, "≥ 1"),
        ("ray_gpus_per_worker", -1, "≥ 0"),
    ],
)
def test_wrong_values_are_refused(key, value, allowed):
    with pytest.raises(UsageError, match=allowed):
        ClusterSettings.from_keys({f"simulsa_{key}": value})


def test_local_folders_are_named_so_that_a_worker_finds_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("saves", "adapter"):
        (tmp_path / name).mkdir()
    keys = {"model_name_or_path": "saves", "adapter_name_or_path": "adapter,org/other", "template": "saves"}
    assert with_absolute_paths(keys) == {
        "model_name_or_path": f"{tmp_path}/saves",
        "adapter_name_or_path": f"{tmp_path}/adapter,org/other",
        "template": "saves",
    }
    assert with_absolute_paths({"model_name_or_path": "simulsa-demo"}) == {"model_name_or_path": "simulsa-demo"}


def test_errors_with_a_reason_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("broken", "a.wav is broken.")))
    assert (type(error), error.reason, str(error)) == (AudioError, "broken", "a.wav is broken.")
