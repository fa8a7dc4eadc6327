"""Reading what users have, and writing clips that are heard as they were scored."""

import struct

import av
import numpy as np
import pytest
import soundfile

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import from_pcm16, samples_to_seconds, seconds_to_samples, to_pcm16, write_wav
from simulsa_plugin.errors import AudioError

TONE_HERTZ, SECONDS = 440, 1.0


def tone(sample_rate, seconds=SECONDS, amplitude=0.5):
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (amplitude * np.sin(2 * np.pi * TONE_HERTZ * times)).astype(np.float32)


def loudest_hertz(waveform, sample_rate=16_000):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return np.fft.rfftfreq(len(waveform), 1 / sample_rate)[spectrum.argmax()]


def write_m4a(path, waveform, sample_rate):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=sample_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.rate, frame.pts = sample_rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_every_form_at_every_rate_is_16_khz_mono(tmp_path, form, sample_rate):
    path = tmp_path / f"a.{form}"
    if form == "m4a":
        write_m4a(path, tone(sample_rate), sample_rate)
    else:
        soundfile.write(path, tone(sample_rate), sample_rate)
    waveform = read_mono(path)
    assert (waveform.dtype, waveform.ndim) == (np.float32, 1)
    # AAC comes in blocks of 1024 samples, at 8 kHz 128 ms each; the others keep every sample.
    assert len(waveform) == pytest.approx(16_000, abs=3 * 1024 * 16_000 / sample_rate if form == "m4a" else 1)
    assert loudest_hertz(waveform) == pytest.approx(TONE_HERTZ, abs=1.5)
    middle = waveform[len(waveform) // 4 : len(waveform) // 2]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_what_16_khz_cannot_carry_is_weak_and_not_folded_back(tmp_path):
    times = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 11_000 * times), 48_000, subtype="FLOAT")
    middle = read_mono(tmp_path / "a.wav")[4000:12_000]  # the ends ring
    # 49 dB below the tone's 0.35: torchaudio's filter, a sinc of six zero crossings in a Hann window, gives no more.
    assert np.sqrt(np.mean(middle**2)) < 0.35 * 10 ** (-48 / 20)


@pytest.mark.parametrize("sample_rate", [768_001, 2**31 - 1])
def test_a_sample_rate_that_no_recording_has_takes_no_memory(tmp_path, sample_rate):
    (tmp_path / "a.wav").write_bytes(wav_header(sample_rate=sample_rate))
    with pytest.raises(AudioError, match=f"a.wav: {sample_rate} Hz; allowed: from 1000 to 768000 Hz") as caught:
        read_mono(tmp_path / "a.wav")
    assert caught.value.reason == "broken"


@pytest.mark.parametrize("form", ["wav", "flac", "ogg"])
def test_channels_are_averaged(tmp_path, form):
    left = tone(16_000)
    soundfile.write(tmp_path / f"a.{form}", np.stack([left, np.zeros_like(left)], axis=1), 16_000)
    assert np.abs(read_mono(tmp_path / f"a.{form}")).max() == pytest.approx(0.25, rel=0.1)


def test_a_file_object_is_read_like_a_file(tmp_path):
    write_m4a(tmp_path / "a.m4a", tone(44_100), 44_100)
    soundfile.write(tmp_path / "a.wav", tone(44_100), 44_100)
    for name in ("a.m4a", "a.wav"):
        with (tmp_path / name).open("rb") as handle:
            np.testing.assert_array_equal(read_mono(handle), read_mono(str(tmp_path / name)))


def wav_header(sample_rate=16_000, channels=1, claimed_bytes=200, data=b"\1\0" * 100):
    width = 2 * channels
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, channels, sample_rate, sample_rate * width & 0xFFFFFFFF, width, 16)
        + b"data"
        + struct.pack("<I", claimed_bytes)
        + data
    )


def absurd_flac(tmp_path):
    """A second of FLAC whose header claims 2³⁶ − 1 samples: 49 days, 275 GB as floats."""
    soundfile.write(tmp_path / "whole.flac", tone(16_000), 16_000)
    content = bytearray((tmp_path / "whole.flac").read_bytes())
    content[21] |= 0x0F  # the 36 bits of "total samples in stream" in STREAMINFO
    content[22:26] = b"\xff" * 4
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.wav", b"", "empty"),
        ("header_only.wav", wav_header(claimed_bytes=0, data=b""), "empty"),
        ("text.wav", b"hello world" * 100, "broken"),
        ("text.mp3", b"no mp3 at all" * 400, "broken"),
        ("torn_header.wav", wav_header()[:20], "broken"),
        ("rate_zero.wav", wav_header(sample_rate=0), "broken"),
        ("no_channel.wav", wav_header(channels=0), "broken"),
        ("headerless.raw", b"\0" * 3200, "broken"),
        ("text.m4a", b"\0\0\0\x1cftypM4A " + b"x" * 100, "broken"),
    ],
)
def test_unusable_files_have_a_reason_and_a_name(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=name.replace(".", r"\.")) as caught:
        read_mono(tmp_path / name)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_an_absurd_header_takes_no_memory(tmp_path):
    (tmp_path / "a.flac").write_bytes(absurd_flac(tmp_path))
    with pytest.raises(AudioError, match=r"4294967 s; allowed: up to 21600 s") as caught:  # (2³⁶ − 1) / 16000
        read_mono(tmp_path / "a.flac")
    assert caught.value.reason == "too_long"


def test_a_wav_that_claims_more_than_it_holds_gives_what_it_holds(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_header(claimed_bytes=4_000_000_000))
    assert len(read_mono(tmp_path / "a.wav")) == 100


@pytest.mark.parametrize("path", ["gone.wav", ".", "", "a\0b.wav"])
def test_no_file_is_missing(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError) as caught:
        read_mono(path)
    assert caught.value.reason == "missing"


def test_a_torn_m4a_is_broken(tmp_path):
    write_m4a(tmp_path / "a.m4a", tone(44_100), 44_100)
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError) as caught:
        read_mono(tmp_path / "a.m4a")
    assert caught.value.reason == "broken"


def test_a_video_without_sound_is_broken(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(AudioError, match="holds no audio"):
        read_mono(tmp_path / "a.mp4")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_broken(tmp_path, value):
    waveform = tone(16_000)
    waveform[5] = value
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite") as caught:
        read_mono(tmp_path / "a.wav")
    assert caught.value.reason == "broken"


def test_a_written_clip_is_read_back_as_it_was_scored(tmp_path):
    loud = np.concatenate([tone(16_000), [1.5, -1.5, 1.0, -1.0, 1e-6]]).astype(np.float32)
    pcm = to_pcm16(loud)
    write_wav(tmp_path / "a.wav", pcm)
    np.testing.assert_array_equal(read_mono(tmp_path / "a.wav"), from_pcm16(pcm))
    np.testing.assert_allclose(from_pcm16(pcm)[:-5], loud[:-5], atol=0.5 / 32768 + 1e-9)
    assert pcm[-5:].tolist() == [32767, -32768, 32767, -32768, 0]
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_pcm16_goes_round_for_every_value():
    every = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
    np.testing.assert_array_equal(to_pcm16(from_pcm16(every)), every)


def test_wav_bytes_depend_on_the_samples_alone(tmp_path):
    for name in ("a.wav", "b.wav"):
        with (tmp_path / name).open("wb") as handle:
            write_wav(handle, to_pcm16(tone(16_000)))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize(
    ("seconds", "samples"),
    [
        (0.5, 8000),
        (1.0, 16_000),
        (0.00003125, 1),
        (0.000031, 0),
        (2.99996875, 48_000),
        (1.2345, 19_752),
    ],
)
def test_seconds_round_to_the_nearest_sample_halves_up(seconds, samples):
    # On paper: 0.00003125 s is half a sample, 2.99996875 s is 47999.5 samples.
    assert seconds_to_samples(seconds) == samples


def test_samples_survive_the_way_through_seconds():
    for samples in (1, 2399, 8001, 479_999, 96_000_001):
        assert seconds_to_samples(samples_to_seconds(samples)) == samples


def test_a_wav_that_cannot_be_written_says_why(tmp_path, capfd):
    # libsndfile would call it a "system error", and print what a handle raises without raising it.
    with pytest.raises(FileNotFoundError):
        write_wav(tmp_path / "gone" / "a.wav", to_pcm16(tone(16_000)))
    with pytest.raises(OSError, match="No space left on device"), open("/dev/full", "wb", buffering=0) as full:
        write_wav(full, to_pcm16(tone(16_000)))
    assert capfd.readouterr().err == ""
