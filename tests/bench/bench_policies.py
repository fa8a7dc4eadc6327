"""What each policy costs: seconds of processor time for the same utterances and chunks, with the packaged model.

    python tests/bench/bench_policies.py

`watched` says what rollback 0 says, and looks at attention for nothing: the difference is the price of looking.
"""

import argparse
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_streaming import DEMO, corpus
from rounds import report, time_call, time_in_turns

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.model.values import Prompt
from simulsa_plugin.streaming.engine import DecodingSetting, choose_alignment_heads, decode_batched
from simulsa_plugin.streaming.policies import (
    AgreementOrConfidence,
    Attention,
    Confidence,
    LocalAgreement,
    Rollback,
)
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource


@dataclass(frozen=True)
class Watched(Attention):
    """Never stops."""

    def min_audio_ahead(self, session):
        """No audio is recent."""
        return 0.0


POLICIES = {
    "rollback 0": Rollback(0), "watched": Watched(320), "attention": Attention(320), "confidence": Confidence(0.97),
    "confidence, window of 3": Confidence(0.97, 3), "rollback 3": Rollback(3),
    "agreement_or_confidence": AgreementOrConfidence(2, 0.97), "local_agreement": LocalAgreement(2),
}  # fmt: skip


def main():
    """Decode with each policy alone, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_backbone(inference_arguments(DEMO))
    with tempfile.TemporaryDirectory() as folder:
        rows = corpus(Path(folder), options.utterances)
        prompt = Prompt(({"role": "user", "content": rows[0]["messages"][0]["content"]},))
        sources = [StreamSource(prompt, read_mono(row["audios"][0])) for row in rows]
    cells = {name: DecodingSetting(policy, options.chunk) for name, policy in POLICIES.items()}
    finding = time_call(lambda: choose_alignment_heads(model, list(cells.values()), lambda: sources[:8]))
    print(f"finding heads: {finding.cpu:.2f} s of processor time")
    decode_batched(model, sources[:3], list(cells.values()), BatchLimits(64))  # warm-up
    calls = {
        name: functools.partial(decode_batched, model, sources, [cell], BatchLimits(64)) for name, cell in cells.items()
    }
    for line in report(time_in_turns(calls, options.rounds), "rollback 0"):
        print(line)


if __name__ == "__main__":
    main()
