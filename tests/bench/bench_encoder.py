"""Qwen2-Audio's encoder at its real width: the whole window against a window as short as the audio.

    python tests/bench/bench_encoder.py [--layers N] [--device cuda]

By hand; prints seconds, ratio and the largest difference for several lengths, measured side by side.
"""

import argparse
import time

import numpy as np
import torch
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask

from simulsa_plugin.llamafactory.model.audio_encoder import Qwen2AudioAdapter

RATE = 16_000


def main():
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="the published model has 32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = Qwen2AudioEncoder(Qwen2AudioEncoderConfig(encoder_layers=options.layers)).eval().to(options.device)
    print(f"{options.layers} layers, 1280 wide, fp32, {options.device}, {torch.get_num_threads()} threads")
    for seconds in (1, 3, 5, 10, 30):
        compare(encoder, seconds)


@torch.inference_mode()
def compare(encoder, seconds):
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
    long_seconds, expected = best(whole, encoder.device)
    short_seconds, (found,) = best(lambda: adapter.embed([waveform]), encoder.device)
    difference = float((found - expected[: len(found)]).abs().max() / expected[: len(found)].abs().max())
    print(
        f"{seconds:>3} s of audio: {long_seconds:.3f} s whole, {short_seconds:.3f} s short with its features, "
        f"{long_seconds / short_seconds:.1f} times; largest relative difference {difference:.1e}"
    )


def best(function, device, times=3):
    """(seconds of the quickest of several calls, what it returned)."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        result = function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found), result


if __name__ == "__main__":
    main()
