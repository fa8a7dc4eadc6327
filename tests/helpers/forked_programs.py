"""Programs in processes of their own that skip the imports: a server imports what is heavy once and forks for each.

LLaMA-Factory, the plugin, DeepSpeed, and TRL, which the plugin prepares, are imported in every run anew, under its own
environment and in its folder.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HEAVY = (
    "torch._dynamo",
    "transformers.trainer",
    "transformers.trainer_seq2seq",
    "transformers.masking_utils",
    "transformers.loss.loss_utils",
    "transformers.models.auto.processing_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2_audio.modeling_qwen2_audio",
    "transformers.models.whisper.feature_extraction_whisper",
    "datasets",
    "matplotlib.figure",
    "peft",
)
TIMEOUT_SECONDS = 280
_servers: list[Any] = []


def run_program(name, *arguments, folder=None, environment=None):
    """Run a program of this environment to its end, as `subprocess.run` does, with what it prints as text."""
    if not _servers:
        _servers.append(_start_server())
    with tempfile.TemporaryDirectory() as place:
        request = {
            "program": str(Path(sys.executable).parent / name),
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "out": f"{place}/out",
            "err": f"{place}/err",
        }
        print(json.dumps(request), file=_servers[0].stdin, flush=True)
        code = json.loads(_servers[0].stdout.readline())
        out, err = (Path(place, name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return subprocess.CompletedProcess([request["program"], *request["arguments"]], code, out, err)


def _start_server():
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    atexit.register(_stop, server)
    return server


def _stop(server):
    server.stdin.close()
    server.wait()
    server.stdout.close()


def serve():
    for name in HEAVY:
        importlib.import_module(name)
    assert not {"llamafactory", "deepspeed", "trl"} & sys.modules.keys()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(request):
    """Be the program; its end is the end of this process."""
    signal.alarm(TIMEOUT_SECONDS)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, path in enumerate((os.devnull, request["out"], request["err"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
    config = sys.modules["datasets"].config
    config.HF_DATASETS_CACHE = Path(os.environ.get("HF_DATASETS_CACHE", config.HF_DATASETS_CACHE))
    config.DOWNLOADED_DATASETS_PATH = config.HF_DATASETS_CACHE / config.DOWNLOADED_DATASETS_DIR
    sys.argv = [request["program"], *request["arguments"]]
    runpy.run_path(request["program"], run_name="__main__")


if __name__ == "__main__":
    sys.path.pop(0)  # tests/helpers, where no other program looks
    serve()
