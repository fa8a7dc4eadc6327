"""MuST-C on disk: a YAML list of segments, and texts that belong to it line by line."""

import tracemalloc

import pytest
from corpora_files import read_refusal, row_refusal, rows, write_text

from simulsa_plugin.errors import UsageError

# As the corpus writes it; offsets that would sort as strings, two talks, one segment across the half minute.
YAML = """\
- {duration: 3.500000, offset: 9.520000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}
- {duration: 33.250000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}
- {duration: 1.990000, offset: 100.130000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}
- {duration: 2.000000, offset: 0.000000, rW: 9, uW: 0, speaker_id: spk.1, wav: ted_1.wav}
- {duration: 0.5, offset: 1000.0, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}
"""
GERMAN = "Eins.\n„Zwei“, sagte er.\n\nVier\u2028zwei Zeilen.\nNA\n"
TRAIN = [
    ("ted_767_0", "data/train/wav/ted_767.wav", (9.52, 13.02), "Eins."),
    ("ted_767_1", "data/train/wav/ted_767.wav", (16.08, 49.33), "„Zwei“, sagte er."),
    ("ted_767_2", "data/train/wav/ted_767.wav", (100.13, 102.12), ""),
    ("ted_1_0", "data/train/wav/ted_1.wav", (0.0, 2.0), "Vier\u2028zwei Zeilen."),
    ("ted_767_3", "data/train/wav/ted_767.wav", (1000.0, 1000.5), "NA"),
]


def write(corpus, split="train", yaml=YAML, german=GERMAN, data="data", **form):
    write_text(corpus / data / split / "txt" / f"{split}.yaml", yaml, **form)
    write_text(corpus / data / split / "txt" / f"{split}.en", GERMAN, **form)
    write_text(corpus / data / split / "txt" / f"{split}.de", german, **form)
    return corpus


def seconds(found):
    return [(*row[:2], tuple(round(time, 6) for time in row[2]), row[3]) for row in found]


def one(text):
    return f"- {{duration: 1.0, offset: 2.0, wav: a.wav}}\n{text}\n"


def test_segments_have_their_times_and_the_text_of_their_line(tmp_path):
    assert seconds(rows("mustc", write(tmp_path), "train")) == TRAIN


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path):
    assert seconds(rows("mustc", write(tmp_path, bom=True, crlf=True), "train")) == TRAIN


@pytest.mark.parametrize("inside", ["en-de/data", "data", ""])
def test_the_folder_of_the_pair_the_one_above_and_the_one_of_the_splits_may_be_given(tmp_path, inside):
    write(tmp_path, data=inside)
    assert [row[0] for row in rows("mustc", tmp_path, "train")] == [row[0] for row in TRAIN]


def test_of_several_pairs_the_one_of_the_languages_is_read(tmp_path):
    write(tmp_path, data="en-de/data")
    write(tmp_path, data="en-fr/data", yaml=one(""))
    assert len(rows("mustc", tmp_path, "train")) == 5
    assert "needs" not in (message := read_refusal("mustc", tmp_path, "train", target="nl"))
    assert message == (
        f"{tmp_path} has no data/train/txt/train.yaml, there or in en-nl/; splits found: none. "
        "Set simulsa_corpus_dir and simulsa_split."
    )


def test_several_splits_are_read_in_the_order_of_the_recipe(tmp_path):
    write(write(tmp_path), "dev", one(""), "Dev.\n")
    found = rows("mustc", tmp_path, "dev", "train")
    assert found[0] == ("a_0", "data/dev/wav/a.wav", (2.0, 3.0), "Dev.")
    assert seconds(found[1:]) == TRAIN


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write(write(tmp_path), "tst-COMMON")
    assert read_refusal("mustc", tmp_path, "train", "tst") == (
        f"{tmp_path} has no data/tst/txt/tst.yaml, there or in en-de/; splits found: train, tst-COMMON. "
        "Set simulsa_corpus_dir and simulsa_split."
    )


def test_a_translation_file_one_line_short_is_refused_whole(tmp_path):
    write(tmp_path, german="Eins.\nZwei.\n\nVier.\n")
    text = tmp_path / "data" / "train" / "txt"
    assert read_refusal("mustc", tmp_path, "train") == (
        f"{text / 'train.de'} has 4 lines, and {text / 'train.yaml'} has 5 entries: which belong together is not "
        "known. Get both files from the same release."
    )
    write(tmp_path, german=f"{GERMAN}Sechs.\n")
    assert "has 6 lines" in read_refusal("mustc", tmp_path, "train")


def test_a_language_that_is_not_there_is_named_with_its_file(tmp_path):
    write(tmp_path)
    assert read_refusal("mustc", tmp_path, "train", target="fr") == (
        f"Cannot read {tmp_path / 'data' / 'train' / 'txt' / 'train.fr'}: No such file or directory."
    )
    for key in ("source", "target"):
        message = read_refusal("mustc", tmp_path, "train", error=UsageError, **{key: None})
        assert message.startswith(f"simulsa_{key}_language is not set")


@pytest.mark.parametrize(
    "yaml",
    [
        "- duration: 1.0\n  offset: 2.0\n  wav: a.wav\n",
        "# made by hand\n---\n- {wav: 'a.wav', offset: \"2.0\", duration: 1.0, text: '# - {x'}\n\n",
        "- {duration: 1.0,\n   offset: 2.0,\n   wav: a.wav}\n",
        "-   wav: a.wav\n    offset: 2.0\n    duration: 1.0\n    note: |\n      - {duration: 9}\n      zwei\n",
    ],
)
def test_the_list_may_be_written_in_other_ways(tmp_path, yaml):
    assert rows("mustc", write(tmp_path, yaml=yaml, german="Ja.\n"), "train") == [
        ("a_0", "data/train/wav/a.wav", (2.0, 3.0), "Ja."),
    ]


def test_names_are_text_whatever_yaml_makes_of_them(tmp_path):
    yaml = "".join(
        f"- {{duration: 1, offset: 2, wav: {name}}}\n" for name in ("007", "1_0", "1:30", "no", "~", "2024-01-01")
    )
    found = rows("mustc", write(tmp_path, yaml=yaml, german="Ja.\n" * 6), "train")
    assert [row[0] for row in found] == ["007_0", "1_0_0", "1:30_0", "no_0", "~_0", "2024-01-01_0"]


def test_recordings_of_one_name_in_several_folders_share_no_id(tmp_path):
    yaml = "".join(
        f"- {{duration: 1, offset: {n}, wav: {name}}}\n" for n, name in enumerate(("a/t.wav", "b/t.wav", "a/t.wav"))
    )
    found = rows("mustc", write(tmp_path, yaml=yaml, german="Ja.\n" * 3), "train")
    assert [row[:2] for row in found] == [
        ("t_0", "data/train/wav/a/t.wav"), ("t_1", "data/train/wav/b/t.wav"), ("t_2", "data/train/wav/a/t.wav"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "item",
    [
        "- {duration: 1.0, offset: 2.0}", "- {offset: 2.0, wav: a.wav}", "- {duration: 1.0, wav: a.wav}",
        "- a.wav", "-", "x", "\t-", "%YAML 9", "duration: 1.0", "- &a [*a]", "- [1.0, 2.0, a.wav]",
        "- {duration: [1.0], offset: 2.0, wav: a.wav}", "- {duration: 1.0, offset: {}, wav: a.wav}",
        "- {duration: 1.0, offset: 2.0, wav: [a.wav]}", "- {duration: 1.0, offset: 2.0, wav: a.wav",
        "- {duration: 1.0, offset: 2.0, wav: *a}", '- {duration: 1.0, offset: 2.0, wav: "\\ud800"}',
        "- {? [a, b] : 1, duration: 1.0, offset: 2.0, wav: a.wav", "- {duration: 1.0, offset: 2.0, wav: a\x00.wav}",
        "- - - {duration: 1.0, offset: 2.0, wav: a.wav}", "- " * 100_000, "- " + "[" * 100_000, "- " + "{a: " * 100_000,
        "- {<<: *a, duration: 1.0}", "- !!python/object/apply:os.system ['touch owned']",
    ],
)  # fmt: skip
def test_what_is_no_segment_is_refused_with_its_line(tmp_path, monkeypatch, item):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, yaml=f"{one('')}{item}\n", german="Ja.\nJa.\n")
    joined = not item.startswith("- ")  # to the item before it: one entry is then missing
    message = (read_refusal if joined else row_refusal)("mustc", tmp_path, "train")
    assert ("which belong together is not known" in message) is joined
    assert f"{tmp_path / 'data' / 'train' / 'txt' / 'train.yaml'}, line " in message
    assert "expected `- {duration: …, offset: …, wav: …}`, got " in message
    assert not (tmp_path / "owned").exists()


def test_tags_of_yaml_make_no_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml = "- {duration: 1, offset: 2, wav: a.wav, x: !!python/object/apply:os.system ['touch owned']}\n"
    assert len(rows("mustc", write(tmp_path, yaml=yaml, german="Ja.\n"), "train")) == 1
    assert not (tmp_path / "owned").exists()


def bomb():
    """Nine levels of nine: a thousand million strings, if somebody unfolds them."""
    levels = ["&a ['lol', 'lol', 'lol', 'lol', 'lol', 'lol', 'lol', 'lol', 'lol']"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        levels.append(f"&{name} [{', '.join([f'*{before}'] * 9)}]")
    return levels


def test_an_anchor_bomb_takes_neither_time_nor_memory(tmp_path):
    inside = ", ".join(f"k{n}: {level}" for n, level in enumerate(bomb()))
    write(tmp_path / "1", yaml=f"- {{duration: 1, offset: 2, wav: a.wav, {inside}}}\n", german="Ja.\n")
    write(tmp_path / "2", yaml="".join(f"- {level}\n" for level in bomb()), german="Ja.\n")
    write(tmp_path / "3", yaml=f"- {{duration: 1, offset: 2, {inside}, wav: *i}}\n", german="Ja.\n")
    tracemalloc.start()
    assert len(rows("mustc", tmp_path / "1", "train")) == 1
    # The first has nine items and no text; nothing is known of which line belongs to which.
    assert "which belong together is not known" in read_refusal("mustc", tmp_path / "2", "train")
    assert ", line 1: expected" in row_refusal("mustc", tmp_path / "3", "train")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_an_anchor_means_nothing_to_another_segment(tmp_path):
    yaml = "- {duration: &d 1, offset: 2, wav: a.wav}\n- {duration: *d, offset: 2, wav: a.wav}\n"
    assert ", line 2: expected" in row_refusal("mustc", write(tmp_path, yaml=yaml, german="Ja.\nJa.\n"), "train")


def test_multilingual_tedx_says_wav_of_files_that_are_flac(tmp_path):
    # openslr.org/100; fairseq's prep_mtedx_data.py replaces the ending as well.
    yaml = "".join(f"- {{duration: 1.0, offset: 2.0, speaker_id: {name}, wav: {name}.wav}}\n" for name in "abc")
    write(tmp_path, yaml=yaml, german="Ja.\n" * 3)
    for name in ("a.flac", "b.flac", "b.wav"):
        write_text(tmp_path / "data/train/wav" / name, "")
    assert [row[1] for row in rows("mustc", tmp_path, "train")] == [
        "data/train/wav/a.flac", "data/train/wav/b.wav", "data/train/wav/c.wav",
    ]  # fmt: skip


def test_a_start_a_little_before_the_recording_is_its_start_and_the_end_stays(tmp_path):
    yaml = "".join(f"- {{duration: 1.0, offset: {offset}, wav: a.wav}}\n" for offset in (-0.01, -0.5, -0.51, 1))
    found = rows("mustc", write(tmp_path, yaml=yaml, german="Ja.\n" * 4), "train")
    assert [row[2] for row in found if len(row) == 4] == [(0.0, 0.99), (0.0, 0.5), (1.0, 2.0)]
    assert found[2] == ("a_2", "bad_time") and found[3][0] == "a_3"  # the others keep their numbers
    assert row_refusal("mustc", tmp_path, "train").endswith("the offset is -0.51; allowed: 0 to 21600 seconds.")


def test_a_segment_of_endless_lines_is_refused_in_little_memory(tmp_path):
    write(tmp_path, yaml=one("") + "- {duration: 1,\n" + f"  x: {'y' * 1000},\n" * 20_000)
    tracemalloc.start()
    message = read_refusal("mustc", tmp_path, "train")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    assert message.endswith("train.yaml, line 3: an item longer than 1048576 characters, which no segment is.")
