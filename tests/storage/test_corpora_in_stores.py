"""Corpora in a store, and corpora whose audio lies in containers: rows name the audio, and none of it is copied."""

import io
import json
import os
import tarfile
from collections import Counter

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.references import tar_reference
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.formats import webdataset
from simulsa_plugin.corpora.prepare import prepare, read_corpus, splits_for
from simulsa_plugin.corpora.prompts import TranslationPrompt
from simulsa_plugin.errors import DatasetError, MissingExtraError, UsageError
from simulsa_plugin.files import remote
from simulsa_plugin.files.json_files import read_jsonl


def sound(number, seconds=2.0):
    samples = np.random.default_rng(number).uniform(-0.5, 0.5, int(16000 * seconds)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV")
    return file.getvalue()


def make_shard(members):
    """The bytes of a tar; `members` are (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def samples(*numbers, suffix="wav"):
    for number in numbers:
        yield f"{number:04d}.{suffix}", sound(number)
        yield f"{number:04d}.json", json.dumps({"translation": f"Satz {number}"}).encode()


def settings_of(form, folder, **keys):
    return CorpusSettings.from_keys({"simulsa_corpus": form, "simulsa_corpus_dir": str(folder)} | keys)


def listing_of(form, folder, tmp_path, **keys):
    settings = settings_of(form, folder, **keys)
    layout = CorpusLayout(tmp_path / "out", "corpus")
    return read_corpus(settings, splits_for(settings, evaluation=False), layout, writes=False)


def found(listing):
    return [(row.id, row.translation) for row in listing.utterances]


def prepared(form, folder, tmp_path, **keys):
    settings = settings_of(form, folder, **keys)
    prompt = TranslationPrompt("", "<audio>Translate.", "")
    splits = splits_for(settings, evaluation=False)
    return prepare(settings, splits, prompt, tmp_path / "out", "corpus"), list(
        read_jsonl(tmp_path / "out/corpus.jsonl")
    )


# WebDataset


def test_shards_in_a_store_are_listed_without_their_audio(store, tmp_path):
    shards = {"wds/train-000000.tar": make_shard(samples(*range(20))), "wds/train-000001.tar": make_shard(samples(20))}
    for key, data in shards.items():
        store.put(key, data)
    made, rows = prepared("webdataset", "s3://corpus/wds", tmp_path)
    assert [row["messages"][-1]["content"] for row in rows] == [f"Satz {number}" for number in range(21)]
    assert store.bytes_read("wds/train-000000.tar") < 0.1 * len(shards["wds/train-000000.tar"])
    assert made.manifest["counts"] == {"utterances": 21, "hours": None, "over_30_seconds": 0, "renormalized": 0}
    for number in (0, 17, 20):
        assert np.array_equal(read_mono(rows[number]["audios"][0]), read_mono(io.BytesIO(sound(number))))
    assert not (tmp_path / "out/corpus_corpus/audio").exists()


def test_a_prepared_corpus_is_not_listed_again(store, tmp_path):
    store.put("a.tar", make_shard(samples(0)))
    first = prepared("webdataset", "s3://corpus/a.tar", tmp_path)
    store.requests.clear()
    assert prepared("webdataset", "s3://corpus/a.tar", tmp_path) == first
    assert store.requests == []


def test_local_shards_give_the_same_rows(store, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(make_shard(samples(2 * number, 2 * number + 1)))
        store.put(f"wds/{number}.tar", (tmp_path / f"{number}.tar").read_bytes())
    local = listing_of("webdataset", tmp_path, tmp_path)
    stored = listing_of("webdataset", "s3://corpus/wds/", tmp_path)
    assert found(local) == found(stored)
    assert [str(row.audio).replace("s3://corpus/wds", str(tmp_path)) for row in stored.utterances] == [
        str(row.audio) for row in local.utterances
    ]


def test_texts_and_roles_of_samples(tmp_path):
    talk = {"de": {"text": "Hallo"}, "start": 0.5, "end": 1.5, "name": "talk-7"}
    members = [
        ("x/a.b.flac", sound(1)), ("x/a.txt", b"ein Text\n"), ("x/a.cls", b"5"),
        ("x/b.flac", sound(2)), ("x/b.json", json.dumps(talk).encode()), ("x/b.noisy.flac", sound(3)),
        ("c.flac", sound(4)), ("c.json", b"[1]"),
        ("d.txt", b"ohne Ton"),
        ("e.flac", sound(5)),
    ]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(make_shard(members))
    columns = {"simulsa_columns": {"audio": "flac", "translation": "de.text", "id": "name"}}
    listing = listing_of("webdataset", tmp_path / "a.tar", tmp_path, **columns)
    assert found(listing) == [("talk-7", "Hallo")]
    assert (listing.utterances[0].span.start_seconds, listing.utterances[0].span.end_seconds) == (0.5, 1.5)
    assert [(row.id, row.reason) for row in listing.dropped] == [
        ("x/a", "no_audio"), ("c", "broken_row"), ("d", "no_audio"), ("e", "empty_translation"),
    ]  # fmt: skip
    plain = listing_of("webdataset", tmp_path / "a.tar", tmp_path)
    assert found(plain) == [("x/a", "ein Text")]
    assert Counter(row.reason for row in plain.dropped)["no_audio"] == 2  # `d`, and `b`, of which two are audio


def test_splits_are_names_of_shards_or_folders(store, tmp_path):
    for key in ("train-0.tar", "train_extra-0.tar", "dev-0.tar", "data/test/0.tar", "trainer-0.tar"):
        store.put(key, make_shard([(f"{key[:-4].replace('/', '_')}.wav", sound(0)), *samples(1)]))
    for split, count in (("train", 2), ("dev", 1), ("test", 1)):
        listing = listing_of("webdataset", "s3://corpus", tmp_path, simulsa_split=split)
        assert listing.rows == 2 * count
    with pytest.raises(DatasetError, match=r"s3://corpus has no shards \*\.tar"):
        listing_of("webdataset", "s3://corpus", tmp_path, simulsa_split="validation")


def test_a_segment_of_a_member_is_cut_out(store, tmp_path):
    text = json.dumps({"translation": "Teil", "start": 0.5, "end": 1.0}).encode()
    store.put("a.tar", make_shard([("a.wav", sound(1)), ("a.json", text)]))
    _, rows = prepared("webdataset", "s3://corpus/a.tar", tmp_path)
    (audio,) = rows[0]["audios"]
    assert os.path.isfile(audio)
    whole = read_mono(io.BytesIO(sound(1)))
    assert np.abs(read_mono(audio) - whole[8000:16000]).max() < 1e-4  # 16-bit


@pytest.mark.parametrize(
    "shard",
    [b"", b"no tar" * 1000, make_shard(samples(0))[:40_000], b"\0" * 100],
    ids=["empty", "text", "cut off", "zeros"],
)
def test_what_is_no_whole_shard_is_refused(tmp_path, shard):
    (tmp_path / "a.tar").write_bytes(shard)
    with pytest.raises(DatasetError, match=r"a\.tar cannot be read as a tar"):
        listing_of("webdataset", tmp_path / "a.tar", tmp_path)


def test_headers_that_claim_much_are_refused_before_memory_is_spent(tmp_path):
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    chain = tarfile.TarInfo("././@LongLink")
    chain.type, chain.size = tarfile.GNUTYPE_LONGNAME, 1
    for data in (long_name.tobuf(), (chain.tobuf() + b"a".ljust(512, b"\0")) * 5000):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(DatasetError, match="cannot be read as a tar"):
            listing_of("webdataset", tmp_path / "a.tar", tmp_path)


def test_names_in_a_shard_lead_nowhere_else(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_shard([("../../etc/x.wav", sound(0)), ("../../etc/x.txt", b"Satz")]))
    (row,) = listing_of("webdataset", tmp_path / "a.tar", tmp_path).utterances
    assert row.audio == tar_reference("../../etc/x.wav", str(tmp_path / "a.tar"), 512, 512 + len(sound(0)))
    assert len(read_mono(row.audio)) == 32000


# Tables


def write_parquet(path, numbers, group=5):
    audio = [{"bytes": sound(number), "path": f"{number}.wav"} for number in numbers]
    texts = [f"Satz {number}" for number in numbers]
    parquet.write_table(pyarrow.table({"audio": audio, "translation": texts}), path, row_group_size=group)
    return path.read_bytes()


def test_parquet_files_in_a_store_are_listed_without_their_audio(store, tmp_path):
    sizes = {}
    for shard in range(2):
        name = f"train-{shard:05d}-of-00002.parquet"
        data = write_parquet(tmp_path / name, range(10 * shard, 10 * shard + 10))
        store.put(f"data/{name}", data)
        sizes[f"data/{name}"] = len(data)
    _, rows = prepared("table", "s3://corpus", tmp_path, simulsa_split="train")
    assert [row["messages"][-1]["content"] for row in rows] == [f"Satz {number}" for number in range(20)]
    assert all(store.bytes_read(key) < 0.15 * size for key, size in sizes.items())
    for number in (3, 12, 19):
        assert np.array_equal(read_mono(rows[number]["audios"][0]), read_mono(io.BytesIO(sound(number))))


def test_local_parquet_files_keep_their_audio_where_asked(tmp_path):
    write_parquet(tmp_path / "a.parquet", range(6))
    _, rows = prepared("table", tmp_path / "a.parquet", tmp_path, simulsa_audio_in_place=True)
    assert [row["audios"] for row in rows] == [[f"parquet://audio/{row}::{tmp_path}/a.parquet"] for row in range(6)]
    assert np.array_equal(read_mono(rows[4]["audios"][0]), read_mono(io.BytesIO(sound(4))))
    assert not (tmp_path / "out/corpus_corpus/audio").exists()


def test_a_reference_as_a_text_in_a_table_is_not_trusted(tmp_path):
    rows = [{"audio": f"parquet://audio/0::{tmp_path}/b.parquet", "translation": "Satz"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_parquet(tmp_path / "b.parquet", range(1))
    for in_place in (True, False):
        with pytest.raises(DatasetError, match="audio_not_a_path"):
            listing_of("table", tmp_path / "a.parquet", tmp_path, simulsa_audio_in_place=in_place)


@pytest.mark.parametrize("name", ["train.tsv", "train.jsonl"])
def test_a_text_table_in_a_store_names_audio_beside_it(store, tmp_path, name):
    rows = [
        ("wav/0.wav", "eins"),
        ("s3://corpus/set/wav/1.wav", "zwei"),
        ("s3://other/2.wav", "drei"),
        ("../3.wav", "v"),
    ]
    if name.endswith(".tsv"):
        text = "audio\ttranslation\n" + "".join(f"{audio}\t{text}\n" for audio, text in rows)
    else:
        text = "".join(json.dumps({"audio": audio, "translation": text}) + "\n" for audio, text in rows)
    store.put(f"set/{name}", text.encode())
    for place in ("s3://corpus/set", f"s3://corpus/set/{name}"):
        listing = listing_of("table", place, tmp_path)
        assert [row.audio for row in listing.utterances] == [f"s3://corpus/set/wav/{number}.wav" for number in (0, 1)]
        assert [row.reason for row in listing.dropped] == ["audio_outside"] * 2
        assert f"s3://corpus/set/{name}, line" in listing.dropped[0].cause


def test_a_local_table_names_audio_in_a_store(tmp_path):
    (tmp_path / "a.tsv").write_text("audio\ttranslation\n0.wav\teins\nhttps://a.org/x.wav\tzwei\n", encoding="utf-8")
    listing = listing_of("table", tmp_path / "a.tsv", tmp_path, simulsa_audio_dir="s3://corpus/wav/")
    assert [row.audio for row in listing.utterances] == ["s3://corpus/wav/0.wav"]
    assert [row.reason for row in listing.dropped] == ["audio_outside"]


def test_lengths_are_read_where_they_decide(store, tmp_path):
    store.put("a.tar", make_shard([*samples(0), ("1.wav", sound(1, seconds=5)), ("1.txt", b"lang")]))
    made, rows = prepared("webdataset", "s3://corpus/a.tar", tmp_path, simulsa_corpus_max_seconds=3)
    assert [row["id"] for row in rows] == ["0000"]
    assert made.manifest["dropped"] == {"over_max_seconds": 1}
    assert made.manifest["counts"]["hours"] == 0.001


# What cannot work is said before anything is read


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"simulsa_corpus": "mustc"},
            "mustc is read from a folder on this machine; allowed in a store: table, webdataset",
        ),
        ({"simulsa_corpus": "table", "simulsa_corpus_dir": "file:///data"}, "allowed: an address of s3, gs"),
        ({"simulsa_corpus": "table", "simulsa_audio_dir": "ftp://a/b"}, "simulsa_audio_dir is 'ftp://a/b'; allowed: "),
    ],
)
def test_addresses_that_cannot_be_read_are_refused(keys, said):
    with pytest.raises(UsageError, match=said):
        CorpusSettings.from_keys({"simulsa_corpus_dir": "s3://corpus/a"} | keys)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MissingExtraError, match=r"s3:// needs the package s3fs\. .*pip install '\.\[s3\]'"):
        listing_of("webdataset", "s3://corpus/a.tar", tmp_path)


def test_a_missing_corpus_is_named(store, tmp_path):
    with pytest.raises(DatasetError, match=r"s3://corpus/a\.tar does not exist"):
        listing_of("webdataset", "s3://corpus/a.tar", tmp_path)
    with pytest.raises(DatasetError, match=r"s3://corpus/none needs one file \*\.tsv; there: none"):
        listing_of("table", "s3://corpus/none", tmp_path)


def test_a_range_is_one_request(store):
    store.put("a", bytes(range(256)) * 100)
    handle = webdataset._open("s3://corpus/a")
    handle.seek(5000)
    assert handle.read(600) == (bytes(range(256)) * 100)[5000:5600]
    assert store.reads("a") == 1
    assert remote.size_of("s3://corpus/a") == 25600
