"""Settings chosen on recordings: whatever stops the search, it ends with the same bytes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers.fakes import Mortal, killed_in, lives_until_done
from helpers.files import names, read_json, read_json_lines, tree
from helpers.reading_model import ReadingModel
from helpers.talks import VOICE_ACTIVITY, energy_detector, sentences, write_talk

from simulsa_plugin import score
from simulsa_plugin.audio.samples import write_wav
from simulsa_plugin.evaluation import block_decoding as decoding
from simulsa_plugin.evaluation import recordings as found_in
from simulsa_plugin.model.values import UnusableRow
from simulsa_plugin.tuning import frontier_file
from simulsa_plugin.tuning.halving import Goal
from simulsa_plugin.tuning.search import search_frontier
from simulsa_plugin.tuning.tuned_recipe import searched_settings

__all__ = ["energy_detector"]
pytestmark = pytest.mark.usefixtures("energy_detector")


class MortalModel(Mortal, ReadingModel):
    pass


@pytest.fixture
def rows(tmp_path):
    """Twelve talks of one and two paragraphs, and one that cannot be used."""
    folder = tmp_path / "talks"
    folder.mkdir()
    plans = [[sentences(1 + row, 6 + row)] + [sentences(21)] * (row % 2) for row in range(12)]
    return [
        *(write_talk(folder / f"{row}.wav", *plan, row=row) for row, plan in enumerate(plans)),
        UnusableRow(12, "no_audio"),
    ]


@pytest.fixture
def tune(rows, monkeypatch):
    monkeypatch.setattr(decoding, "UTTERANCES_PER_BLOCK", 4)
    keys = {f"simulsa_{key}": value for key, value in VOICE_ACTIVITY.items()}
    keys |= {"simulsa_policies": "rollback", "simulsa_chunks": "320,640", "simulsa_rollbacks": "0,1,2"}

    def search(out, model=None, mode="window"):
        settings = searched_settings(keys | {"simulsa_longform": mode})
        goal = Goal((1500.0, 9000.0), "LongLAAL")
        return search_frontier(model or ReadingModel(regret=True), "dev", rows, settings, goal, out)

    return search


@pytest.mark.parametrize("mode", ["window", "vad"])
def test_the_cells_of_a_search_have_logs_that_score_to_their_values(tune, rows, tmp_path, mode):
    result = tune(tmp_path / "out", mode=mode)
    assert result["skipped"] == [{"id": "dev-00000012", "reason": "no_audio"}]
    assert result["utterances"] == 30  # reference segments, of 12 talks with two sentences and six with a third
    assert result["budgets"][1]["cell"] is not None
    for cell in [row for row in result["cells"] if row["utterances"] == 30]:
        folder = tmp_path / "out" / "dev" / cell["cell"]
        assert names(folder) == ["instances.log", "instances.resegmented.jsonl"]
        assert len(read_json_lines(folder / "instances.log")) == 12
        parts = score(folder / "instances.resegmented.jsonl")
        assert (parts.corpus["BLEU"], parts.corpus["LAAL"]) == (cell["BLEU"], cell["LongLAAL"])
    qualities = {row["cell"]: row["BLEU"] for row in result["cells"]}
    assert qualities["rollback_k320_b1"] == pytest.approx(100)  # the word that is guessed is taken back
    assert qualities["rollback_k320_b0"] < 100


def test_a_search_that_dies_again_and_again_ends_with_the_same_bytes(tune, tmp_path):
    whole = tune(tmp_path / "whole")
    out = tmp_path / "out"
    lives = lives_until_done(MortalModel, itertools.count(15, 15), lambda model: tune(out, model), regret=True)
    assert lives > 30  # it did die
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    with killed_in(frontier_file, "write_omnisteval_log"):
        tune(tmp_path / "late")
    assert tune(tmp_path / "late") == whole
    assert tree(tmp_path / "late") == tree(tmp_path / "whole")


def test_a_dev_set_without_speech_has_no_cell_within_a_budget(tune, rows, tmp_path):
    for row in rows[:12]:
        write_wav(Path(row.audio), np.zeros(160_000, dtype=np.int16))
    result = tune(tmp_path / "out")
    assert [one["cell"] for one in result["budgets"]] == [None, None]
    assert {(row["BLEU"], row["LongLAAL"]) for row in result["cells"]} == {(0.0, None)}


def test_a_finished_search_is_only_read(tune, tmp_path, monkeypatch):
    result = tune(tmp_path / "out")
    before, model = tree(tmp_path / "out"), ReadingModel()
    monkeypatch.setattr(found_in, "SpeechDetector", None)
    assert tune(tmp_path / "out", model) == result
    assert (model.batches, tree(tmp_path / "out")) == ([], before)
    assert read_json(tmp_path / "out" / "frontier.json")["versions"].keys() == {"simulsa-plugin", "silero-vad"}
