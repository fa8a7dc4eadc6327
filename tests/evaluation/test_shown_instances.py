"""Instances that the report of an evaluation shows: which ones, and what it holds of their steps."""

import json
import os
import re

import pytest
from helpers.fakes import ClockModel, noise_samples
from helpers.files import read_json_lines
from helpers.reading_model import ReadingModel
from helpers.talks import VOICE_ACTIVITY, energy_detector, sentences, write_talk, write_talks

from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation import instance_browser
from simulsa_plugin.evaluation import shown_instances as module
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.instance_browser import browser_data
from simulsa_plugin.evaluation.named_result import NamedResult
from simulsa_plugin.evaluation.report_page import result_page
from simulsa_plugin.evaluation.result_cells import read_cells, read_scores
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.evaluation.shown_instances import shown_instances
from simulsa_plugin.model.values import UnusableRow

__all__ = ["energy_detector"]
EMOJI = "guten 🎈 Tag liebe 𠮷 Welt"


def evaluated(rows, out, model, **settings):
    run_evaluation(model, "toy", rows, EvaluationSettings(**settings), out)
    return out


def instances(out, unit="word", *, long_form=False):
    cells = list(read_cells(out, read_scores(out)).values())
    return shown_instances(out, cells, unit, long_form=long_form)


def texts(session):
    """(ms, displayed, committed) after each change, put together as the page does: in UTF-16."""
    text = b""
    for ms, kept, added, committed in session:
        text = text[: 2 * kept] + added.encode("utf-16-le")
        yield ms, text.decode("utf-16-le"), text[: 2 * committed].decode("utf-16-le")


@pytest.mark.parametrize("policy", ["rollback", "retranslation"])
def test_the_changes_put_together_are_the_steps(tmp_path, policy):
    rows = noise_samples(tmp_path / "audio", [2.0, 2.7, 3.1], text=EMOJI)
    model = ClockModel(text=EMOJI, regret=True)
    out = evaluated(rows, tmp_path / "out", model, policies=(policy,), chunks=(300,), rollbacks=(3,))
    shown = instances(out)
    assert {tuple(one["cells"]) for one in shown} == {(0, 1)}
    folder = json.loads((out / "scores.json").read_text(encoding="utf-8"))["cells"][1]["folder"]
    for one in shown:
        steps = [row for row in read_json_lines(out / folder / "steps.jsonl") if row["id"] == one["id"]]
        (session,) = one["cells"][1]["sessions"]
        found = list(texts(session))
        for step in steps:  # the last change until then
            _, text, committed = [change for change in found if change[0] <= step["audio_ms"]][-1]
            assert text == step["text"]
            assert committed.rstrip() == step["committed"].rstrip("\ufffd ")  # a character's first bytes are none yet


def test_an_odd_utterance_is_shown_and_says_why(tmp_path):
    # 30 alike of 1.6 s; number 20 is the longest, and so the slowest, number 25 has another reference.
    seconds = [1.6 + 0.001 * (row % 3) + 2.0 * (row == 20) for row in range(30)]
    rows = noise_samples(tmp_path / "audio", seconds, text="guten Tag")
    rows[25] = type(rows[25])(25, rows[25].prompt, "etwas anderes ganz", rows[25].audio)
    out = evaluated(rows, tmp_path / "out", ClockModel(text="guten Tag"), chunks=(1000,), rollbacks=(0,))
    shown = instances(out)
    kinds = {one["id"]: one["kinds"] for one in shown}
    assert "slowest" in kinds["toy-00000020"]
    assert "lowest chrF" in kinds["toy-00000025"]
    assert len(shown) <= 5 * module.PER_KIND + module.AT_RANDOM
    assert instances(out) == shown


def test_nothing_of_an_empty_translation_is_missing(tmp_path):
    rows = noise_samples(tmp_path / "audio", [1.0, 1.2])
    out = evaluated(rows, tmp_path / "out", ClockModel(text=""), chunks=(500,), rollbacks=(0,))
    shown = instances(out)
    assert {kind for one in shown for kind in one["kinds"]} == {"empty", "lowest chrF", "random"}
    assert [one["cells"][1]["LAAL"] for one in shown] == [None, None]


def test_audio_stops_where_the_page_has_no_more_room(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_AUDIO_SECONDS", 2.5)
    rows = noise_samples(tmp_path / "audio", [1.0, 1.0, 1.0, 1.0])
    out = evaluated(rows, tmp_path / "out", ClockModel(), chunks=(500,), rollbacks=(0,))
    notes = [one["note"] for one in instances(out)]
    assert notes == ["", "", *["The page has no room for more audio."] * 2]


@pytest.fixture
def talks(tmp_path, energy_detector):
    rows = write_talks(tmp_path / "talks")
    settings = {"chunks": (320,), "rollbacks": (3,), "longform": "window"} | VOICE_ACTIVITY
    return rows, evaluated(rows, tmp_path / "out", ReadingModel(regret=True), **settings)


def test_of_a_recording_there_is_an_excerpt_of_everything(talks, monkeypatch):
    rows, out = talks
    monkeypatch.setattr(module, "EXCERPT_SECONDS", 3.0)
    shown = instances(out, long_form=True)
    assert [one["id"] for one in shown] == ["0.wav", "1.wav", "2.wav"]
    for row, one in zip(rows, shown, strict=True):
        cell = one["cells"][1]
        assert one["shown_seconds"] == 3.0 < one["seconds"]
        starts = [part.offset_seconds for part in row.segments if part.offset_seconds < 3.0]
        assert [start for start, _, _ in one["segments"]] == starts
        assert len(cell["aligned"]) == len(starts)
        assert max(ms for session in cell["sessions"] for ms, *_ in session) <= 3000
        assert cell["words"]
        assert max(ms for _, ms in cell["words"]) <= 3000
        assert len(one["audio"]) < 30_000


def test_a_recording_has_the_translation_of_each_reference_segment(talks):
    rows, out = talks
    shown = instances(out, long_form=True)
    for row, one in zip(rows, shown, strict=True):
        assert [text for *_, text in one["segments"]] == [part.reference for part in row.segments]
        assert [text for text, _ in one["cells"][1]["aligned"]] == [part.reference for part in row.segments]
        assert {chrf for _, chrf in one["cells"][1]["aligned"]} == {100.0}
        assert one["reference"] is None  # the segments have it


def test_a_recording_has_the_speech_that_was_decoded(talks):
    rows, out = talks
    found = read_json_lines(out / "speech.jsonl")
    steps = read_json_lines(out / "rollback_k320_b3" / "steps.jsonl")
    last_steps = {(step["id"], step["segment"]): step["audio_ms"] for step in steps}
    assert [(one["id"], one["segment"]) for one in found] == list(last_steps)
    for one in found:  # the last step is that in which the end was known
        assert one["closed_seconds"] == pytest.approx(last_steps[one["id"], one["segment"]] / 1000)
        assert one["start_seconds"] < one["detected_seconds"] <= one["closed_seconds"] + 1e-9
    for row, shown in zip(rows, instances(out, long_form=True), strict=True):
        of_row = [one for one in found if one["audio"] == row.audio]
        keys = ("start_seconds", "end_seconds", "closed_seconds")
        assert shown["speech"] == [[pytest.approx(one[key], abs=0.0006) for key in keys] for one in of_row]
        for part in row.segments:  # every sentence was heard
            assert any(start <= part.offset_seconds < part.end_seconds <= end for start, end, _ in shown["speech"])
    seconds = sum(one["end_seconds"] - one["start_seconds"] for one in found)
    assert seconds == pytest.approx(read_scores(out)["longform"]["speech_seconds"], abs=0.001)


def test_a_result_of_an_earlier_version_is_shown_without_its_speech(talks):
    _, out = talks
    (out / "speech.jsonl").unlink()
    assert [one["speech"] for one in instances(out, long_form=True)] == [[]] * 3


@pytest.mark.parametrize("line", ['{"audio": "x.wav"}', '{"start_seconds": "soon"}', "[]"])
def test_a_changed_file_of_speech_is_one_clear_error(talks, line):
    _, out = talks
    (out / "speech.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(SimulsaError, match=r"speech\.jsonl, line 1: "):
        instances(out, long_form=True)


def test_a_recording_without_speech_leaves_the_others_their_steps(tmp_path, energy_detector):
    folder = tmp_path / "talks"
    folder.mkdir()
    rows = [
        write_talk(folder / "silent.wav", [], lead=5.0, row=0),
        write_talk(folder / "spoken.wav", sentences(1, 6), row=1),
    ]
    rows[0] = type(rows[0])(0, rows[0].prompt, "w1", rows[0].audio, segments=rows[1].segments[:1])
    settings = {"chunks": (320,), "rollbacks": (3,), "longform": "window"} | VOICE_ACTIVITY
    out = evaluated(rows, tmp_path / "out", ReadingModel(), **settings)
    silent, spoken = instances(out, long_form=True)
    assert silent["cells"][1]["sessions"] == []
    assert [text for *_, (_, text, _) in map(texts, spoken["cells"][1]["sessions"])] == [rows[1].reference]


def test_no_value_is_the_best_where_neither_more_nor_less_is_better(tmp_path):
    rows = noise_samples(tmp_path / "audio", [2.0, 1.7])
    out = evaluated(rows, tmp_path / "out", ClockModel(regret=True), chunks=(500, 1000), rollbacks=(0, 3))
    page = result_page([NamedResult("", out, read_scores(out))], "toy")
    (table,) = re.findall(r"<figcaption>All cells: values.*?</table>", page, re.S)
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", table)
    best = {
        heads[column]
        for line in re.findall(r"<tr>(.*?)</tr>", table, re.S)
        for column, kind in enumerate(re.findall(r'<td(?: class="([^"]*)")?', line))
        if "best" in kind
    }
    assert {"LAAL ms", "BLEU"} <= best
    assert not best & {"SWF %", "EFSW %", "instances"}


def test_a_damaged_report_is_written_again_also_when_the_audio_is_gone(tmp_path):
    rows = noise_samples(tmp_path / "audio", [1.0, 1.2])
    settings = {"chunks": (500,), "rollbacks": (0,)}
    out = evaluated(rows, tmp_path / "out", ClockModel(), **settings)
    page = out / "report.html"
    before = page.read_text(encoding="utf-8")
    page.write_text("damaged", encoding="utf-8")
    evaluated(rows, out, ClockModel(), **settings)
    assert page.read_text(encoding="utf-8") == before
    for row in rows:
        os.unlink(row.audio)
    page.write_text("damaged", encoding="utf-8")
    evaluated(rows, out, ClockModel(), **settings)
    silent = page.read_text(encoding="utf-8")
    assert "The audio cannot be read where the log says it is." in silent
    assert "data:audio" not in silent
    evaluated(rows, out, ClockModel(), **settings)  # and is whole from then on
    assert page.read_text(encoding="utf-8") == silent


def test_the_page_names_the_test_set_its_unit_and_why_rows_were_left_out(tmp_path):
    rows = [*noise_samples(tmp_path / "audio", [1.0, 0.1]), UnusableRow(2, "multi_turn"), UnusableRow(3, "multi_turn")]
    out = evaluated(rows, tmp_path / "out", ClockModel(), chunks=(500,), rollbacks=(0,))
    page = (out / "report.html").read_text(encoding="utf-8")
    for shown in (
        "<b>1 of 4</b>utterances",
        "latency unit: word; BLEU tokenizer: 13a",
        "skipped in every cell: 2 multi_turn, 1 too_short.",
    ):
        assert shown in page


def test_two_results_show_the_same_utterances_side_by_side(tmp_path):
    rows = noise_samples(tmp_path / "audio", [1.0 + 0.1 * row for row in range(40)], text="guten Tag")
    outs = [
        evaluated(rows[first:], tmp_path / name, ClockModel(text=text), chunks=(300, 500), rollbacks=(0,))
        for name, text, first in (("one", "guten Tag", 0), ("two", "guten Abend", 10))
    ]
    found = browser_data([NamedResult(out.name, out, read_scores(out)) for out in outs])
    assert [cell["label"] for cell in found["cells"]][2:4] == ["one: rollback k=500 b=0", "two: offline"]
    for one in found["instances"]:
        number = int(one["id"].rpartition("-")[2])
        assert {cell: values["text"] for cell, values in one["cells"].items()} == {
            **dict.fromkeys((0, 1, 2), "guten Tag"[: int(10 * one["seconds"])]),
            **(dict.fromkeys((3, 4, 5), "guten Abend"[: int(10 * one["seconds"])]) if number >= 10 else {}),
        }
        assert one["audio"]
    assert {len(one["cells"]) for one in found["instances"]} == {3, 6}


def test_many_results_show_few_cells_of_each(tmp_path):
    rows = noise_samples(tmp_path / "audio", [1.0, 1.2])
    out = evaluated(rows, tmp_path / "out", ClockModel(), chunks=(300, 500, 700), rollbacks=(0, 3))
    found = browser_data([NamedResult(str(number), out, read_scores(out)) for number in range(6)])
    assert len(found["cells"]) == 6 * 7
    assert {len(one["cells"]) for one in found["instances"]} == {6 * 2}


def test_instances_that_do_not_fit_are_left_out_and_counted(tmp_path, monkeypatch):
    rows = noise_samples(tmp_path / "audio", [1.0 + 0.1 * row for row in range(30)])
    out = evaluated(rows, tmp_path / "out", ClockModel(), chunks=(500,), rollbacks=(0,))
    whole = browser_data([NamedResult("", out, read_scores(out))])
    size = len(json.dumps({**whole["instances"][0], "audio": None}))
    monkeypatch.setattr(instance_browser, "MAX_TEXT", 3 * size)
    found = browser_data([NamedResult("", out, read_scores(out))])
    assert 1 <= len(found["instances"]) <= 4
    assert found["left_out"] == len(whole["instances"]) - len(found["instances"])
    assert whole["left_out"] == 0


def test_a_result_of_a_differently_named_test_set_shows_its_own_utterances(tmp_path):
    rows = noise_samples(tmp_path / "audio", [1.0, 1.2])
    settings = EvaluationSettings(chunks=(500,), rollbacks=(0,))
    for name in ("clean", "noisy"):
        run_evaluation(ClockModel(), name, rows, settings, tmp_path / name)
    results = [NamedResult(name, tmp_path / name, read_scores(tmp_path / name)) for name in ("clean", "noisy")]
    shown = {one["id"]: set(one["cells"]) for one in browser_data(results)["instances"]}
    assert shown == {
        "clean-00000000": {0, 1},
        "clean-00000001": {0, 1},
        "noisy-00000000": {2, 3},
        "noisy-00000001": {2, 3},
    }
