"""Blocks of a document, and the document as a terminal, Markdown or LaTeX shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from simulsa_plugin.tables import StyledText, align_wrapped
from simulsa_plugin.terminal import markdown_table, markdown_text, printable

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "·": r"$\cdot$",
    "−": "$-$",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}


@dataclass(frozen=True)
class Heading:
    """A heading; `level` 1 is that of the document."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Table:
    """A table: its head first, then its rows; cells may be a `StyledText`.

    Attributes:
        rows: texts.
        caption: what the table shows; "" where its head says it.
        extra: columns that a terminal has no room for.
    """

    rows: Sequence[Sequence[str]]
    caption: str = ""
    extra: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of lines; `tight`: it belongs to the block before."""

    lines: tuple[str, ...]
    tight: bool = False


Block: TypeAlias = Heading | Table | Paragraph


def terminal_lines(blocks: Iterable[Block]) -> list[str]:
    """Return a document as lines for a terminal, with an empty line before every block that is not tight."""
    lines: list[str] = []
    for block in blocks:
        tight = isinstance(block, Paragraph) and block.tight
        lines += [*([] if tight or not lines else [""]), *_terminal_block(block)]
    return lines


def _terminal_block(block: Block) -> list[str]:
    if isinstance(block, Heading):
        return [block.text]
    if isinstance(block, Paragraph):
        return list(block.lines)
    kept = [column for column in range(len(block.rows[0])) if column not in block.extra]
    rows = [[row[column] for column in kept] for row in block.rows]
    return [*([block.caption] if block.caption else []), *align_wrapped(rows)]


def markdown(blocks: Iterable[Block]) -> str:
    """Return a document in Markdown with tables as on GitHub; emphasised cells are bold."""
    return "\n\n".join("\n".join(_markdown_block(block)) for block in blocks) + "\n"


def _markdown_block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"{'#' * block.level} {markdown_text(block.text)}"
    elif isinstance(block, Paragraph):
        yield "  \n".join(map(markdown_text, block.lines))
    else:
        if block.caption:
            yield from (markdown_text(block.caption), "")
        yield from markdown_table(block.rows)


def latex(blocks: Iterable[Block]) -> str:
    r"""Return a document as LaTeX to be read by `\input`: sections, and tables that need the package booktabs."""
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join("\n".join(_latex_block(block)) + "\n" for block in blocks)


def _latex_block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"\\{'sub' * (block.level - 1)}section*{{{latex_text(block.text)}}}"
    elif isinstance(block, Paragraph):
        yield "\n\n".join(map(latex_text, block.lines))
    else:
        head, *rows = block.rows
        yield from ("\\begin{table}[ht]", "\\centering")
        if block.caption:
            yield f"\\caption{{{latex_text(block.caption)}}}"
        yield from (f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", "\\toprule")
        yield from (_latex_row(head), "\\midrule", *map(_latex_row, rows), "\\bottomrule")
        yield from ("\\end{tabular}", "\\end{table}")


def _latex_row(cells: Sequence[str]) -> str:
    r"""Return a row; an empty group keeps "[" or "*" at its start from being an argument of the `\\` before."""
    row = " & ".join(map(_latex_cell, cells))
    return f"{'{}' if row.startswith(('[', '*')) else ''}{row} \\\\"


def latex_text(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> latex_text("a_b & 50 %")
    'a\\_b \\& 50 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in printable(text))


def _latex_cell(cell: str) -> str:
    escaped = latex_text(cell)
    return f"\\textbf{{{escaped}}}" if isinstance(cell, StyledText) and cell.spans else escaped
