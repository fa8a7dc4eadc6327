"""Several processes at one dataset: who takes which folder, who waits, who is refused, and what is left at the end."""

import contextlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.fakes import ByteModel, Killed, make_dataset
from helpers.files import read_json_lines, tree
from helpers.processes import FORK, PATIENCE_SECONDS, REFUSED, kill, start, wait_until

from simulsa_plugin import sharding
from simulsa_plugin.augmentation import registration, shards
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset, augment_shard
from simulsa_plugin.augmentation.shards import wait_for_all
from simulsa_plugin.commands import augment as command
from simulsa_plugin.commands import evaluate
from simulsa_plugin.commands.torchrun import take_rank
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files import locks
from simulsa_plugin.files.json_files import dump_sealed, write_json
from simulsa_plugin.files.locks import LOCK, locked
from simulsa_plugin.sharding import Shard

SETTINGS = AugmentSettings(samples=24, batch_size=4)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("offline"), 30)


@pytest.fixture
def expected(toy, out):
    """The tree of an undisturbed run into `out`, which is empty again."""
    augment_dataset(toy, ByteModel(), SETTINGS, out)
    found = tree(out)
    out.rename(out.with_name("undisturbed"))
    return found


def shard(toy, out, text, model=None):
    augment_shard(toy, model or ByteModel(), SETTINGS, out, Shard.parse(text))


def finish(toy, out):
    model = ByteModel()
    augment_dataset(toy, model, SETTINGS, out)
    return model


@pytest.fixture
def no_waiting(monkeypatch):
    """Whoever waits for a folder fails."""

    def sleep(seconds):
        assert seconds < locks.LOCK_POLL_SECONDS, "waited"  # the holder's number is read a moment later

    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))


def journalled(out, text):
    path = out / "toy_simulsa" / "shards" / text.replace("/", "-of-") / "scores.partial.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_shards_that_begin_at_the_same_moment_all_work_and_share_the_batches(toy, out, expected):
    barrier = FORK.Barrier(4)

    class MeetingModel(ByteModel):
        """Scores its first batch when all others have come to theirs."""

        def score(self, rendered, waveforms):
            if not self.batches:
                barrier.wait(PATIENCE_SECONDS)
            return super().score(rendered, waveforms)

    children = [start(shard, toy, out, f"{number}/4", MeetingModel()) for number in range(1, 5)]
    for child in children:
        child.join(PATIENCE_SECONDS)
    assert [child.exitcode for child in children] == [0] * 4
    # 24 samples are 6 batches of 4: 1, 5 | 2, 6 | 3 | 4.
    assert [journalled(out, f"{number}/4") for number in range(1, 5)] == [8, 8, 4, 4]
    assert finish(toy, out).batches == []
    assert tree(out) == expected


@pytest.mark.parametrize("seed", range(3))
def test_whoever_begins_at_the_same_moment_is_refused_or_does_no_harm(toy, out, expected, seed):
    barrier = FORK.Barrier(5)

    def work(number):
        barrier.wait()
        if number:
            shard(toy, out, f"{number}/3")
        else:
            finish(toy, out)

    children = [start(work, number) for number in (0, 1, 2, 3, 0)]
    for child in children:
        child.join(PATIENCE_SECONDS)
    assert {child.exitcode for child in children} <= {0, REFUSED}
    assert 0 in {child.exitcode for child in children}
    finish(toy, out)
    assert tree(out) == expected


def test_the_first_file_of_a_folder_is_written_while_the_folder_is_held(toy, out, monkeypatch):
    # Whoever holds the folder removes unfinished files, one that another process is writing included.
    held = []

    def write(path, value):
        held.append((path.parent / LOCK).exists())
        write_json(path, value)

    monkeypatch.setattr(registration, "write_json", write)
    registration.open_layout(out, "toy")
    assert held == [True]


def test_a_shard_waits_for_the_whole_folder_but_not_for_long(toy, out, monkeypatch):
    now = [0.0]

    def pass_time(seconds):
        now[0] += seconds

    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=pass_time))
    folder = out / "toy_simulsa"
    folder.mkdir(parents=True)
    model = ByteModel()
    with locked(folder):
        with pytest.raises(StorageError) as refused:
            shard(toy, out, "1/2", model)
    assert now[0] == pytest.approx(locks.LOCK_WAIT_SECONDS, abs=2 * locks.LOCK_POLL_SECONDS)
    assert str(refused.value) == (f"{folder} is in use by process {os.getpid()}. Wait for it, or choose another --out.")
    assert model.batches == []
    assert not (folder / "shards").exists()


def test_the_same_shard_twice_is_refused_at_once(toy, out, no_waiting):
    child = start(shard, toy, out, "1/2", ByteModel(batches_before_hanging=0))
    wait_until(lambda: _scores(out) and not (out / "toy_simulsa" / LOCK).exists() and _holder(out, "1/2"))
    with pytest.raises(StorageError, match=rf"1-of-2 is in use by process {child.pid}\. Wait for it"):
        shard(toy, out, "1/2")
    kill(child)


def _holder(out, text):
    path = out / "toy_simulsa" / "shards" / text.replace("/", "-of-") / LOCK
    return path.exists() and path.read_text().strip()


def _scores(out):
    """Whether a shard has noted what scores: until then it holds the whole folder for moments, not only its own."""
    started = out / "toy_simulsa" / "started.json"
    return started.exists() and "scored_on" in started.read_text()


def test_a_finishing_run_does_not_begin_while_a_shard_works(toy, out):
    child = start(shard, toy, out, "2/2", ByteModel(batches_before_hanging=0))
    wait_until(lambda: _scores(out) and not (out / "toy_simulsa" / LOCK).exists())
    with pytest.raises(StorageError) as refused:
        finish(toy, out)
    kill(child)
    folder = out / "toy_simulsa" / "shards" / "2-of-2"
    assert str(refused.value) == f"{folder} is in use by process {child.pid}. Wait for it, or choose another --out."


def test_a_killed_shard_goes_on_where_it_stopped(toy, out, expected):
    child = start(shard, toy, out, "1/2", ByteModel(batches_before_hanging=1))
    wait_until(lambda: journalled(out, "1/2") == 4)
    kill(child)
    again = ByteModel()
    shard(toy, out, "1/2", again)
    assert len(again.batches) == 2  # of 3
    shard(toy, out, "2/2")
    finish(toy, out)
    assert tree(out) == expected


def test_killed_shards_may_be_left_to_the_finishing_run(toy, out, expected):
    children = [start(shard, toy, out, f"{number}/3", ByteModel(batches_before_hanging=1)) for number in (1, 2, 3)]
    wait_until(lambda: all(journalled(out, f"{number}/3") == 4 for number in (1, 2, 3)))
    for child in children:
        kill(child)
    assert len(finish(toy, out).batches) == 3  # of 6
    assert tree(out) == expected


def test_at_the_end_nothing_is_left_of_shards(toy, out, expected):
    shard(toy, out, "1/2")
    shard(toy, out, "2/2")
    folder = out / "toy_simulsa"
    assert (folder / "shards" / "1-of-2" / "finished").exists()
    assert (folder / "started.json").exists()
    finish(toy, out)
    assert not (folder / "shards").exists()
    assert not list(out.rglob("*.lock"))
    assert not list(out.rglob("*partial*"))
    assert tree(out) == expected


def test_a_shard_that_comes_late_leaves_nothing_behind(toy, out, expected):
    finish(toy, out)
    model = ByteModel()
    for text in ("1/2", "2/2", "3/7"):
        shard(toy, out, text, model)
    assert model.batches == []
    assert sorted(path.name for path in (out / "toy_simulsa").iterdir() if path.is_dir()) == ["clips"]
    assert tree(out) == expected


def test_a_shard_that_is_done_waits_for_nobody(toy, out, no_waiting):
    # torchrun started again after a kill: the first rank may be finishing before the second has begun.
    shard(toy, out, "2/2")
    model = ByteModel()
    with locked(out / "toy_simulsa"), locked(out / "toy_simulsa" / "shards" / "2-of-2"):
        shard(toy, out, "2/2", model)
    assert model.batches == []


def test_a_shard_of_other_work_is_refused_before_and_after_the_end(toy, out):
    shard(toy, out, "1/2")
    other = AugmentSettings(samples=24, batch_size=4, seed=43)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"other settings: simulsa_seed was 42, now 43"):
            augment_shard(toy, ByteModel(), other, out, Shard(1, 2))
        finish(toy, out)


A100 = {"model": "bytes", "adapter": None, "weights": "4f", "dtype": "bfloat16", "device": "cuda"}
CPU = A100 | {"device": "cpu"}


def on(description, device, **options):
    return ByteModel(description=dict(description), device=device, **options)


def manifest(out):
    return json.loads((out / "toy_simulsa" / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("finisher", "warned"),
    [
        (CPU, False),
        (CPU | {"weights": "9a", "dtype": "float32"}, True),  # a float32 checkpoint, loaded in bfloat16 elsewhere
    ],
)
def test_shards_scored_on_accelerators_are_finished_on_another_machine(toy, out, finisher, warned):
    shard(toy, out, "1/2", on(A100, "NVIDIA A100"))
    shard(toy, out, "2/2", on(A100, "NVIDIA H100"))
    scored = {path.name: path.read_bytes() for path in out.glob("toy_simulsa/clips/*")}
    model = on(finisher, "EPYC")
    outcome = augment_dataset(toy, model, SETTINGS, out)
    assert model.batches == []
    assert {path.name: path.read_bytes() for path in out.glob("toy_simulsa/clips/*")} == scored
    assert manifest(out)["model"] == A100  # what the rows were scored with
    assert manifest(out)["scored_on"] == ["NVIDIA A100", "NVIDIA H100"]
    assert any("weights cannot be compared" in line for line in outcome.warnings) is warned
    before = tree(out)
    augment_dataset(toy, on(finisher, "EPYC"), SETTINGS, out)  # and a finished folder is left as it is
    assert tree(out) == before


def test_finishing_elsewhere_ends_with_the_bytes_of_finishing_there(toy, out):
    augment_dataset(toy, on(A100, "NVIDIA A100"), SETTINGS, out)
    expected = tree(out)
    out.rename(out.with_name("there"))
    for number in (1, 2):
        shard(toy, out, f"{number}/2", on(A100, "NVIDIA A100"))
    augment_dataset(toy, on(CPU, "EPYC"), SETTINGS, out)
    assert tree(out) == expected


def test_devices_may_share_what_is_left_to_score_and_are_all_listed(toy, out):
    shard(toy, out, "1/2", on(A100, "NVIDIA A100"))
    model = on(CPU, "EPYC")
    augment_dataset(toy, model, SETTINGS, out)
    assert len(model.batches) == 3  # of six; the other three were scored by the shard
    assert manifest(out)["scored_on"] == ["EPYC", "NVIDIA A100"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float32"}, r"other settings: dtype was bfloat16, now float32"),
        ({"dtype": "float32", "weights": "9a"}, r"other settings: weights was 4f, now 9a"),
        ({"device": "cpu", "weights": "9a"}, r"other settings: weights was 4f, now 9a"),
    ],
)
def test_no_run_mixes_weights_or_dtypes_in_its_scores(toy, out, change, said):
    shard(toy, out, "1/2", on(A100, "NVIDIA A100"))
    before = tree(out)
    for part in (None, Shard(2, 2)):
        with pytest.raises(StorageError, match=said) as caught:
            other = on(A100 | change, "EPYC")
            augment_shard(toy, other, SETTINGS, out, part) if part else augment_dataset(toy, other, SETTINGS, out)
        assert "\n" not in str(caught.value)
    assert {name: content for name, content in tree(out).items() if name in before} == before
    augment_dataset(toy, on(A100, "NVIDIA A100"), SETTINGS, out)  # what was scored is of use


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "9a"}, "settings: weights was"),  # trained again under its old name
        ({"model": "other"}, "settings: model was"),
        ({"adapter": ["lora"], "device": "cpu", "weights": "9a"}, "settings: adapter was"),
        ({"device": "cpu", "weights": "9a"}, "settings: weights was"),  # a whole checkpoint is the same on every device
    ],
)
def test_another_model_does_not_finish_what_was_scored(toy, out, change, said):
    for number in (1, 2):
        shard(toy, out, f"{number}/2", on(A100, "NVIDIA A100"))
    with pytest.raises(StorageError, match=said):
        augment_dataset(toy, on(A100 | change, "EPYC"), SETTINGS, out)


def test_a_merged_adapter_may_differ_in_its_last_bit_where_nothing_is_left_to_score(toy, out):
    lora = A100 | {"adapter": ["lora"]}
    for number in (1, 2):
        shard(toy, out, f"{number}/2", on(lora, "NVIDIA A100"))
    outcome = augment_dataset(toy, on(lora | {"device": "cpu", "weights": "9a"}, "EPYC"), SETTINGS, out)
    assert manifest(out)["model"]["weights"] == "4f"
    assert "weights cannot be compared" in outcome.warnings[0]


class KilledModel(ByteModel):
    """Dies at its second batch."""

    def score(self, rendered, waveforms):
        if self.batches:
            raise Killed
        return super().score(rendered, waveforms)


def test_a_run_killed_before_its_first_row_leaves_no_device_behind(toy, out):
    class Dying(ByteModel):
        def score(self, rendered, waveforms):
            raise Killed

    with pytest.raises(Killed):
        augment_dataset(toy, Dying(description=CPU | {"dtype": "float32"}, device="EPYC"), SETTINGS, out)
    augment_dataset(toy, on(A100, "NVIDIA A100"), SETTINGS, out)
    assert (manifest(out)["model"], manifest(out)["scored_on"]) == (A100, ["NVIDIA A100"])


def test_the_first_rank_waits_until_all_are_done_and_gone(toy, out, monkeypatch):
    seen, folders = [], []

    def work_of_the_second(_):
        """What happens while the first rank sleeps: nothing, one of three batches, the others."""
        seen.append(journalled(out, "2/2"))
        if len(seen) > 1:
            with contextlib.suppress(Killed):
                shard(toy, out, "2/2", KilledModel() if len(seen) == 2 else ByteModel())

    def record(folder, wait=False):
        folders.append((folder.name, wait))
        return locked(folder, wait=wait)

    shard(toy, out, "1/2")
    monkeypatch.setattr(sharding, "time", SimpleNamespace(monotonic=time.monotonic, sleep=work_of_the_second))
    with monkeypatch.context() as patch:
        patch.setattr(shards, "locked", record)
        wait_for_all(out, "toy", 2)
    assert seen == [0, 0, 4]
    assert folders[-1] == ("2-of-2", True)  # until the second has released its folder
    finish(toy, out)
    wait_for_all(out, "toy", 2)  # nothing to wait for


def test_a_shard_whose_journal_is_about_other_data_is_refused(toy, out):
    shard(toy, out, "1/2")
    journal = out / "toy_simulsa" / "shards" / "1-of-2" / "scores.partial.jsonl"
    rows = read_json_lines(journal)
    rows[3]["reference"] += "!"
    journal.write_text("".join(dump_sealed(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(StorageError, match=rf"other data under the same name \({rows[3]['id']} differs\)"):
        finish(toy, out)


def test_a_folder_that_was_moved_between_shards_names_its_clips_where_they_lie(toy, out, tmp_path):
    shard(toy, out, "1/2")
    out.rename(tmp_path / "moved")
    finish(toy, tmp_path / "moved")
    rows = (tmp_path / "moved" / "toy_simulsa.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 24
    for row in map(json.loads, rows):
        assert Path(row["audios"][0]).is_relative_to(tmp_path / "moved")
        assert Path(row["audios"][0]).is_file()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "a/b", "", "2", "1/2/3", "-1/2", "1.0/2", "1/9999999", " 1/2"])
def test_a_bad_shard_is_one_line_and_exit_code_2(text, tmp_path, capsys):
    assert command.main([f"--shard={text}", "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        f"simulsa-augment: error: --shard is {text!r}; allowed: K/N with 1 ≤ K ≤ N, such as 2/4.\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "1/2", "--from-scores", "x"], "--shard and --from-scores do not go together"),
        (["--audit", "3", "--from-scores", "x"], "--audit and --from-scores do not go together"),
        (["--dry-run", "--from-scores", "x"], "--dry-run and --from-scores do not go together"),
        (["--dry-run", "--shard", "1/2"], "--shard and --dry-run do not go together"),
        (["--dry-run", "--audit", "2"], "--audit and --dry-run do not go together"),
        (["--shard", "1/2", "--audit", "2"], "--audit and --shard do not go together"),
        (["--audit", "0"], "argument --audit: is '0'; allowed: a whole number ≥ 1. See `simulsa-augment --help`."),
        (["--audit=-3"], "argument --audit: is '-3'; allowed: a whole number ≥ 1"),
        (["--audit", "few"], "argument --audit: is 'few'; allowed: a whole number ≥ 1"),
    ],
)
def test_options_that_exclude_each_other_are_one_line_and_exit_code_2(words, said, tmp_path, capsys):
    assert command.main([*words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"simulsa-augment: error: {said}")
    assert not (tmp_path / "out").exists()


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
            "MASTER_PORT": "1", "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in (*TORCHRUN, "CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone, too
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("visible", "own"), [(None, "1"), ("4,6", "6"), ("0", "0"), ("GPU-a, GPU-b,GPU-c", "GPU-b"), ("", ""), ("-1", "-1")]
)
def test_a_rank_sees_its_own_device_and_nothing_of_torchrun(environment, visible, own):
    for name, value in TORCHRUN.items():
        environment.setenv(name, value)
    if visible is not None:
        environment.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert take_rank() == Shard(4, 4)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own  # no device that a user hid comes back
    assert not TORCHRUN.keys() & os.environ.keys()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "4"},
            "RANK=0 and WORLD_SIZE=4 are set, but not LOCAL_RANK: the cluster has set them",
        ),
        ({"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "the other 3. Start with torchrun"),
        (
            {"RANK": "4", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
            "RANK is 4 and WORLD_SIZE is 4; ranks are counted from 0",
        ),
        ({"RANK": "x", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, "RANK is 'x'; torchrun sets a whole number"),
        ({"RANK": "0", "WORLD_SIZE": "", "LOCAL_RANK": "0"}, "WORLD_SIZE is ''; torchrun sets a whole number"),
    ],
)
@pytest.mark.parametrize("main", [command.main, evaluate.main], ids=["augment", "eval"])
def test_variables_of_a_cluster_are_not_taken_for_torchruns(environment, capsys, tmp_path, main, variables, said):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert main(["--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "env -u RANK -u WORLD_SIZE" in line
    assert not (tmp_path / "out").exists()


def test_what_is_left_of_a_cluster_makes_no_process_group(environment):
    environment.setenv("WORLD_SIZE", "4")
    environment.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert take_rank() is None
    assert not {"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"} & os.environ.keys()


def test_whoever_waits_for_processes_says_so_and_gives_up_where_they_do_not_get_on(monkeypatch, capsys):
    now, written = [0.0], [0]

    def pass_time(_):
        now[0] += 10
        written[0] += now[0] <= 2000  # they write until then

    monkeypatch.setattr(sharding, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=pass_time))
    with pytest.raises(StorageError, match="shard 2 of 2 wrote nothing for 60 minutes: it was never started"):
        sharding.wait_until(lambda: False, lambda: written[0], "shard 2 of 2")
    assert now[0] == pytest.approx(2000 + 3600, abs=20)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "waiting for shard 2 of 2, 0 min since it last wrote something"
    assert 5 < len(said) < 15
    sharding.wait_until(lambda: True, lambda: None, "nobody")


def test_a_single_process_is_no_rank_with_torchrun_or_without(environment):
    assert take_rank() is None
    for name, value in (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        environment.setenv(name, value)
    assert take_rank() is None
    assert not TORCHRUN.keys() & os.environ.keys()  # or LLaMA-Factory would open a process group
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
