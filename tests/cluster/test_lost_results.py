"""The pool where a worker dies so soon after an item that its result is lost: real Ray does so now and then."""

import pickle
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from ray.exceptions import RayError

from simulsa_plugin.cluster import pool
from simulsa_plugin.cluster.pool import WorkerNeeds, WorkerPool
from simulsa_plugin.cluster.worker import Outcome, Replica
from simulsa_plugin.errors import ClusterError

pytestmark = pytest.mark.ray
DEADLY = 3


def compute(_, number):
    return number


class FakeActor:
    """Computes when its results are asked for, and loses the one before an item that ends it."""

    def __init__(self):
        self.items = []
        self.load = SimpleNamespace(remote=lambda *_, **__: (self, None))
        self.call = SimpleNamespace(remote=self._take)

    def _take(self, pickled):
        self.items.append(pickle.loads(pickled)[1])
        return self, self.items[-1]


class FakeRay:
    def __init__(self):
        self.beside = []  # items that a worker had with the deadly one

    def remote(self, _):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=FakeActor))

    def wait(self, references, **_):
        return references, []

    def get(self, reference):
        actor, item = reference
        if item is None:
            return Outcome(Replica("node", {}, {}, 3))
        if DEADLY in actor.items:
            self.beside.append([one for one in actor.items if one != DEADLY])
            raise RayError("The actor died because its worker process has died.")
        actor.items.remove(item)
        return Outcome(item)

    def kill(self, actor):
        pass


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(pool, "ray", fake)
    monkeypatch.setattr(pool, "check_not_ended", lambda: None)
    return fake


@pytest.mark.parametrize("most", [1, 2, 3])
def test_an_item_whose_result_is_lost_with_its_worker_is_not_blamed_for_what_the_next_one_does(ray, most):
    workers = WorkerPool(lambda: None, WorkerNeeds(1, 0, 1), most)
    found = []
    with pytest.raises(ClusterError, match=f"^Item {DEADLY} ended 3 workers one after another"):
        found.extend(workers.map_unordered(compute, range(20), lambda key: key, lambda key: f"Item {key}"))
    assert ray.beside[-3:] == [[], [], []]
    assert len(ray.beside) <= 4
