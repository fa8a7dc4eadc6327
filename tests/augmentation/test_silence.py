"""Silence around clips: how long, how loud, from the id alone, and never instead of what is heard."""

import io
import json
import math

import numpy as np
import pytest
from helpers.fakes import ByteModel, ListDataset, write_noise
from scipy import stats

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import SAMPLE_RATE, from_pcm16, to_pcm16, write_wav
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.selection import generator
from simulsa_plugin.augmentation.method.silence import draw_silence, noise_floor, surround
from simulsa_plugin.augmentation.pipeline import augment_dataset


class Listening(ByteModel):
    """Keeps the waveforms it is asked about, one list for each batch."""

    def score(self, rendered, waveforms):
        self.heard = [*getattr(self, "heard", []), [waveform.copy() for waveform in waveforms]]
        return super().score(rendered, waveforms)


def run(dataset, out, model=None, **settings):
    augment_dataset(dataset, model or ByteModel(), AugmentSettings(**{"samples": 30, "batch_size": 4} | settings), out)
    rows = (out / "toy_simulsa" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, rows)}


def parts(row):
    """Samples of silence, source, silence in the clip of a row, and the clip."""
    lead, trail = (round(seconds * SAMPLE_RATE) for seconds in row["silence_seconds"])
    return lead, round(row["cut_seconds"] * SAMPLE_RATE), trail, read_mono(row["clip"])


def test_both_ends_are_uniform_from_0_to_the_limit_and_apart():
    # The seeds are fixed: no run is unlucky. Kolmogorov-Smirnov against U[0, 8000 samples].
    drawn = np.array([draw_silence(500.0, 10**9, generator(42, "toy", row, 0, "silence")) for row in range(3000)])
    assert drawn.min() >= 0
    assert drawn.max() <= 8000
    for end in drawn.T:
        assert stats.kstest(end, stats.uniform(0, 8000).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(*drawn.T).statistic) < 0.05  # 1 / √3000 = 0.018


@pytest.mark.parametrize("silence_ms", [1.0, 37.5, 300.0, 2000.0])
def test_each_end_is_within_the_limit_and_the_clip_is_their_sum(toy, tmp_path, silence_ms):
    rows = run(toy, tmp_path, silence_ms=silence_ms)
    for row in rows.values():
        lead, heard, trail, clip = parts(row)
        assert 0 <= lead <= math.ceil(silence_ms * 16)
        assert 0 <= trail <= math.ceil(silence_ms * 16)
        assert len(clip) == lead + heard + trail
    assert len({tuple(row["silence_seconds"]) for row in rows.values()}) > 10


def test_the_id_alone_decides(toy, tmp_path):
    one = run(toy, tmp_path / "one", silence_ms=300.0, cuts=2, samples=10)
    other = run(toy, tmp_path / "deep" / "other", silence_ms=300.0, cuts=3, samples=40, batch_size=7)
    shared = one.keys() & other.keys()
    assert len(shared) > 5
    for identifier in shared:
        assert one[identifier]["silence_seconds"] == other[identifier]["silence_seconds"]
        assert (read_mono(one[identifier]["clip"]) == read_mono(other[identifier]["clip"])).all()
    assert len({tuple(row["silence_seconds"]) for row in other.values()}) == 40


def test_what_is_heard_of_the_source_is_what_it_was_without(toy, tmp_path):
    without, with_silence = run(toy, tmp_path / "a"), run(toy, tmp_path / "b", silence_ms=400.0)
    assert list(without) == list(with_silence)
    for identifier, row in with_silence.items():
        lead, heard, _, clip = parts(row)
        assert row["cut_seconds"] == without[identifier]["cut_seconds"]
        assert row["duration_seconds"] == without[identifier]["duration_seconds"]
        assert (clip[lead : lead + heard] == read_mono(row["audio"])[:heard]).all()  # the source is PCM16 itself


def test_without_silence_a_clip_is_the_beginning_of_its_source_byte_by_byte(toy, tmp_path):
    for identifier, row in run(toy, tmp_path).items():
        expected = io.BytesIO()
        write_wav(expected, to_pcm16(read_mono(row["audio"])[: round(row["cut_seconds"] * 16_000)]))
        clip = tmp_path / "toy_simulsa" / "clips" / f"{identifier}.wav"
        assert clip.read_bytes() == expected.getvalue()
        assert row["silence_seconds"] == [0.0, 0.0]


def source(path, quiet):
    """3 s of a loud square wave that is `quiet` for the second second: (num_samples,) of ±quiet."""
    waveform = np.full(48_000, 0.5, np.float32)
    waveform[16_000:32_000] = quiet
    waveform[1::2] *= -1
    with path.open("wb") as handle:
        write_wav(handle, to_pcm16(waveform))
    return str(path)


def test_silence_is_noise_at_the_floor_of_its_source(tmp_path):
    # ± 0.01 has an RMS of 0.01 in every frame.
    dataset = ListDataset("toy", [("a b c", source(tmp_path / "a.wav", 0.01))])
    (row,) = run(dataset, tmp_path / "out", silence_ms=2000.0, samples=1).values()
    lead, heard, trail, clip = parts(row)
    noise = np.concatenate([clip[:lead], clip[lead + heard :]])
    assert lead > 1000
    assert trail > 1000
    # The RMS of n normal values is off by 1 / √(2n): 1 % here. Three of these.
    assert np.sqrt((noise.astype(float) ** 2).mean()) == pytest.approx(0.01, rel=3 / math.sqrt(2 * len(noise)))
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 4 / math.sqrt(len(noise))  # white
    assert stats.kstest(noise / 0.01, "norm").pvalue > 0.001


def test_digital_silence_stays_digital_silence(tmp_path):
    dataset = ListDataset("toy", [("a b c", source(tmp_path / "a.wav", 0.0))])
    (row,) = run(dataset, tmp_path / "out", silence_ms=2000.0, samples=1).values()
    lead, heard, trail, clip = parts(row)
    assert lead + trail > 2000
    assert not clip[:lead].any()
    assert not clip[lead + heard :].any()


def test_the_floor_is_of_the_quietest_20_ms():
    waveform = np.full(3200, 0.5, np.float32)
    waveform[640:960] = 0.25  # one frame of 320 samples
    assert noise_floor(waveform) == 0.25
    assert noise_floor(waveform[:100]) == 0.0  # no whole frame: nothing is known
    assert noise_floor(np.concatenate([waveform[:640], np.zeros(100, np.float32)])) == 0.5  # a torn frame is none


def test_surround_changes_nothing_of_the_clip():
    clip = np.linspace(-1, 1, 500, dtype=np.float32)
    around = surround(clip, 30, 20, 0.1, np.random.default_rng(0))
    assert (around[30:530] == clip).all()
    assert (len(around), clip[0], clip[-1]) == (550, -1, 1)
    assert around[:30].std() > 0.01 < around[530:].std()


def test_never_past_the_window(tmp_path):
    rows = [("a b c", write_noise(tmp_path / f"{row}.wav", 9.0, seed=row)) for row in range(30)]
    found = run(ListDataset("toy", rows), tmp_path / "out", ByteModel(window_seconds=3.0), silence_ms=2000.0)
    lengths = []
    for row in found.values():
        lead, heard, trail, clip = parts(row)
        lengths.append(len(clip))
        assert (lead + heard + trail, heard <= 48_000) == (len(clip), True)
    assert max(lengths) == 48_000  # some would be longer: the window stopped them, to the sample
    assert min(lengths) < 48_000


def test_all_that_the_model_hears_keeps_the_silences(toy, tmp_path):
    model = Listening()
    rows = run(toy, tmp_path, model, silence_ms=300.0, extra_scores=("full", "lookback"), batch_size=1, samples=8)
    by_clip = {read_mono(row["clip"]).tobytes(): row for row in rows.values()}
    assert len(model.heard) == 3 * 8
    for start in range(0, 24, 3):
        (clip,), (whole,), (earlier,) = model.heard[start : start + 3]
        row = by_clip[clip.tobytes()]  # what is scored is what is on the disk
        lead, heard, trail, written = parts(row)
        before, after = written[:lead], written[lead + heard :]
        original = read_mono(row["audio"])
        assert (whole == np.concatenate([before, original, after])).all()
        # 200 ms are 3200 samples, and 200 ms at least are left.
        assert (earlier == np.concatenate([before, original[: max(heard - 3200, 3200)], after])).all()
        assert len(after) == trail
        assert row["lookback_ms"] == 200.0


def test_the_whole_source_goes_before_silence_where_the_window_is_narrow(tmp_path):
    rows = [("a b c", write_noise(tmp_path / f"{row}.wav", 2.9, seed=row)) for row in range(20)]
    model = Listening(window_seconds=3.0)
    found = run(ListDataset("toy", rows), tmp_path / "out", model, silence_ms=500.0, acceptance="ratio", batch_size=1)
    by_clip = {read_mono(row["clip"]).tobytes(): row for row in found.values()}
    lengths = set()
    for (clip,), (whole,) in zip(model.heard[::2], model.heard[1::2], strict=True):
        row = by_clip[clip.tobytes()]
        lead, _, trail, written = parts(row)
        before = min(lead, 1600)  # 0.1 s of the window are left beside the source
        after = min(trail, 1600 - before)
        original = read_mono(row["audio"])
        expected = [written[:before], original, written[len(written) - trail :][:after]]
        assert (whole == np.concatenate(expected)).all()
        lengths.add(len(whole))
    assert max(lengths) == 48_000


def test_a_clip_is_written_as_it_is_heard_when_the_source_is_no_pcm16(tmp_path):
    import soundfile

    rng = np.random.default_rng(0)
    path = tmp_path / "float.wav"
    soundfile.write(path, rng.normal(0, 0.1, 40_000).astype(np.float32), 16_000, subtype="FLOAT")
    model = Listening()
    (row,) = run(ListDataset("toy", [("a b", str(path))]), tmp_path / "out", model, silence_ms=100.0).values()
    lead, heard, _, clip = parts(row)
    assert (clip[lead : lead + heard] == from_pcm16(to_pcm16(read_mono(path)[:heard]))).all()
    assert (model.heard[0][0] == clip).all()
