"""Load over the last five seconds, on a clock of the test."""

from simulsa_plugin.live.engine import EngineLoad
from simulsa_plugin.server.load import LoadMeter


def test_the_load_is_that_of_the_last_seconds():
    now, load = [0.0], [EngineLoad(0, 0, 0.0, 0)]
    meter = LoadMeter(lambda: load[0], lambda: now[0])
    assert meter.measure() == {"busy": 0.0, "batch": 0.0, "waiting": 0}
    # Two seconds of work in the first four, in batches of three.
    for second in range(1, 5):
        now[0], load[0] = float(second), EngineLoad(6 * second, 2 * second, 0.5 * second, 1)
        assert meter.measure() == {"busy": 0.5, "batch": 3.0, "waiting": 1}
    # Then none: after five seconds it is forgotten.
    idle = EngineLoad(24, 8, 2.0, 0)
    for second in range(5, 12):
        now[0], load[0] = float(second), idle
        found = meter.measure()
    assert found == {"busy": 0.0, "batch": 0.0, "waiting": 0}
