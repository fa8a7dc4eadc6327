"""Batches: so many clips that they fit, padded to the longest; the expected ones are made on paper."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.fakes import ByteModel, make_dataset
from helpers.files import tree

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import Cut
from simulsa_plugin.augmentation.method.speculation import make_batches
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.errors import StorageError
from simulsa_plugin.model.values import Prompt, Sample
from simulsa_plugin.run_configuration import read_sealed_configuration, write_configuration

SAMPLE = Sample(0, Prompt(()), "x", "a.wav")


def cut_of(name, tokens, seconds=1.0, num_samples=16_000):
    return Cut(name, SAMPLE, Path("clips"), seconds, num_samples, 0, 0, tokens - 5, 5, "")


def batched(tokens, **settings):
    cuts = [cut_of(f"{number:02d}", count) for number, count in enumerate(tokens)]
    return [[int(cut.id) for cut in batch] for batch in make_batches(cuts, AugmentSettings(**settings))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # longest first: 100, 60, 50, 50, 10, 10, 10, 10
        ({"batch_size": 3, "batch_tokens": 120}, [[2], [0, 1], [3, 4], [5, 6, 7]]),  # 1 · 100, 2 · 60, 2 · 50, 3 · 10
        ({"batch_size": 3, "batch_tokens": None}, [[2, 0, 1], [3, 4, 5], [6, 7]]),
        ({"batch_size": 8, "batch_tokens": 200}, [[2, 0], [1, 3, 4, 5], [6, 7]]),
        ({"batch_size": 8, "batch_tokens": 9}, [[2], [0], [1], [3], [4], [5], [6], [7]]),  # one always fits
    ],
)
def test_batches_hold_what_fits_padded_to_the_longest(settings, expected):
    assert batched([60, 50, 100, 50, 10, 10, 10, 10], **settings) == expected


def test_batches_do_not_depend_on_the_order_of_the_list():
    cuts = [cut_of(f"{number:02d}", 20 + 7 * number % 50) for number in range(40)]
    settings = AugmentSettings(batch_tokens=200)
    assert make_batches(cuts[::-1], settings) == make_batches(cuts, settings)


def test_where_the_whole_source_is_scored_its_length_counts():
    # 20 tokens with 1 s of 41 s: 40 s · 25 tokens more
    cuts = [cut_of("a", 20, seconds=41.0), cut_of("b", 25), cut_of("c", 25)]
    settings = AugmentSettings(batch_tokens=1100, extra_scores=("full",))
    assert [[cut.id for cut in batch] for batch in make_batches(cuts, settings)] == [["a"], ["b", "c"]]
    assert len(make_batches(cuts, replace(settings, extra_scores=()))) == 1


def test_a_run_of_an_earlier_version_goes_on_with_its_batches_alone(tmp_path):
    toy, out = make_dataset(tmp_path / "offline", count=12), tmp_path / "out"
    before = AugmentSettings(ratio=1.0, batch_size=5, batch_tokens=None, max_seconds=2.0, portable=True)
    augment_dataset(toy, ByteModel(), before, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        augment_dataset(toy, Interrupted(), before, out)
    started = out / "toy_simulsa" / "started.json"
    recorded = read_sealed_configuration(started)
    del recorded["settings"]["simulsa_batch_tokens"]
    write_configuration(started, recorded)
    said = r"simulsa_batch_tokens was not set, now 4096\. .* add simulsa_batch_size=5 simulsa_batch_tokens=null\."
    with pytest.raises(StorageError, match=said):
        augment_dataset(toy, ByteModel(), replace(before, batch_tokens=4096), out)
    augment_dataset(toy, ByteModel(), before, out)
    assert tree(out / "toy_simulsa") == tree(tmp_path / "whole" / "toy_simulsa")


class Interrupted(ByteModel):
    """Stops at its second batch."""

    def score(self, rendered, waveforms):
        if self.batches:
            raise KeyboardInterrupt
        return super().score(rendered, waveforms)
