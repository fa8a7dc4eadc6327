"""Qwen2-Audio's encoder at its real width: the whole window against a window as short as the audio.

    python tests/bench/bench_encoder.py [--layers N] [--device cuda]

By hand; prints seconds, ratios and the largest difference for several lengths, measured in turns.
"""

import argparse
import functools

import numpy as np
import torch
from rounds import report, time_in_turns
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask

from simulsa_plugin.llamafactory.model.audio_encoder import Qwen2AudioAdapter

RATE = 16_000


def main():
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="the published model has 32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = Qwen2AudioEncoder(Qwen2AudioEncoderConfig(encoder_layers=options.layers)).eval().to(options.device)
    print(f"{options.layers} layers, 1280 wide, fp32, {options.device}, {torch.get_num_threads()} threads")
    for seconds in (1, 3, 5, 10, 30):
        compare(encoder, seconds, options.rounds)


@torch.inference_mode()
def compare(encoder, seconds, rounds):
    """One length: transformers' forward over 30 s, then the adapter's."""
    extractor = WhisperFeatureExtractor(feature_size=128)
    waveform = (0.1 * np.random.default_rng(0).standard_normal(seconds * RATE)).astype(np.float32)
    made = extractor([waveform], sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
    features, frames = made["input_features"].to(encoder.device), int(made["attention_mask"].sum())
    window = encoder.config.max_source_positions
    valid = (torch.arange(window, device=encoder.device) < (frames - 1) // 2 + 1).long()[None]
    embeds = torch.zeros((1, window, 1), device=encoder.device)
    mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=embeds, attention_mask=valid)
    plain = type(encoder).forward

    def whole():
        return plain(encoder, features, attention_mask=mask).last_hidden_state[0]

    model = type("Model", (), {"audio_tower": encoder, "multi_modal_projector": torch.nn.Identity(),
                               "language_model": type("Text", (), {"model": None})})  # fmt: skip
    adapter = Qwen2AudioAdapter(model, type("Processor", (), {"feature_extractor": extractor}))
    expected, (found,) = whole(), adapter.embed([waveform])
    difference = float((found - expected[: len(found)]).abs().max() / expected[: len(found)].abs().max())
    print(f"{seconds} s of audio; largest relative difference {difference:.1e}")
    calls = {"short, with its features": lambda: adapter.embed([waveform]), "whole": whole}
    calls = {name: functools.partial(finished, call, encoder.device) for name, call in calls.items()}
    for line in report(time_in_turns(calls, rounds), "short, with its features"):
        print(line)


def finished(call, device):
    """Call, and wait for the device."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
