"""What an append-only tool is told: what is committed, at the moments at which evaluation counts it."""

import numpy as np
import pytest
from helpers.fakes import ASK
from helpers.reading_model import ReadingModel, spoken

from simulsa_plugin.agents.committed_text import CommittedText
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.live.arrivals import WholeStreamArrivals
from simulsa_plugin.live.engine import LiveEngine
from simulsa_plugin.live.stream import LiveStream
from simulsa_plugin.logs.steps import parse_session
from simulsa_plugin.metrics.delays import split_units, unit_delays
from simulsa_plugin.streaming.engine import DecodingSetting, decode_batched
from simulsa_plugin.streaming.policies import Confidence, HoldN, LocalAgreement, Policy, Retranslation, Rollback
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

LIMITS = BatchLimits(64)
CHUNK_MS = 500


class Changing(Policy):
    """Commits everything at every step, and lets the next step begin anew."""

    name = "changing"

    def committed(self, session, output):
        return len(output)

    def prefix_length(self, session):
        return 0


def told(policy, waveform, segment_ms, unit="word"):
    """(units, the delay of each on SimulEval's clock, units taken back) of a stream in segments."""
    model, units, delays = ReadingModel(regret=True), [], []
    with LiveEngine(model, LIMITS) as engine:
        stream = LiveStream(ASK, policy, WholeStreamArrivals(CHUNK_MS * 16), model.decode, unit)
        text = CommittedText(engine, stream)
        for start in range(0, len(waveform), segment_ms * 16):
            end = min(start + segment_ms * 16, len(waveform))
            added = text.push(waveform[start:end], final=end == len(waveform))
            new = added.split() if unit == "word" else list(added)
            units, delays = units + new, delays + [end / 16] * len(new)
    return units, delays, text.taken_back


def evaluated(policy, waveform, unit="word"):
    model = ReadingModel(regret=True)
    ((session,),) = decode_batched(model, [StreamSource(ASK, waveform)], [DecodingSetting(policy, CHUNK_MS)], LIMITS)
    steps = list(parse_session(step_rows("", session.steps, model.decode)))
    return split_units(steps[-1].shown, unit), unit_delays(steps, unit, "committed")


@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize(
    "policy", [Rollback(0), Rollback(2), Confidence(0.9), LocalAgreement(2), HoldN(1), Retranslation()],
    ids=lambda one: f"{one.name}{one.cell()['rollback']}",
)  # fmt: skip
@pytest.mark.parametrize("segment_ms", [500, 250, 1])
def test_units_are_told_when_evaluation_counts_them(policy, unit, segment_ms):
    waveform = spoken(range(1, 6))
    assert told(policy, waveform, segment_ms, unit) == (*evaluated(policy, waveform, unit), 0)


@pytest.mark.parametrize("segment_ms", [300, 800, 1000, 10_000])
def test_other_segments_delay_units_to_their_end(segment_ms):
    waveform = spoken(range(1, 6))  # two seconds
    units, delays = evaluated(Rollback(1), waveform)
    later = [min(-(-delay // segment_ms) * segment_ms, 2000) for delay in delays]
    assert told(Rollback(1), waveform, segment_ms) == (units, later, 0)


def test_a_stream_that_ends_in_a_segment_of_several_chunks_is_complete():
    units, _, _ = told(Retranslation(), spoken(range(1, 6)), 10_000)
    assert units == ["w1", "w2", "w3", "w4", "w5."]


def test_nothing_is_told_of_a_stream_that_is_too_short():
    assert told(Rollback(0), np.zeros(1600, dtype=np.float32), 500) == ([], [], 0)


def test_what_is_taken_back_is_counted_and_the_rest_is_appended():
    # Committed are "w1 ???", "w1 w2 ???", "w1 w2 w3 ???" and "w1 w2 w3 w4 w5.": every time three characters are
    # replaced, and what was told first stays in the output.
    units, delays, taken_back = told(Changing(), spoken(range(1, 6)), 500, "char")
    assert "".join(units) == "w1 ???" + "???" + "???" + "w5."
    assert delays == [500] * 6 + [1000] * 3 + [1500] * 3 + [2000] * 3
    assert taken_back == 9
