"""Connects to a Ray cluster, quietly, and says what is wrong in one line."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import sys
import unittest.mock
from collections.abc import Iterator

from simulsa_plugin.cluster.cluster_settings import ClusterSettings
from simulsa_plugin.errors import ClusterError, MissingExtraError

CONNECT_SECONDS = 10.0


def check_ray(settings: ClusterSettings) -> None:
    """Find out, before anything heavy is imported, whether the cluster that is named can be there.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: nothing listens at its address.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError.for_package("simulsa_engine: ray", "ray", "ray")
    named = settings.ray_address or os.environ.get("RAY_ADDRESS")
    if _is_connected():
        return
    _refuse_client(named)
    if named and re.fullmatch(r".+:\d+", named):  # others, such as auto, need Ray to be understood
        _check_reachable(named, named)


def _is_connected() -> bool:
    """Return whether the caller has connected this process to a cluster, which is used then."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


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


def _connect(settings: ClusterSettings) -> None:
    import ray
    from ray._private import services, worker

    address = settings.ray_address
    # A thread would print a paragraph on stdout for every worker that dies; the pool says what matters.
    quiet = unittest.mock.patch.object(worker, "listen_error_messages", lambda *_: None, create=True)
    with quiet, unittest.mock.patch.dict(os.environ):
        if address:
            os.environ.pop("RAY_ADDRESS", None)  # for Ray it would count more
        where = address or os.environ.get("RAY_ADDRESS")
        _refuse_client(where)
        try:
            _check_reachable(services.canonicalize_bootstrap_address(address), where)
            ray.init(
                address=address,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
            what = f"The Ray cluster {where} cannot be used" if where else "Ray cannot be started"
            token = " If it was started with a token, set RAY_AUTH_MODE=token." * bool(where)
            raise ClusterError(f"{what}: {' '.join(str(error).split())[:500].rstrip('.')}.{token}") from error


def check_not_ended() -> None:
    """Find out whether this process's node is still part of its cluster; else Ray would end the process itself.

    A node's raylet ends with the cluster, also where a new head has taken its place.

    Raises:
        ClusterError: it is not.
    """
    from ray._private import worker

    try:
        with socket.socket(socket.AF_UNIX) as raylet:
            raylet.connect(worker.global_worker.node.raylet_socket_name)
    except OSError as error:
        raise ClusterError(
            "The Ray cluster has ended, or was started anew, while the command ran. Start the same command again: it "
            "goes on where it stopped."
        ) from error


def _refuse_client(address: str | None) -> None:
    if "://" in (address or ""):
        raise ClusterError(
            f"The Ray cluster {address} is named by an address of Ray Client, which is not supported. Start the "
            "command on a node of the cluster, and give its host:port."
        )


def _check_reachable(address: str | None, named: str | None) -> None:
    """Find out whether anything listens at host:port: Ray would try for minutes.

    Args:
        address: of the head; None where a cluster is to be started.
        named: how the user names it; None where Ray has noted it, as the last one that was started on this machine.

    Raises:
        ClusterError: nothing does.
    """
    if address is None:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        what = named or f"{address}, the last one on this machine,"
        step = "Check simulsa_ray_address, or RAY_ADDRESS." if named else "If it has ended, type `ray stop`."
        raise ClusterError(f"The Ray cluster {what} cannot be reached: {error}. {step}") from error
