"""Our streams inside other tools: SimulEval's agent, and simulstream's speech processor, by these names.

The tools are not dependencies: what belongs to one is imported when its name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulsa_plugin.agents.simuleval_agent import SimulEvalAgent
    from simulsa_plugin.agents.simulstream_processor import SimulstreamProcessor

__all__ = ["SimulEvalAgent", "SimulstreamProcessor"]
_MODULES = {"SimulEvalAgent": "simuleval_agent", "SimulstreamProcessor": "simulstream_processor"}


def __getattr__(name: str) -> object:
    """Import the class for a tool, and with it the tool."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
