"""Context managers that restore the state of a training after decoding: module modes, random states, log levels."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_VERBOSITY = "LLAMAFACTORY_VERBOSITY"


@contextlib.contextmanager
def preserved_training_state(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode; restore each module's mode and all random states at the end.

    Args:
        model: a torch module.
    """
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    accelerator = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if accelerator is not None:
            torch.cuda.set_rng_state_all(accelerator)


@contextlib.contextmanager
def preserved_log_levels() -> Iterator[None]:
    """Restore the log levels of LLaMA-Factory, transformers and datasets, which `silence_libraries` changes."""
    import datasets
    import transformers

    own, level = os.environ.get(_VERBOSITY), logging.getLogger("llamafactory").level
    verbosity, bars = transformers.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    loading_bars = transformers.logging.is_progress_bar_enabled()
    try:
        yield
    finally:
        logging.getLogger("llamafactory").setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
        if loading_bars:
            transformers.logging.enable_progress_bar()
        if own is None:
            os.environ.pop(_VERBOSITY, None)
        else:
            os.environ[_VERBOSITY] = own
