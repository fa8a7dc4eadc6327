"""Text files of corpora, line by line: no quoting, no missing values, no line without end."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import orjson

from simulsa_plugin.errors import DatasetError

MAX_LINE_BYTES = 1 << 20  # a transcript is thousands of times shorter; what is longer is no line of a corpus
_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""(line number from 1, text) of a UTF-8 file, through gzip where its name ends in .gz.

    Only a line feed ends a line: U+2028 and its like stand inside sentences. A carriage return before it, and a byte
    order mark, are left out.

    Raises:
        DatasetError: the file cannot be read, or a line is longer than 1 MiB or no UTF-8; the line is named.
    """
    try:
        with _open(path) as handle:
            number = 0
            while line := handle.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DatasetError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes, which no line of a corpus is."
                    )
                yield number, _text(line.removeprefix(_BOM) if number == 1 else line, path, number)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def read_aligned(path: Path, count: int, table: Path) -> list[str]:
    """The lines of a file that belong, one by one, to the `count` entries of `table`; empty lines may follow.

    Raises:
        DatasetError: as `read_lines`, or there are fewer or more of them: no line can be trusted then.
    """
    texts = [text for _, text in read_lines(path)]
    while len(texts) > count and not texts[-1].strip():
        texts.pop()
    if len(texts) != count:
        raise DatasetError(
            f"{path} has {len(texts)} lines, and {table} has {count} entries: which belong together is not known. "
            "Get both files from the same release."
        )
    return texts


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file, through gzip where its name ends in .gz; empty lines are passed over.

    Raises:
        DatasetError: as `read_lines`, or a line is no JSON object.
    """
    for number, text in read_lines(path):
        if not text.strip():
            continue
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {number}: no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}, line {number}: a JSON {type(row).__name__}; expected an object.")
        yield number, row


def read_tsv(path: Path, needed: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(line number, row) of a tab-separated file with a header; quotes and NA are text like any other.

    A row with another number of fields than the header gives None.

    Raises:
        DatasetError: as `read_lines`, or a needed column is missing.
    """
    lines = read_lines(path)
    header = next(lines, (0, ""))[1].split("\t")
    missing = [column for column in needed if column not in header]
    if missing:
        raise DatasetError(f"{path} has no column {', '.join(missing)}; its columns: {', '.join(header)}.")
    for number, text in lines:
        fields = text.split("\t")
        if len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        elif text:
            yield number, None


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(number of its last line, row) of a comma-separated file with a header; quoted fields may hold line feeds.

    A row with another number of fields than the header gives None.

    Raises:
        DatasetError: as `read_lines`, or the quoting is broken.
    """
    rows = csv.reader((f"{text}\n" for _, text in read_lines(path)), strict=True)
    try:
        header = next(rows, [])
        for row in rows:
            if row:
                yield rows.line_num, dict(zip(header, row, strict=True)) if len(row) == len(header) else None
    except csv.Error as error:
        raise DatasetError(f"{path}, line {rows.line_num}: {error}. Mend its quoting.") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def _text(line: bytes, path: Path, number: int) -> str:
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}, line {number}: not UTF-8 ({error.reason}). Convert the file to UTF-8.") from error
