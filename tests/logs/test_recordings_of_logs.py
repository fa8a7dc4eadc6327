"""Whole recordings of logs with files of segments. Expected values: by hand."""

from __future__ import annotations

import json

import pytest

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.evaluation.score import ScoreOptions, score_log, score_table
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.segment_files import write_segments
from simulsa_plugin.segments import ReferenceSegment

HALVES = [ReferenceSegment(0.0, 2.0, "a b"), ReferenceSegment(2.0, 2.0, "c d")]


def row(source="talks/one.wav", **more):
    return {
        "index": 0,
        "prediction": "a b c d",
        "delays": [1000.0, 2500.0, 3500.0, 4000.0],
        "elapsed": [1100.0, 2700.0, 3800.0, 4400.0],
        "source": source,
        "source_length": 4000.0,
    } | more


@pytest.fixture
def files(tmp_path):
    def files(*recordings):
        paths = {"segments": tmp_path / "segments.yaml", "references": tmp_path / "references.txt"}
        write_segments(paths["segments"], paths["references"], recordings or [("one.wav", HALVES)])
        return paths

    return files


@pytest.mark.parametrize(
    "log",
    [
        row(),
        row(["talks/one.wav\n", "samplerate: 16000"]),
        row(reference="all of it"),
        {
            key if key not in ("delays", "elapsed") else f"emission_c{'u' if key == 'delays' else 'a'}": value
            for key, value in row().items()
        },
    ],
)
def test_a_line_of_a_whole_recording_is_divided_among_its_segments(write, files, log):
    scored = score_log(write(log), ScoreOptions(**files(), sentences=True))
    corpus, counts = scored.scores.corpus, scored.scores.counts
    assert (counts["recordings"], counts["instances"], scored.warnings) == (1, 2, ())
    # d comes at the end of the recording, so that it counts for LongLAAL alone
    assert (corpus["LongYAAL"], corpus["LongLAAL"]) == ((1250.0 + 1500.0) / 2, 1250.0)
    assert corpus["LongLAAL_CA"] == (1100.0 + 2700.0 - 1000.0 + 1800.0) / 2 / 2 + (2400.0 - 1000.0) / 4
    assert corpus["BLEU"] == 0.0 or corpus["BLEU"] > 99
    assert scored.scores.sentences["LongYAAL"] == [1250.0, 1500.0]
    assert "1 recording, 2 segments, 0 empty" in score_table(scored)[0]


def test_values_of_segments_are_in_the_order_of_the_file(write, files):
    paths = files(("one.wav", HALVES))
    lines = [path.read_text().splitlines(keepends=True)[::-1] for path in paths.values()]
    for path, text in zip(paths.values(), lines, strict=True):
        path.write_text("".join(text))
    scored = score_log(write(row()), ScoreOptions(**paths, sentences=True))
    assert scored.scores.sentences["LongYAAL"] == [1500.0, 1250.0]
    assert scored.scores.counts["unsorted_segments"] == 1
    assert "1 segments are listed after a later one" in scored.warnings[0]


def test_odd_segments_are_counted_and_warned_of_and_none_is_dropped(write, files):
    late = ReferenceSegment(9.0, 1.0, "e")
    paths = files(("one.wav", [*HALVES, ReferenceSegment(3.0, 1.0, "d"), late]))
    scored = score_log(write(row(), row("two.wav", index=1)), ScoreOptions(**paths))
    counts = scored.scores.counts
    assert (counts["overlapping_segments"], counts["beyond_end"], counts["recordings_without_segments"]) == (1, 1, 1)
    assert (counts["instances"], counts["empty"]) == (4, 1)  # nothing is said in what lies outside
    assert len(scored.warnings) == 3


@pytest.mark.parametrize(
    ("rows", "recordings", "message"),
    [
        ([row()], [("one.wav", HALVES), ("two.wav", HALVES)], "The log has no audio named two.wav"),
        ([row(), row()], [("one.wav", HALVES)], "Instance 2 has the source talks/one.wav, as an earlier one"),
        ([row("")], [("one.wav", HALVES)], "Instance 1 has no source, the name of the recording"),
        ([row(prediction="a b c")], [("one.wav", HALVES)], "4 delays and 4 elapsed times for 3 units of the unit word"),
    ],
)
def test_what_cannot_be_joined_is_one_clear_error(write, files, rows, recordings, message):
    with pytest.raises(LogError, match=message):
        score_log(write(*rows), ScoreOptions(**files(*recordings)))


def test_resegment_needs_segments(write):
    with pytest.raises(UsageError, match="--resegment soft divides recordings among their segments: give --segments"):
        Log(write(row()), ReadOptions(resegment="soft"))


@pytest.mark.parametrize("lines", [1, 3])
def test_references_a_line_short_or_long_are_one_line(write, files, capsys, lines):
    paths = files()
    paths["references"].write_text("a b\n" * lines)
    words = [f"--{name}={path}" for name, path in paths.items()]
    assert main(["score", str(write(row())), *words]) == 1
    assert f"There are {lines} references for 2 segments; expected one for each" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["soft", "mwer"])
def test_the_json_has_the_names_of_the_aligner(write, files, tmp_path, method):
    pytest.importorskip("mweralign")
    words = [f"--{name}={path}" for name, path in files().items()]
    out = tmp_path / "x.json"
    assert main(["score", str(write(row())), *words, "--resegment", method, "--intervals", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["corpus"]["StreamLAAL"] == 1250.0
    assert ("LongYAAL" in found["corpus"], "StreamYAAL" in found["corpus"]) == (method == "soft", method == "mwer")
    assert set(found["intervals"]) == set(found["corpus"]) == set(found["counts"]["skipped"])
    assert found["signatures"]["intervals"] == "draws:segments|recordings:1"
