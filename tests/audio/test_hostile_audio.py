"""Files that are broken, hostile or behind a failing disk: a reason for each, and nothing outside the file is read."""

import errno
import io
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from simulsa_plugin.audio import checks, decoding, recordings
from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.recordings import Span, audio_info, read_parts
from simulsa_plugin.audio.samples import to_pcm16
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.placement import place_audio
from simulsa_plugin.corpora.utterance import Utterance
from simulsa_plugin.errors import AudioError, StorageError

RATE = 16_000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
COMPILER = shutil.which("cc") or shutil.which("gcc")


def wav(samples=NOISE, rate=RATE, channels=1, bits=16, tag=1):
    data = to_pcm16(samples).tobytes()
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    head = struct.pack("<4sI8sI", b"RIFF", 36 + len(data), b"WAVEfmt ", 16)
    return head + form + struct.pack("<4sI", b"data", len(data)) + data


def sound(form, samples=NOISE, subtype=None):
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, RATE, format=form, subtype=subtype)
    return encoded.getvalue()


def flac_of(total, rate=RATE, channels=1):
    """FLAC whose STREAMINFO claims `total` samples: 20 bits of rate, 3 of channels − 1, 5 of bits − 1, 36 of total."""
    content = bytearray(sound("FLAC"))
    content[18:26] = (rate << 44 | channels - 1 << 41 | 15 << 36 | total).to_bytes(8, "big")
    return bytes(content)


def with_value(value, at):
    samples = NOISE.copy()
    samples[at] = value
    return sound("WAV", samples, "FLOAT")


def m4a():
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(NOISE[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return encoded.getvalue()


# Samples of 655350 Hz in 8 channels for nearly 6 hours would take 415 GiB.
HUGE = flac_of(int(655_350 * 3600 * 5.9), 655_350, 8)
BAD = {
    "tag.wav": (wav(tag=99), "broken"),
    "bits.wav": (wav(bits=0), "broken"),
    "header.flac": (HUGE[:42], "empty broken"),
    "half.flac": (sound("FLAC")[:15_000], "broken"),
    "long.flac": (flac_of(RATE * 36_000), "too_long"),
    "rate 0.wav": (wav(rate=0), "broken"),
    "rate 1.wav": (wav(rate=1), "broken"),
    "rate 10M.wav": (wav(rate=10_000_000), "broken"),
    "channels 0.wav": (wav(channels=0), "broken"),
    "channels 65535.wav": (wav(channels=65_535), "broken"),
    "samples.raw": (NOISE.tobytes(), "broken"),
    "page.wav": (b"<html>404</html>", "broken"),
    "half.m4a": (m4a()[:4000], "broken"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_reason_by_every_reader(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    for read in (read_mono, audio_info):
        with pytest.raises(AudioError) as caught:
            read(tmp_path / name)
        assert caught.value.reason in reason.split()
        assert name in str(caught.value)
    try:
        parts = [part for _, part in read_parts(tmp_path / name, [Span(0.0, None), Span(0.9, 1.0)])]
    except AudioError as error:
        parts = [error]
    # Where its own part of a file is whole, an utterance has it; the one of the whole file has nothing.
    assert isinstance(parts[0], AudioError)


def test_a_header_that_claims_too_much_costs_no_memory(tmp_path):
    (tmp_path / "a.flac").write_bytes(HUGE)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        assert len(read_mono(tmp_path / "a.flac")) == RATE  # FFmpeg believes the frames, and there is a second of them
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert audio_info(tmp_path / "a.flac") == recordings.AudioInfo(1.0, 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_nan_in_the_middle_takes_the_whole_and_the_parts_that_hold_it(tmp_path, value):
    path = tmp_path / "a.wav"
    path.write_bytes(with_value(value, 8000))
    with pytest.raises(AudioError, match=r"a\.wav: holds NaN or infinite"):
        read_mono(path)
    assert audio_info(path).problem == "broken"
    parts = dict(read_parts(path, [Span(0.0, 0.4), Span(0.4, 0.6), Span(0.6, None)]))
    assert [getattr(parts[number], "reason", "read") for number in range(3)] == ["read", "broken", "read"]
    layout = CorpusLayout(tmp_path / "out", "toy")
    spans = [None, Span(0.0, 0.4), Span(0.4, 0.6)]
    placed = place_audio([Utterance(str(number), path, span, "Satz") for number, span in enumerate(spans)], layout, 1)
    assert [one.reason for one in placed] == ["broken", "", "broken"]


def test_values_of_all_channels_that_overflow_when_they_are_added_are_broken(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((RATE, 2), 3e38, dtype=np.float32), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        read_mono(tmp_path / "a.wav")


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_what_is_held_at_once_is_limited_in_samples_of_all_channels(tmp_path, monkeypatch, form):
    path = tmp_path / "a.audio"
    path.write_bytes(sound(form, np.tile(NOISE, (2, 3)).T))
    monkeypatch.setattr(checks, "MAX_VALUES", 2 * RATE * 5 // 2)
    monkeypatch.setattr(decoding, "_BLOCK_VALUES", 4000)
    with pytest.raises(AudioError, match="million samples in all channels") as caught:
        read_mono(path)
    assert caught.value.reason == "too_long"
    assert audio_info(path).problem == "too_long"
    parts = dict(read_parts(path, [Span(0.0, 0.5), Span(0.0, None), Span(0.5, 1.9)]))
    assert [getattr(parts[number], "reason", "read") for number in range(3)] == ["read", "too_long", "read"]


# ---------------------------------------------------------------------------------------- what is not a regular file


def test_a_folder_a_pipe_and_a_device_are_not_waited_for(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    for name in ("folder.wav", "pipe.wav", "zero.wav"):
        for read in (read_mono, audio_info, lambda path: list(read_parts(path, [Span()]))):
            with pytest.raises(AudioError, match=f"{name}: is not a regular file") as caught:
                read(tmp_path / name)
            assert caught.value.reason == "missing"


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.wav")
    monkeypatch.setattr(checks, "check_file", lambda path: None)
    with pytest.raises((AudioError, StorageError)):
        read_mono(tmp_path / "pipe.wav")


# ------------------------------------------------------------------------------------------------- nothing but itself


@pytest.fixture
def outside(tmp_path):
    """A file beside the corpus, which no name in the corpus may reach."""
    (tmp_path / "corpus").mkdir()
    with av.open(str(tmp_path / "secret.aac"), "w", format="adts") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.tile(NOISE, 3)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return tmp_path / "secret.aac"


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "list.txt": "ffconcat version 1.0\nfile '{}'\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '../secret.aac'\n",
    "list.m3u": "{}\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT3S"><Period><AdaptationSet mimeType="audio/aac"><Representation id="0" '
    'bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_is_refused_and_what_it_names_is_not_read(outside, monkeypatch, name, renamed):
    monkeypatch.chdir(outside.parent)
    path = Path("corpus", "a.wav" if renamed else name)
    path.write_text(PLAYLISTS[name].format(outside.name if "concat" in PLAYLISTS[name] else outside))
    for read in (read_mono, audio_info, lambda path: list(read_parts(path, [Span()]))):
        with pytest.raises(AudioError) as caught:
            read(path)
        assert caught.value.reason == "broken"
    with path.open("rb") as handle, pytest.raises(AudioError):
        read_mono(handle)


def test_ffmpeg_itself_would_read_it(outside, monkeypatch):
    monkeypatch.chdir(outside.parent)
    Path("corpus/list.m3u8").write_text(PLAYLISTS["list.m3u8"].format(outside))
    with av.open("file:corpus/list.m3u8") as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 3 * RATE


@pytest.mark.parametrize(
    "name", ["concat:secret.aac", "subfile,,start,0,end,0,,:secret.aac", "crypto:secret.aac", "%d.png", "%d.%d", "-"]
)
def test_a_name_is_a_name_whatever_ffmpeg_makes_of_it(outside, monkeypatch, name):
    monkeypatch.chdir(outside.parent)
    with pytest.raises(AudioError) as caught:
        read_mono(name)
    assert caught.value.reason == "missing"
    Path(name).write_bytes(m4a())
    assert len(read_mono(name)) >= RATE


def test_a_stream_that_its_header_does_not_announce_is_no_crash(tmp_path):
    # PyAV copies options for as many streams as it finds, into room for as many as the header has announced.
    with av.open(str(tmp_path / "a.flv"), "w", format="flv") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.tile(NOISE, 3)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert len(read_mono(tmp_path / "a.flv")) >= RATE


# -------------------------------------------------------------------------------------------------- a failing disk


def test_too_many_open_files_are_not_a_broken_file(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav())
    read_mono(tmp_path / "a.wav")
    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(tmp_path / "a.wav", os.O_RDONLY))
        for read in (read_mono, audio_info, lambda path: list(read_parts(path, [Span()]))):
            with pytest.raises(StorageError, match=r"Cannot read .*a\.wav: Too many open files.* start again"):
                read(tmp_path / "a.wav")
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM, errno.ENFILE])
def test_a_file_whose_state_cannot_be_told_is_not_missing(tmp_path, monkeypatch, number):
    def fail(self, **_):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(StorageError, match=f"Cannot read .*a.wav: {os.strerror(number)}"):
        read_mono(tmp_path / "a.wav")


FAILING_READ = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
ssize_t read(int file, void *bytes, size_t count) {
  static ssize_t (*real)(int, void *, size_t);
  char link[64], path[4096];
  ssize_t length;
  off_t place = lseek(file, 0, SEEK_CUR);
  if (!real) real = dlsym(RTLD_NEXT, "read");
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  length = readlink(link, path, sizeof path - 1);
  if (length > 0 && place >= atol(getenv("FAIL_AT"))) {
    path[length] = 0;
    if (strstr(path, "/failing.")) { errno = atoi(getenv("FAIL_WITH")); return -1; }
  }
  return real(file, bytes, count);
}
"""
READ_ALL = """
import sys
from pathlib import Path
from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.errors import StorageError
from simulsa_plugin.audio.recordings import Span, audio_info, read_parts
for name in sys.argv[1:]:
    for read in (read_mono, audio_info, lambda path: list(read_parts(path, [Span(0, 0.1), Span(0.9, None)]))):
        try:
            read(Path(name))
            print(Path(name).name, "read")
        except StorageError as error:
            print(Path(name).name, "stopped", error)
        except Exception as error:
            print(Path(name).name, "taken for broken", error)
"""


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler: the system call itself fails")
@pytest.mark.parametrize(("number", "at"), [(errno.EIO, 0), (errno.EIO, 4096), (errno.ESTALE, 4096)])
def test_a_disk_that_fails_while_it_is_read_is_not_a_broken_file(tmp_path, number, at):
    (tmp_path / "read.c").write_text(FAILING_READ)
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", tmp_path / "read.so", tmp_path / "read.c", "-ldl"], check=True)
    contents = {form.lower(): sound(form) for form in ("WAV", "FLAC", "OGG", "MP3", "CAF", "W64", "AIFF")}
    contents |= {"opus": sound("OGG", subtype="OPUS"), "m4a": m4a()}
    for suffix, content in contents.items():
        (tmp_path / f"failing.{suffix}").write_bytes(content)
    environment = os.environ | {
        "LD_PRELOAD": str(tmp_path / "read.so"),
        "FAIL_AT": str(at),
        "FAIL_WITH": str(number),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    files = [str(tmp_path / f"failing.{suffix}") for suffix in contents]
    done = subprocess.run([sys.executable, "-c", READ_ALL, *files], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(contents)
    read = [line for line in lines if line.endswith("read")]
    # The header of a WAV and its like says all that `audio_info` asks.
    assert all(line.split(".")[1].split()[0] in ("wav", "w64", "aiff", "caf") for line in read), read
    assert len(read) <= 4
    assert all("stopped Cannot read" in line and os.strerror(number) in line for line in set(lines) - set(read)), lines


def test_a_failing_disk_stops_a_corpus_and_drops_no_utterance(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(wav())

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(decoding, "open", fail, raising=False)
    rows = [Utterance(str(end), tmp_path / "a.wav", Span(0.0, end), "Satz") for end in (0.5, None)]
    with pytest.raises(StorageError, match="Input/output error"):
        place_audio(rows, CorpusLayout(tmp_path / "out", "toy"), 1)
    monkeypatch.undo()
    placed = place_audio(rows, CorpusLayout(tmp_path / "out", "toy"), 1)
    assert [one.seconds for one in placed] == [0.5, 1.0]
