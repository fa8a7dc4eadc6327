"""Deciding again over scores gives what a run with that rule gives; what cannot be decided is one line."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fakes import ByteModel, killed_after, make_dataset, write_noise
from helpers.files import read_json_lines, tree
from helpers.processes import FORK, PATIENCE_SECONDS, REFUSED, lock_holder, start

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import walk
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.commands import augment as command
from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.files.locks import LOCK
from simulsa_plugin.run_configuration import read_sealed_configuration

BOTH = {"extra_scores": ("full", "lookback")}
RULES = [
    {"acceptance": "threshold"},
    {"acceptance": "threshold", "threshold": 0.005},
    {"acceptance": "greedy"},
    {"acceptance": "ratio", "ratio_threshold": 0.2},
    {"acceptance": "lookback", "threshold": 0.3},
]
BOUNDARIES = ["token", "word"]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """40 rows of which a third cannot be cut, so that skips lie between the samples and after the last."""
    folder = tmp_path_factory.mktemp("offline")
    dataset = make_dataset(folder)
    for row in {*range(0, 40, 3), list(walk("toy", 40, 42))[-1]}:
        dataset.rows[row] = "multi_turn"
    rows = "".join(json.dumps(row) + "\n" for row in range(40))
    (folder / "offline.jsonl").write_text(rows, encoding="utf-8")
    return dataset


def run(dataset, out, **settings):
    settings = {"samples": 12, "batch_size": 4} | settings
    return augment_dataset(dataset, ByteModel(), AugmentSettings(**settings), out)


@pytest.fixture(scope="module")
def scored(toy, tmp_path_factory):
    """A run with all scores, decided by the threshold."""
    out = tmp_path_factory.mktemp("scored")
    run(toy, out, **BOTH)
    return out


@pytest.fixture
def copy(scored, tmp_path):
    """The same run in a folder of its own; its clips stay in the first."""
    shutil.copytree(scored, tmp_path / "run")
    return tmp_path / "run"


def scores_of(out):
    return out / "toy_simulsa" / "scores.jsonl"


def no_truth(name, entry):
    return None


def again(out, keys=(), to=None, scores=None):
    given = {f"simulsa_{key}": value for key, value in dict(keys).items()}
    return relabel(scores or scores_of(out), given, to or out, no_truth)


def type_it(*words):
    return command.main([str(word) for word in words])


def keys_of(rule, boundary):
    return [f"simulsa_{key}={value}" for key, value in {**rule, "boundary": boundary}.items()]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
def test_in_place_every_byte_is_a_direct_runs(toy, scored, tmp_path, rule, boundary):
    run(toy, tmp_path / "out", **BOTH, **rule, boundary=boundary)
    expected = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run(toy, tmp_path / "out", **BOTH, keep_empty=False)
    again(tmp_path / "out", {**rule, "boundary": boundary})
    assert tree(tmp_path / "out") == expected  # scores, samples, skips, report, manifest, dataset_info


@pytest.mark.parametrize("keep_empty", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
def test_by_the_command_into_another_folder_what_is_decided_is_a_direct_runs(
    toy, scored, tmp_path, capsys, rule, keep_empty
):
    run(toy, tmp_path / "direct", **rule, keep_empty=keep_empty)
    words = [*keys_of(rule, "token"), f"simulsa_keep_empty={str(keep_empty).lower()}", "--out", tmp_path / "again"]
    assert type_it("--from-scores", scores_of(scored), *words) == 0
    fields = ("id", "cut_seconds", "accepted_tokens", "partial")
    direct, decided = (
        [[row[key] for key in fields] for row in read_json_lines(scores_of(tmp_path / name))]
        for name in ("direct", "again")
    )
    assert decided == direct
    samples = [
        {**row, "audios": [row["audios"][0].replace(str(tmp_path / "direct"), str(scored))]}
        for row in read_json_lines(tmp_path / "direct" / "toy_simulsa.jsonl")
    ]
    assert read_json_lines(tmp_path / "again" / "toy_simulsa.jsonl") == samples
    for name in ("skipped.jsonl", "retokenized.jsonl"):
        assert (tmp_path / "again" / "toy_simulsa" / name).read_bytes() == (
            tmp_path / "direct" / "toy_simulsa" / name
        ).read_bytes()
    info = json.loads((tmp_path / "again" / "dataset_info.json").read_text(encoding="utf-8"))
    assert info == json.loads((tmp_path / "direct" / "dataset_info.json").read_text(encoding="utf-8"))
    out = capsys.readouterr().out
    assert f"train with  dataset: toy,toy_simulsa  and  dataset_dir: {tmp_path / 'again'}" in out


@pytest.mark.parametrize(
    ("rule", "field", "option"),
    [
        ("ratio", "logprobs_full", "simulsa_extra_scores=full"),
        ("lookback", "logprobs_lookback", "simulsa_extra_scores=lookback"),
    ],
)
def test_a_rule_without_its_scores_names_the_option_and_changes_nothing(toy, tmp_path, capsys, rule, field, option):
    run(toy, tmp_path)
    (tmp_path / "toy_simulsa" / "commitment.jsonl").write_text("{}\n", encoding="utf-8")
    before = tree(tmp_path)
    words = ["--from-scores", scores_of(tmp_path), f"simulsa_acceptance={rule}", "--out"]
    assert type_it(*words, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"simulsa_acceptance={rule} needs {field}" in line
    assert line.endswith(f"Score again with simulsa_acceptance={rule} or {option}.")
    assert tree(tmp_path) == before
    assert type_it(*words, tmp_path / "other") == 2
    run(toy, tmp_path / "other")  # the mistake took no possession of the folder
    assert len(read_json_lines(scores_of(tmp_path / "other"))) == 12


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("simulsa_min_seconds=0.7", "simulsa_min_seconds is 0.7, but {scores} was scored with 0.5"),
        ("simulsa_seed=43", "simulsa_seed is 43, but {scores} was scored with 42"),
        ("simulsa_truncation=uniform", "simulsa_truncation is uniform, but {scores} was scored with beta_decay"),
        ("simulsa_lookback_ms=100", "simulsa_lookback_ms is 100, but {scores} was scored with 200.0"),
    ],
)
def test_keys_that_contradict_the_scores_are_refused(scored, tmp_path, capsys, word, said):
    scores = scores_of(scored)
    assert type_it("--from-scores", scores, word, "--out", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.format(scores=scores) in line
    assert line.endswith(f"Leave {word.split('=')[0]} out, or augment again without --from-scores.")


def test_keys_that_agree_with_the_scores_are_fine(scored, tmp_path):
    same = ["simulsa_min_seconds=0.5", "simulsa_seed=42", "simulsa_lookback_ms=200", "simulsa_truncation=beta_decay"]
    assert type_it("--from-scores", scores_of(scored), *same, "--out", tmp_path) == 0


@pytest.mark.parametrize("cuts", [1, 3])
@pytest.mark.parametrize("samples", [1, 2, 5, 11, 12])
def test_fewer_samples_are_a_direct_runs_skips_included(toy, tmp_path, samples, cuts):
    # Two samples between l and m leave three places: some of a row's three cuts coincide («same_cut»), some do not.
    cutting = {"cuts": cuts, "max_seconds": 0.5 + 2 / 16_000} if cuts > 1 else {}
    run(toy, tmp_path / "all", **cutting)
    run(toy, tmp_path / "direct", samples=samples, **cutting)
    outcome = again(tmp_path / "all", {"samples": samples}, tmp_path / "few")
    assert [row["id"] for row in read_json_lines(scores_of(tmp_path / "few"))] == [
        row["id"] for row in read_json_lines(scores_of(tmp_path / "direct"))
    ]
    skipped = (tmp_path / "few" / "toy_simulsa" / "skipped.jsonl").read_bytes()
    assert skipped == (tmp_path / "direct" / "toy_simulsa" / "skipped.jsonl").read_bytes()
    reasons = {row["reason"] for row in read_json_lines(tmp_path / "all" / "toy_simulsa" / "skipped.jsonl")}
    assert reasons == ({"multi_turn"} if cuts == 1 else {"multi_turn", "same_cut"})
    direct = read_sealed_configuration(tmp_path / "direct" / "toy_simulsa" / "manifest.json")
    assert {key: outcome.manifest[key] for key in direct} == direct


def test_a_share_of_the_offline_rows_is_a_direct_runs(toy, scored, tmp_path):
    run(toy, tmp_path / "direct", samples=None, ratio=0.1)
    outcome = again(scored, {"ratio": 0.1, "samples": None}, tmp_path / "few")
    assert (outcome.manifest["counts"]["wanted"], outcome.manifest["counts"]["scored"]) == (4, 4)  # 0.1 · 40
    assert read_json_lines(tmp_path / "few" / "toy_simulsa" / "skipped.jsonl") == read_json_lines(
        tmp_path / "direct" / "toy_simulsa" / "skipped.jsonl"
    )


@pytest.mark.parametrize("keys", [{}, {"samples": 50}])
def test_where_the_rows_ran_out_the_skips_after_the_last_sample_stay(toy, tmp_path, capsys, keys):
    run(toy, tmp_path / "out", samples=50)
    before = read_json_lines(tmp_path / "out" / "toy_simulsa" / "skipped.jsonl")
    assert len(before) == 15  # rows 0, 3 … 39, and the last of the walk
    assert before[-1]["id"] == f"toy-{list(walk('toy', 40, 42))[-1]:08d}-0"
    outcome = again(tmp_path / "out", keys, tmp_path / "other")
    assert read_json_lines(tmp_path / "other" / "toy_simulsa" / "skipped.jsonl") == before
    assert (outcome.manifest["counts"]["wanted"], outcome.manifest["counts"]["scored"]) == (50, 25)


def test_fewer_samples_in_place_would_lose_scores(copy):
    before = tree(copy)
    with pytest.raises(StorageError, match=r"Fewer samples in place would lose scores .*Choose another --out"):
        again(copy, {"samples": 3})
    assert tree(copy) == before


def test_more_samples_in_place_do_not_claim_what_was_not_scored(toy, tmp_path):
    run(toy, tmp_path)
    outcome = again(tmp_path, {"samples": 13})
    assert "has 12 of the 13 samples asked for" in outcome.warnings[0]
    assert (outcome.manifest["settings"]["simulsa_samples"], outcome.manifest["counts"]["wanted"]) == (12, 12)
    run(toy, tmp_path)  # the folder is still the run that it was


def test_after_deciding_again_the_run_goes_on_with_the_new_rule_alone(toy, tmp_path):
    run(toy, tmp_path)
    again(tmp_path, {"acceptance": "greedy"})
    before = tree(tmp_path)
    run(toy, tmp_path, acceptance="greedy")
    assert tree(tmp_path) == before
    with pytest.raises(StorageError, match="other settings: simulsa_acceptance was"):
        run(toy, tmp_path)


@pytest.mark.parametrize(("first", "field"), [("ratio", "full"), ("lookback", "lookback")])
def test_scores_that_a_rule_implied_stay_known_when_another_decides(toy, tmp_path, first, field):
    # A ratio run leaves out audio longer than the window: no run without `full` would have chosen the same rows.
    run(toy, tmp_path, acceptance=first)
    original = tree(tmp_path)
    outcome = again(tmp_path, {"acceptance": "threshold"})
    assert outcome.manifest["settings"]["simulsa_extra_scores"] == [field]
    run(toy, tmp_path, acceptance="threshold", extra_scores=(field,))
    again(tmp_path, {"acceptance": first, "extra_scores": []})
    assert tree(tmp_path) == original


def test_twice_into_the_same_other_folder_also_spelled_otherwise(scored, tmp_path, monkeypatch):
    again(scored, {"acceptance": "greedy"}, tmp_path / "other")
    first = tree(tmp_path / "other")
    again(scored, {"acceptance": "threshold"}, tmp_path / "other")
    assert tree(tmp_path / "other") != first
    monkeypatch.chdir(scored.parent)
    spelled = Path("..") / scored.parent.name / scored.name / "toy_simulsa" / "scores.jsonl"
    again(scored, {"acceptance": "greedy"}, tmp_path / "other", scores=spelled)
    assert tree(tmp_path / "other") == first
    (tmp_path / "link").symlink_to(scored)
    again(scored, {"acceptance": "threshold"}, tmp_path / "other", scores=scores_of(tmp_path / "link"))


def test_a_folder_with_a_run_of_its_own_is_refused(toy, scored, tmp_path):
    run(toy, tmp_path / "own")
    before = tree(tmp_path / "own")
    with pytest.raises(StorageError, match=r"toy_simulsa holds another run\. Choose another --out"):
        again(scored, {}, tmp_path / "own")
    assert tree(tmp_path / "own") == before


def test_a_folder_with_an_unfinished_run_is_refused(scored, copy):
    (copy / "toy_simulsa" / "manifest.json").rename(copy / "toy_simulsa" / "started.json")
    with pytest.raises(StorageError, match=r"holds a run that is not finished\. Choose another --out"):
        again(scored, {}, copy)
    with pytest.raises(StorageError, match=r"The run beside .*scores\.jsonl is not finished\. Start it again"):
        again(copy)


def test_decisions_over_decisions_keep_saying_where_the_clips_are(toy, scored, tmp_path):
    again(scored, {"acceptance": "greedy"}, tmp_path / "first")
    second = again(tmp_path / "first", {"acceptance": "ratio"})  # in place
    assert second.manifest["scores_from"] == str(scores_of(scored))
    again(scored, {"acceptance": "lookback"}, tmp_path / "first")
    third = again(tmp_path / "first", {"samples": 4}, tmp_path / "second")
    assert third.manifest["scores_from"] == str(scores_of(tmp_path / "first"))
    clips = [Path(row["audios"][0]) for row in read_json_lines(tmp_path / "second" / "toy_simulsa.jsonl")]
    assert {clip.parents[2] for clip in clips} == {scored}
    with pytest.raises(StorageError, match=r"holds labels over .*, with clips elsewhere\. Choose another --out"):
        run(toy, tmp_path / "first")


@pytest.mark.parametrize("moment", ["toy_simulsa.jsonl", "scores.jsonl", "dataset_info.json", "report.html"])
def test_killed_at_a_file_the_same_command_goes_on(scored, tmp_path, moment):
    again(scored, {"acceptance": "greedy"}, tmp_path / "out")
    expected = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")

    with killed_after(os, "replace", lambda source, target: Path(target).name == moment):
        again(scored, {"acceptance": "greedy"}, tmp_path / "out")
    again(scored, {"acceptance": "greedy"}, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


# Portable folders


def test_a_portable_run_decided_in_place_stays_portable_where_it_is_moved(tmp_path):
    dataset = make_dataset(tmp_path / "out" / "audio")
    dataset.relative = True
    run(dataset, tmp_path / "out", portable=True)
    expected = tree(tmp_path / "out")
    run_info = json.loads((tmp_path / "out" / "dataset_info.json").read_text(encoding="utf-8"))
    assert run_info["toy"]["file_name"] == "toy.jsonl"
    again(tmp_path / "out", {"acceptance": "greedy"})
    again(tmp_path / "out", {"acceptance": "threshold"})
    assert tree(tmp_path / "out") == expected
    (tmp_path / "out").rename(tmp_path / "moved")
    again(tmp_path / "moved", {"acceptance": "greedy"})
    for row in read_json_lines(tmp_path / "moved" / "toy_simulsa.jsonl"):
        assert (tmp_path / "moved" / row["audios"][0]).is_file()


def test_paths_become_absolute_and_portable_again(toy, tmp_path):
    run(toy, tmp_path / "out")
    absolute = tree(tmp_path / "out")
    again(tmp_path / "out", {"portable": True})
    assert read_json_lines(scores_of(tmp_path / "out"))[0]["clip"].startswith("toy_simulsa/clips/")
    again(tmp_path / "out", {"portable": False})
    assert tree(tmp_path / "out") == absolute


def test_portable_into_another_folder_is_refused(scored, tmp_path):
    with pytest.raises(UsageError, match=r"simulsa_portable needs the clips inside --out.*or leave simulsa_portable"):
        again(scored, {"portable": True}, tmp_path)


def test_the_folder_may_be_reached_by_a_link(copy, tmp_path):
    # Clips of the copy still lie in the first run, hence a portable run of its own.
    dataset = make_dataset(tmp_path / "audio", count=3)
    run(dataset, tmp_path / "real", samples=2)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    again(tmp_path / "real", {"portable": True}, tmp_path / "link")
    assert all(not Path(row["clip"]).is_absolute() for row in read_json_lines(scores_of(tmp_path / "real")))


# Files made by hand: the contract's fields, no manifest, no dataset_info.json


def by_hand(number=0, name="own", **changed):
    """A row whose tokens are «Der», « Mann» with p = 0.9, 0.2 at the cut."""
    row = {
        "id": f"{name}-{number:08d}-0",
        "audio": "/speech/a.wav",
        "clip": "clips/a.wav",
        "duration_seconds": 3.0,
        "cut_seconds": 1.0,
        "messages": [{"role": "user", "content": "<audio>Translate."}],
        "reference": "Der Mann",
        "token_ids": [5, 6],
        "char_ends": [3, 8],
        "logprobs": [math.log(0.9), math.log(0.2)],
        "greedy": [5, 7],
        "eos_logprob": -1.0,
    }
    return {key: value for key, value in (row | changed).items() if value is not ...}


def test_the_contracts_fields_are_enough(tmp_path, capsys):
    scores = write_lines(tmp_path / "hand" / "own_simulsa" / "scores.jsonl", [by_hand(0), by_hand(1)])
    write_noise(scores.parent.parent / "a.wav", 1.0)
    assert type_it("--from-scores", scores, "simulsa_threshold=0.5", "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert "own: 2 partial samples from an unknown number of rows (0 empty, 0 whole, 50% of the reference tokens" in out
    assert "2 clips are missing or damaged, the first is " in err
    assert "the offline dataset own is not registered beside" in err
    (row, _) = read_json_lines(tmp_path / "out" / "own_simulsa.jsonl")
    assert row == {
        "messages": [{"role": "user", "content": "<audio>Translate."}, {"role": "assistant", "content": "Der"}],
        "audios": [str(tmp_path / "hand" / "clips" / "a.wav")],
    }
    manifest = json.loads((tmp_path / "out" / "own_simulsa" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["retokenized"] is None  # nobody looked
    assert (manifest["rows"], manifest["model"], manifest["settings"]["simulsa_seed"]) == (None, None, None)
    assert set(manifest["versions"]) == {"simulsa-plugin"}  # what scored is not known
    assert "|cut:unknown|rule:threshold|tau:0.5|" in manifest["signature"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "elsewhere"])
def test_what_was_made_by_hand_can_be_decided_again_and_again(tmp_path, elsewhere):
    scores = write_lines(tmp_path / "own_simulsa" / "scores.jsonl", [by_hand(0), by_hand(1)])
    out = tmp_path / "out" if elsewhere else tmp_path
    first = again(tmp_path, {"threshold": 0.5}, out, scores).manifest
    second = again(tmp_path, {"acceptance": "greedy"}, out, scores).manifest
    third = again(tmp_path, {"threshold": 0.5}, out, scores).manifest
    assert third == first != second
    keys, decided = {"threshold": 0.5, "samples": 1}, out / "own_simulsa" / "scores.jsonl"
    chained = again(tmp_path, keys, tmp_path / "chain", decided)
    assert (chained.manifest["counts"]["scored"], chained.manifest["settings"]["simulsa_samples"]) == (1, 1)


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ({}, "simulsa_threshold"),
        ({"acceptance": "ratio"}, "simulsa_ratio_floor"),
        ({"acceptance": "lookback"}, "simulsa_threshold"),
        ({"acceptance": "greedy"}, None),
        ({"threshold": 0.5}, None),
        ({"acceptance": "ratio", "ratio_floor": 0.01}, None),
        ({"acceptance": "lookback", "threshold": 0.5}, None),
    ],
)
def test_v_is_needed_only_where_a_default_needs_it(tmp_path, keys, missing):
    row = by_hand(logprobs_full=[0.0, 0.0], logprobs_lookback=[0.0, -9.0], lookback_ms=200.0)
    scores = write_lines(tmp_path / "own_simulsa" / "scores.jsonl", [row])
    if missing:
        with pytest.raises(UsageError, match=rf"default of {missing} is 100 / V, but .* not known\. Set {missing}"):
            again(tmp_path, keys, None, scores)
        return
    assert again(tmp_path, keys, None, scores).manifest["counts"]["accepted_tokens"] == 1


@pytest.mark.parametrize("greedy", [..., None], ids=["absent", "null"])
def test_greedy_without_its_field_is_one_line(tmp_path, capsys, greedy):
    scores = write_lines(tmp_path / "own_simulsa" / "scores.jsonl", [by_hand(greedy=greedy)])
    assert type_it("--from-scores", scores, "simulsa_acceptance=greedy", "--out", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "simulsa_acceptance=greedy needs greedy, which own-00000000-0 does not have. Score again" in line


def test_a_ratio_of_the_rows_needs_the_number_of_rows(tmp_path):
    scores = write_lines(tmp_path / "own_simulsa" / "scores.jsonl", [by_hand()])
    with pytest.raises(UsageError, match=r"simulsa_ratio needs the manifest\.json .*Use simulsa_samples"):
        again(tmp_path, {"ratio": 0.5, "threshold": 0.5}, tmp_path / "out", scores)


NAN, INFINITE = float("nan"), float("inf")
BROKEN = [
    *(({key: ...}, f"no {key}") for key in by_hand() if key not in ("greedy", "eos_logprob")),
    *(({key: None}, f"no {key}") for key in ("logprobs", "char_ends", "token_ids", "clip")),
    ({"reference": 5}, "id, audio, clip, reference are not all text"),
    ({"id": "own-1"}, "'own-1' is not the id of a sample"),
    ({"id": "own-00000001-0\n"}, "is not the id of a sample"),
    ({"cut_seconds": "1"}, "duration_seconds and cut_seconds are not positive numbers"),
    ({"cut_seconds": 0}, "duration_seconds and cut_seconds are not positive numbers"),
    ({"duration_seconds": NAN}, "duration_seconds and cut_seconds are not positive numbers"),
    ({"duration_seconds": 10**400}, "duration_seconds and cut_seconds are not positive numbers"),
    ({"messages": {}}, "messages is not a list of turns with role and content"),
    ({"messages": ["Translate."]}, "messages is not a list of turns with role and content"),
    ({"messages": [{"role": "user"}]}, "messages is not a list of turns with role and content"),
    ({"token_ids": "56"}, "token_ids is not a list of whole numbers"),
    ({"token_ids": [5, "6"]}, "token_ids is not a list of whole numbers"),
    ({"logprobs": [-1.0]}, "logprobs does not have one value for each token"),
    ({"char_ends": [3]}, "char_ends does not have one value for each token"),
    ({"greedy": [5, 6, 7]}, "greedy does not have one value for each token"),
    ({"greedy": [5, 6.5]}, "greedy holds something that is not a whole number"),
    ({"char_ends": [3, 9]}, "char_ends holds something that is neither null nor from 0 to 8"),
    ({"char_ends": [-1, 8]}, "char_ends holds something that is neither null nor from 0 to 8"),
    ({"char_ends": ["3", 8]}, "char_ends holds something that is neither null nor from 0 to 8"),
    ({"logprobs": [-1.0, None]}, "logprobs holds something that is not a finite number"),
    ({"logprobs": [-1.0, NAN]}, "logprobs holds something that is not a finite number"),
    ({"logprobs": [-INFINITE, -1.0]}, "logprobs holds something that is not a finite number"),
    ({"logprobs": [True, -1.0]}, "logprobs holds something that is not a finite number"),
    ({"logprobs_full": [-(10**400), -1.0]}, "logprobs_full holds something that is not a finite number"),
    ({"margins": ["0", 0]}, "margins holds something that is not a finite number"),
    ({"logprobs": [0.9, 0.2]}, "logprobs holds something above 0, which is not the logarithm of a probability"),
    ({"unstable_prefixes": 2}, "unstable_prefixes is not a list of whole numbers"),
    ({"clip": "clips/.."}, "clip 'clips/..' of 'own-00000001-0' is not a file name"),
    ({"clip": "a\0.wav"}, "is not a file name"),
    ({"id": "own-00000000-0"}, "own-00000000-0 is duplicated"),
    ({"id": "other-00000001-0"}, "other-00000001-0 is duplicated, or is of another dataset than own"),
]


@pytest.mark.parametrize(("changed", "said"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_broken_row_is_named_in_one_line_and_nothing_is_written(tmp_path, capsys, changed, said):
    rows = [by_hand(0), by_hand(1, **changed), by_hand(2)]
    scores = write_lines(tmp_path / "hand" / "own_simulsa" / "scores.jsonl", rows)
    assert type_it("--from-scores", scores, "simulsa_threshold=0.5", "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    # NaN and numbers beyond all measure are no JSON for some parsers, and then the reading stops at them.
    no_json = f"simulsa-augment: error: {scores}, line 2: not a JSON object."
    if not (line == no_json and any(text in repr(changed) for text in ("nan", "inf", "0" * 400))):
        assert line.startswith(f"simulsa-augment: error: {scores}, row 2: ")
        assert said in line
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("\n\n", "has no rows"),
        ("[1]\n", "line 1: not a JSON object"),
        (json.dumps(by_hand())[:-9] + "\n", "line 1: not a JSON object"),
        (json.dumps(by_hand()) + "\n{\n", "line 2: not a JSON object"),
        (json.dumps(by_hand(eos_logprob=NAN)) + "\n", "JSON"),  # not read, or read and not written
        (json.dumps(by_hand(reference="a \ud800")) + "\n", "JSON"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, capsys, text, said):
    scores = write_lines(tmp_path / "scores.jsonl", [])
    scores.write_text(text, encoding="utf-8")
    assert type_it("--from-scores", scores, "simulsa_threshold=0.5", "--out", tmp_path / "out") == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("given", ["gone.jsonl", "."])
def test_a_file_that_is_none_is_one_line(tmp_path, capsys, given):
    assert type_it("--from-scores", tmp_path / given, "--out", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"{tmp_path / given} {'is a folder; expected' if given == '.' else 'does not exist. Give'} a scores.jsonl"
        in line
    )
    assert line.endswith("NAME_simulsa/scores.jsonl" + (" of an --out folder." if given == "." else " in its --out."))


@pytest.mark.parametrize("given", ["data", "data/toy_simulsa"])
def test_of_a_folder_the_scores_inside_are_named(tmp_path, capsys, given):
    scores = write_lines(tmp_path / "data" / "toy_simulsa" / "scores.jsonl", [])
    assert type_it("--from-scores", tmp_path / given, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.endswith(f"expected a scores.jsonl of simulsa-augment. Give {scores}.\n")


@pytest.mark.parametrize("name", ["../own", "/etc/own", "a/b", "..", ".hidden"])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path, capsys, name):
    scores = write_lines(tmp_path / "hand" / "scores.jsonl", [by_hand(name=name)])
    assert type_it("--from-scores", scores, "simulsa_threshold=0.5", "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"The dataset name {name!r} cannot be a file name" in line
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("clip", ["../../secret.wav", "/etc/secret.wav", "own_simulsa/../../secret.wav"])
def test_no_portable_clip_leaves_the_folder(tmp_path, clip):
    scores = write_lines(tmp_path / "own_simulsa" / "scores.jsonl", [by_hand(clip=clip)])
    with pytest.raises(UsageError, match="simulsa_portable needs the clips inside --out"):
        again(tmp_path, {"threshold": 0.5, "portable": True}, None, scores)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("manifest.json", "{", "manifest.json cannot be read"),
        ("manifest.json", '{"settings": 5}', "manifest.json is not a manifest of simulsa-augment"),
        ("skipped.jsonl", '{"id": 5, "reason": "x"}\n', "skipped.jsonl, row 1: id and reason are not both text"),
        ("skipped.jsonl", '{"id": "x", "reason": "x"}\n', "skipped.jsonl, row 1: 'x' is not the id of a sample"),
        ("../dataset_info.json", "{", "dataset_info.json is not valid JSON"),
    ],
)
def test_a_broken_neighbour_is_one_line(copy, tmp_path, capsys, name, text, said):
    (copy / "toy_simulsa" / name).write_text(text, encoding="utf-8")
    assert type_it("--from-scores", scores_of(copy), "--out", tmp_path / "out") == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("entry", ["toy.jsonl", ["toy.jsonl"], {"file_name": 5}, None])
def test_a_strange_entry_of_the_offline_dataset_is_left_out(copy, tmp_path, entry):
    (copy / "dataset_info.json").write_text(json.dumps({"toy": entry}), encoding="utf-8")
    outcome = again(copy, {}, tmp_path / "out")
    assert list(json.loads((tmp_path / "out" / "dataset_info.json").read_text(encoding="utf-8"))) == ["toy_simulsa"]
    assert "toy is not registered" in outcome.warnings[0]


def test_an_offline_dataset_on_a_hub_stays_registered(copy, tmp_path):
    (copy / "dataset_info.json").write_text('{"toy": {"hf_hub_url": "some/where"}}', encoding="utf-8")
    again(copy, {}, tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["toy"] == {"hf_hub_url": "some/where"}


def test_a_row_without_tokens_says_nothing(tmp_path):
    empty = by_hand(token_ids=[], char_ends=[], logprobs=[], greedy=[], reference="…")
    scores = write_lines(tmp_path / "own_simulsa" / "scores.jsonl", [empty])
    counts = again(tmp_path, {"threshold": 0.5}, None, scores).manifest["counts"]
    assert (counts["empty"], counts["whole_reference"], counts["tokens"]) == (1, 0, 0)


PROBE = """
import sys
from simulsa_plugin.commands.augment import main
code = main(sys.argv[1:])
heavy = {"torch", "scipy.stats", "llamafactory", "transformers", "matplotlib", "datasets", "sacrebleu", "pandas"}
print(code, sorted(heavy & set(sys.modules)))
"""


def test_neither_torch_nor_a_model_is_imported(copy, tmp_path):
    words = ["--from-scores", scores_of(copy), "simulsa_acceptance=ratio", "--out", tmp_path / "out"]
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "0 []"


def test_a_folder_that_another_process_holds_is_one_line(scored, copy):
    before = tree(copy)
    with lock_holder(copy / "toy_simulsa") as holder:
        for scores in (scores_of(copy), scores_of(scored)):
            with pytest.raises(StorageError, match=f"is in use by process {holder.pid}"):
                again(copy, {"acceptance": "greedy"}, copy, scores)
    (copy / "toy_simulsa" / LOCK).unlink()
    assert tree(copy) == before


def test_two_processes_into_one_folder_end_with_one_whole_decision(scored, tmp_path):
    barrier = FORK.Barrier(2)

    def decide(rule):
        barrier.wait(PATIENCE_SECONDS)
        again(scored, {"acceptance": rule}, tmp_path / "out")

    children = [start(decide, rule) for rule in ("greedy", "threshold")]
    for child in children:
        child.join(PATIENCE_SECONDS)
    codes = {child.exitcode for child in children}
    assert 0 in codes and codes <= {0, REFUSED}
    rule = json.loads((tmp_path / "out" / "toy_simulsa" / "manifest.json").read_text(encoding="utf-8"))["settings"]
    again(scored, {"acceptance": rule["simulsa_acceptance"]}, tmp_path / "expected")
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_memory_does_not_grow_with_the_rows(tmp_path):
    import tracemalloc

    def peak(count):
        rows = [by_hand(number, messages=[{"role": "user", "content": "x" * 2000}]) for number in range(count)]
        scores = write_lines(tmp_path / f"{count}" / "own_simulsa" / "scores.jsonl", rows)
        del rows
        tracemalloc.start()
        try:
            again(tmp_path, {"threshold": 0.5}, tmp_path / f"{count}", scores)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # 1500 more rows are 3 MB of text; their ids, for finding duplicates, take a tenth of that.
    few, many = peak(500), peak(2000)
    assert many - few < 500_000
