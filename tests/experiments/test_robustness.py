"""Tables of robustness: differences from the clean test set, and what was written before anybody spoke."""

import json
import shutil

import pytest
from helpers.fakes import TEXT, ClockModel, noise_samples

from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.experiments.robustness import main
from simulsa_plugin.segments import ReferenceSegment

SETTINGS = EvaluationSettings(chunks=(500,), rollbacks=(0,))


class Truth:
    """All is certain at the end."""

    def parts(self, row, reference, source_ms):
        return [(ReferenceSegment(0.0, source_ms / 1000, reference), [(float("inf"), reference)])]

    def segments(self, row):
        return ()


def decode(folder, out, text=TEXT, lead=0.0, settings=SETTINGS):
    rows = noise_samples(folder / str(lead), [seconds + lead for seconds in (2.0, 2.2, 2.4)], TEXT)
    run_evaluation(ClockModel(text), "toy", rows, settings, out, None, Truth())


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """One arm that waits for nobody, and one that says something else in the noise."""
    folder = tmp_path_factory.mktemp("arms")
    for arm in ("one", "two"):
        decode(folder, folder / arm / "clean")
        decode(folder, folder / arm / "lead500", lead=0.5)
        decode(folder, folder / arm / "noise10", text=TEXT if arm == "one" else "guten Tag alle Welt")
    return folder


def run(arms, *names):
    assert main([*(str(arms / name) for name in names), "--json", str(arms / "summary.json")]) == 0
    return json.loads((arms / "summary.json").read_text())


def row(rows, condition, mode):
    (found,) = [one for one in rows if (one["condition"], one["mode"]) == (condition, mode)]
    return found


def test_differences_are_from_the_clean_test_set_and_from_the_first_arm(arms, capsys):
    summary = run(arms, "one", "two")
    rows = summary["arms"][str(arms / "two")]
    clean, noisy = row(rows, "clean", "offline"), row(rows, "noise10", "offline")
    assert clean["BLEU_difference"] == 0
    assert clean["BLEU_interval"] == [0, 0]
    # every utterance is alike, so that resampling them changes nothing
    assert noisy["BLEU_difference"] == pytest.approx(noisy["BLEU"] - 100)
    assert noisy["BLEU_interval"] == pytest.approx([noisy["BLEU"] - 100] * 2)
    assert noisy["BLEU"] < 100
    (between,) = summary["differences"].values()
    assert row(between, "noise10", "offline")["BLEU_difference"] == pytest.approx(noisy["BLEU"] - 100)
    assert row(between, "lead500", "streaming")["BLEU_difference"] == 0
    assert "1000 ms" not in capsys.readouterr().out  # what was not measured is not listed


def test_text_that_was_committed_in_silence_is_counted(arms, capsys):
    rows = run(arms, "one")["arms"][str(arms / "one")]
    # the model says a byte for each 100 ms of audio, whatever is heard: five at 500 ms
    assert row(rows, "lead500", "streaming")["early"] == 3
    assert row(rows, "clean", "streaming")["early"] == 0
    assert row(rows, "lead500", "offline")["early"] == 0
    assert "3/3" in capsys.readouterr().out


def test_latency_and_its_distance_from_the_limit_stand_beside(arms):
    rows = run(arms, "one")["arms"][str(arms / "one")]
    streaming = row(rows, "clean", "streaming")
    cell = next(
        cell
        for cell in json.loads((arms / "one/clean/scores.json").read_text())["cells"]
        if cell["policy"] == "rollback"
    )
    assert streaming["LAAL"] == cell["LAAL"]
    assert streaming["LAAL_above_limit"] == cell["LAAL_above_limit"] < 0
    assert row(rows, "clean", "offline")["LAAL_above_limit"] is None


def test_a_result_of_many_cells_names_the_key_that_chooses_one(arms, tmp_path, capsys):
    decode(tmp_path, tmp_path / "arm/clean", settings=EvaluationSettings(chunks=(500, 1000), rollbacks=(0,)))
    assert main([str(tmp_path / "arm")]) == 2
    assert "expected offline and one more. Choose one: simulsa_cells=" in capsys.readouterr().err


def test_other_utterances_and_a_missing_clean_result_are_refused(arms, tmp_path, capsys):
    shutil.copytree(arms / "one", tmp_path / "arm")
    shutil.rmtree(tmp_path / "arm/clean")
    assert main([str(tmp_path / "arm")]) == 2
    assert "no result clean. Create it: simulsa-eval" in capsys.readouterr().err
    rows = noise_samples(tmp_path, [1.0], TEXT)
    run_evaluation(ClockModel(TEXT), "toy", rows, SETTINGS, tmp_path / "arm/clean")
    assert main([str(tmp_path / "arm")]) == 1
    assert "a comparison needs the same utterances" in capsys.readouterr().err
