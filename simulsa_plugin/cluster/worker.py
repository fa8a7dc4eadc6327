"""What runs on a worker: loads a replica of the model once, then calls functions with it.

Functions and items come pickled, and errors go back as values, so that the main process raises them as they were.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.run_configuration import versions

PACKAGES = ("simulsa-plugin", "llamafactory", "transformers", "torch", "peft")  # what results depend on
NOTICE = "simulsa_plugin: "  # how the package's lines for the user begin


@dataclass(frozen=True)
class Replica:
    """A loaded replica.

    Attributes:
        node: name of its machine.
        description: of `ScoringModel.describe`.
        hardware: of `ScoringModel.hardware`.
        output_width: V.
    """

    node: str
    description: dict[str, Any]
    hardware: dict[str, Any]
    output_width: int


@dataclass(frozen=True)
class Outcome:
    """What a call returned, or raised.

    Attributes:
        value: what it returned.
        error: the user's problem.
        bug: the traceback of any other exception.
        notices: lines that the package printed for the user.
        node: name of the machine.
    """

    value: Any = None
    error: SimulsaError | None = None
    bug: str = ""
    notices: tuple[str, ...] = ()
    node: str = ""


class Worker:
    """An actor with a replica of a model."""

    def __init__(self) -> None:
        self._model: Any = None

    def load(self, pickled: bytes, threads: int, wanted_versions: dict[str, str], *, sees_gpus: bool) -> Outcome:
        """Load the replica; its value is a `Replica`.

        Args:
            pickled: a function that loads it.
            threads: of the main process; more or fewer may change the last digits.
            wanted_versions: package → version in the main process.
            sees_gpus: whether it has GPUs of its own; else it must not use those of its node.
        """
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)  # Ray sets them, to its own count
        if not sees_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return _outcome(lambda: self._load(pickled, wanted_versions))

    def _load(self, pickled: bytes, wanted_versions: dict[str, str]) -> Replica:
        for package, found in versions(*wanted_versions).items():
            if found != wanted_versions[package]:
                raise SimulsaError(
                    f"{package} is {found}, and {wanted_versions[package]} where the command runs. Install the same "
                    "environment on every node."
                )
        self._model = pickle.loads(pickled)()
        model = self._model
        return Replica(platform.node(), model.describe(), model.hardware(), model.output_width)

    def call(self, pickled: bytes) -> Outcome:
        """Call a function with the replica and an item, both in `pickled`."""
        return _outcome(lambda: _call(self._model, pickled))


def _call(model: Any, pickled: bytes) -> Any:
    function, item = pickle.loads(pickled)
    return function(model, item)


def _outcome(function: Callable[[], Any]) -> Outcome:
    printed = io.StringIO()
    value, error, bug = None, None, ""
    with contextlib.redirect_stderr(printed):
        try:
            value = function()
        except SimulsaError as problem:
            error = problem
        except ModuleNotFoundError as problem:
            error = SimulsaError(
                f"{problem} on the node {platform.node()}. Install the same environment on every node, with all that "
                "custom policies import."
            )
        except Exception:  # the main process raises it again
            bug = traceback.format_exc()
    notices = tuple(line for line in printed.getvalue().splitlines() if line.startswith(NOTICE))
    return Outcome(value, error, bug, notices, platform.node())
