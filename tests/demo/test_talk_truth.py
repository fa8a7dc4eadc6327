"""What the audio of talks supports at each moment: their truth file, read for the rows that it belongs to."""

from helpers.files import read_json_lines

from simulsa_plugin.demo.talks import TALKS_NAME, write_demo_talks
from simulsa_plugin.demo.truth import find_recording_truth

MINUTES = (0.3, 0.4)


def test_the_truth_of_talks_belongs_to_their_rows(tmp_path):
    write_demo_talks(tmp_path, minutes=MINUTES)
    entry = {"file_name": str(tmp_path / f"{TALKS_NAME}.jsonl")}
    truth = find_recording_truth(TALKS_NAME, entry)
    for number, row in enumerate(read_json_lines(tmp_path / f"{TALKS_NAME}.jsonl")):
        reference = row["messages"][-1]["content"]
        parts = truth.parts(number, reference, 1.0)
        assert " ".join(segment.reference for segment, _ in parts) == reference
        for (known, supported), segment in zip(parts, row["segments"], strict=True):
            assert known.reference == segment["reference"]
            assert abs(known.end_seconds - segment["offset"] - segment["duration"]) < 1e-6
            times, texts = zip(*supported, strict=True)
            assert list(times) == sorted(times) and texts[-1] == known.reference
            assert all(known.reference.startswith(text) for text in texts)
        assert truth.segments(number) == tuple(segment for segment, _ in parts)
    assert find_recording_truth("other", entry) is None
