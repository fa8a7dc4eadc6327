"""A test set through every cell with a model made of arithmetic: what stands in the result folder."""

import json
import re

import pytest
from helpers.fakes import ClockModel, write_noise
from helpers.files import read_json_lines

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import DatasetError, StorageError
from simulsa_plugin.evaluation.cells_table import cells_table
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.report import cell_notes
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.model.values import Prompt, Sample, UnusableRow

LATENCIES = ("AL", "LAAL", "AP", "DAL", "ATD", "YAAL")


def sample(folder, row, seconds, reference="guten Tag liebe Welt", ask="<audio>Translate."):
    audio = write_noise(folder / f"{row}.wav", seconds, seed=row)
    return Sample(row, Prompt(({"role": "user", "content": ask},)), reference, audio)


@pytest.fixture
def rows(tmp_path):
    return [sample(tmp_path, row, seconds) for row, seconds in enumerate([2.0, 1.7, 0.9])]


def run(rows, out, model=None, **settings):
    settings = {"chunks": (500, 1000), "rollbacks": (0, 3)} | settings
    return run_evaluation(model or ClockModel(), "toy", rows, EvaluationSettings(**settings), out)


def cell(cells, chunk, rollback):
    (found,) = [row for row in cells if (row["chunk_ms"], row["rollback"]) == (chunk, rollback)]
    return found


def test_the_result_folder_is_the_contracts(rows, tmp_path):
    cells = run(rows, tmp_path / "out")
    out = tmp_path / "out"
    folders = ["offline", "rollback_k1000_b0", "rollback_k1000_b3", "rollback_k500_b0", "rollback_k500_b3"]
    assert sorted(path.name for path in out.iterdir()) == [
        ".simulsa.json",
        "curves.png",
        "model_card.md",
        *folders[:1],
        "report.html",
        *folders[1:],
        "scores.json",
        "scores.tsv",
    ]
    for folder in folders:
        assert sorted(path.name for path in (out / folder).iterdir()) == ["instances.log", "steps.jsonl"]
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["cells"] == cells
    assert {"BLEU", "chrF", "latency", "YAAL"} <= set(scores["signatures"])
    assert [(row["policy"], row["chunk_ms"], row["rollback"], row["parameters"]) for row in cells] == [
        ("offline", None, None, {}),
        ("rollback", 500, 0, {}),
        ("rollback", 500, 3, {}),
        ("rollback", 1000, 0, {}),
        ("rollback", 1000, 3, {}),
    ]
    for row in cells:
        assert {"BLEU", "chrF", "NE", "instances", "empty", "skipped", *LATENCIES} <= set(row)
        assert all(row[f"{name}_CA"] is None for name in LATENCIES)  # no time was measured
        assert (row["instances"], row["empty"], row["skipped"]) == (3, 0, 0)
    assert set(cells[0]) == set(cells[1])  # offline has all other fields


def test_a_log_on_paper(rows, tmp_path):
    run(rows, tmp_path / "out")
    first = read_json_lines(tmp_path / "out" / "rollback_k500_b3" / "instances.log")[0]
    # 2.0 s at one byte per 100 ms; committed after 500, 1000, 1500, 2000 ms: 2, 7, 12 and all 20 bytes of
    # «guten Tag liebe Welt»: «guten » is closed at 1000, «Tag » (bytes 7–10) at 1500, the rest at the end.
    assert first["prediction"] == "guten Tag liebe Welt"
    assert first["delays"] == [1000, 1500, 2000, 2000]
    assert first["source_length"] == 2000
    assert first["index"] == 0
    assert "elapsed" not in first
    offline = read_json_lines(tmp_path / "out" / "offline" / "instances.log")
    assert [row["delays"] for row in offline] == [[2000] * 4, [1700] * 4, [900] * 2]
    assert [row["prediction"] for row in offline] == ["guten Tag liebe Welt", "guten Tag liebe W", "guten Tag"]


def test_steps_on_paper(rows, tmp_path):
    run(rows, tmp_path / "out")
    steps = [
        row
        for row in read_json_lines(tmp_path / "out" / "rollback_k1000_b3" / "steps.jsonl")
        if row["id"] == "toy-00000001"
    ]
    assert steps == [
        {
            "id": "toy-00000001",
            "step": 1,
            "audio_ms": 1000,
            "token_ids": list(b"guten Tag "),
            "text": "guten Tag",
            "committed_tokens": 7,
            "committed": "guten T",
            "finished": False,
        },
        {
            "id": "toy-00000001",
            "step": 2,
            "audio_ms": 1700,
            "token_ids": list(b"guten Tag liebe W"),
            "text": "guten Tag liebe W",
            "committed_tokens": 17,
            "committed": "guten Tag liebe W",
            "finished": True,
        },
    ]


def test_scores_on_paper(rows, tmp_path):
    cells = run(rows[:1], tmp_path / "out")
    offline, streaming = cells[0], cell(cells, 500, 3)
    assert (offline["BLEU"], offline["NE"]) == (pytest.approx(100), 0)
    # AL of one utterance with all four words at the end: the first word ends the sum, d_1 − 0 = 2000 ms.
    assert offline["AL"] == offline["LAAL"] == 2000
    # d = 1000, 1500, 2000 (the first at the source's end closes the sum), 500 ms of source per word:
    # (1000 − 0 + 1500 − 500 + 2000 − 1000) / 3.
    assert streaming["AL"] == pytest.approx(1000)
    assert streaming["NE"] == 0  # the clock never changes its mind


def test_erasure_on_paper(rows, tmp_path):
    cells = run(rows[:1], tmp_path / "out", ClockModel(regret=True))
    # b = 3: «gute?», «guten Tag?», «guten Tag lieb?», «guten Tag liebe Welt»: three times a word is taken back, of 4.
    assert cell(cells, 500, 3)["NE"] == 0.75
    assert cell(cells, 500, 0)["BLEU"] < cell(cells, 500, 3)["BLEU"]  # what is committed at once stays wrong


def test_unusable_utterances_are_skipped_in_every_cell_alike(rows, tmp_path):
    (tmp_path / "zero.wav").write_bytes(b"")
    odd = [
        sample(tmp_path, 3, 0.1499),  # under 150 ms
        UnusableRow(4, "multi_turn"),
        Sample(5, rows[0].prompt, "x", str(tmp_path / "gone.wav")),
        Sample(6, rows[0].prompt, "x", str(tmp_path / "zero.wav")),
        sample(tmp_path, 7, 1.0, ask="<audio>unprintable"),
        sample(tmp_path, 8, 0.15),
    ]
    cells = run([*rows, *odd], tmp_path / "out")
    assert {(row["instances"], row["skipped"]) for row in cells} == {(4, 5)}
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores["skipped"] == [
        {"id": "toy-00000003", "reason": "too_short"},
        {"id": "toy-00000004", "reason": "multi_turn"},
        {"id": "toy-00000005", "reason": "audio_missing"},
        {"id": "toy-00000006", "reason": "audio_empty"},
        {"id": "toy-00000007", "reason": "not_renderable"},
    ]
    for row in cells:
        ids = {step["id"] for step in read_json_lines(tmp_path / "out" / row["folder"] / "steps.jsonl")}
        assert ids == {"toy-00000000", "toy-00000001", "toy-00000002", "toy-00000008"}


def test_the_command_says_how_many_rows_were_skipped_and_why(rows, tmp_path, monkeypatch, capsys):
    run([*rows, UnusableRow(4, "multi_turn"), UnusableRow(6, "no_audio"), UnusableRow(7, "multi_turn")], tmp_path)
    monkeypatch.setattr("simulsa_plugin.api.evaluate_recipe.evaluate_recipe", lambda *_, **__: True)
    assert main(["--out", str(tmp_path)]) == 0
    note = "skipped in every cell: multi_turn 2 (first toy-00000004), no_audio 1 (first toy-00000006); rows"
    assert note in capsys.readouterr().out


def test_nothing_to_decode_is_one_line(tmp_path):
    with pytest.raises(DatasetError, match=r"No utterance of toy can be decoded; reasons: no_audio 2"):
        run([UnusableRow(0, "no_audio"), UnusableRow(1, "no_audio")], tmp_path / "out")


def logs(out):
    return {path.parent.name: path.read_bytes() for path in out.glob("*/*") if path.suffix in (".log", ".jsonl")}


def test_batch_size_and_the_other_cells_change_no_result(rows, tmp_path):
    run(rows, tmp_path / "a", ClockModel(regret=True), eval_batch_size=1)
    run(rows, tmp_path / "b", ClockModel(regret=True), eval_batch_size=50)
    run(rows, tmp_path / "c", ClockModel(regret=True), chunks=(500,), rollbacks=(3,))
    assert logs(tmp_path / "a") == logs(tmp_path / "b")
    alone = logs(tmp_path / "c")
    assert set(alone) == {"offline", "rollback_k500_b3"}
    assert all(logs(tmp_path / "a")[name] == content for name, content in alone.items())


def test_blocks_of_audio_change_no_result(rows, tmp_path, monkeypatch):
    from simulsa_plugin.evaluation import block_decoding as module

    run(rows, tmp_path / "whole")
    monkeypatch.setattr(module, "UTTERANCES_PER_BLOCK", 2)
    run(rows, tmp_path / "blocks")
    assert logs(tmp_path / "whole") == logs(tmp_path / "blocks")


def test_steps_cut_off_by_the_limit_are_counted(rows, tmp_path):
    cells = run(rows[:1], tmp_path / "out", max_new_tokens=6, chunks=(1000,), rollbacks=(0,))
    # 10 bytes per step where 6 are allowed: both steps; offline wants 20 at once.
    assert [row["counts"]["truncated_steps"] for row in cells] == [1, 2]


def test_audio_longer_than_the_window_is_counted(rows, tmp_path):
    cells = run(rows, tmp_path / "out", ClockModel(window_seconds=1.7))
    assert {row["counts"]["longer_than_window"] for row in cells} == {1}


def test_chinese_is_counted_in_characters(tmp_path):
    rows = [sample(tmp_path, 0, 1.2, reference="你好吗啊")]
    model = ClockModel(text="你好吗啊")
    cells = run(rows, tmp_path / "out", model, target_language="zh-CN", chunks=(500,), rollbacks=(0,))
    # 5 bytes after 500 ms, 10 after 1000, 12 at the end: 1, 3 and 4 whole characters.
    (row,) = read_json_lines(tmp_path / "out" / "rollback_k500_b0" / "instances.log")
    assert row["delays"] == [500, 1000, 1000, 1200]
    assert row["prediction"] == "你好吗啊"
    signatures = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["signatures"]
    assert "tok:zh" in signatures["BLEU"]
    assert "unit:char" in signatures["latency"]
    assert cells[0]["BLEU"] == pytest.approx(100)


def test_the_literal_form_is_another_cell(rows, tmp_path):
    cells = run(rows, tmp_path / "out", rollback_floor=False)
    assert cells[0]["parameters"] == {}
    assert all(row["parameters"] == {"rollback_floor": False} for row in cells[1:])


def test_a_silent_model_is_counted_as_empty(rows, tmp_path):
    cells = run(rows, tmp_path / "out", ClockModel(text=""))
    assert {(row["instances"], row["empty"], row["BLEU"], row["NE"], row["LAAL"]) for row in cells} == {
        (3, 3, 0.0, None, None)
    }


def test_a_folder_in_use_is_one_line(rows, tmp_path):
    from simulsa_plugin.files.atomic import make_folder
    from simulsa_plugin.files.locks import locked

    with locked(make_folder(tmp_path / "out")), pytest.raises(StorageError, match="is in use by process"):
        run(rows, tmp_path / "out")


def test_three_delays_are_in_every_cell_with_the_committed_as_headline(rows, tmp_path):
    cells = run(rows[:1], tmp_path / "out", ClockModel(regret=True))
    offline, streaming = cells[0], cell(cells, 500, 3)
    for row in cells:
        assert list(row["delays"]) == ["committed", "first_stable", "last_written"]
        assert {name: row["delays"]["committed"][name] for name in LATENCIES} == {name: row[name] for name in LATENCIES}
        assert row["clocks"] is None
        assert row["real_time_factor"] is None
        assert row["delays"]["committed"]["skipped"]["YAAL"] == row["counts"]["skipped"]["YAAL"]
    # «guten», «Tag», «liebe» stand from 1000, 1500, 2000 ms on: b = 3 takes the mark back that the clock regrets.
    first, last = (streaming["delays"][name]["LAAL"] for name in ("first_stable", "last_written"))
    assert first <= last <= streaming["LAAL"]
    assert offline["delays"]["first_stable"]["LAAL"] == offline["LAAL"]


def test_every_cell_has_intervals_percentiles_and_the_verdict_on_its_policy(rows, tmp_path):
    for row in run(rows, tmp_path / "out"):
        low, high = row["intervals"]["LAAL"]
        assert low <= row["LAAL"] <= high
        assert row["percentiles"]["LAAL"]["p50"] <= row["percentiles"]["LAAL"]["p90"]
        assert row["counts"]["skipped"]["LAAL"] == 0
    assert row["degenerate"] in (True, False, None)


def test_measured_time_is_told_on_three_clocks(rows, tmp_path):
    cells = run(rows[:2], tmp_path / "out", chunks=(500,), rollbacks=(0,), measure_time=True)
    for row in cells:
        clocks = {name: clock["LAAL"] for name, clock in row["clocks"].items()}
        assert clocks["cumulative"] == row["LAAL_CA"]
        assert clocks["per_step"] <= clocks["queue"] <= row["clocks"]["cumulative"]["LAAL_CA_CU"]
        assert row["LAAL"] <= row["LAAL_CA_CU"]
        assert row["real_time_factor"] > 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "LAAL_CA_CU" in page
    assert "LAAL_CA" in (tmp_path / "out" / "scores.tsv").read_text(encoding="utf-8")


def test_no_two_cells_have_the_same_label_in_any_table(rows, tmp_path):
    out = tmp_path / "out"
    cells = run(rows, out, policies=("wait_k", "rollback"), wait_k=(1, 2, 3), chunks=(500,), rollbacks=(0,))
    lines = cells_table(cells)
    assert lines[0].split()[:2] == ["cell", "BLEU"]
    named = ["offline", *(f"wait_k k=500 wait_k={k}" for k in (1, 2, 3)), "rollback k=500 b=0"]
    assert [line[:21].rstrip() for line in lines[1 : len(cells) + 1]] == named
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col" class="number">wait k</th>' in page  # parameters are columns
    assert page.count("<td>wait_k k=500 wait_k=2</td>") == 1  # the three delays
    head, *written = [line.split("\t") for line in (out / "scores.tsv").read_text(encoding="utf-8").splitlines()]
    found = [dict(zip(head, row, strict=True)) for row in written]
    assert [row["parameters"] for row in found] == ["", *(f'{{"wait_k": {k}}}' for k in (1, 2, 3)), ""]
    assert head[:4] == ["policy", "chunk_ms", "rollback", "BLEU"]  # what reads columns by position still does


def test_a_mean_over_fewer_than_all_instances_says_so_in_every_table(rows, tmp_path):
    # At k = 1000 ms the utterance of 0.9 s is written when it is over, and YAAL leaves it out.
    cells = run(rows, tmp_path / "out", chunks=(1000,), rollbacks=(0,))
    streaming = cell(cells, 1000, 0)
    assert streaming["counts"]["skipped"]["YAAL"] == 1
    lines = cells_table(cells)
    assert f"{streaming['YAAL']:.0f} (2/3)" in lines[2]
    assert "(2/3)" not in lines[1]  # the offline cell has no YAAL, and LAAL of all
    assert "(m/n): the mean of m of n instances; the others have no value" in lines
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert re.search(rf">{streaming['YAAL']:.0f}<[^\n]*<span class=\"count\">2 of 3</span>", page)
    head, _, row = [
        line.split("\t") for line in (tmp_path / "out" / "scores.tsv").read_text(encoding="utf-8").splitlines()
    ]
    found = dict(zip(head, row, strict=True))
    assert (found["YAAL_measured"], found["LAAL_measured"], found["instances"]) == ("2", "3", "3")


def test_what_is_not_heard_or_cut_off_is_said_in_the_tables(rows, tmp_path):
    cells = run(
        rows, tmp_path / "out", ClockModel(window_seconds=1.8), chunks=(1000,), rollbacks=(0,), max_new_tokens=9
    )
    assert {row["counts"]["longer_than_window"] for row in cells} == {1}
    steps = cell(cells, 1000, 0)["counts"]["truncated_steps"]
    assert steps > 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for said in (
        "1 utterances are longer than the model&#x27;s window",
        f"{steps} steps were truncated by the limit on new tokens",
    ):
        assert said in page
        assert said.replace("&#x27;", "'") in "\n".join(cells_table(cells))
    tsv = (tmp_path / "out" / "scores.tsv").read_text(encoding="utf-8").splitlines()
    assert dict(zip(tsv[0].split("\t"), tsv[2].split("\t"), strict=True))["longer_than_window"] == "1"


def noted(chunk_ms, degenerate=False, truncated=0, policy="rollback"):
    key = {"policy": policy, "chunk_ms": chunk_ms, "rollback": None if chunk_ms is None else 0, "parameters": {}}
    return key | {"instances": 3, "degenerate": degenerate, "counts": {"truncated_steps": truncated}}


def test_a_note_that_holds_for_several_cells_is_one_line_with_their_names():
    offline = noted(None, policy="offline")
    cells = [offline, noted(300), noted(500, True, 7), noted(1000, True, 2)]
    which = "rollback k=500 b=0, rollback k=1000 b=0"
    assert cell_notes(cells, []) == [
        f"{which}: likely degenerate, SWF and EFSW differ by more than 20 points (OmniSTEval's test)",
        f"{which}: 2 to 7 steps were truncated by the limit on new tokens",
    ]
    everywhere = [offline, *(noted(k, True) for k in (300, 500, 1000))]
    assert [note.partition(":")[0] for note in cell_notes(everywhere, [])] == ["all 3 streaming cells"]
    assert cell_notes([noted(None, True, policy="offline")], [])[0].startswith("offline: likely")


@pytest.mark.parametrize(("text", "unit"), [("guten Tag liebe Welt", "word"), ("今天天气很好", "char")])
def test_policies_that_only_append_erase_nothing(tmp_path, text, unit):
    # The model writes a byte for each 100 ms, so that steps end inside words and inside characters.
    rows = [sample(tmp_path, row, seconds, text) for row, seconds in enumerate([2.0, 1.75, 0.95])]
    cells = run(
        rows,
        tmp_path / "out",
        ClockModel(text=text),
        policies=("rollback", "hold_n", "wait_k", "confidence"),
        chunks=(300, 700),
        rollbacks=(0,),
        hold_n=(1,),
        wait_k=(2,),
        unit=unit,
        tokenizer="char",
    )
    assert {row["policy"] for row in cells} == {"offline", "rollback", "hold_n", "wait_k", "confidence"}
    assert {row["NE"] for row in cells} == {0.0}
