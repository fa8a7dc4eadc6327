"""`simulsa-augment` as users type it, with the packaged checkpoint and a few spoken rows."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers.files import read_json_lines, tree

from simulsa_plugin.api.recipe import EMBEDDED_MODEL
from simulsa_plugin.commands import augment as command
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.llamafactory.data.dataset import load_datasets
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone import Backbone

PROGRAM = Path(sys.executable).parent / "simulsa-augment"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    write_demo_corpus(folder, rows=12, test_rows=4, processes=1)
    return folder


def words(spoken, out, *more):
    return ["dataset=demo", f"dataset_dir={spoken}", "simulsa_ratio=0.5", *more, "--out", str(out)]


def manifest(out, name="demo"):
    return json.loads((out / f"{name}_simulsa" / "manifest.json").read_text(encoding="utf-8"))


def test_the_table_is_the_manifest(spoken, tmp_path, capsys):
    assert command.main(words(spoken, tmp_path, "simulsa_cuts=2")) == 0
    out, err = capsys.readouterr()
    assert err == ""  # no terminal: no progress
    lines, found = out.splitlines(), manifest(tmp_path)
    counts = found["counts"]
    share = counts["accepted_tokens"] / counts["tokens"]
    assert counts["samples"] == 6
    assert lines[0] == (
        f"demo: 6 partial samples from 12 rows ({counts['empty']} empty, {counts['whole_reference']} whole, "
        f"{share:.0%} of the reference tokens accepted)"
    )
    shares = {
        (one["from"], one["samples"], one["empty"], f"{one['accepted_share']:.0%}")
        for one in found["by_cut_share"]
        if one["samples"]
    }
    table = [re.fullmatch(r" +(\d+)%–\d+% +(\d+) +(\d+) +(\d+%)", line) for line in lines]
    assert {(int(row[1]) / 100, int(row[2]), int(row[3]), row[4]) for row in table if row} == shares
    assert "  skipped: none" in lines
    assert f"  {found['signature']}" in lines
    assert f"  tokenized differently in training: {counts['retokenized']}; " in out
    assert f"{found['commitment']['over']} ({found['commitment']['over'] / 6:.0%}) over" in out
    assert lines[-2:] == [
        f"  {tmp_path / 'demo_simulsa'}",
        f"  train with  dataset: demo,demo_simulsa  and  dataset_dir: {tmp_path}",
    ]
    written = (tmp_path / "demo_simulsa.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(written) == 6


def test_keys_of_the_training_that_change_the_share_are_warned_of(spoken, tmp_path, capsys):
    keys = words(spoken, tmp_path / "out", "max_samples=5")
    said = (
        "simulsa-augment: warning: max_samples: 5: training gets 5 of 12 rows of demo and 5 of 6 rows of demo_simulsa: "
        "100 % as many partial samples as offline rows, not 50 %. Leave max_samples out; to train on less, augment a "
        "smaller dataset.\n"
    )
    assert command.main([*keys, "--dry-run"]) == 0
    assert capsys.readouterr().err == said
    assert command.main(keys) == 0
    assert capsys.readouterr().err == said
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "dataset_dict.json").touch()
    assert command.main([*keys, f"tokenized_path={tmp_path / 'tokens'}"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "tokens holds tokenized data, so LLaMA-Factory reads that and ignores dataset, max_samples" in err


def test_a_cutoff_that_utterances_exceed_is_warned_of(spoken, tmp_path, capsys):
    assert command.main(words(spoken, tmp_path, "cutoff_len=20")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("simulsa-augment: warning: cutoff_len: 20 is less than 6 of the 6 utterances of demo ")


def test_one_recipe_for_augmentation_and_training_cuts_the_offline_set_alone(spoken, tmp_path, capsys):
    recipe = {
        "model_name_or_path": "simulsa-demo",
        "template": "qwen2_audio",
        "dataset": "demo,demo_simulsa",
        "dataset_dir": str(tmp_path / "out"),
        "simulsa_ratio": 0.25,
        "stage": "sft",
        "do_train": True,
        "output_dir": str(tmp_path / "trained"),
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    arguments = [str(tmp_path / "train.yaml"), "--out", str(tmp_path / "out")]
    assert command.main([*arguments, f"dataset_dir={spoken}"]) == 0
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text(encoding="utf-8"))
    assert list(info) == ["demo", "demo_simulsa"]
    before = tree(tmp_path / "out")
    assert command.main(arguments) == 0  # and once more where both are registered by now
    assert tree(tmp_path / "out") == before
    assert not (tmp_path / "trained").exists()
    assert capsys.readouterr().out.count("demo: 3 partial samples from 12 rows") == 2


def test_the_users_own_folder_as_output_keeps_its_files_and_trains_both(spoken, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    shutil.copytree(spoken / "demo", data / "wav")
    rows = read_json_lines(spoken / "demo.jsonl")
    mine = [{"talk": row["messages"], "sound": [f"wav/{Path(row['audios'][0]).name}"]} for row in rows]
    (data / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine), encoding="utf-8")
    entry = {
        "file_name": "mine.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "audios": "sound"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    theirs = json.dumps({"mine": entry, "text": {"file_name": "text.json"}})
    (data / "dataset_info.json").write_text(theirs, encoding="utf-8")
    before = tree(data)
    command_line = ["dataset=mine", "dataset_dir=data", "simulsa_ratio=0.3", "--out", "data"]
    assert command.main(command_line) == 0
    first = tree(data)
    assert {name: first[name] for name in before if name != "dataset_info.json"}.items() <= before.items()
    assert (data / "dataset_info.json").read_text(encoding="utf-8").startswith(theirs[:-1] + ",\n")
    assert command.main(command_line) == 0
    assert tree(data) == first
    out, _ = capsys.readouterr()
    assert f"train with  dataset: mine,mine_simulsa  and  dataset_dir: {data}" in out
    arguments = inference_arguments({**EMBEDDED_MODEL, "dataset_dir": "data"})
    offline, partial = load_datasets(arguments, ["mine", "mine_simulsa"])
    audio = [sample.audio for dataset in (offline, partial) for sample in map(dataset.sample, range(len(dataset)))]
    assert len(audio) == 12 + 4
    assert all(map(os.path.isfile, audio))


def test_an_output_folder_that_is_not_named_is_nobodys():
    assert command._parser().parse_args([]).out == Path("data_simulsa")


def test_a_foreign_file_in_the_way_is_refused_before_the_model_is_loaded(spoken, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("simulsa_plugin.llamafactory.model.backbone_loading.load_backbone", None)
    (tmp_path / "demo_simulsa.jsonl").write_text("mine", encoding="utf-8")
    assert command.main(words(spoken, tmp_path)) == 1
    assert "demo_simulsa.jsonl was not made by simulsa-augment, and stays as it is." in capsys.readouterr().err
    assert tree(tmp_path).keys() == {"demo_simulsa.jsonl"}


def test_several_datasets_are_cut_one_after_another(spoken, tmp_path, capsys):
    keys = words(spoken, tmp_path)[1:]
    assert command.main(["dataset=demo_test, demo", *keys]) == 0
    out = capsys.readouterr().out
    assert out.index("demo_test: 2 partial samples from 4 rows") < out.index("demo: 6 partial samples from 12 rows")
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert set(info) == {"demo_test", "demo_test_simulsa", "demo", "demo_simulsa"}


def test_a_dataset_that_fails_takes_nothing_from_the_one_before(spoken, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    info = json.loads((spoken / "dataset_info.json").read_text(encoding="utf-8"))
    (data / "mute.jsonl").write_text((spoken / "demo.jsonl").read_text(encoding="utf-8").replace(".wav", ".gone"))
    info["mute"] = info["demo"] | {"file_name": str(data / "mute.jsonl")}
    (data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    assert command.main(["dataset=demo,mute", *words(data, tmp_path / "out")[1:]]) == 1
    out, err = capsys.readouterr()
    assert "demo: 6 partial samples from 12 rows" in out
    assert err.count("\n") == 1
    assert "No row of mute can be cut; reasons: audio_missing 12" in err
    assert "Correct its path: a relative one starts at media_dir" in err


def test_decisions_can_be_taken_again_over_what_the_command_wrote(spoken, tmp_path, capsys):
    assert command.main(words(spoken, tmp_path / "out", "simulsa_acceptance=greedy")) == 0
    scores = tmp_path / "out" / "demo_simulsa" / "scores.jsonl"
    arguments = ["--from-scores", str(scores), "simulsa_ratio=0.5", "--out", str(tmp_path / "again")]
    assert command.main([*arguments, "simulsa_acceptance=greedy"]) == 0
    again = (tmp_path / "again" / "demo_simulsa.jsonl").read_bytes()
    assert again == (tmp_path / "out" / "demo_simulsa.jsonl").read_bytes()
    capsys.readouterr()


def test_help_imports_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom simulsa_plugin.commands.augment import main\nassert main(['--help']) == 0\n"
        "sys.exit(' '.join({'torch', 'numpy', 'scipy', 'llamafactory', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr.strip() == ""
    for option in ("--out", "--dry-run", "--from-scores", "--shard", "--audit", "torchrun"):
        assert option in result.stdout


def read_terminal(arguments, deadline_seconds=180):
    """What a program writes on a terminal of its own, and its exit code."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))  # rows, columns
        os.execv(arguments[0], arguments)
    text, deadline = b"", time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            block = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        text += block
    return text.decode(errors="replace"), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_on_a_terminal_progress_has_rate_and_time_left(spoken, tmp_path):
    arguments = words(spoken, tmp_path, "simulsa_batch_size=1", "simulsa_ratio=1")
    text, code = read_terminal([str(PROGRAM), *arguments])
    assert code == 0, text
    for what in ("cut demo", "score"):
        # tqdm: `score:  50%|██   | 6/12 [00:01<00:01,  4.50clip/s]`
        times, rate = r"\[\d\d:\d\d<\d\d:\d\d", r" +\d+\.\d+(clip/s|s/clip)\]"
        assert re.search(rf"\r{what}: +\d+%\|[^|]*\| \d+/12 {times},{rate}", text)
    assert "demo: 12 partial samples from 12 rows" in text


def test_a_clip_that_does_not_fit_into_memory_is_one_line(spoken, tmp_path, capsys, monkeypatch):
    def forward(self, batch, positions):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Backbone, "_forward", forward)
    assert command.main(words(spoken, tmp_path)) == 1
    notice, error = capsys.readouterr().err.splitlines()
    assert re.search(
        r"a batch of 6 clips does not fit into memory and is scored in halves.* Lower simulsa_batch_", notice
    )
    assert error.startswith("simulsa-augment: error: A single clip does not fit into memory. Take a larger accelerator")


def test_a_batch_that_does_not_fit_into_memory_is_scored_in_halves(spoken, tmp_path, capsys, monkeypatch):
    assert command.main(words(spoken, tmp_path / "whole")) == 0
    forward, sizes = Backbone._forward, []

    def small(self, batch, positions):
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(self, batch, positions)

    monkeypatch.setattr(Backbone, "_forward", small)
    capsys.readouterr()
    assert command.main(words(spoken, tmp_path / "halves")) == 0
    assert sizes == [6, 3, 2, 1, 3, 2, 1]
    assert capsys.readouterr().err.count("is scored in halves, which takes longer") == 1
    whole, halves = (read_json_lines(tmp_path / name / "demo_simulsa" / "scores.jsonl") for name in ("whole", "halves"))
    for one, other in zip(whole, halves, strict=True):
        assert (one["id"], one["greedy"]) == (other["id"], other["greedy"])
        assert other["logprobs"] == pytest.approx(one["logprobs"], abs=1e-4)


def test_features_that_do_not_fit_into_memory_are_one_line(spoken, tmp_path, capsys, monkeypatch):
    def place(self, key, value):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Backbone, "_to_device", place)
    assert command.main(words(spoken, tmp_path)) == 1
    assert "A single clip does not fit into memory. Take a larger accelerator" in capsys.readouterr().err
