"""Text files of corpora: what a line is, what no line may be, and texts that belong together line by line."""

import gzip
import os
import tracemalloc

import pytest
from corpora_files import refusal, write_text

from simulsa_plugin.corpora.lines import (
    MAX_LINE_BYTES,
    listed,
    numbered_lines,
    read_aligned,
    read_csv,
    read_objects,
    read_tsv,
)

SMALL = 8 * MAX_LINE_BYTES  # bytes of memory; a fraction of what the hostile files hold


def all_of(reader, path, *arguments):
    return list(reader(path, *arguments))


def refused(reader, path, *arguments):
    return refusal(all_of, reader, path, *arguments)


def write_bytes(path, content):
    path.write_bytes(content)
    return path


def write_gzip(path, text, members=1):
    """One piece of text, compressed once and written again and again: that makes a large file in no time."""
    return write_bytes(path, gzip.compress(text.encode(), compresslevel=9) * members)


def memory_of(action, *arguments):
    tracemalloc.start()
    try:
        found = action(*arguments)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = write_text(tmp_path / "a", "eins\u2028zwei\u2029drei\u0085vier\nfünf\x0b\x0c\x1csechs\rsieben\n")
    assert all_of(numbered_lines, path) == [
        (1, "eins\u2028zwei\u2029drei\u0085vier"),
        (2, "fünf\x0b\x0c\x1csechs\rsieben"),
    ]


@pytest.mark.parametrize("bom", [True, False])
@pytest.mark.parametrize("crlf", [True, False])
def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path, bom, crlf):
    path = write_text(tmp_path / "a", "eins\n\nzwei", bom=bom, crlf=crlf)
    assert all_of(numbered_lines, path) == [(1, "eins"), (2, ""), (3, "zwei")]


def test_a_byte_order_mark_inside_the_file_is_text(tmp_path):
    path = write_text(tmp_path / "a", "eins\n\ufeffzwei\n", bom=True)
    assert all_of(numbered_lines, path) == [(1, "eins"), (2, "\ufeffzwei")]


def test_the_last_line_needs_no_line_feed_and_one_at_the_end_makes_no_line(tmp_path):
    assert all_of(numbered_lines, write_text(tmp_path / "a", "eins\nzwei\r")) == [(1, "eins"), (2, "zwei")]
    assert all_of(numbered_lines, write_text(tmp_path / "b", "eins\nzwei\n")) == [(1, "eins"), (2, "zwei")]
    assert all_of(numbered_lines, write_text(tmp_path / "c", "")) == []


def test_gzip_is_read_by_its_name_also_of_several_members(tmp_path):
    path = write_gzip(tmp_path / "a.gz", "\ufeffeins\r\nzwei\r\n", members=2)
    assert all_of(numbered_lines, path) == [(1, "eins"), (2, "zwei"), (3, "\ufeffeins"), (4, "zwei")]


def test_what_is_no_utf8_is_marked_in_its_line_and_refused_in_the_first(tmp_path):
    path = write_bytes(tmp_path / "a.txt", "eins\nzwölf\n".encode("latin-1"))
    assert all_of(numbered_lines, path) == [
        (1, "eins"),
        (2, "zw\udcf6lf"),
    ]  # PEP 383; `list_utterances` drops the row
    path = write_bytes(tmp_path / "b", "zwölf\n".encode("latin-1"))
    assert refused(numbered_lines, path) == (
        f"{path}, line 1: not UTF-8 (invalid start byte). Convert the file to UTF-8."
    )
    assert "line 1: not UTF-8" in refused(numbered_lines, write_bytes(tmp_path / "c", "eins\n".encode("utf-16")))


def test_a_line_may_be_a_mebibyte_and_no_more(tmp_path):
    longest = write_bytes(tmp_path / "a", b"x" * (MAX_LINE_BYTES - 1) + b"\nzwei\n")
    assert [len(text) for _, text in numbered_lines(longest)] == [MAX_LINE_BYTES - 1, 4]
    longer = write_bytes(tmp_path / "b", b"eins\n" + b"x" * (MAX_LINE_BYTES + 1))
    assert refused(numbered_lines, longer) == (
        f"{longer}, line 2: longer than 1048576 bytes, which no line of a corpus is."
    )


@pytest.mark.parametrize("reader", [numbered_lines, read_objects, read_tsv, read_csv])
def test_a_line_of_gigabytes_is_refused_in_little_memory(tmp_path, reader):
    path = tmp_path / "sparse"
    with path.open("wb") as handle:
        handle.truncate(8 << 30)
    message, peak = memory_of(refused, reader, path)
    assert message == f"{path}, line 1: longer than 1048576 bytes, which no line of a corpus is."
    assert peak < SMALL


def test_a_gzip_bomb_of_one_line_is_refused_in_little_memory(tmp_path):
    path = write_gzip(tmp_path / "bomb.jsonl.gz", "0" * (8 << 20), members=128)
    assert path.stat().st_size < 8 << 20
    message, peak = memory_of(refused, read_objects, path)
    assert message == f"{path}, line 1: longer than 1048576 bytes, which no line of a corpus is."
    assert peak < SMALL


def test_a_gzip_bomb_of_many_lines_is_refused(tmp_path):
    path = write_gzip(tmp_path / "bomb.tsv.gz", f"{'x' * 2000}\n" * 2000, members=16)
    message, peak = memory_of(refusal, lambda: sum(1 for _ in numbered_lines(path)))
    assert message.endswith("unpacks to more than 200 times its size, which no corpus does.")
    assert f"{path}, line " in message
    assert peak < SMALL


def test_a_manifest_whose_lines_are_much_alike_is_no_bomb(tmp_path):
    row = '{"audio_filepath": "/data/corpus/train/wav/common_voice_en_%d.wav", "offset": %d, "answer": "Ja."}\n'
    path = write_gzip(tmp_path / "a.jsonl.gz", "".join(row % (n, n % 7) for n in range(200_000)))
    assert sum(1 for _ in numbered_lines(path)) == 200_000


def broken_gzips():
    whole = gzip.compress(("eins\n" * 5000).encode())
    noise = gzip.compress(os.urandom(5000).hex().encode())
    return {
        "cut": whole[: len(whole) // 2],
        "no gzip": b"eins\nzwei\n",
        "garbage behind it": whole + b"garbage",
        "broken inside": noise[:200] + bytes(100) + noise[300:],
        "another checksum": whole[:-8] + bytes(4) + whole[-4:],
        "header alone": whole[:5],
    }


@pytest.mark.parametrize("kind", list(broken_gzips()))
def test_broken_gzip_is_refused(tmp_path, kind):
    path = write_bytes(tmp_path / "a.gz", broken_gzips()[kind])
    assert refused(numbered_lines, path).startswith(f"Cannot read {path}")


def test_an_empty_gzip_has_no_lines(tmp_path):
    assert all_of(numbered_lines, write_bytes(tmp_path / "a.gz", b"")) == []


def test_what_is_no_file_is_refused_at_once(tmp_path):
    assert refused(numbered_lines, tmp_path / "a") == f"Cannot read {tmp_path / 'a'}: No such file or directory."
    assert refused(numbered_lines, tmp_path) == f"{tmp_path} is not a regular file."
    os.mkfifo(tmp_path / "pipe")
    assert refused(numbered_lines, tmp_path / "pipe") == f"{tmp_path / 'pipe'} is not a regular file."
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert refused(numbered_lines, tmp_path / "endless") == f"{tmp_path / 'endless'} is not a regular file."


def aligned(tmp_path, text, count):
    return read_aligned(write_text(tmp_path / "segments.de", text), count, tmp_path / "segments.lst")


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("eins\nzwei\ndrei\n", ["eins", "zwei", "drei"]),
        ("eins\nzwei\ndrei", ["eins", "zwei", "drei"]),
        ("eins\n\ndrei\n", ["eins", "", "drei"]),
        ("\n\n\n", ["", "", ""]),
        ("eins\nzwei\n\n", ["eins", "zwei", ""]),
        ("eins\nzwei\ndrei\n\n \n", ["eins", "zwei", "drei"]),
    ],
)
def test_texts_are_aligned_line_by_line_and_empty_ones_stay_in_their_place(tmp_path, text, texts):
    assert aligned(tmp_path, text, 3) == texts


@pytest.mark.parametrize(
    ("text", "lines"),
    [("eins\nzwei\n", 2), ("eins\nzwei\ndrei\nvier\n", 4), ("", 0), ("eins\nzwei\n\nvier\n\n", 4)],
)
def test_texts_that_are_fewer_or_more_than_the_segments_are_refused(tmp_path, text, lines):
    assert refusal(aligned, tmp_path, text, 3) == (
        f"{tmp_path / 'segments.de'} has {lines} lines, and {tmp_path / 'segments.lst'} has 3 entries: which belong "
        "together is not known. Get both files from the same release."
    )


def test_objects_are_numbered_by_line_and_empty_lines_are_passed_over(tmp_path):
    path = write_text(tmp_path / "a.jsonl", '{"a": "ü"}\n\n  \n{"b": 1}', bom=True, crlf=True)
    assert all_of(read_objects, path) == [(1, {"a": "ü"}), (4, {"b": 1})]


@pytest.mark.parametrize(
    "line",
    [
        '{"a": ', "{'a': 1}", '{"a": 1} x', '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": "\\ud800"}',
        f'{{"a": {"9" * 1000}}}', "[" * 100_000, '{"a": ' * 100_000, f"{'[' * 100_000}{']' * 100_000}",
        f'{{"a": {"[" * 100_000}{"]" * 100_000}}}', "\x00", '{"a": "\n',
    ],
)  # fmt: skip
def test_broken_json_is_said_of_its_line(tmp_path, line):
    path = write_text(tmp_path / "a.jsonl", f'{{"a": 1}}\n{line}\n{{"a": 3}}\n')
    first, broken, *_, last = all_of(read_objects, path)
    assert (first, last[1]) == ((1, {"a": 1}), {"a": 3})
    assert broken[1].reason == "broken_row" and str(broken[1]).startswith(f"{path}, line 2: not valid JSON (")
    assert "line 1" not in str(broken[1])


@pytest.mark.parametrize(
    ("line", "kind"), [("[1]", "list"), ('"a"', "str"), ("1", "int"), ("null", "NoneType"), ("true", "bool")]
)
def test_json_that_is_no_object_is_said_of_its_line(tmp_path, line, kind):
    path = write_text(tmp_path / "a.jsonl", f"{line}\n")
    ((_, error),) = all_of(read_objects, path)
    assert str(error) == f"{path}, line 1: a JSON {kind}; expected an object."


def test_quotes_and_na_are_text_in_tsv(tmp_path):
    path = write_text(
        tmp_path / "a.tsv",
        'path\ttext\n1.mp3\t"Ja\n2.mp3\tNA\n3.mp3\t""\n4.mp3\tnull\n5.mp3\tsag "ja", \'nein\'\n"6.mp3\tnan"\n7.mp3\t\n',
    )
    assert [tuple(row.values()) for _, row in read_tsv(path)] == [
        ("1.mp3", '"Ja'), ("2.mp3", "NA"), ("3.mp3", '""'), ("4.mp3", "null"), ("5.mp3", "sag \"ja\", 'nein'"),
        ('"6.mp3', 'nan"'), ("7.mp3", ""),
    ]  # fmt: skip


def test_rows_of_tsv_with_too_few_or_too_many_fields_are_broken_and_keep_their_number(tmp_path):
    path = write_text(tmp_path / "a.tsv", "a\tb\n1\t2\n3\n\n4\t5\t6\n7\t8\n", bom=True, crlf=True)
    assert all_of(read_tsv, path) == [(2, {"a": "1", "b": "2"}), (3, None), (5, None), (6, {"a": "7", "b": "8"})]


def test_a_missing_column_of_tsv_is_named_with_those_that_are_there(tmp_path):
    path = write_text(tmp_path / "a.tsv", "path\ttext\n")
    assert refused(read_tsv, path, ("path", "translation", "split")) == (
        f"{path} has no column translation, split; its columns: path, text."
    )
    empty = write_text(tmp_path / "b.tsv", "")
    assert refused(read_tsv, empty, ("path",)) == f"{empty} has no column path; its columns: none."


@pytest.mark.parametrize(("reader", "text"), [(read_tsv, "a\tb\ta\n"), (read_csv, "a,b,a\n")])
def test_a_column_that_is_there_twice_is_refused(tmp_path, reader, text):
    path = write_text(tmp_path / "a", text)
    assert refused(reader, path) == f"{path} has the column a twice. Rename one."


def test_columns_without_a_name_may_be_several(tmp_path):
    path = write_text(tmp_path / "a.csv", ",a,,\n0,x,,\n")
    assert all_of(read_csv, path) == [(2, {"": "", "a": "x"})]


def test_quoted_fields_of_csv_hold_line_feeds_commas_and_quotes(tmp_path):
    path = write_text(tmp_path / "a.csv", 'a,b\n"eins\nzwei","sag ""ja"", ja"\n,NA\n\n"",x\n', bom=True, crlf=True)
    assert all_of(read_csv, path) == [
        (3, {"a": "eins\nzwei", "b": 'sag "ja", ja'}),
        (4, {"a": "", "b": "NA"}),
        (6, {"a": "", "b": "x"}),
    ]


def test_rows_of_csv_with_too_few_or_too_many_fields_are_broken(tmp_path):
    assert all_of(read_csv, write_text(tmp_path / "a.csv", "a,b\n1\n2,3,4\n5,6\n")) == [
        (2, None), (3, None), (4, {"a": "5", "b": "6"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a,b\n1,"offen\n2,x\n3,y\n', 4),  # open to the end of the file
        ('a,b\n1,"x"y\n2,x\n', 2),
        (f'a,b\n1,"{"x" * 200_000}"\n', 2),  # longer than csv's own limit
    ],
)
def test_broken_quoting_of_csv_is_refused(tmp_path, text, line):
    path = write_text(tmp_path / "a.csv", text)
    message = refused(read_csv, path)
    assert message.startswith(f"{path}, line {line}: ") and message.endswith("Fix its quoting.")


def test_a_quote_that_is_never_closed_takes_little_memory(tmp_path):
    path = write_text(tmp_path / "a.csv", 'a,b\n1,"' + f"{'x' * 1000}\n" * 20_000)
    message, peak = memory_of(refused, read_csv, path)
    assert "Fix its quoting." in message and peak < SMALL


def test_names_in_messages_stay_one_short_line():
    assert listed(["a\nb", "c\u2028d", "e\rf", "ü 你"]) == r"'a\nb', 'c\u2028d', 'e\rf', ü 你"
    assert listed(str(number) for number in range(1000)) == ", ".join(map(str, range(20))) + ", …"
    assert listed(["x" * 10_000]) == "x" * 80
