"""Cuts of lhotse, made by lhotse: which part of which file, which channel, and whose translation."""

import gzip
import sys

import pytest
from corpora_files import jsonl, read_refusal, row_refusal, rows, write_audio, write_text
from corpora_files import read as read_form

from simulsa_plugin.corpora.utterance import Dropped
from simulsa_plugin.errors import DatasetError, MissingExtraError, UsageError

lhotse = pytest.importorskip("lhotse")


@pytest.fixture
def recording(tmp_path):
    """Ten seconds, one channel."""
    return lhotse.Recording.from_file(write_audio(tmp_path / "wav" / "talk.wav", 10.0), recording_id="talk")


@pytest.fixture
def stereo(tmp_path):
    """Ten seconds, two channels."""
    return lhotse.Recording.from_file(write_audio(tmp_path / "wav" / "call.wav", 10.0, channels=2), recording_id="call")


def supervision(name, start=0.0, duration=2.0, channel=0, recording="talk", **custom):
    return lhotse.SupervisionSegment(
        name, recording, start, duration, channel, text="Yes.", custom=custom or {"translation": f"Text {name}"}
    )


def cut(recording, *supervisions, name="c", start=0.0, duration=2.0, channel=0, **custom):
    kind = lhotse.MultiCut if isinstance(channel, list) else lhotse.MonoCut
    return kind(name, start, duration, channel, list(supervisions), recording=recording, custom=custom or None)


def read(tmp_path, *cuts, name="cuts.jsonl.gz", **settings):
    """Write with lhotse, relative to the corpus; read with the reader."""
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / name)
    return rows("lhotse", tmp_path / name, **settings)


TALK, CALL = "wav/talk.wav", "wav/call.wav"


def test_a_cut_with_one_supervision_is_an_utterance_with_the_cuts_id(tmp_path, recording):
    found = read(
        tmp_path,
        cut(recording, supervision("s1"), name="c1", start=1.5),
        cut(recording, supervision("s2", 0.01, 7.98), name="c2", duration=8.0),  # as rounding leaves them
        cut(recording, supervision("s3", 0.0, 10.0), name="c3", duration=10.0),
    )
    assert found == [
        ("c1", TALK, (1.5, 3.5), "Text s1"), ("c2", TALK, (0.0, 8.0), "Text s2"), ("c3", TALK, (0.0, 10.0), "Text s3"),
    ]  # fmt: skip


def test_several_supervisions_are_each_a_part_of_the_cut(tmp_path, recording):
    found = read(
        tmp_path, cut(recording, supervision("a", 0.5, 1.0), supervision("b", 2.0, 3.25), start=3.0, duration=6.0)
    )
    assert found == [("c-a", TALK, (3.5, 4.5), "Text a"), ("c-b", TALK, (5.0, 8.25), "Text b")]


def test_one_supervision_of_a_much_longer_cut_is_no_more_than_its_part(tmp_path, recording):
    assert read(tmp_path, cut(recording, supervision("a", 4.0, 1.5), start=1.0, duration=9.0)) == [
        ("c", TALK, (5.0, 6.5), "Text a"),
    ]


def test_supervisions_that_a_window_cuts_in_two_are_dropped(tmp_path, recording):
    supervisions = [supervision("a", 0.0, 3.0), supervision("b", 3.5, 4.0), supervision("c", 8.0, 2.0)]
    whole = cut(recording, *supervisions, name="w", duration=10.0)
    found = read(tmp_path, *lhotse.CutSet.from_cuts([whole]).cut_into_windows(5.0))
    assert found == [
        ("w-0-a", TALK, (0.0, 3.0), "Text a"), ("w-0-b", "cut_off"), ("w-1-b", "cut_off"),
        ("w-1-c", TALK, (8.0, 10.0), "Text c"),
    ]  # fmt: skip
    assert read(tmp_path, cut(recording, supervision("a", -1.0, 3.0))) == [("c", "cut_off")]
    assert read(tmp_path, cut(recording, supervision("a", 0.0, 2.6))) == [("c", "cut_off")]


def test_supervisions_that_reach_a_little_beyond_the_cut_end_with_it(tmp_path, recording):
    found = read(tmp_path, cut(recording, supervision("a", -0.02, 1.0), supervision("b", 1.0, 1.02), start=3.0))
    assert found == [("c-a", TALK, (3.0, 3.98), "Text a"), ("c-b", TALK, (4.0, 5.0), "Text b")]


def test_cuts_trimmed_to_their_supervisions_are_the_same_utterances(tmp_path, recording):
    supervisions = [supervision("a", 0.5, 1.0), supervision("b", 2.0, 3.25)]
    whole = cut(recording, *supervisions, start=1.0, duration=9.0)
    apart = [row[1:] for row in read(tmp_path, *lhotse.CutSet.from_cuts([whole]).trim_to_supervisions())]
    assert apart == [row[1:] for row in read(tmp_path, whole)]
    assert [row[1] for row in apart] == [(1.5, 2.5), (3.0, 6.25)]


def test_a_cut_of_one_channel_keeps_to_it(tmp_path, stereo, recording):
    found = read(
        tmp_path,
        cut(stereo, supervision("a", channel=1), name="right", channel=1),
        cut(stereo, supervision("a", channel=0), name="left", channel=0),
        cut(recording, supervision("a"), name="mono"),
    )
    assert found == [
        ("right", CALL, (0.0, 2.0, 1), "Text a"), ("left", CALL, (0.0, 2.0, 0), "Text a"),
        ("mono", TALK, (0.0, 2.0), "Text a"),
    ]  # fmt: skip


def test_each_side_of_a_call_is_its_own_channel(tmp_path, stereo):
    sides = [supervision("a", 0.0, 2.0, 0, "call"), supervision("b", 2.0, 3.0, 1, "call"),
             supervision("both", 5.0, 1.0, [0, 1], "call")]  # fmt: skip
    recordings, supervisions = lhotse.RecordingSet.from_recordings([stereo]), lhotse.SupervisionSet.from_segments(sides)
    cuts = list(lhotse.CutSet.from_manifests(recordings, supervisions))
    assert [type(cut).__name__ for cut in cuts] == ["MultiCut"]
    assert read(tmp_path, *cuts) == [
        ("call-0-a", CALL, (0.0, 2.0, 0), "Text a"), ("call-0-b", CALL, (2.0, 5.0, 1), "Text b"),
        ("call-0-both", CALL, (5.0, 6.0), "Text both"),
    ]  # fmt: skip


def of_files(tmp_path, *channels):
    """A recording whose channels lie in several files."""
    sources = []
    for number, numbers in enumerate(channels):
        write_audio(tmp_path / "wav" / f"{number}.wav", 10.0, channels=len(numbers))
        sources.append(lhotse.AudioSource("file", list(numbers), str(tmp_path / "wav" / f"{number}.wav")))
    return lhotse.Recording(
        "many", sources, 16_000, 160_000, 10.0, channel_ids=[n for numbers in channels for n in numbers]
    )


def test_channels_are_looked_up_in_the_file_that_has_them(tmp_path):
    many = of_files(tmp_path, [0], [1, 2], [5])
    found = read(
        tmp_path,
        *(cut(many, supervision("a", channel=n, recording="many"), name=str(n), channel=n) for n in (0, 1, 2, 5)),
        cut(many, supervision("a", channel=[1, 2], recording="many"), name="file", channel=[1, 2]),
        cut(many, supervision("a", channel=[0, 1], recording="many"), name="two files", channel=[0, 1]),
    )
    assert found == [
        ("0", "wav/0.wav", (0.0, 2.0), "Text a"), ("1", "wav/1.wav", (0.0, 2.0, 0), "Text a"),
        ("2", "wav/1.wav", (0.0, 2.0, 1), "Text a"), ("5", "wav/2.wav", (0.0, 2.0), "Text a"),
        ("file", "wav/1.wav", (0.0, 2.0), "Text a"), ("two files", "channels_in_several_files"),
    ]  # fmt: skip


def test_some_but_not_all_channels_of_a_file_are_dropped(tmp_path):
    many = of_files(tmp_path, [0, 1, 2])
    whole = supervision("a", channel=[0, 1], recording="many")
    assert read(tmp_path, cut(many, whole, channel=[0, 1])) == [("c", "several_channels")]


def test_mixed_padded_and_empty_cuts_are_dropped(tmp_path, recording):
    plain = cut(recording, supervision("a"), name="plain")
    mixed = plain.mix(cut(recording, name="noise", start=4.0), snr=10)
    padding = lhotse.cut.PaddingCut("silence", 2.0, 16_000, -23.0, num_samples=32_000)
    found = read(
        tmp_path, mixed.with_id("mixed"), plain.pad(5.0).with_id("padded"), padding, cut(recording, name="none")
    )
    assert found == [
        ("mixed", "mixed_cut"), ("padded", "mixed_cut"), ("silence", "mixed_cut"), ("none", "no_translation"),
    ]  # fmt: skip


def test_cuts_that_lhotse_changes_as_it_loads_are_dropped_but_for_their_rate(tmp_path, recording):
    plain = cut(recording, supervision("a"), name="plain", start=1.0)
    found = read(
        tmp_path, plain.perturb_speed(1.1), plain.perturb_tempo(0.9), plain.perturb_volume(2.0), plain.resample(8_000),
        plain.resample(8_000).perturb_speed(0.9), plain.normalize_loudness(-20.0),
    )  # fmt: skip
    assert [row[1] for row in found] == [*["transformed"] * 3, TALK, *["transformed"] * 2]
    assert found[3] == ("plain", TALK, (1.0, 3.0), "Text a")


def test_a_cut_of_features_alone_is_dropped(tmp_path):
    features = lhotse.Features(
        recording_id="talk", channels=0, start=0.0, duration=2.0, type="fbank", num_frames=200, num_features=80,
        frame_shift=0.01, sampling_rate=16_000, storage_type="lilcom_chunky", storage_path="a", storage_key="0",
    )  # fmt: skip
    alone = lhotse.MonoCut("c", 0.0, 2.0, 0, [supervision("a")], features=features)
    assert read(tmp_path, alone) == [("c", "no_recording")]


def test_the_translation_is_a_custom_field_of_the_supervision_or_the_cut(tmp_path, recording):
    found = read(
        tmp_path,
        cut(recording, supervision("a", translation="Ja."), name="supervision", translation="nicht dies"),
        cut(recording, supervision("a", other=1), name="cut", translation="Ja."),
        cut(recording, supervision("a", translated_text="Ja."), name="translated_text"),
        cut(recording, supervision("a", tgt_text="Ja."), name="tgt_text"),
        cut(recording, supervision("a", translation={"de": "Ja.", "fr": "Oui."}), name="by language"),
        cut(recording, supervision("a", translation={"fr": "Oui."}), name="another language"),
        cut(recording, supervision("a", translation=5), name="a number"),
        cut(recording, supervision("a", other=1), name="none"),
        cut(recording, supervision("a", translation=""), name="empty"),
    )
    assert [(row[0], row[-1]) for row in found] == [
        ("supervision", "Ja."), ("cut", "Ja."), ("translated_text", "Ja."), ("tgt_text", "Ja."), ("by language", "Ja."),
        ("another language", "no_translation"), ("a number", "no_translation"), ("none", "no_translation"),
        ("empty", ""),
    ]  # fmt: skip


def test_the_field_may_be_named_by_the_recipe(tmp_path, recording):
    one = cut(recording, supervision("a", translation="nicht dies", mine={"de": "Ja."}))
    assert read(tmp_path, one, columns={"translation": "mine"})[0][3] == "Ja."
    assert read(tmp_path, one, columns={"translation": "theirs"}) == [("c", "no_translation")]
    message = read_refusal("lhotse", tmp_path / "cuts.jsonl.gz", columns={"audio": "x"}, error=UsageError)
    assert message == "simulsa_columns names a role 'audio'; allowed: translation."


def test_texts_by_language_need_a_target_language(tmp_path, recording):
    found = read(tmp_path, cut(recording, supervision("a", translation="Ja.")), target=None)
    assert found[0][3] == "Ja."
    lhotse.CutSet.from_cuts([cut(recording, supervision("a", translation={"de": "Ja."}))]).to_file(tmp_path / "b.jsonl")
    message = read_refusal("lhotse", tmp_path / "b.jsonl", target=None, error=UsageError)
    assert message.startswith("simulsa_target_language is not set")


@pytest.mark.parametrize("name", ["cuts.jsonl.gz", "cuts.jsonl"])
def test_relative_names_start_from_the_manifests_folder(tmp_path, recording, name):
    recording.sources[0].source = TALK
    assert read(tmp_path, cut(recording, supervision("a")), name=name) == [("c", TALK, (0.0, 2.0), "Text a")]
    (tmp_path / "sub").mkdir()
    read(tmp_path, cut(recording, supervision("a")), name=f"sub/{name}")
    assert rows("lhotse", tmp_path / "sub")[0][1] == TALK  # where there is none, so it would be named


def test_a_split_chooses_its_manifest_and_no_other(tmp_path, recording):
    names = ("cuts_train.jsonl.gz", "test_cuts.jsonl.gz", "cuts-dev.jsonl", "cuts_test-other.jsonl.gz", "mytest.jsonl")
    for name in names:
        read(tmp_path, cut(recording, supervision("a", translation=name)), name=name)
    found = rows("lhotse", tmp_path, "test", "train", "dev")
    assert [row[3] for row in found] == ["test_cuts.jsonl.gz", "cuts_train.jsonl.gz", "cuts-dev.jsonl"]
    assert read_refusal("lhotse", tmp_path, "tes") == (
        f"{tmp_path} needs one file tes.jsonl.gz; there: cuts-dev.jsonl, cuts_test-other.jsonl.gz, "
        "cuts_train.jsonl.gz, mytest.jsonl, test_cuts.jsonl.gz. Set simulsa_split, or name the file itself."
    )


def test_manifests_before_lhotse_0_8_are_read(tmp_path, recording):
    old = cut(recording, supervision("a")).to_dict() | {"type": "Cut"}
    with pytest.warns(UserWarning, match="earlier than v0.8"):
        assert rows("lhotse", write_text(tmp_path / "a.jsonl", jsonl(old))) == [("c", TALK, (0.0, 2.0), "Text a")]


@pytest.mark.parametrize("kind", ["command", "url", "memory", "shar", "strange", None])
def test_audio_that_is_no_file_is_neither_run_nor_fetched(tmp_path, monkeypatch, recording, kind):
    monkeypatch.chdir(tmp_path)
    row = cut(recording, supervision("a")).to_dict()
    row["recording"]["sources"][0] |= {"type": kind, "source": "touch owned"}
    path = write_text(tmp_path / "a.jsonl", jsonl(row))
    assert row_refusal("lhotse", path) == (
        f"{path}, line 1: the audio of the cut 'c' is a {str(kind)!r}, not a file, and is not fetched. "
        "Write it to files (CutSet.save_audios)."
    )
    assert not (tmp_path / "owned").exists()


def test_the_name_of_a_cut_cannot_break_the_message(tmp_path, recording):
    row = cut(recording, supervision("a"), name="a\nb\x1b").to_dict()
    row["recording"]["sources"][0] |= {"type": "url\n"}
    path = write_text(tmp_path / "a.jsonl", jsonl(row))
    assert r"the audio of the cut 'a\nb\x1b' is a 'url\n', not a file" in row_refusal("lhotse", path)


def is_understood(path):
    """Whether rows come out, or a refusal with its line."""
    try:
        causes = [row.cause for row in read_form("lhotse", path) if isinstance(row, Dropped) and row.cause]
    except DatasetError as error:
        causes = [str(error)]
    return all(cause.startswith(f"{path}, line 1: ") and len(cause.splitlines()) == 1 for cause in causes)


def changed(row, path, value):
    """A copy of nested dictionaries and lists with one value replaced, or removed where the value is ...."""
    key, *rest = path
    copy = row.copy()
    if rest:
        copy[key] = changed(copy[key], rest, value)
    elif value is not ...:
        copy[key] = value
    elif isinstance(copy, list) or key in copy:
        del copy[key]
    return copy


STRANGE = [..., None, True, -1, 1e99, "x", [], [1], {}, {"a": 1}, [[]], [None]]
PLACES = [
    ("start",), ("duration",), ("channel",), ("supervisions",), ("recording",), ("custom",), ("type",), ("id",),
    ("supervisions", 0), ("supervisions", 0, "start"), ("supervisions", 0, "duration"), ("supervisions", 0, "channel"),
    ("supervisions", 0, "custom"), ("supervisions", 0, "custom", "translation"), ("supervisions", 0, "alignment"),
    ("recording", "sources"), ("recording", "sources", 0), ("recording", "sources", 0, "type"),
    ("recording", "sources", 0, "channels"), ("recording", "sources", 0, "source"), ("recording", "transforms"),
    ("recording", "channel_ids"), ("recording", "sampling_rate"), ("recording", "duration"), ("features",),
    ("strange",), ("width",), ("shape",), ("tracks",), ("num_features",), ("sources",),  # no cut has them
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_cut_with_anything_anywhere_is_read_dropped_or_refused_with_its_line(tmp_path, recording, place):
    row = cut(recording, supervision("a"), x=1).to_dict()
    row["supervisions"][0]["alignment"] = {}
    for value in STRANGE:
        path = write_text(tmp_path / "a.jsonl", jsonl(changed(row, place, value)))
        assert is_understood(path)


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "Speed", "kwargs": {"factor": 1.1}}, {"name": "os.system", "kwargs": {"command": "touch owned"}},
        {"name": "Resample", "kwargs": {}}, {"name": "Speed"}, {"kwargs": {}}, "Speed", None, 5,
        {"name": ["Speed"], "kwargs": {}}, {"name": "Speed", "kwargs": {"factor": 1.1, "x": 2}},
    ],
)  # fmt: skip
def test_transforms_are_dropped_or_refused_and_none_is_made(tmp_path, monkeypatch, recording, transform):
    monkeypatch.chdir(tmp_path)
    row = cut(recording, supervision("a")).to_dict()
    row["recording"]["transforms"] = [transform]
    path = write_text(tmp_path / "a.jsonl", jsonl(row))
    assert is_understood(path)
    assert not (tmp_path / "owned").exists()


def test_other_manifests_of_lhotse_are_refused(tmp_path, recording):
    lhotse.RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl.gz")
    lhotse.SupervisionSet.from_segments([supervision("a")]).to_file(tmp_path / "supervisions.jsonl.gz")
    for name in ("recordings.jsonl.gz", "supervisions.jsonl.gz"):
        assert row_refusal("lhotse", tmp_path / name) == (
            f"{tmp_path / name}, line 1: no cut of lhotse. Give a file of cuts (CutSet.to_file), not recordings alone."
        )


def test_broken_manifests_are_refused_with_their_line(tmp_path, recording):
    read(tmp_path, cut(recording, supervision("a")))
    path = tmp_path / "cuts.jsonl.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])
    assert read_refusal("lhotse", path).startswith(f"Cannot read {path}")
    path.write_bytes(content + gzip.compress(b"{\n"))
    assert row_refusal("lhotse", path).startswith(f"{path}, line 2: not valid JSON (")


def test_without_lhotse_the_extra_is_named(tmp_path, monkeypatch, recording):
    read(tmp_path, cut(recording, supervision("a")))
    monkeypatch.setitem(sys.modules, "lhotse.serialization", None)
    assert read_refusal("lhotse", tmp_path / "cuts.jsonl.gz", error=MissingExtraError) == (
        "simulsa_corpus: lhotse needs the package lhotse. Install it: pip install lhotse, "
        "or all of the extra, in the clone: pip install '.[lhotse]'."
    )
