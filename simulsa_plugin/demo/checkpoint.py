"""Where the packaged checkpoint lies, and the name it goes by."""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL = "simulsa-demo"


def checkpoint_path() -> Path:
    """Return the folder of the packaged checkpoint, in a source tree and in an installed wheel alike."""
    return Path(__file__).resolve().parent / DEMO_MODEL


def resolve_model_name(name: str) -> str:
    """Turn `simulsa-demo` into the packaged checkpoint's path; every other name stays as it is.

    A folder of that name in the working directory does not change what the name means, so that the same command always
    means the same model: write `./simulsa-demo` for the folder.

    >>> resolve_model_name("Qwen/Qwen2-Audio-7B"), resolve_model_name("./simulsa-demo")
    ('Qwen/Qwen2-Audio-7B', './simulsa-demo')
    >>> Path(resolve_model_name("simulsa-demo")).parent.name
    'demo'
    """
    return str(checkpoint_path()) if name == DEMO_MODEL else name
