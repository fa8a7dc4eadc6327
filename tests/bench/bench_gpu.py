"""Qwen2-Audio-7B with random weights on a GPU: scoring, decoding and single decode steps, against what the GPU can do.

    python tests/bench/bench_gpu.py --json gpu.json      # on a GPU with 37 GB free: 7B in bf16; nothing is downloaded
    python tests/bench/bench_gpu.py --device cpu         # a tiny model in fp32, to try the script
    python docs/estimate_cost.py --bench gpu.json        # docs/cost.md from what was measured

Bounds are not specifications: the rates of a large matrix product and of a large copy are measured first. A pass over
many tokens is compared with its FLOP, a decode step with the bytes of weights, keys and values that it reads. Rates are
the best of three measurements, before, between and after the rest. What is compared is timed in turns; of decode steps
the median counts. Random weights do not end an answer, so answers have a fixed length.
"""

import argparse
import contextlib
import functools
import json
import operator
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from random_model import SIZES, random_config, random_model, random_renderer
from rounds import time_in_turns

from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.decode_rows import DecodeRows
from simulsa_plugin.llamafactory.model.machine import measure_machine
from simulsa_plugin.llamafactory.model.model_size import size_of
from simulsa_plugin.llamafactory.model.static_step import CapturedStep
from simulsa_plugin.model.cost import Utterance, scoring_work
from simulsa_plugin.model.values import GenerationRequest, Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

ASK = Prompt(({"role": "user", "content": "<audio>Translate the English speech into German."},))
REFERENCE = "Der alte Mann liest heute im Garten ein Buch über die Geschichte der Stadt."
DYNAMIC, STATIC, GRAPH, COMPILED = "growing cache", "static buffers", "CUDA graph", "torch.compile"


@dataclass(frozen=True)
class Row:
    """One line of a table; None where it has no meaning.

    Attributes:
        what: was done.
        how: was it done.
        seconds: median of the rounds.
        samples_per_second: clips, sessions, or rows of a decode step.
        tokens_per_second: of prompts and references that are read, or generated ones.
        peak_gb: of GPU memory.
        flop: that was computed in these seconds.
        read_bytes: that a decode step read.
    """

    what: str
    how: str
    seconds: float
    samples_per_second: float
    tokens_per_second: float
    peak_gb: float | None
    flop: float | None = None
    read_bytes: float | None = None

    def shares(self, machine):
        """Of the FLOP and of the bytes that the machine could have done in these seconds; None where not meant."""
        return (
            None if self.flop is None else self.flop / self.seconds / machine.flop_per_second,
            None if self.read_bytes is None else self.read_bytes / self.seconds / machine.bytes_per_second,
        )


def main(words=None):
    """Measure, print tables, and write JSON."""
    options = parse(words)
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    machine = measure_machine(dtype, options.device)
    weights = random_model(random_config(options.size, options.layers), dtype, options.device)
    bench = Bench(Backbone(weights, random_renderer()), options)
    print(f"{options.size}: {bench.size.parameters / 1e9:.3g} B parameters, {bench.size.weight_bytes / 1e9:.3g} GB")
    rows = [*bench.scoring(), *bench.decoding()]
    machine = better(machine, measure_machine(dtype, options.device))
    rows += bench.steps()
    machine = better(machine, measure_machine(dtype, options.device))
    print(
        f"{machine.name}: {machine.flop_per_second / 1e12:.4g} TFLOP/s in a large matrix product ({dtype}), "
        f"{machine.bytes_per_second / 1e9:.4g} GB/s in a large copy; torch {torch.__version__}\n"
    )
    print("\n".join(markdown(rows, machine)))
    if options.json:
        options.json.write_text(json.dumps(report(machine, rows, options), indent=1), encoding="utf-8")


def better(one, other):
    """The machine at its best: what else runs on it only slows it down."""
    return replace(
        one,
        flop_per_second=max(one.flop_per_second, other.flop_per_second),
        bytes_per_second=max(one.bytes_per_second, other.bytes_per_second),
    )


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, help="default: 7b on a GPU, tiny on a processor")
    parser.add_argument("--layers", type=int, help="of encoder and language model: fewer, to try it")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16, help="clips scored at once")
    parser.add_argument("--utterances", type=int, default=8, help="decoded in four cells")
    parser.add_argument("--new-tokens", type=int, default=12, help="of every answer")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16], help="of decode steps")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-gb", type=float, default=8.0, help="of keys and values")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    options.size = options.size or ("7b" if options.device == "cuda" else "tiny")
    return options


class Counted:
    """A model that counts the tokens it generates, those of accepted drafts included."""

    def __init__(self, model):
        self._model, self.tokens = model, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def open_batch(self):
        return CountedBatch(self, self._model.open_batch())


class CountedBatch:
    """A batch of such a model."""

    def __init__(self, model, batch):
        self._model, self._batch = model, batch

    def extend(self, prompts, requests, unfinished):
        found = self._batch.extend(prompts, requests, unfinished)
        self._model.tokens += sum(len(one.token_ids) for one in found.values())
        return found


class Bench:
    """The measurements of one model."""

    def __init__(self, model, options):
        self.model, self.options = model, options
        self._buffers = {}
        self.size = replace(size_of(model.model, model.processor), dtype_bytes=model.model.dtype.itemsize)
        self._noise = np.random.default_rng(0)

    def scoring(self):
        """References about clips of 0.5 to 5 s: in batches, and one by one."""
        options = self.options
        seconds = np.sort(0.5 + 4.5 * self._noise.beta(1, 3, options.clips))  # as augmentation cuts and orders them
        clips = [self._waveform(one) for one in seconds]
        rendered = [self.model.render(ASK, clip, REFERENCE) for clip in clips]
        shapes = [Utterance(s, len(one.prompt_ids), 0, len(one.content_ids))
                  for s, one in zip(seconds, rendered, strict=True)]  # fmt: skip
        work = scoring_work(self.size, shapes)
        tokens = sum(shape.prompt_tokens + shape.answer_tokens for shape in shapes)

        def score(size):
            for start in range(0, len(clips), size):
                self.model.score(rendered[start : start + size], clips[start : start + size])

        calls = {f"batches of {options.batch_size}": lambda: score(options.batch_size), "one by one": lambda: score(1)}
        for how, (taken, peak) in self._timed(calls).items():
            yield Row("score clips", how, taken, len(clips) / taken, tokens / taken, peak, flop=work.flop)

    def decoding(self):
        """Utterances in four cells: in batches and one by one, with a growing cache and with CUDA graphs."""
        options = self.options
        sources = [StreamSource(ASK, self._waveform(s)) for s in self._noise.uniform(3, 8, options.utterances)]
        cells = [DecodingSetting(Rollback(b), k) for k in (1000, 2000) for b in (0, 3)]
        counted = Counted(self.model)

        def decode(way, size):
            self._decode_with(way)
            counted.tokens = 0
            decode_batched(counted, sources, cells, BatchLimits(options.new_tokens, size, options.memory_gb * 1e9))

        captured = GRAPH if options.device == "cuda" else STATIC
        calls = {
            f"{how}, {batching}": functools.partial(decode, how, size)
            for how in (DYNAMIC, captured)
            for batching, size in (("batches of 64", 64), ("one by one", 1))
        }
        for how, (taken, peak) in self._timed(calls).items():
            sessions = len(sources) * len(cells)
            yield Row("decode utterances", how, taken, sessions / taken, counted.tokens / taken, peak)

    def steps(self):
        """One decode step of some rows with about 300 tokens each."""
        for rows in self.options.rows:
            yield from self._steps_of(rows)

    def _steps_of(self, rows):
        options, waveforms = self.options, [self._waveform(9.0) for _ in range(rows)]
        prompts = self.model.encode_prompts([self.model.render_prompt(ASK, one) for one in waveforms], waveforms)
        length = len(prompts[0].embeddings)
        requests = [GenerationRequest(max_new_tokens=options.steps + 1)] * rows
        answers, seconds, peaks = {}, {way: [] for way in self._ways()}, {}
        for way in seconds:
            self._decode_with(way)
            peak = self._peak()
            answers[way] = [one.token_ids for one in self.model.generate(prompts, requests)]  # captures and compiles
            if way == COMPILED:
                self._compile_steps()
                answers[way] = [one.token_ids for one in self.model.generate(prompts, requests)]
            peaks[way] = peak()
            if way != DYNAMIC and not self.model.decoder.static.num_sizes:
                raise SystemExit(f"{rows} rows do not fit into half of --memory-gb {options.memory_gb:g}. Set more.")
        for _ in range(options.rounds):
            for way, taken in seconds.items():
                self._decode_with(way)
                with timed_steps(taken):
                    self.model.generate(prompts, requests)
        self._decode_with(DYNAMIC)
        read = self.size.step_bytes(rows * (length + options.steps / 2))
        for way, taken in seconds.items():
            if different := sum(map(operator.ne, answers[way], answers[DYNAMIC])):
                print(f"decode step, {rows} rows: {different} answers differ between {way} and {DYNAMIC}")
            step = statistics.median(taken)
            yield Row(f"decode step, {rows} rows", way, step, rows / step, rows / step, peaks[way], read_bytes=read)

    def _ways(self):
        graph = [GRAPH] * (self.options.device == "cuda")
        return [DYNAMIC, STATIC, *graph, *[COMPILED] * self.options.compile]

    def _compile_steps(self):
        mode = "reduce-overhead" if self.options.device == "cuda" else "default"
        for buffers in self.model.decoder.static._sizes.values():
            buffers.run = CapturedStep(torch.compile(buffers._step, mode=mode, fullgraph=True))

    def _decode_with(self, way):
        """Decode in one of `_ways` from now on; buffers and graphs of each are kept."""
        decoder = self.model.decoder
        if way != DYNAMIC and way not in self._buffers:
            decoder.use_static_steps(self.options.memory_gb * 1e9, captures=way == GRAPH)
            self._buffers[way] = decoder.static
        decoder.static = self._buffers.get(way)

    def _waveform(self, seconds):
        return (0.1 * self._noise.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)

    def _timed(self, calls):
        """{name: (median seconds, peak memory in GB)}, after a run of each that does not count."""
        peaks = {}
        for name, call in calls.items():
            peak = self._peak()
            call()
            peaks[name] = peak()
        timings = time_in_turns(calls, self.options.rounds)
        return {name: (statistics.median(one.wall for one in taken), peaks[name]) for name, taken in timings.items()}

    def _peak(self):
        """A function that returns the peak of GPU memory since now, in GB; None on a processor."""
        if self.options.device != "cuda":
            return lambda: None
        torch.cuda.reset_peak_memory_stats()
        return lambda: torch.cuda.max_memory_allocated() / 1e9


@contextlib.contextmanager
def timed_steps(seconds):
    """Append the wall time of every decode step inside this context; each ends with tokens on the processor."""
    step = DecodeRows.step

    def timed(rows):
        start = time.perf_counter()
        step(rows)
        seconds.append(time.perf_counter() - start)

    DecodeRows.step = timed
    try:
        yield
    finally:
        DecodeRows.step = step


def markdown(rows, machine):
    """Lines of a table."""
    yield "| what | how | seconds | samples/s | tokens/s | peak GB | of FLOP | of bandwidth |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        numbers = [f"{row.seconds:.3g}", f"{row.samples_per_second:.3g}", f"{row.tokens_per_second:.4g}"]
        numbers.append("" if row.peak_gb is None else f"{row.peak_gb:.1f}")
        numbers += ["" if share is None else f"{share:.0%}" for share in row.shares(machine)]
        yield f"| {row.what} | {row.how} | {' | '.join(numbers)} |"


def report(machine, rows, options):
    """What `--json` writes; shares are those of batched scoring and of the fastest step of the most rows."""
    flop = next(row.shares(machine)[0] for row in rows if row.what == "score clips")
    steps = [row for row in rows if row.what == f"decode step, {max(options.rows)} rows"]
    bandwidth = max(row.shares(machine)[1] for row in steps)
    return {
        "machine": asdict(machine) | {"flop_share": flop, "bandwidth_share": bandwidth},
        "size": options.size,
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    main()
