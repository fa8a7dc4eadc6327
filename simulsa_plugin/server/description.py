"""What the page shows of a system before a stream begins: the model, and what may be chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulsa_plugin.api.live_system import LiveSystem

# Policy → the keys of its parameters.
PARAMETERS = {
    "rollback": ("simulsa_rollbacks",),
    "confidence": ("simulsa_confidence_threshold", "simulsa_confidence_window"),
    "attention": ("simulsa_attention_ms",),
    "hold_n": ("simulsa_hold_n",),
    "local_agreement": ("simulsa_agreement_n",),
    "agreement_or_confidence": ("simulsa_agreement_n", "simulsa_confidence_threshold"),
    "wait_k": ("simulsa_wait_k",),
    "retranslation": (),
}


def describe_system(system: LiveSystem) -> dict[str, Any]:
    """Return the model, operating points, policies with the recipe's first value of each parameter, and languages."""
    keys = system.settings.as_keys()
    prompts = system.prompts
    return {
        "model": system.model_name,
        "default_point": system.default_point,
        "points": {
            name: {"policy": point.policy.name, "chunk_ms": point.chunk_ms, **point.policy.cell()["parameters"]}
            | _rollback(point.policy.cell()["rollback"])
            for name, point in system.points.items()
        },
        "policies": {name: {key: keys[key][0] for key in PARAMETERS.get(name, ())} for name in system.policies},
        "languages": None
        if prompts.fixed is not None
        else {"source": prompts.source_language, "target": prompts.target_language},
    }


def _rollback(tokens: int | None) -> dict[str, int]:
    return {} if tokens is None else {"rollback": tokens}
