"""docs/method.md, "Same bytes": a test or more for each sentence, on paper and with the packaged checkpoint."""

import itertools
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.fakes import ByteModel, Killed, make_dataset
from helpers.files import read_json_lines, tree

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.commands import augment as command
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.sharding import Shard

TOLERANCE = 1e-4  # docs/method.md: log-probabilities across batch settings and devices, fp32
ROWS = 24
BIN = Path(sys.executable).parent


# ---------------------------------------------------------------- on paper: the scores of ByteModel depend on the batch


SETTINGS = AugmentSettings(samples=30, batch_size=4, silence_ms=50.0, cuts=2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("offline"), 24)


@pytest.fixture
def expected(toy, out):
    """The tree of an undisturbed run into `out`, which is empty again."""
    augment_dataset(toy, ByteModel(), SETTINGS, out)
    found = tree(out)
    out.rename(out.with_name("undisturbed"))
    return found


def test_batches_are_a_function_of_the_chosen_list_alone(toy, out):
    class Noting(ByteModel):
        def score(self, rendered, waveforms):
            self.seen = [*getattr(self, "seen", []), [one.content_ids for one in rendered]]
            return super().score(rendered, waveforms)

    whole, part, rest = Noting(), Noting(), Noting()
    augment_dataset(toy, whole, SETTINGS, out.with_name("whole"))
    augment_shard(toy, part, SETTINGS, out, Shard(2, 3))
    augment_dataset(toy, rest, SETTINGS, out)
    assert part.seen == whole.seen[1::3]
    assert rest.seen == [batch for number, batch in enumerate(whole.seen) if number % 3 != 1]
    assert sorted(map(len, whole.seen)) == [2, *[4] * 7]


def test_the_first_batch_is_the_largest_in_every_way(toy, out):
    # What does not fit into memory shows at once, not after hours.
    class Noting(ByteModel):
        def score(self, rendered, waveforms):
            lengths = [len(one.prompt_ids) + len(one.content_ids) for one in rendered]
            self.sizes = [*getattr(self, "sizes", []), (len(lengths), max(lengths))]
            return super().score(rendered, waveforms)

    model = Noting()
    augment_dataset(toy, model, SETTINGS, out)
    assert model.sizes[0] == (4, max(longest for _, longest in model.sizes))
    assert model.sizes == sorted(model.sizes, reverse=True)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 50])
def test_any_number_of_shards_in_any_order(toy, out, expected, count):
    order = list(range(1, count + 1))
    random.Random(count).shuffle(order)
    for number in order:
        augment_shard(toy, ByteModel(), SETTINGS, out, Shard(number, count))
    model = ByteModel()
    augment_dataset(toy, model, SETTINGS, out)
    assert model.batches == []
    assert tree(out) == expected


@pytest.mark.parametrize("done", [(1,), (3,), (2, 5), (5, 4, 1)])
def test_some_shards_and_then_a_plain_run(toy, out, expected, done):
    for number in done:
        augment_shard(toy, ByteModel(), SETTINGS, out, Shard(number, 5))
    model = ByteModel()
    augment_dataset(toy, model, SETTINGS, out)
    assert len(model.batches) == 8 - sum(len(range(number - 1, 8, 5)) for number in done)
    assert tree(out) == expected


def test_shards_of_several_divisions_may_be_mixed(toy, out, expected):
    for text in ("2/3", "1/2", "5/5", "1/1"):
        augment_shard(toy, ByteModel(), SETTINGS, out, Shard.parse(text))
    augment_dataset(toy, ByteModel(), SETTINGS, out)
    assert tree(out) == expected


@pytest.mark.parametrize("places", list(itertools.permutations(["plain", "shard"])))
def test_stopped_plain_runs_and_stopped_shards_may_be_mixed(toy, out, expected, places):
    class Dying(ByteModel):
        def score(self, rendered, waveforms):
            if len(self.batches) == 2:
                raise Killed
            return super().score(rendered, waveforms)

    for place in places:
        with pytest.raises(Killed):
            if place == "plain":
                augment_dataset(toy, Dying(), SETTINGS, out)
            else:
                augment_shard(toy, Dying(), SETTINGS, out, Shard(1, 2))
    augment_dataset(toy, ByteModel(), SETTINGS, out)
    assert tree(out) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_other_batches_give_the_same_ids_cuts_clips_and_decisions(toy, out, expected, batch_size):
    augment_dataset(toy, ByteModel(), replace(SETTINGS, batch_size=batch_size), out)
    name = "toy_simulsa/clips/"
    assert {key: value for key, value in tree(out).items() if key.startswith(name)} == {
        key: value for key, value in expected.items() if key.startswith(name)
    }
    assert (out / "toy_simulsa.jsonl").read_bytes() == (out.with_name("undisturbed") / "toy_simulsa.jsonl").read_bytes()
    apart = [
        {name: row[name] for name in row if name not in ("logprobs", "eos_logprob", "checksum")}
        for folder in (out, out.with_name("undisturbed"))
        for row in read_json_lines(folder / "toy_simulsa" / "scores.jsonl")
    ]
    assert apart[:30] == apart[30:]


# --------------------------------------------------------------------------------------------- the packaged checkpoint


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    write_demo_corpus(folder, rows=ROWS, test_rows=0, processes=1)
    return folder


def words(spoken, out, *more):
    keys = ["dataset=demo", f"dataset_dir={spoken}", "simulsa_ratio=1", "simulsa_batch_size=5"]
    return [*keys, "simulsa_silence_ms=100", *more, "--out", str(out)]


def rows_of(out):
    return read_json_lines(out / "demo_simulsa" / "scores.jsonl")


@pytest.fixture(scope="module")
def usual(spoken, tmp_path_factory):
    """(folder, tree) of a plain run; the folder has moved away from where it was written, `folder.parent / "out"`."""
    folder = tmp_path_factory.mktemp("usual")
    assert command.main(words(spoken, folder / "out")) == 0
    found = tree(folder / "out")
    (folder / "out").rename(folder / "kept")
    return folder / "kept", found


@pytest.fixture
def again(usual):
    """Where the usual run was written; gone afterwards."""
    import shutil

    yield usual[0].with_name("out")
    shutil.rmtree(usual[0].with_name("out"))


def test_the_checkpoint_in_shards_ends_with_the_same_bytes(spoken, usual, again):
    for text in ("3/3", "1/3"):
        assert command.main(words(spoken, again, "--shard", text)) == 0
    assert command.main(words(spoken, again)) == 0
    assert tree(again) == usual[1]


def torchrun(spoken, out):
    # torchrun sets OMP_NUM_THREADS=1 where nothing else is set; this process has conftest's.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    program = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", "--no-python", BIN / "simulsa-augment"]
    return subprocess.run(
        [*program, *words(spoken, out)], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def test_torchrun_with_two_processes_ends_with_the_same_bytes(spoken, usual, again):
    result = torchrun(spoken, again)
    assert result.returncode == 0, result.stderr
    assert tree(again) == usual[1]
    assert result.stdout.count(f"demo: {ROWS} partial samples from {ROWS} rows") == 1  # one of them says it


@pytest.mark.slow
@pytest.mark.parametrize("second", ["done", "begun"])
def test_torchrun_started_again_after_a_stop_ends_with_the_same_bytes(spoken, usual, again, second):
    assert command.main(words(spoken, again, "--shard", "2/2")) == 0
    if second == "begun":
        folder = again / "demo_simulsa" / "shards" / "2-of-2"
        (folder / "finished").unlink()
        journal = (folder / "scores.partial.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "scores.partial.jsonl").write_text("".join(journal[:7]), encoding="utf-8")
    for _ in range(2):  # the second time over a finished folder: nobody waits, nothing is left
        result = torchrun(spoken, again)
        assert result.returncode == 0, result.stderr
        assert tree(again) == usual[1]


def test_one_thread_or_two(spoken, usual, again):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert command.main(words(spoken, again)) == 0
    finally:
        torch.set_num_threads(threads)
    same_up_to_rounding(again, usual[0], threshold(again))


def test_other_batches_and_eager_attention_agree_up_to_rounding(spoken, usual, tmp_path):
    for number, keys in enumerate((["simulsa_batch_size=1"], ["simulsa_batch_size=24"], ["flash_attn=disabled"])):
        out = tmp_path / str(number)
        assert command.main(words(spoken, out, *keys)) == 0
        same_up_to_rounding(out, usual[0], threshold(out))


def threshold(out):
    return json.loads((out / "demo_simulsa" / "manifest.json").read_text(encoding="utf-8"))["threshold"]


def same_up_to_rounding(out, other, tau):
    """docs/method.md: ids, cuts and clips identical, log-probabilities within 1e-4, acceptances where p is not at τ."""
    ours, theirs = rows_of(out), rows_of(other)
    assert [(row["id"], row["cut_seconds"], row["silence_seconds"], row["token_ids"]) for row in ours] == [
        (row["id"], row["cut_seconds"], row["silence_seconds"], row["token_ids"]) for row in theirs
    ]
    for one, another in zip(ours, theirs, strict=True):
        clip = f"demo_simulsa/clips/{one['id']}.wav"
        assert (out / clip).read_bytes() == (other / clip).read_bytes()
        pairs = list(zip(one["logprobs"], another["logprobs"], strict=True))
        assert max(abs(ours - theirs) for ours, theirs in pairs) <= TOLERANCE
        at_threshold = any(abs(ours - math.log(tau)) <= TOLERANCE for ours, _ in pairs)
        assert one["accepted_tokens"] == another["accepted_tokens"] or at_threshold


def test_decisions_at_the_threshold_are_counted(spoken, usual, tmp_path):
    # τ is put onto the p of the least likely token of a reference: whether it is accepted is a matter of rounding.
    scored = rows_of(usual[0])
    tau = math.exp(min(scored[3]["logprobs"]))
    keys = [f"simulsa_threshold={tau!r}"]
    found = {}
    for size in (5, 1):
        out = tmp_path / str(size)
        assert command.main(words(spoken, out, f"simulsa_batch_size={size}", *keys)) == 0
        manifest = json.loads((out / "demo_simulsa" / "manifest.json").read_text(encoding="utf-8"))
        close = 0
        for row in rows_of(out):
            refused = next((i for i, p in enumerate(row["logprobs"]) if p < math.log(tau)), len(row["logprobs"]))
            close += any(abs(p - math.log(tau)) <= TOLERANCE for p in row["logprobs"][: refused + 1])
        found[size] = manifest["counts"]["close_to_threshold"]
        assert found[size] == close
    assert found[1] == found[5] >= 1
    same_up_to_rounding(tmp_path / "1", tmp_path / "5", tau)
