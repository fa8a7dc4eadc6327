"""Rows of text as aligned lines, for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

TERMINAL_WIDTH = 100  # columns that a table takes at most, unless two of its columns alone need more
GAP = "  "


@dataclass(frozen=True)
class Span:
    """Characters of a text that are emphasised: from `start` to before `end`; `style` is one of `terminal.STYLES`."""

    start: int
    end: int
    style: str


class StyledText(str):
    """A text with emphasised parts, which only a terminal with colours shows; anywhere else it is a plain text."""

    __slots__ = ("spans",)
    spans: tuple[Span, ...]

    def __new__(cls, text: str, spans: Iterable[Span] = ()) -> StyledText:
        """Return the text with its spans."""
        made = super().__new__(cls, text)
        made.spans = tuple(spans)
        return made


def styled(text: str, style: str | None) -> str:
    """Return a text that is emphasised as a whole; the text itself without a style.

    >>> styled("9.1", "best"), styled("9.1", "best").spans, type(styled("9.1", None))
    ('9.1', (Span(start=0, end=3, style='best'),), <class 'str'>)
    """
    return StyledText(text, [Span(0, len(text), style)]) if style else text


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows as lines: the first column to the left, the others to the right; styles of cells are kept.

    >>> align([["cell", "BLEU"], ["offline", "9"]])
    ['cell     BLEU', 'offline     9']
    """
    widths = _widths(rows)
    return [_line(row, widths) for row in rows]


def align_wrapped(rows: Sequence[Sequence[str]], width: int = TERMINAL_WIDTH) -> list[str]:
    """Align rows as `align` does; columns beyond a width follow in a further block with the first column again.

    >>> align_wrapped([["cell", "BLEU", "LAAL"], ["offline", "9", "2"]], width=15)
    ['cell     BLEU', 'offline     9', '', 'cell     LAAL', 'offline     2']
    """
    lines: list[str] = []
    for block in _blocks(_widths(rows), width):
        lines += [*([""] if lines else []), *align([[row[column] for column in block] for row in rows])]
    return lines


def without_empty_columns(rows: Sequence[Sequence[str]], empty: Sequence[str] = ("", "–")) -> list[list[str]]:
    """Leave out the columns in which every row below the head is empty; the first column stays.

    >>> without_empty_columns([["cell", "BLEU", "YAAL"], ["offline", "9", "–"]])
    [['cell', 'BLEU'], ['offline', '9']]
    """
    head, *body = rows
    kept = [column for column in range(len(head)) if column == 0 or any(row[column] not in empty for row in body)]
    return [[row[column] for column in kept] for row in rows]


def _blocks(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Yield the columns of each block: the first, and as many of the others as fit, one at least."""
    block, used = [0], widths[0]
    for column in range(1, len(widths)):
        needed = len(GAP) + widths[column]
        if used + needed > width and len(block) > 1:
            yield block
            block, used = [0], widths[0]
        block.append(column)
        used += needed
    yield block


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    texts = list(map(_justify, range(len(row)), row, widths))
    line = GAP.join(texts).rstrip()
    spans = [span for column, cell in enumerate(row) for span in _moved(cell, texts, column)]
    return StyledText(line, spans) if spans else line


def _moved(cell: str, texts: Sequence[str], column: int) -> Iterator[Span]:
    """Yield the spans of a cell, as they are in its line."""
    if isinstance(cell, StyledText):
        start = sum(len(text) + len(GAP) for text in texts[:column])
        start += len(texts[column]) - len(cell) if column else 0
        for span in cell.spans:
            yield Span(start + span.start, start + span.end, span.style)


def _justify(column: int, text: str, width: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def list_counts(counts: Mapping[str, int]) -> str:
    """List names with their counts, in the order of the names; "none" where there are none.

    >>> list_counts({"too_short": 2, "audio_missing": 1}), list_counts({})
    ('audio_missing 1, too_short 2', 'none')
    """
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
