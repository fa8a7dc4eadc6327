"""A log against a curve at the latency of the log. Expected values: arithmetic on paper."""

import numpy as np
import pytest

from simulsa_plugin.comparison.equal_latency import Axes
from simulsa_plugin.comparison.log_points import LOG, compare_log, log_sentence
from simulsa_plugin.evaluation.result_cells import Cell, CellKey

CURVE = {500: (600.0, 10.0), 1000: (1000.0, 20.0), 1500: (1400.0, 24.0)}  # chunk → LAAL, BLEU


class Samples:
    """A resampled cell whose values are the measured ones, moved by `noise` of quality."""

    def __init__(self, latency, quality, noise):
        self.values = {"LAAL": np.full(len(noise), latency), "BLEU": quality + noise}


def cells(points):
    return {
        CellKey("rollback", k, 0): Cell(CellKey("rollback", k, 0), {"LAAL": x, "BLEU": y}, 9, None)
        for k, (x, y) in points.items()
    }


def log(latency, quality):
    return {LOG: Cell(LOG, {"LAAL": latency, "BLEU": quality}, 9, None)}


def found(latency, quality, log_noise=None, points=CURVE):
    if log_noise is None:
        return compare_log((log(latency, quality), {}), (cells(points), {}), Axes())
    curve = {key: Samples(*CURVE[key.chunk_ms], np.zeros(len(log_noise))) for key in cells(points)}
    return compare_log(
        (log(latency, quality), {LOG: Samples(latency, quality, log_noise)}), (cells(points), curve), Axes()
    )


def test_the_curve_is_interpolated_at_the_latency_of_the_log():
    entry = found(800.0, 18.0)
    assert (entry["curve"], entry["difference"], entry["interval"]) == (15.0, 3.0, None)
    assert log_sentence(entry, "L", "R") == (
        "At 800 ms of LAAL, where L has 18.00 BLEU, the curve of R has 15.00: +3.00 BLEU, without an interval, "
        "which needs the logs of the folder and more cells."
    )


def test_a_curve_stays_at_its_last_point_and_does_not_begin_before_its_first():
    late = found(2000.0, 25.0)
    assert (late["curve"], late["difference"]) == (24.0, 1.0)
    assert "the curve of R has at least 24.00, that of its slowest cell" in log_sentence(late, "L", "R")
    early = found(500.0, 9.0)
    assert (early["curve"], early["difference"]) == (None, None)
    assert log_sentence(early, "L", "R") == (
        "L is at 500 ms of LAAL, and R has no cell as fast: its fastest is at 600 ms."
    )


@pytest.mark.parametrize(("quality", "judgement"), [(23.0, "so L is better"), (20.0, "which is not significant")])
def test_the_interval_covers_utterances_and_interpolation(quality, judgement):
    noise = np.linspace(-1.0, 1.0, 201)
    entry = found(1000.0, quality, noise)
    low, high = entry["interval"]
    # Without the middle cell the curve has 17 at 1000 ms, so halves of the cells widen the interval upwards.
    assert low == pytest.approx(quality - 20.0 - 0.95, abs=0.05)
    assert high > quality - 20.0 + 0.95
    assert judgement in log_sentence(entry, "L", "R")


def test_without_a_streaming_cell_there_is_no_comparison():
    entry = found(800.0, 18.0, points={})
    assert entry["range"] is None
    assert "cannot be compared: one has no streaming cell with BLEU and LAAL" in log_sentence(entry, "L", "R")
