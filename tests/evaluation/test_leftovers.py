"""Commands that were killed while they wrote: the same command again leaves nothing of theirs behind."""

import json
import os
import signal

import pytest
from helpers.files import tree

from simulsa_plugin.comparison.compare import CompareOptions, run_compare
from simulsa_plugin.comparison.comparison_files import ComparisonFiles
from simulsa_plugin.evaluation.score import ScoreOptions, run_score
from simulsa_plugin.files.atomic import UNFINISHED
from simulsa_plugin.logs.convert import OUTPUT_FORMS, ConvertOptions, convert

ROW = {
    "index": 0,
    "prediction": "a b",
    "delays": [500.0, 900.0],
    "elapsed": [500.0, 900.0],
    "prediction_length": 2,
    "reference": "a b",
    "source": ["a.wav"],
    "source_length": 1000.0,
}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "instances.log"
    path.write_text("".join(json.dumps({**ROW, "index": index}) + "\n" for index in range(3)), encoding="utf-8")
    return path


WORKS = {
    **{
        form: lambda log, out, form=form: convert(log, out / "converted", ConvertOptions(form)) for form in OUTPUT_FORMS
    },
    "score": lambda log, out: run_score(log, ScoreOptions(), out / "score.json"),
    "compare": lambda log, out: run_compare([log, log], CompareOptions(), ComparisonFiles(out / "compare.json")),
}


def killed_before_it_renames(work, log, out):
    pid = os.fork()
    if not pid:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            work(log, out)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("name", WORKS)
def test_started_again_after_a_kill_nothing_is_left_of_the_first(log, tmp_path, name, capsys):
    (tmp_path / "expected").mkdir()
    (tmp_path / "out").mkdir()
    WORKS[name](log, tmp_path / "expected")
    killed_before_it_renames(WORKS[name], log, tmp_path / "out")
    assert any(path.name.endswith(UNFINISHED) for path in (tmp_path / "out").rglob("*"))
    WORKS[name](log, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
