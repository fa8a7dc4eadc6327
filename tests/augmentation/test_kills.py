"""Runs that are really killed (SIGKILL), at any moment: they go on, and end with the same bytes.

Run as a program, this file is the server of `helpers.killing`.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.fakes import ByteModel, make_dataset, write_offline
from helpers.files import tree
from helpers.killing import MOST_RUNS, Server, serve

from simulsa_plugin.files.atomic import UNFINISHED

KILLS = 12


def start(kind, offline):
    """Be the server."""
    import simulsa_plugin.augmentation.pipeline  # noqa: F401  here, and not in every run

    model, dataset, settings = (load_real if kind == "real" else load_fake)(Path(offline))
    serve(lambda request, out: work(request, out, model, dataset, settings))


def load_fake(offline):
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings

    return ByteModel(), make_dataset(offline, count=4), AugmentSettings(samples=3, batch_size=2)


def load_real(offline):
    import threading

    import torch
    import tqdm

    from simulsa_plugin.api.loading import load_model_and_data
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings

    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # no thread that watches progress bars
    recipe = yaml.safe_load((offline / "recipe.yaml").read_text(encoding="utf-8"))
    settings = AugmentSettings.from_keys({key: recipe.pop(key) for key in list(recipe) if key.startswith("simulsa_")})
    model, (dataset,) = load_model_and_data(recipe, [recipe["dataset"]])
    assert threading.active_count() == 1, "a forked process would lack the other threads"
    return model, dataset, settings


def work(request, out, model, dataset, settings):
    from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
    from simulsa_plugin.augmentation.relabeling import relabel
    from simulsa_plugin.sharding import Shard

    kind = request.get("work", "whole")
    if kind == "decide again":
        relabel(out / "toy_simulsa" / "scores.jsonl", {"simulsa_acceptance": "greedy"}, out, lambda *_: None)
        return
    for number in (1, 2) if kind == "shards" else ():
        augment_shard(dataset, model, settings, out, Shard(number, 2))
    augment_dataset(dataset, model, settings, out)


@pytest.fixture
def server(request, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    if request.param == "real":
        write_recipe(tmp_path / "offline")
    server = Server(__file__, [request.param, tmp_path / "offline"], tmp_path / "out")
    yield server
    server.close()


def write_recipe(folder, samples=48):
    """An offline dataset with eight rows more than `samples`, and recipe.yaml for the packaged model."""
    write_offline(folder, samples + 8)
    recipe = {
        "model_name_or_path": "simulsa-demo",
        "template": "qwen2_audio",
        "dataset": "toy",
        "dataset_dir": str(folder),
        "simulsa_samples": samples,
        "simulsa_batch_size": 4,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def stage(out):
    """How far a killed run came: the files there, and the bytes of those that grow."""
    return frozenset(
        (str(path.relative_to(out)) if UNFINISHED not in path.name else UNFINISHED, path.stat().st_size)
        for path in out.rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize("server", ["real"], indirect=True)
def test_killed_at_random_moments_the_packaged_model_ends_with_the_same_bytes(server):
    expected, seconds = server.undisturbed()
    moments, stages, rounds, longest = random.Random(24), [], 0, seconds
    for _ in range(MOST_RUNS):
        if server.run(seconds=moments.uniform(0, longest))["status"] == -signal.SIGKILL:
            stages.append(stage(server.out))
            longest *= 1.1  # a machine that has become slower must not keep a run from ever coming far
        else:  # it came to its end
            assert tree(server.out) == expected
            shutil.rmtree(server.out)
            rounds, longest = rounds + 1, seconds
        if len(stages) >= KILLS:
            break
    assert server.run()["status"] == 0
    assert tree(server.out) == expected
    print(f"{len(stages)} kills at {len(set(stages))} stages in {rounds + 1} rounds of {seconds:.2f} s")
    assert len(stages) >= KILLS
    assert len(set(stages)) >= KILLS // 4


@pytest.mark.parametrize("work", ["whole", "shards", "decide again"])
@pytest.mark.parametrize("server", ["fake"], indirect=True)
def test_killed_before_any_single_change_of_the_disk_it_ends_with_the_same_bytes(server, work):
    def begin():
        if work == "decide again":
            assert server.run()["status"] == 0

    expected, _ = server.undisturbed()
    if work == "decide again":
        begin()
        assert server.run(work=work)["status"] == 0
        before, expected = expected, tree(server.out)
        assert before != expected
        shutil.rmtree(server.out)
    for change in range(1, MOST_RUNS):
        begin()
        stopped = server.run(work=work, change=change)["status"]
        if stopped == 0:
            break
        assert server.run(work=work)["status"] == 0
        assert tree(server.out) == expected, f"killed before change {change}"
        shutil.rmtree(server.out)
    assert stopped == 0
    assert tree(server.out) == expected
    print(f"{work}: killed before each of {change - 1} changes")
    assert change > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_whole_command_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_recipe(tmp_path / "offline", samples=400)  # so that a run is not start-up alone
    out, moments, stages = tmp_path / "out", random.Random(seed), []
    seconds = []
    for _ in range(2):  # the first one reads the programs from the disk
        took, status = run_command(tmp_path, None)
        assert status == 0, (tmp_path / "log").read_text(encoding="utf-8")
        seconds.append(took)
        expected = tree(out)
        shutil.rmtree(out)
    for _ in range(MOST_RUNS):
        _, status = run_command(tmp_path, moments.uniform(0, seconds[1]))
        assert status in (0, -signal.SIGKILL), (tmp_path / "log").read_text(encoding="utf-8")
        if status:
            stages.append(stage(out))
        if status == 0 or (out / "toy_simulsa" / "manifest.json").exists():  # killed while Python ended, or later
            assert run_command(tmp_path, None)[1] == 0
            assert tree(out) == expected
            shutil.rmtree(out)
        if len(stages) >= 10 and len(set(stages)) > 2:
            break
    assert run_command(tmp_path, None)[1] == 0
    assert tree(out) == expected
    print(f"{len(stages)} kills at {len(set(stages))} stages, a run takes {seconds[1]:.1f} s")
    assert len(stages) >= 10
    assert len(set(stages)) > 2


def run_command(folder, seconds):
    """(seconds, status) of the command in a session of its own; every process of it is killed after `seconds`."""
    program = Path(sys.executable).parent / "simulsa-augment"
    begin = time.monotonic()
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [program, str(folder / "offline" / "recipe.yaml"), "--out", str(folder / "out")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        finally:
            if process.returncode is None:  # else its number may be another process's by now
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    return time.monotonic() - begin, status


if __name__ == "__main__":
    start(*sys.argv[1:])
