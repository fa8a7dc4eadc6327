"""`simulsa-eval compare`. Expected values: straight lines on paper, and sacrebleu's paired bootstrap.

See tests/data/latency/README.md for the logs and for sacrebleu's values.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.comparison.compare import CompareOptions, compare_with_baseline, load_result
from simulsa_plugin.comparison.equal_latency import Axes
from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.evaluation.result_cells import cell_key
from simulsa_plugin.logs.reader import Log
from simulsa_plugin.logs.simuleval import write_simuleval_log
from simulsa_plugin.metrics.corpus_scores import score_records
from simulsa_plugin.metrics.significance import Bootstrap

DATA = Path(__file__).parents[1] / "data" / "latency"
ORACLE = json.loads((DATA / "oracle.json").read_text(encoding="utf-8"))
STRONG, FAST = DATA / "word.instances.log", DATA / "word_system2.instances.log"
PLAIN = Axes()
SIGNATURES = {"BLEU": "nrefs:1|tok:13a|version:2.6.0", "latency": "unit:word|len:ref"}


def cell(policy="rollback", chunk_ms=500, rollback=0, **values) -> dict:
    return {"policy": policy, "chunk_ms": chunk_ms, "rollback": rollback, "instances": 10, **values}


def make_result(folder: Path, *cells: dict, signatures=SIGNATURES) -> Path:
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps({"cells": cells, "signatures": signatures}))
    return folder


def make_result_with_logs(folder: Path, logs: dict[tuple[int, int], list]) -> Path:
    """A result folder as the runner writes it: chunk and rollback → records."""
    cells = []
    for (chunk_ms, rollback), records in logs.items():
        scores = score_records(records)
        cells.append(cell(chunk_ms=chunk_ms, rollback=rollback) | scores.corpus)
    make_result(folder, *cells, signatures=scores.signatures)
    for (chunk_ms, rollback), records in logs.items():
        (folder / f"rollback_k{chunk_ms}_b{rollback}").mkdir()
        write_simuleval_log(folder / f"rollback_k{chunk_ms}_b{rollback}" / "instances.log", records)
    return folder


def records_of(path: Path) -> list:
    return list(Log(path).records())


def compare_paths(*paths: Path, axes=PLAIN, **drawn) -> dict:
    chosen = CompareOptions(axes=axes, bootstrap=Bootstrap(**{"samples": 1000, "trials": 200} | drawn))
    return compare_with_baseline([load_result(path, chosen) for path in paths], chosen)


def between(one: list, two: list) -> list:
    """A third cell: half of one's utterances and half of another's."""
    return [*one[: len(one) // 2], *two[len(one) // 2 :]]


def shifted(records, milliseconds: float) -> list:
    return [
        dataclasses.replace(record, delays=tuple(delay + milliseconds for delay in record.delays)) for record in records
    ]


def test_differences_are_other_minus_baseline_and_missing_cells_stay(tmp_path):
    one = make_result(tmp_path / "a", cell(BLEU=20.0, LAAL=1000.0, NE=None), cell(chunk_ms=1000, BLEU=30.0))
    two = make_result(tmp_path / "b", cell(BLEU=22.5, LAAL=900.0, NE=0.5), cell("offline", None, None, BLEU=40.0))
    (pair,) = compare_paths(one, two)["comparisons"]
    common, only_first, only_second = pair["cells"]
    assert common["metrics"]["BLEU"]["difference"] == 2.5
    assert common["metrics"]["LAAL"]["difference"] == -100.0
    assert common["metrics"]["NE"] == {
        "baseline": None,
        "other": 0.5,
        "difference": None,
        "interval": None,
        "p_value": None,
        "measured": {"baseline": None, "other": None},
    }
    assert (common["missing"], only_first["missing"], only_second["missing"]) == (None, "other", "baseline")
    assert (only_second["policy"], only_second["chunk_ms"]) == ("offline", None)
    assert only_second["metrics"]["BLEU"]["other"] == 40.0


def test_cells_of_other_parameters_are_other_cells(tmp_path):
    one = make_result(
        tmp_path / "a",
        cell("confidence", BLEU=1.0, parameters={"threshold": 0.9}),
        cell("confidence", BLEU=2.0, parameters={"threshold": 0.5}),
    )
    two = make_result(tmp_path / "b", cell("confidence", BLEU=5.0, parameters={"threshold": 0.5}))
    first, second = compare_paths(one, two)["comparisons"][0]["cells"]
    assert (first["missing"], second["metrics"]["BLEU"]["difference"]) == ("other", 3.0)


def test_quality_at_equal_latency_is_the_distance_of_the_lines(tmp_path):
    one = make_result(
        tmp_path / "a",
        cell(BLEU=20.0, LAAL=1000.0),
        cell(chunk_ms=1000, BLEU=30.0, LAAL=2000.0),
        cell("offline", None, None, BLEU=90.0, LAAL=9000.0),
    )
    two = make_result(
        tmp_path / "b",
        cell(BLEU=22.0, LAAL=1000.0),
        cell(chunk_ms=1000, BLEU=34.0, LAAL=2000.0),
        cell(chunk_ms=1500, BLEU=10.0, LAAL=1500.0),
    )  # off the curve: a faster cell is better
    (curves,) = compare_paths(one, two)["comparisons"][0]["equal_latency"]
    assert curves["range"] == [1000.0, 2000.0]  # without the offline cell
    assert curves["points"][2] == {"LAAL": 1500.0, "baseline": 25.0, "other": 28.0, "difference": 3.0, "interval": None}
    assert curves["mean_difference"] == pytest.approx(3.0)
    assert curves["area"] == pytest.approx(3000.0)
    assert curves["knots"]["other"] == [[1000.0, 22.0], [2000.0, 34.0]]


def test_curves_without_a_common_range_claim_nothing(tmp_path, capsys):
    one = make_result(tmp_path / "a", cell(BLEU=20.0, LAAL=1000.0), cell(chunk_ms=1000, BLEU=30.0, LAAL=2000.0))
    two = make_result(tmp_path / "b", cell(BLEU=20.0, LAAL=3000.0), cell(chunk_ms=1000, BLEU=30.0, LAAL=4000.0))
    (curves,) = compare_paths(one, two)["comparisons"][0]["equal_latency"]
    assert (curves["range"], curves["area"], curves["points"]) == (None, None, [])
    assert main(["compare", str(one), str(two)]) == 0
    assert "share no range of LAAL" in capsys.readouterr().out


def test_systems_of_other_policies_are_compared_by_all_their_cells(tmp_path):
    one = make_result(tmp_path / "a", cell(BLEU=20.0, LAAL=1000.0), cell(chunk_ms=1000, BLEU=30.0, LAAL=2000.0))
    two = make_result(
        tmp_path / "b",
        cell("confidence", BLEU=21.0, LAAL=1000.0),
        cell("confidence", chunk_ms=1000, BLEU=31.0, LAAL=2000.0),
        cell("offline", None, None, BLEU=90.0, LAAL=1500.0),
    )  # no streaming: not on the curve
    (curves,) = compare_paths(one, two)["comparisons"][0]["equal_latency"]
    assert (curves["policy"], curves["mean_difference"]) == (None, pytest.approx(1.0))


def test_two_logs_have_sacrebleus_p_value_and_an_interval_around_the_difference():
    metrics = compare_paths(STRONG, FAST)["comparisons"][0]["cells"][0]["metrics"]
    first, second = ORACLE["significance"]["bs"]["results"]["BLEU"]
    assert metrics["BLEU"]["difference"] == pytest.approx(second["score"] - first["score"])
    assert metrics["BLEU"]["p_value"] == pytest.approx(second["p_value"])
    for name in ("BLEU", "chrF", "LAAL", "AP", "SWF"):
        low, high = metrics[name]["interval"]
        assert low < metrics[name]["difference"] < high
    assert metrics["BLEU"]["interval"][1] < 0
    assert metrics["LAAL"]["p_value"] < 0.01
    assert metrics["NE"]["interval"] is None  # not in these logs, so not claimed
    (other,) = compare_paths(STRONG, FAST, trials=1000)["comparisons"]
    expected = ORACLE["significance"]["ar"]["results"]
    for name, theirs in {"BLEU": "BLEU", "chrF": "chrF2"}.items():
        found = other["cells"][0]["metrics"][name]["randomisation_p_value"]
        assert found == pytest.approx(expected[theirs][1]["p_value"])


def test_a_system_equals_itself_in_every_resample(tmp_path):
    fast, strong = records_of(FAST), records_of(STRONG)
    logs = {(500, 0): fast, (1000, 0): strong, (1500, 0): between(fast, strong)}
    one, two = make_result_with_logs(tmp_path / "a", logs), make_result_with_logs(tmp_path / "b", logs)
    (pair,) = compare_paths(one, two, samples=50)["comparisons"]
    for metric in ("BLEU", "LAAL"):
        assert pair["cells"][0]["metrics"][metric]["interval"] == [0.0, 0.0]
    (curves,) = pair["equal_latency"]
    assert (curves["area"], curves["interval"]) == (0.0, [0.0, 0.0])


def test_the_same_text_earlier_is_better_at_equal_latency_only(tmp_path):
    fast, strong = records_of(FAST), records_of(STRONG)
    logs = {(500, 0): fast, (1000, 0): strong, (1500, 0): between(fast, strong)}
    one = make_result_with_logs(tmp_path / "a", logs)
    two = make_result_with_logs(tmp_path / "b", {key: shifted(log, -200.0) for key, log in logs.items()})
    (pair,) = compare_paths(one, two, samples=200)["comparisons"]
    assert pair["cells"][0]["metrics"]["BLEU"]["interval"] == [0.0, 0.0]
    assert pair["cells"][0]["metrics"]["LAAL"]["interval"][1] < 0
    (curves,) = pair["equal_latency"]
    low, high = curves["interval"]
    assert 0 < low < curves["mean_difference"] < high


def test_an_utterance_with_a_null_reference_adds_nothing_to_bleu(tmp_path):
    records = [
        dataclasses.replace(record, reference=None) if i == 5 else record for i, record in enumerate(records_of(FAST))
    ]
    write_simuleval_log(tmp_path / "a.log", records)
    records[5] = dataclasses.replace(
        records[5], prediction="an other text that is as long as it likes", delays=(1.0,) * 9, elapsed=None
    )
    write_simuleval_log(tmp_path / "b.log", records)
    (pair,) = compare_paths(tmp_path / "a.log", tmp_path / "b.log", samples=50)["comparisons"]
    assert pair["cells"][0]["metrics"]["BLEU"]["interval"] == [0.0, 0.0]


def test_a_cells_log_is_found_in_the_folder_that_the_cell_names(tmp_path):
    for name in "ab":
        folder = make_result(tmp_path / name, cell(folder="elsewhere", **score_records(records_of(FAST)).corpus))
        (folder / "elsewhere").mkdir()
        write_simuleval_log(folder / "elsewhere" / "instances.log", records_of(FAST))
    (pair,) = compare_paths(tmp_path / "a", tmp_path / "b", samples=50)["comparisons"]
    assert pair["cells"][0]["metrics"]["BLEU"]["interval"] == [0.0, 0.0]


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others(tmp_path):
    def interval(**options):
        (pair,) = compare_paths(STRONG, FAST, samples=50, **options)["comparisons"]
        return pair["cells"][0]["metrics"]["BLEU"]["interval"]

    assert interval(seed=1) == interval(seed=1) != interval(seed=2)


def test_other_references_are_an_error_that_names_the_line(tmp_path):
    records = records_of(FAST)
    records[6] = dataclasses.replace(records[6], reference="something else")
    write_simuleval_log(tmp_path / "x.log", records)
    with pytest.raises(LogError, match="line 7: the references differ"):
        compare_paths(FAST, tmp_path / "x.log")
    write_simuleval_log(tmp_path / "x.log", records[:6])
    with pytest.raises(LogError, match=r"holds 186 instances, .* holds 6.*same row limit \(simulsa_eval_samples\)"):
        compare_paths(FAST, tmp_path / "x.log")


def test_a_result_that_does_not_exist_says_what_is_expected(tmp_path):
    with pytest.raises(LogError, match=r"none does not exist\. Give a folder of `simulsa-eval run`, or a log\."):
        compare_paths(FAST, tmp_path / "none")


def test_parameters_of_a_cell_are_formatted_as_in_tables():
    row = {"policy": "confidence", "chunk_ms": 500.0, "rollback": 0, "parameters": {"confidence_threshold": 0.95}}
    assert str(cell_key(row)) == "confidence k=500 b=0 confidence_threshold=0.95"
    assert cell_key(row).as_json() == row
    assert str(cell_key({"policy": "offline", "chunk_ms": None, "rollback": None})) == "offline"


def test_results_that_were_measured_differently_are_not_compared(tmp_path):
    one = make_result(tmp_path / "a", cell(BLEU=1.0))
    two = make_result(tmp_path / "b", cell(BLEU=1.0), signatures=SIGNATURES | {"BLEU": "nrefs:1|tok:zh|version:2.6.0"})
    with pytest.raises(UsageError, match=r"measured differently .*tokenizer 13a.*tokenizer zh"):
        compare_paths(one, two)


def test_latency_in_tokens_of_text_is_compared_in_tokens_and_not_with_milliseconds(tmp_path, capsys):
    row = {"index": 0, "prediction": "a b", "reference": "a b", "source": "x y", "source_length": 2, "delays": [1, 2]}
    for name, more in (("text", {}), ("late", {"delays": [2, 2]}), ("speech", {"source_length": 2000.0})):
        (tmp_path / name).write_text("".join(json.dumps(row | more | {"index": i}) + "\n" for i in range(3)))
    with pytest.raises(UsageError, match=r"latency in tokens; .* latency in ms\)"):
        compare_paths(tmp_path / "text", tmp_path / "speech")
    assert main(["compare", str(tmp_path / "text"), str(tmp_path / "late"), "--samples", "100"]) == 0
    printed = capsys.readouterr().out
    assert "LAAL tokens" in printed and "AL tokens" in printed and "LAAL ms" not in printed


def test_another_version_of_sacrebleu_is_no_other_measure(tmp_path):
    one = make_result(tmp_path / "a", cell(BLEU=1.0))
    two = make_result(tmp_path / "b", cell(BLEU=3.0), signatures=SIGNATURES | {"BLEU": "nrefs:1|tok:13a|version:2.4.0"})
    assert compare_paths(one, two)["comparisons"][0]["cells"][0]["metrics"]["BLEU"]["difference"] == 2.0


def test_a_log_is_not_compared_with_a_folder(tmp_path):
    with pytest.raises(UsageError, match="a log and a folder"):
        compare_paths(make_result(tmp_path / "a", cell(BLEU=1.0)), FAST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no list `cells`"),
        ('{"cells": 1}', "has no list `cells`"),
        ('{"cells": [1]}', "cell 1: expected an object with a policy"),
        ('{"cells": [{"policy": "rollback", "BLEU": "x"}]}', "cell 1: BLEU is 'x'"),
        ('{"cells": [{"policy": "rollback", "BLEU": NaN}]}', "is not valid JSON .*NaN"),
        ('{"cells": [{"policy": "offline"}, {"policy": "offline"}]}', "cell 2: offline is repeated"),
    ],
)
def test_a_damaged_scores_json_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(LogError, match=message):
        load_result(tmp_path, CompareOptions())


def test_a_folder_without_scores_says_what_is_expected(tmp_path):
    with pytest.raises(LogError, match=r"holds no scores.json .*Give a folder of `simulsa-eval run`, or an inst"):
        load_result(tmp_path, CompareOptions())


def test_three_results_are_two_comparisons_with_the_first(tmp_path, capsys):
    folders = [make_result(tmp_path / name, cell(BLEU=bleu)) for name, bleu in {"a": 1.0, "b": 2.0, "c": 4.0}.items()]
    assert main(["compare", *map(str, folders), "--json", str(tmp_path / "c.json")]) == 0
    written = json.loads((tmp_path / "c.json").read_text())
    assert [pair["cells"][0]["metrics"]["BLEU"]["difference"] for pair in written["comparisons"]] == [1.0, 3.0]
    assert capsys.readouterr().out.count("other: ") == 2


def test_the_table_shows_both_values_the_difference_and_what_is_missing(tmp_path, capsys):
    one = make_result(tmp_path / "a", cell(BLEU=20.0, LAAL=1000.0), cell(chunk_ms=1000, BLEU=30.0, LAAL=2000.0))
    two = make_result(tmp_path / "b", cell(BLEU=22.5, LAAL=900.0))
    assert main(["compare", str(one), str(two)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^BLEU +baseline +other +diff .*\nrollback k=500 b=0 +20\.00 +22\.50 +\+2\.50 +– +–$", out, re.M)
    assert re.search(r"^LAAL ms +baseline .*\nrollback k=500 b=0 +1000 +900 +-100 +–$", out, re.M)
    assert "\nnot in the other: rollback k=1000 b=0 (BLEU 30.00, LAAL 2000 ms, chrF –)\n" in out


def test_curves_are_compared_at_the_latencies_that_are_named(tmp_path):
    one = make_result(tmp_path / "a", cell(BLEU=20.0, AL=1000.0), cell(chunk_ms=1000, BLEU=30.0, AL=2000.0))
    two = make_result(tmp_path / "b", cell(BLEU=22.0, AL=1000.0), cell(chunk_ms=1000, BLEU=34.0, AL=2000.0))
    (curves,) = compare_paths(one, two, axes=Axes(latency="AL", at=(1500.0, 2500.0)))["comparisons"][0]["equal_latency"]
    assert curves["points"] == [
        {"AL": 1500.0, "baseline": 25.0, "other": 28.0, "difference": 3.0, "interval": None},
        {"AL": 2500.0, "baseline": None, "other": None, "difference": None, "interval": None},  # beyond both
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latency", "speed"], "--latency is 'speed'; allowed: AL, "),
        (["--latency", "AP"], "--latency is 'AP'; allowed: AL, "),
        (["--at", "nan"], "invalid"),
        (["--at", "a"], "invalid"),
        (["--trials", "0"], "--trials is 0"),
    ],
)
def test_axes_that_do_not_exist_are_one_line(words, message, capsys):
    assert main(["compare", str(STRONG), str(FAST), *words]) == 2
    assert message in capsys.readouterr().err


def verdict_of(tmp_path, one: dict, two: dict) -> str:
    results = [make_result_with_logs(tmp_path / name, logs) for name, logs in (("a", one), ("b", two))]
    (pair,) = compare_paths(*results, samples=200)["comparisons"]
    return pair["equal_latency"][0]["verdict"]


def cut_short(records) -> list:
    """Every translation without its second half, as early as before."""
    return [
        dataclasses.replace(
            record,
            prediction=" ".join(record.prediction.split()[: len(record.delays) // 2]),
            delays=record.delays[: len(record.delays) // 2],
            elapsed=None,
        )
        for record in records
    ]


def test_the_verdict_on_a_gain_that_only_costs_delay(tmp_path):
    # The same two systems lie on one curve, but the second runs every cell one place further up.
    fast, strong = records_of(FAST), records_of(STRONG)
    poor = cut_short(fast)
    said = verdict_of(
        tmp_path,
        {(500, 0): poor, (1000, 0): fast, (1500, 0): strong},
        {(500, 0): fast, (1000, 0): strong, (1500, 0): strong},
    )
    assert "is not shown to be more than a shift along the curve: it costs delay" in said
    assert re.search(r"At fixed \(k, b\) the other differs by \+\d.* more LAAL", said)


def test_the_verdict_on_the_same_text_sooner(tmp_path):
    fast, strong = records_of(FAST), records_of(STRONG)
    logs = {(500, 0): fast, (1000, 0): strong, (1500, 0): between(fast, strong)}
    said = verdict_of(tmp_path, logs, {key: shifted(log, -200.0) for key, log in logs.items()})
    assert "The same quality comes sooner." in said
    assert re.search(r"the other is better: \+\d.*by itself it is better at \d+", said)


def test_the_verdict_on_a_better_text_at_the_same_time(tmp_path):
    fast, strong = records_of(FAST), records_of(STRONG)
    logs = {(500, 0): fast, (1000, 0): strong, (1500, 0): between(fast, strong)}
    worse = {
        key: [dataclasses.replace(record, prediction=" ".join(record.prediction.split()[::-1])) for record in log]
        for key, log in logs.items()
    }
    said = verdict_of(tmp_path, worse, logs)
    assert "more than a shift along the curve" in said
    assert "(significantly better in 3 of 3 cells, worse in 0)" in said


def test_the_verdict_without_logs_claims_nothing(tmp_path):
    one = make_result(tmp_path / "a", cell(BLEU=20.0, LAAL=1000.0), cell(chunk_ms=1000, BLEU=30.0, LAAL=2000.0))
    two = make_result(tmp_path / "b", cell(BLEU=22.0, LAAL=1000.0), cell(chunk_ms=1000, BLEU=34.0, LAAL=2000.0))
    (curves,) = compare_paths(one, two)["comparisons"][0]["equal_latency"]
    assert curves["verdict"] == (
        "At fixed (k, b) the other differs by +3.00 BLEU on average (no interval, so nothing is claimed), "
        "with as much LAAL. "
        "At equal LAAL (1000–2000 ms) the difference has no interval, so none is claimed: +3.00 BLEU on average."
    )


def test_scores_of_comet_beside_a_log_are_compared_as_means(tmp_path):
    for name, score in (("a", 0.5), ("b", 0.75)):
        folder = make_result(tmp_path / name, cell(COMET=score, **score_records(records_of(FAST)).corpus))
        (folder / "rollback_k500_b0").mkdir()
        write_simuleval_log(folder / "rollback_k500_b0" / "instances.log", records_of(FAST))
        (folder / "rollback_k500_b0" / "comet.jsonl").write_text(
            "".join(json.dumps({"id": str(i), "score": score + (0.5 if i % 2 else -0.5)}) + "\n" for i in range(186))
        )
    (pair,) = compare_paths(tmp_path / "a", tmp_path / "b", samples=50)["comparisons"]
    assert pair["cells"][0]["metrics"]["COMET"]["interval"] == [pytest.approx(0.25), pytest.approx(0.25)]
    (tmp_path / "b" / "rollback_k500_b0" / "comet.jsonl").write_text('{"id": "0", "score": 0.5}\n')
    with pytest.raises(LogError, match="does not hold a score for each of 186 instances"):
        compare_paths(tmp_path / "a", tmp_path / "b", samples=50)


# What a comparison must not claim


def test_a_result_with_more_cells_is_not_better_than_itself_with_fewer(tmp_path, capsys):
    slow, fast, strong = shifted(cut_short(records_of(FAST)), -300.0), records_of(FAST), records_of(STRONG)
    logs = {(500, 0): slow, (1000, 0): fast, (1500, 0): strong}
    logs |= {(2000, 0): shifted(strong, 200.0)}
    few = make_result_with_logs(tmp_path / "a", {key: logs[key] for key in [(500, 0), (1500, 0), (2000, 0)]})
    every = make_result_with_logs(tmp_path / "b", logs)
    for one, two in ((few, every), (every, few)):
        assert main(["compare", str(one), str(two), "--samples", "100", "--json", str(tmp_path / "c.json")]) == 0
        (curves,) = json.loads((tmp_path / "c.json").read_text())["comparisons"][0]["equal_latency"]
        assert (curves["mean_difference"], curves["interval"]) == (0.0, [0.0, 0.0])
        assert curves["grids"]["shared"] == 3
    out = capsys.readouterr().out
    assert "The grids differ, so only the 3 shared cells are compared (only the other has rollback k=1000 b=0)." in out
    assert "only the baseline has rollback k=1000 b=0" in out
    assert "interpolated between the best of 3 cells of both sides" in out


def test_a_gain_without_more_delay_is_not_said_to_be_paid_for(tmp_path):
    # The best cell is the same, a worse one of the same latency becomes better: no curve moves, no delay is paid.
    strong = records_of(STRONG)
    fast = records_of(FAST)
    worse = [dataclasses.replace(record, prediction=" ".join(record.prediction.split()[::-1])) for record in strong]
    said = verdict_of(
        tmp_path,
        {(500, 0): fast, (1000, 0): strong, (1500, 0): worse, (2000, 0): worse},
        {(500, 0): fast, (1000, 0): strong, (1500, 0): strong, (2000, 0): strong},
    )
    assert "with as much LAAL" in said
    assert "delay" not in said


def test_quality_that_is_lost_is_not_said_to_be_delay(tmp_path):
    fast, strong = records_of(FAST), records_of(STRONG)
    half = [
        dataclasses.replace(record, prediction="x " * len(record.delays)) if i % 2 else record
        for i, record in enumerate(strong)
    ]
    said = verdict_of(tmp_path, {(500, 0): fast, (1000, 0): strong}, {(500, 0): fast, (1000, 0): half})
    assert "sooner" not in said
    assert "later" not in said


def test_a_system_and_itself_have_no_significant_difference():
    metrics = compare_paths(STRONG, STRONG)["comparisons"][0]["cells"][0]["metrics"]
    for name in ("BLEU", "chrF", "LAAL"):
        assert (metrics[name]["difference"], metrics[name]["p_value"]) == (0.0, 1.0)
    assert metrics["BLEU"]["randomisation_p_value"] == 1.0


def with_better(records, count: int) -> list:
    """The first `count` translations that are not their reference become it, at the delays that they had."""
    places = [
        i
        for i, record in enumerate(records)
        if record.prediction != record.reference and len(record.reference.split()) == len(record.delays)
    ][:count]
    return [
        dataclasses.replace(record, prediction=record.reference) if i in places else record
        for i, record in enumerate(records)
    ]


def test_p_of_few_differing_utterances_is_exact_and_says_how_many_they_are(tmp_path, capsys):
    for name, count in (("a", 0), ("b", 1), ("c", 4)):
        write_simuleval_log(tmp_path / f"{name}.log", with_better(records_of(FAST), count))
    logs = [str(tmp_path / f"{name}.log") for name in "abc"]
    assert main(["compare", *logs, "--json", str(tmp_path / "j.json")]) == 0
    written = json.loads((tmp_path / "j.json").read_text())
    one, four = (pair["cells"][0]["metrics"]["BLEU"] for pair in written["comparisons"])
    assert (one["randomisation_p_value"], four["randomisation_p_value"]) == (1.0, 2 / 2**4)
    assert (one["differing"], four["differing"], one["utterances"], one["randomisation_exact"]) == (1, 4, 186, True)
    assert one["sacrebleu_randomisation_p_value"] == pytest.approx(1 / 10001)
    assert written["p_values"].keys() == {"p_value", "randomisation_p_value", "sacrebleu_randomisation_p_value"}
    out = capsys.readouterr().out
    assert len(re.findall(r"1\.0000$", out, re.M)) == 2  # BLEU, chrF
    assert "log: 1 of 186 utterances differ in BLEU, chrF, too few to tell" in out


def test_few_differing_utterances_are_not_called_a_difference(tmp_path):
    # The bootstrap's interval of four that all gain lies above 0, as hardly any resample lacks all four.
    fast, strong = records_of(FAST), records_of(STRONG)
    results = [
        make_result_with_logs(
            tmp_path / name,
            {(500, 0): with_better(fast, count), (1000, 0): strong, (1500, 0): with_better(shifted(fast, 50.0), count)},
        )
        for name, count in (("a", 0), ("b", 5))
    ]
    (pair,) = compare_paths(*results, samples=500)["comparisons"]
    assert pair["cells"][0]["metrics"]["BLEU"]["interval"][0] > 0
    (curves,) = pair["equal_latency"]
    assert (curves["differing"], curves["interval"][0] > 0) == (5, True)
    assert "(significantly better in 0 of 3 cells, worse in 0)" in curves["verdict"]
    assert "the difference is not significant: " in curves["verdict"]
    assert "(5 utterances differ, too few to tell)" in curves["verdict"]


def test_a_single_utterance_says_nothing_about_chance(tmp_path):
    for name, source in (("a", STRONG), ("b", FAST)):
        write_simuleval_log(tmp_path / f"{name}.log", records_of(source)[:1])
    metrics = compare_paths(tmp_path / "a.log", tmp_path / "b.log")["comparisons"][0]["cells"][0]["metrics"]
    assert metrics["BLEU"]["difference"] != 0
    assert {metrics[name][key] for name in ("BLEU", "LAAL") for key in ("interval", "p_value")} == {None}


def test_values_say_how_many_instances_they_rest_on(tmp_path, capsys):
    silent = [dataclasses.replace(record, prediction="", delays=(), elapsed=None) for record in records_of(FAST)[1:]]
    write_simuleval_log(tmp_path / "silent.log", [records_of(FAST)[0], *silent])
    assert main(["compare", str(FAST), str(tmp_path / "silent.log"), "--trials", "10"]) == 0
    out = capsys.readouterr().out
    assert "log: of the other's 186 instances, 1 have a value of LAAL" in out.replace("AL, LAAL", "LAAL")


def test_every_mean_says_how_many_instances_it_rests_on(tmp_path, capsys):
    # Who writes nothing before the end has no YAAL: all but the first.
    late = [
        dataclasses.replace(record, delays=(record.source_length,) * len(record.delays), elapsed=None)
        for record in records_of(FAST)[1:]
    ]
    write_simuleval_log(tmp_path / "late.log", [records_of(FAST)[0], *late])
    assert main(["compare", str(FAST), str(tmp_path / "late.log"), "--trials", "10", "--samples", "10"]) == 0
    out = capsys.readouterr().out
    assert "log: of the other's 186 instances, 1 have a value of YAAL" in out


def test_cells_that_differ_in_a_parameter_have_rows_of_different_names(tmp_path, capsys):
    folders = [
        make_result(
            tmp_path / name, *(cell("wait_k", 500, None, BLEU=k, LAAL=k, parameters={"wait_k": k}) for k in (1, 2, 3))
        )
        for name in "ab"
    ]
    assert main(["compare", *map(str, folders)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("wait_k k=500 wait_k=2 ") for line in lines) == 2  # BLEU, LAAL


def test_a_log_that_is_not_its_cells_is_refused(tmp_path):
    one = make_result_with_logs(tmp_path / "a", {(500, 0): records_of(FAST)})
    two = make_result_with_logs(tmp_path / "b", {(500, 0): records_of(FAST)})
    write_simuleval_log(two / "rollback_k500_b0" / "instances.log", records_of(STRONG))
    with pytest.raises(LogError, match=r"is not the log of rollback k=500 b=0 in scores.json: its BLEU is 58.7582"):
        compare_paths(one, two)


def test_a_folder_whose_unit_does_not_fit_its_logs_is_refused(tmp_path):
    records = list(Log(DATA / "char.instances.log").records())
    folders = [make_result_with_logs(tmp_path / name, {(500, 0): records}) for name in "ab"]
    with pytest.raises(LogError, match="Give --unit char"):
        compare_paths(*folders)


@pytest.mark.parametrize("folder", ["../a/rollback_k500_b0", "/etc", "x" * 300])
def test_a_cell_does_not_leave_its_folder(tmp_path, folder):
    with pytest.raises(LogError, match="expected the name of a folder in"):
        load_result(make_result(tmp_path / "a", cell(BLEU=1.0, folder=folder)), CompareOptions())


@pytest.mark.parametrize(
    "tuned", [5, {}, [1], [{}], [{"latency": "LAAL"}], [{"latency": 1, "budget": 700}], "LAAL@700"]
)
def test_budgets_that_are_none_are_one_clear_error(tmp_path, tuned):
    with pytest.raises(LogError, match=r"cell 1: tuned is .*; expected a list of objects with latency and budget"):
        load_result(make_result(tmp_path / "a", cell(BLEU=1.0, tuned=tuned)), CompareOptions())


@pytest.mark.parametrize(
    "text",
    [
        '{"cells": [{"policy": "rollback", "rollback": 1e999}]}',
        '{"cells": [{"policy": "rollback", "BLEU": 1%s}]}' % ("0" * 400),
    ],
)
def test_numbers_that_are_none_are_one_clear_error(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(LogError, match=r"expected a number or null|is not valid JSON"):
        load_result(tmp_path, CompareOptions())


def test_a_metric_that_is_missing_is_said_to_be_missing(tmp_path):
    logs = {(500, 0): records_of(FAST), (1000, 0): records_of(STRONG)}
    results = [make_result_with_logs(tmp_path / name, logs) for name in "ab"]
    (pair,) = compare_paths(*results, axes=Axes(quality="COMET"), samples=20)["comparisons"]
    assert (
        pair["equal_latency"][0]["verdict"]
        == "No curve can be drawn: a side has no streaming cell with COMET and LAAL."
    )


def test_latencies_are_named_in_order(tmp_path):
    fast, strong = records_of(FAST), records_of(STRONG)
    sooner = {(500, 0): shifted(fast, -200.0), (1000, 0): shifted(strong, -200.0)}
    results = [
        make_result_with_logs(tmp_path / "a", {(500, 0): fast, (1000, 0): strong}),
        make_result_with_logs(tmp_path / "b", sooner),
    ]
    assert main(["compare", *map(str, results), "--at", "2300,1800,2000", "--json", str(tmp_path / "c.json")]) == 0
    (curves,) = json.loads((tmp_path / "c.json").read_text())["comparisons"][0]["equal_latency"]
    assert [point["LAAL"] for point in curves["points"]] == [1800, 2000, 2300]


def test_erasure_of_cells_has_an_interval_from_their_steps(tmp_path):
    for name in "ab":
        logs = {(500, 0): records_of(FAST)[:20]}
        folder = make_result_with_logs(tmp_path / name, logs)
        scores = json.loads((folder / "scores.json").read_text())
        scores["cells"][0]["NE"] = 0.5
        (folder / "scores.json").write_text(json.dumps(scores))
        steps = []
        for i, record in enumerate(logs[500, 0]):
            shown = ["x", record.prediction] if (i % 2 or name == "b") else ["", record.prediction]
            steps += [
                json.dumps({"id": str(i), "audio_ms": 1.0, "text": text, "committed": text, "finished": True})
                for text in shown
            ]
        (folder / "rollback_k500_b0" / "steps.jsonl").write_text("\n".join(steps) + "\n")
    (pair,) = compare_paths(tmp_path / "a", tmp_path / "b", samples=100)["comparisons"]
    low, high = pair["cells"][0]["metrics"]["NE"]["interval"]
    assert 0 < low < high
