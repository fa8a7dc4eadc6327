"""Audio is read ahead of the walk by threads; what is cut and what is refused is what the walk alone would give."""

import threading

import pytest
from helpers.fakes import ByteModel, make_dataset

from simulsa_plugin.augmentation import clips
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import CutSampler
from simulsa_plugin.augmentation.method.selection import walk
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.errors import DatasetError, StorageError

SETTINGS = AugmentSettings(samples=6)


@pytest.fixture
def toy(tmp_path):
    return make_dataset(tmp_path / "offline", count=20)


def sample(dataset, tmp_path, settings=SETTINGS):
    layout = Layout(tmp_path / "out", dataset.name)
    return CutSampler(dataset, ByteModel(), settings, layout, write_clips=False).sample()


def needed(dataset, wanted):
    """The rows that a walk takes where all can be cut."""
    return [row for row, _ in zip(walk(dataset.name, len(dataset), SETTINGS.seed), range(wanted), strict=False)]


def test_several_files_are_read_at_once(toy, tmp_path, monkeypatch):
    reading, two, read = threading.Semaphore(0), threading.Event(), clips.read_mono

    def meeting(audio):
        if reading.acquire(blocking=False):  # another waits here
            two.set()
        reading.release()
        assert two.wait(30)
        return read(audio)

    expected = sample(toy, tmp_path)
    monkeypatch.setattr(clips, "read_mono", meeting)
    assert sample(toy, tmp_path) == expected


def test_large_files_are_read_one_at_a_time(toy, tmp_path, monkeypatch):
    threads, read = set(), clips.read_mono
    monkeypatch.setattr(clips, "read_mono", lambda audio: threads.add(threading.get_ident()) or read(audio))
    expected = sample(toy, tmp_path)
    assert threading.get_ident() not in threads
    threads.clear()
    monkeypatch.setattr(clips, "_LARGE_BYTES", 0)
    assert sample(toy, tmp_path) == expected
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("error", [DatasetError, StorageError])
def test_what_fails_stops_the_walk_where_it_is_needed_alone(toy, tmp_path, monkeypatch, place, error):
    expected, rows = sample(toy, tmp_path), needed(toy, SETTINGS.samples)
    failing = rows[-1] if place == "before" else next(row for row in walk("toy", 20, SETTINGS.seed) if row not in rows)
    find, read = toy.sample, clips.read_mono

    def fail(row):
        raise error(f"row {row} cannot be read")

    if error is DatasetError:
        monkeypatch.setattr(type(toy), "sample", lambda self, row: fail(row) if row == failing else find(row))
    else:
        name = find(failing).audio
        monkeypatch.setattr(clips, "read_mono", lambda audio: fail(failing) if audio == name else read(audio))
    if place == "after":
        assert sample(toy, tmp_path) == expected
    else:
        with pytest.raises(error, match=f"row {failing} cannot be read"):
            sample(toy, tmp_path)
