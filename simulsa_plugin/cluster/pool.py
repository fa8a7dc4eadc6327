"""Workers of a Ray cluster, and items that they compute one by one.

Workers are added while items wait, up to a maximum; those for which the cluster has no room yet stay requested, which
is what Ray's autoscaler adds nodes for. A worker has at most two items: the one that it computes, and the next one, so
that it never waits. What a dead worker had is given to others, now one at a time: which of two items ended it is not
known, as the result of the first is lost where the second kills the process at once. Nothing is repeated elsewhere, as
no result is stored on the cluster: Ray's own retries and lineage are off.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import (
    ActorUnschedulableError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    TaskUnschedulableError,
)

from simulsa_plugin.cluster.ray_cluster import check_not_ended
from simulsa_plugin.cluster.worker import NOTICE, PACKAGES, Outcome, Replica, Worker
from simulsa_plugin.errors import ClusterError
from simulsa_plugin.run_configuration import change_in_words, configuration_changes, versions
from simulsa_plugin.sharding import STALL_SECONDS
from simulsa_plugin.terminal import FIRST_LINE_SECONDS, printable

logger = logging.getLogger(__name__)
MOST_DEATHS = 3  # of workers over one item, or while they load the model one after another
POLL_SECONDS = 1.0
LONGEST_CAUSE = 300  # characters of what Ray says
_NODE_DIED = "node has died"  # in Ray's message, where not the item is to blame
_CAUSES = {_NODE_DIED: "its node died", "worker process has died": "its process was killed, or crashed"}


@dataclass(frozen=True)
class WorkerNeeds:
    """What each worker takes of its node, and computes with.

    Attributes:
        cpus: processors.
        gpus: GPUs.
        threads: for arithmetic on the processor.
    """

    cpus: int
    gpus: int
    threads: int

    def __str__(self) -> str:
        gpus = f" and {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        return f"{self.cpus} CPU{'s' * (self.cpus > 1)}{gpus}"


@dataclass(eq=False)
class _Task:
    """An item on its way; made again for every worker, rather than kept.

    Attributes:
        key: of the item.
        name: of the item, for messages.
        make: returns what `Worker.call` takes.
        suspected: whether it may have ended a worker; workers have it alone from then on.
        deaths: of workers that had it alone.
    """

    key: Any
    name: str
    make: Callable[[], bytes]
    suspected: bool = False
    deaths: int = 0


@dataclass(eq=False)
class _RunningWorker:
    actor: Any
    loading: Any  # the reference of its load; None when it is done
    tasks: dict[Any, _Task] = field(default_factory=dict)  # reference of a call → its item, the one computed first


class WorkerPool:
    """Workers with replicas of one model; they live until `close`."""

    def __init__(self, load: Callable[[], Any], needs: WorkerNeeds, most: int) -> None:
        """Start nothing yet.

        Args:
            load: returns the model; picklable.
            needs: of each worker.
            most: workers.
        """
        self._load, self._needs, self._most = cloudpickle.dumps(load), needs, most
        self._versions = versions(*PACKAGES)
        self._actor_class = ray.remote(Worker).options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._workers: list[_RunningWorker] = []
        self._waiting: deque[_Task] = deque()
        self._failed_loads = 0
        self._printed: set[str] = set()
        self._replica: Replica | None = None
        self._patience = _Patience(needs)

    @property
    def replica(self) -> Replica:
        """The first replica that was loaded; the others have the same weights.

        Raises:
            SimulsaError: it cannot be loaded.
        """
        while self._replica is None:
            if not self._workers:
                self._add_worker()
            self._advance()
        return self._replica

    def map_unordered(
        self,
        function: Callable[[Any, Any], Any],
        keys: Iterable[Hashable],
        item_of: Callable[[Any], Any],
        name_of: Callable[[Any], str],
    ) -> Iterator[tuple[Any, Any]]:
        """Call a function on replicas; see `model.replicas.map_unordered`.

        Raises:
            SimulsaError: what the function raised.
            ClusterError: an item ends its worker again and again, no worker can be started, or storage is full.
        """
        tasks = (_Task(key, name_of(key), functools.partial(_pickled, function, item_of, key)) for key in keys)
        try:
            yield from self._compute(tasks)
        finally:
            self._waiting.clear()
            for worker in [worker for worker in self._workers if worker.tasks]:
                self._remove(worker)

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self._remove(worker)

    def _compute(self, tasks: Iterator[_Task]) -> Iterator[tuple[Any, Any]]:
        while True:
            self._give_out(tasks)
            if not self._waiting and not any(worker.tasks for worker in self._workers):
                return
            for task, value in self._advance():
                yield task.key, value

    def _give_out(self, tasks: Iterator[_Task]) -> None:
        """Give items to workers that have none, add workers while items wait, then give ahead to those that compute.

        Nothing is given ahead unless an item for every worker waits: near the end it would wait behind another one
        while workers are idle, or about to be ready. Nor is it beside an item that may have ended a worker.
        """
        for worker in self._ready_with(0):
            if self._peek(tasks):
                self._submit(worker, self._waiting.popleft())
        while len(self._workers) < self._most and self._peek(tasks, self._num_starting() + 1):
            self._add_worker()
        for worker in self._ready_with(1):
            if self._peek(tasks, len(self._workers)) and not any(
                task.suspected for task in (self._waiting[0], *worker.tasks.values())
            ):
                self._submit(worker, self._waiting.popleft())

    def _ready_with(self, items: int) -> list[_RunningWorker]:
        """Return the workers that are ready and have this number of items."""
        return [worker for worker in self._workers if worker.loading is None and len(worker.tasks) == items]

    def _peek(self, tasks: Iterator[_Task], count: int = 1) -> bool:
        """Return whether `count` items wait, after taking as many as that needs."""
        self._waiting.extend(itertools.islice(tasks, max(0, count - len(self._waiting))))
        return len(self._waiting) >= count

    def _num_starting(self) -> int:
        return sum(worker.loading is not None for worker in self._workers)

    def _submit(self, worker: _RunningWorker, task: _Task) -> None:
        pickled = task.make()
        with _storage_errors():
            worker.tasks[worker.actor.call.remote(pickled)] = task

    def _add_worker(self) -> None:
        actor = self._actor_class.remote()
        loading = actor.load.remote(self._load, self._needs.threads, self._versions, sees_gpus=self._needs.gpus > 0)
        self._workers.append(_RunningWorker(actor, loading))

    def _remove(self, worker: _RunningWorker) -> None:
        self._workers.remove(worker)
        ray.kill(worker.actor)

    def _advance(self) -> list[tuple[_Task, Any]]:
        """Wait a moment for what is finished; return (item, result) of each."""
        owners = {
            reference: worker
            for worker in self._workers
            for reference in ([worker.loading] if worker.loading is not None else list(worker.tasks)[:1])
        }
        ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_SECONDS)
        if not ready:
            check_not_ended()
        self._patience.check(idle=all(worker.loading is not None for worker in self._workers))
        finished = []
        for reference in ready:
            worker = owners[reference]
            outcome = self._fetch(worker, reference)
            if outcome is None:
                continue
            if worker.loading is not None:
                self._take_in(worker, outcome)
            else:
                finished.append((worker.tasks.pop(reference), _value_of(outcome)))
        return finished

    def _fetch(self, worker: _RunningWorker, reference: Any) -> Outcome | None:
        """Return what a worker has sent; None where it has died, and its items wait again."""
        try:
            with _storage_errors():
                outcome: Outcome = ray.get(reference)
                self._pass_on(outcome)
                return outcome
        except (ActorUnschedulableError, TaskUnschedulableError) as error:
            raise ClusterError(f"No worker can be started: {_cause(error)}") from error
        except RayError as error:
            self._give_back(worker, error)
            return None

    def _pass_on(self, outcome: Outcome) -> None:
        """Log what a worker would have printed here, each line once."""
        for line in outcome.notices:
            if line not in self._printed:
                logger.warning(printable(f"on {outcome.node}: {line.removeprefix(NOTICE)}"))
                self._printed.add(line)

    def _take_in(self, worker: _RunningWorker, outcome: Outcome) -> None:
        """Take a worker whose replica is loaded."""
        if outcome.error is not None:
            outcome.error.args = (f"On the node {outcome.node}: {outcome.error}",)
        replica: Replica = _value_of(outcome)
        worker.loading, self._failed_loads = None, 0
        if self._replica is None:
            self._replica = replica
            return
        before, now = ({"model": _fingerprint(one)} for one in (self._replica, replica))
        changed = configuration_changes(before, now, computes=True)
        if changed:
            raise ClusterError(
                f"The model on the node {replica.node} is not that on {self._replica.node}: "
                f"{change_in_words(changed[0])}. model_name_or_path and adapter_name_or_path must lead to the same "
                "files on every node."
            )

    def _give_back(self, worker: _RunningWorker, error: RayError) -> None:
        """Let the items of a dead worker wait again, before all others."""
        check_not_ended()
        self._remove(worker)
        missing = _missing_module(error)
        if missing:
            raise ClusterError(f"{missing} on a node. Install the same environment on every node.") from error
        blameless = _NODE_DIED in str(error) or isinstance(error, ObjectLostError)
        if worker.loading is not None:
            self._failed_loads += not blameless
            if self._failed_loads >= MOST_DEATHS:
                raise ClusterError(
                    f"{MOST_DEATHS} workers died one after another while they loaded the model: {_cause(error)}. "
                    "Perhaps a node has too little memory for as many replicas as it has room for: set "
                    "simulsa_ray_workers."
                ) from error
        logger.warning(f"a worker died ({_cause(error)}); others compute what it had")
        tasks = list(worker.tasks.values())
        if not blameless:
            self._suspect(tasks, error)
        self._waiting.extendleft(reversed(tasks))

    def _suspect(self, tasks: list[_Task], error: RayError) -> None:
        """Note that one of the items of a worker has ended it."""
        for task in tasks:
            task.suspected = True
            task.deaths += len(tasks) == 1
            if task.deaths >= MOST_DEATHS:
                raise ClusterError(
                    f"{task.name} ended {MOST_DEATHS} workers one after another: {_cause(error)}. If memory ran out, "
                    "use fewer workers (simulsa_ray_workers) or smaller batches, in another --out."
                ) from error


def _fingerprint(replica: Replica) -> dict[str, Any]:
    """Return what must be the same on every node; paths need not be."""
    return {key: replica.description.get(key) for key in ("weights", "dtype")}


def _pickled(function: Callable[[Any, Any], Any], item_of: Callable[[Any], Any], key: Any) -> bytes:
    """Make an item, and return what `Worker.call` takes."""
    pickled: bytes = cloudpickle.dumps((function, item_of(key)))
    return pickled


def _value_of(outcome: Outcome) -> Any:
    """Return what a function returned, or raise what it raised."""
    if outcome.error is not None:
        raise outcome.error
    if outcome.bug:
        raise RuntimeError(f"on the node {outcome.node}:\n{outcome.bug}")
    return outcome.value


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Raise ClusterError where items or results find no room."""
    try:
        yield
    except OutOfDiskError as error:
        raise ClusterError(
            "A disk of the cluster is too full for Ray, which stops at 95 %. Make room where its temporary folder lies "
            "(/tmp/ray, or --temp-dir of `ray start`), and start the same command again: it goes on."
        ) from error
    except ObjectStoreFullError as error:
        raise ClusterError(
            "Ray's object store is full. Start Ray with a larger --object-store-memory, and start the same command "
            "again: it goes on."
        ) from error


def _cause(error: RayError) -> str:
    """Return why a worker died, in a clause; Ray gives a paragraph."""
    if isinstance(error, OutOfMemoryError):
        return "Ray ended it because its node ran out of memory"
    for words, cause in _CAUSES.items():
        if words in str(error):
            return cause
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_CAUSE]


def _missing_module(error: RayError) -> str:
    """Return what Python says of a module that is not installed where a worker was started; empty otherwise."""
    found = re.search(r"No module named '[\w.]+'", str(error))
    return found[0] if found else ""


class _Patience:
    """How long there has been no worker that computes."""

    def __init__(self, needs: WorkerNeeds) -> None:
        self._needs = needs
        self._since = time.monotonic()
        self._next = FIRST_LINE_SECONDS

    def check(self, *, idle: bool) -> None:
        """Say so now and then where no worker is ready. Raises ClusterError after STALL_SECONDS."""
        now = time.monotonic()
        if not idle:
            self._since, self._next = now, FIRST_LINE_SECONDS
            return
        waited = now - self._since
        if waited > STALL_SECONDS:
            raise ClusterError(
                f"No worker could be started for {STALL_SECONDS / 60:.0f} minutes. Each needs {self._needs} on one "
                f"node; {cluster_in_words()}."
            )
        if waited > self._next:
            logger.info(
                f"waiting {waited / 60:.1f} min for a worker to load the model; each needs {self._needs} on one node, "
                f"and {cluster_in_words()}"
            )
            self._next = waited + max(2 * FIRST_LINE_SECONDS, waited / 2)


def cluster_in_words() -> str:
    """Describe what a cluster has."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    parts = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:8])
    return f"the cluster has {len(nodes)} nodes: {parts}{' …' if len(nodes) > 8 else ''}"
