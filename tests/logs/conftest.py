"""What tests of logs share."""

import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a log of rows, or of lines as they stand."""

    def write(*rows, name="instances.log"):
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
        return path

    return write
