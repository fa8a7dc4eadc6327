"""Utterances that a training's cutoff_len would cut: bytes and 40 ms of audio are tokens, so lengths are on paper."""

import pytest
from helpers.fakes import ByteModel, ListDataset, write_noise

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.cutoff import cutoff_line
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.pipeline import augment_dataset


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    rows = [("x" * 20, write_noise(folder / f"{second}.wav", float(second), seed=second)) for second in (6, 2, 10, 4)]
    dataset = ListDataset("toy", rows)
    augment_dataset(dataset, ByteModel(), AugmentSettings(ratio=2.0, cuts=2), folder / "out")
    return dataset, Layout((folder / "out").absolute(), "toy")


@pytest.mark.parametrize(
    ("cutoff_len", "longer"),
    [
        (270, 1),
        (171, 1),
        (170, 2),
        (121, 2),
        (120, 3),
        (70, 4),
    ],
)
def test_utterances_longer_than_cutoff_len_are_counted(finished, cutoff_len, longer):
    # 10, 6, 4, 2 s are 250, 150, 100, 50 tokens; 20 of the answer, 1 of its end: 271, 171, 121, 71.
    dataset, layout = finished
    assert cutoff_line(dataset, ByteModel(), layout, cutoff_len).startswith(
        f"cutoff_len: {cutoff_len} is less than {longer} of the 4 utterances of toy that were cut need in training "
        "(up to 271 tokens)"
    )


def test_nothing_is_said_where_the_longest_fits(finished):
    dataset, layout = finished
    assert cutoff_line(dataset, ByteModel(), layout, 271) is None


def test_a_shorter_audio_with_a_longer_answer_is_found(tmp_path):
    rows = [
        ("x" * 10, write_noise(tmp_path / "0.wav", 10.0, seed=0)),
        ("x" * 300, write_noise(tmp_path / "1.wav", 6.0, seed=1)),
        ("x" * 10, write_noise(tmp_path / "2.wav", 2.0, seed=2)),
    ]
    dataset = ListDataset("toy", rows)
    augment_dataset(dataset, ByteModel(), AugmentSettings(ratio=2.0, cuts=2), tmp_path / "out")
    layout = Layout((tmp_path / "out").absolute(), "toy")
    # 261, 451 and 61 tokens
    line = cutoff_line(dataset, ByteModel(), layout, 300)
    assert "less than 1 of the 3" in line and "(up to 451 tokens)" in line
