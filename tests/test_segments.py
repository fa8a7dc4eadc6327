"""Reference segments against the length of their recording; expected values are arithmetic on paper."""

import pytest

from simulsa_plugin.segments import ReferenceSegment, SkippedSegment, check_segments, count_overlaps


@pytest.mark.parametrize(
    ("offset", "duration", "reference", "reason"),
    [
        (0.0, 10.0, "Ja.", None),
        (9.0, 1.5, "Ja.", None),  # half a second past the end, as Kaldi's extract-segments allows
        (9.0, 1.51, "Ja.", "beyond_end"),
        (10.0, 0.2, "Ja.", "beyond_end"),  # all of it lies behind the recording
        (5e307, 5e307, "Ja.", "beyond_end"),
        (1.0, 0.0, "Ja.", "no_duration"),
        (1.0, 1.0, " \n", "empty_reference"),
        (1.0, 1.0, None, None),  # a missing reference does not make a segment invalid
    ],
)
def test_a_segment_that_does_not_fit_a_recording_of_ten_seconds_is_skipped_with_its_reason(
    offset, duration, reference, reason
):
    segment = ReferenceSegment(offset, duration, reference)
    expected = ((segment,), ()) if reason is None else ((), (SkippedSegment(segment, reason),))
    assert check_segments([segment], 10.0) == expected


def test_segments_keep_their_order_and_values():
    segments = [ReferenceSegment(float(start), 0.5, "Ja.") for start in (3, 1, 30, 2)]
    kept, skipped = check_segments(segments, 5.0)
    assert kept == (segments[0], segments[1], segments[3])
    assert [one.segment for one in skipped] == [segments[2]]


@pytest.mark.parametrize(
    ("spans", "overlaps"),
    [
        ([], 0),
        ([(0, 1), (1, 1)], 0),  # half-open: one begins where the other ends
        ([(0, 5), (1, 1), (3, 1)], 2),  # the third is inside the first, not the second
        ([(1, 1), (1, 1)], 1),
    ],
)
def test_segments_that_begin_before_an_earlier_one_has_ended_are_counted(spans, overlaps):
    assert count_overlaps(ReferenceSegment(*span, "Ja.") for span in spans) == overlaps
