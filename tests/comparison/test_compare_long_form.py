"""Comparisons of long recordings. Expected values: by hand; a result folder as `simulsa-eval run` writes it."""

from __future__ import annotations

import json

import pytest

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.comparison.compare import CompareOptions, compare_with_baseline, load_result
from simulsa_plugin.comparison.comparison_tables import comparison_tables
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.result_cells import SCORES, folder_name
from simulsa_plugin.logs.omnisteval import RESEGMENTED, write_omnisteval_log
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, write_segments
from simulsa_plugin.logs.simuleval import INSTANCES_LOG, write_simuleval_log
from simulsa_plugin.metrics.instance import Measure
from simulsa_plugin.metrics.long_form import LongFormScorer
from simulsa_plugin.metrics.records import EmissionRecord
from simulsa_plugin.metrics.significance import Bootstrap
from simulsa_plugin.segments import ReferenceSegment

WORDS = "we saw the old house by the sea and then it was gone for good".split()
TALKS = {
    f"talks/{name}.wav": [
        ReferenceSegment(3.0 * part, 3.0, " ".join(WORDS[5 * part : 5 * part + 5])) for part in range(3)
    ]
    for name in "abcd"
}
QUICK = CompareOptions(bootstrap=Bootstrap(samples=100, trials=100), usual_latency=True)


def talk(index, name, delay, wrong=0):
    words = [word if place >= wrong else "so" for place, word in enumerate(WORDS)]
    delays = tuple(min(9000.0, 600.0 * (place + 1) + delay) for place in range(len(words)))
    return EmissionRecord(index, " ".join(words), None, delays, None, 9000.0, name, erased=1)


@pytest.fixture
def result(tmp_path):
    def result(name, wrong, talks=TALKS):
        """A folder of cells at chunks of 500, 1000, … ms; every talk's first words are wrong in one."""
        out, cells = tmp_path / name, []
        for chunk in (500, 1000, 1500):
            folder = out / folder_name("rollback", chunk, 0)
            folder.mkdir(parents=True)
            scorer = LongFormScorer(Measure())
            records = [talk(index, one, chunk, max(0, wrong - chunk // 500)) for index, one in enumerate(talks)]
            aligned = [part for one in records for part in scorer.add(one, talks[one.source])]
            write_simuleval_log(folder / INSTANCES_LOG, records)
            write_omnisteval_log(folder / RESEGMENTED, aligned)
            steps = [
                {"id": one.source, "audio_ms": 1.0, "text": text, "committed": "", "finished": False}
                for one in records
                for text in ("oh", one.prediction)
            ]
            (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
            found = scorer.scores()
            key = {"policy": "rollback", "chunk_ms": chunk, "rollback": 0, "folder": folder.name}
            cells.append(key | found.corpus | {"instances": found.counts["instances"], "counts": found.counts})
        write_segments(out / SEGMENTS, out / REFERENCES, talks.items())
        (out / SCORES).write_text(json.dumps({"cells": cells, "longform": {}, "signatures": found.signatures}))
        return out

    return result


def compared(*folders, options=QUICK):
    return compare_with_baseline([load_result(folder, options) for folder in folders], options)


def test_folders_of_recordings_are_compared_at_equal_longyaal(result):
    comparison = compared(result("one", 4), result("two", 6))
    (pair,) = comparison["comparisons"]
    assert "paired over recordings, then over the segments within them" in comparison["bootstrap"]["method"]
    assert pair["equal_latency"][0]["latency"] == "LongYAAL"
    assert pair["equal_latency"][0]["interval"] is not None
    first = pair["cells"][0]["metrics"]
    assert first["BLEU"]["difference"] < 0 and first["BLEU"]["interval"][1] < 0
    assert (first["BLEU"]["utterances"], first["BLEU"]["differing"]) == (12, 4)  # the first segment of each talk
    assert first["LongYAAL"]["interval"] == [0.0, 0.0]
    assert (first["NE"]["baseline"], first["NE"]["interval"]) == (1 / 15, [0.0, 0.0])
    table = "\n".join(comparison_tables(comparison))
    assert "resamples of the recordings and segments within them" in table and "LongYAAL ms" in table


def test_streamlaal_has_an_interval_where_its_aligner_is_installed(result):
    pytest.importorskip("mweralign")
    (pair,) = compared(result("one", 4), result("two", 4))["comparisons"]
    assert pair["cells"][0]["metrics"]["StreamLAAL"]["interval"] == [0.0, 0.0]


def test_a_single_recording_is_resampled_by_its_segments(result):
    only = {name: segments for name, segments in TALKS.items() if name.endswith("a.wav")}
    (pair,) = compared(result("one", 4, only), result("two", 6, only))["comparisons"]
    metrics = pair["cells"][0]["metrics"]
    assert metrics["BLEU"]["interval"] is not None and metrics["NE"]["interval"] is None


def test_long_and_short_form_are_not_compared(result, tmp_path):
    short = tmp_path / "short"
    short.mkdir()
    cell = {"policy": "rollback", "chunk_ms": 500, "rollback": 0, "BLEU": 1.0, "LAAL": 2.0}
    (short / SCORES).write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(UsageError, match=r"of long recordings, aligned by SoftSegmenter, .* of utterances. Compare"):
        compared(result("one", 4), short)


def test_a_latency_of_utterances_is_not_one_of_recordings(result, capsys):
    folders = [str(result("one", 4)), str(result("two", 4))]
    assert main(["compare", *folders, "--latency", "StreamAL"]) == 2
    assert "--latency is StreamAL, which scores of long recordings" in capsys.readouterr().err


def test_logs_of_recordings_are_compared_with_their_segments(result, tmp_path, capsys):
    folder = result("one", 4)
    logs = [str(folder / name / INSTANCES_LOG) for name in ("rollback_k500_b0", "rollback_k1000_b0")]
    words = ["--segments", str(folder / SEGMENTS), "--references", str(folder / REFERENCES), "--samples", "50"]
    assert main(["compare", *logs, *words, "--json", str(tmp_path / "x.json")]) == 0
    (pair,) = json.loads((tmp_path / "x.json").read_text())["comparisons"]
    assert 400 < pair["cells"][0]["metrics"]["LongLAAL"]["difference"] <= 500
    assert pair["cells"][0]["metrics"]["LongLAAL"]["interval"] is not None
