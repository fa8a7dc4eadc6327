"""What all tests share; `helpers` is importable because this file stands beside it."""

import os
import sys

import hypothesis
import pytest

# No test asks a hub for anything, and a name that is no path fails at once instead of after five tries.
os.environ["HF_HUB_OFFLINE"] = "1"
# The models here are tiny: a second thread gains nothing, and on a busy machine it waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes says nothing on a busy machine: hypothesis would call the test flaky.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

NEED_A_NETWORK = ("real_speech", "other_tools")
NOWHERE = "http://127.0.0.1:9"
# Files that take longest: they begin first, so that of two halves of a run none ends long after the other.
LONG_FILES = (
    "test_recipes.py",
    "test_kills.py",
    "test_architectures.py",
    "test_decoders.py",
    "test_hook_in_training.py",
    "test_experiments.py",
    "test_prepare_stopped.py",
    "test_documented_commands.py",
    "test_training.py",
    "test_same_bytes.py",
    "test_journal.py",
    "test_tune.py",
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def pytest_collection_modifyitems(items):
    """Put the tests of long files first; those of a file stay in their order."""
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="module", autouse=True)
def network_is_out_of_reach(request):
    """Programs that a test starts reach this machine alone; for the test itself pytest-socket sees to that."""
    with pytest.MonkeyPatch.context() as patch:
        if not any(request.node.get_closest_marker(name) for name in NEED_A_NETWORK):
            for name in PROXIES:
                patch.setenv(name, NOWHERE)
                patch.setenv(name.upper(), NOWHERE)
            patch.setenv("no_proxy", "localhost,127.0.0.1,::1")
        yield


@pytest.fixture(autouse=True)
def no_process_is_left():
    """A test that fails while its processes hang does not hang the run."""
    yield
    processes = sys.modules.get("helpers.processes")
    if processes is not None:
        processes.kill_started()
