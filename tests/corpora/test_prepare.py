"""A raw corpus becomes a dataset: nothing lost, nothing mixed, and the same again."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora_files import write_audio, write_text
from helpers.fakes import Killed
from helpers.files import read_json_lines, tree
from prepared_corpora import (
    PROMPT,
    folders,
    make,
    planned,
    refusal,
    snapshot,
    stop_at,
    texts,
    write_mustc,
    write_parquet,
)

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.corpora import placement
from simulsa_plugin.corpora import prepare as module
from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.prepare import corpus_summary
from simulsa_plugin.corpora.prompts import TranslationPrompt
from simulsa_plugin.errors import DatasetError, SimulsaError, StorageError, UsageError
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.run_configuration import read_sealed_configuration

# ------------------------------------------------------------------------------------------------------ what comes out


def test_common_voice_with_all_that_is_wrong_with_it(covost2, out):
    prepared = make(covost2, out)
    clips = Path(covost2.corpus_dir) / "clips"
    assert read_json_lines(out / "toy.jsonl") == [
        {
            "id": f"cv_{number}",
            "messages": [
                {"role": "system", "content": PROMPT.system},
                {"role": "user", "content": PROMPT.text},
                {"role": "assistant", "content": text},
            ],
            "audios": [str(clips / f"cv_{number}.mp3")],
        }
        for number, text in ((0, "Guten Tag."), (1, 'Er sagte: "Nein.'), (3, "Ein sehr langer Satz."), (4, "NA"))
    ]
    assert read_json_lines(out / "toy_corpus" / "dropped.jsonl") == [
        {"id": "cv_7", "reason": "empty_translation"},
        {"id": "cv_2", "reason": "empty", "audio": str(clips / "cv_2.mp3")},
        {"id": "cv_5", "reason": "missing", "audio": str(clips / "cv_5.mp3")},
        {"id": "cv_6", "reason": "broken", "audio": str(clips / "cv_6.mp3")},
    ]
    manifest = read_sealed_configuration(out / "toy_corpus" / "manifest.json")
    assert manifest == prepared.manifest
    assert manifest["rows"] == 8
    assert manifest["counts"] == {"utterances": 4, "hours": 0.01, "over_30_seconds": 1, "renormalized": 0}  # 35.5 s
    assert manifest["dropped"] == {"broken": 1, "empty": 1, "empty_translation": 1, "missing": 1}
    assert sorted(path.name for path in out.rglob("*")) == [
        "dataset_info.json", "dropped.jsonl", "manifest.json", "toy.jsonl", "toy_corpus",
    ]  # fmt: skip


def test_utterances_that_are_too_long_can_be_left_out(covost2, out):
    prepared = make(replace(covost2, corpus_max_seconds=30.0), out)
    assert texts(out) == ["Guten Tag.", 'Er sagte: "Nein.', "NA"]
    assert prepared.manifest["counts"]["over_30_seconds"] == 0
    assert prepared.manifest["dropped"]["over_max_seconds"] == 1
    (row,) = [
        row for row in read_json_lines(out / "toy_corpus" / "dropped.jsonl") if row["reason"] == "over_max_seconds"
    ]
    assert row["id"] == "cv_3"


@pytest.mark.parametrize(("limit", "kept"), [(1.0, 4), (0.999, 2), (30.0, 5), (1.5, 5), (0.7, 1)])
def test_exactly_as_long_as_the_limit_is_not_too_long(tmp_path, out, limit, kept):
    segments = [(1, 0.5, 1.0), (1, 2.1, 1.0), (1, 3.0, 0.7), (1, 4.0, 0.999), (1, 6.0, 1.5)]
    settings = replace(write_mustc(tmp_path / "m", segments, rate=48_000, channels=2), corpus_max_seconds=limit)
    assert make(settings, out).manifest["counts"]["utterances"] == kept


def test_the_summary_says_what_was_dropped_and_what_is_too_long(covost2, out):
    first, second, third = corpus_summary(make(covost2, out))
    assert first == "toy: 4 utterances, 0.6 min, from covost2 (train); 8 rows read"
    assert second.startswith("  dropped: broken 1, empty 1, empty_translation 1, missing 1; listed in ")
    assert "longer than 30 s: 1;" in third
    assert "simulsa_corpus_max_seconds=30 drops them" in third


def test_segments_of_talks_are_cut_out_in_the_order_of_the_corpus(mustc, out):
    make(mustc, out)
    wav = Path(mustc.corpus_dir) / "data" / "train" / "wav"
    stored = {talk: soundfile.read(wav / f"ted_{talk}.wav", dtype="float32")[0] for talk in (1, 2)}
    audio = out / "toy_corpus" / "audio" / "00000"
    expected = [
        ("Satz 0.", audio / "00000000.wav", stored[1][163_200:180_800]),
        ("Satz 1.", audio / "00000001.wav", stored[1][152_000:163_200]),
        ("Satz 2.", audio / "00000002.wav", stored[2][32_000:56_000]),
        ("Satz 3.", audio / "00000003.wav", stored[1][:14_400]),
        ("Satz 4.", audio / "00000004.wav", stored[2][176_000:]),  # 0.2 s past the end
        ("Satz 6.", wav / "ted_2.wav", stored[2]),  # the whole talk
        ("Satz 7.", audio / "00000007.wav", stored[1][163_200:180_800]),
        ("Satz 9.", audio / "00000009.wav", stored[1][17_975:28_444]),  # 17975.296 to 28444.432
    ]
    rows = read_json_lines(out / "toy.jsonl")
    assert [(row["messages"][-1]["content"], row["audios"]) for row in rows] == [
        (text, [str(path)]) for text, path, _ in expected
    ]
    for _, path, samples in expected:
        np.testing.assert_array_equal(read_mono(path), samples)
    assert [(row["id"], row["reason"]) for row in read_json_lines(out / "toy_corpus" / "dropped.jsonl")] == [
        ("ted_3_0", "missing"),
        ("ted_2_3", "beyond_end"),
    ]


def test_no_row_of_the_corpus_is_lost_without_a_word(covost2, mustc, out):
    for number, settings in enumerate((covost2, mustc)):
        prepared = make(settings, out, f"toy{number}")
        dropped = read_json_lines(prepared.folder / "dropped.jsonl")
        assert prepared.manifest["dropped"] == Counter(row["reason"] for row in dropped)
        kept = [row["id"] for row in read_json_lines(out / f"toy{number}.jsonl")]
        assert prepared.manifest["rows"] == len(kept) + len(dropped)
        assert len({*kept, *(row["id"] for row in dropped)}) == prepared.manifest["rows"]


def test_llamafactory_loads_what_was_written(covost2, mustc, out):
    from simulsa_plugin.llamafactory.data.dataset import load_datasets
    from simulsa_plugin.llamafactory.model.arguments import inference_arguments

    make(covost2, out, "clips")
    make(mustc, out, "talks", TranslationPrompt("", "<audio>Translate.", ""))
    recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio", "dataset_dir": str(out)}
    clips, talks = load_datasets(inference_arguments(recipe), ["clips", "talks"])
    for dataset, ask, system in ((clips, PROMPT.text, PROMPT.system), (talks, "<audio>Translate.", "")):
        rows = read_json_lines(out / f"{dataset.name}.jsonl")
        samples = [dataset.sample(number) for number in range(len(dataset))]
        assert [(one.reference, [one.audio]) for one in samples] == [
            (row["messages"][-1]["content"], row["audios"]) for row in rows
        ]
        assert {(one.prompt.messages[0]["content"], one.prompt.system) for one in samples} == {(ask, system)}
        assert not dataset.has_relative_audio()
    assert all(len(read_mono(talks.sample(number).audio)) for number in range(len(talks)))


def test_it_is_registered_beside_what_is_there(covost2, out):
    out.mkdir()
    others = {"mine": {"file_name": "mine.jsonl"}}
    write_text(out / "dataset_info.json", json.dumps(others))
    make(covost2, out)
    info = json.loads((out / "dataset_info.json").read_text(encoding="utf-8"))
    assert info == others | {"toy": {"file_name": str(out / "toy.jsonl"), **SHAREGPT_ENTRY}}


def test_relative_folders_give_absolute_paths(covost2, mustc, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, settings in enumerate((covost2, mustc)):
        relative = replace(settings, corpus_dir=os.path.relpath(settings.corpus_dir))
        make(relative, Path("out"), f"toy{number}")
        for row in read_json_lines(out / f"toy{number}.jsonl"):
            assert os.path.isabs(row["audios"][0])
            assert Path(row["audios"][0]).exists()
        before = snapshot(out)
        monkeypatch.chdir("/")
        make(settings, out, f"toy{number}")  # from elsewhere it is the same work
        assert snapshot(out) == before
        monkeypatch.chdir(tmp_path)


def test_the_same_audio_folder_by_another_way_is_the_same_work(mustc, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wav = Path(mustc.corpus_dir) / "data" / "train" / "wav"
    wav.rename(tmp_path / "elsewhere")
    make(replace(mustc, audio_dir="elsewhere"), out)
    before = snapshot(out)
    make(replace(mustc, audio_dir=str(tmp_path / "elsewhere")), out)
    assert snapshot(out) == before


def test_audio_inside_a_table_is_written_to_files_of_its_own(tmp_path, out):
    settings = write_parquet(tmp_path / "table")
    prepared = make(settings, out)
    rows = read_json_lines(out / "toy.jsonl")
    audio = out / "toy_corpus" / "audio" / "00000"
    names = ["00000000.wav", "00000001.wav", "00000002.mp3", "00000003.wav"]
    assert [row["audios"] for row in rows] == [[str(audio / name)] for name in names]
    assert prepared.manifest["dropped"] == {"broken": 1}
    for number in (1, 3):  # the part, not the file that it was cut from
        write_audio(tmp_path / "whole.wav", 2.0, seed=number)
        whole, _ = soundfile.read(tmp_path / "whole.wav", dtype="float32")
        np.testing.assert_array_equal(read_mono(rows[number]["audios"][0]), whole[4000:16_000])
    before = snapshot(out)
    make(settings, out)
    assert snapshot(out) == before


# ------------------------------------------------------------------------------------------------- again, and elsewhere


@pytest.mark.parametrize("form", ["covost2", "mustc"])
def test_done_again_nothing_is_written(form, out, request):
    settings = request.getfixturevalue(form)
    first = make(settings, out)
    before = snapshot(out)
    second = make(settings, out)
    assert snapshot(out) == before
    assert (second.name, second.manifest) == (first.name, first.manifest)


@pytest.mark.parametrize("form", ["covost2", "mustc"])
def test_nothing_is_ever_written_where_the_corpus_lies(form, out, request):
    settings = request.getfixturevalue(form)
    folder = Path(settings.corpus_dir)
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o555)
    try:
        before = snapshot(folder), folders(folder)
        for _ in range(2):
            planned(settings, out)
            make(settings, out)
        assert (snapshot(folder), folders(folder)) == before
    finally:
        for place in places:
            place.chmod(0o755)


@pytest.mark.parametrize("form", ["covost2", "mustc"])
def test_the_number_of_workers_changes_no_byte(form, out, request):
    settings = request.getfixturevalue(form)
    found = []
    for workers in (1, 2, 5, None):
        make(replace(settings, corpus_workers=workers), out)
        found.append(tree(out))
        make(replace(settings, corpus_workers=3), out)
        assert tree(out) == found[-1]
        shutil.rmtree(out)
    assert found == [found[0]] * 4


OTHERS = {
    "simulsa_corpus_max_seconds": lambda settings: {"settings": replace(settings, corpus_max_seconds=1.0)},
    "simulsa_target_language": lambda settings: {"settings": replace(settings, target_language="fr")},
    "prompt": lambda settings: {"prompt": replace(PROMPT, text="<audio>Say it in German.")},
    "system": lambda settings: {"prompt": replace(PROMPT, system="")},
    "splits": lambda settings: {"splits": ("train", "dev")},
}


@pytest.mark.parametrize("key", OTHERS)
@pytest.mark.parametrize("stopped", [False, True])
def test_other_settings_over_the_same_folder_are_refused_by_their_key(mustc, out, monkeypatch, key, stopped):
    if stopped:
        stop_at(monkeypatch, placement, "_write", 4)
        with pytest.raises(Killed):
            make(mustc, out)
        monkeypatch.undo()
    else:
        make(mustc, out)
    before = snapshot(out)
    other = {"settings": mustc} | OTHERS[key](mustc)
    for action in (make, planned):
        message = refusal(StorageError, lambda action=action: action(out=out, **other))
        assert message.startswith(f"{out / 'toy_corpus'} holds a corpus with other settings: {key} was ")
        assert message.endswith("Choose another --out, or another name with dataset=NAME, or remove that folder.")
    assert snapshot(out) == before


@pytest.mark.parametrize("stopped", [False, True])
def test_another_prompt_writes_rows_anew_where_nothing_was_made_of_them(mustc, out, monkeypatch, stopped):
    make(mustc, out)
    expected = tree(out)
    shutil.rmtree(out)
    wrong = replace(PROMPT, text="<audio>Say it in German.", system="")
    make(mustc, out, prompt=wrong)
    if stopped:  # on the way from one to the other
        stop_at(monkeypatch, module, "write_jsonl", 2)
        with pytest.raises(Killed):
            make(mustc, out, new_prompt=True)
        monkeypatch.undo()
    make(mustc, out, new_prompt=True)
    assert tree(out) == expected
    for key in ("simulsa_target_language", "splits"):
        other = {"settings": mustc} | OTHERS[key](mustc)
        message = refusal(StorageError, lambda other=other: make(out=out, new_prompt=True, **other))
        assert f"other settings: {key} was " in message


def test_another_corpus_folder_is_refused_by_its_key(mustc, out, tmp_path):
    make(mustc, out)
    other = write_mustc(tmp_path / "other")
    assert "other settings: simulsa_corpus_dir was " in refusal(StorageError, lambda: make(other, out))


@pytest.mark.parametrize("change", ["translation", "offset", "order", "fewer"])
def test_a_corpus_that_was_changed_is_refused(mustc, out, change):
    make(mustc, out)
    text = Path(mustc.corpus_dir) / "data" / "train" / "txt"
    table, translations = (text / name for name in ("train.yaml", "train.de"))
    if change == "translation":
        translations.write_text(translations.read_text().replace("Satz 4.", "Satz 4!"))
    elif change == "offset":
        table.write_text(table.read_text().replace("offset: 2.0", "offset: 2.1"))
    else:
        for path in (table, translations):
            kept = path.read_text().splitlines(keepends=True)
            path.write_text("".join(kept[::-1] if change == "order" else kept[:-1]))
    before = tree(out)
    for action in (make, planned):
        message = refusal(StorageError, lambda action=action: action(mustc, out))
        assert f"other settings: {'rows was 10, now 9' if change == 'fewer' else 'content was '}" in message
    assert tree(out) == before


def test_audio_inside_a_table_that_was_changed_does_not_replace_what_was_made(tmp_path, out):
    settings = write_parquet(tmp_path / "table", 4)
    make(settings, out)
    before = snapshot(out)
    (tmp_path / "table" / "train.parquet").unlink()
    write_parquet(tmp_path / "table", 5)
    assert "other settings: rows was 4, now 5" in refusal(StorageError, lambda: make(settings, out))
    assert snapshot(out) == before


@pytest.mark.parametrize(
    "entry", [{"file_name": "other.jsonl"}, {"hf_hub_url": "someone/toy"}, {"file_name": "/else/toy.jsonl"}, [], "toy"]
)
def test_a_registered_dataset_of_the_same_name_stays_as_it_is(covost2, out, entry):
    out.mkdir()
    write_text(out / "dataset_info.json", json.dumps({"toy": entry}))
    before = snapshot(out)
    for action in (make, planned):
        message = refusal(StorageError, lambda action=action: action(covost2, out))
        assert message.startswith(f"{out} has a dataset toy that was not made from this corpus.")
    assert snapshot(out) == before


@pytest.mark.parametrize("beside", [None, "toy_corpus"])
def test_a_file_of_rows_that_nobody_knows_stays_as_it_is(covost2, out, beside):
    write_text(out / "toy.jsonl", '{"mine": 1}\n')
    write_text(out / "dataset_info.json", json.dumps({"toy": {"file_name": "toy.jsonl"}}))
    if beside:
        (out / beside).mkdir()  # as a run that was refused leaves it
    before = snapshot(out)
    assert "was not made from this corpus" in refusal(StorageError, lambda: make(covost2, out))
    assert snapshot(out) == before


def test_audio_of_an_unknown_corpus_is_not_taken_for_this_ones(mustc, out, tmp_path):
    # Who removes the manifest alone, to start anew, would get the old sounds with the new texts.
    make(write_mustc(tmp_path / "other", seconds=13.0), out)
    for path in (out / "toy.jsonl", out / "dataset_info.json", out / "toy_corpus" / "manifest.json"):
        path.unlink()
    before = snapshot(out)
    message = refusal(StorageError, lambda: make(mustc, out))
    assert "holds audio, and nothing beside it says of which corpus. Remove " in message
    assert snapshot(out) == before
    shutil.rmtree(out / "toy_corpus")
    make(mustc, out)


def test_an_entry_of_the_template_for_a_file_that_is_not_there_yet_is_filled(covost2, out):
    out.mkdir()
    write_text(out / "dataset_info.json", json.dumps({"toy": {"file_name": "toy.jsonl", **SHAREGPT_ENTRY}}))
    make(covost2, out)
    assert len(texts(out)) == 4


@pytest.mark.parametrize("name", ["a/b", "../toy", "/toy", "", ".toy", "toy,other", "a\\b", "a b"])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_made(covost2, out, name):
    for action in (make, planned):
        message = refusal(UsageError, lambda action=action: action(covost2, out, name))
        assert message.startswith(f"The dataset cannot be called {name!r}")
    assert not out.exists()


def test_two_corpora_in_one_folder_do_not_meet(covost2, mustc, out):
    make(covost2, out, "toy")
    make(mustc, out, "toy_corpus")
    make(mustc, out, "toy.v2")
    assert len(texts(out, "toy")) == 4
    assert texts(out, "toy_corpus") == texts(out, "toy.v2")
    before = snapshot(out)
    make(covost2, out, "toy")
    make(mustc, out, "toy_corpus")
    assert snapshot(out) == before


def test_a_corpus_of_which_no_audio_can_be_used_is_an_error_and_settles_nothing(mustc, out, tmp_path):
    (Path(mustc.corpus_dir) / "data" / "train" / "wav").rename(tmp_path / "elsewhere")
    for _ in range(2):
        message = refusal(DatasetError, lambda: make(mustc, out))
        gone = Path(mustc.corpus_dir) / "data" / "train" / "wav"
        assert message.startswith(f"No audio of {mustc.folder} can be used: missing. There is no {gone}/")
        assert message.endswith("Set simulsa_audio_dir to the folder from which the corpus names its audio.")
        assert not (out / "toy.jsonl").exists()
        assert not (out / "dataset_info.json").exists()
    make(replace(mustc, audio_dir=str(tmp_path / "elsewhere")), out)  # what the message asks for
    assert len(texts(out)) == 8


def test_a_corpus_that_is_not_in_its_form_settles_nothing(mustc, out):
    wrong = replace(mustc, target_language="fr")
    for action in (make, planned):
        refusal(DatasetError, lambda action=action: action(wrong, out))
    make(mustc, out)


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_an_output_that_is_no_folder_is_one_line(covost2, tmp_path, place):
    write_text(tmp_path / "file", "mine")
    out = tmp_path / "file" if place == "a file" else tmp_path / "file" / "out"
    assert "Choose another --out" in refusal(StorageError, lambda: make(covost2, out))
    assert (tmp_path / "file").read_text() == "mine"


# --------------------------------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize("form", ["covost2", "mustc"])
def test_a_plan_writes_nothing_opens_no_audio_and_agrees_with_the_run(form, out, monkeypatch, request):
    settings = request.getfixturevalue(form)
    monkeypatch.setattr(placement, "audio_info", None)
    monkeypatch.setattr(placement, "read_parts", None)
    first, _ = planned(settings, out)
    assert not out.exists()
    monkeypatch.undo()
    prepared = make(settings, out)
    manifest = prepared.manifest
    audio = [row for row in read_json_lines(prepared.folder / "dropped.jsonl") if "audio" in row]
    listed = manifest["counts"]["utterances"] + len(audio)
    assert f"would first read {settings.corpus}, {manifest['rows']} rows, into {out}: {listed} utterances" in first
    told = ", ".join(
        f"{row['reason']} 1" for row in read_json_lines(prepared.folder / "dropped.jsonl") if "audio" not in row
    )
    assert first.endswith(f"; dropped: {told or 'none'}")
    before = snapshot(out)
    places = folders(out)
    assert planned(settings, out) == []
    assert (snapshot(out), folders(out)) == (before, places)


def test_a_plan_of_a_table_with_audio_inside_it_writes_nothing(tmp_path, out):
    settings = write_parquet(tmp_path / "table")
    first, _ = planned(settings, out)
    assert "5 rows" in first and "5 utterances in 5 audio files, 2 of them parts of longer ones" in first
    assert not out.exists()


def test_what_is_not_registered_yet_is_not_finished(mustc, out, monkeypatch):
    stop_at(monkeypatch, module, "add_datasets", 1)
    with pytest.raises(Killed):
        make(mustc, out)
    monkeypatch.undo()
    assert planned(mustc, out)
    make(mustc, out)
    assert planned(mustc, out) == []


def test_every_error_is_one_of_ours(tmp_path, out):
    # Whatever stands in the place of the corpus, no other exception comes out than those that commands print.
    write_text(tmp_path / "file.tsv", "path\ttranslation\n")
    for corpus in ("covost2", "mustc", "europarl_st", "fleurs", "kaldi", "nemo", "table"):
        for place in (tmp_path / "file.tsv", tmp_path):
            settings = CorpusSettings(corpus, str(place), source_language="en", target_language="de")
            for action in (planned, make):
                with pytest.raises(SimulsaError):
                    action(settings, out)


@pytest.mark.parametrize("name", ["NAME_corpus/dropped.jsonl", "NAME_corpus/notes.txt", "NAME.jsonl"])
def test_what_others_put_where_a_corpus_would_be_written_stays(mustc, out, name):
    path = out / name.replace("NAME", "corpus")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(StorageError, match="Choose another --out"):
        make(mustc, out, name="corpus")
    assert [(one, one.read_bytes()) for one in out.rglob("*") if one.is_file()] == [(path, b"mine")]


@pytest.mark.parametrize("name", ["corpus_corpus", "corpus.jsonl", "corpus_corpus/audio"])
def test_a_corpus_is_written_through_no_link(mustc, out, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link and will not be written through"):
        make(mustc, out, name="corpus")
    assert not list((tmp_path / "elsewhere").iterdir())
