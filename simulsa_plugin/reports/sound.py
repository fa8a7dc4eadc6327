"""Audio inside a page: MP3 as a data address, which every browser plays."""

from __future__ import annotations

import base64
import io

from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform

COMPRESSION = 0.8  # of libsndfile's MP3 encoder, 0 to 1: about 2 kB for a second of speech


def audio_address(waveform: Waveform) -> str:
    """Return a waveform (num_samples,) at 16 kHz as the address of an <audio> element."""
    import soundfile

    encoded = io.BytesIO()
    with soundfile.SoundFile(
        encoded, "w", SAMPLE_RATE, 1, format="MP3", subtype="MPEG_LAYER_III", compression_level=COMPRESSION
    ) as file:
        file.write(waveform)
    return f"data:audio/mpeg;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
