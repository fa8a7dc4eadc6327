"""Runs on a Ray cluster of two nodes on this machine: the same bytes as one process, whatever dies in the middle."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.files import tree
from helpers.processes import environment_of_no_launcher
from helpers.ray_nodes import RayNodes, wait_for

from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus

pytestmark = pytest.mark.ray
pytest.importorskip("ray")
ROWS, BLOCKS = 48, 12
TESTS = Path(__file__).parents[1]
# Blocks of two utterances, so that there are enough of them for two workers and a death.
PROGRAM = """
import sys
from simulsa_plugin.evaluation import block_decoding
block_decoding.UTTERANCES_PER_BLOCK = 2
from simulsa_plugin.commands import {command}
sys.exit({command}.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_demo_corpus(folder, rows=ROWS, test_rows=2 * BLOCKS, processes=1)
    return folder


@pytest.fixture(scope="module")
def nodes():
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        cluster = RayNodes(2, folder)
        yield cluster
        cluster.close()


def start(command, words, folder):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(command=command), *words],
        cwd=folder,
        env=environment_of_no_launcher() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, warning=""):
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert warning in err
    assert len(err.splitlines()) == bool(warning), err


class Runs:
    """One command in one folder: by this process's engine first, then on the cluster, both in `out`."""

    def __init__(self, command, words, folder):
        self.command, self.words, self.folder = command, words, folder

    def run_locally(self):
        finish(start(self.command, self.words, self.folder))
        found = tree(self.folder / "out")
        shutil.rmtree(self.folder / "out")
        return found

    def start_on(self, nodes):
        ray = ["simulsa_engine=ray", f"simulsa_ray_address={nodes.address}"]
        return start(self.command, [*self.words, *ray], self.folder)

    def finish(self, process, warning=""):
        finish(process, warning)
        return tree(self.folder / "out")


@pytest.fixture(scope="module")
def augmentation(corpus, tmp_path_factory):
    recipe = tmp_path_factory.mktemp("augmentation") / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: simulsa-demo\ntemplate: qwen2_audio\ndataset: demo\ndataset_dir: {corpus}\n"
        f"simulsa_samples: {ROWS}\nsimulsa_batch_size: 2\nsimulsa_extra_scores: full,lookback\n"
    )
    runs = Runs("augment", [str(recipe), "--out", "out"], recipe.parent)
    runs.expected = runs.run_locally()
    return runs


@pytest.fixture(scope="module")
def evaluation(corpus, tmp_path_factory):
    recipe = tmp_path_factory.mktemp("evaluation") / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: simulsa-demo\ntemplate: qwen2_audio\neval_dataset: {TEST_NAME}\ndataset_dir: {corpus}\n"
        "simulsa_policies: rollback,attention,local_agreement\nsimulsa_chunks: 500,1000\n"
    )
    runs = Runs("evaluate", ["run", str(recipe), "--out", "out"], recipe.parent)
    runs.expected = runs.run_locally()
    return runs


def rows_scored(folder):
    journal = folder / "out" / "demo_simulsa" / "scores.partial.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def blocks_written(folder):
    return len(list(folder.glob("out/decoding/[0-9]*/block.json")))


def test_a_killed_worker_costs_nothing_in_augmentation(augmentation, nodes):
    process = augmentation.start_on(nodes)
    wait_for(lambda: rows_scored(augmentation.folder), "rows")
    os.kill(wait_for(nodes.computing, "a worker"), signal.SIGKILL)
    warning = "warning: a worker died (its process was killed, or crashed); others compute what it had"
    assert augmentation.finish(process, warning) == augmentation.expected


def test_a_killed_driver_loses_only_what_is_in_flight_and_the_run_may_go_on_locally(evaluation, nodes):
    process = evaluation.start_on(nodes)
    wait_for(lambda: blocks_written(evaluation.folder), "a block")
    process.kill()
    process.wait()
    kept = blocks_written(evaluation.folder)
    assert 1 <= kept < BLOCKS
    wait_for(lambda: not any(nodes.workers().values()), "the workers of a dead run to end")
    assert evaluation.finish(start(evaluation.command, evaluation.words, evaluation.folder)) == evaluation.expected
    shutil.rmtree(evaluation.folder / "out")


def test_a_killed_node_costs_nothing_in_evaluation(evaluation, nodes):
    process = evaluation.start_on(nodes)
    wait_for(lambda: blocks_written(evaluation.folder), "a block")
    nodes.kill_node_of(wait_for(nodes.computing, "a worker"))
    assert blocks_written(evaluation.folder) < BLOCKS
    warning = "warning: a worker died (its node died); others compute what it had"
    assert evaluation.finish(process, warning) == evaluation.expected
    nodes.add_node()
