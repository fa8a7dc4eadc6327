"""Recordings through every cell with a model that reads numbered words: every word once, whatever happens meanwhile."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from helpers.fakes import Mortal, killed_after, killed_in, lives_until_done
from helpers.files import names, read_json, read_json_lines, tree
from helpers.reading_model import ReadingModel, text_of
from helpers.talks import VOICE_ACTIVITY, WINDOW, energy_detector, sentences, write_talk, write_talks

from simulsa_plugin import score
from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.errors import StorageError
from simulsa_plugin.evaluation import block_decoding as decoding
from simulsa_plugin.evaluation import long_form, result_folder
from simulsa_plugin.evaluation import run as module
from simulsa_plugin.evaluation.cells_table import cells_table
from simulsa_plugin.evaluation.comet import command as comet
from simulsa_plugin.evaluation.comet.scoring import CometScores
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.report import REPORT_FILES
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.metrics.long_form import LONG_METRICS
from simulsa_plugin.metrics.significance import Bootstrap, Statistics, bootstrap_metrics
from simulsa_plugin.sharding import Shard

__all__ = ["energy_detector"]
pytestmark = pytest.mark.usefixtures("small_blocks", "energy_detector")
MODES = pytest.mark.parametrize("mode", ["window", "vad"])
POLICIES = {"policies": ("rollback", "local_agreement", "hold_n", "retranslation"), "rollbacks": (0, 3)}


@pytest.fixture
def rows(tmp_path):
    return write_talks(tmp_path / "talks")


def run(rows, out, model=None, share=None, mode="window", **settings):
    keys = {"chunks": (320, 1000), "rollbacks": (0, 3), "longform": mode} | VOICE_ACTIVITY | settings
    return run_evaluation(model or ReadingModel(), "talks", rows, EvaluationSettings(**keys), out, share)


class MortalModel(Mortal, ReadingModel):
    pass


def streams(folder):
    """(id → sessions of its speech segments), texts joined with those that left their windows, from steps.jsonl."""
    found = {}
    for row in read_json_lines(folder / "steps.jsonl"):
        sessions = found.setdefault(row["id"], {})
        steps = sessions.setdefault(row["segment"], [])
        left = f"{steps[-1]['left'] if steps else ''} {row.get('left', '')}".strip()
        texts = {key: f"{left} {row[key].strip()}" if left else row[key].strip() for key in ("text", "committed")}
        steps.append(row | texts | {"left": left})
    return {name: list(sessions.values()) for name, sessions in found.items()}


@MODES
def test_every_cell_reads_every_word_once_and_none_before_it_was_spoken(rows, tmp_path, mode):
    cells = run(rows, tmp_path / "out", mode=mode, **POLICIES)
    assert [cell["policy"] for cell in cells[:3]] == ["offline", "rollback", "rollback"]
    assert len(cells) == 1 + 2 * (2 + 3)
    for cell in cells:
        log = read_json_lines(tmp_path / "out" / cell["folder"] / "instances.log")
        assert [line["prediction"] for line in log] == [row.reference for row in rows]
        assert [line["source"] for line in log] == [row.audio for row in rows]
        for row, line in zip(rows, log, strict=True):
            ends = [1000 * (one.offset_seconds + 0.4 * word) for one in row.segments for word in range(1, 6)]
            assert all(delay > end - 0.1 for delay, end in zip(line["delays"], ends, strict=True))
            assert line["delays"][-1] <= line["source_length"]
        assert (cell["BLEU"], cell["instances"], cell["skipped"]) == (pytest.approx(100), 12, 0)
        assert cell["counts"]["hallucinated_units"] == cell["counts"]["longer_than_window"] == 0


def test_policies_of_every_kind_read_every_word_once(rows, tmp_path):
    policies = ("confidence", "attention", "wait_k", "agreement_or_confidence", "rollback")
    options = {"policies": policies, "chunks": (320,), "wait_k": (2,), "rollback_floor": False}
    cells = run(rows, tmp_path / "out", ReadingModel(regret=True), **options)
    assert {cell["policy"] for cell in cells} == {"offline", *policies}
    for cell in cells:
        log = read_json_lines(tmp_path / "out" / cell["folder"] / "instances.log")
        said = [" ".join(word for word in line["prediction"].split() if word != "???") for line in log]
        assert said == [row.reference for row in rows], cell["folder"]


class ChineseModel(ReadingModel):
    """Writes a character for each word, and a full stop and a space after every fifth."""

    def decode(self, token_ids):
        return "".join(chr(0x4E00 + token) + "。 " * (token % 5 == 0) for token in token_ids)


@MODES
def test_characters_are_read_once_and_score_to_the_same_numbers(rows, tmp_path, mode):
    def chinese(text):
        return ChineseModel().decode([int(word.strip("w.")) for word in text.split()]).strip()

    rows = [
        dataclasses.replace(
            row,
            reference=chinese(row.reference),
            segments=tuple(dataclasses.replace(one, reference=chinese(one.reference)) for one in row.segments),
        )
        for row in rows
    ]
    out = tmp_path / "out"
    for cell in run(rows, out, ChineseModel(), mode=mode, target_language="zh"):
        log = read_json_lines(out / cell["folder"] / "instances.log")
        assert [line["prediction"].replace(" ", "") for line in log] == [row.reference.replace(" ", "") for row in rows]
        assert all(len(line["delays"]) == len(line["prediction"]) for line in log)
        assert all(line["delays"] == sorted(line["delays"]) for line in log)
        assert cell["BLEU"] == pytest.approx(100)
        found = score(
            out / cell["folder"] / "instances.log", out / "references.txt", segments=out / "segments.yaml", unit="char"
        )
        assert {name: value for name, value in found.corpus.items() if name != "NE"} == {
            name: cell[name] for name in found.corpus if name != "NE"
        }


def test_no_step_hears_more_than_the_window_and_only_vad_cuts_at_it(rows, tmp_path):
    counts = {}
    for mode in ("window", "vad"):
        model = ReadingModel(window_seconds=WINDOW)
        cells = run(rows, tmp_path / mode, model, mode=mode, window_seconds=None)
        assert {cell["counts"]["longer_than_window"] for cell in cells} == {0}  # nothing is left out
        assert max(model.read_samples) <= WINDOW * 16_000
        counts[mode] = read_json(tmp_path / mode / "scores.json")["longform"]["speech_segments"]
    # Six paragraphs; vad ends a segment after every two sentences of the one that has six.
    assert counts == {"window": 6, "vad": 8}


@MODES
def test_the_result_folder_has_whole_recordings_and_their_segments(rows, tmp_path, mode):
    cells = run(rows, tmp_path / "out", mode=mode)
    out = tmp_path / "out"
    folders = [cell["folder"] for cell in cells]
    files = [".simulsa.json", "references.txt", "scores.json", *REPORT_FILES]
    assert names(out) == sorted([*files, "segments.yaml", "speech.jsonl", *folders])
    segments = [(row.audio, one) for row in rows for one in row.segments]
    assert (out / "references.txt").read_text().splitlines() == [one.reference for _, one in segments]
    assert [json.loads(line.removeprefix("- ")) for line in (out / "segments.yaml").read_text().splitlines()] == [
        {"wav": audio, "offset": one.offset_seconds, "duration": one.duration_seconds} for audio, one in segments
    ]
    for folder in folders:
        assert names(out / folder) == ["instances.log", "instances.resegmented.jsonl", "steps.jsonl"]
        assert len(read_json_lines(out / folder / "instances.log")) == len(rows)
        aligned = read_json_lines(out / folder / "instances.resegmented.jsonl")
        assert [line["prediction"] for line in aligned] == [one.reference for _, one in segments]
    scores = read_json(out / "scores.json")
    assert scores["cells"] == cells
    assert set(LONG_METRICS) <= set(cells[0])
    found = scores["longform"]
    assert (found["recordings"], found["reference_segments"], found["without_speech"]) == (3, 12, 0)
    # 60 words of 0.4 s and 6 breaths in 6 paragraphs, with 0.3 s on each side of these, or less where vad cuts.
    assert found["speech_seconds"] == pytest.approx(60 * 0.4 + 6 * 0.13 + 6 * 0.6, abs=0.6)
    assert found["seconds"] == pytest.approx(3 * 1.0 + 6 * 0.8 + 60 * 0.4 + 6 * 0.13)
    assert set(scores["versions"]) == {"simulsa-plugin", "silero-vad"}
    assert "LongYAAL" in "\n".join(cells_table(cells))


def test_delays_and_lags_on_paper(tmp_path):
    row = write_talk(tmp_path / "talk.wav", sentences(1), lead=1.0, pause=2.0)
    cells = run([row], tmp_path / "out", chunks=(1000,), rollbacks=(0,))
    folder = tmp_path / "out" / "rollback_k1000_b0"
    (line,) = read_json_lines(folder / "instances.log")
    # Words end at 1.4, 1.8, 2.2, 2.6 and 3.0 s. The segment starts with the frame of 0.992 s, less 0.3 s; from there
    # chunks count. The longer it is, the less silence closes it: the eighth frame of silence, which ends at 3.264 s, is
    # the first with as much as 500 ms · (1 − 2.572 s / 5 s). A word is final when the next one is written, or the
    # segment is closed.
    assert line["delays"] == [2692, 2692, 2692, 3264, 3264]
    assert line["source_length"] == 5000
    (part,) = read_json_lines(folder / "instances.resegmented.jsonl")
    assert part["delays"] == [1692, 1692, 1692, 2264, 2264]
    # The fourth word closes the sum: 1692 − 0 + 1692 − 400 + 1692 − 800 + 2264 − 1200, over 4.
    assert cells[1]["LongAL"] == cells[1]["LongLAAL"] == pytest.approx(1235)
    (offline,) = read_json_lines(tmp_path / "out" / "offline" / "instances.log")
    assert offline["delays"] == [5000] * 5


@MODES
@pytest.mark.parametrize("measure_time", [False, True])
def test_the_record_of_a_recording_is_what_its_steps_say(rows, tmp_path, mode, measure_time):
    cells = run(rows, tmp_path / "out", ReadingModel(regret=True), mode=mode, measure_time=measure_time, **POLICIES)
    for cell in cells:
        folder, erased, units = tmp_path / "out" / cell["folder"], 0, 0
        for line, sessions in zip(read_json_lines(folder / "instances.log"), streams(folder).values(), strict=True):
            words = [steps[-1]["text"].split() for steps in sessions]
            assert line["prediction"].split() == [*itertools.chain(*words)]
            assert line["delays"] == [
                delay for steps, text in zip(sessions, words, strict=True) for delay in committed_delays(steps, text)
            ]
            assert line["delays"] == sorted(line["delays"])
            assert ("elapsed" in line) == measure_time
            erased += sum(map(erasure, sessions))
            units += len(line["delays"])
        assert cell["NE"] == pytest.approx(erased / units)


def committed_delays(steps, words):
    """When each word is final, by its definition."""
    for place in range(len(words)):
        closed = " ".join(words[: place + 1])
        yield next(step["audio_ms"] for step in steps if step["finished"] or step["committed"].startswith(f"{closed} "))


def erasure(steps):
    """Words taken back from step to step."""
    total, before = 0, []
    for step in steps:
        words = step["text"].split()
        same = next((n for n, pair in enumerate(zip(before, words, strict=False)) if pair[0] != pair[1]), len(words))
        total, before = total + max(0, len(before) - same), words
    return total


@MODES
def test_one_by_one_gives_the_tokens_of_a_batch(rows, tmp_path, mode):
    run(rows, tmp_path / "batch", ReadingModel(regret=True), mode=mode, **POLICIES)
    run(rows, tmp_path / "timed", ReadingModel(regret=True), mode=mode, measure_time=True, **POLICIES)
    for path in sorted(tmp_path.glob("batch/*/steps.jsonl")):
        timed = read_json_lines(tmp_path / "timed" / path.parent.name / "steps.jsonl")
        assert [{key: value for key, value in row.items() if key != "compute_ms"} for row in timed] == (
            read_json_lines(path)
        )


@MODES
def test_killed_after_every_block_it_ends_with_the_same_bytes(rows, tmp_path, mode):
    run(rows, tmp_path / "whole", mode=mode)
    for block in range(3):  # two segments each, so that talks are cut by them
        with killed_after(decoding, "_put_in_place", lambda job, temporary, number, at=block: number == at):
            run(rows, tmp_path / "out", mode=mode)
        assert (tmp_path / "out" / "decoding" / f"{block:05d}").exists()
    run(rows, tmp_path / "out", mode=mode)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_killed_at_any_step_and_while_it_writes_it_ends_with_the_same_bytes(rows, tmp_path):
    run(rows, tmp_path / "whole")
    lives = lives_until_done(MortalModel, range(5, 200, 15), lambda model: run(rows, tmp_path / "killed", model))
    assert lives > 20  # it did die
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    places = [(module, "write_segments"), (long_form, "write_omnisteval_log"), (result_folder, "write_json")]
    for place, name in places:
        with killed_in(place, name):
            run(rows, tmp_path / name)
        run(rows, tmp_path / name)
        assert tree(tmp_path / name) == tree(tmp_path / "whole")


@MODES
def test_processes_that_share_it_end_with_the_same_bytes(rows, tmp_path, mode):
    run(rows, tmp_path / "whole", mode=mode)
    for number in (2, 3, 1):
        cells = run(rows, tmp_path / "shared", share=Shard(number, 3), mode=mode)
        assert bool(cells) == (number == 1)
    assert tree(tmp_path / "shared") == tree(tmp_path / "whole")


def test_a_finished_folder_is_only_read_without_looking_for_speech(rows, tmp_path, monkeypatch):
    cells = run(rows, tmp_path / "out")
    before, model = tree(tmp_path / "out"), ReadingModel()
    monkeypatch.setattr("simulsa_plugin.evaluation.recordings.SpeechDetector", None)
    assert run(rows, tmp_path / "out", model) == cells
    assert (model.batches, tree(tmp_path / "out")) == ([], before)
    for change in ({"window_seconds": 6.0}, {"mode": "vad"}, {"vad_pad_ms": 200}):
        with pytest.raises(StorageError, match="other settings: simulsa_"):
            run(rows, tmp_path / "out", **change)


def test_damage_to_any_file_of_a_result_is_named_or_mended(rows, tmp_path):
    run(rows, tmp_path / "whole", chunks=(1000,), rollbacks=(0,))
    whole = tree(tmp_path / "whole")
    for name in whole:
        if name == "scores.json":
            continue
        shutil.copytree(tmp_path / "whole", tmp_path / "out")
        data = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(data[: len(data) // 2])
        if name in (*REPORT_FILES, ".simulsa.json"):
            run(rows, tmp_path / "out", chunks=(1000,), rollbacks=(0,))
            assert tree(tmp_path / "out") == whole, name
        else:
            with pytest.raises(StorageError) as caught:
                run(rows, tmp_path / "out", chunks=(1000,), rollbacks=(0,))
            assert str(tmp_path / "out" / name) in str(caught.value)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("measure_time", [False, True])
def test_the_logs_score_to_the_same_numbers(rows, tmp_path, measure_time):
    cells = run(rows, tmp_path / "out", ReadingModel(regret=True), measure_time=measure_time)
    out = tmp_path / "out"
    for cell in cells:
        whole = score(out / cell["folder"] / "instances.log", out / "references.txt", segments=out / "segments.yaml")
        assert whole.corpus == {name: cell[name] for name in whole.corpus} | {"NE": whole.corpus["NE"]}
        assert set(whole.corpus) == set(LONG_METRICS)
        assert whole.counts["unclaimed_units"] == cell["counts"]["unclaimed_units"]
        parts = score(out / cell["folder"] / "instances.resegmented.jsonl")
        for name in ("BLEU", "chrF"):
            assert parts.corpus[name] == cell[name]
        for name in ("LAAL", "AL", "DAL"):
            assert parts.corpus[name] == cell[f"Long{name}"]


def test_results_are_compared(rows, tmp_path, capsys):
    run(rows, tmp_path / "a", ReadingModel(regret=True))
    run(rows, tmp_path / "b", mode="vad")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--samples", "50"]) == 0
    assert "LongYAAL" in capsys.readouterr().out


def test_short_utterances_have_nothing_of_long_form(rows, tmp_path):
    run(rows[2:], tmp_path / "out", mode="none", window_seconds=None)
    scores = (tmp_path / "out" / "scores.json").read_text(encoding="utf-8")
    assert not [word for word in ("longform", "Long", "Stream", "vad", "window_s", "hallucinated") if word in scores]
    assert not {"segments.yaml", "references.txt"} & set(names(tmp_path / "out"))
    assert names(tmp_path / "out" / "offline") == ["instances.log", "steps.jsonl"]
    steps = read_json_lines(tmp_path / "out" / "offline" / "steps.jsonl")
    assert [(step["text"], "segment" in step) for step in steps] == [(text_of(range(61, 66)), False)]


def test_a_block_holds_no_more_speech_than_fits_into_memory(rows, tmp_path, monkeypatch):
    expected = run(rows, tmp_path / "expected")
    monkeypatch.setattr(decoding, "SPEECH_SECONDS_PER_BLOCK", 5.0)
    loaded, original = [], decoding.load_rows

    def load(block):
        sources = list(original(block))
        loaded.append([len(source.waveform) / 16_000 for source in sources])
        return sources

    monkeypatch.setattr(decoding, "load_rows", load)
    assert run(rows, tmp_path / "out") == expected
    assert len(loaded) > 2
    assert all(sum(seconds) <= 5.0 or len(seconds) == 1 for seconds in loaded)


def test_comet_is_of_the_realigned_segments_and_its_interval_of_their_recordings(rows, tmp_path, monkeypatch):
    run(rows, tmp_path / "out")
    asked = []

    def scores(triples, checkpoint, **options):
        asked.extend(triples)
        return CometScores(tuple(len(triple["mt"]) / 100 for triple in triples), "COMET|checkpoint:toy")

    monkeypatch.setattr(comet, "comet_scores", scores)
    assert main(["comet", str(tmp_path / "out"), "--checkpoint", "toy"]) == 0
    result = read_json(tmp_path / "out" / "scores.json")
    segments = read_json_lines(tmp_path / "out" / "offline" / "instances.resegmented.jsonl")
    assert [one["mt"] for one in asked[: len(segments)]] == [one["prediction"] for one in segments]
    lengths = np.array([len(one["prediction"]) / 100 for one in segments])
    cell = result["cells"][0]
    assert cell["COMET"] == pytest.approx(lengths.mean())
    groups = np.array([one["docid"] for one in segments])
    expected = bootstrap_metrics(Statistics({}, {"COMET": lengths}, {}, groups), len(lengths), Bootstrap())["COMET"]
    assert cell["intervals"]["COMET"] == pytest.approx(np.percentile(expected, [2.5, 97.5]), abs=1e-9)
