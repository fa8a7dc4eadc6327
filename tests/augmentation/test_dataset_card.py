"""The output folder as the Hugging Face Hub reads it: by `datasets`, and by the card parser of huggingface_hub."""

import os
import shutil
import signal
import subprocess
import sys

import datasets
import pytest
import soundfile
from helpers.fakes import ByteModel, make_dataset
from helpers.files import read_json, read_json_lines, tree
from huggingface_hub import DatasetCard

from simulsa_plugin.api.dataset_card import write_card_of
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.dataset_card import SourceAudio, write_dataset_card
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel

HOSTILE = 'my[1]*x "q": |<b>`é'  # in patterns of files, YAML, tables of Markdown, HTML; datasets refuses some of it


def run(dataset, out, model=None, **settings):
    return augment_dataset(dataset, model or ByteModel(), AugmentSettings(**{"samples": 5} | settings), out).manifest


def load(folder, tmp_path, config=None):
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(folder), config, split="train", cache_dir=cache)
    assert isinstance(rows.features["audio"], datasets.Audio)
    return list(rows.cast_column("audio", datasets.Audio(decode=False)))


@pytest.mark.parametrize("name", ["toy", HOSTILE])
def test_datasets_loads_a_copy_of_the_folder_with_its_audio(tmp_path, name, monkeypatch):
    run(make_dataset(tmp_path / "offline", name=name), tmp_path / "out")
    write_card_of(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "copy")  # as on the Hub, nothing is where it was written
    monkeypatch.chdir(tmp_path / "offline")
    rows = load(tmp_path / "copy", tmp_path)
    scores = read_json_lines(tmp_path / "copy" / f"{name}_simulsa" / "scores.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in scores]
    assert [row["messages"][-1]["content"] for row in rows] == [row["partial"] for row in scores]
    for row in rows:
        assert os.path.realpath(row["audio"]["path"]).startswith(str(tmp_path / "copy"))
        assert soundfile.info(row["audio"]["path"]).duration == pytest.approx(row["cut_seconds"], abs=1e-4)


def test_the_card_says_what_the_manifest_does(toy, out):
    manifest = run(toy, out, ByteModel(sure_per_second=0.9), alpha=2.0, keep_empty=False)
    write_card_of(out)
    card, text = DatasetCard.load(out / "README.md"), (out / "README.md").read_text(encoding="utf-8")
    assert [one["config_name"] for one in card.data.configs] == ["toy_simulsa"]
    assert card.data.license is None and "\n# license: to fill in" in text
    assert card.data.language is None  # nothing says which
    samples, dropped = manifest["counts"]["samples"], manifest["skipped"]["empty_partial"]
    keys = "simulsa_samples=5 simulsa_alpha=2.0 simulsa_keep_empty=false"
    for row in (
        f"| samples | {samples} |",
        f"| samples as a share of the rows | {samples / 40:.2%} |",
        rf"| left out | empty\_partial {dropped} |",
        r"| cuts | beta\_decay, Beta(2, 3), 0.5 to 5 s, 1 per utterance, seed 42 |",
        "| acceptance rule | threshold, τ = 0.3906, at the end of a token |",  # 100 / 256
        manifest["signature"],
        f"simulsa-augment RECIPE.yaml dataset=toy {keys} --out DIR",
    ):
        assert row in card.text.splitlines()
    assert str(out.parent) not in text  # no path of this machine


def test_languages_are_tags_and_the_hub_gets_their_short_codes(toy, out):
    run(toy, out)
    write_dataset_card(out, {"toy": SourceAudio(languages=("en_us", "cmn_hans_cn"), origin="fleurs (train)")})
    card = DatasetCard.load(out / "README.md")
    assert card.data.language == ["en", "zh"]
    assert card.data.language_details == ["en-US", "zh-Hans-CN"]
    assert "| languages (BCP 47) | en-US → zh-Hans-CN |" in card.text


def test_a_hostile_name_ends_no_table_and_no_code(tmp_path):
    run(make_dataset(tmp_path / "offline", name="a|b`<td>\n```\n# x"), tmp_path / "out")
    write_card_of(tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    headings = [line for line in card.text.splitlines() if line.startswith("# ")]
    assert headings == [r"# Simultaneous samples of a\|b\`\<td\>\\x0a\`\`\`\\x0a\# x"]
    assert card.text.count("\n````") == 4  # round the command and the call, where the name is raw
    assert len([line for line in card.text.splitlines() if line.startswith("| source dataset | ")]) == 1


def test_what_the_user_wrote_in_the_card_stays_and_the_rest_follows_the_run(toy, out):
    run(toy, out)
    write_card_of(out)
    path = out / "README.md"
    first = path.read_text(encoding="utf-8")
    path.write_text(first.replace("# license: to fill in", "license: cc0-1.0  #") + "\nMine.\n", encoding="utf-8")
    relabel(out / "toy_simulsa" / "scores.jsonl", {"simulsa_acceptance": "greedy"}, out, lambda *_: None)
    write_card_of(out)
    card = DatasetCard.load(path)
    assert card.data.license == "cc0-1.0" and card.content.endswith("\nMine.\n")
    assert "| acceptance rule | greedy, at the end of a token |" in card.text
    relabel(
        out / "toy_simulsa" / "scores.jsonl",
        {"simulsa_acceptance": "threshold", "simulsa_threshold": None},
        out,
        lambda *_: None,
    )
    write_card_of(out)
    assert "| acceptance rule | threshold, τ = 0.3906" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"# Mine\n", b"\xff\xfe", b"---\n# begin of what simulsa-augment writes"])
def test_a_readme_of_somebody_else_stays(toy, out, content, caplog):
    out.mkdir()
    (out / "README.md").write_bytes(content)
    run(toy, out)
    with caplog.at_level("INFO"):
        write_card_of(out)
    assert (out / "README.md").read_bytes() == content
    assert f"{out / 'README.md'} was not made by simulsa-augment" in caplog.text


def test_a_link_in_the_place_of_the_card_is_not_written_through(toy, out, tmp_path):
    out.mkdir()
    (out / "README.md").symlink_to(tmp_path / "elsewhere.md")
    run(toy, out)
    write_card_of(out)
    assert not (tmp_path / "elsewhere.md").exists() and (out / "README.md").is_symlink()


def test_two_datasets_share_a_card(tmp_path, toy, out):
    run(toy, out)
    run(make_dataset(tmp_path / "b", count=10, name="b"), out)
    write_card_of(out)
    assert datasets.get_dataset_config_names(str(out)) == ["b_simulsa", "toy_simulsa"]
    assert len(load(out, tmp_path, "toy_simulsa")) == 5


def test_labels_over_the_clips_of_another_folder_load_with_the_paths_of_these(toy, out, tmp_path):
    run(toy, out)
    other = tmp_path / "other"
    relabel(out / "toy_simulsa" / "scores.jsonl", {"simulsa_acceptance": "greedy"}, other, lambda *_: None)
    write_card_of(other)
    rows = datasets.load_dataset(str(other), split="train", cache_dir=str(tmp_path / "cache"))
    assert {os.path.dirname(path) for path in rows["file_name"]} == {str(out / "toy_simulsa" / "clips")}
    assert "upload a run that was relabelled in place" in (other / "README.md").read_text(encoding="utf-8")
    assert read_json(other / "toy_simulsa" / "manifest.json")["scores_from"]


KILLED = """
import os, sys
from pathlib import Path
import simulsa_plugin.files.atomic as atomic
from simulsa_plugin.api.dataset_card import write_card_of
os.replace = lambda *_: os.kill(os.getpid(), 9)  # the last moment before the card is there
write_card_of(Path(sys.argv[1]))
"""


def test_a_kill_while_the_card_is_written_leaves_nothing_behind(toy, out):
    run(toy, out)
    write_card_of(out)
    whole = tree(out)
    (out / "README.md").unlink()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL and tree(out) != whole
    write_card_of(out)
    assert tree(out) == whole
