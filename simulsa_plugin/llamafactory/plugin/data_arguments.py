"""LLaMA-Factory's DataArguments with the `simulsa_*` keys: one recipe serves augmentation, training and evaluation.

A module of its own, because Ray and the workers of `datasets.map` pickle the class by its name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from llamafactory.hparams.data_args import DataArguments

from simulsa_plugin.llamafactory.plugin.recipe_keys import known_keys

__all__ = ["DataArguments", "SimulsaDataArguments"]


def _key_field(key: str) -> tuple[str, Any, Any]:
    # Text or None: the settings group of the key checks and converts the value.
    return key, str | None, dataclasses.field(default=None, metadata={"help": f"{key}: see simulsa_plugin."})


SimulsaDataArguments: type[Any] = dataclasses.make_dataclass(
    "SimulsaDataArguments",
    [_key_field(key) for key in known_keys()],
    bases=(DataArguments,),
    namespace={"__module__": __name__, "__doc__": "DataArguments and the `simulsa_*` keys."},
)
