"""The tools themselves score what we write to our numbers, and what they write is read to theirs.

Each is fetched with pip (`pytest -m 'not other_tools'` leaves these tests out), see helpers/other_tools.py.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers.fakes import ClockModel, noise_samples
from helpers.long_form import long_clock_means, write_long_cell
from helpers.other_tools import (
    omnisteval_longform_scores,
    omnisteval_scores,
    run_tool,
    simuleval_scores,
    simuleval_text_to_text,
    simulstream_scores,
    unpack,
)

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.evaluation.score import ScoreOptions, score_log
from simulsa_plugin.logs.convert import HYPOTHESIS
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS

pytestmark = [pytest.mark.other_tools, pytest.mark.filterwarnings("ignore")]  # the aligner's binding warns of its own
REFERENCE = "guten Tag liebe Welt"


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    unpacked: dict = {}

    def tool(name):
        if name not in unpacked:
            unpacked[name] = unpack(name, tmp_path_factory.mktemp(name))
        return unpacked[name]

    return tool


@pytest.fixture(scope="module", params=["word", "char"])
def result(request, tmp_path_factory):
    """A measured result of a model that changes its mind, and the cell with most of it."""
    folder = tmp_path_factory.mktemp("result")
    samples = noise_samples(folder, [2.0, 1.7, 0.9, 1.2])
    rows = [replace(sample, reference=REFERENCE[: 4 + 5 * sample.row]) for sample in samples]
    settings = EvaluationSettings(chunks=(300,), rollbacks=(3,), measure_time=True, unit=request.param)
    cells = run_evaluation(ClockModel(regret=True), "toy", rows, settings, folder / "out")
    return request.param, cells[1], folder / "out" / "rollback_k300_b3"


def convert(source, form, out, *words):
    assert main(["convert", str(source), "--to", form, "--out", str(out), *words]) == 0
    return out


def test_simuleval_scores_our_log_to_our_numbers(tools, result, tmp_path):
    unit, cell, folder = result
    theirs = simuleval_scores(tools("simuleval"), folder / "instances.log", tmp_path / "work", unit)
    for name, value in theirs.items():
        assert value == pytest.approx(cell[name], abs=6e-4), name


def test_a_text_log_of_simuleval_is_scored_in_tokens_and_without_computation(tools, tmp_path):
    sources = ["we go home now", "yes", "a b c d e f g"]
    theirs = simuleval_text_to_text(tools("simuleval"), tmp_path / "work", sources, ["we go home", "yes", "a b c d x"])
    scores = score_log(tmp_path / "work" / "instances.log", ScoreOptions()).scores
    for name, value in theirs.items():
        assert scores.corpus[name] == pytest.approx(value, abs=6e-4), name
    assert "time:source-tokens" in scores.signatures["latency"]
    assert {value for name, value in scores.corpus.items() if "_CA" in name} == {None}


def test_omnisteval_scores_a_log_of_1_0_to_our_numbers_with_its_end_marks(tools, tmp_path):
    rows = [
        {
            "index": 0,
            "prediction": "a b c </s>",
            "delays": [500.0, 900.0, 1800.0, 2000.0],
            "source_length": 2000.0,
            "elapsed": [600.0, 1000.0, 2000.0, 2300.0],
            "reference": "a b c d",
            "reference_length": 4,
            "metric": {},
        },
        {
            "index": 1,
            "prediction": "e f g h i </s>",
            "delays": [500.0, 1000.0, 1500.0, 1500.0, 1500.0, 1500.0],
            "elapsed": [510.0, 1020.0, 1600.0, 1600.0, 1600.0, 1601.0],
            "source_length": 1500.0,
            "reference": "e f g h",
            "reference_length": 4,
            "metric": {},
        },
    ]
    (tmp_path / "old.log").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "refs.txt").write_text("".join(row["reference"] + "\n" for row in rows))
    theirs = omnisteval_scores(
        tools("omnisteval"),
        tmp_path / "work",
        "shortform",
        "--ref_sentences_file",
        str(tmp_path / "refs.txt"),
        "--hypothesis_file",
        str(tmp_path / "old.log"),
        "--bleu_tokenizer",
        "13a",
        "--word_level",
    )
    ours = score_log(tmp_path / "old.log", ScoreOptions(keep_end_marks=True)).scores.corpus
    for name in ("BLEU", "chrF", "YAAL (CU)", "AL (CU)", "LAAL (CU)", "AP (CU)", "DAL (CU)", "LAAL (CA)"):
        mine = ours[name.replace(" (CU)", "").replace(" (CA)", "_CA")]
        assert theirs[name] == pytest.approx(mine, abs=6e-5), name


@pytest.mark.parametrize("name", ["first_stable", "last_written"])
def test_simuleval_scores_the_other_delays_to_our_numbers(tools, result, tmp_path, name):
    unit, cell, folder = result
    log = convert(folder, "simuleval", tmp_path / "x.log", "--delays", name, "--unit", unit)
    theirs = simuleval_scores(tools("simuleval"), log, tmp_path / "work", unit)
    for metric in ("AL", "LAAL", "DAL", "ATD"):
        assert theirs[metric] == pytest.approx(cell["delays"][name][metric], abs=6e-4), metric


def test_omnisteval_scores_our_log_to_our_numbers(tools, result, tmp_path):
    unit, cell, folder = result
    log = convert(folder, "omnisteval", tmp_path / "x.jsonl", "--unit", unit)
    references = "".join(json.loads(line)["reference"] + "\n" for line in log.read_text().splitlines())
    (tmp_path / "refs.txt").write_text(references, encoding="utf-8")
    level = ["--char_level", "--bleu_tokenizer", "zh"] if unit == "char" else ["--word_level"]
    theirs = omnisteval_scores(
        tools("omnisteval"),
        tmp_path / "work",
        "shortform",
        "--hypothesis_file",
        str(log),
        "--ref_sentences_file",
        str(tmp_path / "refs.txt"),
        *level,
    )
    assert theirs.pop("Likely Degenerate Simultaneous Policy") == ("YES" if cell["degenerate"] else "NO")
    names = {
        "BLEU": "BLEU",
        "chrF": "chrF",
        "Simultaneous Words Fraction (%)": "SWF",
        "Expected Simul. Words Fraction (%)": "EFSW",
    }
    names |= {
        f"{name} ({clock})": name + suffix
        for name in ("YAAL", "AL", "LAAL", "AP", "DAL")
        for clock, suffix in (("CU", ""), ("CA", "_CA"))
    }
    assert set(names) <= set(theirs)
    for name, ours in names.items():
        assert theirs[name] == pytest.approx(cell[ours], abs=6e-5), name


def test_simulstream_scores_what_was_on_the_screen_to_our_numbers(tools, result, tmp_path):
    unit, cell, folder = result
    for name in ("committed", "first_stable", "last_written"):
        out = convert(folder, "simulstream", tmp_path / name, "--delays", name, "--unit", unit)
        theirs = simulstream_scores(tools("simulstream"), out, unit)
        assert theirs["LAAL"] * 1000 == pytest.approx(cell["delays"][name]["LAAL"], rel=1e-9), name
        assert theirs["RTF"] == pytest.approx(cell["real_time_factor"], rel=1e-9)
        if name == "committed":
            assert theirs["LAAL_CA"] * 1000 == pytest.approx(cell["clocks"]["per_step"]["LAAL"], rel=1e-9)
        if name == "first_stable":
            assert theirs["NE"] == pytest.approx(cell["NE"], rel=1e-9)


def test_simulstreams_alignment_of_a_long_recording_is_ours(tools, tmp_path):
    pytest.importorskip("mweralign")
    texts = ["good morning everyone", "today we begin early", "with a short story"]
    spoken = ["good", "morning all", "today we", "start early with", "a short", "story now"]
    rows = [{"id": 1, "metadata": {"wav_name": "talk.wav"}}]
    rows += [
        {
            "id": 1,
            "total_audio_processed": 1.5 * (i + 1),
            "computation_time": 0.25,
            "deleted_tokens": [],
            "generated_tokens": words.split(),
        }
        for i, words in enumerate(spoken)
    ]
    (tmp_path / "simulstream.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "references.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "segments.yaml").write_text(
        "".join(f"- {{wav: talk.wav, offset: {3 * i}, duration: 2.5}}\n" for i in range(3))
    )
    (tmp_path / "simulstream.yaml").write_text("detokenizer_type: simuleval\nlatency_unit: word\n")
    theirs = simulstream_scores(tools("simulstream"), tmp_path)
    options = ScoreOptions(references=tmp_path / "references.txt", segments=tmp_path / "segments.yaml")
    ours = score_log(tmp_path / "simulstream.jsonl", options).scores.corpus
    assert ours["StreamLAAL"] == pytest.approx(theirs["LAAL"] * 1000, rel=1e-9)
    assert ours["StreamLAAL_CA"] == pytest.approx(theirs["LAAL_CA"] * 1000, rel=1e-9)


def test_omnisteval_scores_the_segments_of_a_simulstream_log_to_our_numbers(tools, tmp_path):
    """Units come late: after their segments, and after the last segment of the recording.

    OmniSTEval reads the same recording in SimulEval's form.
    """
    spoken = ["good", "morning all today", "we start early with", "a short", "story now"]
    heard = [2.1, 4.2, 6.3, 8.4, 10.5]
    rows = [{"model_loading_time": 5.9}, {"id": 7, "metadata": {"wav_name": "wav/talk.wav"}}]
    rows += [
        {
            "id": 7,
            "total_audio_processed": end,
            "computation_time": 0.25,
            "deleted_tokens": [],
            "generated_tokens": words.split(),
        }
        for end, words in zip(heard, spoken, strict=True)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ends = [round(1000 * end) for end, words in zip(heard, spoken, strict=True) for _ in words.split()]
    (tmp_path / "hyp.jsonl").write_text(
        json.dumps(
            {
                "source": "talk.wav",
                "prediction": " ".join(spoken),
                "delays": ends,
                "elapsed": [end + 250 for end in ends],
                "source_length": 10500.0,
            }
        )
        + "\n"
    )
    (tmp_path / "refs.txt").write_text("good morning all\ntoday we start early\nwith a short story now\n")
    (tmp_path / "segments.yaml").write_text(
        "".join(f"- {{wav: talk.wav, offset: {3.1 * i}, duration: 2.7}}\n" for i in range(3))
    )
    theirs = omnisteval_longform_scores(tools("omnisteval"), tmp_path)
    options = ScoreOptions(references=tmp_path / "refs.txt", segments=tmp_path / "segments.yaml")
    ours = score_log(tmp_path / "log.jsonl", options).scores
    for clock, suffix in (("CU", ""), ("CA", "_CA")):
        for name in ("LongYAAL", "LongAL", "LongLAAL", "LongDAL"):
            assert ours.corpus[name + suffix] == pytest.approx(theirs[f"{name} ({clock})"], abs=6e-5), name
    assert ours.corpus["BLEU"] == pytest.approx(theirs["BLEU"], abs=6e-5)


def test_what_omnisteval_resegments_is_read_to_its_numbers(tools, tmp_path):
    words = "good morning all today we start early with a short story now".split()
    (tmp_path / "hyp.jsonl").write_text(
        json.dumps(
            {
                "source": "talk.wav",
                "prediction": " ".join(words),
                "delays": [800.0 * (i + 1) for i in range(len(words))],
                "elapsed": [800.0 * (i + 1) + 100.0 * i for i in range(len(words))],
                "source_length": 9000.0,
            }
        )
        + "\n"
    )
    (tmp_path / "refs.txt").write_text("good morning everyone\ntoday we begin early\nwith a short story\n")
    (tmp_path / "segments.yaml").write_text(
        "".join(f"- {{wav: talk.wav, offset: {3.0 * i}, duration: 2.5}}\n" for i in range(3))
    )
    theirs = omnisteval_longform_scores(tools("omnisteval"), tmp_path)
    ours = score_log(tmp_path / "work" / "instances.resegmented.jsonl", ScoreOptions()).scores.corpus
    for name, metric in (
        ("LongYAAL (CU)", "LongYAAL"),
        ("LongYAAL (CA)", "LongYAAL_CA"),
        ("BLEU", "BLEU"),
        ("chrF", "chrF"),
    ):
        assert ours[metric] == pytest.approx(theirs[name], abs=6e-5), name


@pytest.fixture(params=["word", "char"])
def talks(request, tmp_path):
    """A cell of talks, two of one name, each with two sessions that change their mind; scores on both tools' clocks."""
    unit, folder = request.param, tmp_path / "result" / "rollback_k500_b1"
    return unit, folder, *write_long_cell(folder, unit)


def test_omnisteval_scores_a_cell_of_talks_to_our_numbers(tools, talks, tmp_path):
    unit, folder, ours, _ = talks
    out = convert(folder, "omnisteval", tmp_path / "omnisteval", "--unit", unit)
    level = ["--char_level", "--bleu_tokenizer", "zh"] if unit == "char" else ["--word_level"]
    files = {"speech_segmentation": SEGMENTS, "hypothesis_file": HYPOTHESIS, "ref_sentences_file": REFERENCES}
    words = [word for name, file in files.items() for word in (f"--{name}", str(out / file))]
    theirs = omnisteval_scores(tools("omnisteval"), tmp_path / "work", "longform", *words, *level)
    for name in ("BLEU", "chrF"):
        assert theirs[name] == pytest.approx(ours[name], abs=6e-5), name
    for clock, suffix in (("CU", ""), ("CA", "_CA")):
        for name in ("LongYAAL", "LongAL", "LongLAAL", "LongDAL"):
            assert theirs[f"{name} ({clock})"] == pytest.approx(ours[name + suffix], abs=6e-5), name
    read = ScoreOptions(references=out / REFERENCES, segments=out / SEGMENTS, unit=unit)
    assert score_log(out / HYPOTHESIS, read).scores.corpus | {"NE": None} == ours | {"NE": None}


def test_simulstream_scores_a_cell_of_talks_to_our_numbers(tools, talks, tmp_path):
    pytest.importorskip("mweralign")
    unit, folder, ours, per_step = talks
    out = convert(folder, "simulstream", tmp_path / "committed", "--unit", unit)
    theirs = simulstream_scores(tools("simulstream"), out, unit)
    assert theirs["LAAL"] * 1000 == pytest.approx(ours["StreamLAAL"], rel=1e-9)
    assert theirs["LAAL_CA"] * 1000 == pytest.approx(per_step["StreamLAAL_CA"], rel=1e-9)
    means = long_clock_means(folder, unit)
    assert means["clocks"]["per_step"]["StreamLAAL"] == pytest.approx(theirs["LAAL_CA"] * 1000, rel=1e-9)
    for kind in ("first_stable", "last_written"):
        out = convert(folder, "simulstream", tmp_path / kind, "--delays", kind, "--unit", unit)
        theirs = simulstream_scores(tools("simulstream"), out, unit)
        assert theirs["LAAL"] * 1000 == pytest.approx(means["delays"][kind]["StreamLAAL"], rel=1e-9), kind
        assert theirs["RTF"] == pytest.approx(means["real_time_factor"], rel=1e-9)
    out = convert(folder, "simulstream", tmp_path / "shown", "--delays", "first_stable", "--unit", unit)
    assert simulstream_scores(tools("simulstream"), out, unit)["NE"] == pytest.approx(ours["NE"], rel=1e-9)


def test_a_tool_that_fails_says_why(tools):
    with pytest.raises(AssertionError, match="required"):
        run_tool(tools("omnisteval"), "omnisteval.cli", "shortform")
