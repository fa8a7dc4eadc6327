"""Workers of a real Ray cluster with a small model of numbers: what becomes of deaths, errors and late nodes."""

import json
import os
import platform
import subprocess
import sys
import tempfile

import pytest
from helpers.ray_nodes import RayNodes, name_of, processes, wait_for
from helpers.ray_runs import nodes as nodes

pytestmark = pytest.mark.ray
pytest.importorskip("ray")


NODE = platform.node()
CAUSES = (
    "its process was killed, or crashed",
    "its node died",
)
# Its functions are pickled by value, as Ray does with what a program defines.
PROGRAM = """
import json, os, sys, time
from types import ModuleType, SimpleNamespace

from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.cluster.replicas import replicated
from simulsa_plugin.errors import AudioError, SimulsaError


class Model:
    output_width = 3

    def __init__(self, weights="a"):
        self.weights = weights

    def describe(self):
        return {"model": "there", "weights": self.weights, "device": "cpu"}

    def hardware(self):
        return {"device": "abacus", "pid": os.getpid()}


def square(model, number):
    return number * number


def meet(model, item):
    number, folder, least = item  # workers need seconds or minutes to start: all wait until enough have one
    open(os.path.join(folder, str(os.getpid())), "w").close()
    end = time.monotonic() + 100.0
    while len(os.listdir(folder)) < least and time.monotonic() < end:
        time.sleep(0.02)
    return number * number, os.getpid(), os.environ["OMP_NUM_THREADS"]


def deadly(model, number):
    return os._exit(1) if number == 3 else number


def deadly_once(model, item):
    number, marker = item
    if number == 3 and not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(1)
    return number


def failing(model, number):
    raise AudioError("broken", f"{number}.wav is broken. Replace it.")


def length(model, item):
    return len(item)


def buggy(model, number):
    return number / 0


elsewhere = ModuleType("elsewhere")
exec("def function(model, number): return number", elsewhere.__dict__)
exec("class Worker:\\n    def load(self, *_, sees_gpus): return None", elsewhere.__dict__)
sys.modules["elsewhere"] = elsewhere  # pickled by its name, which no worker knows


def load_other():
    return Model(str(os.getpid()))


def load_deadly():
    os._exit(1)


def load_failing():
    raise SimulsaError("there is no such model. Check the path.")


def run(load, function, count, most=2, item_of=lambda key: key):
    settings = ClusterSettings("ray", sys.argv[1] or None, most, 0)
    renderer = SimpleNamespace(window_seconds=30.0, end_tokens=1)
    with replicated(settings, renderer, {"model": "here"}, load, 1) as model:
        assert model.describe() == {"model": "here", "weights": model.describe()["weights"], "device": "cpu"}
        return sorted(model.map_unordered(function, range(count), item_of, lambda key: f"Item {key}"))


def run_without_package():
    from simulsa_plugin.cluster import pool

    pool.Worker = elsewhere.Worker
    return run(Model, square, 1)


try:
    print(json.dumps(eval(sys.argv[2])))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def start(nodes, expression):
    return start_at(nodes.address, expression)


def start_at(address, expression, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, address, expression],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip


def result(process):
    out, err = process.communicate(timeout=240)
    assert set(err.splitlines()) <= {f"a worker died ({cause}); others compute what it had" for cause in CAUSES}
    return json.loads(out)


def run(nodes, expression):
    return result(start(nodes, expression))


def meeting(count, folder, least=2, load="Model", most=2):
    return f"run({load}, meet, {count}, {most}, lambda key: (key, {str(folder)!r}, {least}))"


def squares(found):
    return [[key, value[0]] for key, value in found]


def test_every_item_is_computed_once_on_both_nodes_with_the_threads_of_the_main_process(nodes, tmp_path):
    found = run(nodes, meeting(100, tmp_path))
    assert squares(found) == [[number, number**2] for number in range(100)]
    assert len({value[1] for _, value in found}) == 2
    assert {value[2] for _, value in found} == {"1"}


def test_few_long_items_do_not_wait_behind_each_other_for_one_worker(nodes, tmp_path):
    assert len({value[1] for _, value in run(nodes, meeting(2, tmp_path))}) == 2


def test_the_item_of_a_dead_worker_is_given_to_another(nodes, tmp_path):
    marker = tmp_path / "died"
    found = run(nodes, f"run(Model, deadly_once, 9, item_of=lambda key: (key, {str(marker)!r}))")
    assert found == [[number, number] for number in range(9)]
    assert marker.exists()


def test_an_item_that_ends_its_worker_again_and_again_is_named(nodes):
    name, message = run(nodes, "run(Model, deadly, 9)")
    assert name == "ClusterError"
    assert message == (
        "Item 3 ended 3 workers one after another: its process was killed, or crashed. If memory ran out, use fewer "
        "workers (simulsa_ray_workers) or smaller batches, in another --out."
    )


def test_errors_come_as_they_were_raised(nodes):
    assert run(nodes, "run(Model, failing, 1)") == ["AudioError", "0.wav is broken. Replace it."]
    name, message = run(nodes, "run(Model, elsewhere.function, 1)")
    assert name == "SimulsaError"
    assert message.startswith(f"No module named 'elsewhere' on the node {NODE}. Install the same environment ")
    name, message = run(nodes, "run(Model, buggy, 1)")
    assert name == "RuntimeError"
    assert message.startswith(f"on the node {NODE}:\nTraceback")
    assert message.rstrip().endswith("ZeroDivisionError: division by zero")


def test_a_model_that_cannot_be_loaded_names_the_node(nodes):
    wanted = ["SimulsaError", f"On the node {NODE}: there is no such model. Check the path."]
    assert run(nodes, "run(load_failing, square, 1)") == wanted
    name, message = run(nodes, "run(load_deadly, square, 1)")
    assert name == "ClusterError"
    assert message.startswith("3 workers died one after another while they loaded the model: ")


def test_nodes_with_other_weights_are_refused(nodes, tmp_path):
    name, message = run(nodes, meeting(100, tmp_path, load="load_other"))
    assert name == "ClusterError"
    assert message.startswith(f"The model on the node {NODE} is not that on {NODE}: other")


def test_a_node_that_comes_later_gets_work_and_one_that_dies_costs_nothing(nodes, tmp_path):
    process = start(nodes, meeting(100, tmp_path, least=3 + 1, most=3))  # three workers and a word from here
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, "two workers")
    nodes.add_node()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 3, "a worker on the new node")
    nodes.kill_node_of(wait_for(nodes.computing, "a worker"))
    (tmp_path / "go").touch()
    assert squares(result(process)) == [[number, number**2] for number in range(100)]


BIG = 60 << 20  # bytes: two of them are more than the object store of a node
BIG_ITEMS = f"run(Model, length, 6, item_of=lambda key: bytes({BIG}))"


def test_items_that_the_object_store_has_no_room_for_are_spilled(nodes):
    assert run(nodes, BIG_ITEMS) == [[number, BIG] for number in range(6)]


def test_a_disk_that_is_too_full_to_spill_is_one_line():
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        full = RayNodes(1, folder, local_fs_capacity_threshold=0.001)  # any disk is fuller
        name, message = run(full, BIG_ITEMS)
        full.close()
    assert name == "ClusterError"
    assert message.startswith("A disk of the cluster is too full for Ray, which stops at 95 %. Make room ")


@pytest.mark.parametrize(
    "address, message",
    [
        ("ray://127.0.0.1:10001", "named by an address of Ray Client, which is not supported"),
        ("127.0.0.1:9", "The Ray cluster 127.0.0.1:9 cannot be reached: "),
    ],
)
def test_an_address_without_a_cluster_is_one_line(address, message):
    name, found = result(start_at(address, "run(Model, square, 1)"))
    assert name == "ClusterError"
    assert message in found


def test_the_key_counts_more_than_the_environment_and_a_note_of_a_dead_cluster_is_one_line(nodes, tmp_path):
    found = result(start_at(nodes.address, "run(Model, square, 1)", RAY_ADDRESS="127.0.0.1:9"))
    assert found == [[0, 0]]
    name, message = result(start_at("", "run(Model, square, 1)", RAY_ADDRESS="127.0.0.1:9"))
    assert name == "ClusterError"
    assert message.startswith("The Ray cluster 127.0.0.1:9 cannot be reached: ")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    name, message = result(start_at("", "run(Model, square, 1)", RAY_TMPDIR=str(tmp_path)))
    assert name == "ClusterError"
    assert ":9, the last one on this machine, cannot be reached: " in message


def test_without_an_address_a_cluster_of_this_machine_is_started_and_ended(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        found = result(start_at("", "run(Model, square, 3, most=1)", RAY_TMPDIR=folder, HOME=folder))
        assert found == [[0, 0], [1, 1], [2, 4]]
        wait_for(lambda: not [one for one in processes() if folder in name_of(one)], "Ray's processes to end")


def test_a_node_without_the_package_is_named_as_the_cause(nodes):
    name, message = run(nodes, "run_without_package()")
    assert name == "ClusterError"
    assert message == "No module named 'elsewhere' on a node. Install the same environment on every node."


def test_a_cluster_that_ends_or_is_started_anew_meanwhile_is_one_line(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ended = RayNodes(1, folder)
        process = start(ended, meeting(1000, tmp_path))
        wait_for(ended.computing, "a worker")
        ended.kill()
        name, message = result(process)
        ended.close()
    assert name == "ClusterError"
    assert message.startswith("The Ray cluster has ended, or was started anew, while the command ran. Start the same ")
