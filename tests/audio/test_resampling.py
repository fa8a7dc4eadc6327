"""Resampling is torchaudio's, sample for sample: LLaMA-Factory's own has nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchaudio

from simulsa_plugin.audio.resampling import resample_waveform

RATES = [6_000, 8_000, 11_025, 12_345, 22_050, 24_000, 32_000, 44_056, 44_100, 48_000, 88_200, 96_000]


def of_torchaudio(waveform, from_rate, to_rate):
    """As `llamafactory.data.mm_plugin` calls it."""
    return torchaudio.functional.resample(torch.from_numpy(waveform)[None], from_rate, to_rate).squeeze(0).numpy()


def noise(num_samples):
    return np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("num_samples", [1, 2, 7, 160, 441, 30_011])
def test_every_sample_is_torchaudios(rate, num_samples):
    waveform = noise(num_samples)
    expected = of_torchaudio(waveform, rate, 16_000)
    found = resample_waveform(waveform, rate, 16_000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("extra", "expected"), [(0, 480_000), (1, 480_001), (pow(160, -1, 441), None)])
def test_lengths_are_rounded_up_after_float32_as_torchaudio_does(extra, expected):
    # 441 samples at 44.1 kHz are 160 at 16 kHz. The last case is an integer and 1/441, which float32, whose steps are
    # 1/32 here, takes for the integer: torchaudio then leaves the last sample out.
    num_samples = 441 * 3000 + extra
    if expected is None:
        assert 160 * num_samples % 441 == 1
        expected = 160 * num_samples // 441
    waveform = np.zeros(num_samples, dtype=np.float32)
    assert len(resample_waveform(waveform, 44_100, 16_000)) == len(of_torchaudio(waveform, 44_100, 16_000)) == expected


def test_a_rate_that_shares_no_factor_with_16_khz_takes_little_memory():
    # torchaudio's dense kernel of 16 000 × 44 135 values would take 2.8 GB; a tone shows that ours is right.
    times = np.arange(44_101) / 44_101
    found = resample_waveform((0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32), 44_101, 16_000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=0.004)


def test_the_same_rate_gives_the_same_array():
    waveform = noise(1000)
    assert resample_waveform(waveform, 16_000, 16_000) is waveform


def test_torch_is_not_imported():
    code = (
        "import sys, numpy; from simulsa_plugin.audio.resampling import resample_waveform;"
        "resample_waveform(numpy.zeros(480, numpy.float32), 48_000, 16_000); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
