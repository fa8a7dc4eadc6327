"""SimulEval, OmniSTEval and simulstream, each in a folder of its own beside this environment.

SimulEval pins an old tqdm, simulstream's extras an old transformers: none of them can be installed into this
environment. What they need to *score* is light, so their wheels are unpacked without dependencies and found through
PYTHONPATH. To *run* simulstream takes librosa as well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TOOLS = {
    "simuleval": ["simuleval==1.1.4", "textgrid==1.6.1", "bitarray==2.6.0", "tornado>=6", "yt-dlp", "tqdm==4.64.1"],
    "omnisteval": [
        "omnisteval==0.1.10",
        "mosestokenizer==1.2.1",
        "openfile==0.0.7",
        "uctools==1.3.0",
        "toolwrapper==2.1.0",
        "docopt==0.6.2",
    ],
    "simulstream": ["simulstream==1.0.0"],
    # To run it: its message processor imports librosa, and librosa these.
    "simulstream_run": [
        "simulstream==1.0.0",
        "librosa==0.11.0",
        "lazy-loader==0.6",
        "numba==0.68.1",
        "llvmlite==0.50.0",
        "decorator==5.3.1",
        "pooch==1.9.0",
        "platformdirs==4.14.8",
        "joblib==1.6.0",
        "cloudpickle==3.1.3",
        "audioread==3.1.0",
        "msgpack==1.2.4",
    ],
}


def unpack(name: str, folder: Path) -> Path:
    """Unpack a tool."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "pip")], check=True)  # this one may have no pip
    install: list[str | Path] = [
        folder / "pip" / "bin" / "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    subprocess.run([*install, "--target", folder / "packages", *TOOLS[name]], check=True, capture_output=True)
    return folder / "packages"


def tool_environment(*folders: Path) -> dict[str, str]:
    """The environment of a program that finds a tool in front of this environment's packages."""
    path = os.pathsep.join(map(str, folders))
    return os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


def run_tool(folder: Path, *words: str, beside: Sequence[Path] = ()) -> str:
    """What `python -m WORDS` prints; `beside`: folders of other packages that it imports."""
    environment = tool_environment(folder, *beside)
    done = subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def simuleval_scores(folder: Path, log: Path, work: Path, unit: str = "word") -> dict[str, float]:
    """SimulEval's table of a log, rounded to 3 digits as it prints them."""
    work.mkdir()
    shutil.copy(log, work / "instances.log")
    metrics = ["AL", "LAAL", "AP", "DAL", "ATD", "StartOffset", "EndOffset"]
    tokenizer = ["--sacrebleu-tokenizer", "zh"] if unit == "char" else []
    printed = run_tool(
        folder,
        "simuleval.cli",
        "--score-only",
        "--output",
        str(work),
        "--source-type",
        "speech",
        "--target-type",
        "text",
        "--quality-metrics",
        "BLEU",
        "--latency-metrics",
        *metrics,
        "--eval-latency-unit",
        unit,
        *tokenizer,
    )
    names, values = (line.split() for line in printed.strip().splitlines()[-2:])
    return dict(zip(names, map(float, values[-len(names) :]), strict=True))


def omnisteval_scores(folder: Path, work: Path, *words: str) -> dict[str, float | str]:
    """OmniSTEval's scores.tsv, rounded to 4 digits as it writes them."""
    run_tool(folder, "omnisteval.cli", *words, "--output_folder", str(work))
    lines = (work / "scores.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {
        name: value if value in ("YES", "NO", "N/A") else float(value)
        for name, value in (line.split("\t") for line in lines)
    }


def omnisteval_longform_scores(folder: Path, files: Path) -> dict[str, float | str]:
    """OmniSTEval's scores of hyp.jsonl in `files` by words, aligned with refs.txt and segments.yaml beside it."""
    return omnisteval_scores(
        folder,
        files / "work",
        "longform",
        "--speech_segmentation",
        str(files / "segments.yaml"),
        "--hypothesis_file",
        str(files / "hyp.jsonl"),
        "--ref_sentences_file",
        str(files / "refs.txt"),
        "--word_level",
    )


def simulstream_scores(folder: Path, log: Path, unit: str = "word") -> dict[str, float]:
    """StreamLAAL (seconds) by audio and with computation, NE and real-time factor of a folder that we wrote."""
    config, file = ["--eval-config", str(log / "simulstream.yaml")], ["--log-file", str(log / "simulstream.jsonl")]
    printed = run_tool(
        folder,
        "simulstream.metrics.score_latency",
        *config,
        *file,
        "--latency-unit",
        unit,
        "--reference",
        str(log / "references.txt"),
        "--audio-definition",
        str(log / "segments.yaml"),
        "--scorer",
        "stream_laal",
    )
    ideal, aware = re.findall(r"latency=(-?[\d.e+-]+)", printed)
    printed = run_tool(folder, "simulstream.metrics.stats", *config, *file, "--latency-unit", unit)
    stats = json.loads(printed.partition("Stats:")[2])
    return {
        "LAAL": float(ideal),
        "LAAL_CA": float(aware),
        "NE": stats["normalized_erasure"]["value"],
        "RTF": stats["real_time_factor"]["value"],
    }


WAIT_TWO = """
from simuleval.agents import TextToTextAgent
from simuleval.agents.actions import ReadAction, WriteAction
from simuleval.utils import entrypoint


@entrypoint
class WaitTwo(TextToTextAgent):
    def policy(self):
        read, written = self.states.source, len(self.states.target)
        if len(read) < written + 2 and not self.states.source_finished:
            return ReadAction()
        done = self.states.source_finished and written + 1 >= len(read) + 1
        return WriteAction(read[min(written, len(read) - 1)], finished=done)
"""


def simuleval_text_to_text(folder: Path, work: Path, sources: list[str], targets: list[str]) -> dict[str, float]:
    """SimulEval's table of text decoded by a wait-2 policy that repeats its source; the log of it is in `work`.

    Two runs: where it writes a log, SimulEval scores what it reads back, and has forgotten that the source was text.
    """
    work.mkdir()
    (work / "agent.py").write_text(WAIT_TWO)
    (work / "source.txt").write_text("".join(line + "\n" for line in sources))
    (work / "target.txt").write_text("".join(line + "\n" for line in targets))
    metrics = ["AL", "LAAL", "AP", "DAL", "ATD"]
    words = [
        "simuleval.cli",
        "--agent",
        str(work / "agent.py"),
        "--source",
        str(work / "source.txt"),
        "--target",
        str(work / "target.txt"),
        "--source-type",
        "text",
        "--target-type",
        "text",
        "--quality-metrics",
        "BLEU",
        "--latency-metrics",
        *metrics,
    ]
    run_tool(folder, *words, "--output", str(work))
    printed = run_tool(folder, *words)
    names, values = (line.split() for line in printed.strip().splitlines()[-2:])
    return dict(zip(names, map(float, values[-len(names) :]), strict=True))
