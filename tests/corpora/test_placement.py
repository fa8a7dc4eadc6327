"""Whole files stay, parts are cut out; each utterance gets its own audio or its own reason, whatever befalls others."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from corpora_files import noise, write_audio
from helpers.files import DAMAGES, no_file_beyond, recorded_disk, tree

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.audio.samples import from_pcm16
from simulsa_plugin.corpora import placement
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.placement import Placed, place_audio
from simulsa_plugin.corpora.utterance import Utterance
from simulsa_plugin.errors import AudioError, StorageError, UsageError
from simulsa_plugin.files.atomic import UNFINISHED

RATE = 16_000


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "out").mkdir()
    return CorpusLayout(tmp_path / "out", "toy")


def utterances(*places):
    """From (file, start, end[, channel]) or (file,)."""
    return [
        Utterance(str(number), place[0], Span(*place[1:]) if place[1:] else None, f"Satz {number}")
        for number, place in enumerate(places)
    ]


def reasons(placed):
    return [one.reason or None for one in placed]


def sixteen_bits(samples):
    """What PCM16 keeps of samples."""
    return np.clip(np.floor(samples.astype(np.float64) * 32768 + 0.5), -32768, 32767) / 32768


def test_whole_files_stay_where_they_are_and_nothing_is_written(tmp_path, layout):
    names = ("a.wav", "b.mp3", "c.flac", "d.m4a", "e.ogg")
    files = [write_audio(tmp_path / name, 2.0, 48_000, 2) for name in names]
    placed = place_audio(utterances(*((file,) for file in files)), layout, 2)
    assert [one.audio for one in placed] == files
    assert [one.seconds for one in placed] == pytest.approx([2.0] * 5, abs=0.05)
    assert reasons(placed) == [None] * 5
    assert list(layout.out.iterdir()) == []


def test_parts_are_16_khz_mono_pcm16_named_after_the_utterance(tmp_path, layout):
    file = write_audio(tmp_path / "a.wav", 4.0, 48_000, 2)
    placed = place_audio(utterances(*[(file,)] * 12, (file, 1.0, 2.5)), layout, 1)
    assert placed[12] == Placed(layout.out / "toy_corpus" / "audio" / "00000" / "00000012.wav", 1.5)
    assert list(tree(layout.out)) == ["toy_corpus/audio/00000/00000012.wav", "toy_corpus/parts.jsonl"]
    header = soundfile.info(placed[12].audio)
    assert (header.samplerate, header.channels, header.subtype, header.frames) == (16_000, 1, "PCM_16", 24_000)
    whole, _ = soundfile.read(file, dtype="float32")
    part = torch.from_numpy(whole[48_000 : 48_000 * 5 // 2].mean(axis=1, dtype=np.float32))
    part = torchaudio.functional.resample(part, 48_000, 16_000).numpy()
    np.testing.assert_allclose(read_mono(placed[12].audio), sixteen_bits(part), atol=1.01 / 32768)
    assert np.mean(read_mono(placed[12].audio) == sixteen_bits(part)) > 0.999  # halves apart


def test_a_thousand_files_are_in_one_folder(tmp_path, layout):
    file = write_audio(tmp_path / "a.wav", 11.0)
    placed = place_audio(utterances(*((file, number / 100, number / 100 + 0.01) for number in range(1001))), layout, 2)
    assert placed[999].audio == layout.audio / "00000" / "00000999.wav"
    assert placed[1000].audio == layout.audio / "00001" / "00001000.wav"
    assert len(list((layout.audio / "00000").iterdir())) == 1000


@pytest.mark.parametrize(
    ("span", "channels", "whole"),
    [
        ((0.0, None), 1, True),
        ((0.0, 2.0), 1, True),
        ((0.0, 1.995), 1, True),  # as manifests round
        ((0.0, 2.005), 1, True),
        ((0.0, 1.985), 1, False),
        ((0.0, 2.2), 1, False),
        ((0.0001, None), 1, False),
        ((0.0, 2.0, 0), 1, True),
        ((0.0, None, None), 2, True),
        ((0.0, 2.0, 0), 2, False),
        ((0.0, None, 1), 2, False),
    ],
)
def test_a_span_that_leaves_nothing_out_is_the_file_itself(tmp_path, layout, span, channels, whole):
    file = write_audio(tmp_path / "a.wav", 2.0, RATE, channels)
    (placed,) = place_audio(utterances((file, *span)), layout, 1)
    assert (placed.audio == file) == whole
    assert reasons([placed]) == [None]


@pytest.mark.parametrize("span", [(0.0, 2.0), (0.0, None), (0.5, 1.0)])
def test_a_channel_that_a_file_lacks_is_not_the_file_itself(tmp_path, layout, span):
    file = write_audio(tmp_path / "a.wav", 2.0)
    assert reasons(place_audio(utterances((file, *span, 1)), layout, 1)) == ["no_channel"]


def test_each_channel_of_a_conversation_is_its_own(tmp_path, layout):
    samples = noise(2.0, RATE, 2)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    stored, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    placed = place_audio(utterances(*((tmp_path / "a.wav", 0.0, 2.0, channel) for channel in (1, 0))), layout, 1)
    np.testing.assert_array_equal(read_mono(placed[0].audio), stored[:, 1])
    np.testing.assert_array_equal(read_mono(placed[1].audio), stored[:, 0])


@pytest.mark.parametrize("workers", [1, 2, 7, None])
def test_every_utterance_gets_its_own_audio_whoever_reads_it(tmp_path, layout, workers):
    files = [write_audio(tmp_path / f"{seed}.wav", 3.0, seed=seed) for seed in range(9)]
    stored = {file: soundfile.read(file, dtype="float32")[0] for file in files}
    rng = random.Random(3)
    places = []
    for _ in range(300):
        start = rng.randrange(40_000)
        places.append((rng.choice(files), start / RATE, (start + rng.randrange(1, 8000)) / RATE))
    placed = place_audio(utterances(*places), layout, workers)
    for number, (one, (file, start, end)) in enumerate(zip(placed, places, strict=True)):
        assert one.audio == layout.audio_file(number, ".wav")
        samples = stored[file][round(start * RATE) : round(end * RATE)]
        np.testing.assert_array_equal(read_mono(one.audio), samples)
        assert one.seconds == len(samples) / RATE


def test_many_short_files_keep_their_order(tmp_path, layout):
    files = [write_audio(tmp_path / f"{number}.wav", 0.1 + number / 1000, seed=number) for number in range(150)]
    places = [(file,) if number % 3 else (file, 0.01, 0.06) for number, file in enumerate(files)]
    random.Random(5).shuffle(places)
    placed = place_audio(utterances(*places), layout, 3)
    for number, (one, place) in enumerate(zip(placed, places, strict=True)):
        assert one.audio == (place[0] if len(place) == 1 else layout.audio_file(number, ".wav"))
        assert one.seconds == (0.05 if len(place) > 1 else round(0.1 + int(place[0].stem) / 1000, 3))


# ------------------------------------------------------------------------------------------------------ what is broken


def bad_files(folder):
    """(file, reason) of everything that a corpus may have in the place of audio."""
    contents = {
        "zero.mp3": (b"", "empty"),
        "gone.mp3": (None, "missing"),
        "text.mp3": (b"this is no mp3 " * 200, "broken"),
        "noise.mp3": (np.random.default_rng(0).bytes(30_000), "broken"),
        "zero.m4a": (b"", "empty"),
        "torn.m4a": (write_audio(folder / "whole.m4a", 3.0).read_bytes()[:9000], "broken"),
        "torn.wav": (write_audio(folder / "whole.wav", 3.0).read_bytes()[:20], "broken"),
    }
    for name, (content, reason) in contents.items():
        if content is not None:
            (folder / name).write_bytes(content)
        yield folder / name, reason
    (folder / "folder.mp3").mkdir()
    yield folder / "folder.mp3", "missing"


@pytest.mark.parametrize("workers", [1, 4])
def test_files_that_cannot_be_used_have_their_reason_and_spoil_no_other(tmp_path, layout, workers):
    good = write_audio(tmp_path / "good.wav", 2.0)
    bad = list(bad_files(tmp_path))
    places = [place for file, _ in bad for place in ((file,), (good, 0.5, 1.0), (file, 0.5, 1.0))]
    placed = place_audio(utterances(*places, (good,)), layout, workers)
    assert reasons(placed) == [*(one for _, reason in bad for one in (reason, None, reason)), None]
    assert [one.audio is None for one in placed] == [bool(reason) for reason in reasons(placed)]
    assert len(tree(layout.audio)) == len(bad)


def test_parts_that_cannot_be_had_have_their_reason_and_spoil_no_other(tmp_path, layout):
    samples = noise(4.0, RATE)
    samples[20_000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    spans = [(3.0, 9.0), (1.0, 1.5), (0.5, 1.0), (2.0, 2.0), (3.9, 4.3), (0.5, 1.0, 3), (8.0, 9.0), (3.0, 3.5)]
    placed = place_audio(utterances(*((tmp_path / "a.wav", *span) for span in spans)), layout, 1)
    assert reasons(placed) == [
        "beyond_end", "broken", None, "no_duration", None, "no_channel", "beyond_end", None,
    ]  # fmt: skip
    assert [placed[number].seconds for number in (2, 4, 7)] == pytest.approx([0.5, 0.1, 0.5])


def test_a_recording_that_breaks_off_keeps_what_came_before(tmp_path, layout):
    whole = write_audio(tmp_path / "whole.mp3", 30.0, 48_000, 1)
    (tmp_path / "torn.mp3").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    spans = [(float(start), start + 1.0) for start in (25, 3, 17, 9)]
    placed = place_audio(utterances(*((tmp_path / "torn.mp3", *span) for span in spans)), layout, 1)
    assert [bool(reason) for reason in reasons(placed)] == [True, False, True, False]
    untorn = place_audio(utterances((whole, 9.0, 10.0)), CorpusLayout(tmp_path / "other", "toy"), 1)
    assert placed[3].audio.read_bytes() == untorn[0].audio.read_bytes()


def test_parts_that_were_had_stay_when_the_recording_then_fails(tmp_path, layout, monkeypatch):
    file, parts = write_audio(tmp_path / "a.wav", 3.0), placement.read_parts

    def failing(recording, spans):
        yield next(parts(recording, spans))
        raise AudioError("broken", "the disk has a bad block")

    monkeypatch.setattr(placement, "read_parts", failing)
    placed = place_audio(utterances((file,), (file, 1.0, 1.5), (file, 0.5, 1.0), (file, 2.0, 2.5)), layout, 1)
    assert reasons(placed) == [None, "broken", None, "broken"]
    assert placed[2] == Placed(layout.audio_file(2, ".wav"), 0.5)


# -------------------------------------------------------------------------------------------------- stopped, and again


def test_what_an_earlier_run_has_written_is_taken_as_it_is(tmp_path, layout, monkeypatch):
    file = write_audio(tmp_path / "a.m4a", 4.0, 44_100, 2)
    wanted = utterances((file, 0.5, 1.0), (file,), (file, 3.0, 99.0), (file, 2.0, 2.7))
    first, before = place_audio(wanted, layout, 1), tree(layout.out)
    read = []

    def reading(recording, spans):
        read.append((recording, list(spans)))
        return parts(recording, spans)

    parts = placement.read_parts
    monkeypatch.setattr(placement, "read_parts", reading)
    assert place_audio(wanted, layout, 1) == first
    assert read == [(file, [Span(3.0, 99.0)])]  # what has no file may have one now
    assert tree(layout.out) == before


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_part_that_a_crash_has_damaged_is_cut_again(tmp_path, layout, damage):
    file = write_audio(tmp_path / "a.wav", 4.0)
    wanted = utterances((file, 0.5, 1.0), (file, 1.0, 2.0), (file, 2.0, 2.7))
    first, before = place_audio(wanted, layout, 1), tree(layout.out)
    part = layout.audio_file(1, ".wav")
    part.write_bytes(damage(part.read_bytes()))
    assert tree(layout.out) != before
    assert place_audio(wanted, layout, 1) == first
    assert tree(layout.out) == before


def test_a_part_of_another_span_is_cut_again(tmp_path, layout):
    file = write_audio(tmp_path / "a.wav", 4.0)
    place_audio(utterances((file, 0.5, 1.0)), layout, 1)
    assert place_audio(utterances((file, 0.5, 2.0)), layout, 1)[0].seconds == 1.5


def test_parts_are_on_the_disk_before_what_says_so(tmp_path, layout, monkeypatch):
    events = recorded_disk(monkeypatch)
    file = write_audio(tmp_path / "a.wav", 4.0)
    paths = [one.audio for one in place_audio(utterances((file, 0.5, 1.0), (file, 1.0, 2.0)), layout, 1)]
    written, named = events.index(("replace", layout.parts)), events.index(("fsync", layout.folder))
    assert max(events.index(("fsync", path)) for path in (*paths, paths[0].parent)) < written < named
    assert named < events.index(("unlink", layout.parts_noted))


def test_what_killed_writers_left_is_gone(tmp_path, layout):
    file = write_audio(tmp_path / "a.wav", 2.0)
    folder = layout.audio_file(0, ".wav").parent
    folder.mkdir(parents=True)
    (folder / f".00000000.wav.abcd{UNFINISHED}").write_bytes(b"RIFF")
    (folder / f".00000007.mp3.abcd{UNFINISHED}").write_bytes(b"RIFF")
    place_audio(utterances((file, 0.5, 1.0)), layout, 1)
    assert [path.name for path in folder.iterdir()] == ["00000000.wav"]


def test_a_full_disk_is_one_storage_error_and_with_room_it_goes_on(tmp_path, layout):
    files = [write_audio(tmp_path / f"{seed}.wav", 4.0, seed=seed) for seed in range(4)]
    wanted = utterances(*((file, *span) for file in files for span in ((0.5, 0.7), (1.0, 3.5))))
    undisturbed = place_audio(wanted, CorpusLayout(tmp_path / "undisturbed", "toy"), 1)
    with no_file_beyond(40_000), pytest.raises(StorageError, match="Make room and start again") as caught:
        place_audio(wanted, layout, 2)
    assert "\n" not in str(caught.value)
    assert not list(layout.out.rglob(f"*{UNFINISHED}"))
    placed = place_audio(wanted, layout, 2)
    assert [one.seconds for one in placed] == [one.seconds for one in undisturbed]
    assert list(tree(layout.out).values()) == list(tree(tmp_path / "undisturbed").values())


@pytest.mark.parametrize("error", [StorageError("Cannot write a: No space left on device."), KeyboardInterrupt()])
def test_threads_stop_between_two_parts_when_one_fails(tmp_path, layout, monkeypatch, error):
    # Else an hour of audio would be cut before the user sees why.
    files = [write_audio(tmp_path / f"{name}.wav", 3.0) for name in "ab"]
    busy, failed, written = threading.Event(), threading.Event(), []

    def writing(waveform, path, *_):
        if path == layout.audio_file(0, ".wav"):
            busy.wait(60)
            raise error
        written.append(path)
        busy.set()
        failed.wait(60)
        return Placed(path, 1.0)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, **how):
            failed.set()
            super().shutdown(**how)

    monkeypatch.setattr(placement, "_write", writing)
    monkeypatch.setattr(placement, "ThreadPoolExecutor", Pool)
    places = [(files[0], 0.5, 1.0), *((files[1], number / 100, number / 100 + 0.5) for number in range(1, 200))]
    with pytest.raises(type(error)):
        place_audio(utterances(*places), layout, 2)
    assert written == [layout.audio_file(1, ".wav")]


def test_loud_audio_is_clipped_and_not_wrapped_around(tmp_path, layout):
    samples = np.full((RATE, 1), 1.5, np.float32)
    samples[: RATE // 2] = -1.5
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    (placed,) = place_audio(utterances((tmp_path / "a.wav", 0.25, 0.75)), layout, 1)
    expected = from_pcm16(np.repeat(np.array([-32768, 32767], np.int16), RATE // 4))
    np.testing.assert_array_equal(read_mono(placed.audio), expected)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "/a", ".a", "a b", "a,b", "a\0", "a\nb", "ä/ö", "a\\b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="The dataset cannot be called"):
        CorpusLayout(tmp_path, name)


@pytest.mark.parametrize("name", ["covost2_en_zh-CN_test", "größe", "a.b", "v1.1+x", "2024"])
def test_usual_names_are_taken(tmp_path, name):
    assert CorpusLayout(tmp_path, name).rows == tmp_path / f"{name}.jsonl"
