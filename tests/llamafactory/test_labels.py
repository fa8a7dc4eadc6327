"""`formatting: simulsa`: labels that are decided while LLaMA-Factory loads, by the rule of an entry.

What a written NAME_simulsa.jsonl gives through the same loader is the expected value: a run with that rule wrote it, or
`--from-scores`.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset, write_noise
from helpers.files import read_json_lines
from helpers.forked_programs import run_program
from offline_data import register

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.demo.corpus import OFFLINE_NAME
from simulsa_plugin.errors import DatasetError, StorageError, UsageError
from simulsa_plugin.llamafactory.data import labels as labels_module

SAMPLES = 12
WITHOUT_EMPTY = {"simulsa_acceptance": "greedy", "simulsa_boundary": "word", "simulsa_keep_empty": False}
RULES = [
    {"simulsa_acceptance": "threshold", "simulsa_threshold": 0.005},
    {"simulsa_acceptance": "greedy", "simulsa_boundary": "word"},
    WITHOUT_EMPTY,
    {"simulsa_acceptance": "ratio", "simulsa_ratio_threshold": 0.005, "simulsa_ratio_floor": 0.3},
    {"simulsa_acceptance": "lookback", "simulsa_threshold": 0.3},
]


@pytest.fixture(scope="module")
def tokenizer():
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, *_ = get_train_args(recipe(Path("nowhere"), "nothing", "nowhere"))
    module = load_tokenizer(model_args)
    return get_template_and_fix_tokenizer(module["tokenizer"], data_args), module


@pytest.fixture
def load(tokenizer, tmp_path):
    """The rows of a registered dataset as LLaMA-Factory's trainer gets them."""
    from llamafactory.data import get_dataset
    from llamafactory.hparams import get_train_args

    template, module = tokenizer

    def load(folder, name, **keys):
        model_args, data_args, training_args, *_ = get_train_args(recipe(folder, name, tmp_path / "cache", **keys))
        data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
        return [{key: row[key] for key in ("input_ids", "labels", "audios")} for row in data]

    return load


@pytest.fixture
def answers(load, tokenizer):
    """What the rows of a registered dataset teach to say."""

    def answers(*arguments, **keys):
        tokens = [[token for token in row["labels"] if token != -100] for row in load(*arguments, **keys)]
        decoded = tokenizer[1]["tokenizer"].batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in decoded]

    return answers


def recipe(folder, name, cache, **keys):
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": "simulsa-demo",
        "template": "qwen2_audio",
        "dataset": name,
        "dataset_dir": str(folder),
        "output_dir": os.devnull,
        "report_to": "none",
        "cache_dir": str(cache),
        "use_cpu": True,
        **keys,
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("offline"))


def run(dataset, out, **settings):
    settings = {"samples": SAMPLES, "batch_size": 4} | settings
    augment_dataset(dataset, ByteModel(), AugmentSettings(**settings), out)
    return out


@pytest.fixture(scope="module")
def scored(toy, tmp_path_factory):
    """A run with all scores, decided by the threshold."""
    return run(toy, tmp_path_factory.mktemp("scored"), extra_scores=("full", "lookback"))


@pytest.fixture
def copy(scored, tmp_path):
    """The same in a folder of its own."""
    return shutil.copytree(scored, tmp_path / "run")


def scores_of(out):
    return out / "toy_simulsa" / "scores.jsonl"


def rows_of(path):
    """The rows, which tests may change: without the checksum that would show it."""
    rows = read_json_lines(path)
    return [{key: value for key, value in row.items() if key != "checksum"} for row in rows]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def label(folder, scores, **keys):
    """Register `labels` in a folder of its own, as a user would."""
    folder.mkdir(exist_ok=True)
    register(folder, {"labels": {"file_name": str(scores), "formatting": "simulsa", **keys}})
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"acceptance": "greedy", "boundary": "word", "keep_empty": False},
        {"threshold": 0.005, "portable": True},
    ],
    ids=lambda settings: " ".join(settings) or "defaults",
)
def test_an_entry_without_keys_gives_what_the_run_wrote(toy, load, tmp_path, settings):
    out = run(toy, tmp_path / "run", **settings)
    written = load(out, "toy_simulsa")
    assert len(written) == len(rows_of(out / "toy_simulsa.jsonl")) > 3
    assert load(label(tmp_path / "data", scores_of(out)), "labels") == written


@pytest.mark.parametrize("keys", RULES, ids=lambda keys: " ".join(map(str, keys.values())))
def test_a_rule_in_the_entry_gives_what_deciding_again_writes(scored, load, answers, tmp_path, keys):
    relabel(scores_of(scored), keys, tmp_path / "again", lambda name, entry: None)
    data = label(tmp_path / "data", scores_of(scored), **keys)
    assert load(data, "labels") == load(tmp_path / "again", "toy_simulsa")
    assert answers(data, "labels") != answers(scored, "toy_simulsa")


def test_a_key_that_is_null_has_its_default_not_the_runs(toy, load, tmp_path):
    usual, other = run(toy, tmp_path / "usual"), run(toy, tmp_path / "other", threshold=0.005)
    data = label(tmp_path / "data", scores_of(other), simulsa_threshold=None)
    decided, written = load(data, "labels"), load(usual, "toy_simulsa")
    assert [row["labels"] for row in decided] == [row["labels"] for row in written]


def test_scores_that_came_without_their_manifest_are_decided_by_the_defaults(copy, answers, tmp_path):
    (copy / "toy_simulsa" / "manifest.json").unlink()
    data = label(tmp_path / "data", scores_of(copy), simulsa_threshold=100 / 256)
    assert answers(data, "labels") == answers(copy, "toy_simulsa")
    with pytest.raises(UsageError, match=r"V, the width of the output layer, is not known. Set simulsa_threshold"):
        answers(label(tmp_path / "data", scores_of(copy)), "labels")


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.25, 3), (0.29, 3), (0.375, 5), (1, 12)])
def test_a_share_is_the_beginning_of_the_file_rounded_half_up(scored, load, tmp_path, share, count):
    data = label(tmp_path / "data", scores_of(scored), simulsa_share=share)
    assert load(data, "labels") == load(scored, "toy_simulsa")[:count]


def test_a_share_is_of_the_scored_rows_before_empty_ones_are_left_out(scored, answers, tmp_path):
    relabel(scores_of(scored), WITHOUT_EMPTY, tmp_path / "again", lambda name, entry: None)
    first = [row["partial"] for row in rows_of(scores_of(tmp_path / "again"))[:9]]
    assert "" in first
    data = label(tmp_path / "data", scores_of(scored), **WITHOUT_EMPTY, simulsa_share=0.75)
    assert len(answers(data, "labels")) == sum(map(bool, first))


def test_max_samples_counts_samples_as_it_does_of_the_written_file(toy, load, tmp_path):
    out = run(toy, tmp_path / "run", keep_empty=False)
    data = label(tmp_path / "data", scores_of(out))
    assert load(data, "labels", max_samples=4) == load(out, "toy_simulsa", max_samples=4)


def test_a_portable_folder_can_be_moved(toy, load, tmp_path):
    out = run(toy, tmp_path / "run", portable=True)
    moved = out.rename(tmp_path / "elsewhere")
    register(moved, {"labels": {"file_name": "toy_simulsa/scores.jsonl", "formatting": "simulsa"}})
    audios = [row["audios"] for row in load(moved, "labels")]
    assert audios == [[str(moved / row["clip"])] for row in rows_of(scores_of(moved))]
    assert all(Path(audio).is_file() for (audio,) in audios)


def test_two_workers_give_what_one_gives(scored, load, tmp_path):
    data = label(tmp_path / "data", scores_of(scored), **WITHOUT_EMPTY)
    alone = load(data, "labels")
    assert load(data, "labels", preprocessing_num_workers=2, overwrite_cache=True) == alone


def test_streaming_gives_the_same_samples(scored, load, tmp_path):
    data = label(tmp_path / "data", scores_of(scored), **WITHOUT_EMPTY, simulsa_share=0.75)
    streamed = load(data, "labels", streaming=True, max_steps=1)
    assert sorted(map(str, streamed)) == sorted(map(str, load(data, "labels")))


def test_beside_the_offline_rows_it_is_one_more_dataset(copy, toy, load, tmp_path):
    write_rows(tmp_path / "offline.jsonl", toy.sharegpt_rows())
    entries = json.loads((copy / "dataset_info.json").read_text())
    entries["toy"] = {**entries["toy_simulsa"], "file_name": str(tmp_path / "offline.jsonl")}
    entries["labels"] = {"file_name": "toy_simulsa/scores.jsonl", "formatting": "simulsa"}
    register(copy, entries)
    assert load(copy, "toy,labels") == load(copy, "toy,toy_simulsa")
    assert len(load(copy, "toy,labels")) == len(toy) + SAMPLES


def test_a_new_threshold_gives_new_labels_from_a_warm_cache(scored, answers, tmp_path):
    found = [
        answers(label(tmp_path / "data", scores_of(scored), simulsa_threshold=threshold), "labels")
        for threshold in (0.5, 0.005, 0.5)
    ]
    assert found[0] == found[2] != found[1]


def test_new_scores_give_new_labels_even_with_the_time_of_the_old(copy, answers, tmp_path):
    data, path = label(tmp_path / "data", scores_of(copy)), scores_of(copy)
    before, seen = answers(data, "labels"), path.stat()
    rows = rows_of(path)
    rows[0] = {**rows[0], "logprobs": [0.0] * len(rows[0]["logprobs"])}
    write_rows(path, rows)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    after = answers(data, "labels")
    assert (before[0], after[0]) == (rows[0]["partial"], rows[0]["reference"])
    assert before[0] != after[0] and before[1:] == after[1:]


def test_deciding_in_place_changes_what_an_entry_without_keys_means(copy, answers, tmp_path):
    data = label(tmp_path / "data", scores_of(copy))
    before = answers(data, "labels")
    relabel(scores_of(copy), {"simulsa_threshold": 0.005}, copy, lambda name, entry: None)
    assert answers(data, "labels") == answers(copy, "toy_simulsa") != before


def test_the_same_again_is_taken_from_the_cache_and_another_version_is_not(scored, load, tmp_path, monkeypatch):
    data, asked = label(tmp_path / "data", scores_of(scored)), []
    decide = labels_module.decide
    monkeypatch.setattr(labels_module, "decide", lambda *given: asked.append(1) or decide(*given))
    counts = []
    for version in ("0.1.0", "0.1.0", "0.1.1"):
        monkeypatch.setattr(labels_module.Scores.__init__, "__defaults__", (version,))
        load(data, "labels")
        counts.append(len(asked))
    assert counts == [SAMPLES, SAMPLES, 2 * SAMPLES]


def test_a_reference_that_looks_like_a_date_stays_text(answers, tmp_path):
    rows = [("2020-01-01", write_noise(tmp_path / f"{row}.wav", 2.0, seed=row)) for row in range(4)]
    out = run(ListDataset("toy", rows), tmp_path / "run", samples=3)
    data = label(tmp_path / "data", scores_of(out), simulsa_threshold=1e-9)
    assert answers(data, "labels") == ["2020-01-01"] * 3


def test_a_list_that_is_empty_for_ten_megabytes_may_hold_something_then(copy, answers, tmp_path):
    row = rows_of(scores_of(copy))[0] | {"unstable_prefixes": [], "note": "x" * 1_000_000}
    rows = [row | {"id": f"toy-{number:08d}-0"} for number in range(11)]  # as many as the manifest says, with the last
    write_rows(scores_of(copy), [*rows, row | {"id": "toy-00000011-0", "unstable_prefixes": [1]}])
    assert answers(label(tmp_path / "data", scores_of(copy)), "labels") == [row["partial"]] * 12


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"simulsa_treshold": 0.2}, "Unknown key simulsa_treshold: did you mean simulsa_threshold"),
        ({"threshold": 0.2}, "Unknown key threshold: did you mean simulsa_threshold"),
        ({"columns": {}}, "Unknown key columns: allowed: file_name, formatting, simulsa_acceptance"),
        ({"simulsa_ratio": 0.01}, "simulsa_ratio was fixed when the scores were computed"),
        ({"num_samples": 3}, "num_samples draws rows at random, some repeatedly. Use simulsa_share"),
        ({"simulsa_threshold": "high"}, "simulsa_threshold is 'high'; allowed: a number"),
        ({"simulsa_threshold": 2}, "simulsa_threshold is 2.0; allowed: a number > 0 and ≤ 1"),
        ({"simulsa_acceptance": "best"}, "simulsa_acceptance is 'best'; allowed: threshold, greedy, ratio, lookback"),
        ({"simulsa_share": 0}, "simulsa_share is 0.0; allowed: a number > 0 and ≤ 1"),
        ({"simulsa_keep_empty": None}, "simulsa_keep_empty is None; allowed: true or false"),
        ({"file_name": None}, "file_name is None; allowed: the path of a scores.jsonl"),
        ({"formatting": "sharegpt", "simulsa_share": 0.5}, 'simulsa_share is for "formatting": "simulsa", but'),
    ],
)
def test_a_mistake_in_an_entry_names_the_dataset_and_what_is_allowed(scored, tmp_path, keys, expected):
    from llamafactory.data.parser import get_dataset_list

    entry = {"file_name": str(scores_of(scored)), "formatting": "simulsa", **keys}
    with pytest.raises(UsageError) as raised:
        get_dataset_list(["labels"], {"labels": entry})
    assert f"The dataset labels in dataset_info.json: {expected}" in str(raised.value)


def test_an_entry_without_a_file_is_told_what_it_needs():
    from llamafactory.data.parser import get_dataset_list

    with pytest.raises(UsageError, match=r"file_name is None; allowed: the path of a scores\.jsonl"):
        get_dataset_list(["labels"], {"labels": {"formatting": "simulsa"}})


def test_an_entry_on_a_hub_is_told_what_it_needs():
    from llamafactory.data.parser import get_dataset_list

    with pytest.raises(UsageError, match="Unknown key hf_hub_url: allowed: file_name"):
        get_dataset_list(["labels"], {"labels": {"hf_hub_url": "some/where", "formatting": "simulsa"}})


def test_other_entries_are_what_they_were(scored):
    from llamafactory.data.parser import DatasetAttr, get_dataset_list

    (attribute,) = get_dataset_list(["toy_simulsa"], str(scored))
    expected = DatasetAttr("file", "toy_simulsa.jsonl")
    expected.join(json.loads((scored / "dataset_info.json").read_text())["toy_simulsa"])
    assert attribute == expected and vars(attribute) == vars(expected)
    (online,) = get_dataset_list(["anything"], "ONLINE")
    assert online.dataset_name == "anything"


def test_a_rule_whose_scores_are_missing_names_the_option_that_computes_them(toy, load, tmp_path):
    out = run(toy, tmp_path / "run")
    for rule, extra in (("ratio", "full"), ("lookback", "lookback")):
        data = label(tmp_path / "data", scores_of(out), simulsa_acceptance=rule)
        with pytest.raises(UsageError, match=rf"simulsa_acceptance={rule} or simulsa_extra_scores={extra}"):
            load(data, "labels")


def test_broken_scores_name_their_line(copy, load, tmp_path):
    rows = rows_of(scores_of(copy))
    write_rows(scores_of(copy), [*rows[:4], {**rows[4], "logprobs": [1.0]}, *rows[5:]])
    with pytest.raises(StorageError, match="row 5: logprobs does not have one value for each token"):
        load(label(tmp_path / "data", scores_of(copy)), "labels")


def test_scores_of_a_run_that_is_not_finished_are_refused(copy, load, tmp_path):
    (copy / "toy_simulsa" / "manifest.json").rename(copy / "toy_simulsa" / "started.json")
    with pytest.raises(StorageError, match=r"The dataset labels in dataset_info.json: .* is not finished"):
        load(label(tmp_path / "data", scores_of(copy)), "labels")


def test_no_sample_at_all_is_an_error(copy, load, tmp_path):
    rows = [{**row, "logprobs": [-50.0] * len(row["logprobs"])} for row in rows_of(scores_of(copy))]
    write_rows(scores_of(copy), rows)
    with pytest.raises(DatasetError, match="every partial translation is empty, and simulsa_keep_empty is false"):
        load(label(tmp_path / "data", scores_of(copy), simulsa_keep_empty=False), "labels")


@pytest.fixture
def labelled_project(project_folder, clean_environment):
    """The project after `simulsa-augment` with the packaged model, and `labels` over its scores."""
    words = ("recipes/demo_offline.yaml", "simulsa_ratio=0.5", "--out", "made")
    made = run_program("simulsa-augment", *words, folder=project_folder, environment=clean_environment)
    assert made.returncode == 0, made.stderr[-4000:]
    path = project_folder / "made" / "dataset_info.json"
    entries = json.loads(path.read_text())
    scores = {"file_name": f"{OFFLINE_NAME}_simulsa/scores.jsonl", "formatting": "simulsa"}
    entries["greedy"] = {**scores, "simulsa_acceptance": "greedy", "simulsa_boundary": "word", "simulsa_share": 0.75}
    entries["ratio"] = {**scores, "simulsa_acceptance": "ratio"}
    register(path.parent, entries)
    return project_folder


def train(llamafactory_cli, dataset):
    return llamafactory_cli(
        "train",
        "recipes/demo_simulsa.yaml",
        f"dataset={OFFLINE_NAME},{dataset}",
        "dataset_dir=made",
        "max_steps=2",
        "per_device_train_batch_size=2",
        "preprocessing_num_workers=2",
        "overwrite_cache=false",
        "dataloader_num_workers=0",
    )


def test_llamafactory_trains_on_labels_that_it_decides_itself(llamafactory_cli, labelled_project):
    result = train(llamafactory_cli, "greedy")
    assert result.returncode == 0, result.stderr[-4000:]
    scores = labelled_project / "made" / f"{OFFLINE_NAME}_simulsa" / "scores.jsonl"
    assert f"{scores.relative_to(labelled_project)}: 6 of 8 scored rows, simulsa_acceptance=greedy" in result.stderr
    saved = labelled_project / "saves" / "simulsa" / "trainer_state.json"
    assert json.loads(saved.read_text())["global_step"] == 2

    result = train(llamafactory_cli, "ratio")
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "needs logprobs_full" in line]
    assert line.startswith("simulsa_plugin: simulsa_acceptance=ratio needs logprobs_full")
    assert "Traceback" not in result.stderr
