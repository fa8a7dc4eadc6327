"""Text files of corpora, line by line: no quoting, no missing values, no line without end."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import orjson

from simulsa_plugin.errors import DatasetError, RowError
from simulsa_plugin.files.json_files import parse_problem

MAX_LINE_BYTES = 1 << 20  # a transcript is thousands of times shorter; a longer one is not a line of a corpus
_MAX_GROWTH = 200  # bytes that a byte of gzip may become, beyond one line; manifests grow ten- to twentyfold
_BOM = b"\xef\xbb\xbf"


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield (line number from 1, text) of a UTF-8 file, through gzip where its name ends in .gz.

    Only a line feed ends a line: U+2028 and its like stand inside sentences. A carriage return before it, and a byte
    order mark, are left out. In a later line, bytes that are not UTF-8 become lone surrogates (PEP 383), and whoever
    gathers rows drops those that hold one: see `list_utterances`.

    Raises:
        DatasetError: the file cannot be read, is not UTF-8 from its first line on, or a line is longer than 1 MiB, or
            what is compressed is out of all proportion; the line is named.
    """
    number = 0
    try:
        with _open_text(path) as handle:
            left = _allowed_bytes(path)
            while line := handle.readline(MAX_LINE_BYTES + 1):
                number += 1
                left -= len(line)
                _refuse_large(line, left, f"{path}, line {number}")
                yield number, _text(line.removeprefix(_BOM) if number == 1 else line, path, number)
    except (OSError, EOFError, zlib.error) as error:
        place = f"{path}, line {number + 1}" if number else str(path)
        raise DatasetError(f"Cannot read {place}: {getattr(error, 'strerror', None) or error}.") from error


def read_aligned(path: Path, count: int, table: Path) -> list[str]:
    """Return the lines of a file that belong, one by one, to the `count` entries of `table`; empty lines may follow.

    Raises:
        DatasetError: as `numbered_lines`, or there are fewer or more of them: no line can be trusted then.
    """
    texts = [text for _, text in numbered_lines(path)]
    while len(texts) > count and not texts[-1].strip():
        texts.pop()
    if len(texts) != count:
        raise DatasetError(
            f"{path} has {len(texts)} lines, and {table} has {count} entries: which belong together is not known. "
            "Get both files from the same release."
        )
    return texts


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """Yield (line number, object) of a JSONL file, through gzip where its name ends in .gz; empty lines are skipped.

    A line that is not a JSON object gives what is wrong with it.

    Raises:
        DatasetError: as `numbered_lines`.
    """
    for number, text in numbered_lines(path):
        if not text.strip():
            continue
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield number, RowError("broken_row", f"{path}, line {number}: not valid JSON ({parse_problem(error)}).")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            kind = type(row).__name__
            yield number, RowError("broken_row", f"{path}, line {number}: a JSON {kind}; expected an object.")


def read_tsv(path: Path, needed: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield (line number, row) of a tab-separated file with a header; quotes and NA are text like any other.

    A row with another number of fields than the header gives None.

    Raises:
        DatasetError: as `numbered_lines`, or a needed column is missing.
    """
    lines = numbered_lines(path)
    header = next(lines, (0, ""))[1].split("\t")
    _check_header(header, path, needed)
    for number, text in lines:
        fields = text.split("\t")
        if len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        elif text:
            yield number, None


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yield (number of its last line, row) of a comma-separated file with a header; quoted fields may hold line feeds.

    A row with another number of fields than the header gives None.

    Raises:
        DatasetError: as `numbered_lines`, or the quoting is broken.
    """
    rows = csv.reader((f"{text}\n" for _, text in numbered_lines(path)), strict=True)
    try:
        header = next(rows, [])
        _check_header(header, path)
        for row in rows:
            if row:
                yield rows.line_num, dict(zip(header, row, strict=True)) if len(row) == len(header) else None
    except csv.Error as error:
        raise DatasetError(f"{path}, line {rows.line_num}: {error}. Fix its quoting.") from error


def listed(names: Iterable[object], limit: int = 20) -> str:
    """Join names for a message, which stays one line whatever they hold.

    >>> listed(["train", "dev"]), listed([])
    ('train, dev', 'none')
    """
    shown = [str(name)[:80] for name in names]
    words = [name if name.isprintable() else repr(name) for name in shown[:limit]]
    return ", ".join([*words, "…"] if len(shown) > limit else words) or "none"


def _check_header(header: list[str], path: Path, needed: tuple[str, ...] = ()) -> None:
    missing = [column for column in needed if column not in header]
    if missing:
        raise DatasetError(f"{path} has no column {', '.join(missing)}; its columns: {listed(header)}.")
    twice = [column for column, count in Counter(header).items() if count > 1 and column]
    if twice:
        raise DatasetError(f"{path} has the column {listed(twice[:1])} twice. Rename one.")


def _allowed_bytes(path: Path) -> float:
    return MAX_LINE_BYTES + _MAX_GROWTH * path.stat().st_size if path.suffix == ".gz" else math.inf


def _refuse_large(line: bytes, left: float, place: str) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise DatasetError(f"{place}: longer than {MAX_LINE_BYTES} bytes, which no line of a corpus is.")
    if left < 0:
        raise DatasetError(f"{place}: unpacks to more than {_MAX_GROWTH} times its size, which no corpus does.")


def _open_text(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise DatasetError(f"{path} is not a regular file.")
    return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def _text(line: bytes, path: Path, number: int) -> str:
    errors = "strict" if number == 1 else "surrogateescape"  # one bad line is one bad row, the first one the encoding
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}, line {number}: not UTF-8 ({error.reason}). Convert the file to UTF-8.") from error
