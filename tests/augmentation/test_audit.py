"""The audit: how far batched scores are from scores one by one, against errors planted on paper."""

import json
import math
from dataclasses import replace
from typing import ClassVar

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset, write_noise
from helpers.files import tree

from simulsa_plugin.augmentation.audit import audit, audit_line
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import walk
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.commands import augment as command
from simulsa_plugin.demo.corpus import write_demo_corpus
from simulsa_plugin.errors import ModelError

SETTINGS = AugmentSettings(samples=8, batch_size=4)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    # 40 bytes each, all different; 3 s and more, so that 5 bytes at least are sure.
    folder = tmp_path_factory.mktemp("offline")
    rows = [(f"{row:02d}" * 20, write_noise(folder / f"{row}.wav", 3.0 + row / 10, seed=row)) for row in range(10)]
    return ListDataset("toy", rows)


class Planted(ByteModel):
    """ByteModel whose scores of row 3 and of row 5 are off in company, by as much as is planted; alone they are right.

    ByteModel's own dependence on the company is below 1e-5.
    """

    errors: ClassVar = {3: (2, -0.25), 5: (0, -1.0)}  # row → (token, error)

    def score(self, rendered, waveforms):
        scores = super().score(rendered, waveforms)
        return scores if len(rendered) == 1 else [self._bend(one, s) for one, s in zip(rendered, scores, strict=True)]

    def _bend(self, rendered, score):
        token, error = self.errors.get(int(bytes(rendered.content_ids[:2])), (0, 0.0))
        logprobs = list(score.logprobs)
        logprobs[token] += error
        return replace(score, logprobs=tuple(logprobs))


def test_without_errors_the_difference_is_the_models_own(toy, tmp_path):
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path)
    found = audit(toy, ByteModel(), SETTINGS, tmp_path, 8)
    # 1e-9 for each token of the others in the batch: 40 of a reference and 25 for each second, of three others.
    assert 3 * 1e-9 * 40 < found["largest_difference"] < 3 * 1e-9 * (40 + 5 * 25)
    assert (found["samples"], found["tokens"], found["decisions_changed"]) == (8, 8 * 40, [])


def test_the_largest_difference_is_found_where_it_was_planted(toy, tmp_path):
    settings = replace(SETTINGS, samples=10)
    model = Planted()
    augment_dataset(toy, model, settings, tmp_path)
    found = audit(toy, model, settings, tmp_path, 10)
    assert found["largest_difference"] == pytest.approx(1.0, abs=1e-5)
    assert (found["id"], found["token"]) == ("toy-00000005-0", 0)
    # τ = 100 / 256 = 0.39. Row 5: 0.9 / e = 0.33 is refused in company. Row 3: 0.9 · e^−0.25 = 0.70 is not.
    assert found["decisions_changed"] == ["toy-00000005-0"]
    assert json.loads((tmp_path / "toy_simulsa" / "audit.json").read_text(encoding="utf-8")) == found
    assert audit_line(found) == (
        "audit: 10 samples, 400 tokens scored one by one: largest difference of a log-probability 1 "
        "(toy-00000005-0, token 0), NOT within 0.0001; 1 decided otherwise"
    )


@pytest.mark.parametrize(("dtype", "verdict"), [("bfloat16", "within 0.25"), ("float16", "NOT within 0.0625")])
def test_half_precision_has_a_tolerance_of_its_own(toy, tmp_path, dtype, verdict):
    class Half(Planted):
        errors: ClassVar = {3: (2, -0.2)}

        def describe(self):
            return {**super().describe(), "dtype": dtype}

    settings = replace(SETTINGS, samples=10)
    augment_dataset(toy, Half(), settings, tmp_path)
    found = audit(toy, Half(), settings, tmp_path, 10)
    assert found["dtype"] == dtype
    assert f"a log-probability 0.2 (toy-00000003-0, token 2), {verdict} ({dtype}); 0 decided" in audit_line(found)


def test_the_first_samples_are_scored_one_by_one_and_no_others(toy, tmp_path):
    order = list(walk("toy", 10, 42))
    first = order.index(3) + 1
    settings = replace(SETTINGS, samples=10)
    augment_dataset(toy, Planted(), settings, tmp_path)
    model = Planted()
    found = audit(toy, model, settings, tmp_path, first)
    assert model.batches == [1] * first
    expected = 1.0 if 5 in order[:first] else 0.25
    assert found["largest_difference"] == pytest.approx(expected, abs=1e-5)
    assert found["samples"] == first


def test_scores_of_the_whole_and_of_the_earlier_are_looked_at_too(toy, tmp_path):
    class Late(Planted):
        errors: ClassVar = {3: (2, -0.25)}

        def score(self, rendered, waveforms):
            self.calls = getattr(self, "calls", 0) + 1
            bent = super().score(rendered, waveforms)
            return bent if self.calls % 2 == 0 else ByteModel.score(self, rendered, waveforms)  # the second is p(full)

    settings = replace(SETTINGS, samples=10, acceptance="ratio")
    model = Late()
    augment_dataset(toy, model, settings, tmp_path)
    found = audit(toy, ByteModel(), settings, tmp_path, 10)
    assert (found["id"], found["token"]) == ("toy-00000003-0", 2)
    assert found["largest_difference"] == pytest.approx(0.25, abs=1e-5)


def test_more_than_there_are_is_all_of_them_and_makes_no_clip(toy, tmp_path):
    augment_dataset(toy, ByteModel(), SETTINGS, tmp_path)
    before = tree(tmp_path)
    assert audit(toy, ByteModel(), SETTINGS, tmp_path, 1000)["samples"] == 8
    assert tree(tmp_path).keys() - before.keys() == {"toy_simulsa/audit.json"}


def test_nothing_but_audit_json_changes(tmp_path):
    dataset = make_dataset(tmp_path / "offline", 12)
    augment_dataset(dataset, ByteModel(), SETTINGS, tmp_path / "out")
    before = tree(tmp_path / "out")
    model = ByteModel()
    augment_dataset(dataset, model, SETTINGS, tmp_path / "out")
    assert model.batches == []
    for _ in range(2):
        audit(dataset, model, SETTINGS, tmp_path / "out", 3)
        after = tree(tmp_path / "out")
        assert after.pop("toy_simulsa/audit.json")
        assert after == before
    assert model.batches == [1] * 6


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_model_that_gives_no_numbers_is_one_line_that_names_the_row(toy, tmp_path, value):
    class Overflowing(ByteModel):
        def score(self, rendered, waveforms):
            scores = super().score(rendered, waveforms)
            return [replace(one, logprobs=(*one.logprobs[:-1], value)) for one in scores]

    with pytest.raises(ModelError, match=r"^The model gives NaN or infinity for toy-\d{8}-0\. Its weights are broken"):
        augment_dataset(toy, Overflowing(), SETTINGS, tmp_path)
    assert (tmp_path / "toy_simulsa" / "scores.partial.jsonl").read_bytes() == b""


def test_the_packaged_checkpoint_is_within_the_tolerance(tmp_path, capsys):
    write_demo_corpus(tmp_path / "spoken", rows=12, test_rows=0, processes=1)
    words = ["dataset=demo", f"dataset_dir={tmp_path / 'spoken'}", "simulsa_ratio=1"]
    words += ["simulsa_extra_scores=full,lookback", "--out", str(tmp_path / "out")]
    assert command.main(words) == 0
    before = tree(tmp_path / "out")
    capsys.readouterr()
    assert command.main([*words, "--audit", "12"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    after = tree(tmp_path / "out")
    del after["demo_simulsa/audit.json"]
    assert after == before
    found = json.loads((tmp_path / "out" / "demo_simulsa" / "audit.json").read_text(encoding="utf-8"))
    assert 0 < found["largest_difference"] <= found["tolerance"] == 1e-4
    assert (found["samples"], found["decisions_changed"]) == (12, [])
    assert line.strip() == audit_line(found)
    assert "within 0.0001 (float32); 0 decided otherwise" in line
