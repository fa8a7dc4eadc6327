"""LLaMA-Factory's audio: left alone where it can be read, read without FFmpeg where it cannot."""

import errno
import io
import pickle
import types

import numpy as np
import pytest
import soundfile
import torch

from simulsa_plugin.audio import decoding
from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.llamafactory.patches import audio_loading as audio_reader

RAMP = np.arange(-8000, 8000, dtype=np.int16)
WAVEFORM = torch.zeros(1, 9)


class WorkingTorchaudio:
    """As torchaudio with its libraries: (waveform (channels, num_samples), sample rate)."""

    functional = "the real one"

    @staticmethod
    def load(source):
        samples, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), sample_rate


class BrokenTorchaudio:
    """As torchaudio 2.11 without torchcodec or without FFmpeg."""

    functional = "the real one"

    @staticmethod
    def load(source):
        raise ImportError("TorchCodec is required for load_with_torchcodec.")


def reader_in_module(torchaudio):
    owner = types.ModuleType("mm_plugin")
    owner.torchaudio = audio_reader.AudioReader(torchaudio)
    return owner


@pytest.fixture
def ramp(tmp_path):
    path = tmp_path / "ramp.wav"
    soundfile.write(path, RAMP, 16_000, subtype="PCM_16")
    return str(path)


def test_a_working_torchaudio_reads_and_gets_all_that_is_asked(monkeypatch):
    asked = []

    def load(*words, **options):
        asked.append((words, options))
        return WAVEFORM, 16_000

    reader = audio_reader.AudioReader(types.SimpleNamespace(load=load))
    monkeypatch.setattr(audio_reader, "can_read_audio", lambda torchaudio: True)
    waveform, sample_rate = reader.load("a.wav", 5, normalize=False)
    assert waveform is WAVEFORM
    assert (sample_rate, asked) == (16_000, [(("a.wav", 5), {"normalize": False})])


def test_what_a_working_torchaudio_cannot_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_reader, "can_read_audio", lambda torchaudio: True)
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "nan.wav", np.full(9, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    for name in ("torn.wav", "nan.wav"):
        with pytest.raises(SimulsaError, match=rf"Cannot read audio: .*{name}.*take its row out") as caught:
            reader_in_module(WorkingTorchaudio).torchaudio.load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_broken_torchaudio_is_replaced_with_the_same_samples(ramp):
    owner = reader_in_module(BrokenTorchaudio)
    waveform, sample_rate = owner.torchaudio.load(ramp)
    assert waveform.dtype == torch.float32
    assert sample_rate == 16_000
    # 16-bit samples are exact in float32, so this is arithmetic, not a tolerance.
    assert np.array_equal(waveform.numpy(), RAMP[None, :] / np.float32(32768))
    assert isinstance(owner.torchaudio, audio_reader.AudioReader)


def test_everything_but_load_is_torchaudio_itself():
    assert reader_in_module(BrokenTorchaudio).torchaudio.functional == "the real one"


def test_torchaudio_is_probed_once(ramp, monkeypatch):
    calls = []
    monkeypatch.setattr(audio_reader, "can_read_audio", lambda torchaudio: calls.append(torchaudio))
    owner = reader_in_module(BrokenTorchaudio)
    assert calls == []
    owner.torchaudio.load(ramp)
    owner.torchaudio.load(ramp)
    assert len(calls) == 1


def test_stereo_keeps_its_channels_and_its_rate(tmp_path):
    stereo = np.stack([RAMP, -RAMP], axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 44_100, subtype="PCM_16")
    waveform, sample_rate = audio_reader.load(tmp_path / "stereo.flac")
    assert sample_rate == 44_100
    assert np.array_equal(waveform.numpy(), stereo.T / np.float32(32768))


def test_open_files_are_read(ramp):
    with open(ramp, "rb") as handle:
        waveform, _ = audio_reader.load(handle)
    assert waveform.shape == (1, len(RAMP))


def test_m4a_is_read_through_pyav(tmp_path):
    import av

    path = tmp_path / "tone.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(RAMP[None, :], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    waveform, sample_rate = audio_reader.load(str(path))
    assert sample_rate == 16_000
    assert abs(waveform.shape[1] - len(RAMP)) <= 4096  # AAC pads to its frames


def test_training_hears_all_of_joined_mp3s_as_clips_do(tmp_path):
    from simulsa_plugin.audio.decoding import read_mono

    rng = np.random.default_rng(0)
    for name, seconds in (("a", 5), ("b", 10)):
        soundfile.write(tmp_path / f"{name}.mp3", 0.2 * rng.standard_normal(16_000 * seconds), 16_000)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    waveform, sample_rate = audio_reader.load(str(joined))
    assert sample_rate == 16_000
    assert waveform.shape[1] / sample_rate == pytest.approx(15, abs=0.15)
    np.testing.assert_array_equal(waveform[0].numpy(), read_mono(joined))


def _nan():
    samples, encoded = np.zeros(16_000, dtype=np.float32), io.BytesIO()
    samples[9000] = np.nan
    soundfile.write(encoded, samples, 16_000, format="WAV", subtype="FLOAT")
    return encoded.getvalue()


BAD_FILES = {
    "missing": None,
    "empty": b"",
    "torn": b"RIFF, but no more",
    "zeros": bytes(4096),
    "NaN": _nan(),
    "playlist": b"ffconcat version 1.0\nfile 'other.wav'\n",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named(tmp_path, content):
    path = tmp_path / "clip 7.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SimulsaError, match=r"clip 7\.wav") as caught:
        audio_reader.load(str(path))
    # The workers of datasets.map send it to their parent; an error that does not unpickle hangs them.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_samples_without_a_header_are_named(tmp_path):
    # soundfile takes a name in .raw for a promise to say rate and channels, and raises TypeError.
    (tmp_path / "clip.raw").write_bytes(RAMP.tobytes())
    with pytest.raises(SimulsaError, match=r"clip\.raw"):
        audio_reader.load(str(tmp_path / "clip.raw"))
    with (tmp_path / "clip.raw").open("rb") as handle, pytest.raises(SimulsaError, match=r"clip\.raw"):
        audio_reader.load(handle)


def test_a_disk_that_fails_is_named_as_such(ramp, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(decoding, "open", fail, raising=False)
    with pytest.raises(SimulsaError, match=r"Cannot read .*ramp\.wav: Input/output error\. .*start again") as caught:
        audio_reader.load(ramp)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_llamafactory_reads_wav_on_this_machine(ramp):
    from llamafactory.data.mm_plugin import get_mm_plugin

    plugin = get_mm_plugin("qwen2_audio", audio_token="<|AUDIO|>")
    read = plugin._regularize_audios([ramp], sampling_rate=16_000)
    assert np.array_equal(read["audios"][0], RAMP / np.float32(32768))


def test_the_global_torchaudio_is_untouched():
    import torchaudio
    from llamafactory.data import mm_plugin  # noqa: F401 - its import is what might touch it

    assert isinstance(torchaudio, types.ModuleType)
    assert torchaudio.load.__module__.startswith("torchaudio")
