"""Raw corpora typed into the commands: read, augmented, trained on and evaluated by one recipe."""

import json
import os
from pathlib import Path

import pytest
import soundfile
from datasets import Audio, load_dataset
from helpers.fakes import write_noise
from helpers.files import read_json_lines, tree
from helpers.forked_programs import run_program
from huggingface_hub import DatasetCard
from make_covost2 import write_covost2

from simulsa_plugin.commands import augment, evaluate

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = "recipes/augment_covost2_en_zh.yaml"
COMMANDS = {"simulsa-augment": augment.main, "simulsa-eval": evaluate.main}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cv-corpus") / "en"
    write_covost2(folder, rows=8, test_rows=3, target="zh-CN")
    return folder


@pytest.fixture
def in_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def typed(corpus, out, *more):
    """The line of recipes/QUICKSTART.md, with the packaged model in the place of the 7B one."""
    keys = [f"simulsa_corpus_dir={corpus}", "model_name_or_path=simulsa-demo", "simulsa_samples=4"]
    return [RECIPE, *keys, *more, "--out", str(out)]


def test_the_recipe_of_the_paper_runs_as_typed(corpus, tmp_path, in_repository, capsys):
    before = tree(corpus)
    assert augment.main(typed(corpus, tmp_path / "out")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("covost2_en_zh: 8 utterances, 0.")
    assert lines[0].endswith(" min, from covost2 (train); 8 rows read")
    assert lines[1].startswith("covost2_en_zh: 4 partial samples from 8 rows")
    assert tree(corpus) == before
    rows = read_json_lines(tmp_path / "out" / "covost2_en_zh.jsonl")
    table = (corpus / "covost_v2.en_zh-CN.tsv").read_text(encoding="utf-8").splitlines()[1:9]
    assert [row["messages"][1]["content"] for row in rows] == [line.split("\t")[1] for line in table]
    assert [row["audios"] for row in rows] == [[str(corpus / "clips" / line.split("\t")[0])] for line in table]
    prompt = "<audio>Detect the language and translate the speech into Mandarin: <|en|>"
    partial = read_json_lines(tmp_path / "out" / "covost2_en_zh_simulsa.jsonl")
    assert {row["messages"][0]["content"] for row in [*rows, *partial]} == {prompt}
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text(encoding="utf-8"))
    assert set(info) == {"covost2_en_zh", "covost2_en_zh_simulsa"}
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.language_details == ["en", "zh-CN"]
    # The clips of Common Voice stay where they are, and so the offline rows cannot be loaded from a copy of the folder.
    assert [one["config_name"] for one in card.data.configs] == ["covost2_en_zh_simulsa"]
    written = tree(tmp_path / "out")
    assert augment.main(typed(corpus, tmp_path / "out")) == 0
    assert tree(tmp_path / "out") == written


def test_llamafactory_trains_on_what_was_written(corpus, tmp_path, in_repository, capsys):
    assert augment.main(typed(corpus, tmp_path / "out")) == 0
    capsys.readouterr()
    recipe = tmp_path / "train.yaml"
    # The keys of the corpus stay in it: one recipe serves all steps.
    recipe.write_text(
        (REPOSITORY / RECIPE).read_text(encoding="utf-8").replace("Qwen/Qwen2-Audio-7B", "simulsa-demo")
        + f"\nstage: sft\ndo_train: true\nfinetuning_type: full\nmax_steps: 2\nreport_to: none\nlogging_steps: 1\n"
        f"output_dir: {tmp_path / 'trained'}\ndataset_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    keys = ["dataset=covost2_en_zh,covost2_en_zh_simulsa", f"simulsa_corpus_dir={corpus}"]
    result = run_program("llamafactory-cli", "train", recipe, *keys, environment=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    state = json.loads((tmp_path / "trained" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_the_same_recipe_evaluates_on_the_test_split(corpus, tmp_path, in_repository, capsys):
    cells = ["simulsa_chunks=1000", "simulsa_rollbacks=3", "simulsa_max_new_tokens=20"]
    assert evaluate.main(typed(corpus, tmp_path, *cells)) == 0
    out, err = capsys.readouterr()
    assert "covost2_en_zh-CN_test: 3 utterances, 0." in out
    assert (
        "test set covost2_en_zh-CN_test: 3 of 3 rows, model simulsa-demo, latency unit char, BLEU tokenizer zh\n" in out
    )
    assert "warning" not in err
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert scores["dataset"] == "covost2_en_zh-CN_test"
    assert [cell["instances"] for cell in scores["cells"]] == [3, 3]
    assert "tok:zh" in scores["signatures"]["BLEU"]  # from the target language of the corpus
    log = read_json_lines(tmp_path / "offline" / "instances.log")
    table = (corpus / "covost_v2.en_zh-CN.tsv").read_text(encoding="utf-8").splitlines()[9:]
    assert [row["reference"] for row in log] == [line.split("\t")[1] for line in table]


def test_evaluating_on_the_training_split_is_warned_of(corpus, tmp_path, in_repository, capsys):
    cells = ["simulsa_chunks=1000", "simulsa_rollbacks=3", "simulsa_max_new_tokens=5", "simulsa_eval_samples=1"]
    assert evaluate.main(typed(corpus, tmp_path, *cells, "simulsa_eval_split=train")) == 0
    assert (
        "simulsa-eval: warning: the test set covost2_en_zh-CN is the split train of the corpus, and so is what "
        in capsys.readouterr().err
    )


def test_shards_of_a_corpus_end_with_the_same_bytes(corpus, tmp_path, in_repository, capsys):
    batches = "simulsa_batch_size=2"
    for number in (2, 1):
        assert augment.main(typed(corpus, tmp_path / "out", batches, "--shard", f"{number}/2")) == 0
    assert augment.main(typed(corpus, tmp_path / "out", batches)) == 0
    first = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "shards")  # the same place, since manifests name it
    assert augment.main(typed(corpus, tmp_path / "out", batches)) == 0
    assert tree(tmp_path / "out") == first
    capsys.readouterr()


def test_a_dry_run_reads_the_corpus_and_writes_nothing(corpus, tmp_path, in_repository, capsys):
    out = tmp_path / "out"
    assert augment.main(typed(corpus, out, "--dry-run")) == 0
    assert "would first read covost2, 8 rows, into " in capsys.readouterr().out
    assert not out.exists()
    assert augment.main(typed(corpus, out)) == 0
    before = tree(out)
    capsys.readouterr()
    assert augment.main(typed(corpus, out, "--dry-run")) == 0
    assert "covost2_en_zh: would cut 4 of 4 samples asked for, from 8 rows" in capsys.readouterr().out
    assert tree(out) == before


def test_without_a_recipe_a_corpus_meets_the_packaged_model(tmp_path, in_repository, capsys):
    lines = ["wav\tgerman", f"{Path(write_noise(tmp_path / 'a.wav', 2.0)).name}\tDer Hund schläft."]
    (tmp_path / "mine.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = [f"simulsa_corpus_dir={tmp_path / 'mine.tsv'}", "simulsa_corpus=table"]
    columns = "simulsa_columns=audio:wav,translation:german"
    prompt = "simulsa_prompt=Translate the English speech into German."
    assert augment.main([*keys, columns, prompt, "--out", str(tmp_path / "out")]) == 0
    assert "table: 1 partial samples from 1 rows" in capsys.readouterr().out
    (row,) = read_json_lines(tmp_path / "out" / "table.jsonl")
    assert row["messages"][0]["content"] == "<audio>Translate the English speech into German."
    assert row["audios"] == [str(tmp_path / "a.wav")]


def test_datasets_loads_a_corpus_whose_audio_was_cut_out_of_recordings(tmp_path, in_repository, capsys):
    data = tmp_path / "mustc" / "data" / "train"
    for folder in (data / "wav", data / "txt"):
        folder.mkdir(parents=True)
    write_noise(data / "wav" / "ted_1.wav", 6.0)
    (data / "txt" / "train.yaml").write_text(
        "- {duration: 1.5, offset: 0.5, wav: ted_1.wav}\n- {duration: 2.0, offset: 3.0, wav: ted_1.wav}\n",
        encoding="utf-8",
    )
    (data / "txt" / "train.de").write_text("Eins.\nZwei.\n", encoding="utf-8")
    keys = ["simulsa_corpus=mustc", f"simulsa_corpus_dir={tmp_path / 'mustc'}"]
    languages = ["simulsa_source_language=en", "simulsa_target_language=de", "simulsa_samples=1"]
    assert augment.main([*keys, *languages, "--out", str(tmp_path / "out")]) == 0
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert (
        card.data.language == ["en", "de"] and "| source dataset | mustc\\_en\\_de, from mustc (train) |" in card.text
    )
    cache = str(tmp_path / "cache")  # the user's has rows of earlier runs, with their paths
    rows = load_dataset(str(tmp_path / "out"), "mustc_en_de", split="train", cache_dir=cache)
    rows = rows.cast_column("audio", Audio(decode=False))
    assert [row["messages"][-1]["content"] for row in rows] == ["Eins.", "Zwei."]
    assert [soundfile.info(row["audio"]["path"]).duration for row in rows] == [1.5, 2.0]


def kaldi(folder, recording):
    """A data folder whose only recording is `recording`."""
    folder.mkdir()
    (folder / "wav.scp").write_text(f"one {recording}\n", encoding="utf-8")
    (folder / "text").write_text("one Hallo\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("keys", "code", "said"),
    [
        (["simulsa_corpus=covost"], 2, "simulsa_corpus is 'covost'; allowed: covost2, mustc"),
        (["simulsa_corpus_dir=."], 2, "simulsa_corpus_dir is set, but not what lies there"),
        (["simulsa_corpus=mustc"], 2, "does not say where mustc lies on disk. Add simulsa_corpus_dir=DIR"),
        (["simulsa_corpus=mustc", "simulsa_corpus_dir=gone"], 2, "simulsa_corpus_dir is gone: nothing is there"),
        (["simulsa_corpus=mustc", "simulsa_corpus_dir=."], 2, "simulsa_source_language is not set"),
        (["simulsa_corpus=table", "simulsa_corpus_dir=.", "dataset=a,b", "eval_dataset=a,b"], 2,
         "simulsa_corpus makes one dataset; the recipe names a, b"),
        (["simulsa_corpus=table", "simulsa_corpus_dir=.", "dataset=../a", "eval_dataset=../a"], 2,
         "The dataset cannot be called '../a'"),
        (["simulsa_corpus=kaldi", "simulsa_corpus_dir=shell"], 1,
         "wav.scp, line 1: the audio 'touch owned |' is a shell command, and none is run"),
        (["simulsa_corpus=kaldi", "simulsa_corpus_dir=outside"], 1, "lies outside the corpus, at "),
        (["simulsa_corpus=kaldi", "simulsa_corpus_dir=missing"], 1, "gone.wav. Set simulsa_audio_dir to the folder"),
        (["simulsa_corpus=table", "simulsa_corpus_dir=.", "simulsa_columns=audio"], 2, "simulsa_columns is 'audio'"),
        (["simulsa_corpus=kaldi", "simulsa_corpus_dir=shell", "simulsa_prompt=plane"], 2, "did you mean plain?"),
    ],
)  # fmt: skip
def test_a_mistake_about_a_corpus_is_one_line(command, keys, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kaldi(tmp_path / "shell", "touch owned |")
    kaldi(tmp_path / "outside", "../../etc/passwd")
    kaldi(tmp_path / "missing", "gone.wav")
    words = [*keys] if any(key.startswith("simulsa_prompt") for key in keys) else [*keys, "simulsa_prompt=Say it."]
    assert COMMANDS[command]([*words, "--out", str(tmp_path / "out")]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (tmp_path / "owned").exists()


def test_a_corpus_that_changed_is_not_mixed_with_what_was_made_of_it(tmp_path, in_repository, capsys):
    folder = kaldi(tmp_path / "corpus", "a.wav")
    write_noise(folder / "a.wav", 2.0)
    keys = ["simulsa_corpus=kaldi", f"simulsa_corpus_dir={folder}", "simulsa_prompt=Say it."]
    words = [*keys, "--out", str(tmp_path / "o")]
    assert augment.main(words) == 0
    (folder / "text").write_text("one Tschüss\n", encoding="utf-8")
    before = tree(tmp_path / "o")
    capsys.readouterr()
    assert augment.main(words) == 1
    err = capsys.readouterr().err
    assert "holds a corpus with other settings: content was" in err
    assert "Choose another --out, or another name with dataset=NAME, or remove that folder." in err
    assert tree(tmp_path / "o") == before
