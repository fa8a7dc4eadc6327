"""Runs that are really killed (SIGKILL), at any moment: they go on, and end with the same bytes.

Run as a program, this file is a server that imports and loads everything once and forks a process for every run.
"""

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import yaml
from fakes import ByteModel, make_dataset, tree, write_offline

from simulsa_plugin.storage import UNFINISHED

TESTS = Path(__file__).resolve().parents[1]
KILLS = 24
MOST_RUNS = 400  # far more than are ever needed: a broken run must not go on for ever
# Events of the interpreter that come before something changes on the disk.
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "fcntl.flock"}


def serve(kind, offline):
    """Answer requests on standard input, one JSON object a line, until it ends."""
    import simulsa_plugin.augment.pipeline  # noqa: F401  here, and not in every run

    model, dataset, settings = (load_real if kind == "real" else load_fake)(Path(offline))
    for line in sys.stdin:
        print(json.dumps(run_once(json.loads(line), model, dataset, settings)), flush=True)


def load_fake(offline):
    from simulsa_plugin.augment.settings import AugmentSettings

    return ByteModel(), make_dataset(offline, count=4), AugmentSettings(samples=3, batch_size=2)


def load_real(offline):
    import threading

    import torch
    import tqdm

    from simulsa_plugin.augment.settings import AugmentSettings
    from simulsa_plugin.commands.wiring import load

    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # no thread that watches progress bars
    recipe = yaml.safe_load((offline / "recipe.yaml").read_text(encoding="utf-8"))
    settings = AugmentSettings.from_keys({key: recipe.pop(key) for key in list(recipe) if key.startswith("simulsa_")})
    model, (dataset,) = load(recipe, [recipe["dataset"]])
    assert threading.active_count() == 1, "a forked process would lack the other threads"
    return model, dataset, settings


def run_once(request, model, dataset, settings):
    """Fork one run of `augment`; kill it after `seconds`, or before its `change`-th change of the disk."""
    started, ready = os.pipe()
    child = os.fork()
    if not child:
        os.close(started)
        os._exit(run_in_child(request, model, dataset, settings, ready))
    os.close(ready)
    os.read(started, 1)
    begin, handle = time.monotonic(), os.pidfd_open(child)
    if not select.select([handle], [], [], request.get("seconds"))[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    os.close(started)
    return {"status": status, "seconds": time.monotonic() - begin}


def run_in_child(request, model, dataset, settings, ready):
    from simulsa_plugin.augment.pipeline import augment, augment_shard
    from simulsa_plugin.augment.redecision import decide_again
    from simulsa_plugin.work import Shard

    out = Path(request["out"])
    try:
        if "change" in request:
            sys.addaudithook(killer(request["change"], request["out"]))
        os.write(ready, b".")
        work = request.get("work", "whole")
        if work == "decide again":
            decide_again(out / "toy_simulsa" / "scores.jsonl", {"simulsa_acceptance": "greedy"}, out, lambda *_: None)
            return 0
        for number in (1, 2) if work == "shards" else ():
            augment_shard(dataset, model, settings, out, Shard(number, 2))
        augment(dataset, model, settings, out)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def killer(change, out):
    """An audit hook that kills its process before the `change`-th change of the disk."""
    seen = 0

    def hook(event, args):
        nonlocal seen
        if event in CHANGES and (isinstance(args[0], int) or os.fsdecode(args[0]).startswith(out)):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


class Server:
    """The server, as the tests ask it."""

    def __init__(self, kind, offline, out):
        self.out = out
        command = [sys.executable, __file__, kind, str(offline)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "TOKENIZERS_PARALLELISM": "false"}
        self.log = (out.parent / "server.log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )

    def run(self, **request):
        self.process.stdin.write(json.dumps({"out": str(self.out), **request}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.log.seek(0)
        assert answer, self.log.read()
        answer = json.loads(answer)
        assert answer["status"] in (0, -signal.SIGKILL), self.log.read()
        return answer

    def undisturbed(self):
        """(every file, seconds) of a run that nothing stops; its folder is out of the way afterwards."""
        trees = []
        for _ in range(2):  # the first one reads the programs from the disk
            answer = self.run()
            assert answer["status"] == 0
            trees.append(tree(self.out))
            shutil.rmtree(self.out)
        assert trees[0] == trees[1]
        return trees[1], answer["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def server(request, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    if request.param == "real":
        write_recipe(tmp_path / "offline")
    server = Server(request.param, tmp_path / "offline", tmp_path / "out")
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
    serve(*sys.argv[1:])
