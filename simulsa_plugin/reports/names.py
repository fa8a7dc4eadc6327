"""Names as the first lines of a page show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def model_name(model: Mapping[str, Any]) -> str:
    """Return what was evaluated, without the folders of a long path: the settings have all of it.

    >>> model_name({"model": "Qwen/Qwen2-Audio-7B"}), model_name({"model": "/data/models/my", "adapter": "saves/lora"})
    ('Qwen/Qwen2-Audio-7B', 'my + saves/lora')
    """
    paths = [str(path) for path in (model.get("model"), model.get("adapter")) if path]
    return " + ".join(path if path.count("/") < 2 else PurePath(path).name for path in paths)
