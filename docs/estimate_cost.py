"""Table of docs/cost.md: what augmenting, evaluating and tuning take with Qwen2-Audio-7B, from sizes and rates.

python docs/estimate_cost.py                   # the table of docs/cost.md, from assumed rates
python docs/estimate_cost.py --bench gpu.json  # from what tests/bench/bench_gpu.py --json gpu.json has measured
python docs/estimate_cost.py --tflops 300 --gigabytes 1500 --share 0.5
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import Qwen2AudioForConditionalGeneration

from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.llamafactory.model.model_size import qwen2_audio_7b, size_of
from simulsa_plugin.model.cost import (
    Machine,
    ModelSize,
    Utterance,
    Work,
    decoding_work,
    duration,
    scoring_work,
    search_work,
    shares,
)
from simulsa_plugin.tuning.halving import planned_rungs
from simulsa_plugin.tuning.tuned_recipe import searched_settings

ASSUMED = Machine(600e12, 3000e9)
TEXT_TOKENS, TOKENS_PER_SECOND = 45, 25  # of a prompt in LLaMA-Factory's template, and of Qwen2-Audio
CLIP_SECONDS = 1.6  # mean of the default cuts, 0.5 s + 4.5 s · Beta(1, 3)
SESSIONS = 32  # decoded in a batch
PAPER = [None, *(chunk for chunk in (0.5, 1.0, 1.5, 2.0) for _ in range(3))]  # offline; three rollbacks each


@dataclass(frozen=True)
class Corpus:
    """Number of rows, and their means: seconds of audio, and tokens of the reference."""

    name: str
    rows: int
    seconds: float
    answer_tokens: float

    def row(self, seconds: float | None = None) -> Utterance:
        """Return a mean row, or a clip of it; references are scored whole."""
        seconds = seconds or self.seconds
        return Utterance(seconds, TEXT_TOKENS, TOKENS_PER_SECOND * seconds, self.answer_tokens)


# Rows as on the card of huggingface.co/datasets/facebook/covost2; hours of table 1 of arXiv 2007.10310, the same for
# all directions from English: 430 with the extended split, which its own script takes for training, and 25 without.
TRAIN = Corpus("CoVoST 2 English–Chinese", 289_430, 430 * 3600 / 289_430, 16)
TEST = Corpus("CoVoST 2 English–Chinese", 15_531, 25 * 3600 / 15_531, 16)
LARGE = Corpus("10,000 hours", 3_600_000, 10.0, 35)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, help="of a large matrix product in bf16")
    parser.add_argument("--gigabytes", type=float, help="a second that a large copy reads and writes")
    parser.add_argument("--share", type=float, help="of both that whole runs reach")
    parser.add_argument("--bench", type=Path, help="rates and share from tests/bench/bench_gpu.py --json")
    options = parser.parse_args()
    machine = ASSUMED
    if options.bench:
        measured = json.loads(options.bench.read_text(encoding="utf-8"))["machine"]
        machine = Machine(**measured)
    given = {"flop_per_second": (options.tflops, 1e12), "bytes_per_second": (options.gigabytes, 1e9)}
    machine = replace(machine, **{key: value * unit for key, (value, unit) in given.items() if value})
    if options.share:
        machine = replace(machine, flop_share=options.share, bandwidth_share=options.share)
    print("\n".join(table(machine)))


def table(machine: Machine) -> Iterator[str]:
    """Yield the lines of the table."""
    with torch.device("meta"):
        size = size_of(Qwen2AudioForConditionalGeneration(qwen2_audio_7b()))
    yield (
        f"Qwen2-Audio-7B in bf16 on GPUs of {machine.flop_per_second / 1e12:g} TFLOP/s and "
        f"{machine.bytes_per_second / 1e9:g} GB/s, of which {shares(machine)} are reached:"
    )
    yield ""
    yield "| what | units | PFLOP | decode steps | TB read by them | 1 GPU | 8 GPUs |"
    yield "|---|---|---|---|---|---|---|"
    for what, units, work in runs(size):
        decoding = (f"{work.decode_steps:,.0f}", f"{work.decode_bytes / 1e12:,.0f}") if work.decode_steps else ("", "")
        times = [duration(work.seconds(machine, devices)) for devices in (1, 8)]
        yield f"| {' | '.join([what, units, f'{work.flop / 1e15:,.0f}', *decoding, *times])} |"


def runs(size: ModelSize) -> Iterator[tuple[str, str, Work]]:
    """Yield what is done, with how many units, and its work."""
    for corpus in (TRAIN, LARGE):
        clips = round(0.1 * corpus.rows)
        work = scoring_work(size, [corpus.row(CLIP_SECONDS)]).times(clips)
        yield f"augment 10 % of {corpus.name}", f"{clips:,} clips", work
    row = decoding_work(size, [TEST.row()], PAPER, SESSIONS)
    sessions = f"{TEST.rows * len(PAPER):,} sessions"
    yield f"evaluate the test set of {TEST.name} in the paper's {len(PAPER)} cells", sessions, row.times(TEST.rows)
    chunks = [cell.chunk_ms and cell.chunk_ms / 1000 for cell in plan_cells(searched_settings({}))[1:]]
    rungs = planned_rungs(len(chunks), 1000, budgets=2)
    what = f"tune on 1,000 utterances, {len(chunks)} cells, two budgets"
    sessions = f"{sum(cells * count for cells, count in rungs):,} sessions"
    yield what, sessions, search_work(size, [TEST.row()], chunks, rungs, SESSIONS)


if __name__ == "__main__":
    main()
