"""How many tokens an audio takes in the prompt, where LLaMA-Factory counts something else."""

from __future__ import annotations

import functools
from typing import Any

from simulsa_plugin.audio.samples import SAMPLE_RATE


def counting_samples(plugin_class: type) -> type:
    """LLaMA-Factory's Gemma 4 plugin, with every audio read before its tokens are counted.

    LLaMA-Factory 0.9.5 counts them from `len(audio)`. In training `audio` is still a path: the prompt gets as many
    tokens as a sound of a few dozen samples, and the first forward pass fails.
    """
    process_messages = plugin_class.process_messages  # type: ignore[attr-defined]

    @functools.wraps(process_messages)
    def process(self: Any, messages: Any, images: Any, videos: Any, audios: Any, processor: Any) -> Any:
        rate = getattr(processor, "audio_sampling_rate", SAMPLE_RATE)
        waveforms = self._regularize_audios(audios, sampling_rate=rate)["audios"]
        return process_messages(self, messages, images, videos, waveforms, processor)

    plugin_class.process_messages = process  # type: ignore[attr-defined]
    return plugin_class
