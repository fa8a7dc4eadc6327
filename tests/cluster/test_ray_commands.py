"""Commands on a Ray cluster: tuning on talks, Ctrl-C, and models that a node cannot load."""

import shutil
import signal

import pytest
from helpers.ray_nodes import wait_for
from helpers.ray_runs import Runs, failure
from helpers.ray_runs import nodes as nodes

from simulsa_plugin.demo.checkpoint import resolve_model_name
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.demo.talks import write_demo_talks

pytestmark = pytest.mark.ray
pytest.importorskip("ray")
MODEL = "model_name_or_path: simulsa-demo\ntemplate: qwen2_audio\n"


def test_a_search_on_talks_ends_with_the_same_bytes(nodes, tmp_path):
    write_demo_talks(tmp_path / "data", "talks", minutes=(0.4, 0.3, 0.3), processes=1)
    recipe = (
        f"{MODEL}dataset_dir: {tmp_path}/data\nsimulsa_dev_dataset: talks\nsimulsa_longform: window\n"
        "simulsa_chunks: 500,1000\nsimulsa_rollbacks: 0,3\n"
    )
    runs = Runs("evaluate", recipe, tmp_path, ["tune", "--budget", "5000"])
    expected = runs.finish(runs.start())
    found = runs.finish(runs.start_on(nodes))
    differ = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    assert differ == {"tuned.yaml", "finalists.yaml"}  # recipes for the next run, which name the engine


@pytest.fixture(scope="module")
def augmentation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmentation")
    write_demo_corpus(folder / "data", rows=200, test_rows=0, processes=1)
    data = f"dataset: demo\ndataset_dir: {folder}/data\nsimulsa_samples: 400\nsimulsa_batch_size: 1\n"
    data += "simulsa_cuts: 2\nsimulsa_extra_scores: full,lookback\n"  # so that it takes a while
    return Runs("augment", f"{MODEL}{data}", folder)


def test_ctrl_c_ends_the_workers_and_says_that_the_run_goes_on(augmentation, nodes):
    process = augmentation.start_on(nodes)
    wait_for(nodes.computing, "a worker")
    process.send_signal(signal.SIGINT)
    assert failure(process) == (
        130,
        "simulsa-augment: interrupted. Start the same command again: it goes on where it stopped.\n",
    )
    wait_for(lambda: not any(nodes.workers().values()), "the workers to end")


def test_a_model_that_a_node_does_not_have_is_one_line_that_names_the_node(augmentation, nodes):
    shutil.copytree(resolve_model_name("simulsa-demo"), augmentation.folder / "checkpoint")
    elsewhere = "/proc/self/cwd/checkpoint"  # where the command runs; a worker has another working folder
    code, line = failure(augmentation.start_on(nodes, f"model_name_or_path={elsewhere}", "--out", "other"))
    assert code == 1
    assert line.startswith("simulsa-augment: error: On the node ")
    assert elsewhere in line
    assert line.count("\n") == 1


def test_a_dead_head_ends_the_run_which_goes_on_without_it(augmentation, nodes, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")  # a minute
    process = augmentation.start_on(nodes)
    journal = augmentation.out / "demo_simulsa" / "scores.partial.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size, "rows")
    nodes.kill_head()
    code, line = failure(process)
    assert code not in (0, 2)
    assert "Failed to connect to GCS" in line  # what Ray prints as it ends the process
    scored = journal.read_bytes().count(b"\n")
    assert 0 < scored < 400
    augmentation.finish(augmentation.start())
