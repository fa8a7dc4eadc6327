"""The whole way of an offline dataset with a model made of arithmetic: files, skips, stops and restarts."""

import json
import os
from pathlib import Path

import pytest
import soundfile
from helpers.fakes import ByteModel, ListDataset, killed_after, make_dataset, write_noise
from helpers.files import read_json_lines, tree
from helpers.processes import lock_holder

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import walk
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.errors import DatasetError, StorageError
from simulsa_plugin.files.atomic import UNFINISHED
from simulsa_plugin.files.journal import Journal


def run(dataset, out, model=None, **settings):
    settings = {"samples": 12, "batch_size": 4} | settings
    return augment_dataset(dataset, model or ByteModel(), AugmentSettings(**settings), out)


def test_all_files_of_the_contract(toy, tmp_path):
    outcome = run(toy, tmp_path)
    folder = tmp_path / "toy_simulsa"
    assert outcome.folder == folder
    clips = sorted(path.name for path in (folder / "clips").iterdir())
    assert sorted(tree(tmp_path)) == sorted(
        [
            "dataset_info.json",
            "toy_simulsa.jsonl",
            "toy_simulsa/manifest.json",
            "toy_simulsa/metadata.jsonl",
            "toy_simulsa/owned.json",
            "toy_simulsa/report.html",
            "toy_simulsa/retokenized.jsonl",
            "toy_simulsa/scores.jsonl",
            "toy_simulsa/skipped.jsonl",
            *(f"toy_simulsa/clips/{clip}" for clip in clips),
        ]
    )
    scores, rows = read_json_lines(folder / "scores.jsonl"), read_json_lines(tmp_path / "toy_simulsa.jsonl")
    assert len(scores) == len(rows) == len(clips) == 12
    assert [row["id"] for row in scores] == [f"toy-{row:08d}-0" for row in list(walk("toy", 40, 42))[:12]]
    assert set(scores[0]) == {
        "id",
        "audio",
        "clip",
        "duration_seconds",
        "cut_seconds",
        "silence_seconds",
        "clip_checksum",
        "messages",
        "reference",
        "token_ids",
        "char_ends",
        "logprobs",
        "greedy",
        "margins",
        "eos_logprob",
        "unstable_prefixes",
        "accepted_tokens",
        "partial",
        "checksum",
    }
    for score, row in zip(scores, rows, strict=True):
        assert row == {
            "messages": [
                {"role": "user", "content": "<audio>Translate."},
                {"role": "assistant", "content": score["partial"]},
            ],
            "audios": [score["clip"]],
        }
        assert Path(score["clip"]).is_absolute()
        assert Path(score["clip"]).name == f"{score['id']}.wav"


def test_a_row_on_paper(toy, tmp_path):
    # ByteModel is sure of 10 bytes of the reference per second: what it accepts follows from the cut alone.
    run(toy, tmp_path)
    for row in read_json_lines(tmp_path / "toy_simulsa" / "scores.jsonl"):
        number = int(row["id"].split("-")[1])
        reference, audio = toy.rows[number]
        assert (row["reference"], row["audio"]) == (reference, audio)
        sure = min(int(10 * row["cut_seconds"]), len(reference.encode()))
        expected = (
            reference if sure == len(reference.encode()) else reference.encode()[:sure].decode(errors="ignore").rstrip()
        )
        assert row["partial"] == expected
        assert row["accepted_tokens"] == len(expected.encode())
        assert len(row["token_ids"]) == len(row["logprobs"]) == len(row["greedy"]) == len(row["char_ends"])
        assert 0.5 <= row["cut_seconds"] <= min(5.0, row["duration_seconds"])


def test_the_clip_is_the_beginning_of_the_audio_as_it_was_scored(toy, tmp_path):
    heard = {}

    class Listening(ByteModel):
        def score(self, rendered, waveforms):
            heard.update({one.content_ids: waveform for one, waveform in zip(rendered, waveforms, strict=True)})
            return super().score(rendered, waveforms)

    run(toy, tmp_path, Listening(), samples=3)
    for row in read_json_lines(tmp_path / "toy_simulsa" / "scores.jsonl"):
        clip, source = read_mono(row["clip"]), read_mono(row["audio"])
        info = soundfile.info(row["clip"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert len(clip) == round(row["cut_seconds"] * 16_000)
        assert (clip == source[: len(clip)]).all()
        assert (clip == heard[tuple(row["token_ids"])]).all()


def test_the_manifest_counts_and_quotes(toy, tmp_path):
    outcome = run(toy, tmp_path, samples=12)
    manifest = json.loads((tmp_path / "toy_simulsa" / "manifest.json").read_text(encoding="utf-8"))
    scores = read_json_lines(tmp_path / "toy_simulsa" / "scores.jsonl")
    assert (
        manifest["counts"]
        == outcome.manifest["counts"]
        == {
            "wanted": 12,
            "scored": 12,
            "samples": 12,
            "empty": sum(row["partial"] == "" for row in scores),
            "whole_reference": sum(row["partial"] == row["reference"] for row in scores),
            "tokens": sum(len(row["token_ids"]) for row in scores),
            "accepted_tokens": sum(row["accepted_tokens"] for row in scores),
            "retokenized": 0,
            "close_to_threshold": 0,
        }
    )
    assert manifest["threshold"] == 100 / 256
    assert manifest["settings"]["simulsa_samples"] == 12
    assert {"simulsa-plugin", "llamafactory", "torch", "transformers"} <= set(manifest["versions"])
    assert manifest["signature"].startswith(
        "simulsa|n:12|cut:beta_decay(1,3)[0.5,5]s|cuts:1|silence:0ms|seed:42|rule:threshold|tau:0.3906|boundary:token|"
    )


def test_both_sets_are_registered_and_others_stay(toy, tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}', encoding="utf-8")
    run(toy, tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert list(info) == ["mine", "toy", "toy_simulsa"]
    assert info["mine"] == {"file_name": "mine.json"}
    assert info["toy"] == toy.entry  # absolute file name, its own columns
    assert info["toy_simulsa"]["file_name"] == "toy_simulsa.jsonl"
    assert info["toy_simulsa"]["columns"] == {"messages": "messages", "audios": "audios"}


def test_relative_audio_gets_a_rewritten_offline_file(toy, tmp_path):
    entry = {"file_name": "/somewhere/x.json", "formatting": "alpaca", "columns": {"prompt": "q"}, "num_samples": 5}
    run(ListDataset("toy", toy.rows, entry, relative=True), tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["toy"]["file_name"] == str(tmp_path / "toy.jsonl")
    assert info["toy"]["formatting"] == "sharegpt"
    assert info["toy"]["num_samples"] == 5
    rewritten = read_json_lines(tmp_path / "toy.jsonl")
    assert len(rewritten) == 40
    assert rewritten[3]["audios"] == [toy.rows[3][1]]
    assert rewritten[3]["messages"][-1] == {"role": "assistant", "content": toy.rows[3][0]}


def test_a_relative_offline_file_that_would_be_overwritten_is_refused_before_the_work(toy, tmp_path):
    model = ByteModel()
    dataset = ListDataset("toy", toy.rows, {"file_name": str(tmp_path / "toy.jsonl")}, relative=True)
    with pytest.raises(StorageError, match=r"toy\.jsonl is the offline dataset itself.*Choose another --out"):
        run(dataset, tmp_path, model)
    assert model.batches == []


def test_portable_paths_are_relative_to_the_folder(toy, tmp_path):
    run(toy, tmp_path, portable=True)
    for row in read_json_lines(tmp_path / "toy_simulsa.jsonl"):
        (audio,) = row["audios"]
        assert audio.startswith("toy_simulsa/clips/toy-")
        assert (tmp_path / audio).is_file()


def test_the_system_prompt_goes_with_the_sample(toy, tmp_path):
    run(ListDataset("toy", toy.rows, toy.entry, system="Be brief."), tmp_path, samples=1)
    (row,) = read_json_lines(tmp_path / "toy_simulsa.jsonl")
    assert row["messages"][0] == {"role": "system", "content": "Be brief."}


def broken_rows(folder):
    good = write_noise(folder / "good.wav", 3.0)
    (folder / "zero.wav").write_bytes(b"")
    (folder / "text.wav").write_bytes(b"no audio" * 50)
    write_noise(folder / "no_samples.wav", 0.0)
    return {
        "no_audio": "no_audio",
        "multi_turn": "multi_turn",
        "not_one_audio": "not_one_audio",
        "empty_reference": "empty_reference",
        "audio_missing": ("a", str(folder / "gone.wav")),
        "audio_empty": ("a", str(folder / "zero.wav")),
        "audio_broken": ("a", str(folder / "text.wav")),
        "too_short": ("a", write_noise(folder / "short.wav", 0.5)),
    } | {"good": ("a", good)}


def test_what_cannot_be_cut_is_listed_with_its_reason_and_the_next_row_is_tried(tmp_path):
    reasons = broken_rows(tmp_path)
    names = list(reasons)
    outcome = run(ListDataset("toy", list(reasons.values())), tmp_path / "out", samples=9)
    skipped = read_json_lines(tmp_path / "out" / "toy_simulsa" / "skipped.jsonl")
    assert {row["id"]: row["reason"] for row in skipped} == {
        f"toy-{number:08d}-0": name for number, name in enumerate(names) if name != "good"
    }
    assert outcome.manifest["counts"]["samples"] == 1
    assert outcome.manifest["skipped"] == dict.fromkeys(sorted(names[:-1]), 1)
    assert "gives 1 of the 9 samples asked for" in outcome.warnings[0]


def test_d_equal_to_l_is_too_short_and_a_sample_more_is_not(tmp_path):
    rows = [("a", write_noise(tmp_path / "l.wav", 0.5)), ("a", write_noise(tmp_path / "more.wav", 8001 / 16_000))]
    outcome = run(ListDataset("toy", rows), tmp_path / "out", samples=2)
    assert (outcome.manifest["counts"]["samples"], outcome.manifest["skipped"]) == (1, {"too_short": 1})


def test_no_row_at_all_is_one_line_and_the_reasons_are_on_disk(tmp_path):
    with pytest.raises(DatasetError, match=r"reasons: multi_turn 2\. First multi_turn: the row has several turns"):
        run(ListDataset("toy", ["multi_turn"] * 2), tmp_path)
    assert [row["reason"] for row in read_json_lines(tmp_path / "toy_simulsa" / "skipped.jsonl")] == ["multi_turn"] * 2


def test_audio_longer_than_the_window_is_fine_where_the_cut_fits(tmp_path):
    rows = [("a b c", write_noise(tmp_path / f"{i}.wav", 9.0, seed=i)) for i in range(12)]
    dataset, model = ListDataset("toy", rows), ByteModel(window_seconds=2.0)
    outcome = run(dataset, tmp_path / "out", model)
    cuts = [row["cut_seconds"] for row in read_json_lines(tmp_path / "out" / "toy_simulsa" / "scores.jsonl")]
    # P(0.5 + 4.5 r > 2) for r ~ Beta(1, 3) is (1 − 1/3)³ = 0.30: of twelve, some fit and some do not.
    assert 0 < len(cuts) < 12
    assert max(cuts) <= 2.0
    assert outcome.manifest["skipped"] == {"cut_exceeds_window": 12 - len(cuts)}


def test_the_ratio_rule_needs_the_whole_audio_in_the_window(tmp_path):
    rows = [("a b c", write_noise(tmp_path / "long.wav", 9.0)), ("a b c", write_noise(tmp_path / "short.wav", 1.5))]
    outcome = run(ListDataset("toy", rows), tmp_path / "out", ByteModel(window_seconds=6.0), acceptance="ratio")
    assert outcome.manifest["skipped"] == {"audio_exceeds_window": 1}
    (row,) = read_json_lines(tmp_path / "out" / "toy_simulsa" / "scores.jsonl")
    assert row["duration_seconds"] == 1.5
    assert len(row["logprobs_full"]) == len(row["logprobs"])


def test_lookback_scores_the_audio_before_the_cut(tmp_path):
    rows = [("abcdefghijklmnopqrstuvwxyz", write_noise(tmp_path / "a.wav", 2.0))]
    run(ListDataset("toy", rows), tmp_path / "out", acceptance="lookback", lookback_ms=200.0, samples=1)
    (row,) = read_json_lines(tmp_path / "out" / "toy_simulsa" / "scores.jsonl")
    assert row["accepted_tokens"] == int(10 * (round(row["cut_seconds"] * 16_000) - 3200) / 16_000)


def test_prompts_that_the_template_refuses_are_skipped(toy, tmp_path):
    class Picky(ListDataset):
        def sample(self, row):
            sample = super().sample(row)
            if row % 2:
                sample.prompt.messages[0]["content"] = "<audio>unprintable"
            return sample

    outcome = run(Picky("toy", toy.rows), tmp_path, samples=40)
    assert (outcome.manifest["counts"]["samples"], outcome.manifest["skipped"]) == (20, {"not_renderable": 20})


def test_empty_partials_are_successes_and_kept(toy, tmp_path):
    outcome = run(toy, tmp_path, ByteModel(sure_per_second=0.0))
    counts = outcome.manifest["counts"]
    assert (counts["samples"], counts["empty"], outcome.manifest["skipped"]) == (12, 12, {})
    assert {row["messages"][-1]["content"] for row in read_json_lines(tmp_path / "toy_simulsa.jsonl")} == {""}


def test_empty_partials_can_be_left_out(toy, tmp_path):
    kept = run(toy, tmp_path / "kept")
    outcome = run(toy, tmp_path / "out", ByteModel(sure_per_second=1.5), keep_empty=False)
    scores = read_json_lines(tmp_path / "out" / "toy_simulsa" / "scores.jsonl")
    empty = [row["id"] for row in scores if not row["partial"]]
    assert len(scores) == kept.manifest["counts"]["samples"] == 12
    assert 0 < len(empty) < 12
    assert outcome.manifest["skipped"] == {"empty_partial": len(empty)}
    assert [row["id"] for row in read_json_lines(tmp_path / "out" / "toy_simulsa" / "skipped.jsonl")] == empty
    assert len(read_json_lines(tmp_path / "out" / "toy_simulsa.jsonl")) == 12 - len(empty)


def decisions(folder):
    return [
        (row["id"], row["cut_seconds"], row["partial"])
        for row in read_json_lines(folder / "toy_simulsa" / "scores.jsonl")
    ]


def test_a_smaller_share_is_contained_in_a_larger_one(toy, tmp_path):
    run(toy, tmp_path / "few", samples=None, ratio=0.1)
    run(toy, tmp_path / "many", samples=None, ratio=0.5)
    few, many = decisions(tmp_path / "few"), decisions(tmp_path / "many")
    assert (len(few), len(many)) == (4, 20)
    assert many[:4] == few


def test_paths_and_batches_change_no_choice_cut_or_clip(toy, tmp_path):
    run(toy, tmp_path / "a", batch_size=1)
    moved = make_dataset(tmp_path / "elsewhere")
    run(moved, tmp_path / "deep" / "b", batch_size=7)
    assert decisions(tmp_path / "a") == decisions(tmp_path / "deep" / "b")
    for clip in (tmp_path / "a" / "toy_simulsa" / "clips").iterdir():
        assert clip.read_bytes() == (tmp_path / "deep" / "b" / "toy_simulsa" / "clips" / clip.name).read_bytes()


def test_the_seed_changes_rows_and_cuts(toy, tmp_path):
    run(toy, tmp_path / "a", samples=40)
    run(toy, tmp_path / "b", samples=40, seed=43)
    first, second = (dict((i, cut) for i, cut, _ in decisions(tmp_path / name)) for name in "ab")
    assert list(first) != list(second)
    assert set(first) == set(second)
    assert all(first[key] != second[key] for key in first)


def test_run_again_it_does_nothing_and_changes_nothing(toy, tmp_path):
    first = run(toy, tmp_path)
    before, model = tree(tmp_path), ByteModel()
    assert run(toy, tmp_path, model) == first
    assert tree(tmp_path) == before
    assert model.batches == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"min_seconds": 0.7}, r"simulsa_min_seconds was 0.5, now 0.7"),
        ({"samples": 13}, r"simulsa_samples was 12, now 13"),
        ({"acceptance": "greedy"}, r"simulsa_acceptance was threshold, now greedy.*: --from-scores .*scores\.jsonl"),
    ],
)
def test_another_recipe_over_an_old_folder_is_one_line(toy, tmp_path, change, said):
    run(toy, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(StorageError, match=f"toy_simulsa holds a run with other settings: {said}.*hoose another --out"):
        run(toy, tmp_path, **change)
    assert tree(tmp_path) == before


def test_another_model_over_an_old_folder_is_one_line(toy, tmp_path):
    run(toy, tmp_path)
    with pytest.raises(StorageError, match=r"other settings: model was bytes, now other"):
        run(toy, tmp_path, ByteModel(description={"model": "other"}))


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped"])
def test_other_data_under_the_same_name_is_never_mixed_in(toy, tmp_path, finished):
    run(toy, tmp_path)
    if not finished:  # as a kill after the first batch leaves it
        folder = tmp_path / "toy_simulsa"
        scores = (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "scores.partial.jsonl").write_text("".join(scores[:4]), encoding="utf-8")
        (folder / "scores.jsonl").unlink()
    other = ListDataset("toy", [(f"ganz {reference}", audio) for reference, audio in toy.rows], toy.entry)
    with pytest.raises(StorageError, match=r"other data under the same name \(toy-\d{8}-0 differs\)"):
        run(other, tmp_path)


def test_other_audio_under_the_same_name_is_never_mixed_in(toy, tmp_path):
    run(toy, tmp_path / "out")
    (tmp_path / "louder").mkdir()
    rows = [
        (reference, write_noise(tmp_path / "louder" / f"{row}.wav", soundfile.info(audio).duration, seed=row + 1))
        for row, (reference, audio) in enumerate(toy.rows)
    ]
    with pytest.raises(StorageError, match="other data under the same name"):
        run(ListDataset("toy", rows, toy.entry), tmp_path / "out")


def test_a_broken_manifest_is_one_line(toy, tmp_path):
    run(toy, tmp_path)
    (tmp_path / "toy_simulsa" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match=r"manifest\.json cannot be read"):
        run(toy, tmp_path)


WRITTEN = ("retokenized.jsonl", "toy_simulsa.jsonl", "scores.jsonl", "skipped.jsonl", "report.html", "manifest.json")


@pytest.mark.parametrize("moment", WRITTEN)
def test_killed_right_after_a_file_it_ends_with_the_same_bytes(toy, tmp_path, moment):
    run(toy, tmp_path / "out")
    expected = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")

    with killed_after(os, "replace", lambda source, target: Path(target).name == moment):
        run(toy, tmp_path / "out")
    run(toy, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


def test_two_processes_on_one_folder_is_one_line_naming_the_first(toy, tmp_path):
    (tmp_path / "out" / "toy_simulsa").mkdir(parents=True)
    with lock_holder(tmp_path / "out" / "toy_simulsa") as first, pytest.raises(StorageError) as refused:
        run(toy, tmp_path / "out")
    assert str(refused.value).endswith(
        f"toy_simulsa is in use by process {first.pid}. Wait for it, or choose another --out."
    )


@pytest.mark.parametrize("rows_done", [1, 2, 5])
def test_stopped_inside_a_batch_the_batch_is_scored_whole_again(toy, tmp_path, rows_done):
    # A batch of what remains would be padded differently; ByteModel's scores show it.
    run(toy, tmp_path / "out")
    expected = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")

    with killed_after(Journal, "append", lambda journal, row: len(journal) == rows_done):
        run(toy, tmp_path / "out")
    run(toy, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(toy, tmp_path):
    folder = tmp_path / "toy_simulsa"
    (folder / "clips").mkdir(parents=True)
    for left in (
        folder / "clips" / ".toy-1.wav.ab12",
        folder / ".scores.jsonl.ab12",
        tmp_path / ".toy_simulsa.jsonl.ab12",
        tmp_path / ".dataset_info.json.ab12",
        tmp_path / ".other_simulsa.jsonl.ab12",
    ):
        left.with_name(left.name + UNFINISHED).write_bytes(b"half")
    run(toy, tmp_path)
    # Another dataset of the same folder may be written by another process at this moment.
    assert [path.name for path in tmp_path.rglob(".*")] == [f".other_simulsa.jsonl.ab12{UNFINISHED}"]
