"""Files that are legal and odd: whatever FFmpeg decodes is heard, at the same times by every reader."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from simulsa_plugin.audio import checks
from simulsa_plugin.audio.decoding import read_mono, read_samples
from simulsa_plugin.audio.recordings import AudioInfo, Span, audio_info, read_parts
from simulsa_plugin.audio.samples import average_channels
from simulsa_plugin.errors import AudioError

RATE = 16_000
ID3 = b"ID3\3\0\0\0\0\7\x76" + b"\0" * 1014  # its size is 7 · 128 + 118 bytes


def noise(seconds, rate=RATE, channels=1, seed=0):
    samples = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    return (0.2 * samples).astype(np.float32)


def sound_bytes(form, subtype, samples, rate=RATE, **options):
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format=form, subtype=subtype, **options)
    return encoded.getvalue()


def mp3(samples, rate=RATE, mode="CONSTANT"):
    return sound_bytes("MP3", "MPEG_LAYER_III", samples, rate, bitrate_mode=mode, compression_level=0.5)


def without_tag(content):
    """MP3 without its first frame, which has the Xing or Info tag alone."""
    return content[content.index(content[:2], 4) :]


def ogg(subtype, *lengths, rate=48_000, channels=(1, 1)):
    parts = [noise(length, rate, count, seed=length) for length, count in zip(lengths, channels, strict=False)]
    return b"".join(sound_bytes("OGG", subtype, part, rate) for part in parts)


def flac_with_count(count):
    content = bytearray(sound_bytes("FLAC", "PCM_16", noise(5)))
    content[21] &= 0xF0  # the 36 bits of "total samples in stream" in STREAMINFO
    content[22:26] = struct.pack(">I", count)
    return bytes(content)


def wav_with_size(size):
    content = sound_bytes("WAV", "PCM_16", noise(5))
    at = content.index(b"data") + 4
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


def with_av(samples, codec, form, rate=RATE, **options):
    encoded, layout = io.BytesIO(), "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(encoded, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in av.AudioResampler(format=stream.format.name, layout=layout, rate=rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return encoded.getvalue()


def quiet_then_loud(rate):
    return np.concatenate([noise(10, rate) * 1e-3, noise(10, rate)])


# name → (content, seconds on paper); encoders add up to an eighth of a second of padding to each joined part
FILES = {
    "vbr": (lambda: mp3(quiet_then_loud(48_000), 48_000, "VARIABLE"), 20),
    "vbr without a Xing tag": (lambda: without_tag(mp3(quiet_then_loud(48_000), 48_000, "VARIABLE")), 20),
    "joined mp3": (lambda: mp3(noise(5)) + mp3(noise(10)), 15),
    "joined vbr mp3": (lambda: mp3(noise(5), mode="VARIABLE") + mp3(noise(10), mode="VARIABLE"), 15),
    "joined mp3 with ID3v2 tags": (lambda: ID3 + mp3(noise(5)) + ID3 + mp3(noise(10)), 15),
    "joined mp3 with ID3v1 tags": (lambda: (mp3(noise(5)) + b"TAG" + b"a" * 125) * 2, 10),
    "mp3 with junk in the middle": (lambda: mp3(noise(5)) + b"junk" * 1250 + mp3(noise(5)), 10),
    "mp3 cut off": (lambda: mp3(noise(10))[:30_000], 2.9),
    "mp2": (lambda: with_av(noise(5, 44_100), "mp2", "mp2", 44_100), 5),
    "mp3 in wav": (lambda: with_av(noise(5, 44_100), "mp3", "wav", 44_100), 5),
    "chained vorbis": (lambda: ogg("VORBIS", 5, 10), 15),
    "chained opus": (lambda: ogg("OPUS", 5, 10), 15),
    "vorbis joined to itself": (lambda: ogg("VORBIS", 5) * 2, 10),
    "flac to a pipe": (lambda: flac_with_count(0), 5),
    "flac to a pipe after ID3": (lambda: ID3 + flac_with_count(0), 5),
    "flac after ID3": (lambda: ID3 + sound_bytes("FLAC", "PCM_16", noise(5)), 5),
    "wav of size 0": (lambda: wav_with_size(0), 5),
    "wav of size 2³² − 1": (lambda: wav_with_size(0xFFFFFFFF), 5),
    "aac whose estimated length is wrong": (lambda: with_av(quiet_then_loud(44_100), "aac", "adts", 44_100), 20),
    "joined aac": (lambda: with_av(noise(5), "aac", "adts") * 2, 10),
    "m4a": (lambda: with_av(noise(5), "aac", "ipod"), 5),
    "unsigned 8 bits in matroska": (lambda: with_av(noise(5), "pcm_u8", "matroska"), 5),
    "24 bits in matroska": (lambda: with_av(noise(5, channels=2), "pcm_s24le", "matroska"), 5),
}  # fmt: skip


def decoded(path):
    """(samples (num_samples, channels), rate) by PyAV; what cannot be decoded is skipped, as `ffmpeg` does."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        convert = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        for packet in container.demux(stream):
            try:
                frames += [part.to_ndarray() for frame in packet.decode() for part in convert.resample(frame)]
            except av.InvalidDataError:
                continue
        return np.concatenate(frames, axis=1).T, stream.rate


@pytest.fixture(params=FILES)
def odd(request, tmp_path):
    make, seconds = FILES[request.param]
    path = tmp_path / "odd.audio"
    path.write_bytes(make())
    return path, seconds


def test_all_that_ffmpeg_decodes_is_heard(odd):
    path, seconds = odd
    samples, rate = read_samples(path)
    whole, expected_rate = decoded(path)
    assert (rate, samples.shape) == (expected_rate, whole.shape)
    assert len(samples) / rate == pytest.approx(seconds, abs=0.25)
    # libsndfile and FFmpeg round otherwise, and a decoder's delay of one sample would take all correlation from noise.
    assert np.corrcoef(samples[:, 0], whole[:, 0])[0, 1] > 0.9999
    np.testing.assert_allclose(samples, whole, atol=2e-4)


def test_the_length_the_parts_and_an_open_file_agree_with_the_whole(odd):
    path, _ = odd
    samples, rate = read_samples(path)
    assert audio_info(path) == AudioInfo(len(samples) / rate, samples.shape[1])
    spans = [Span(0.0, 0.31), Span(0.31, 2.5), Span(2.5, None)]
    parts = [part for _, part in read_parts(path, spans, rate)]
    np.testing.assert_array_equal(np.concatenate(parts), average_channels(samples))
    with path.open("rb") as handle:
        np.testing.assert_array_equal(read_samples(handle)[0], samples)


def test_a_channel_or_rate_that_changes_in_joined_files_keeps_the_times(tmp_path):
    # The second half must begin where the first ends, in the first one's channels and rate.
    left, right = noise(5, 44_100, 1, seed=1), noise(5, 44_100, 2, seed=2)
    for name, first, second in (("a", left, right), ("b", right, left)):
        (tmp_path / name).write_bytes(mp3(first, 44_100) + mp3(second, 44_100))
        samples, rate = read_samples(tmp_path / name)
        assert (rate, samples.shape[1]) == (44_100, first.shape[1])
        assert len(samples) / rate == pytest.approx(10, abs=0.15)
        # On paper: the average of two independent channels of noise is √2 weaker; one channel is repeated as it is.
        level = 0.2 / np.sqrt(2) if second.shape[1] == 2 else 0.2
        assert samples[-rate:-4000].std() == pytest.approx(level, rel=0.1)
    times = np.arange(5 * 44_100)[:, None] / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    (tmp_path / "c").write_bytes(mp3(noise(5), RATE) + mp3(tone, 44_100))
    samples, rate = read_samples(tmp_path / "c")
    assert rate == RATE
    assert len(samples) / rate == pytest.approx(10, abs=0.15)
    spectrum = np.abs(np.fft.rfft(samples[-2 * rate : -rate, 0]))
    assert spectrum.argmax() == 440  # Hz: the stretch is a second


def test_a_change_that_ffmpeg_cannot_follow_is_an_error_and_not_half_a_file(tmp_path):
    (tmp_path / "a.opus").write_bytes(ogg("OPUS", 5, 5, channels=(1, 2)))
    for attempt in (read_mono, audio_info):
        with pytest.raises(AudioError) as caught:
            attempt(tmp_path / "a.opus")
        assert caught.value.reason == "broken"


def test_a_name_with_a_colon_is_a_file_and_not_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("10:30.mp3", "http:talk.mp3", "a%20b.mp3", "Ärger.mp3"):
        (tmp_path / name).write_bytes(mp3(noise(1)))
        assert len(read_mono(name)) == RATE


def test_an_mp3_without_an_end_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MAX_DURATION_SECONDS", 3.0)
    (tmp_path / "a.mp3").write_bytes(mp3(noise(2)) * 2)
    for attempt in (read_mono, audio_info):
        with pytest.raises(AudioError) as caught:
            attempt(tmp_path / "a.mp3")
        assert caught.value.reason == "too_long"
