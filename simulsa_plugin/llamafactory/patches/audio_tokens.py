"""Correct number of audio tokens for Gemma 4, which LLaMA-Factory 0.9.5 counts from the length of a path.

Delete this module when LLaMA-Factory's `Gemma4Plugin` reads audio before it counts.
"""

from __future__ import annotations

import functools
from typing import Any

from simulsa_plugin.audio.samples import SAMPLE_RATE


def read_audio_before_counting(plugin_class: type) -> type:
    """Let LLaMA-Factory's Gemma 4 plugin read audio before it counts its tokens.

    It counts them from `len(audio)`. In training `audio` is still a path, so the prompt gets the tokens of a few dozen
    samples, and the first forward pass fails.
    """
    process_messages = plugin_class.process_messages  # type: ignore[attr-defined]

    @functools.wraps(process_messages)
    def process(self: Any, messages: Any, images: Any, videos: Any, audios: Any, processor: Any) -> Any:
        rate = getattr(processor, "audio_sampling_rate", SAMPLE_RATE)
        waveforms = self._regularize_audios(audios, sampling_rate=rate)["audios"]
        return process_messages(self, messages, images, videos, waveforms, processor)

    plugin_class.process_messages = process  # type: ignore[attr-defined]
    return plugin_class
