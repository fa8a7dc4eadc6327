"""SimulSA for LLaMA-Factory: simultaneous speech translation activated by data alone (arXiv 2509.15692).

The names below are the Python API (docs/python_api.md). They are imported when they are first used: PyTorch loads this
package in every process, so its import must stay light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulsa_plugin.api.augment_recipe import AugmentResult, augment
    from simulsa_plugin.api.compare_results import ComparisonResult, compare
    from simulsa_plugin.api.evaluate_recipe import EvaluationResult, evaluate
    from simulsa_plugin.api.score_log import ScoreResult, score
    from simulsa_plugin.api.tune_recipe import TuningResult, tune
    from simulsa_plugin.errors import SimulsaError, UsageError
    from simulsa_plugin.streaming.policies import Policy

__version__ = "0.1.0"
__all__ = [
    "AugmentResult",
    "ComparisonResult",
    "EvaluationResult",
    "Policy",
    "ScoreResult",
    "SimulsaError",
    "TuningResult",
    "UsageError",
    "__version__",
    "augment",
    "compare",
    "evaluate",
    "report",
    "score",
    "tune",
]
_MODULES = {
    "AugmentResult": "api.augment_recipe",
    "ComparisonResult": "api.compare_results",
    "EvaluationResult": "api.evaluate_recipe",
    "Policy": "streaming.policies",
    "ScoreResult": "api.score_log",
    "SimulsaError": "errors",
    "TuningResult": "api.tune_recipe",
    "UsageError": "errors",
    "augment": "api.augment_recipe",
    "compare": "api.compare_results",
    "evaluate": "api.evaluate_recipe",
    "report": "api.compare_results",
    "score": "api.score_log",
    "tune": "api.tune_recipe",
}


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
