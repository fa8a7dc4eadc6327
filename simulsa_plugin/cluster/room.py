"""How much of a cluster each worker takes, and how many fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import ray

from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.cluster.pool import WorkerNeeds


def worker_needs(settings: ClusterSettings, threads: int) -> WorkerNeeds:
    """Return what each worker takes: a GPU where the cluster has any; without one, a processor for each thread."""
    gpus = settings.ray_gpus_per_worker
    if gpus is None:
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    return WorkerNeeds(1 if gpus else threads, gpus, threads)


def most_workers(needs: WorkerNeeds) -> int:
    """Return how many workers the cluster has room for, at least one."""
    return num_fitting(needs, (node["Resources"] for node in ray.nodes() if node["Alive"]))


def num_fitting(needs: WorkerNeeds, nodes: Iterable[Mapping[str, float]]) -> int:
    """Return how many workers fit on nodes with these resources, at least one.

    >>> num_fitting(WorkerNeeds(4, 0, 4), [{"CPU": 9.0}, {"CPU": 3.0}, {"CPU": 4.0}])
    3
    >>> num_fitting(WorkerNeeds(1, 2, 4), [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}])
    2
    """
    fitting = 0
    for node in nodes:
        by_cpus = node.get("CPU", 0.0) // needs.cpus
        by_gpus = node.get("GPU", 0.0) // needs.gpus if needs.gpus else by_cpus
        fitting += int(min(by_cpus, by_gpus))
    return max(1, fitting)
