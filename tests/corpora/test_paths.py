"""Names of audio files: found as corpora write them, and never outside the corpus, nor run, nor fetched."""

import json
import os
import unicodedata

import pytest
from corpora_files import WITH_TIMES, read, refusal, row_refusal, rows, write_one, write_text

from simulsa_plugin.corpora.formats.registry import FORMATS
from simulsa_plugin.corpora.paths import AudioFinder

FORMS = (*(form for form in FORMATS if form != "webdataset"), "table of JSON")  # names in a shard are never opened
NFD = unicodedata.normalize("NFD", "Grüße.wav")
NFC = unicodedata.normalize("NFC", "Grüße.wav")


def touch(*parts):
    path = parts[0].joinpath(*parts[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF")
    return path


def find(corpus, name, *folders, audio=None):
    return AudioFinder(corpus, audio).find(name, "a.tsv, line 3", *[corpus / folder for folder in folders])


def test_a_relative_name_is_looked_up_in_each_folder_in_turn(tmp_path):
    touch(tmp_path, "two", "a.wav")
    touch(tmp_path, "two", "b.wav")
    touch(tmp_path, "one", "b.wav")
    assert find(tmp_path, "a.wav", "one", "two") == tmp_path / "two" / "a.wav"
    assert find(tmp_path, "b.wav", "one", "two") == tmp_path / "one" / "b.wav"


def test_a_file_that_is_nowhere_gets_the_first_place_it_could_have(tmp_path):
    assert find(tmp_path, "sub/a.wav", "one", "two") == tmp_path / "one" / "sub" / "a.wav"


def test_the_users_own_folder_of_audio_comes_first_and_the_corpus_still_counts(tmp_path):
    corpus, audio = tmp_path / "corpus", tmp_path / "audio"
    for name in ("both.wav", "mine.wav"):
        touch(audio, name)
    for name in ("both.wav", "theirs.wav"):
        touch(corpus, "clips", name)
    assert find(corpus, "both.wav", "clips", audio=audio) == audio / "both.wav"
    assert find(corpus, "mine.wav", "clips", audio=audio) == audio / "mine.wav"
    assert find(corpus, "theirs.wav", "clips", audio=audio) == corpus / "clips" / "theirs.wav"
    assert find(corpus, str(audio / "mine.wav"), "clips", audio=audio) == audio / "mine.wav"


@pytest.mark.parametrize("name", ["wav\\sub\\a.wav", ".\\wav\\sub\\a.wav", "wav/sub\\a.wav", "wav//sub/./a.wav"])
def test_windows_separators_and_dots_lead_to_the_file(tmp_path, name):
    touch(tmp_path, "wav", "sub", "a.wav")
    assert find(tmp_path, name, ".") == tmp_path / "wav" / "sub" / "a.wav"


def test_a_backslash_may_be_part_of_a_name(tmp_path):
    touch(tmp_path, "wav\\a.wav")
    touch(tmp_path, "wav", "a.wav")
    assert find(tmp_path, "wav\\a.wav", ".") == tmp_path / "wav\\a.wav"


@pytest.mark.parametrize(("written", "on_disk"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_names_are_found_in_another_unicode_normalisation(tmp_path, written, on_disk):
    touch(tmp_path, "wav", on_disk)
    assert find(tmp_path, f"wav\\{written}", ".") == tmp_path / "wav" / on_disk


def test_of_two_normalisations_on_the_disk_the_one_that_is_written_is_meant(tmp_path):
    touch(tmp_path, NFC)
    touch(tmp_path, NFD)
    assert {find(tmp_path, name, ".").name for name in (NFC, NFD)} == {NFC, NFD}


@pytest.mark.parametrize(
    "name",
    ["a b.wav", " a.wav", "ü.wav", "a'b\".wav", "$HOME.wav", "~a.wav", "a;b&c.wav", "-a.wav", "a|b.wav", "*.wav", "...",
     "C:a.wav", "a:b.wav", "%2e%2e.wav", "a..wav"],
)  # fmt: skip
def test_names_that_only_look_odd_are_names(tmp_path, name):
    assert find(tmp_path, name, ".") == touch(tmp_path, name)


def test_dots_may_lead_up_as_long_as_they_stay_in_the_corpus(tmp_path):
    touch(tmp_path, "corpus", "wav", "a.wav")
    corpus = tmp_path / "corpus"
    assert find(corpus, "../wav/a.wav", "txt") == corpus / "wav" / "a.wav"
    assert find(corpus, "../../corpus/wav/a.wav", "txt") == corpus / "wav" / "a.wav"
    assert find(corpus, str(corpus / "wav" / "a.wav"), "txt") == corpus / "wav" / "a.wav"


def test_the_corpus_may_itself_be_reached_through_a_link(tmp_path):
    touch(tmp_path, "real", "wav", "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "clips").symlink_to("wav")
    (tmp_path / "real" / "b.wav").symlink_to("wav/a.wav")
    for name in ("wav/a.wav", "clips/a.wav", "b.wav", "gone.wav", str(tmp_path / "real" / "wav" / "a.wav")):
        found = find(tmp_path / "link", name, ".")
        assert found == tmp_path / ("real" if name.startswith("/") else "link") / name


def test_a_manifest_gives_its_own_folder_as_the_corpus(tmp_path):
    manifest = write_text(tmp_path / "a.json", "")
    assert AudioFinder(manifest).find("a.wav", "p", tmp_path) == tmp_path / "a.wav"
    assert "lies outside" in refusal(AudioFinder(manifest).find, "../a.wav", "p", tmp_path)


SHELL = "is a shell command, and none is run. Write its output to files, and name those."
ADDRESS = "is an address. Set simulsa_audio_dir to that of its folder, or download it, and name the file."
NONE = "is not a file name."
MACHINE = "is a path of another machine. Make it relative to the corpus folder."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sph2pipe -f wav a.sph |", SHELL), ("touch owned|", SHELL), ("touch owned | \t", SHELL),
        ("| touch owned", SHELL), ("  |touch owned", SHELL), ("|", SHELL), ("http://a.org/a.wav", ADDRESS),
        ("https://a.org/a.wav", ADDRESS),
        ("file:///etc/passwd", ADDRESS), ("s3://a/b.wav", ADDRESS), ("HTTPS://A.ORG", ADDRESS), ("hf://a/b", ADDRESS),
        ("zip://a.wav::b.zip", ADDRESS), ("", NONE), (" ", NONE), ("-", NONE), (" - ", NONE), ("a\x00.wav", NONE),
        ("\x00", NONE), ("a\nb.wav", NONE), ("a\r.wav", NONE), ("a\tb.wav", NONE), ("\x1b[2J.wav", NONE),
        ("a\x7f.wav", NONE), ("C:\\wav\\a.wav", MACHINE), ("c:/wav/a.wav", MACHINE), ("D:\\a.wav", MACHINE),
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused_with_its_place_and_what_to_do(tmp_path, name, said):
    assert refusal(find, tmp_path, name, ".") == f"a.tsv, line 3: the audio {name!r} {said}"


OUTSIDE = (
    "lies outside the corpus, at {real!r}. "
    "If it may be read there, set simulsa_audio_dir to the folder that holds the audio."
)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../etc/passwd", "..", "../", ".", "wav/..", "", "wav/../../../secret.wav", "../corpus2/a.wav",
     "/", "..\\secret.wav", "wav\\..\\..\\secret.wav", "/dev/zero",
     "/proc/self/environ", "//etc/passwd", "./../secret.wav"],
)  # fmt: skip
def test_no_name_leads_out_of_the_corpus(tmp_path, name):
    corpus = tmp_path / "corpus"
    touch(corpus, "wav", "a.wav")
    touch(tmp_path, "corpus2", "a.wav")
    touch(tmp_path, "secret.wav")
    message = refusal(find, corpus, name, ".")
    assert message.startswith(f"a.tsv, line 3: the audio {name!r} ")
    assert "lies outside the corpus" in message or name == ""


@pytest.mark.parametrize(
    ("name", "link", "target"),
    [
        ("a.wav", "a.wav", "../secret.wav"),
        ("a.wav", "a.wav", "/etc/passwd"),
        ("wav/a.wav", "wav", "../elsewhere"),
        ("wav/deep/a.wav", "wav", "../elsewhere"),
        ("gone/a.wav", "gone", "../nowhere"),
        ("a.wav", "a.wav", "../nowhere.wav"),
        ("a.wav", "a.wav", "b.wav"),  # a link to a link
        ("wav/a.wav", "wav", "/proc/self/fd"),
    ],
)
def test_no_link_leads_out_of_the_corpus(tmp_path, name, link, target):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    touch(tmp_path, "elsewhere", "deep", "a.wav")
    touch(tmp_path, "elsewhere", "a.wav")
    touch(tmp_path, "secret.wav")
    (corpus / "b.wav").symlink_to("../secret.wav")
    (corpus / link).symlink_to(target)
    real = os.path.realpath(corpus / name)
    assert not real.startswith(f"{corpus}/")
    assert refusal(find, corpus, name, ".") == f"a.tsv, line 3: the audio {name!r} {OUTSIDE.format(real=real)}"


def test_a_link_that_leads_in_a_circle_is_refused_or_no_file(tmp_path):
    (tmp_path / "a.wav").symlink_to("a.wav")
    assert not find(tmp_path, "a.wav", ".").is_file()


def test_links_may_lead_to_the_users_own_folder_of_audio(tmp_path):
    corpus, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"  # as caches of hubs have it
    touch(blobs, "0123")
    corpus.mkdir(parents=True)
    (corpus / "a.wav").symlink_to("../../blobs/0123")
    assert "lies outside" in refusal(find, corpus, "a.wav", ".")
    assert find(corpus, "a.wav", ".", audio=blobs) == corpus / "a.wav"
    assert "lies outside" in refusal(find, corpus, "../../other.wav", ".", audio=blobs)


def test_where_a_link_leads_cannot_break_the_message(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").symlink_to("/tmp/a\nb\x1b[2J")
    (tmp_path / "corpus" / "b.wav").symlink_to(b"/tmp/\xff".decode(errors="surrogateescape"))
    assert r"at '/tmp/a\nb\x1b[2J'." in refusal(find, tmp_path / "corpus", "a.wav", ".")
    refusal(find, tmp_path / "corpus", "b.wav", ".").encode()


def test_a_very_long_name_is_shortened_in_the_message_and_no_file(tmp_path):
    assert len(refusal(find, tmp_path, "../" * 100_000 + "a.wav", ".")) < 1000
    assert len(refusal(find, tmp_path, "x" * 1_000_000 + "|", ".")) < 1000
    assert find(tmp_path, "x" * 5000, ".") == tmp_path / ("x" * 5000)


HOSTILE = [
    "touch owned |", "|touch owned", "https://a.org/a.wav", "/etc/passwd", f"{'../' * 30}etc/passwd", "link.wav",
    "linked/a.wav", "a\x00.wav", "C:\\a.wav", "-", "\x1b.wav", "..\\" * 30 + "etc\\passwd", "",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_form_runs_fetches_or_follows_a_hostile_name(tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "elsewhere", "a.wav")
    for folder in ("", "clips", "en/audio/train", "en/audios", "data/train/wav"):  # where each form looks
        looked = tmp_path / "corpus" / folder
        looked.mkdir(parents=True, exist_ok=True)
        (looked / "link.wav").symlink_to(tmp_path / "elsewhere" / "a.wav")
        (looked / "linked").symlink_to(tmp_path / "elsewhere")
    if form == "europarl_st":  # it adds an ending, and has three words a line
        name = {"": "a b", "-": "a b", "..\\" * 30 + "etc\\passwd": "/etc/passwd"}.get(name, name)
    form, corpus, splits, place = write_one(form, tmp_path / "corpus", name)
    if form == "table" and name == "":
        assert rows(form, corpus)[0][1] == "no_audio"
    else:
        assert row_refusal(form, corpus, *splits).startswith(place)
    assert not list(tmp_path.rglob("*owned*"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same_corpus_with_a_name_that_is_none_of_these(tmp_path, form):
    form, corpus, splits, _ = write_one(form, tmp_path, "x/a.wav")
    (row,) = read(form, corpus, *splits)
    assert (row.translation, row.audio.parts[-2:]) == ("Ja.", ("x", "a.wav"))


ABSURD = ["-1", "nan", "NaN", "1e99", "inf", "-inf", "0x" + "f" * 100_000, "true", "1_0", "1:30", "[[[1]]]", "1,5", "½"]


@pytest.mark.parametrize("form", [form for form in WITH_TIMES if form not in ("nemo", "lhotse", "table of JSON")])
@pytest.mark.parametrize("value", ABSURD)
def test_absurd_times_are_refused_with_their_line(tmp_path, form, value):
    for number, times in enumerate([{"start": value, "length": "1"}, {"start": "0", "length": value}]):
        if (form, value, number) == ("kaldi", "-1", 1) or (form in ("mustc", "longform") and value == "1,5"):
            continue  # the end of the recording; a comma of YAML's own
        name, corpus, splits, place = write_one(form, tmp_path / str(number), **times)
        assert row_refusal(name, corpus, *splits).startswith(place.replace("wav.scp", "segments"))


# Form → the file that holds its rows, and another row that is broken in its times or its number of fields.
BAD_ROWS = {
    "covost2": ("covost_v2.en_de.tsv", "en_2.mp3\ttrain\n", "broken_row"),
    "mustc": ("data/train/txt/train.yaml", "- {duration: -1, offset: 2, wav: a.wav}\n", "bad_time"),
    "longform": ("train.yaml", "- {duration: .nan, offset: 2, wav: a.wav}\n", "bad_time"),
    "fleurs": ("en/train.tsv", "8\n", "broken_row"),
    "europarl_st": ("en/de/train/segments.lst", "a 1 x\n", "bad_time"),
    "kaldi": ("segments", "v r 0 1 99\n", "bad_channel"),
    "nemo": ("a.json", '{"audio_filepath": "a.wav", "offset": -7, "text": "Ja."}\n', "bad_time"),
    "lhotse": ("a.jsonl", '{"id": 5}\n', "broken_row"),
    "table": ("a.tsv", "a.wav\t1:30\t1\tJa.\n", "bad_time"),
    "table of JSON": ("a.jsonl", '{"audio": "../../a.wav", "translation": "Ja."}\n', "audio_outside"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_row_is_dropped_with_its_reason_and_the_rows_around_it_stay(tmp_path, form):
    name, corpus, splits, _ = write_one(form, tmp_path)
    whole = rows(name, corpus, *splits)
    file, row, reason = BAD_ROWS[form]
    with (tmp_path / file).open("a") as manifest:
        manifest.write(row)
    aligned = {
        "mustc": "data/train/txt/train.de",
        "longform": "train.de",
        "europarl_st": "en/de/train/segments.de",
        "kaldi": "text",
    }
    if form in aligned:
        with (tmp_path / aligned[form]).open("a") as texts:
            texts.write("v Ja.\n")
    assert len(whole) == 1
    assert [found[1] if len(found) == 2 else found for found in rows(name, corpus, *splits)] == [*whole, reason]


@pytest.mark.parametrize("form", ["nemo", "lhotse", "table of JSON"])
@pytest.mark.parametrize(
    "value", [*ABSURD, -1, 1e99, True, [1], [[[1]]], {"a": 1}, "9" * 400, "", json.loads("[" * 900 + "]" * 900)]
)
def test_absurd_times_in_json_are_refused_with_their_line(tmp_path, form, value):
    for number, times in enumerate([{"start": value}, {"length": value}]):
        if form == "table of JSON" and value == "":
            continue  # nothing, as in TSV
        name, corpus, splits, place = write_one(form, tmp_path / str(number), **times)
        assert row_refusal(name, corpus, *splits).startswith(place)


@pytest.mark.parametrize("form", ["nemo", "lhotse", "table of JSON"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "0x10", "1_0", "[" * 100_000])
def test_numbers_that_are_none_of_json_are_refused_with_their_line(tmp_path, form, value):
    name, corpus, splits, place = write_one(form, tmp_path, start=12.125)
    corpus.write_text(corpus.read_text().replace("12.125", value))
    assert row_refusal(name, corpus, *splits).startswith(place)


@pytest.mark.parametrize("form", WITH_TIMES)
def test_times_are_numbers_and_not_text(tmp_path, form):
    name, corpus, splits, _ = write_one(form, tmp_path, start=9.5, length=100.25)
    assert rows(name, corpus, *splits)[0][2][:2] == (9.5, 109.75)
