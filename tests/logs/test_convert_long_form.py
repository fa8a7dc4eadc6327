"""Conversion of long recordings. Expected values: by hand; the tools themselves are asked in test_other_tools.py."""

from __future__ import annotations

import json

import pytest
from helpers.files import read_json_lines
from helpers.long_form import NAMES, write_long_cell

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.evaluation.score import ScoreOptions, score_log
from simulsa_plugin.logs.convert import HYPOTHESIS
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, read_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.simulstream import LOG


@pytest.fixture
def cell(tmp_path):
    folder = tmp_path / "result" / "rollback_k500_b1"
    return folder, write_long_cell(folder, "word")[0]


def converted(source, form, out, *words):
    assert main(["convert", str(source), "--to", form, "--out", str(out), *words]) == 0
    return out


def scores_of(log, folder):
    return score_log(log, ScoreOptions(references=folder / REFERENCES, segments=folder / SEGMENTS)).scores.corpus


def test_a_cell_that_is_scored_without_its_segments_is_warned_of(cell):
    log = cell[0] / INSTANCES_LOG
    result = log.parent.parent
    start = f"{log} has whole recordings, and is scored as if each were an utterance."
    (warning,) = (one for one in score_log(log, ScoreOptions()).warnings if one.startswith(start))
    assert warning.endswith(f"--segments {result / SEGMENTS} --references {result / REFERENCES}")
    with_segments = ScoreOptions(references=result / REFERENCES, segments=result / SEGMENTS)
    assert not any(one.startswith(start) for one in score_log(log, with_segments).warnings)


def test_a_cell_of_talks_is_a_folder_for_simulstream_that_scores_alike(cell, tmp_path):
    folder, ours = cell
    out = converted(folder, "simulstream", tmp_path / "x")
    audios = [row["metadata"]["wav_name"] for row in read_json_lines(out / LOG) if "metadata" in row]
    assert audios == ["00000000.wav", "00000001.wav", "00000002.wav"]  # two have one name, by which it tells them apart
    assert [one.audio for one in read_segments(out / SEGMENTS, out / REFERENCES)] == [
        one for one in audios for _ in "abc"
    ]
    found = scores_of(out / LOG, out)
    for name in ("BLEU", "LongYAAL", "LongDAL", "StreamLAAL"):
        assert found[name] == pytest.approx(ours[name], rel=1e-9), name


def test_a_cell_of_talks_is_a_folder_for_omnisteval_that_scores_alike(cell, tmp_path):
    folder, ours = cell
    out = converted(folder, "omnisteval", tmp_path / "x")
    assert scores_of(out / HYPOTHESIS, out) | {"NE": None} == ours | {"NE": None}
    assert read_json_lines(out / HYPOTHESIS)[2]["elapsed"] == []  # in all lines or in none


def test_the_resegmented_log_of_a_cell_scores_to_its_numbers(cell):
    folder, ours = cell
    found = score_log(folder / RESEGMENTED, ScoreOptions()).scores
    for name in ("BLEU", "chrF", "LongYAAL", "LongAL", "LongLAAL", "LongDAL", "LongYAAL_CA", "LongYAAL_CA_CU"):
        assert found.corpus[name] == ours[name], name
    assert (found.counts["recordings"], found.corpus["YAAL"]) == (3, ours["LongYAAL"])


def test_other_delays_come_from_the_steps_of_every_session(cell, tmp_path):
    folder, ours = cell
    out = converted(folder, "omnisteval", tmp_path / "x", "--delays", "first_stable")
    assert scores_of(out / HYPOTHESIS, out)["LongLAAL"] < ours["LongLAAL"]
    assert read_json_lines(out / HYPOTHESIS)[0]["delays"] == [1000, 2500, 2500, 4000, 6000, 7500, 7500, 9000, 9000]


def test_simuleval_gets_a_line_for_each_talk_and_texts_one_for_each_segment(cell, tmp_path):
    folder, _ = cell
    rows = read_json_lines(converted(folder, "simuleval", tmp_path / "x.log"))
    assert [row["source"] for row in rows] == list(NAMES)
    lists = converted(folder, "lists", tmp_path / "lists")
    assert (lists / "source.txt").read_text().splitlines() == list(NAMES)
    assert (lists / "target.txt").read_text().splitlines()[0].startswith("Good morning everyone ")
    texts = read_json_lines(converted(folder, "texts", tmp_path / "x.jsonl"))
    assert (len(texts), texts[0]) == (9, {"mt": "good morning all", "ref": "Good morning everyone"})


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("simuleval", "3 recordings"),
        ("omnisteval", "3 recordings"),
        ("simulstream", "3 recordings"),
        ("texts", "9 instances"),
    ],
)
def test_it_says_of_what_how_many_were_written(cell, tmp_path, capsys, form, written):
    out = converted(cell[0], form, tmp_path / "x")
    assert capsys.readouterr().out == f"{out}: {written}\n"
    converted(cell[0] / RESEGMENTED, "texts", tmp_path / "y")
    assert capsys.readouterr().out == f"{tmp_path / 'y'}: 9 instances\n"


def test_a_log_with_its_segments_is_converted_like_a_cell(cell, tmp_path):
    folder, _ = cell
    words = ["--segments", str(folder.parent / SEGMENTS), "--references", str(folder.parent / REFERENCES)]
    first = converted(folder / INSTANCES_LOG, "omnisteval", tmp_path / "one", *words)
    second = converted(folder, "omnisteval", tmp_path / "two")
    for name in (HYPOTHESIS, SEGMENTS, REFERENCES):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_steps_of_another_cell_are_one_clear_error(cell, tmp_path, capsys):
    folder, _ = cell
    rows = read_json_lines(folder / "steps.jsonl")
    (folder / "steps.jsonl").write_text("".join(json.dumps(row | {"text": "other"}) + "\n" for row in rows))
    assert main(["convert", str(folder), "--to", "simulstream", "--out", str(tmp_path / "x")]) == 1
    assert "Instance 0 has 9 delays for 2 units of its steps" in capsys.readouterr().err
