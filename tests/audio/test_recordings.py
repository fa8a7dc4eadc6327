"""Parts of recordings, held against the recording decoded once and whole by soundfile or PyAV itself."""

import functools
import itertools
import math
import os
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from simulsa_plugin.audio import decoding, recordings
from simulsa_plugin.audio.decoding import _av_blocks, read_mono
from simulsa_plugin.audio.recordings import AudioInfo, Span, audio_info, read_parts
from simulsa_plugin.errors import AudioError

SECONDS = 23.4  # beyond two blocks of 10 s
SOUND_FILES = [
    ("wav", "PCM_16"), ("wav", "PCM_U8"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("wav", "DOUBLE"), ("wav", "ULAW"),
    ("wav", "MS_ADPCM"), ("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("ogg", "OPUS"),
    ("mp3", "MPEG_LAYER_III"),
]  # fmt: skip
FORMS = [*SOUND_FILES, ("m4a", "aac"), ("webm", "libopus")]
# Unordered, overlapping, nested, equal, adjacent, across and at the ends of blocks of 10 s, to the very end.
SPANS = [
    (12.345, 15.0), (0.0, 0.5), (0.5, 1.25), (1.25, 1.3), (9.0, 21.5), (10.0, 20.0), (9.99, 10.01), (13.0, 13.7),
    (13.0, 13.7), (2.0, 2.01), (20.0, 23.0), (22.9, None), (3.1, 3.6), (0.0, 23.0), (19.9999, 20.00007),
]  # fmt: skip


def signal(rate, channels, seconds=SECONDS):
    """A tone that slides, different in each channel, with a little noise: no two parts are alike."""
    times = np.arange(round(seconds * rate))[:, None] / rate
    slide = 0.3 * np.sin(2 * np.pi * (150 + 40 * np.arange(channels) + 7 * times) * times)
    noise = np.random.default_rng(rate + channels).uniform(-0.05, 0.05, (len(times), channels))
    return (slide + noise).astype(np.float32)


def write(path, samples, rate, subtype=None):
    if path.suffix in (".m4a", ".webm", ".aac"):
        write_with_av(str(path), samples, rate, subtype or "aac")
    else:
        soundfile.write(path, samples, rate, subtype=subtype)
    return path


def write_with_av(target, samples, rate, codec, **options):
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(target, "w", **options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def decoded(path):
    """(samples (num_samples, channels), rate), by the libraries themselves, in one go.

    MP3 by PyAV: libsndfile stops at its estimate of the length.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.format == "MP3":
                raise soundfile.LibsndfileError(0)
            return file.read(file.frames, dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            return np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1).T, stream.rate


def nearest(seconds, rate):
    """The sample at a time, from its decimals; halves go up."""
    return math.floor(Fraction(str(seconds)) * rate + Fraction(1, 2))


def at_16_khz(samples, rate):
    return torchaudio.functional.resample(torch.from_numpy(samples), rate, 16_000).numpy()


def assert_same_sound(found, expected, native_rate):
    """To the last bit at 16 kHz; what is resampled sums in another order than torchaudio."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if native_rate == 16_000 else 1e-6)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """(suffix, subtype, rate, channels) → the file, made once."""
    folder = tmp_path_factory.mktemp("recordings")

    @functools.cache
    def make(suffix, subtype, rate=16_000, channels=1):
        path = folder / f"{subtype}-{rate}-{channels}.{suffix}"
        return write(path, signal(rate, channels), rate, subtype)

    return make


def parts_of(path, spans, sample_rate=16_000):
    """Results in the order of the spans: samples, or the reason why there are none."""
    found = dict(read_parts(path, spans, sample_rate))
    assert sorted(found) == list(range(len(spans)))
    return [one.reason if isinstance(one, AudioError) else one for _, one in sorted(found.items())]


# ------------------------------------------------------------------------------------------------- which samples


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (44_100, 2), (24_000, 1)])
@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
def test_a_part_is_the_slice_of_the_whole_recording(recording, suffix, subtype, rate, channels):
    if "opus" in subtype.lower() and rate == 44_100:
        pytest.skip("Opus has no such rate")
    path = recording(suffix, subtype, rate, channels)
    whole, native = decoded(path)
    parts = parts_of(path, [Span(*span) for span in SPANS])
    for (start, end), part in zip(SPANS, parts, strict=True):
        samples = whole[nearest(start, native) : len(whole) if end is None else nearest(end, native)]
        expected = at_16_khz(samples.mean(axis=1, dtype=np.float32), native)
        assert part.dtype == np.float32
        assert_same_sound(part, expected, native)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "W64", "RF64", "AIFF", "AU", "CAF", "FLAC", "NIST", "VOC"])
def test_every_encoding_that_libsndfile_knows_is_cut_exactly(tmp_path, container):
    samples, rate, subtypes = signal(8_000, 1, 3.0), 8_000, []
    for subtype in soundfile.available_subtypes(container):
        path = tmp_path / f"{subtype}.audio"
        try:
            soundfile.write(path, samples, rate, format=container, subtype=subtype)
            with soundfile.SoundFile(path) as file:
                whole = file.read(file.frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            continue  # what it cannot write, or read again
        spans = [(0.2, 0.9), (0.85, 1.1), (2.0, 2.5)]
        for (start, end), part in zip(spans, parts_of(path, [Span(*span) for span in spans], rate), strict=True):
            np.testing.assert_array_equal(
                part, whole[nearest(start, rate) : nearest(end, rate), 0], err_msg=f"{subtype} {start}"
            )
        subtypes.append(subtype)
    assert subtypes


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("mp3", "MPEG_LAYER_III"), ("m4a", "aac")])
def test_any_parts_in_any_order(recording, suffix, subtype):
    path = recording(suffix, subtype)
    whole, rate = decoded(path)
    rng = random.Random(7)
    ends = [sorted(rng.uniform(0, SECONDS) for _ in "ab") for _ in range(60)]
    spans = [(start, end) for start, end in ends if end - start > 0.001]
    for (start, end), part in zip(spans, parts_of(path, [Span(*span) for span in spans]), strict=True):
        np.testing.assert_array_equal(part, whole[nearest(start, rate) : nearest(end, rate), 0])


def test_adjacent_parts_leave_out_no_sample_and_give_none_twice(recording):
    path = recording("flac", "PCM_16")
    rng = random.Random(1)
    borders = [0.0, *sorted(rng.uniform(0, SECONDS) for _ in range(40)), SECONDS]
    parts = parts_of(path, [Span(*pair) for pair in itertools.pairwise(borders)])
    np.testing.assert_array_equal(np.concatenate(parts), decoded(path)[0][:, 0])


def test_seconds_are_rounded_once_and_halves_go_up(tmp_path):
    # At 16384 Hz, halves of samples are exact in binary: (n + 1/2) / 16384 s is sample n + 1.
    rate = 16_384
    samples = np.arange(2000, dtype=np.float32) / 4096
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    limits = [(100, 200), (100.5, 200.5), (100.49, 200.49), (99.5, 99.6), (99.51, 100.5), (0.49, 1.5), (0.5, 1999.5)]
    expected = [(100, 200), (101, 201), (100, 200), (100, 100), (100, 101), (0, 2), (1, 2000)]
    parts = parts_of(tmp_path / "a.wav", [Span(start / rate, end / rate) for start, end in limits], rate)
    for part, (first, last) in zip(parts, expected, strict=True):
        if first == last:
            assert part == "no_duration"
        else:
            np.testing.assert_array_equal(part, samples[first:last])


def test_the_end_and_not_the_duration_is_rounded(tmp_path):
    # MuST-C: offset 1.00004 s, duration 1.00004 s. The end is sample 32001.28, not 16000.64 twice rounded up.
    samples = signal(16_000, 1, 3.0)[:, 0]
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    (part,) = parts_of(tmp_path / "a.wav", [Span(1.00004, 1.00004 + 1.00004)])
    np.testing.assert_array_equal(part, samples[16_001:32_001])


def test_a_part_is_resampled_by_itself_as_a_file_of_its_own_would_be(tmp_path):
    samples = signal(48_000, 2, 4.0)
    soundfile.write(tmp_path / "a.wav", samples, 48_000, subtype="FLOAT")
    soundfile.write(tmp_path / "part.wav", samples[48_000:90_000], 48_000, subtype="FLOAT")
    (part,) = parts_of(tmp_path / "a.wav", [Span(1.0, 90_000 / 48_000)])
    np.testing.assert_array_equal(part, read_mono(tmp_path / "part.wav"))
    assert len(part) == 14_000


@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
def test_a_whole_recording_as_one_part_is_what_read_mono_gives(recording, suffix, subtype):
    path = recording(suffix, subtype, 48_000, 2)
    (part,) = parts_of(path, [Span()])
    np.testing.assert_array_equal(part, read_mono(path))


@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
def test_a_time_in_the_recording_is_that_time_in_what_was_recorded(tmp_path, suffix, subtype):
    # Decoders put samples before the first one; a click must stay where it was.
    samples = np.zeros((48_000 * 14, 1), np.float32)
    samples[48_000 * 12 + 100 : 48_000 * 12 + 110] = 0.9
    write(tmp_path / f"a.{suffix}", samples, 48_000, subtype)
    (part,) = parts_of(tmp_path / f"a.{suffix}", [Span(12.0, 12.5)], 48_000)
    assert np.abs(part).argmax() == pytest.approx(105, abs=6)


# ------------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
def test_a_channel_is_that_channel_and_none_is_the_average(recording, suffix, subtype):
    path = recording(suffix, subtype, 48_000, 2)
    whole, rate = decoded(path)
    spans = [Span(2.0, 3.0, channel) for channel in (1, None, 0, 2)]
    right, average, left, missing = parts_of(path, spans, rate)
    part = whole[2 * rate : 3 * rate]
    np.testing.assert_array_equal(left, part[:, 0])
    np.testing.assert_array_equal(right, part[:, 1])
    np.testing.assert_array_equal(average, (part[:, 0] + part[:, 1]) / 2)
    assert missing == "no_channel"
    assert np.abs(left - right).max() > 0.1


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_stereo_m4a_is_averaged_by_read_mono_too(recording, rate):
    # A centred signal must not come out 3 dB louder, as in FFmpeg's own downmix.
    path = recording("m4a", "aac", rate, 2)
    whole, _ = decoded(path)
    assert_same_sound(read_mono(path), at_16_khz(whole.mean(axis=1, dtype=np.float32), rate), rate)


def test_more_than_two_channels_are_averaged(tmp_path):
    samples = signal(16_000, 5, 2.0)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    average, last = parts_of(tmp_path / "a.wav", [Span(0.5, 1.0), Span(0.5, 1.0, 4)])
    np.testing.assert_array_equal(last, samples[8000:16_000, 4])
    np.testing.assert_allclose(average, samples[8000:16_000].sum(axis=1) / 5, atol=1e-6)


# -------------------------------------------------------------------------------------- what has no or bad samples


@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
def test_past_the_end_up_to_half_a_second_is_taken_as_far_as_it_goes(recording, suffix, subtype):
    path = recording(suffix, subtype)
    whole, rate = decoded(path)
    length = len(whole) / rate
    ends = [(-1, 0.5), (-1, 0.51), (0, 0.1), (9, 10), (1, None), (-2, -1)]
    parts = parts_of(path, [Span(length + start, end and length + end) for start, end in ends], rate)
    np.testing.assert_array_equal(parts[0], whole[-rate:, 0])
    assert parts[1:5] == ["beyond_end"] * 4
    np.testing.assert_array_equal(parts[5], whole[-2 * rate : -rate, 0])


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("mp3", "MPEG_LAYER_III"), ("m4a", "aac")])
def test_parts_without_samples_are_told_apart_from_the_others(recording, suffix, subtype):
    path = recording(suffix, subtype)
    spans = [Span(1.0, 1.0), Span(2.0, 1.0), Span(1.0, 1.00001), Span(0.0, 0.0), Span(1.0, 1.1), Span(9.0, 8.0)]
    parts = parts_of(path, spans)
    assert [parts[number] for number in (0, 1, 2, 3, 5)] == ["no_duration"] * 5
    assert len(parts[4]) == 1600


def test_a_part_of_a_single_sample_is_one_at_16_khz_as_well(tmp_path):
    soundfile.write(tmp_path / "a.wav", signal(48_000, 1, 1.0), 48_000)
    parts = parts_of(tmp_path / "a.wav", [Span(0.5, 0.5 + 1 / 48_000), Span(0.5, 0.6)])
    assert [len(part) for part in parts] == [1, 1600]  # torchaudio rounds lengths up


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_spoil_their_own_part_and_channel_only(tmp_path, value):
    samples = signal(16_000, 2, 3.0)
    samples[20_000, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    spans = [Span(1.0, 2.0), Span(0.0, 1.25), Span(1.0, 2.0, 0), Span(1.0, 2.0, 1), Span(1.25, 1.26), Span(1.2501, 3.0)]
    parts = parts_of(tmp_path / "a.wav", spans)
    assert [parts[number] for number in (0, 3, 4)] == ["broken"] * 3
    np.testing.assert_array_equal(parts[1], samples[:20_000].mean(axis=1))
    np.testing.assert_array_equal(parts[2], samples[16_000:32_000, 0])
    assert len(parts[5]) == 48_000 - 20_002


def cut_short(path, share=0.5):
    content = path.read_bytes()
    shorter = path.with_name(f"short{path.suffix}")
    shorter.write_bytes(content[: int(len(content) * share)])
    return shorter


@pytest.mark.parametrize(
    ("suffix", "subtype", "reasons"),
    [
        ("wav", "PCM_16", {"beyond_end"}),
        ("flac", "PCM_16", {"broken", "beyond_end"}),
        ("ogg", "VORBIS", {"beyond_end"}),
        ("ogg", "OPUS", {"beyond_end"}),
        ("mp3", "MPEG_LAYER_III", {"beyond_end", "broken"}),
        ("webm", "libopus", {"beyond_end", "broken"}),
    ],
)
def test_a_recording_that_breaks_off_gives_the_parts_that_are_there(recording, suffix, subtype, reasons):
    # The header of an MP3 goes on claiming everything; what is not there must not be made up.
    path = recording(suffix, subtype)
    whole, rate = decoded(path)
    spans = [(start, start + 1.0) for start in range(0, 23)]
    parts = parts_of(cut_short(path), [Span(*span) for span in spans], rate)
    there = [part for part in parts if not isinstance(part, str)]
    assert 9 <= len(there) <= 14
    assert set(parts[len(there) :]) <= reasons  # and all of them are at the end
    for number, part in enumerate(there[:-1]):
        np.testing.assert_array_equal(part, whole[number * rate : (number + 1) * rate, 0])


def test_an_m4a_that_breaks_off_has_lost_its_index(recording):
    with pytest.raises(AudioError) as caught:
        parts_of(cut_short(recording("m4a", "aac")), [Span(0.0, 1.0)])
    assert caught.value.reason == "broken"


@pytest.mark.parametrize(("suffix", "subtype", "after"), [("flac", "PCM_16", True), ("m4a", "aac", False)])
def test_damage_in_the_middle_spoils_no_part_before_it(recording, suffix, subtype, after):
    path = recording(suffix, subtype)
    whole, rate = decoded(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :][:2000] = b""
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    damaged = path.with_name(f"damaged.{suffix}")
    damaged.write_bytes(content)
    parts = parts_of(damaged, [Span(float(start), start + 1.0) for start in range(23)], rate)
    broken = [number for number, part in enumerate(parts) if isinstance(part, str)]
    assert {parts[number] for number in broken} == {"broken"}
    assert broken[0] in (10, 11, 12)
    if after:  # FLAC can be entered anywhere
        assert len(broken) <= 2
    else:
        assert broken == list(range(broken[0], 23))
    for number, part in enumerate(parts):
        if number not in broken:
            np.testing.assert_array_equal(part, whole[number * rate : (number + 1) * rate, 0])


def first_part(path):
    _, part = next(read_parts(path, [Span(0.0, 1.0)]))
    if isinstance(part, AudioError):
        raise part


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.wav", b"", "empty"),
        ("zero.mp3", b"", "empty"),
        ("zero.m4a", b"", "empty"),
        ("text.mp3", b"no mp3 at all" * 400, "broken"),
        ("page.mp3", b"<html><body>404 Not Found</body></html>" * 20, "broken"),
        ("zeros.mp3", bytes(20_000), "broken"),
        ("noise.mp3", np.random.default_rng(1).bytes(142_010), "broken"),
        ("noise.flac", np.random.default_rng(2).bytes(50_000), "broken"),
        ("noise.m4a", b"\0\0\0\x1cftypM4A " + np.random.default_rng(3).bytes(50_000), "broken"),
        ("noise.raw", np.random.default_rng(4).bytes(5000), "broken"),
        ("gone.wav", None, "missing"),
    ],
)
def test_a_file_that_is_no_audio_is_refused_with_its_reason_and_name(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for attempt in (audio_info, first_part):
        with pytest.raises(AudioError, match=name.replace(".", r"\.")) as caught:
            attempt(path)
        assert caught.value.reason == reason
        assert "\n" not in str(caught.value)


def test_what_is_no_file_is_missing(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("folder.wav", "link.wav", "pipe.wav", "a\0b.wav", "x" * 300 + ".wav"):
        for attempt in (audio_info, lambda path: list(read_parts(path, [Span()]))):
            with pytest.raises(AudioError) as caught:
                attempt(tmp_path / name)
            assert caught.value.reason == "missing"


@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
@pytest.mark.parametrize("wrong", [".wav", ".mp3", ".m4a", ".raw", ""])
def test_the_content_counts_and_not_the_suffix(recording, tmp_path, suffix, subtype, wrong):
    path = recording(suffix, subtype)
    renamed = tmp_path / f"a{wrong}"
    renamed.write_bytes(path.read_bytes())
    if wrong == ".raw" and (suffix, subtype) in SOUND_FILES:
        # soundfile asks for what a .raw file is; FFmpeg reads what it knows.
        assert len(parts_of(renamed, [Span(0.0, 1.0)])[0]) == 16_000
        return
    assert audio_info(renamed) == audio_info(path)
    for one, another in zip(parts_of(renamed, [Span(1.0, 2.0)]), parts_of(path, [Span(1.0, 2.0)]), strict=True):
        np.testing.assert_array_equal(one, another)


# ------------------------------------------------------------------------------------------------- length, channels


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
@pytest.mark.parametrize(("suffix", "subtype"), FORMS)
def test_length_and_channels_are_those_of_the_samples(recording, suffix, subtype, rate, channels):
    path = recording(suffix, subtype, rate, channels)
    info, (whole, native) = audio_info(path), decoded(path)
    assert info.channels == channels
    assert info.seconds == len(whole) / native


def test_a_recorded_live_stream_whose_header_has_no_length_is_counted(tmp_path):
    with (tmp_path / "live.webm").open("wb") as handle:

        class Pipe:
            """A file that cannot go back to write the length."""

            def write(self, data):
                return handle.write(data)

        write_with_av(Pipe(), signal(48_000, 2, 5.25), 48_000, "libopus", format="webm")
    with av.open(str(tmp_path / "live.webm")) as container:
        assert not container.duration
    assert audio_info(tmp_path / "live.webm") == AudioInfo(5.25, 2)


def test_a_header_without_samples_is_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16_000)
    with pytest.raises(AudioError) as caught:
        audio_info(tmp_path / "a.wav")
    assert caught.value.reason == "empty"
    assert parts_of(tmp_path / "a.wav", [Span(), Span(0.0, 0.1)]) == ["beyond_end"] * 2


def test_a_header_that_claims_weeks_is_too_long(tmp_path):
    soundfile.write(tmp_path / "whole.flac", signal(16_000, 1, 2.0), 16_000)
    content = bytearray((tmp_path / "whole.flac").read_bytes())
    content[21] |= 0x0F  # the 36 bits of "total samples in stream" in STREAMINFO
    content[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioError, match="4294967 s; allowed: up to 21600 s") as caught:
        audio_info(tmp_path / "a.flac")
    assert caught.value.reason == "too_long"


# ------------------------------------------------------------------------------------------ work, memory, open files


@pytest.fixture
def readings(monkeypatch):
    """How many samples soundfile was asked for, in order; and how often a file was opened."""
    counted = {"samples": [], "opened": 0}
    read, opened = soundfile.SoundFile.read, soundfile.SoundFile.__init__

    def counting_read(self, *arguments, **named):
        samples = read(self, *arguments, **named)
        counted["samples"].append(len(samples))
        return samples

    def counting_open(self, *arguments, **named):
        counted["opened"] += 1
        opened(self, *arguments, **named)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    monkeypatch.setattr(soundfile.SoundFile, "__init__", counting_open)
    return counted


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_of_a_lossless_recording_only_the_parts_are_read(recording, readings, suffix):
    spans = [Span(20.0, 20.5), Span(3.0, 3.25), Span(3.1, 3.2)]
    parts_of(recording(suffix, "PCM_16"), spans)
    assert readings == {"samples": [4000, 1600, 8000], "opened": 1}


@pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("ogg", "OPUS")])
def test_a_lossy_recording_is_walked_through_once_and_no_further_than_the_last_part(
    recording, readings, suffix, subtype
):
    path = recording(suffix, subtype)
    parts_of(path, [Span(start / 10, start / 10 + 5.0) for start in range(150)])
    assert (sum(readings["samples"]), readings["opened"]) == (20 * 16_000, 1)


@pytest.mark.parametrize(("suffix", "subtype"), [("m4a", "aac"), ("mp3", "MPEG_LAYER_III")])
def test_what_pyav_decodes_is_walked_through_once(recording, monkeypatch, suffix, subtype):
    path, decoded_samples = recording(suffix, subtype), []
    blocks = _av_blocks

    def counting(*arguments):
        for block in blocks(*arguments):
            decoded_samples.append(len(block))
            yield block

    monkeypatch.setattr(decoding, "_av_blocks", counting)
    parts_of(path, [Span(start / 10, start / 10 + 5.0) for start in range(150)])
    assert 19.9 * 16_000 <= sum(decoded_samples) < 21 * 16_000  # blocks of a second


MEMORY = """
import resource, sys
from pathlib import Path
from simulsa_plugin.audio.recordings import Span, audio_info, read_parts

def walk(path, *starts):
    audio_info(Path(path))
    parts = list(read_parts(Path(path), [Span(float(start), float(start) + 5.0) for start in starts]))
    assert [len(part) for _, part in parts] == [80_000] * len(starts), parts

walk(sys.argv[1], 1)  # what the libraries themselves take
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
walk(sys.argv[2], *sys.argv[3:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("suffix", "seconds"), [("wav", 7200), ("flac", 7200), ("mp3", 900), ("ogg", 900), ("m4a", 900)]
)
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path, suffix, seconds):
    # 2 h at 16 kHz are 460 MB as floats, 15 min 58 MB.
    paths = tmp_path / f"short.{suffix}", tmp_path / f"long.{suffix}"
    for path, length in zip(paths, (10, seconds), strict=True):
        if suffix == "m4a":
            write(path, np.zeros((length * 16_000, 1), np.float32), 16_000)
        else:
            with soundfile.SoundFile(path, "w", 16_000, 1) as file:
                for _ in range(length // 10):
                    file.write(np.zeros(160_000, np.int16))
    starts = map(str, (seconds - 6, 17, seconds // 2))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, paths), *starts], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 * 1024  # KiB


def test_a_long_part_among_many_short_ones_is_not_copied_for_each(recording, monkeypatch):
    joined = []
    concatenate = np.concatenate

    def counting(pieces):
        result = concatenate(pieces)
        joined.append(len(result))
        return result

    monkeypatch.setattr(recordings.np, "concatenate", counting)
    parts_of(recording("mp3", "MPEG_LAYER_III"), [Span(0.0, 23.0), *(Span(n / 10, n / 10 + 0.1) for n in range(200))])
    assert sum(joined) == (23 + 20) * 16_000


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("mp3", "MPEG_LAYER_III"), ("m4a", "aac")])
def test_no_file_stays_open_where_the_rest_is_not_wanted(recording, suffix, subtype):
    path = recording(suffix, subtype)
    before = os.listdir("/proc/self/fd")
    parts = read_parts(path, [Span(0.0, 1.0), Span(1.0, 2.0)])
    next(parts)
    parts.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_parts_of_a_recording_are_none(recording):
    assert list(read_parts(recording("wav", "PCM_16"), [])) == []
    with pytest.raises(AudioError):
        list(read_parts(Path("gone.wav"), []))
