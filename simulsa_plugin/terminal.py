"""What a person sees while a command works: text that cannot act on the terminal, and how far the work has come."""

from __future__ import annotations

import contextlib
import contextvars
import html
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from simulsa_plugin.tables import StyledText

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")
_ROUNDING = 1e-6  # shares that add up to one may miss it by a few bits
FIRST_LINE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0
STYLES = {"best": "1", "better": "32", "worse": "31"}  # of parts of a text → SGR: bold, green, red
_progress_shown = contextvars.ContextVar("progress_shown", default=True)
# C0 without tab and line feed, DEL, C1: what changes colours, moves the cursor or sets a window's title.
_TERMINAL_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MARKDOWN = re.compile(r"([\\`*_{}<>#|~$]|\](?=\())")
_MOVES_UP = re.compile(r"(?:\x1b\[A)+")  # all that tqdm writes where several bars stand below each other


def printable(text: str) -> str:
    r"""Escape the control characters of a text; names and logs may come from anybody.

    >>> printable("a\x1b[31mb\tc\n")
    'a\\x1b[31mb\tc\n'
    """
    return _TERMINAL_CONTROLS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def html_text(text: str) -> str:
    """Escape text for HTML that shows it, control characters as on a terminal."""
    return html.escape(printable(text))


def markdown_text(text: str) -> str:
    r"""Escape a text for Markdown: it is shown as it is.

    >>> markdown_text("a_b | <i> [x](y)")
    'a\\_b \\| \\<i\\> [x\\](y)'
    """
    return _MARKDOWN.sub(r"\\\1", printable(text))


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    r"""Return a table as on GitHub, the head first; cells are escaped, and emphasised ones bold.

    >>> markdown_table([["cell", "BLEU"], ["a|b", "9"]])
    ['| cell | BLEU |', '|:--|--:|', '| a\\|b | 9 |']
    """
    head, *body = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
    return [head, f"|{'|'.join([':--', *['--:'] * (len(rows[0]) - 1)])}|", *body]


def _markdown_cell(cell: str) -> str:
    escaped = markdown_text(cell)
    return f"**{escaped}**" if isinstance(cell, StyledText) and cell.spans else escaped


class SafeStream:
    """A text stream to which nothing but printable text comes."""

    def __init__(self, stream: TextIO, *, bars: bool = False) -> None:
        """Stand before `stream`; `bars`: progress bars may go back to the start of their line, and up."""
        self._stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write text, control characters escaped."""
        start = 1 if self._bars and text.startswith("\r") else 0
        moves = self._bars and _MOVES_UP.fullmatch(text)
        self._stream.write(text if moves else text[:start] + printable(text[start:]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def write_styled(self, text: StyledText) -> None:
        """Write text with the escape sequences of its styles, and no other."""
        end = 0
        for span in text.spans:
            self.write(text[end : span.start])
            self._stream.write(f"\x1b[{STYLES[span.style]}m{printable(text[span.start : span.end])}\x1b[0m")
            end = span.end
        self.write(text[end:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def shows_colours(stream: TextIO | SafeStream) -> bool:
    """Whether a stream is a terminal that shows colours, and the user has not set NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout; the styles of a `StyledText` show on a terminal with colours alone."""
    stream = sys.stdout
    colours = isinstance(stream, SafeStream) and shows_colours(stream)
    for line in lines:
        if colours and isinstance(line, StyledText) and isinstance(stream, SafeStream):
            stream.write_styled(line)
            print()
        else:
            print(line)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Make stdout and stderr fit for a command: printable text alone, in any encoding, to wherever they lead.

    What the encoding of a terminal lacks is written by its number. A stream that the caller has closed leads nowhere;
    else the next file that is opened would take its number, and what libraries print would land in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    with contextlib.ExitStack() as stack:
        out, err = (
            stream or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            for stream in (sys.stdout, sys.stderr)
        )
        for stream in (out, err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        stack.enter_context(contextlib.redirect_stdout(SafeStream(out)))
        stack.enter_context(contextlib.redirect_stderr(SafeStream(err, bars=True)))
        yield


class ProgressLines:
    """Progress where no terminal shows a bar: a line on stderr after half a minute, then at growing intervals."""

    def __init__(
        self, total: int | None, desc: str, unit: str, initial: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock.

        Args:
            total: things to do, those that were done before included; None where nobody knows.
            desc: what is done.
            unit: of the things, in the singular.
            initial: how many of them were done before.
            clock: seconds.
        """
        self._total, self._desc, self._unit, self._before, self._done = total, desc, unit, initial, initial
        self._clock, self._start = clock, clock()
        self._next = FIRST_LINE_SECONDS

    def update(self, n: int = 1) -> None:
        """Count things that are done now."""
        self._done += n
        elapsed = self._clock() - self._start
        if elapsed >= self._next and self._done != self._total:
            print(self._line(elapsed), file=sys.stderr, flush=True)
            self._next = elapsed + min(max(2 * FIRST_LINE_SECONDS, elapsed / 2), LONGEST_PAUSE_SECONDS)

    def _line(self, elapsed: float) -> str:
        rate = (self._done - self._before) / elapsed
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"
        if not self._total:
            return f"{self._desc}: {self._done} {self._unit}s, {speed}, after {_format_duration(elapsed)}"
        begun = 100 * (self._done - self._before) >= self._total - self._before  # the first few may not be typical
        left = f", about {_format_duration((self._total - self._done) / rate)} left" if rate and begun else ""
        share = f"{self._done / self._total:.0%}"
        return f"{self._desc}: {self._done} of {self._total} {self._unit}s ({share}), {speed}{left}"

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Show progress, or none, for as long as the context lasts; it is shown where nothing is said."""
    token = _progress_shown.set(shown)
    try:
        yield
    finally:
        _progress_shown.reset(token)


def progress(total: int | None, desc: str, unit: str, initial: int = 0) -> tqdm[Any] | ProgressLines:
    """Return a context whose `update(n)` counts things done: a bar on a terminal, else a line now and then.

    Args:
        total: things to do, those that were done before included.
        desc: what is done.
        unit: of the things, in the singular.
        initial: how many of them were done before.
    """
    if not _progress_shown.get():
        return ProgressLines(total, desc, unit, initial, clock=lambda: 0.0)  # no time passes, so no line is due
    if sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(total=total, desc=printable(desc), unit=unit, initial=initial)
    return ProgressLines(total, desc, unit, initial)


def announce(text: str) -> None:
    """Print what begins on stderr, if that is a terminal and progress is shown: it takes seconds and has no bar."""
    if _progress_shown.get() and sys.stderr.isatty():
        print(printable(text), file=sys.stderr, flush=True)


class Shares:
    """Counts shares of things, and updates a `progress` by whole ones.

    Things that are done side by side end at about the same time: counted by their ends, they seem to take forever.
    """

    def __init__(self, counting: Any) -> None:
        self._counting, self._done, self._counted = counting, 0.0, 0

    def add(self, share: float) -> None:
        """Count a share of a thing."""
        self._done += share
        whole = int(self._done + _ROUNDING) - self._counted
        if whole:
            self._counted += whole
            self._counting.update(whole)


def tracked(things: Iterable[Item], total: int | None, desc: str, unit: str) -> Iterator[Item]:
    """Yield the things themselves, with `progress` over them."""
    with progress(total, desc, unit) as counting:
        for thing in things:
            yield thing
            counting.update()


def _format_duration(seconds: float) -> str:
    """Format a span of time, roughly.

    >>> _format_duration(40), _format_duration(600), _format_duration(10_000)
    ('40 s', '10 min', '2.8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
