"""What becomes of a corpus's rows before any audio is opened: texts cleaned, unusable rows set aside, one digest."""

import unicodedata
from pathlib import Path

import pytest
from corpora_files import refusal

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.listing import clean, list_utterances, refuse_nothing
from simulsa_plugin.corpora.utterance import Dropped, EncodedAudio, Utterance

CAFE = "Café"
WAV = Path("/corpus/a.wav")


def utterance(identifier="a", audio=WAV, span=None, translation="Ja."):
    return Utterance(identifier, audio, span, translation)


def listing(tmp_path, *rows, writes=True):
    return list_utterances(iter(rows), CorpusLayout(tmp_path, "toy"), writes=writes)


def digest(tmp_path, *rows):
    return listing(tmp_path, *rows, writes=False).digest


def test_utterances_and_dropped_rows_keep_their_order(tmp_path):
    found = listing(tmp_path, utterance("b"), Dropped("x", "no_audio"), utterance("a", span=Span(1.5, 2.5)))
    assert found.utterances == [utterance("b"), utterance("a", span=Span(1.5, 2.5))]
    assert found.dropped == [Dropped("x", "no_audio")]
    assert (found.rows, found.renormalized) == (3, 0)


def test_of_rows_with_the_same_id_the_first_is_taken(tmp_path):
    found = listing(
        tmp_path, utterance(translation="eins"), utterance(translation="zwei"), utterance(translation="eins")
    )
    assert [row.translation for row in found.utterances] == ["eins"]
    assert found.dropped == [Dropped("a", "duplicate_id")] * 2


def test_a_row_that_is_no_use_does_not_take_the_id_of_one_that_is(tmp_path):
    found = listing(tmp_path, utterance(translation=" "), Dropped("a", "no_audio"), utterance(translation="Ja."))
    assert [row.translation for row in found.utterances] == ["Ja."]
    assert found.dropped == [Dropped("a", "empty_translation"), Dropped("a", "no_audio")]


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\u3000", "\u00a0", "\u2028"])
def test_texts_of_nothing_but_space_are_empty(tmp_path, text):
    found = listing(tmp_path, utterance(translation=text))
    assert (found.utterances, found.dropped) == ([], [Dropped("a", "empty_translation")])


@pytest.mark.parametrize("text", ["<audio>", "Das <image> da.", "a<video>b", "<audio><audio>"])
def test_texts_with_a_placeholder_of_llamafactory_are_dropped(tmp_path, text):
    found = listing(tmp_path, utterance(translation=text))
    assert (found.utterances, found.dropped) == ([], [Dropped("a", "placeholder_in_text")])


@pytest.mark.parametrize("text", ["<Audio>", "audio", "< audio >", "<b>Ja</b>", "NA", "nan", '"', "0"])
def test_texts_that_only_look_like_something_else_are_texts(tmp_path, text):
    assert [row.translation for row in listing(tmp_path, utterance(translation=text)).utterances] == [text]


def test_texts_are_normalized_and_the_changed_ones_counted(tmp_path):
    decomposed = unicodedata.normalize("NFD", CAFE)
    assert decomposed != CAFE
    rows = [
        utterance(str(n), translation=text) for n, text in enumerate([decomposed, CAFE, f" {CAFE}\u3000", "\u212b"])
    ]
    found = listing(tmp_path, *rows)
    assert [row.translation for row in found.utterances] == [CAFE, CAFE, CAFE, "Å"]
    assert found.renormalized == 2


def test_nothing_else_of_a_text_is_touched():
    text = 'ﬁ ² ① １ … „Ja“ a  b\n c\u200b\u00add "x" \\n <b>&amp;'
    assert clean(f"\n {text}\r\n") == text


CHANGES = {
    "another id": utterance("b"),
    "another text": utterance(translation="Nein."),
    "another file": utterance(audio=Path("/corpus/b.wav")),
    "a part": utterance(span=Span(0.0, None)),
    "another start": utterance(span=Span(1.0, 2.0)),
    "another end": utterance(span=Span(1.0, 2.5)),
    "one channel": utterance(span=Span(1.0, 2.0, 0)),
    "another channel": utterance(span=Span(1.0, 2.0, 1)),
    "audio of the table": utterance(audio=EncodedAudio(b"RIFF1", ".wav")),
    "other audio of the table": utterance(audio=EncodedAudio(b"RIFF2", ".wav")),
    "a dropped row": Dropped("a", "no_audio"),
    "another reason": Dropped("a", "no_text"),
}


def test_the_digest_is_that_of_everything_the_corpus_says(tmp_path):
    digests = {name: digest(tmp_path, row) for name, row in CHANGES.items()} | {
        "as it was": digest(tmp_path, utterance())
    }
    assert len(set(digests.values())) == len(digests)
    assert digest(tmp_path, utterance()) == digests["as it was"]
    assert digest(tmp_path / "elsewhere", utterance()) == digests["as it was"]


def test_the_digest_tells_order_number_and_normalisation_of_rows(tmp_path):
    one, two = utterance("a"), utterance("b")
    apart = [[], [one], [one, two], [two, one], [one, one], [one, Dropped("b", "no_text")]]
    apart += [[utterance(translation=text)] for text in (CAFE, unicodedata.normalize("NFD", CAFE), f"{CAFE} ")]
    assert len({digest(tmp_path, *rows) for rows in apart}) == len(apart)


def test_audio_of_a_table_is_written_beside_the_dataset(tmp_path):
    rows = [utterance("a", EncodedAudio(b"one", ".MP3")), utterance("b", EncodedAudio(b"two")), utterance("c")]
    found = listing(tmp_path, *rows)
    assert [str(row.audio) for row in found.utterances] == [
        str(tmp_path / "toy_corpus" / "audio" / "00000" / "00000000.mp3"),
        str(tmp_path / "toy_corpus" / "audio" / "00000" / "00000001.audio"),
        "/corpus/a.wav",
    ]
    assert [row.audio.read_bytes() for row in found.utterances[:2]] == [b"one", b"two"]


def test_audio_of_a_table_is_not_written_in_a_dry_run_nor_for_dropped_rows(tmp_path):
    found = listing(tmp_path, utterance(audio=EncodedAudio(b"one", ".wav")), writes=False)
    assert found.utterances[0].audio == tmp_path / "toy_corpus" / "audio" / "00000" / "00000000.wav"
    listing(tmp_path, utterance(audio=EncodedAudio(b"one", ".wav"), translation=""))
    assert not list(tmp_path.iterdir())


def test_audio_that_is_there_already_is_not_written_again(tmp_path):
    row = utterance(audio=EncodedAudio(b"one", ".wav"))
    path = listing(tmp_path, row).utterances[0].audio
    path.chmod(0o400)
    before = path.stat()
    assert listing(tmp_path, row).utterances[0].audio.stat() == before
    listing(tmp_path, utterance(audio=EncodedAudio(b"two", ".wav")))
    assert path.read_bytes() == b"two"


def test_a_recording_of_a_table_lies_where_no_part_of_it_is_written(tmp_path):
    layout = CorpusLayout(tmp_path, "toy")
    row = utterance(audio=EncodedAudio(b"one", ".wav"), span=Span(1.0, 2.0))
    (found,) = listing(tmp_path, row).utterances
    assert found.audio.read_bytes() == b"one"
    assert found.audio != layout.audio_file(0, ".wav")  # the part, which would be taken for written already
    assert found.span == Span(1.0, 2.0)


@pytest.mark.parametrize("suffix", ["", ".exe", ".wav/../../x", ".wa\x00v", "..", "./a.wav", ".py", ".WAV "])
def test_a_name_inside_a_table_decides_nothing_but_known_endings(tmp_path, suffix):
    (row,) = listing(tmp_path, utterance(audio=EncodedAudio(b"one", suffix))).utterances
    assert row.audio == tmp_path / "toy_corpus" / "audio" / "00000" / "00000000.audio"


def test_a_row_with_bytes_that_are_no_utf8_is_dropped_and_its_id_can_be_written(tmp_path):
    bad = b"zw\xf6lf".decode(errors="surrogateescape")
    found = listing(tmp_path, utterance("a", translation=bad), utterance(bad), Dropped(bad, "no_text"), utterance("b"))
    assert [row.id for row in found.utterances] == ["b"]
    assert [(row.id, row.reason) for row in found.dropped] == [
        ("a", "not_utf8"), (r"zw\udcf6lf", "not_utf8"), (r"zw\udcf6lf", "no_text"),
    ]  # fmt: skip


def test_the_first_cause_says_why_nothing_of_a_corpus_can_be_used(tmp_path):
    found = listing(tmp_path, Dropped("a", "no_audio"), Dropped("b", "bad_time", "a.tsv, line 3: the start is 'x'."))
    assert refusal(refuse_nothing, found, "/corpus") == (
        "No utterance of /corpus can be used: bad_time, no_audio. The first cause: a.tsv, line 3: the start is 'x'."
    )


def test_a_corpus_with_nothing_to_use_is_refused_with_the_reasons(tmp_path):
    empty = listing(tmp_path, Dropped("a", "no_audio"), utterance(translation=""), Dropped("b", "no_audio"))
    assert refusal(refuse_nothing, empty, "/corpus") == (
        "No utterance of /corpus can be used: empty_translation, no_audio. Check the split, languages and files."
    )
    assert "it has no rows" in refusal(refuse_nothing, listing(tmp_path), "/corpus")
    assert refuse_nothing(listing(tmp_path, utterance()), "/corpus") is None
