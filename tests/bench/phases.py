"""`simulsa-augment` with a line for each of its phases: time since the start, processor time, memory.

python tests/bench/phases.py [RECIPE.yaml] [key=value …] [--out DIR]
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from pathlib import Path

# Phases of a run, each named by what it has done when the function returns; one that returns often counts at the first.
PHASES = (
    ("llamafactory.data.aligned_rows", "load_aligned_rows", "rows loaded"),
    ("api.loading", "load_model_and_data", "model loaded"),
    ("augmentation.clips", "CutSampler._read", "first audio read"),
    ("augmentation.clips", "CutSampler.sample", "all clips cut"),
    ("augmentation.method.speculation", "score_cuts", "scored"),
    ("augmentation.labeling", "Labeler.write", "decided"),
    ("augmentation.registration", "register", "registered"),
    ("augmentation.clean", "offer_clean", "broken rows looked for"),
    ("augmentation.outcome", "finish", "finished"),
)


class Marks:
    """Time since the start, and memory, when something was done for the first time."""

    def __init__(self) -> None:
        self.start, self.seen = time.time(), set[str]()

    def note(self, what: str) -> None:
        """Print a line, unless there is one."""
        if what in self.seen:
            return
        self.seen.add(what)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak, private = (int(status[key].split()[0]) / 1024 for key in ("VmHWM", "RssAnon"))
        wall, cpu = time.time() - self.start, sum(os.times()[:4])
        print(f"{wall:8.1f} s  {cpu:8.1f} s CPU  {peak:6.0f} MiB  {private:6.0f} MiB  {what}", flush=True)

    def wrap(self, module: str, path: str, what: str) -> None:
        """Let a function note that it has returned, wherever it was imported to."""
        owner = importlib.import_module(f"simulsa_plugin.{module}")
        *outer, name = path.split(".")
        for one in outer:
            owner = getattr(owner, one)
        called = getattr(owner, name)

        @functools.wraps(called)
        def noting(*arguments, **named):
            found = called(*arguments, **named)
            self.note(what)
            return found

        setattr(owner, name, noting)
        for other in [other for key, other in sys.modules.items() if key.startswith("simulsa_plugin")]:
            if vars(other).get(name) is called:
                setattr(other, name, noting)


def augment(words: list[str]) -> None:
    """Run `simulsa-augment` in this process, and print a line for each phase."""
    marks = Marks()
    from simulsa_plugin.api.loading import activate_plugin
    from simulsa_plugin.commands.augment import main as command

    activate_plugin()
    for module in ("augmentation.pipeline", "llamafactory.data.dataset", "llamafactory.model.backbone_loading"):
        importlib.import_module(f"simulsa_plugin.{module}")
    for phase in PHASES:
        marks.wrap(*phase)
    marks.note("imports")
    code = command(words)
    marks.note(f"ended with {code}")


if __name__ == "__main__":
    augment(sys.argv[1:])
