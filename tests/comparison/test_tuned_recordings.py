"""Systems that were tuned on recordings. Expected values: those of the dev and test results on disk."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.fakes import HastyModel, noise_samples

from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.evaluation import recordings
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import run_evaluation
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS
from simulsa_plugin.segments import ReferenceSegment
from simulsa_plugin.settings import read_recipe
from simulsa_plugin.tuning.frontier_file import frontier_table
from simulsa_plugin.tuning.halving import Goal
from simulsa_plugin.tuning.search import search_frontier
from simulsa_plugin.tuning.tuned_recipe import searched_settings, write_tuned

KEYS = {
    "simulsa_policies": "rollback",
    "simulsa_chunks": "300",
    "simulsa_rollbacks": "0,3,6",
    "simulsa_longform": "vad",
}
GOAL = Goal((600.0, 5000.0), "LongYAAL")


class AlwaysSpeech:
    """A detector for noise, which Silero does not take for speech."""

    def reset(self):
        pass

    def probabilities(self, waveform):
        return np.ones(-(-len(waveform) // 512), dtype=np.float32)


def talks(folder, count, **more):
    samples = noise_samples(folder, [4.0 + number / 2 for number in range(count)], **more)
    return [dataclasses.replace(sample, segments=(ReferenceSegment(0.0, 4.0, sample.reference),)) for sample in samples]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A system tuned on three recordings, and its finalists decoded on four others."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "SpeechDetector", AlwaysSpeech)
        settings = searched_settings(KEYS)
        result = search_frontier(HastyModel(3), "dev", talks(folder / "dev", 3), settings, GOAL, folder / "tuned")
        write_tuned({"simulsa_longform": "vad"}, settings, result, folder / "tuned")
        keys = EvaluationSettings.from_keys(read_recipe(folder / "tuned" / "finalists.yaml"))
        run_evaluation(HastyModel(3), "test", talks(folder / "test", 4, seed=50), keys, folder / "results")
    return folder, result


def test_the_dev_logs_have_their_segments_and_are_scored_with_them(place, capsys):
    folder, result = place
    dev, (point, *_) = folder / "tuned" / "dev", result["points"]
    files = ["--segments", str(dev / SEGMENTS), "--references", str(dev / REFERENCES)]
    scores = folder / "s.json"
    assert main(["score", str(dev / point["cell"] / "instances.log"), *files, "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["corpus"]["LongYAAL"] == point["LongYAAL"]
    assert {f"dev/{SEGMENTS}", f"dev/{REFERENCES}"} <= result["checksums"].keys()
    assert "on all 3 reference segments (95 % of resamples of the recordings and" in frontier_table(result)[0]


def test_regimes_of_recordings_are_the_best_on_dev_below_each_bound(place, capsys):
    folder, result = place
    words = ["--tuned", str(folder / "tuned"), "--regimes", "600,5000", "--samples", "50", "--trials", "10"]
    assert main(["compare", str(folder / "results"), *words, "--json", str(folder / "c.json")]) == 0
    rows = json.loads((folder / "c.json").read_text())["regimes"]["rows"]
    cells = {cell["folder"]: cell for cell in json.loads((folder / "results" / "scores.json").read_text())["cells"]}
    best = {one["budget"]: one["cell"] for one in result["budgets"]}
    chosen = [row for row in rows if row["cell"]]
    assert chosen
    for row in chosen:
        assert row["BLEU"]["test"] == pytest.approx(cells[best[row["bound"]]]["BLEU"])
        assert row["LongYAAL"]["test"] == pytest.approx(cells[best[row["bound"]]]["LongYAAL"])
