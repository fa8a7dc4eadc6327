"""Result folders that a loss of power, a disk or a hand has damaged: decoded again or named, never used in silence."""

import json
import re
import shutil

import pytest
from helpers.fakes import ClockModel, noise_samples
from helpers.files import recorded_disk, tree

from simulsa_plugin.errors import StorageError
from simulsa_plugin.evaluation import run as module
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.report import REPORT_FILES
from simulsa_plugin.evaluation.run import run_evaluation

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def rows(tmp_path):
    return noise_samples(tmp_path, [0.9 + 0.3 * row for row in range(5)])


def run(rows, out, model=None, **settings):
    chosen = EvaluationSettings(**({"chunks": (500,), "rollbacks": (0, 3)} | settings))
    return run_evaluation(model or ClockModel(regret=True), "toy", rows, chosen, out)


def flip(data):
    """One digit in the middle is another one."""
    digits = list(re.finditer(rb"\d", data))
    place = digits[len(digits) // 2].start()
    return data[:place] + (b"9" if data[place : place + 1] != b"9" else b"1") + data[place + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "row missing": lambda data: data[: data.rstrip(b"\n").rfind(b"\n") + 1],
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "digit": flip,
    "twice": lambda data: data + data,
    "gone": None,
}


def damaged(folder, state):
    """Every damage to every file: (file, kind), with `folder` in the damaged state."""
    for path in sorted(path.relative_to(state) for path in state.rglob("*") if path.is_file()):
        for kind, damage in DAMAGES.items():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(state, folder)
            if damage is None:
                (folder / path).unlink()
            else:
                (folder / path).write_bytes(damage((state / path).read_bytes()))
            if damage is None or (folder / path).read_bytes() != (state / path).read_bytes():
                yield path, kind


def half_finished(rows, out, blocks):
    """A run that was stopped when it had decoded a few blocks."""
    run(rows, out)
    for path in out.iterdir():
        if path.name != "decoding":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    for block in range(blocks, 3):
        shutil.rmtree(out / "decoding" / f"{block:05d}")


def test_whatever_is_damaged_in_a_half_finished_run_is_decoded_again(rows, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_finish", lambda job, *_: tree(job.folder))
    whole = run(rows, tmp_path / "whole")
    half_finished(rows, tmp_path / "half", 2)
    count = 0
    for path, kind in damaged(tmp_path / "out", tmp_path / "half"):
        count += 1
        model = ClockModel(regret=True)
        caplog.clear()
        assert run(rows, tmp_path / "out", model) == whole, (path, kind)
        if path.name == "started.json":  # the blocks say what it said
            assert not caplog.messages
        else:
            (line,) = caplog.messages
            assert f"{path.parent.name} is decoded again: {path.name}" in line, (path, kind)
    assert count > 60


def test_the_results_after_damage_are_those_of_a_run_without(rows, tmp_path):
    run(rows, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_finish", lambda *_: [])
        half_finished(rows, tmp_path / "out", 3)
    for name in ("00000/rollback_k500_b3.jsonl", "00001/instances.jsonl", "started.json"):
        (tmp_path / "out" / "decoding" / name).write_bytes(b"")
    run(rows, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_block_of_another_evaluation_or_in_another_place_is_decoded_again(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_finish", lambda job, *_: tree(job.folder))
    whole = run(rows, tmp_path / "whole")
    run(rows, tmp_path / "other", max_new_tokens=9)
    for source in (tmp_path / "other" / "decoding" / "00001", tmp_path / "whole" / "decoding" / "00000"):
        half_finished(rows, tmp_path / "out", 1)
        shutil.copytree(source, tmp_path / "out" / "decoding" / "00001")
        assert run(rows, tmp_path / "out") == whole
        shutil.rmtree(tmp_path / "out")
    half_finished(rows, tmp_path / "out", 1)
    (tmp_path / "out" / "decoding" / "00001").write_text("no folder")
    assert run(rows, tmp_path / "out") == whole


def test_blocks_without_the_note_of_their_work_still_refuse_another_evaluation(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_finish", lambda job, *_: tree(job.folder))
    half_finished(rows, tmp_path / "out", 2)
    (tmp_path / "out" / "decoding" / "started.json").write_bytes(b"")
    with pytest.raises(StorageError, match="other settings: simulsa_max_new_tokens was"):
        run(rows, tmp_path / "out", max_new_tokens=9)


def test_whatever_is_damaged_in_a_finished_result_is_named_or_as_it_was(rows, tmp_path, monkeypatch):
    run(rows[:2], tmp_path / "whole")
    whole, count = tree(tmp_path / "whole"), 0
    for path, kind in damaged(tmp_path / "out", tmp_path / "whole"):
        if (path.name, kind) in (("scores.json", "gone"), (".simulsa.json", "gone")):
            continue  # not finished; or of an earlier version
        count += 1
        model = ClockModel(regret=True)
        if path.name in (*REPORT_FILES, ".simulsa.json"):
            run(rows[:2], tmp_path / "out", model)
            assert tree(tmp_path / "out") == whole, (path, kind)
        else:
            with pytest.raises(StorageError) as caught:
                run(rows[:2], tmp_path / "out", model)
            assert str(tmp_path / "out" / path) in str(caught.value), (path, kind)
            assert "\n" not in str(caught.value)
        assert not model.asked
    assert count > 50
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "out" / "offline" / "instances.log").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Remove .*/scores.json and start `simulsa-eval run` again"):
        run(rows[:2], tmp_path / "out")
    (tmp_path / "out" / "scores.json").unlink()
    run(rows[:2], tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_a_result_of_a_version_without_checksums_is_taken_as_it_is(rows, tmp_path):
    cells = run(rows[:1], tmp_path / "out")
    path = tmp_path / "out" / "scores.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in scores.items() if not key.startswith("checksum")}))
    assert run(rows[:1], tmp_path / "out") == cells


def test_a_block_is_on_the_disk_before_it_has_its_name_and_the_scores_before_the_blocks_go(rows, tmp_path, monkeypatch):
    out = tmp_path / "out"
    events = recorded_disk(monkeypatch)
    run(rows[:2], out)
    named = events.index(("rename", out / "decoding" / "00000"))
    inside = [(what, path) for what, path in events[:named] if path.parent.parent.name == "decoding"]
    written = [path.name for what, path in inside if what == "replace"]
    assert sorted(written) == sorted(
        ["block.json", "instances.jsonl", "offline.jsonl", "rollback_k500_b0.jsonl", "rollback_k500_b3.jsonl"]
    )
    assert len([path for what, path in inside if what == "fsync"]) == len(written)
    assert ("fsync", out) in events[:named]  # the folder of the blocks is there
    assert events[named + 1] == ("fsync", out / "decoding")
    finished = events.index(("replace", out / "scores.json"))
    assert events[finished + 1] == ("fsync", out)
    gone = [number for number, (what, path) in enumerate(events) if what == "unlink" and path.name == "block.json"]
    assert gone and min(gone) > finished + 1
    for cell in ("offline", "rollback_k500_b0", "rollback_k500_b3"):
        assert ("fsync", out / cell) in events[:finished]
