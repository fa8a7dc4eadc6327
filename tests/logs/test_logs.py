"""Logs of SimulEval: what is read, what is refused, and how each refusal reads.

Expected values: SimulEval's documented log lines and its source; refusals are those of the project's contract.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.files import read_json_lines

from simulsa_plugin.errors import LogError
from simulsa_plugin.logs import json_rows as rows
from simulsa_plugin.logs import reader as reading
from simulsa_plugin.logs.log_checker import LogChecker
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.simuleval import write_simuleval_log
from simulsa_plugin.metrics.records import EmissionRecord

DATA = Path(__file__).parents[1] / "data" / "latency"
ROW = {
    "index": 0,
    "prediction": "a b",
    "delays": [500.0, 1000.0],
    "elapsed": [600.0, 1200.0],
    "prediction_length": 2,
    "reference": "a c",
    "source": ["x.wav", "samplerate: 16000 Hz"],
    "source_length": 1000.0,
}
ROW_1_0 = ROW | {
    "prediction": "a b </s>",
    "delays": [500.0, 1000.0, 1000.0],
    "elapsed": [600.0, 1200.0, 1201.0],
    "prediction_length": 3,
    "reference_length": 2,
    "metric": {"sentence_bleu": 10.0, "latency": {"AL": 1.0}, "latency_ca": {"AL": 2.0}},
}


@dataclasses.dataclass(frozen=True)
class Read:
    """A log read to its end."""

    form: str
    records: tuple[EmissionRecord, ...]
    end_marks: int
    missing_reference: tuple[int, ...]
    repeated_index: tuple[int, ...]


def read_log(path: Path, references: Path | None = None) -> Read:
    log = Log(path, ReadOptions(references=references))
    records = tuple(log.records())
    return Read(log.form, records, log.end_marks, tuple(log.missing_reference.first), tuple(log.repeated_index.first))


def read_texts(path: Path) -> list[str]:
    return list(reading.read_texts(path))


def check_unit_fits(path: Path, unit: str) -> None:
    for _ in LogChecker(Log(path), unit).checked_records():
        pass


def test_a_line_of_1_1_becomes_a_record(write):
    log = read_log(write(ROW))
    assert log.form == "SimulEval 1.1"
    assert log.records == (
        EmissionRecord(0, "a b", "a c", (500.0, 1000.0), (600.0, 1200.0), 1000.0, ("x.wav", "samplerate: 16000 Hz")),
    )


def test_a_line_of_1_0_becomes_the_record_that_1_1_would_write(write):
    log = read_log(write(ROW_1_0))
    assert (log.form, log.end_marks) == ("SimulEval 1.0", 1)
    assert log.records == read_log(write(ROW)).records


def test_an_end_mark_in_a_log_of_1_1_is_a_word_like_any_other(write):
    (record,) = read_log(write(ROW | {"prediction": "a </s>"})).records
    assert (record.prediction, len(record.delays)) == ("a </s>", 2)


@pytest.mark.parametrize("name", ["word.instances.log", "char.instances.log"])
def test_what_is_written_reads_the_same_and_is_what_simuleval_wrote(name, tmp_path):
    records = read_log(DATA / name).records
    write_simuleval_log(tmp_path / "copy.log", records)
    assert read_log(tmp_path / "copy.log").records == records
    written = read_json_lines(tmp_path / "copy.log")
    original = read_json_lines(DATA / name)
    for ours, theirs in zip(written, original, strict=True):
        assert list(ours) == list(theirs)
        # Some lines carry more delays than words: SimulEval counted the words, we count the delays.
        assert ours | {"prediction_length": 0} == theirs | {"prediction_length": 0}


TEXT = ROW | {"source": "we go home now", "source_length": 4, "delays": [2, 4], "elapsed": [0, 0]}  # as SimulEval 1.1.4


@pytest.mark.parametrize("key", ["elapsed", "emission_ca"])
def test_elapsed_times_of_zeros_alone_were_not_measured(write, key):
    row = {"prediction": "a b", "reference": "a c", "source_length": 2000.0, key: [0, 0]}
    row |= {"delays" if key == "elapsed" else "emission_cu": [500.0, 1000.0]}
    assert [record.elapsed for record in read_log(write(row, row)).records] == [None, None]
    # of a log with some that were measured, SimulEval's means have the zeros as well
    assert [record.elapsed for record in read_log(write(row, row | {key: [600.0, 1200.0]})).records] == [
        (0.0, 0.0),
        (600.0, 1200.0),
    ]


@pytest.mark.parametrize(
    ("more", "is_text"),
    [
        ({}, True),
        ({"source_length": 5, "delays": [2, 5]}, True),  # an end mark was counted
        ({"source": "", "source_length": 0, "delays": []}, True),
        ({"source": "talk.wav", "source_length": 2000.0, "delays": [500.0, 1000.0]}, False),
        ({"source": "my long talk.wav", "source_length": 3.0, "delays": [1.5, 2.5]}, False),  # 3 ms, no tokens
        ({"source": ["we go home now"]}, False),
        ({"source": None}, False),
        ({"source_length": None}, False),
    ],
)
def test_a_source_of_text_is_as_long_as_its_tokens(write, more, is_text):
    (record,) = read_log(write(TEXT | more)).records
    assert record.text_source is is_text


def test_times_that_were_not_measured_are_not_written(tmp_path):
    write_simuleval_log(tmp_path / "x.log", [EmissionRecord(0, "a", "a", (1.0,), None, 2.0, "x.wav")])
    assert "elapsed" not in json.loads((tmp_path / "x.log").read_text())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 2: not valid JSON \(Expecting property name enclosed in double quotes at column 2\)"),
        ("[1, 2]", "line 2: a JSON list; expected an object"),
        ('{"index": 1, "prediction": "a", "delays": [NaN]}', "line 2: holds NaN"),
        ('{"index": 1, "prediction": "a", "delays": [Infinity]}', "line 2: holds Infinity"),
        ('{"index": 1, "prediction": "a", "delays": [1e999]}', "line 2: delays holds inf"),
        (
            '{"index": 1, "prediction": "a", "delays": [%s]}' % ("9" * 400),
            "line 2: delays holds a number of 400 digits",
        ),
        ('{"index": 1, "prediction": "a", "delays": [%s]}' % ("9" * 9000), "line 2: not valid JSON"),
        ('{"index": 1, "prediction": "a", "delays": ["1"]}', 'line 2: delays holds "1"; expected milliseconds'),
        ('{"index": 1, "prediction": "a", "delays": [true]}', "line 2: delays holds true"),
        ('{"index": 1, "prediction": "a", "delays": 5}', "line 2: delays is 5; expected a list"),
        ('{"index": 1, "prediction": "a", "delays": null}', "line 2: no delays"),
        ('{"index": 1, "prediction": "a"}', "line 2: no delays"),
        ('{"index": 1, "delays": [1]}', "line 2: prediction is null; expected a text"),
        ('{"index": 1, "prediction": ["a"], "delays": [1]}', r'line 2: prediction is \["a"\]; expected a text'),
        ('{"index": 1, "prediction": "a", "delays": [1], "reference": 3}', "line 2: reference is 3; expected a text"),
        ('{"index": "1", "prediction": "a", "delays": [1]}', 'line 2: index is "1"; expected a whole number'),
        ('{"index": 1, "prediction": "a", "delays": [1], "source_length": NaN}', "line 2: holds NaN"),
        ('{"index": 1, "prediction": "a", "delays": [1], "source_length": "x"}', 'source_length holds "x"'),
        ('{"index": 1, "prediction": "a", "delays": [1], "elapsed": [{}]}', "line 2: elapsed holds {}"),
        ("[" * 100000, "line 2: not valid JSON"),
        ('{"index": 1, "prediction": "\\ud800", "delays": [1]}', "line 2: prediction holds a lone surrogate"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(write, line, message):
    path = write(ROW, line, ROW)
    with pytest.raises(LogError, match=message) as caught:
        read_log(path)
    assert str(path) in str(caught.value)
    assert "line 1" not in str(caught.value)  # the parser's, which sees one line


def test_a_line_that_is_no_utf_8_is_refused_with_its_number(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(json.dumps(ROW).encode() + b"\n\xff\xfe\n")
    with pytest.raises(LogError, match="line 2: not valid JSON"):
        read_log(path)


def test_blank_lines_are_passed_over_at_the_end_only(write):
    assert len(read_log(write(ROW, "", " ")).records) == 1
    with pytest.raises(LogError, match="line 2: a blank line"):
        read_log(write(ROW, "", ROW))


def test_a_line_without_end_is_not_read_to_its_end(write, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST_LOG_LINE", 1000)
    with pytest.raises(LogError, match="line 2: longer than 1000 bytes"):
        read_log(write(ROW, ROW | {"prediction": "a" * 1000}))


def test_a_device_that_never_ends_is_refused():
    with pytest.raises(LogError, match="line 1: longer than"):
        read_log(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r'an unknown form \(its keys: \["text"\]\)\. .*SimulEval 1.0 and 1.1'),
        ({}, "an unknown form .*SimulEval 1.0 and 1.1"),
        (ROW | {"durations": [1.0], "prediction": "0_pred.wav"}, "a log of speech output"),
    ],
)
def test_another_form_is_refused_with_those_that_are_read(write, row, message):
    with pytest.raises(LogError, match=f"line 1: {message}") as caught:
        read_log(write(row))
    assert "\n" not in str(caught.value)


def test_an_empty_file_a_folder_and_nothing_are_refused(tmp_path, write):
    with pytest.raises(LogError, match="holds no line"):
        read_log(write())
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogError, match=r"is a folder; expected a log\. The forms read are"):
        read_log(tmp_path / "empty")
    with pytest.raises(LogError, match="No such file"):
        read_log(tmp_path / "nothing.log")


@pytest.mark.parametrize(
    ("cells", "asked", "said"),
    [
        (["offline", "rollback_k500_b3"], "", "{out}/rollback_k500_b3/instances.log; the scores of all cells are in"),
        (["offline"], "", "a log. It holds one for each of 1 cells, such as {out}/offline/instances.log"),
        (["offline"], "offline", "the log in it, {out}/offline/instances.log."),
    ],
)
def test_instead_of_a_folder_the_log_in_it_is_named(write, tmp_path, cells, asked, said):
    line = write(ROW).read_bytes()
    for name in cells:
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "instances.log").write_bytes(line)
    with pytest.raises(LogError) as caught:
        read_log(tmp_path / "out" / asked)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'out' / asked} is a folder; expected ")
    assert said.format(out=tmp_path / "out") in message
    (named,) = {word.rstrip(".;,") for word in message.split() if word.rstrip(".;,").endswith("instances.log")} - {
        "instances.log"
    }
    read_log(Path(named))  # can be read


def test_references_take_the_place_of_the_logs_own_in_order(write, tmp_path):
    (tmp_path / "refs.txt").write_bytes("x\u2028y\r\n\n".encode())  # one holds a separator, one is empty
    log = read_log(write(ROW, {key: value for key, value in ROW.items() if key != "reference"}), tmp_path / "refs.txt")
    assert [record.reference for record in log.records] == ["x\u2028y", ""]
    assert log.missing_reference == ()


@pytest.mark.parametrize("text", ["", "a\n", "a\nb\nc\n", "a\nb\n\n"])
def test_references_must_be_as_many_as_lines(write, tmp_path, text):
    (tmp_path / "refs.txt").write_text(text)
    with pytest.raises(LogError, match=rf"refs.txt holds {text.count(chr(10))} lines, .*instances.log holds 2"):
        read_log(write(ROW, ROW), tmp_path / "refs.txt")


def test_references_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(LogError, match=r"Cannot read the references .*No such file"):
        read_texts(tmp_path / "nothing.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    with pytest.raises(LogError, match=r"Cannot read the references .*utf-8"):
        read_texts(tmp_path / "latin.txt")


def test_a_missing_and_a_null_reference_are_told_apart(write):
    log = read_log(write({key: value for key, value in ROW.items() if key != "reference"}, ROW | {"reference": None}))
    assert [record.reference for record in log.records] == ["", None]  # as SimulEval reads them
    assert log.missing_reference == (1,)


def test_an_index_that_comes_twice_is_noted(write):
    assert read_log(write(ROW, ROW | {"index": 1}, ROW)).repeated_index == (3,)


def test_a_unit_that_does_not_fit_most_lines_is_refused_with_the_one_that_does():
    word, char = DATA / "word.instances.log", DATA / "char.instances.log"
    check_unit_fits(word, "word")
    check_unit_fits(char, "char")
    # Of 88 lines with a text, 82 in char.instances.log hold no single word per delay.
    with pytest.raises(LogError, match=r"line 1: 18 delays for 1 units; .* Give --unit char, which fits 86"):
        check_unit_fits(char, "word")
    with pytest.raises(LogError, match="Give --unit word"):
        check_unit_fits(word, "char")


def test_delays_of_neither_unit_are_refused_unless_the_line_stands_alone(write):
    odd = ROW | {"delays": [1.0, 2.0, 3.0, 4.0, 5.0]}
    check_unit_fits(write(odd), "word")
    with pytest.raises(LogError, match=r"does not fit 2 of 2 lines. Neither unit fits"):
        check_unit_fits(write(odd, odd), "word")


def test_lines_without_a_word_say_nothing_about_the_unit(write):
    blank = ROW | {"prediction": "  ", "delays": [1.0]}
    check_unit_fits(write(blank, blank, ROW), "word")


def test_a_byte_order_mark_is_no_part_of_a_text(write, tmp_path):
    (tmp_path / "refs.txt").write_bytes(b"\xef\xbb\xbfa c\n")
    (record,) = read_log(write("\ufeff" + json.dumps(ROW)), tmp_path / "refs.txt").records
    assert record.reference == "a c"


def test_half_of_the_lines_are_not_most(write):
    check_unit_fits(write(ROW, ROW | {"delays": [1.0]}), "word")
