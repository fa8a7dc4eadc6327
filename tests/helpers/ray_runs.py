"""Commands as processes, run locally and on a Ray cluster in the same folder, so that their results may be compared."""

import shutil
import subprocess
import sys
import tempfile

import pytest

from helpers.files import tree
from helpers.processes import environment_of_no_launcher
from helpers.ray_nodes import RayNodes

# Small blocks, so that there are enough of them for two workers and a death.
PROGRAM = """
import sys
from simulsa_plugin import terminal
terminal.FIRST_LINE_SECONDS = 3600.0  # no line of progress, however slow the machine is
from simulsa_plugin.evaluation import block_decoding
block_decoding.UTTERANCES_PER_BLOCK = 2
block_decoding.SPEECH_SECONDS_PER_BLOCK = 10.0
from simulsa_plugin.commands import {command}
sys.exit({command}.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of one processor each."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        cluster = RayNodes(2, folder)
        yield cluster
        cluster.close()


class Runs:
    """One command with a recipe, in a folder that has nothing else; it writes into `out` there."""

    def __init__(self, command, recipe, folder, words=()):
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        self.command, self.folder, self.out = command, folder, folder / "out"
        self.words = [*words, "recipe.yaml", "--out", "out"]

    def start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(command=self.command), *self.words, *words],
            cwd=self.folder,
            env=environment_of_no_launcher() | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_on(self, nodes, *words):
        return self.start("simulsa_engine=ray", f"simulsa_ray_address={nodes.address}", *words)

    def finish(self, process, warning=""):
        """Wait for a run that succeeds and warns of this alone; remove and return what it has written."""
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert warning in err
        assert len(err.splitlines()) == bool(warning), err
        found = tree(self.out)
        shutil.rmtree(self.out)
        return found


def failure(process):
    """Exit code and the line on stderr of a run that fails."""
    _, err = process.communicate(timeout=240)
    return process.returncode, err
