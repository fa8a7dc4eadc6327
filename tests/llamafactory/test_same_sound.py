"""No filter tells a clip from its offline row: both sound alike to LLaMA-Factory, whatever the row's sample rate."""

import numpy as np
import pytest
import soundfile
from helpers.fakes import ByteModel, ListDataset
from llamafactory.data.mm_plugin import get_mm_plugin
from scipy.stats import mannwhitneyu

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset

ROWS = 24
TAIL = 800  # 50 ms


def write_recording(path, rate, channels, seed):
    """Pink noise in syllables, 2–4 s, at a level and with a spectral slope of its own, as recordings differ."""
    rng = np.random.default_rng(seed)
    num_samples = int(rate * rng.uniform(2, 4))
    hertz = np.fft.rfftfreq(num_samples, 1 / rate)[:, None]
    shaped = np.fft.rfft(rng.standard_normal((num_samples, channels)), axis=0)
    shaped /= np.maximum(hertz, rng.uniform(150, 400)) ** rng.uniform(0.6, 1.0)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(3, 5) * np.arange(num_samples) / rate)
    samples = np.fft.irfft(shaped, num_samples, axis=0) * syllables[:, None]
    soundfile.write(path, rng.uniform(0.05, 0.5) * samples / np.abs(samples).max(), rate, subtype="PCM_16")
    return str(path)


def heard(path):
    """What LLaMA-Factory gives to the processor."""
    plugin = get_mm_plugin("qwen2_audio", audio_token="<|AUDIO|>")
    return plugin._regularize_audios([path], sampling_rate=16_000)["audios"][0]


def top_band(waveform):
    """Energy from 7.7 kHz on, in dB of the whole: what low-pass filters differ in."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / 16_000)
    return 10 * np.log10(spectrum[hertz >= 7_700].sum() / spectrum.sum())


def auc(first, second):
    """How often a number of the one is above one of the other; 0.5 tells nothing."""
    return mannwhitneyu(first, second).statistic / (len(first) * len(second))


# Not 8 kHz: such a source has nothing near 8 kHz; there a clip has the noise of its 16 bits, a row of floats has not.
@pytest.fixture(scope="module", params=[(48_000, 1), (44_100, 2), (22_050, 1)], ids=str)
def pairs(request, tmp_path_factory):
    """[(clip, its offline row)], both as training hears them."""
    folder, (rate, channels) = tmp_path_factory.mktemp("rates"), request.param
    files = [write_recording(folder / f"{row}.wav", rate, channels, row) for row in range(ROWS)]
    dataset = ListDataset("toy", [("das haus ist alt", file) for file in files])
    augment_dataset(dataset, ByteModel(), AugmentSettings(samples=ROWS), folder / "out")
    clips = sorted((folder / "out" / "toy_simulsa" / "clips").iterdir())
    assert len(clips) == ROWS
    return [(heard(str(clip)), heard(file)) for clip, file in zip(clips, files, strict=True)]


def test_a_clip_is_the_beginning_of_its_row_rounded_to_16_bits(pairs):
    for clip, row in pairs:
        assert np.abs(clip - row[: len(clip)]).max() < 0.5 / 32768 + 1e-6


def test_the_energy_near_8_khz_tells_no_clip_from_a_row(pairs):
    clips = [top_band(clip) for clip, _ in pairs]
    rows = [top_band(row[: len(clip)]) for clip, row in pairs]
    assert auc(clips, rows) == pytest.approx(0.5, abs=0.03)


def test_the_last_50_ms_of_a_clip_sound_as_they_do_in_the_row(pairs):
    clips = [top_band(clip[-TAIL:]) for clip, _ in pairs]
    rows = [top_band(row[len(clip) - TAIL : len(clip)]) for clip, row in pairs]
    assert auc(clips, rows) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (44_100, 2), (8_000, 3), (16_000, 2)])
def test_evaluations_hear_what_training_hears(tmp_path, rate, channels):
    file = write_recording(tmp_path / "a.wav", rate, channels, 5)
    np.testing.assert_allclose(read_mono(file), heard(file), rtol=0, atol=1e-6)
