"""References to audio in rows, which LLaMA-Factory would take for missing files.

LLaMA-Factory 0.9.5 joins every path with `media_dir`, and warns of each that is then no file: a line for every row of a
dataset whose audio lies in a store. Delete this module when it leaves addresses alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from simulsa_plugin.audio.references import is_reference


def with_references(find_medias: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Wrap `DatasetConverter._find_medias`: references stay as they are."""

    @functools.wraps(find_medias)
    def find(converter: Any, medias: Any) -> Any:
        if isinstance(medias, list) and medias and all(map(is_reference, medias)):
            return list(medias)
        return find_medias(converter, medias)

    return find
