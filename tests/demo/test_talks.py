"""Talks of the embedded corpus, as files and as what a detector of speech hears in them."""

import json

import numpy as np
import yaml
from helpers.files import read_json_lines, tree

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.demo.talks import TALKS_NAME, write_demo_talks
from simulsa_plugin.longform.silero import SpeechDetector
from simulsa_plugin.longform.voice_activity import FRAME_SAMPLES, VoiceActivitySettings, find_speech

MINUTES = (0.3, 0.4)


def test_talks_are_the_same_bytes_however_they_are_made(tmp_path):
    write_demo_talks(tmp_path / "a", minutes=MINUTES, processes=2)
    write_demo_talks(tmp_path / "b", minutes=MINUTES[:1], processes=1)
    first = f"{TALKS_NAME}/00000.wav"
    assert (tmp_path / "a" / first).read_bytes() == (tmp_path / "b" / first).read_bytes()
    before = tree(tmp_path / "a")
    write_demo_talks(tmp_path / "a", minutes=MINUTES)
    assert tree(tmp_path / "a") == before


def test_segments_in_rows_yaml_references_and_truth_agree(tmp_path):
    write_demo_talks(tmp_path, minutes=MINUTES)
    rows = read_json_lines(tmp_path / f"{TALKS_NAME}.jsonl")
    segments = [segment for row in rows for segment in row["segments"]]
    listed = yaml.safe_load((tmp_path / f"{TALKS_NAME}_segments.yaml").read_text())
    assert [(one["offset"], one["duration"]) for one in listed] == [(s["offset"], s["duration"]) for s in segments]
    references = (tmp_path / f"{TALKS_NAME}_references.txt").read_text(encoding="utf-8").splitlines()
    assert references == [segment["reference"] for segment in segments]
    assert [
        " ".join(truth["target"]) for truth in read_json_lines(tmp_path / f"{TALKS_NAME}_truth.jsonl")
    ] == references
    for row, minutes in zip(rows, MINUTES, strict=True):
        seconds = len(read_mono(row["audios"][0])) / 16_000
        assert 60 * minutes < seconds < 60 * minutes + 15
        ends = [segment["offset"] + segment["duration"] for segment in row["segments"]]
        starts = [segment["offset"] for segment in row["segments"]]
        assert all(end + 0.3 < start for end, start in zip(ends[:-1], starts[1:], strict=True))
        assert ends[-1] < seconds
    assert set(json.loads((tmp_path / "dataset_info.json").read_text())) == {TALKS_NAME}


def test_the_detector_of_speech_finds_the_sentences_and_hears_nothing_later(tmp_path):
    write_demo_talks(tmp_path, minutes=MINUTES[:1])
    (row,) = read_json_lines(tmp_path / f"{TALKS_NAME}.jsonl")
    waveform = read_mono(row["audios"][0])
    detector = SpeechDetector()
    probabilities = detector.probabilities(waveform)
    assert len(probabilities) == -(-len(waveform) // FRAME_SAMPLES)
    detector.reset()
    part = detector.probabilities(waveform[: 60 * FRAME_SAMPLES])
    part = np.concatenate([part, detector.probabilities(waveform[60 * FRAME_SAMPLES : 100 * FRAME_SAMPLES])])
    np.testing.assert_allclose(part, probabilities[:100], atol=1e-6)
    found = find_speech(probabilities, len(waveform), VoiceActivitySettings(window_seconds=6))
    for segment in row["segments"]:
        begin, end = (16_000 * second for second in (segment["offset"], segment["offset"] + segment["duration"]))
        covered = sum(max(0, min(end, one.end) - max(begin, one.start)) for one in found)
        assert covered > 0.7 * (end - begin)
