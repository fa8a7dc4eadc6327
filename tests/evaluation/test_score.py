"""`simulsa-eval score` from file to JSON. Expected values: tests/data/latency/README.md, or arithmetic on paper."""

from __future__ import annotations

import json
import math
import os
import re
import tracemalloc
from pathlib import Path

import pytest
from helpers.files import read_json_lines

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import LogError
from simulsa_plugin.evaluation import score as score_module
from simulsa_plugin.evaluation.score import ScoreOptions, score_log
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.worker_processes import Processes

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))["files"]
WORD = DATA / "word.instances.log"


def test_the_json_has_simulevals_means_sacrebleus_scores_and_their_counts(tmp_path, capsys):
    assert main(["score", str(WORD), "--json", str(tmp_path / "s.json")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    expected = {
        name: value
        for name, value in ORACLE[WORD.name]["simuleval"]["use_ref_len"]["corpus"].items()
        if not name.startswith(("RTF", "NumChunks"))
    }
    assert {name: scores["corpus"][name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert scores["corpus"]["YAAL"] == pytest.approx(ORACLE[WORD.name]["omnisteval_shortform"]["corpus"]["yaal"])
    assert scores["corpus"]["BLEU"] == pytest.approx(ORACLE[WORD.name]["sacrebleu"]["BLEU[13a]"]["score"])
    tags = ORACLE[WORD.name]["tags"]
    assert scores["counts"]["instances"] == len(tags)
    for kind, tag in {
        "empty": "empty_hypothesis",
        "non_monotone": "non_monotone_delays",
        "unit_mismatch": "delays_longer_than_prediction",
    }.items():
        assert scores["counts"][kind] == tags.count(tag)
    assert "sentences" not in scores
    out = capsys.readouterr().out
    assert re.search(r"^AL +2299 ", out, re.M)  # 2298.549
    assert out.splitlines()[0].endswith("186 instances, 8 empty, latency unit word, BLEU tokenizer 13a")


def test_char_takes_the_zh_tokenizer_and_the_predictions_length_on_demand(tmp_path):
    arguments = ["score", str(DATA / "char.instances.log"), "--unit", "char", "--no-use-ref-len", "--sentences"]
    assert main([*arguments, "--json", str(tmp_path / "s.json")]) == 0
    scores, expected = json.loads((tmp_path / "s.json").read_text()), ORACLE["char.instances.log"]
    assert scores["corpus"]["BLEU"] == pytest.approx(expected["sacrebleu"]["BLEU[zh]"]["score"])
    assert scores["sentences"]["LAAL"] == pytest.approx(expected["simuleval"]["no_use_ref_len"]["sentences"]["LAAL"])


def test_a_named_tokenizer_is_used(tmp_path):
    assert main(["score", str(WORD), "--tokenizer", "char", "--json", str(tmp_path / "s.json")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["corpus"]["BLEU"] == pytest.approx(ORACLE[WORD.name]["sacrebleu"]["BLEU[char]"]["score"])
    assert "tok:char" in scores["signatures"]["BLEU"]


def test_odd_lines_are_warned_about_by_number(capsys):
    assert main(["score", str(WORD)]) == 0
    warnings = capsys.readouterr().err.splitlines()
    tags = ORACLE[WORD.name]["tags"]
    falling = [i for i, tag in enumerate(tags, 1) if tag == "non_monotone_delays"]
    assert f"{WORD}, lines {', '.join(map(str, falling))}: delays fall" in warnings[0]
    marked = [
        i
        for i, line in enumerate(WORD.read_text(encoding="utf-8").splitlines(), 1)
        if json.loads(line)["prediction"].endswith("</s>")
    ]
    assert f"{WORD}, lines {', '.join(map(str, marked))}: a special token" in warnings[-1]
    assert len(warnings) == 4
    assert all(line.startswith("simulsa-eval: warning: ") for line in warnings)


SPEECH = {
    "prediction": "guten Tag zusammen",
    "reference": "guten Tag zusammen",
    "delays": [900.0, 1800.0, 2700.0],
    "source_length": 2700.0,
}


def warnings_of(tmp_path, *rows: dict) -> tuple[str, ...]:
    (tmp_path / "x.log").write_text(
        "".join(json.dumps(SPEECH | {"index": index} | row) + "\n" for index, row in enumerate(rows)), encoding="utf-8"
    )
    return score_log(tmp_path / "x.log", ScoreOptions()).warnings


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prediction": "▁Guten ▁Tag s"}, "subwords in the prediction"),
        ({"prediction": "Gu@@ ten Tag"}, "subwords in the prediction"),
        ({"prediction": "Gu ##ten Tag"}, "subwords in the prediction"),
        ({"prediction": "Guten ĠTag Ġs"}, "subwords in the prediction"),
        ({"prediction": "guten Tag [UNK]"}, "special token"),
        ({"prediction": "guten Tag <turn|>"}, "special token"),
        ({"elapsed": [0.9, 1.8, 2.7]}, "elapsed is below the delay"),
        ({"prediction": "guten Tag <end_of_turn>"}, "special token"),
        ({"prediction": "guten Tag <|im_end|>"}, "special token"),
        ({"prediction": "guten Tag </s>"}, "special token"),
        ({"delays": [0.9, 1.8, 2.7]}, "delays in seconds must be multiplied by 1000"),
        ({"delays": [0.9, 1.8, 2.7], "source_length": 2.7}, "times in seconds must be multiplied by 1000"),
    ],
)
def test_what_is_not_text_or_milliseconds_is_warned_about_and_strict_refuses_it(tmp_path, row, message):
    (warning,) = warnings_of(tmp_path, row, row, {})
    assert message in warning
    with pytest.raises(LogError, match="without --strict"):
        score_log(tmp_path / "x.log", ScoreOptions(strict=True))


def test_text_that_only_looks_like_tokens_and_early_delays_of_some_lines_are_left_in_peace(tmp_path):
    assert warnings_of(tmp_path, {}) == ()
    assert warnings_of(tmp_path, {"delays": [1.0, 2.0, 2.0]}, {}) == ()  # one that is written at once
    assert warnings_of(tmp_path, {"prediction": "#1 ## a@b"}) == ()
    assert warnings_of(tmp_path, {"prediction": "a <sic> b"}) == ()
    assert warnings_of(tmp_path, {"prediction": "▁ ▂ ▃", "reference": "▁ ▂ ▃"}) == ()


def test_a_log_whose_elapsed_times_are_its_delays_has_no_measured_computation(tmp_path):
    row = SPEECH | {"index": 0, "elapsed": SPEECH["delays"]}
    (tmp_path / "x.log").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert score_log(tmp_path / "x.log", ScoreOptions()).scores.corpus["LAAL_CA"] is None


def test_strict_makes_the_first_odd_line_an_error(capsys):
    assert main(["score", str(WORD), "--strict"]) == 1
    captured = capsys.readouterr()
    first = ORACLE[WORD.name]["tags"].index("non_monotone_delays") + 1
    assert captured.err.startswith(f"simulsa-eval: error: {WORD}, line {first}: delays fall")
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_a_log_of_text_is_scored_in_tokens_of_its_source_and_without_computation(tmp_path, capsys):
    row = {
        "index": 0,
        "prediction": "a b c",
        "delays": [1, 2, 2],
        "elapsed": [0, 0, 0],
        "prediction_length": 3,
        "reference": "a b c",
        "source": "x y",
        "source_length": 2,
    }
    (tmp_path / "instances.log").write_text("".join(json.dumps(row | {"index": i}) + "\n" for i in range(2)))
    assert main(["score", str(tmp_path / "instances.log"), "--json", str(tmp_path / "s.json")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    # AL: (1 + 2 − 2/3) / 2; ATD with tokens of 1 on both sides: (2 − 1 + 3 − 2 + 4 − 2) / 3
    assert (scores["corpus"]["AL"], scores["corpus"]["ATD"]) == pytest.approx((7 / 6, 4 / 3))
    assert {value for name, value in scores["corpus"].items() if "_CA" in name} == {None}
    assert (scores["counts"]["text_source"], scores["counts"]["skipped"]["LAAL_CA"]) == (2, 2)
    assert "|time:source-tokens|" in scores["signatures"]["latency"]
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[4] for line in table if line and line[0] in ("AL", "LAAL", "DAL", "ATD", "YAAL")} == {"tokens"}


def test_strict_accepts_a_log_without_odd_lines():
    assert score_log(DATA / "word_system2.instances.log", ScoreOptions(strict=True)).warnings == ()


@pytest.mark.parametrize("case", ORACLE["edge.instances.log"]["cases"], ids=lambda case: case["tag"])
def test_an_edge_line_alone_gives_finite_numbers_counted_skips_or_one_clear_error(case, tmp_path, capsys):
    line = (DATA / "edge.instances.log").read_text(encoding="utf-8").splitlines()[case["index"]]
    (tmp_path / "x.log").write_text(line + "\n", encoding="utf-8")
    code = main(["score", str(tmp_path / "x.log"), "--json", str(tmp_path / "s.json")])
    captured = capsys.readouterr()
    if case["tag"] == "missing_delays_key":
        assert (code, captured.err) == (
            1,
            f"simulsa-eval: error: {tmp_path / 'x.log'}, line 1: no delays; "
            "expected a list of milliseconds, one per unit of the prediction.\n",
        )
        return
    scores = json.loads((tmp_path / "s.json").read_text())
    assert code == 0
    for metric, value in scores["corpus"].items():
        assert scores["counts"]["skipped"][metric] == (1 if value is None else 0)
        assert value is None or math.isfinite(value)


@pytest.mark.parametrize(
    ("tag", "warned"),
    [
        ("missing_source_length_key", "no source_length"),
        ("null_source_length", "no source_length"),
        ("missing_reference_key", "no reference; read as an empty text"),
        ("null_reference", "the reference is null"),
        ("prediction_only_spaces", "unit_mismatch"),
        ("elapsed_shorter_than_delays", "not one elapsed time per delay"),
    ],
)
def test_what_a_line_lacks_is_said(tag, warned, tmp_path):
    index = next(case["index"] for case in ORACLE["edge.instances.log"]["cases"] if case["tag"] == tag)
    line = (DATA / "edge.instances.log").read_text(encoding="utf-8").splitlines()[index]
    (tmp_path / "x.log").write_text(line + "\n", encoding="utf-8")
    (warning,) = score_log(tmp_path / "x.log", ScoreOptions()).warnings
    assert "line 1: " in warning
    assert warned in warning


def test_a_log_of_1_0_scores_as_the_log_of_1_1_of_the_same_run(tmp_path):
    rows = read_json_lines(DATA / "word_system2.instances.log")
    write_rows(tmp_path / "old.log", map(as_1_0, rows))
    old = score_log(tmp_path / "old.log", ScoreOptions())
    assert old.scores.corpus == score_log(DATA / "word_system2.instances.log", ScoreOptions()).scores.corpus
    assert old.scores.counts["end_marks"] == len(rows)
    assert "the end mark </s> and its delay are left out of 186 predictions" in old.warnings[-1]


def as_1_0(row):
    """A row as SimulEval 1.0 would have written it."""
    return row | {
        "prediction": (row["prediction"] + " </s>").strip(),
        "delays": [*row["delays"], row["source_length"]],
        "elapsed": [*row["elapsed"], 99999.0],
        "prediction_length": row["prediction_length"] + 1,
        "reference_length": len(row["reference"].split(" ")),
        "metric": {"latency": {"AL": 0.0}},
    }


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_end_marks_that_are_kept_are_words_as_published_numbers_have_them(tmp_path, capsys):
    row = {
        "index": 0,
        "prediction": "a b",
        "delays": [1000.0, 2000.0],
        "elapsed": [1000.0, 2000.0],
        "prediction_length": 2,
        "reference": "a b",
        "source_length": 2000.0,
    }
    write_rows(tmp_path / "new.log", [row])
    write_rows(tmp_path / "old.log", [as_1_0(row)])  # the mark comes at the end: delays 1000, 2000, 2000
    without, kept = (score_log(tmp_path / "old.log", ScoreOptions(keep_end_marks=keep)) for keep in (False, True))
    assert (without.scores.corpus["LAAL"], without.scores.corpus["AP"]) == (1000.0, 0.75)
    assert kept.scores.corpus["AL"] == 1000.0  # (1000 + 2000 − 2000/2) / 2: it stops at the first unit at the end
    assert kept.scores.corpus["LAAL"] == pytest.approx((1000 + 2000 - 2000 / 3) / 2)  # three units for two
    assert kept.scores.corpus["AP"] == 5000 / (2 * 2000)
    assert kept.scores.signatures["end_marks"] == "kept|as:SimulEval-1.0"
    assert "end_marks" not in without.scores.signatures
    assert kept.warnings == (
        f"{tmp_path / 'old.log'}: the end mark </s> and its delay are kept as a word in 1 predictions (SimulEval 1.0)",
    )
    new = score_log(tmp_path / "new.log", ScoreOptions(keep_end_marks=True))  # no other form has any
    assert new.scores.corpus == score_log(tmp_path / "new.log", ScoreOptions()).scores.corpus
    assert "end_marks" not in new.scores.signatures
    assert main(["score", str(tmp_path / "old.log"), "--keep-end-marks", "--strict"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^LAAL +1167 ", out, re.M)
    for words, length in (((), 2), (("--keep-end-marks",), 3)):
        assert (
            main(["convert", str(tmp_path / "old.log"), "--to", "simuleval", "--out", str(tmp_path / "x.log"), *words])
            == 0
        )
        assert len(read_json_lines(tmp_path / "x.log")[0]["delays"]) == length


def test_compare_keeps_end_marks_where_it_is_told_to(tmp_path):
    rows = read_json_lines(DATA / "word_system2.instances.log")
    write_rows(tmp_path / "old.log", map(as_1_0, rows))
    found = {}
    for words in ((), ("--keep-end-marks",)):
        assert (
            main(
                [
                    "compare",
                    str(tmp_path / "old.log"),
                    str(tmp_path / "old.log"),
                    "--samples",
                    "100",
                    "--trials",
                    "10",
                    "--json",
                    str(tmp_path / "x.json"),
                    *words,
                ]
            )
            == 0
        )
        (comparison,) = json.loads((tmp_path / "x.json").read_text())["comparisons"]
        found[words] = comparison["cells"][0]["metrics"]["BLEU"]["baseline"]
    kept = score_log(tmp_path / "old.log", ScoreOptions(keep_end_marks=True)).scores.corpus["BLEU"]
    assert found["--keep-end-marks",] == pytest.approx(kept)
    assert kept < found[()]


def test_references_change_quality_and_length(tmp_path):
    row = {"index": 0, "prediction": "a b c d", "delays": [1000.0] * 4, "reference": "x", "source_length": 2000.0}
    (tmp_path / "x.log").write_text(json.dumps(row) + "\n")
    (tmp_path / "refs.txt").write_text("a b c d\n")
    scores = score_log(tmp_path / "x.log", ScoreOptions(references=tmp_path / "refs.txt")).scores
    assert scores.corpus["BLEU"] == pytest.approx(100.0)
    assert scores.corpus["AL"] == pytest.approx(250.0)  # 1000 − 1.5 · 2000 / 4


def test_a_wrong_unit_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(LogError, match="Give --unit char"):
        score_log(DATA / "char.instances.log", ScoreOptions())


def test_sentences_without_json_are_printed(capsys):
    assert main(["score", str(DATA / "edge.instances.log").replace("edge", "word_system2"), "--sentences"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("186 ")


def test_memory_grows_by_numbers_per_line_and_not_by_texts(tmp_path):
    row = {"prediction": "ja " * 200, "delays": [1.0] * 200, "reference": "ja " * 200, "source_length": 9.0}
    peaks = {}
    for count in (520, 1032):
        path = tmp_path / f"{count}.log"
        path.write_text("".join(json.dumps({"index": i, **row}) + "\n" for i in range(count)), encoding="utf-8")
        tracemalloc.start()
        score_log(path, ScoreOptions())
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A line of text and times occupies some 15 kB in memory; a number per metric less than 500 bytes.
    assert (peaks[1032] - peaks[520]) / 512 < 1000


def test_other_processes_count_to_the_same_scores(tmp_path):
    lines = WORD.read_text(encoding="utf-8") * 4
    (tmp_path / "x.log").write_text(lines, encoding="utf-8")
    for references in (None, tmp_path / "refs.txt"):
        if references:
            references.write_text("\n".join(["ein Satz"] * 744) + "\n", encoding="utf-8")
        options = ScoreOptions(references=references, sentences=True, bootstrap=Bootstrap(samples=50))
        with Processes(2) as executor:
            shared = score_log(tmp_path / "x.log", options, executor).scores
        assert shared == score_log(tmp_path / "x.log", options).scores


def test_a_long_log_is_counted_by_other_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(score_module, "_WORTH_PROCESSES", 1000)
    with score_module.other_processes(WORD) as executor:
        assert (executor is None) == (len(os.sched_getaffinity(0)) < 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with score_module.other_processes(WORD) as executor:
        assert executor is None
    with score_module.other_processes(tmp_path) as executor:
        assert executor is None


def test_intervals_are_given_on_demand(tmp_path, capsys):
    assert main(["score", str(WORD), "--intervals", "--samples", "100", "--json", str(tmp_path / "s.json")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())
    for name in ("BLEU", "chrF", "LAAL", "SWF"):
        low, high = scores["intervals"][name]
        assert low < scores["corpus"][name] < high
    assert "[low, high]" in capsys.readouterr().out
    assert main(["score", str(WORD), "--json", str(tmp_path / "s.json")]) == 0
    assert "intervals" not in json.loads((tmp_path / "s.json").read_text())


def test_an_average_that_computation_seems_to_lower_is_explained(tmp_path, capsys):
    # By its own clock LAAL_CA ends with the first unit; LAAL has two.
    row = {
        "index": 0,
        "prediction": "a b",
        "reference": "a b",
        "delays": [900.0, 2000.0],
        "elapsed": [1001.0, 9000.0],
        "source_length": 1000.0,
    }
    (tmp_path / "x.log").write_text(json.dumps(row) + "\n")
    assert main(["score", str(tmp_path / "x.log"), "--json", str(tmp_path / "s.json")]) == 0
    scores = json.loads((tmp_path / "s.json").read_text())["corpus"]
    assert scores["LAAL"] == (900.0 + 2000.0 - 500.0) / 2
    assert scores["LAAL_CA"] == 1001.0 < scores["LAAL"]
    assert scores["LAAL_CA_CU"] == (1001.0 + 9000.0 - 500.0) / 2
    assert "LAAL_CA is below LAAL" in capsys.readouterr().out
