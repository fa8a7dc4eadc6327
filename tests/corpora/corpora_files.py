"""Corpora in their real forms, made for tests: texts as bytes, and audio whose content tells where it comes from."""

from pathlib import Path

import numpy as np
import soundfile

from simulsa_plugin.corpora.forms import FORMS
from simulsa_plugin.corpora.paths import AudioFinder
from simulsa_plugin.corpora.utterance import Request


def noise(seconds, rate=16_000, channels=1, seed=0):
    """Noise (num_samples, channels): no two parts of it are alike."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    return samples.astype(np.float32)


def write_audio(path, seconds=1.0, rate=16_000, channels=1, seed=0):
    """A sound file of noise, in the format of its suffix (wav, flac, mp3, ogg by libsndfile; m4a by PyAV)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = noise(seconds, rate, channels, seed)
    if path.suffix == ".m4a":
        write_m4a(path, samples, rate)
    else:
        soundfile.write(path, samples, rate)
    return path


def write_m4a(path, samples, rate):
    """AAC in MP4, as Europarl-ST has it."""
    import av

    with av.open(str(path), "w", format="ipod") as container:
        layout = "mono" if samples.shape[1] == 1 else "stereo"
        stream = container.add_stream("aac", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_text(path, text, *, bom=False, crlf=False):
    """UTF-8 text as it stands; with a byte order mark or Windows line ends where asked for."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = text.replace("\n", "\r\n") if crlf else text
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    return path


def read(corpus, folder, *splits, audio=None, source="en", target="de", columns=None):
    """What the reader of a form gives, as a list."""
    folder = Path(folder)
    request = Request(folder, splits, AudioFinder(folder, audio).find, source, target, columns)
    return list(FORMS[corpus].read(request))
