"""Audio named by references: what is read is what `read_mono` reads from the same file on a disk."""

import http.server
import io
import multiprocessing
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from simulsa_plugin.audio import references
from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.recordings import Span, audio_info, read_parts
from simulsa_plugin.audio.references import is_reference, parquet_reference, tar_reference
from simulsa_plugin.errors import AudioError, StorageError


def sound(number=0, seconds=0.5, form="WAV"):
    """An encoded file of noise, and its samples."""
    samples = np.random.default_rng(number).integers(-9000, 9000, int(16000 * seconds)).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=form)
    return file.getvalue(), samples / np.float32(32768)


def shard(path, members):
    """Write a tar; return member → reference to it, the offsets as Python's tarfile finds them."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {one.name: (one.offset_data, one.offset_data + one.size) for one in tar}


def table(path, sounds, group=10):
    column = [{"bytes": data, "path": f"{number}.wav"} for number, data in enumerate(sounds)]
    parquet.write_table(pyarrow.table({"audio": column, "text": ["x"] * len(sounds)}), path, row_group_size=group)


@pytest.mark.parametrize(
    "name",
    [
        "/data/a.wav",
        "a.wav",
        "file:///etc/passwd",
        "local:///etc/passwd",
        "simplecache::s3://bucket/a.wav",
        "zip://a.wav::s3://bucket/a.zip",
        "tar://a.wav::s3://bucket/a.tar",
        "tar://a.wav::../a.tar#512-1024",
        "tar://a.wav::file:///a.tar#512-1024",
        "parquet://audio/1::tar://b.parquet::/c.tar#512-1024",
        "parquet://audio/x::/data/a.parquet",
        "parquet://audio/1::data/a.parquet",
        "s3://bucket/a\nb",
        None,
        7,
    ],
)
def test_other_names_are_no_references(name):
    assert not is_reference(name)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_an_object_is_read_like_a_file(store, tmp_path, form):
    data, _ = sound(form=form)
    (tmp_path / "a").write_bytes(data)
    store.put(f"a.{form.lower()}", data)
    url = f"s3://corpus/a.{form.lower()}"
    assert np.array_equal(read_mono(url), read_mono(tmp_path / "a"))
    assert audio_info(url) == audio_info(tmp_path / "a")


def test_parts_of_a_recording_in_a_store(store):
    data, samples = sound(seconds=3)
    store.put("talk.wav", data)
    found = dict(read_parts("s3://corpus/talk.wav", [Span(2.0, 2.5), Span(0.0, 1.0)]))
    assert np.array_equal(found[0], samples[32000:40000])
    assert np.array_equal(found[1], samples[:16000])


def test_processes_that_are_forked_read_as_well(store):
    data, samples = sound()
    store.put("a b.wav", data)
    assert np.array_equal(read_mono("s3://corpus/a b.wav"), samples)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(read_mono, ["s3://corpus/a b.wav"] * 4).get(timeout=60)
    assert all(np.array_equal(one, samples) for one in found)


def test_threads_share_the_connections(store):
    store.put("a.wav", sound()[0])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_mono, ["s3://corpus/a.wav"] * 32))
    assert all(np.array_equal(one, found[0]) for one in found)


def test_what_is_not_there_is_missing_and_an_empty_object_is_empty(store):
    store.put("empty.wav", b"")
    for name, reason in [("nothing.wav", "missing"), ("empty.wav", "empty")]:
        with pytest.raises(AudioError) as error:
            read_mono(f"s3://corpus/{name}")
        assert error.value.reason == reason
        assert f"s3://corpus/{name}" in str(error.value)


def test_text_is_not_audio(store):
    store.put("a.wav", b"#!/bin/sh\n" * 100)
    with pytest.raises(AudioError) as error:
        read_mono("s3://corpus/a.wav")
    assert error.value.reason == "broken"


def test_a_missing_bucket_stops_the_run_instead_of_skipping_every_row(store):
    with pytest.raises(StorageError, match=r"Cannot read s3://other/a\.wav: .*bucket does not exist"):
        read_mono("s3://other/a.wav")


def test_a_store_that_does_not_answer_stops_the_run_without_naming_a_secret(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"Cannot read s3://corpus/a\.wav: Could not connect") as error:
        read_mono("s3://corpus/a.wav")
    assert "of-the-tests" not in str(error.value)


def test_a_large_object_is_refused_before_it_is_read_whole(store, monkeypatch):
    store.put("a.wav", sound()[0])
    monkeypatch.setattr(references, "MAX_BYTES", 1000)
    with pytest.raises(AudioError) as error:
        read_mono("s3://corpus/a.wav")
    assert error.value.reason == "too_long"


def test_members_of_a_tar_in_a_store_are_read_alone(store, tmp_path):
    sounds = [sound(number, seconds=2) for number in range(50)]
    places = shard(tmp_path / "0.tar", {f"talk/{number}.wav": data for number, (data, _) in enumerate(sounds)})
    store.put("0.tar", (tmp_path / "0.tar").read_bytes())
    for number in (31, 4):
        name = f"talk/{number}.wav"
        assert np.array_equal(read_mono(tar_reference(name, "s3://corpus/0.tar", *places[name])), sounds[number][1])
    # Two members and the block of 512 bytes before each.
    assert store.bytes_read("0.tar") == 2 * (len(sounds[0][0]) + 512)


def test_members_of_a_local_tar_also_with_long_names(tmp_path):
    names = ["a.wav", "ä/ö.wav", f"{'d' * 60}/{'n' * 120}.wav"]
    sounds = [sound(number) for number in range(3)]
    places = shard(tmp_path / "0.tar", dict(zip(names, (data for data, _ in sounds), strict=True)))
    for name, (_, samples) in zip(names, sounds, strict=True):
        assert np.array_equal(read_mono(tar_reference(name, str(tmp_path / "0.tar"), *places[name])), samples)


def test_another_place_in_a_tar_is_refused(tmp_path):
    places = shard(tmp_path / "0.tar", {"a.wav": sound(1)[0], "b.wav": sound(2)[0]})
    start, stop = places["a.wav"]
    tar = str(tmp_path / "0.tar")
    wrong = [("b.wav", start, stop), ("a.wav", start, stop - 1), ("a.wav", start + 1, stop + 1), ("a.wav", 0, 44)]
    for name, begin, end in [*wrong, ("a.wav", 10**12, 10**12 + 5)]:
        with pytest.raises(AudioError) as error:
            read_mono(tar_reference(name, tar, begin, end))
        assert error.value.reason == "broken"
    for container in (str(tmp_path / "1.tar"), str(tmp_path)):
        with pytest.raises(AudioError) as error:
            read_mono(tar_reference("a.wav", container, start, stop))
        assert error.value.reason == "missing"


def test_a_file_that_is_no_tar_gives_nothing_away(tmp_path):
    (tmp_path / "secret.wav").write_bytes(sound()[0])
    with pytest.raises(AudioError, match="does not hold it there"):
        read_mono(tar_reference("a.wav", str(tmp_path / "secret.wav"), 512, 1024))


def test_rows_of_a_parquet_file_are_read_by_row_group(store, tmp_path):
    sounds = [sound(number, seconds=2) for number in range(40)]
    table(tmp_path / "0.parquet", [data for data, _ in sounds])
    whole = (tmp_path / "0.parquet").read_bytes()
    store.put("0.parquet", whole)
    for number in (25, 21, 29):
        found = read_mono(parquet_reference("audio", number, "s3://corpus/0.parquet"))
        assert np.array_equal(found, sounds[number][1])
    # One of the four row groups, once, and the footer.
    assert len(whole) / 5 < store.bytes_read("0.parquet") < len(whole) / 3


def test_a_column_of_bytes_in_a_local_parquet_file(tmp_path):
    data, samples = sound()
    parquet.write_table(pyarrow.table({"flac": [data, None]}), tmp_path / "0.parquet")
    local = str(tmp_path / "0.parquet")
    assert np.array_equal(read_mono(parquet_reference("flac", 0, local)), samples)
    for column, row, reason in [("flac", 1, "missing"), ("flac", 2, "broken"), ("text", 0, "broken")]:
        with pytest.raises(AudioError) as error:
            read_mono(parquet_reference(column, row, local))
        assert error.value.reason == reason


def test_a_broken_parquet_file_is_broken_audio(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    with pytest.raises(AudioError) as error:
        read_mono(parquet_reference("audio", 0, str(tmp_path / "0.parquet")))
    assert error.value.reason == "broken"


def test_row_groups_are_held_in_bounded_memory(tmp_path, monkeypatch):
    table(tmp_path / "0.parquet", [sound(number)[0] for number in range(40)])
    groups = references._RowGroups()
    monkeypatch.setattr(references, "_ROW_GROUPS", groups)
    monkeypatch.setattr(references, "_KEPT_GROUP_BYTES", 400_000)  # a group of ten has 160 kB and its offsets
    for number in range(0, 40, 10):
        read_mono(parquet_reference("audio", number, str(tmp_path / "0.parquet")))
    assert len(groups._groups) == 2


@pytest.fixture
def web_server(tmp_path):
    """A server without ranges, as http.server is."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_address(web_server, tmp_path):
    data, samples = sound()
    (tmp_path / "a.wav").write_bytes(data)
    assert np.array_equal(read_mono(f"{web_server}/a.wav?Signature=secret"), samples)
    with pytest.raises(AudioError) as error:
        read_mono(f"{web_server}/b.wav?Signature=secret")
    assert error.value.reason == "missing"
    assert "secret" not in str(error.value)


def test_a_part_from_a_server_without_ranges_is_refused(web_server, tmp_path):
    places = shard(tmp_path / "0.tar", {"a.wav": sound()[0]})
    with pytest.raises(StorageError, match="its server gives the whole"):
        read_mono(tar_reference("a.wav", f"{web_server}/0.tar", *places["a.wav"]))
