"""The packaged model with clips of its test set, and decode steps on static buffers."""

import contextlib

import numpy as np
import pytest

from helpers.tiny_models import missing_package, write_checkpoint
from simulsa_plugin.audio.samples import from_pcm16, to_pcm16
from simulsa_plugin.demo.corpus import iterate_utterances
from simulsa_plugin.demo.grammar import PROMPT
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone
from simulsa_plugin.llamafactory.model.static_step import StaticSteps
from simulsa_plugin.model.values import Prompt

RECIPE = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
ASK = Prompt(({"role": "user", "content": PROMPT},))


def packaged_model():
    """The packaged model with two attention heads set."""
    loaded = load_backbone(inference_arguments(RECIPE))
    loaded.set_alignment_heads(((1, 1), (2, 2)))
    return loaded


def spoken(count):
    """The first utterances of the embedded test set, (num_samples,) each."""
    return [from_pcm16(to_pcm16(utterance.waveform)) for utterance in iterate_utterances("test", count)]


def tiny_model(template, attention, folder):
    """A random model of an architecture with this implementation of attention, and encoded prompts about four clips."""
    if missing_package(template):
        pytest.skip(f"needs {missing_package(template)}")
    path = write_checkpoint(template, folder / "model")
    loaded = load_backbone(inference_arguments({"model_name_or_path": str(path), "template": template}))
    loaded.decoder._decoder.config._attn_implementation = attention
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (9000, 16_000, 30_000, 50_000)]
    return loaded, loaded.encode_prompts([loaded.render_prompt(ASK, clip) for clip in clips], clips)


@contextlib.contextmanager
def static_steps(decoder, max_bytes=1e9):
    """Decode on static buffers inside this context, without CUDA."""
    decoder.static = StaticSteps(decoder, max_bytes, captures=False)
    try:
        yield decoder.static
    finally:
        decoder.static = None
