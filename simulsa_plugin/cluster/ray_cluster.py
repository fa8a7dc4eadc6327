"""Connects to a Ray cluster, quietly, and says what is wrong in one line."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import unittest.mock
from collections.abc import Iterator

from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.errors import ClusterError, MissingExtraError

CONNECT_SECONDS = 10.0


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
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without a warning; see `Worker.load`
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


def _check_address(address: str | None) -> None:
    """Find out whether anything listens at host:port: Ray would try for minutes.

    Raises:
        ClusterError: nothing does, or the address is one of Ray Client.
    """
    host, colon, port = (address or "").rpartition(":")
    if "://" in host:
        raise ClusterError(
            f"The Ray cluster {address} is named by an address of Ray Client, which is not supported. Start the "
            "command on a node of the cluster, and give its host:port."
        )
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(
                f"The Ray cluster {address} cannot be reached: {error}. Check simulsa_ray_address, or RAY_ADDRESS."
            ) from error


def _connect(settings: ClusterSettings) -> None:
    _check_address(settings.ray_address or os.environ.get("RAY_ADDRESS"))
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
        token = " If it was started with a token, set RAY_AUTH_MODE=token." * bool(where)
        raise ClusterError(f"{what}: {' '.join(str(error).split())[:500].rstrip('.')}.{token}") from error
