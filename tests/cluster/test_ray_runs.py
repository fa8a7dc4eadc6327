"""Runs on a Ray cluster of two nodes on this machine: the same bytes as one process, whatever dies in the middle."""

import os
import signal

import pytest
from helpers.ray_nodes import wait_for
from helpers.ray_runs import Runs
from helpers.ray_runs import nodes as nodes

from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus

pytestmark = pytest.mark.ray
pytest.importorskip("ray")
ROWS, BLOCKS = 48, 12
POLICY = """
from simulsa_plugin.streaming.policies import Policy


class Half(Policy):
    name = "half"

    def committed(self, session, output):
        return max(session.committed, len(output) // 2)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_demo_corpus(folder, rows=ROWS, test_rows=2 * BLOCKS, processes=1)
    return folder


@pytest.fixture(scope="module")
def augmentation(corpus, tmp_path_factory):
    runs = Runs(
        "augment",
        f"model_name_or_path: simulsa-demo\ntemplate: qwen2_audio\ndataset: demo\ndataset_dir: {corpus}\n"
        f"simulsa_samples: {ROWS}\nsimulsa_batch_size: 2\nsimulsa_extra_scores: full,lookback\n",
        tmp_path_factory.mktemp("augmentation"),
    )
    runs.expected = runs.finish(runs.start())
    return runs


@pytest.fixture(scope="module")
def evaluation(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "my_policies.py").write_text(POLICY)  # the workers have no such file: it travels
    runs = Runs(
        "evaluate",
        f"model_name_or_path: simulsa-demo\ntemplate: qwen2_audio\neval_dataset: {TEST_NAME}\ndataset_dir: {corpus}\n"
        "simulsa_policies: rollback,attention,local_agreement,my_policies.Half\nsimulsa_chunks: 500,1000\n",
        folder,
        ["run"],
    )
    runs.expected = runs.finish(runs.start())
    return runs


def rows_scored(runs):
    journal = runs.out / "demo_simulsa" / "scores.partial.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def blocks_written(runs):
    return len(list(runs.out.glob("decoding/[0-9]*/block.json")))


def test_a_killed_worker_costs_nothing_in_augmentation(augmentation, nodes):
    process = augmentation.start_on(nodes)
    wait_for(lambda: rows_scored(augmentation), "rows")
    os.kill(wait_for(nodes.computing, "a worker"), signal.SIGKILL)
    warning = "warning: a worker died (its process was killed, or crashed); others compute what it had"
    assert augmentation.finish(process, warning) == augmentation.expected


def test_a_killed_driver_loses_only_what_is_in_flight_and_the_run_may_go_on_locally(evaluation, nodes):
    process = evaluation.start_on(nodes)
    wait_for(lambda: blocks_written(evaluation), "a block")
    process.kill()
    process.communicate()
    assert 1 <= blocks_written(evaluation) < BLOCKS
    wait_for(lambda: not any(nodes.workers().values()), "the workers of a dead run to end")
    assert evaluation.finish(evaluation.start()) == evaluation.expected


def test_a_killed_node_costs_nothing_in_evaluation(evaluation, nodes):
    process = evaluation.start_on(nodes)
    wait_for(lambda: blocks_written(evaluation), "a block")
    nodes.kill_node_of(wait_for(nodes.computing, "a worker"))
    assert blocks_written(evaluation) < BLOCKS
    warning = "warning: a worker died (its node died); others compute what it had"
    assert evaluation.finish(process, warning) == evaluation.expected
    nodes.add_node()
