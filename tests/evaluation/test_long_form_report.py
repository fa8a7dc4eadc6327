"""What tables and figures say of long recordings. Expected values: by hand."""

from simulsa_plugin.api.evaluate_recipe import EvaluationResult
from simulsa_plugin.evaluation.cells_table import cells_table
from simulsa_plugin.evaluation.formatting import metric_unit


def cell(chunk_ms, hallucinated, looping):
    metrics = ("BLEU", "chrF", "LongYAAL", "LongLAAL", "LongAL", "LongDAL", "StreamLAAL", "NE")
    counts = {"hallucinated_units": hallucinated, "looping_steps": looping}
    key = {"policy": "rollback", "chunk_ms": chunk_ms, "rollback": 0, "parameters": {}}
    return key | dict.fromkeys(metrics, 1.0) | {"instances": 3, "empty": 0, "skipped": 0, "counts": counts}


def test_a_count_of_all_cells_is_one_note():
    notes = cells_table([cell(500, 7, 0), cell(1000, 7, 2), cell(2000, 7, 1)])[4:-1]
    assert notes == [
        "7 units were written about speech that has no reference segment (hallucinated_units, by cell in scores.tsv)",
        "0 to 2 steps had their output cut because it repeated itself (looping_steps, by cell in scores.tsv)",
    ]
    assert cells_table([cell(500, 0, 0)])[2:] == ["also in scores.tsv: LongAL, LongDAL"]


def test_the_figure_of_recordings_is_over_longyaal(tmp_path):
    figure = EvaluationResult(tmp_path, {"cells": [cell(500, 0, 0)]}).figure()
    assert figure.axes[0].get_xlabel().startswith("LongYAAL (ms)")


def test_average_proportion_has_no_unit_however_recordings_are_aligned():
    assert [metric_unit(name) for name in ("AP", "StreamAP_CA", "StreamLAAL")] == ["", "", "ms"]
