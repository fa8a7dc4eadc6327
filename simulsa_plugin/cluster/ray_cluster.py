"""Connects to a Ray cluster, quietly, and says what is wrong in one line."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import unittest.mock
from collections.abc import Iterator

from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.errors import ClusterError, MissingExtraError


def check_ray() -> None:
    """Raise MissingExtraError where Ray is not installed; nothing is imported."""
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError.for_package("simulsa_engine: ray", "ray", "ray")


@contextlib.contextmanager
def connected(settings: ClusterSettings) -> Iterator[None]:
    """Be connected to a cluster; a connection that the caller has made is used, and kept.

    Raises:
        ClusterError: it cannot be reached, or not be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        _connect(settings)
        yield
    finally:
        ray.shutdown()
        log.setLevel(level)


def _connect(settings: ClusterSettings) -> None:
    import ray
    from ray._private import worker

    # A thread would print a paragraph on stdout for every worker that dies; the pool says what matters.
    quiet = unittest.mock.patch.object(worker, "listen_error_messages", lambda *_: None, create=True)
    try:
        with quiet:
            ray.init(
                address=settings.ray_address,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
        where = settings.ray_address or os.environ.get("RAY_ADDRESS")
        what = f"The Ray cluster {where} cannot be used" if where else "Ray cannot be started"
        raise ClusterError(f"{what}: {' '.join(str(error).split())[:500]}") from error
