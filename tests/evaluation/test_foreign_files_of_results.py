"""What stands where results are written and was made by somebody else is the same bytes afterwards."""

import json
import shutil

import pytest
from helpers.fakes import ClockModel, write_noise
from helpers.files import tree

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import LogError, StorageError
from simulsa_plugin.evaluation.comet.command import CometOptions, add_comet
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.result_cells import read_cells, read_scores
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.model.values import Prompt, Sample

SETTINGS = EvaluationSettings(chunks=(500,), rollbacks=(0,))
CELL = "rollback_k500_b0"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    audio = write_noise(tmp_path_factory.mktemp("audio") / "a.wav", 1.5)
    return [Sample(0, Prompt(({"role": "user", "content": "<audio>"},), ""), "guten Tag", audio)]


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def run(rows, out, settings=SETTINGS):
    return run_evaluation(ClockModel(), "toy", rows, settings, out)


@pytest.mark.parametrize("name", ["decoding/notes.txt", "offline/notes.txt", f"{CELL}/instances.log", "report.html",
                                  "scores.tsv", "curves.png", "decoding", "offline"])  # fmt: skip
def test_an_evaluation_refuses_what_is_not_its_own(rows, out, name):
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_bytes(b"mine")
    before = tree(out)
    with pytest.raises(StorageError, match=r"was not made by this command, and stays as it is\. Choose another --out"):
        run(rows, out)
    assert tree(out) == before


@pytest.mark.parametrize("content", ["{}", '{"cells": []}', '{"settings": 5}'])
def test_somebody_elses_scores_are_not_taken_for_a_result(rows, out, content):
    (out / "scores.json").write_text(content, encoding="utf-8")
    before = tree(out)
    with pytest.raises(StorageError, match=r"scores\.json was not made by this command"):
        run(rows, out)
    assert tree(out) == before


@pytest.mark.parametrize("name", ["decoding", "offline", CELL, "scores.json", "report.html", ".simulsa.json"])
@pytest.mark.parametrize("finished", [False, True], ids=["new", "finished"])
def test_an_evaluation_follows_no_link(rows, out, tmp_path, name, finished):
    if finished:
        run(rows, out)
        (shutil.rmtree if (out / name).is_dir() else lambda path: path.unlink(missing_ok=True))(out / name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "notes.txt").write_bytes(b"mine")
    (out / name).symlink_to(outside / "notes.txt" if "." in name else outside)
    with pytest.raises(StorageError, match=r"is a link and will not be written through"):
        run(rows, out)
    assert [path.name for path in outside.iterdir()] == ["notes.txt"]
    assert (outside / "notes.txt").read_bytes() == b"mine"
    assert (out / name).is_symlink()


def test_files_that_are_in_nobodys_way_stay(rows, out):
    for name in ("notes.txt", "other/instances.log", ".a.unfinished"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"mine")
    before = tree(out)
    run(rows, out)
    (out / "decoding").mkdir()
    (out / "decoding" / "notes.txt").write_bytes(b"mine")
    run(rows, out)
    assert {**before, "decoding/notes.txt": before["notes.txt"]}.items() <= tree(out).items()


def test_what_an_earlier_version_made_is_known_and_what_the_messages_advise_works(rows, out):
    run(rows, out)
    first = tree(out)
    (out / ".simulsa.json").unlink()
    run(rows, out)
    (out / "scores.json").unlink()  # as the message about a damaged result says; the list is gone as well
    with pytest.raises(StorageError, match=r"was not made by this command"):
        run(rows, out)
    shutil.rmtree(out)
    run(rows, out)
    (out / "scores.json").unlink()
    run(rows, out)
    assert tree(out) == first


@pytest.fixture
def log(rows, out):
    run(rows, out)
    return out / CELL / "instances.log"


@pytest.mark.parametrize("through", ["itself", "a link", "a hard link"])
@pytest.mark.parametrize("command", [
    ["score", "LOG", "--json", "OUT"],
    ["compare", "LOG", "LOG", "--json", "OUT"],
    ["convert", "LOG", "--to", "simuleval", "--out", "OUT"],
    ["convert", "LOG", "--to", "texts", "--out", "OUT"],
    ["convert", "CELL", "--to", "omnisteval", "--out", "OUT"],
    ["compare", "RESULT", "RESULT", "--json", "OUT"],
    ["compare", "RESULT", "RESULT", "--json", "SCORES"],
], ids=lambda words: " ".join(words[:2] + words[-1:]))  # fmt: skip
def test_no_output_replaces_what_is_read(log, command, through, capsys):
    result = log.parent.parent
    name = {"itself": log, "a link": result.parent / "link", "a hard link": result.parent / "hard"}[through]
    if through == "a link":
        name.symlink_to(log)
    elif through == "a hard link":
        name.hardlink_to(log)
    places = {"LOG": log, "CELL": log.parent, "RESULT": result, "OUT": name, "SCORES": result / "scores.json"}
    before = tree(result.parent)
    assert main([str(places.get(word, word)) for word in command]) == 2
    assert "is read, and would be replaced by the output. Give the output another name." in capsys.readouterr().err
    assert tree(result.parent) == before


def test_texts_that_are_read_beside_the_log_are_not_replaced(log, tmp_path):
    references = tmp_path / "references.txt"
    references.write_text("guten Tag\n", encoding="utf-8")
    assert main(["score", str(log), "--references", str(references), "--json", str(references)]) == 2
    assert references.read_text(encoding="utf-8") == "guten Tag\n"


def test_a_folder_for_simulstream_keeps_the_files_of_others(log, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "references.txt").write_bytes(b"mine")
    words = ["convert", str(log), "--to", "simulstream", "--out", str(tmp_path / "folder")]
    assert main(words) == 1
    assert "references.txt was not made by this command" in capsys.readouterr().err
    assert (tmp_path / "folder" / "references.txt").read_bytes() == b"mine"
    (tmp_path / "folder" / "references.txt").unlink()
    assert main(words) == 0
    written = tree(tmp_path / "folder")
    assert main(words) == 0
    assert tree(tmp_path / "folder") == written


@pytest.mark.parametrize("folder", ["..", ".", "/", "/etc", "../other", "a/..", "a\0", "x" * 300])
def test_a_cell_lies_in_its_result(log, folder):
    result = log.parent.parent
    scores = read_scores(result)
    scores["cells"][1]["folder"] = folder
    (result / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    with pytest.raises(LogError, match="expected the name of a folder in"):
        read_cells(result, read_scores(result))


def test_comet_writes_through_no_link(log, tmp_path):
    shutil.move(log.parent, tmp_path / "elsewhere")
    log.parent.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    with pytest.raises(StorageError, match=r"is a link and will not be written through"):
        add_comet(log.parent.parent, CometOptions(tmp_path / "no.ckpt"))
    assert tree(tmp_path) == before
