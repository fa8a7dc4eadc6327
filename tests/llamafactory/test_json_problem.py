"""The first line of a dataset's file that is not JSON."""

import pytest

from simulsa_plugin.llamafactory.data.json_problem import json_problem


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n\nnot json\n', "line 3: not JSON (Expecting value at column 1)"),
        ("a.json", b'[{"a": 1},\n {"a": }]', "line 2: not JSON (Expecting value at column 8)"),
        ("a.json", b'[\n{"a": 1}\n', "line 3: not JSON (Expecting ',' delimiter at column 1)"),
    ],
)
def test_the_line_is_named(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    assert json_problem(path) == f"{path}, {said}"


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", b'{"a": 1}\n{"a": 2}'), ("a.json", b' [{"a": 1}]'), ("a.csv", b"a,b\n1,2\n")]
)
def test_nothing_is_said_of_files_that_can_be_parsed_or_are_of_another_form(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert json_problem(path) is None


def test_bytes_that_are_not_utf8_are_said(tmp_path):
    for content in (b'["\xff"]', b'"a"\n"\xff"\n'):
        path = tmp_path / "a.json"
        path.write_bytes(content)
        assert "can't decode byte 0xff" in json_problem(path)
