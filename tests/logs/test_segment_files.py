"""Files of reference segments. Expected values: by hand."""

from __future__ import annotations

import json

import pytest

from simulsa_plugin.errors import LogError
from simulsa_plugin.logs.omnisteval import write_omnisteval_log
from simulsa_plugin.logs.reader import Log
from simulsa_plugin.logs.segment_files import AudioSegment, read_segments, write_segments
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.resegmentation import resegment
from simulsa_plugin.segments import ReferenceSegment

HALVES = [ReferenceSegment(0.0, 2.0, "a b"), ReferenceSegment(2.0, 1.25, "c d")]


def test_what_is_written_is_read_back_in_the_order_of_time(tmp_path):
    files = tmp_path / "segments.yaml", tmp_path / "references.txt"
    assert write_segments(*files, [("x/ü: 1.wav", HALVES[::-1]), ("2.wav", HALVES[:1])]) == 3
    assert read_segments(*files) == [
        *(AudioSegment("x/ü: 1.wav", segment) for segment in HALVES),
        AudioSegment("2.wav", HALVES[0]),
    ]


def test_a_reference_is_one_line_and_must_be_there(tmp_path):
    files = tmp_path / "segments.yaml", tmp_path / "references.txt"
    write_segments(*files, [("1.wav", [ReferenceSegment(0.0, 1.0, " a\nb\u2028c ")])])
    assert files[1].read_text(encoding="utf-8") == "a b c\n"
    with pytest.raises(LogError, match=r"1\.wav: the segment at 0 s has no reference"):
        write_segments(*files, [("1.wav", [ReferenceSegment(0.0, 1.0, None)])])


@pytest.mark.parametrize("lines", [1, 3])
def test_references_a_line_short_or_long_are_refused(tmp_path, lines):
    files = tmp_path / "segments.yaml", tmp_path / "references.txt"
    write_segments(*files, [("1.wav", HALVES)])
    files[1].write_text("a\n" * lines)
    with pytest.raises(LogError, match=f"There are {lines} references for 2 segments; expected one for each"):
        read_segments(*files)


def test_segments_written_for_omnisteval_are_read_back_with_their_recordings(tmp_path):
    talks = [
        EmissionRecord(0, "a b c d", None, (1.0, 2.5, 2600.0, 4000.0), source=name) for name in ("1.wav", "2 3.wav")
    ]
    parts = [part for talk in talks for part in resegment(talk, HALVES, "word")]
    write_omnisteval_log(tmp_path / "x.jsonl", parts)
    assert list(Log(tmp_path / "x.jsonl").records()) == parts
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [(row["docid"], row["segid"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
