"""Texts that grow token by token, each looked at through a window: linear work where whole prefixes would be quadratic.

A tokenizer gives text and tokens of a place from what stands close by, so that a window with as much before it tells
what the whole prefix would. Both functions hold the last one against the whole, or ask for the whole where a window
disagrees: other tokenizers get the same answers, in more time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence

WINDOW = 32  # steps (tokens, or characters) before a window moves on; it then begins as many steps before


def prefix_lengths(text_of: Callable[[int, int], str | None], stops: Sequence[int], whole: str) -> list[int | None]:
    """How long the text up to each stop is; None where `whole` does not begin with it.

    Args:
        text_of: the text between two places, or None where there is none.
        stops: places, rising; the text up to the last one is `whole`.
        whole: the text of all.

    >>> words = ["a", "bc", "d"]
    >>> prefix_lengths(lambda start, stop: "".join(words[start:stop]), [1, 2, 3], "abcd")
    [1, 3, 4]
    """
    lengths = list(_lengths(text_of, stops, whole, WINDOW))
    if lengths and lengths[-1] != len(whole):  # windows of this tokenizer do not add up
        lengths = list(_lengths(text_of, stops, whole, len(whole) + stops[-1]))
    return lengths


def _lengths(
    text_of: Callable[[int, int], str | None], stops: Sequence[int], whole: str, window: int
) -> Iterator[int | None]:
    begin = clean = known = 0  # the window begins at `begin`; `whole[:known]` is the text up to `clean`
    context = ""  # the text from `begin` to `clean`
    for stop in stops:
        text, length = text_of(begin, stop), None
        if text is not None and text.startswith(context) and whole.startswith(text[len(context) :], known):
            length = known + len(text) - len(context)
        yield length
        if length and stop - clean >= window and whole[length - 1] != "\N{REPLACEMENT CHARACTER}":
            begin, clean, known = clean, stop, length
            context = text_of(begin, clean) or ""


def unlike_prefixes(
    is_like: Callable[[int, int], bool], reference: str, char_ends: Sequence[int | None]
) -> tuple[int, ...]:
    """Numbers of leading tokens, less than all, whose text gives other tokens.

    Args:
        is_like: (start, stop) → whether the text from token `start` to token `stop`, on its own, gives these tokens.
        reference: the text of all tokens.
        char_ends: characters of it complete after each token; None inside a character, where there is no text.
    """
    unlike = []
    begin = clean = 0
    for count, end in enumerate(char_ends[:-1], 1):
        if end is None:
            continue
        if is_like(begin, count) or (begin and is_like(0, count)):
            if count - clean >= WINDOW and _ends_word(reference, end):
                begin, clean = clean, count
        else:
            unlike.append(count)
    return tuple(unlike)


def _ends_word(text: str, end: int) -> bool:
    """Whether a letter or digit stands before white space or punctuation: tokenizers look at both sides separately."""
    if not 0 < end < len(text) or not text[end - 1].isalnum():
        return False
    return text[end].isspace() or unicodedata.category(text[end]).startswith("P")
