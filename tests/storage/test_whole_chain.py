"""The commands as users type them: shards in a store to a dataset in a store, killed on the way, then trained on."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from helpers.fakes import write_noise
from helpers.forked_programs import run_program
from test_corpora_in_stores import make_shard
from test_output_in_stores import until

ROWS = 12
DIFFERENT = {".simulsa/driver", "corpus/dataset_info.json"}  # in a folder the entry has an absolute name
TEXTS = ["Guten Morgen", "Die Straße ist lang", "ja", "Häuser am See"]
PROGRAM = """
import sys
from simulsa_plugin.files import mirror
mirror.PUSH_SECONDS = 0.1
from simulsa_plugin.evaluation import block_decoding
block_decoding.UTTERANCES_PER_BLOCK = 2
if sys.argv.pop(1) == "slow":
    import time
    from simulsa_plugin.files.journal import Journal
    append = Journal.append
    Journal.append = lambda *arguments: (time.sleep(2), append(*arguments))[1]
    decode = block_decoding.decode_block
    block_decoding.decode_block = lambda *arguments, **how: (time.sleep(2), decode(*arguments, **how))[1]
from simulsa_plugin.commands import augment, evaluate
sys.exit({"augment": augment, "evaluate": evaluate}[sys.argv[1]].main(sys.argv[2:]))
"""


@pytest.fixture
def recipe(store, tmp_path, monkeypatch):
    """A recipe of two shards in the store."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for shard in range(2):
        members = []
        for row in range(shard * ROWS // 2, (shard + 1) * ROWS // 2):
            path = write_noise(tmp_path / "noise.wav", 1.0 + row / 4, seed=row)
            members.append((f"{row:03d}.wav", open(path, "rb").read()))
            members.append((f"{row:03d}.json", json.dumps({"translation": TEXTS[row % 4]}).encode()))
        store.put(f"set/train-{shard:06d}.tar", make_shard(members))
    keys = {
        "model_name_or_path": "simulsa-demo",
        "template": "qwen2_audio",
        "dataset": "talks",
        "simulsa_corpus": "webdataset",
        "simulsa_corpus_dir": "s3://corpus/set",
        "simulsa_source_language": "en",
        "simulsa_target_language": "de",
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def begin(command, cache, *words, speed="quick"):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, speed, command, *map(str, words)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    return out


def test_shards_to_samples_in_a_store_and_a_training(store, recipe, tmp_path):
    keys = ["simulsa_samples=10", "simulsa_batch_size=1"]
    killed = begin("augment", tmp_path / "cache", recipe, *keys, "--out", "s3://corpus/out", speed="slow")
    until(
        lambda: any("/.simulsa/journals/" in path for method, path, _ in store.requests if method == "PUT"),
        process=killed,
        seconds=200,
    )
    killed.kill()
    killed.communicate()
    assert "out/talks_simulsa/manifest.json" not in store.keys("out/")
    shards = [name for name in store.keys("set/")]
    listed = sum(store.bytes_read(shard) for shard in shards)
    out = end(begin("augment", tmp_path / "other", recipe, *keys, "--out", "s3://corpus/out"))
    assert "aws s3 sync s3://corpus/out data_simulsa --exclude '.simulsa/*'" in out
    end(begin("augment", tmp_path / "other", recipe, *keys, "--out", "s3://corpus/out", "--dry-run"))
    assert listed  # the corpus was listed before the kill
    end(begin("augment", tmp_path, recipe, *keys, "simulsa_portable=true", "--out", tmp_path / "local"))
    stored = {key.removeprefix("out/"): store.get(key) for key in store.keys("out/")}
    local = {str(path.relative_to(tmp_path / "local")): path.read_bytes() for path in files(tmp_path / "local")}
    different = {name for name in stored.keys() | local.keys() if stored.get(name) != local.get(name)}
    # The entry of the offline rows in a folder has an absolute name.
    assert different == {".simulsa/driver", "dataset_info.json"}
    train(stored, tmp_path)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def train(stored, tmp_path):
    """Train two steps on a copy of the output; the offline rows are read from the shards."""
    for name, data in stored.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    training = {
        "model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset": "talks,talks_simulsa",
        "dataset_dir": str(tmp_path / "copy"), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none",
        "dataloader_num_workers": 2, "preprocessing_num_workers": 2,  # forked, and they read from the store
        "output_dir": str(tmp_path / "trained"),
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(training), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = run_program("llamafactory-cli", "train", tmp_path / "train.yaml", environment=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "does not exist in `media_dir`" not in result.stderr
    assert (tmp_path / "trained" / "trainer_state.json").exists()


def test_a_killed_evaluation_goes_on_from_its_blocks(store, recipe, tmp_path):
    keys = ["simulsa_chunks=1000", "simulsa_rollbacks=3", "simulsa_max_new_tokens=5", "simulsa_eval_samples=8"]
    killed = begin("evaluate", tmp_path / "cache", recipe, *keys, "--out", "s3://corpus/results", speed="slow")
    until(lambda: written(store, "block.json"), process=killed, seconds=200)
    killed.kill()
    killed.communicate()
    assert "results/scores.json" not in store.keys("results/")
    blocks = {key for key in store.keys("results/decoding/") if key.endswith("/block.json")}
    assert 0 < len(blocks) < 4
    store.requests.clear()
    out = end(begin("evaluate", tmp_path / "other", recipe, *keys, "--out", "s3://corpus/results"))
    assert "Written to s3://corpus/results: scores.json" in out
    fetched = {path for method, path, _ in store.requests if method == "GET" and path.endswith("/block.json")}
    assert fetched == {f"/corpus/{key}" for key in blocks}
    end(begin("evaluate", tmp_path, recipe, *keys, "--out", tmp_path / "local"))
    local = {str(path.relative_to(tmp_path / "local")): path.read_bytes() for path in files(tmp_path / "local")}
    stored = {key.removeprefix("results/"): store.get(key) for key in store.keys("results/")}
    different = {name for name in stored.keys() | local.keys() if stored.get(name) != local.get(name)}
    assert different <= DIFFERENT, different


def test_a_killed_search_goes_on_from_its_blocks(store, recipe, tmp_path):
    words = ["tune", recipe, "--budget", "100000", "simulsa_dev_split=train", "simulsa_policies=rollback"]
    words += ["simulsa_chunks=1000", "simulsa_rollbacks=0,3", "simulsa_max_new_tokens=5", "simulsa_dev_samples=8"]
    killed = begin("evaluate", tmp_path / "cache", *words, "--out", "s3://corpus/tuned", speed="slow")
    until(lambda: written(store, "block.json"), process=killed, seconds=200)
    killed.kill()
    killed.communicate()
    blocks = {key for key in store.keys("tuned/search/") if key.endswith("/block.json")}
    assert blocks and "tuned/frontier.json" not in store.keys("tuned/")
    store.requests.clear()
    out = end(begin("evaluate", tmp_path / "other", *words, "--out", "s3://corpus/tuned"))
    assert "Written to s3://corpus/tuned: tuned.yaml" in out
    assert "aws s3 cp s3://corpus/tuned/tuned.yaml .  and  simulsa-eval tuned.yaml --out RESULTS" in out
    assert {f"/corpus/{key}" for key in blocks} <= {path for method, path, _ in store.requests if method == "GET"}
    end(begin("evaluate", tmp_path, *words, "--out", tmp_path / "local"))
    local = {str(path.relative_to(tmp_path / "local")): path.read_bytes() for path in files(tmp_path / "local")}
    stored = {key.removeprefix("tuned/"): store.get(key) for key in store.keys("tuned/")}
    assert {name for name in stored.keys() | local.keys() if stored.get(name) != local.get(name)} == DIFFERENT


def written(store, name):
    return any(method == "PUT" and path.endswith(f"/{name}") for method, path, _ in store.requests)
