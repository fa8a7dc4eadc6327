"""Policies by the name that a recipe gives them, the user's own by a dotted one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.errors import UsageError
from simulsa_plugin.settings import check_choice
from simulsa_plugin.streaming.policies import (
    Confidence,
    HoldN,
    LocalAgreement,
    Policy,
    Retranslation,
    Rollback,
    WaitK,
)


@dataclass(frozen=True)
class PolicyOptions:
    """What a recipe says about policies; every value of a tuple makes a policy of its own.

    Attributes:
        rollbacks: tokens.
        rollback_floor: whether what is committed stays so.
        confidence_thresholds: probabilities.
        hold_n: tokens.
        wait_k: chunks.
        agreement_n: outputs.
        unit: latency unit, word or char.
    """

    rollbacks: tuple[int, ...] = (0, 3, 5)
    rollback_floor: bool = True
    confidence_thresholds: tuple[float, ...] = (0.9,)
    hold_n: tuple[int, ...] = (3,)
    wait_k: tuple[int, ...] = (3,)
    agreement_n: tuple[int, ...] = (2,)
    unit: str = "word"


_MAKERS: dict[str, Callable[[PolicyOptions], list[Policy]]] = {
    "rollback": lambda options: [Rollback(b, options.rollback_floor) for b in options.rollbacks],
    "confidence": lambda options: [Confidence(threshold) for threshold in options.confidence_thresholds],
    "hold_n": lambda options: [HoldN(n) for n in options.hold_n],
    "local_agreement": lambda options: [LocalAgreement(n) for n in options.agreement_n],
    "wait_k": lambda options: [WaitK(k, options.unit) for k in options.wait_k],
    "retranslation": lambda options: [Retranslation()],
}
POLICIES = tuple(_MAKERS)


def make_policies(name: str, options: PolicyOptions) -> list[Policy]:
    """The policies of one name.

    Args:
        name: one of POLICIES, or `package.module.Thing`: something that, called without arguments, gives a `Policy` or
            several. Modules are also looked for in the working folder.
        options: of the recipe.

    Raises:
        UsageError: there is no such thing, or it gives no policy.
    """
    if name in _MAKERS:
        return _MAKERS[name](options)
    made = _load(name)()
    policies = list(made) if isinstance(made, Iterable) else [made]
    if not policies or not all(isinstance(policy, Policy) for policy in policies):
        raise UsageError(
            f"simulsa_policies names {name}, which gives a {type(made).__name__}; "
            "expected a simulsa_plugin.streaming.policies.Policy, or a list of them."
        )
    return policies


def check_policy_name(key: str, name: str) -> None:
    """Raise UsageError for a name that is neither one of POLICIES nor dotted."""
    if "." not in name:
        check_choice(key, name, [*POLICIES, "module.Class of your own"])


def _load(dotted: str) -> Callable[[], Any]:
    module_name, _, attribute = dotted.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"simulsa_policies names {dotted}, which cannot be imported ({error}). "
            "Start from the folder that holds the module, or install it."
        ) from error
    if not callable(found):
        raise UsageError(f"simulsa_policies names {dotted}, a {type(found).__name__}; expected a class of policies.")
    return found
