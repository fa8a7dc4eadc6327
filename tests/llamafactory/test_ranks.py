"""Several processes of a training, in processes of their own: how they end."""

import os
import subprocess
import sys

import pytest

# The GIL is held from before gloo has summed until the interpreter is finalized: what a busy machine does by chance.
FINISHED_TRAINING = """
import sys, time
import torch, torch.distributed as dist
{register}
rank, meeting_point = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + meeting_point, rank=rank, world_size=2)
group = dist.new_group([0, 1])  # still referred to at the end, as by DeepSpeed's parameters
dist.barrier()
sys.setswitchinterval(1000)
values = torch.ones(20_000_000)
dist.all_reduce(values, group=group, async_op=True)
del values
dist.destroy_process_group()
end = time.perf_counter() + 1.0
while time.perf_counter() < end:
    pass
"""
REGISTERED = "from simulsa_plugin.llamafactory.training import distributed as ranks; ranks.wait_for_gloo_at_exit()"
UNDER_TORCHRUN = "import llamafactory.hparams.parser"  # what a training imports; the plugin registers it there


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the state of threads is read from /proc")
@pytest.mark.parametrize("register", [REGISTERED, UNDER_TORCHRUN], ids=["itself", "by the plugin"])
def test_a_finished_process_ends_with_0_while_gloo_still_holds_tensors(tmp_path, clean_environment, register):
    script = FINISHED_TRAINING.format(register=register)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(tmp_path / "meeting_point")],
            env=clean_environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors  # -6 is SIGABRT


def test_a_process_without_gloo_does_not_wait(monkeypatch):
    from simulsa_plugin.llamafactory.training import distributed as ranks

    monkeypatch.setattr(ranks.time, "sleep", lambda _: pytest.fail("it waits"))
    ranks.wait_for_gloo_threads()
