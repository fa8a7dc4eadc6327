"""Quality over latency. Expected values: straight lines on paper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.metrics.curves import area_between, common_range, frontier

points = st.lists(st.tuples(st.integers(0, 50).map(float), st.integers(0, 50).map(float)), min_size=1, max_size=8)


def test_a_cell_that_a_faster_one_beats_is_not_on_the_curve():
    curve = frontier([(1000.0, 30.0), (500.0, 20.0), (800.0, 15.0), (1200.0, 30.0), (500.0, 10.0)])
    assert list(zip(curve.latencies.tolist(), curve.qualities.tolist(), strict=True)) == [(500.0, 20.0), (1000.0, 30.0)]


def test_between_cells_quality_is_interpolated():
    assert frontier([(500.0, 20.0), (1000.0, 30.0)]).at(750.0) == pytest.approx(25.0)


def test_curves_that_only_touch_share_no_range():
    assert common_range(frontier([(1, 1), (2, 2)]), frontier([(2, 1), (3, 2)])) is None
    assert common_range(frontier([]), frontier([(2, 1), (3, 2)])) is None


def test_the_area_between_crossing_curves_cancels():
    rising, steep = frontier([(0, 1), (2, 2)]), frontier([(0, 0), (2, 3)])
    assert area_between(rising, steep, 0.0, 2.0) == pytest.approx(0.0)
    assert area_between(rising, steep, 1.0, 2.0) == pytest.approx(0.5)  # a triangle: 1 wide, 1 high


def test_knots_inside_the_range_count():
    bent, straight = frontier([(0, 0), (1, 9), (2, 10)]), frontier([(0, 0), (2, 10)])
    assert area_between(straight, bent, 0.0, 2.0) == pytest.approx(4.0)  # a triangle: 2 wide, 4 high


@given(points, points)
def test_exchanging_the_systems_turns_the_sign(first, second):
    one, two = frontier(first), frontier(second)
    shared = common_range(one, two)
    if shared is not None:
        assert area_between(one, two, *shared) == pytest.approx(-area_between(two, one, *shared))


@given(points)
def test_no_cell_lies_above_the_curve_left_of_itself(cells):
    curve = frontier(cells)
    for latency, quality in cells:
        assert max(q for lat, q in zip(curve.latencies, curve.qualities, strict=True) if lat <= latency) >= quality
