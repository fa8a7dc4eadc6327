"""The paper's table (4 chunks × 3 rollbacks, and offline): the streaming engine against SimulEval, in one run.

By hand, where SimulEval 1.1.4 is installed (its pin of tqdm contradicts that of `datasets`, hence no extra):

    pip install --no-deps simuleval==1.1.4 textgrid bitarray tornado yt-dlp
    python tests/bench/bench_streaming.py                            # the packaged model, 200 spoken utterances
    python tests/bench/bench_streaming.py --random-7b --device cuda  # Qwen2-Audio-7B's size, random weights, bf16
    python tests/bench/bench_streaming.py --profile                  # where the engine's time goes, on a CPU

SimulEval drives the same weights one by one through `simuleval_agent`: transformers' `generate`, the full window of the
encoder, no drafts, nothing shared. Predictions and delays of every cell are compared. Then seconds and ratios, in
turns, and how near the engine comes to what the machine could do: the larger of FLOP, attention included, / (rate of a
large matrix product here) and bytes of weights read / (rate of a large copy measured here, read and written bytes).
"""

import argparse
import contextlib
import copy
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from random_model import DEMO, random_config, random_model, random_renderer
from rounds import report, time_call, time_in_turns

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.llamafactory.data.rendering import load_renderer
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone import Backbone
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.machine import copy_rate, matmul_rate
from simulsa_plugin.llamafactory.model.model_size import size_of
from simulsa_plugin.logs.steps import parse_session
from simulsa_plugin.metrics.delays import emission_record
from simulsa_plugin.model.values import Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Offline, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource


def main():
    """Decode with the engine, then with SimulEval; print what was measured."""
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = corpus(folder, options.utterances)
        prompt = Prompt(({"role": "user", "content": rows[0]["messages"][0]["content"]},))
        fast, stock = models(options)
        sources = [StreamSource(prompt, read_mono(row["audios"][0])) for row in rows]
        cells = [
            DecodingSetting(Offline(), None),
            *(DecodingSetting(Rollback(b), k) for k in options.chunks for b in options.rollbacks),
        ]
        print(f"{len(rows)} utterances, {len(cells)} cells, {fast.hardware()}, SimulEval on the same", flush=True)
        if options.profile:
            profile(fast, sources, cells, limits_of(options))
            return
        records = run_engine(fast, rows, sources, cells, options)
        if options.engine_only:
            return
        limits = limits_of(options)
        shared = slice(max(1, round(options.baseline_share * len(rows))))
        different: list[int] = []
        calls = {
            "engine": lambda: decode_batched(fast, sources[shared], cells, limits),
            "SimulEval, one by one": lambda: different.append(
                run_simuleval(fast, stock, rows[shared], prompt, cells, records, folder, options)
            ),
        }
        print(f"{len(rows[shared])} utterances each; instances that differ: ", end="")
        timings = time_in_turns(calls, options.rounds)
        print(sum(different))
        for line in report(timings, "engine"):
            print(line)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--chunks", type=int, nargs="+", default=[500, 1000, 1500, 2000])
    parser.add_argument("--rollbacks", type=int, nargs="+", default=[0, 3, 5])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--random-7b", action="store_true", help="Qwen2-Audio-7B's configuration, random weights, bf16")
    parser.add_argument("--layers", type=int, help="of the random model's encoder and language model: fewer, to try it")
    parser.add_argument("--baseline-share", type=float, default=1.0, help="share of the utterances for the comparison")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison, in turns")
    parser.add_argument("--engine-only", action="store_true")
    parser.add_argument("--profile", action="store_true", help="of the engine alone: seconds by kind of operation")
    return parser.parse_args()


def corpus(folder, count):
    """Rows of the embedded test set, spoken anew."""
    write_demo_corpus(folder, rows=0, test_rows=count)
    return [json.loads(line) for line in (folder / f"{TEST_NAME}.jsonl").read_text(encoding="utf-8").splitlines()]


def models(options):
    """The same weights twice: as the engine uses them, and as transformers has them."""
    if not options.random_7b:
        fast = load_backbone(inference_arguments(DEMO))
        stock = load_backbone(inference_arguments(DEMO))
        return fast, Backbone(stock.model, load_renderer(inference_arguments(DEMO)), adapts=False)
    model = random_model(random_config(layers=options.layers), torch.bfloat16, options.device)
    renderers = [random_renderer() for _ in range(2)]
    # One set of weights serves both: what the engine puts around the encoder's forward is of the copy alone.
    other = copy.copy(model)
    other._modules = {**model._modules, "audio_tower": copy.copy(model.audio_tower)}
    return Backbone(other, renderers[0]), Backbone(model, renderers[1], adapts=False)


def run_engine(model, rows, sources, cells, options):
    """Records by cell; prints seconds, memory, passes and the share of the bound."""
    limits = limits_of(options)
    with counting(model) as work:
        decode_batched(model, sources, cells, limits)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sessions = []
    timing = time_call(lambda: sessions.extend(decode_batched(model, sources, cells, limits)))
    flop_seconds, byte_seconds = bounds(model, work, options.device)
    print(
        f"engine: {timing.wall:.2f} s, {timing.cpu:.2f} s of processor time; {work['passes']} passes of the language "
        f"model over {work['tokens']} tokens, {work['clips']} clips encoded"
    )
    print(
        f"bound: {flop_seconds:.2f} s by FLOP, {byte_seconds:.2f} s by bytes of weights; "
        f"the engine reaches {max(flop_seconds, byte_seconds) / timing.wall:.0%} of it; load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    if options.device == "cuda":
        print(f"memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB at most")
    return [
        [
            emission_record(
                list(parse_session(step_rows("", session.steps, model.decode))),
                i,
                row["messages"][1]["content"],
                row["audios"][0],
                "word",
            )
            for i, (session, row) in enumerate(zip(of_cell, rows, strict=True))
        ]
        for of_cell in sessions
    ]


KINDS = {
    "matrix products and convolutions": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "_softmax"),
    "copies of keys, values and rows": ("index_select", "index", "copy_", "cat", "gather", "_index_put_impl_"),
    "spectra of audio": ("_fft_r2c", "abs", "log10", "hann_window"),
}  # names of PyTorch's operators; what is not named is elementwise or a reduction


def profile(model, sources, cells, limits):
    """Print processor seconds by kind of operation, and in the parts of the engine; the profiler slows it down."""
    with counting(model) as work:
        decode_batched(model, sources, cells, limits)
    timing = time_call(lambda: decode_batched(model, sources, cells, limits))
    bound = bounds(model, work, "cpu")[0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        decode_batched(model, sources, cells, limits)
    by_kind = dict.fromkeys(KINDS, 0.0) | {"other operations on tensors": 0.0}
    for operation in profiler.key_averages():
        name = operation.key.removeprefix("aten::")
        kind = next((kind for kind, names in KINDS.items() if name in names), "other operations on tensors")
        by_kind[kind] += operation.self_cpu_time_total / 1e6
    by_kind["Python"] = timing.cpu - sum(by_kind.values())
    print(
        f"{timing.cpu:.2f} s of processor time, of which the bound by FLOP is {bound:.2f} s ({bound / timing.cpu:.0%});"
    )
    print(f"{work['passes']} passes over {work['tokens']} tokens, {work['computed'] - work['tokens']} more of padding")
    for kind, seconds in sorted(by_kind.items(), key=lambda one: -one[1]):
        print(f"{seconds:8.2f} s {seconds / timing.cpu:4.0%}  {kind}")


def limits_of(options):
    """Limits of a batch."""
    return BatchLimits(options.max_new_tokens, options.batch_size, options.memory_gb * 1e9)


@contextlib.contextmanager
def counting(model):
    """Count passes of the language model and the FLOP that the results need: padding is left out, attention is not."""
    size = size_of(model.model, model.processor)
    work = dict.fromkeys(("passes", "tokens", "computed", "clips", "flop"), 0)
    hidden, embed, most_probable = model.decoder.hidden_states, model._adapter.embed, model.decoder.most_probable

    def counted_hidden(embeddings, mask, places, cache):
        tokens = embeddings.shape[1]
        visible = mask[:, 0] == 0
        real = visible[:, :, -tokens:].diagonal(dim1=1, dim2=2)  # padding does not see itself
        work["passes"] += 1
        work["computed"] += embeddings.shape[0] * tokens
        work["tokens"] += int(real.sum())
        layers = size.language_model
        work["flop"] += 2 * layers.parameters * int(real.sum())
        work["flop"] += 4 * layers.count * layers.width * int(visible[real].sum())
        return hidden(embeddings, mask, places, cache)

    def counted_embed(waveforms):
        work["clips"] += len(waveforms)
        work["flop"] += sum(size.encoding_flop(len(waveform) / SAMPLE_RATE) for waveform in waveforms)
        return embed(waveforms)

    def counted_predictions(positions):
        work["flop"] += 2 * size.output_parameters * len(positions)
        return most_probable(positions)

    model.decoder.hidden_states, model._adapter.embed = counted_hidden, counted_embed
    model.decoder.most_probable = counted_predictions
    try:
        yield work
    finally:
        del model.decoder.hidden_states, model._adapter.embed, model.decoder.most_probable


def bounds(model, work, device):
    """Seconds that the work takes at least, by arithmetic and by reading weights once in every pass."""
    size = size_of(model.model, model.processor)
    # Processors may be quicker in fp32 than in the model's own format.
    dtypes = {model.model.dtype} if device == "cuda" else {model.model.dtype, torch.float32}
    flop_rate = max(matmul_rate(dtype, device) for dtype in dtypes)
    element_size = next(model.model.parameters()).element_size()
    return work["flop"] / flop_rate, size.language_model.parameters * element_size * work["passes"] / copy_rate(device)


def run_simuleval(fast, stock, rows, prompt, cells, records, folder, options):
    """Decode the same cells through SimulEval; how many instances differ in prediction or delays."""
    from simuleval_agent import RollbackAgent

    (folder / "source.txt").write_text("".join(f"{row['audios'][0]}\n" for row in rows), encoding="utf-8")
    (folder / "target.txt").write_text("".join(f"{row['messages'][1]['content']}\n" for row in rows), encoding="utf-8")
    different = 0
    for number, (cell, expected) in enumerate(zip(cells, records, strict=True)):
        RollbackAgent.configure(stock, fast, prompt, getattr(cell.policy, "rollback", 0), options.max_new_tokens)
        out = folder / f"simuleval_{number}"
        simuleval(RollbackAgent, folder, out, cell.chunk_ms or 10**6)
        found = [json.loads(line) for line in (out / "instances.log").read_text(encoding="utf-8").splitlines()]
        for row, record in zip(found, expected, strict=False):
            different += (row["prediction"], row["delays"]) != (record.prediction, list(record.delays))
        shutil.rmtree(out)  # SimulEval would continue it in the next round
    return different


def simuleval(agent, folder, out, chunk_ms):
    """SimulEval's own loop over the test set, without its scoring."""
    from simuleval.evaluator import build_evaluator
    from simuleval.utils.agent import build_system_args

    before, sys.argv = sys.argv, sys.argv[:1]
    try:
        words = {"source": folder / "source.txt", "target": folder / "target.txt", "output": out,
                 "source-segment-size": chunk_ms, "no-scoring": True, "no-progress-bar": True,
                 "quality-metrics": "BLEU", "latency-metrics": "LAAL"}  # fmt: skip
        from simuleval.utils import EVALUATION_SYSTEM_LIST

        EVALUATION_SYSTEM_LIST[:] = [agent]
        system, args = build_system_args(words, None)
        build_evaluator(args)(system)
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
