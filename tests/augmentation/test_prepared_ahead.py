"""The next batch is prepared on another thread while the model computes; rows are those of a model that does not."""

import math
import threading

import pytest
from helpers.fakes import ByteModel, make_dataset
from helpers.files import tree

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.errors import ModelError

SETTINGS = AugmentSettings(samples=12, batch_size=3, portable=True, extra_scores=("full", "lookback"))
BATCHES, PASSES = 4, 3


class PreparingBytes(ByteModel):
    """Computes a batch only when the next one is prepared."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.prepared, self.computed, self.fails_at = [], 0, fails_at
        self.changed = threading.Condition()

    def prepare(self, rendered, waveforms):
        with self.changed:
            self.prepared.append(threading.get_ident())
            self.changed.notify_all()
        if len(self.prepared) == self.fails_at:
            raise ModelError("features do not fit into memory")
        return rendered, waveforms

    def score_prepared(self, inputs):
        wanted = min(min(self.computed // PASSES + 2, BATCHES) * PASSES, self.fails_at or math.inf)
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.prepared) >= wanted, timeout=30)
        self.computed += 1
        return self.score(*inputs)


@pytest.fixture
def toy(tmp_path):
    return make_dataset(tmp_path / "offline", count=12)


def test_a_batch_is_prepared_while_the_one_before_is_computed(toy, tmp_path):
    model = PreparingBytes()
    augment_dataset(toy, model, SETTINGS, tmp_path / "ahead")
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path / "plain")
    assert tree(tmp_path / "ahead") == tree(tmp_path / "plain")
    assert len(model.prepared) == BATCHES * PASSES
    assert set(model.prepared) - {threading.get_ident()} == set(model.prepared)


def test_what_fails_while_a_batch_is_prepared_stops_the_run_after_those_before_it(toy, tmp_path):
    with pytest.raises(ModelError, match="features do not fit into memory"):
        augment_dataset(toy, PreparingBytes(fails_at=2 * PASSES + 1), SETTINGS, tmp_path / "out")
    journal = tmp_path / "out" / "toy_simulsa" / "scores.partial.jsonl"
    assert len(journal.read_text(encoding="utf-8").splitlines()) == 2 * SETTINGS.batch_size
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path / "out")
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path / "plain")
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
