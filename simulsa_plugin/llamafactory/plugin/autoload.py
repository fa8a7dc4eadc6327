"""The `torch.backends` entry point: an import hook that passes LLaMA-Factory's modules to `extensions`.

PyTorch calls `activate` in every process that imports torch, with LLaMA-Factory or without. So this module needs only
the standard library, takes well under a millisecond, and never raises.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SWITCH = "SIMULSA_PLUGIN"
OFF = frozenset({"0", "false", "no", "off"})
# Without `llamafactory.train.tuner`: torchrun's children import torch while that module is being executed.
EXTENDED_MODULES = frozenset(
    {
        "llamafactory.launcher",
        "llamafactory.hparams.parser",
        "llamafactory.data.collator",
        "llamafactory.data.converter",
        "llamafactory.data.loader",
        "llamafactory.data.mm_plugin",
        "llamafactory.data.parser",
        "llamafactory.data.processor.supervised",
        "llamafactory.model.loader",
        "llamafactory.train.sft.workflow",
        "llamafactory.train.dpo.workflow",
        "llamafactory.train.dpo.trainer",
        "llamafactory.train.kto.workflow",
        "llamafactory.train.kto.trainer",
        "llamafactory.train.pt.workflow",
        "llamafactory.train.rm.workflow",
        "llamafactory.train.ppo.workflow",
        "llamafactory.webui.interface",
        # Only to notify that the plugin does not work with these.
        "llamafactory.v1.launcher",
        "llamafactory.train.mca.workflow",
        "llamafactory.train.hyper_parallel.workflow",
        "deepspeed.comm.torch",
    }
)


def activate() -> None:
    """Install the import hook once; with `SIMULSA_PLUGIN=0` do nothing."""
    if os.environ.get(SWITCH, "").lower() in OFF or any(type(finder) is ModuleWatcher for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, ModuleWatcher())
    for name in EXTENDED_MODULES & sys.modules.keys():
        module = sys.modules[name]
        # A module that is still being executed would overwrite the extension.
        if not getattr(getattr(module, "__spec__", None), "_initializing", False):
            _extend(module)


class ModuleWatcher:
    """A meta-path finder that wraps the loaders of the modules to be extended; other finders find them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of `EXTENDED_MODULES` with the other finders, and wrap its loader."""
        if fullname not in EXTENDED_MODULES:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _ExtendingLoader(spec.loader)  # type: ignore[assignment]  # has the protocol's methods
                return spec
        return None


class _ExtendingLoader:
    """A module's loader that extends the module after it has been executed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        _extend(module)


def _extend(module: ModuleType) -> None:
    try:
        from simulsa_plugin.llamafactory.plugin import extensions

        extensions.extend(module)
    except Exception as error:  # LLaMA-Factory must work without the extension, whatever has changed in it
        print(f"simulsa_plugin: cannot extend {module.__name__} ({error!r}); it is unchanged.", file=sys.stderr)
