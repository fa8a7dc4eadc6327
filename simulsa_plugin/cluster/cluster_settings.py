"""The `simulsa_*` keys of where models compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from simulsa_plugin.settings import Settings, check_choice, check_range

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """Where models compute; none of these keys changes a result, and a run may be continued with others.

    Attributes:
        engine: `local` computes in this process; `ray` on the workers of a Ray cluster.
        ray_address: the cluster's host:port; not set: that of RAY_ADDRESS, else of the cluster that runs on this
            machine, else one is started here for the run.
        ray_workers: the most workers, each with the model loaded; not set: as many as the cluster has room for.
        ray_gpus_per_worker: GPUs of each worker; not set: 1 where the cluster has any, else 0.
    """

    engine: Engine = "local"
    ray_address: str | None = None
    ray_workers: int | None = None
    ray_gpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        check_choice("simulsa_engine", self.engine, get_args(Engine))
        check_range("simulsa_ray_workers", self.ray_workers, minimum=1)
        check_range("simulsa_ray_gpus_per_worker", self.ray_gpus_per_worker, minimum=0)

    @property
    def is_ray(self) -> bool:
        """Whether replicas on a cluster compute."""
        return self.engine == "ray"
