"""Corpora in their real forms, made for tests: texts as bytes, and audio whose content tells where it comes from."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from simulsa_plugin.corpora.formats.registry import FORMATS
from simulsa_plugin.corpora.paths import AudioFinder
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, EncodedAudio
from simulsa_plugin.errors import DatasetError


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


def read(corpus, folder, *splits, audio=None, source="en", target="de", columns=None, **files):
    """What the reader of a form gives, as a list."""
    folder = Path(folder)
    request = CorpusRequest(folder, splits, AudioFinder(folder, audio).find, source, target, columns, **files)
    return list(FORMATS[corpus].read(request))


def rows(corpus, folder, *splits, **settings):
    """What `read` gives, short: (id, audio relative to the corpus, span, translation), or (id, reason)."""
    folder = Path(folder)
    above = folder if folder.is_dir() else folder.parent
    return [_short(row, above) for row in read(corpus, folder, *splits, **settings)]


def _short(row, above):
    if isinstance(row, Dropped):
        return row.id, row.reason
    audio = (row.audio.data, row.audio.suffix) if isinstance(row.audio, EncodedAudio) else _relative(row.audio, above)
    span = row.span and (row.span.start_seconds, row.span.end_seconds)
    if row.span and row.span.channel is not None:
        span = (*span, row.span.channel)
    return row.id, audio, span, row.translation


def _relative(path, above):
    return str(path.relative_to(above)) if path.is_relative_to(above) else str(path)


def refusal(action, *arguments, error=DatasetError, **settings):
    """The message with which something is refused; it is one line."""
    with pytest.raises(error) as caught:
        action(*arguments, **settings)
    assert isinstance(caught.value, error)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 2000
    return message


def read_refusal(corpus, folder, *splits, **settings):
    """The message with which a form refuses a corpus."""
    return refusal(read, corpus, folder, *splits, **settings)


def row_refusal(corpus, folder, *splits, **settings):
    """The cause with which a form drops the one row that has a cause; it is one line."""
    (row,) = [row for row in read(corpus, folder, *splits, **settings) if isinstance(row, Dropped) and row.cause]
    assert len(row.cause.splitlines()) == 1 and len(row.cause) < 2000
    return row.cause


def jsonl(*objects):
    return "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in objects)


# Forms whose rows have times.
WITH_TIMES = ("mustc", "longform", "europarl_st", "kaldi", "nemo", "lhotse", "table", "table of JSON")


def write_one(form, folder, audio="a.wav", start=0, length=1):
    """A corpus of one utterance, called "Ja.", in any form: what its manifest says of the audio, as it stands there.

    Texts stand in JSON as text, and in other manifests without quotes; an end is the start and `length`, or `length`.

    Returns:
        (name of the form, the corpus, its splits, the manifest's line that names the audio).
    """
    folder = Path(folder)
    both = isinstance(start, (int, float)) and isinstance(length, (int, float))
    end = start + length if both else length
    if form == "covost2":
        write_text(folder / "covost_v2.en_de.tsv", f"path\ttranslation\tsplit\n{audio}\tJa.\ttrain\n")
        write_text(folder / "validated.tsv", f"client_id\tpath\tsentence\nx\t{audio}\tYes.\n")
        return form, folder, ("train",), f"{folder / 'covost_v2.en_de.tsv'}, line 2: "
    if form in ("mustc", "longform"):
        times, whole = f"duration: {length}, offset: {start}", form == "longform"
        text = folder if whole else folder / "data/train/txt"
        write_text(text / "train.yaml", f"- {{{times}, wav: {json.dumps(audio)}}}\n")
        write_text(text / "train.de", "Ja.\n")
        return form, folder, () if whole else ("train",), f"{text / 'train.yaml'}, line 1: "
    if form == "fleurs":
        for language, sentence in (("en", "Yes."), ("de", "Ja.")):
            write_text(folder / language / "train.tsv", f"7\t{audio}\t{sentence}\tx\tx\t16000\tFEMALE\n")
        return form, folder, ("train",), f"{folder / 'en/train.tsv'}, line 1: "
    if form == "europarl_st":
        text = folder / "en/de/train"
        write_text(text / "segments.lst", f"{audio} {start} {end}\n")
        write_text(text / "segments.de", "Ja.\n")
        return form, folder, ("train",), f"{text / 'segments.lst'}, line 1: "
    if form == "kaldi":
        write_text(folder / "wav.scp", f"r {audio}\n")
        write_text(folder / "segments", f"u r {start} {end}\n")
        write_text(folder / "text", "u Ja.\n")
        return form, folder, (), f"{folder / 'wav.scp'}, line 1: "
    if form == "nemo":
        row = {"audio_filepath": audio, "offset": start, "duration": length, "text": "Ja."}
        return form, write_text(folder / "a.json", jsonl(row)), (), f"{folder / 'a.json'}, line 1: "
    if form == "lhotse":
        row = {
            "id": "c", "start": start, "duration": length, "channel": 0, "type": "MonoCut",
            "supervisions": [{"id": "s", "recording_id": "r", "start": 0.0, "duration": length, "channel": 0,
                              "custom": {"translation": "Ja."}}],
            "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": audio}],
                          "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]},
        }  # fmt: skip
        return form, write_text(folder / "a.jsonl", jsonl(row)), (), f"{folder / 'a.jsonl'}, line 1: "
    if form == "table of JSON":
        row = {"audio": audio, "start": start, "duration": length, "translation": "Ja."}
        return "table", write_text(folder / "a.jsonl", jsonl(row)), (), f"{folder / 'a.jsonl'}, line 1: "
    text = f"audio\tstart\tduration\ttranslation\n{audio}\t{start}\t{length}\tJa.\n"
    return "table", write_text(folder / "a.tsv", text), (), f"{folder / 'a.tsv'}, line 2: "
