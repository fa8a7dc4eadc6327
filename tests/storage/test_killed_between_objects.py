"""Runs that are killed at any of their requests to a store: another machine goes on, and ends with the same bytes."""

import functools
import hashlib
import itertools
import math
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers.fakes import ByteModel, ClockModel, Killed, make_dataset, noise_samples, write_noise
from helpers.files import tree
from helpers.memory_store import MemoryStore

from simulsa_plugin.api.output_place import augmentation_at
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.prepare import prepare
from simulsa_plugin.corpora.prompts import TranslationPrompt
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.files import lease, mirror
from simulsa_plugin.sharding import Shard

OUT = "s3://corpus/out"
SETTINGS = AugmentSettings(samples=2, batch_size=1, portable=True)


@pytest.fixture
def store(monkeypatch):
    """One whose requests are the run's own: nothing is written in between."""
    monkeypatch.setattr(mirror, "PUSH_SECONDS", 3600.0)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    memory = MemoryStore()
    memory.stand_in(monkeypatch)
    return memory


def toy_dataset(tmp_path):
    dataset = make_dataset(tmp_path / "offline", 5)
    write_noise(tmp_path / "offline" / "0.wav", 0.3, seed=0)  # too short to be cut
    return dataset


def augments(tmp_path):
    dataset = toy_dataset(tmp_path)
    return lambda folder: augment_dataset(dataset, ByteModel(), SETTINGS, folder)


def evaluates(tmp_path):
    rows = noise_samples(tmp_path, [0.9, 1.2])
    settings = EvaluationSettings(chunks=(500,), rollbacks=(3,))
    return lambda folder: run_evaluation(ClockModel(regret=True), "toy", rows, settings, folder)


def prepares(tmp_path):
    """A table with audio inside it: one is whole, one is a part, one is broken."""
    content = Path(write_noise(tmp_path / "a.wav", 2.0, seed=0)).read_bytes()
    rows = [(content, None, None), (content, 0.25, 1.0), (b"no audio", None, None)]
    table = [
        {"id": f"{row}", "audio": {"bytes": data, "path": f"{row}.wav"}, "start": start, "end": end, "translation": "x"}
        for row, (data, start, end) in enumerate(rows)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "train.parquet")
    settings, prompt = (
        CorpusSettings("table", str(tmp_path / "train.parquet")),
        TranslationPrompt("", "<audio>Say.", ""),
    )
    return lambda folder: prepare(settings, [], prompt, folder, "toy", portable=True)


def run_at_address(work, shard=None):
    with augmentation_at(OUT, shard, finishes=shard is None) as folder:
        work(folder)


def on_machine(monkeypatch, tmp_path, name, action, *arguments):
    """Run with the cache of a machine; return whether it came to an end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    try:
        action(*arguments)
    except Killed:
        return False
    return True


def result(store):
    found = {name.removeprefix(f"{OUT}/"): data for name, data in store.objects.items()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items() if not name.startswith(".simulsa/")}


def killed_at_each_request(store, monkeypatch, tmp_path, expected, work):
    """Kill `work` at its first request, at its second and so on; another machine is to end it with `expected`."""
    begun = dict(store.objects)
    for count in itertools.count():
        store.objects, store.requests_left = dict(begun), count
        for machine in ("one", "other"):
            shutil.rmtree(tmp_path / machine, ignore_errors=True)
        whole = on_machine(monkeypatch, tmp_path, "one", run_at_address, work)
        store.requests_left = math.inf
        assert on_machine(monkeypatch, tmp_path, "other", run_at_address, work)
        assert result(store) == expected, f"killed at request {count}"
        assert not [name for name in store.objects if "/journals/" in name]
        if whole:
            return count


def files_of(folder):
    return {name: data for name, data in tree(folder).items() if not name.endswith(".lock")}


@pytest.mark.parametrize("kind", [augments, evaluates, prepares])
def test_a_short_run_killed_at_any_request_ends_elsewhere_with_the_same_bytes(store, monkeypatch, tmp_path, kind):
    (tmp_path / "data").mkdir()
    work = kind(tmp_path / "data")
    work(tmp_path / "local")
    assert killed_at_each_request(store, monkeypatch, tmp_path, files_of(tmp_path / "local"), work) > 10


def test_the_run_that_finishes_shards_may_be_killed_at_any_request(store, monkeypatch, tmp_path):
    dataset, work = toy_dataset(tmp_path), augments(tmp_path)
    work(tmp_path / "local")
    for shard in (Shard(1, 2), Shard(2, 2)):
        scores = functools.partial(augment_shard, dataset, ByteModel(), SETTINGS, shard=shard)
        assert on_machine(monkeypatch, tmp_path, f"machine{shard}", run_at_address, scores, shard)
    assert killed_at_each_request(store, monkeypatch, tmp_path, files_of(tmp_path / "local"), work) > 20
