"""Policies by their name in recipes; custom ones by the dotted name of a class or function."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.records import LatencyUnit
from simulsa_plugin.model.values import AttentionHead
from simulsa_plugin.settings import check_choice, did_you_mean
from simulsa_plugin.streaming.policies import (
    AgreementOrConfidence,
    Attention,
    Confidence,
    HoldN,
    LocalAgreement,
    Policy,
    Retranslation,
    Rollback,
    WaitK,
)

_MISSING = object()  # what a module does not have


@dataclass(frozen=True)
class PolicyOptions:
    """Options of a recipe for its policies; every value of a tuple gives another policy.

    Attributes:
        rollbacks: tokens.
        rollback_floor: whether committed tokens stay committed.
        confidence_thresholds: probabilities.
        confidence_windows: tokens.
        attention_ms: milliseconds.
        attention_heads: (layer, head) pairs; empty to find them.
        hold_n: tokens.
        wait_k: chunks.
        agreement_n: outputs.
        unit: latency unit.
    """

    rollbacks: tuple[int, ...] = (0, 3, 5)
    rollback_floor: bool = True
    confidence_thresholds: tuple[float, ...] = (0.9,)
    confidence_windows: tuple[int, ...] = (1,)
    attention_ms: tuple[int, ...] = (320,)
    attention_heads: tuple[AttentionHead, ...] = ()
    hold_n: tuple[int, ...] = (3,)
    wait_k: tuple[int, ...] = (3,)
    agreement_n: tuple[int, ...] = (2,)
    unit: LatencyUnit = "word"


_FACTORIES: dict[str, Callable[[PolicyOptions], list[Policy]]] = {
    "rollback": lambda options: [Rollback(b, options.rollback_floor) for b in options.rollbacks],
    "confidence": lambda options: [
        Confidence(threshold, window)
        for threshold in options.confidence_thresholds
        for window in options.confidence_windows
    ],
    "attention": lambda options: [Attention(ms, options.attention_heads) for ms in options.attention_ms],
    "hold_n": lambda options: [HoldN(n) for n in options.hold_n],
    "local_agreement": lambda options: [LocalAgreement(n) for n in options.agreement_n],
    "agreement_or_confidence": lambda options: [
        AgreementOrConfidence(n, threshold) for n in options.agreement_n for threshold in options.confidence_thresholds
    ],
    "wait_k": lambda options: [WaitK(k, options.unit) for k in options.wait_k],
    "retranslation": lambda options: [Retranslation()],
}
POLICIES = tuple(_FACTORIES)


def make_policies(name: str, options: PolicyOptions) -> list[Policy]:
    """Build the policies of one name.

    Args:
        name: one of POLICIES, or `package.module.Thing`, a class or function that, called without arguments, gives a
            `Policy` or several. Modules are also looked for in the working folder.
        options: of the recipe.

    Raises:
        UsageError: the name cannot be imported, or does not give policies.
    """
    if name in _FACTORIES:
        return _FACTORIES[name](options)
    return _call_factory(name, _import_factory(name))


def check_policy_name(key: str, name: str) -> None:
    """Raise UsageError for a name that is neither one of POLICIES nor dotted."""
    if "." not in name:
        check_choice(key, name, [*POLICIES, "module.Class of a custom policy"])


def policy_sources(names: Iterable[str]) -> dict[str, str]:
    """Return dotted name → hash of the files that define it, so that a changed policy is recognised.

    Raises:
        UsageError: a name cannot be imported.
    """
    return {name: _hash_of_files(name, _import_factory(name)) for name in names if name not in _FACTORIES}


def _hash_of_files(dotted: str, found: object) -> str:
    """Hash the module that is named, and the one that defines the object."""
    digest = hashlib.sha256()
    for module in dict.fromkeys((dotted.rpartition(".")[0], getattr(found, "__module__", ""))):
        path = getattr(sys.modules.get(module), "__file__", None)
        digest.update(Path(path).read_bytes() if path else b"")
    return digest.hexdigest()[:12]


def _call_factory(name: str, factory: Callable[[], Any]) -> list[Policy]:
    """Call a custom policy class or function. Raises UsageError if the result is not one or several policies."""
    try:
        result = factory()
        policies = list(result) if isinstance(result, Iterable) else [result]
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(
            f"simulsa_policies names {name}, which fails when called without arguments ({_describe_error(error)})."
        ) from error
    if not policies or not all(isinstance(policy, Policy) for policy in policies):
        raise UsageError(
            f"simulsa_policies names {name}, which gives {_kinds(policies) or 'nothing'}; "
            "expected a simulsa_plugin.streaming.policies.Policy, or a list of them."
        )
    for policy in policies:
        _check_identity(name, policy)
    return policies


def _check_identity(name: str, policy: Policy) -> None:
    """Check that a policy has a name, and a `cell()` that scores.json can hold."""
    if not isinstance(getattr(policy, "name", None), str) or not policy.name:
        raise UsageError(f'simulsa_policies names {name}, whose policy has no name; set `name = "…"` in its class.')
    try:
        cell = policy.cell()
        json.dumps(cell, allow_nan=False)
        good = isinstance(cell["rollback"], int | None) and isinstance(cell["parameters"], dict) and len(cell) == 2
    except Exception:  # whatever the user's code raises
        good = False
    if not good:
        raise UsageError(
            f"simulsa_policies names {name}, whose cell() does not return a mapping that JSON can hold; "
            'expected {"rollback": tokens or None, "parameters": {name: value}}.'
        )


def _kinds(things: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(type(thing).__name__ for thing in things))


def _import_factory(dotted: str) -> Callable[[], Any]:
    module_name, _, attribute = dotted.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found: Any = getattr(module, attribute, _MISSING)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        missing = isinstance(error, ImportError | ValueError)
        step = "Start from the folder that holds the module, or install it." if missing else "Fix that module."
        raise UsageError(
            f"simulsa_policies names {dotted}, which cannot be imported ({_describe_error(error)}). {step}"
        ) from error
    if found is _MISSING:
        hint = did_you_mean(attribute, (name for name, one in vars(module).items() if _is_policy_factory(one)))
        raise UsageError(f"simulsa_policies names {dotted}, which {module_name} does not have. Correct the name.{hint}")
    if not _is_policy_factory(found):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise UsageError(
            f"simulsa_policies names {dotted}, {kind}; expected a subclass of "
            "simulsa_plugin.streaming.policies.Policy, or a Python function that returns policies."
        )
    factory: Callable[[], Any] = found
    return factory


def _is_policy_factory(found: object) -> bool:
    """Return whether an object is a policy class or a function; nothing else is called, such as `sys.exit`."""
    if isinstance(found, type):
        return issubclass(found, Policy)
    return isinstance(found, types.FunctionType | types.MethodType | functools.partial)


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
