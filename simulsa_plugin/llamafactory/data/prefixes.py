"""Texts and tokens of all prefixes of a text, computed in windows: linear instead of quadratic time.

Text and tokens at a position depend only on what is close by in most tokenizers, so that a window with enough context
gives the result of the whole prefix. Both functions verify a window against the whole prefix or text, and fall back to
whole prefixes: other tokenizers get the same results, in more time.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence

WINDOW = 32  # steps (tokens, or characters) by which a window moves, and its least context before


def prefix_lengths(text_of: Callable[[int, int], str | None], stops: Sequence[int], whole: str) -> list[int | None]:
    """Return the length of the text up to each stop; None where `whole` does not begin with that text.

    Args:
        text_of: (start, stop) → text between two positions, or None where there is none.
        stops: increasing positions; the text up to the last one is `whole`.
        whole: the complete text.

    >>> words = ["a", "bc", "d"]
    >>> prefix_lengths(lambda start, stop: "".join(words[start:stop]), [1, 2, 3], "abcd")
    [1, 3, 4]
    """
    lengths = list(_windowed_lengths(text_of, stops, whole, WINDOW))
    if lengths and lengths[-1] != len(whole):  # this tokenizer needs more context
        lengths = list(_windowed_lengths(text_of, stops, whole, len(whole) + stops[-1]))
    return lengths


def _windowed_lengths(
    text_of: Callable[[int, int], str | None], stops: Sequence[int], whole: str, window: int
) -> Iterator[int | None]:
    begin = clean = known = 0  # the window starts at `begin`; `whole[:known]` is the text up to `clean`
    context = ""  # the text from `begin` to `clean`
    for stop in stops:
        text, length = text_of(begin, stop), None
        if text is not None and text.startswith(context) and whole.startswith(text[len(context) :], known):
            length = known + len(text) - len(context)
        yield length
        if length and stop - clean >= window and whole[length - 1] != "\N{REPLACEMENT CHARACTER}":
            begin, clean, known = clean, stop, length
            context = text_of(begin, clean) or ""


def unstable_prefix_lengths(
    is_stable: Callable[[int, int], bool], reference: str, char_ends: Sequence[int | None]
) -> tuple[int, ...]:
    """Return the lengths of token prefixes, except the whole, whose text is tokenized differently.

    Args:
        is_stable: (start, stop) → whether the text from token `start` to token `stop` is tokenized to these tokens.
        reference: the text of all tokens.
        char_ends: characters of it complete after each token; None inside a character, where there is no text.
    """
    unstable = []
    begin = clean = 0
    for count, end in enumerate(char_ends[:-1], 1):
        if end is None:
            continue
        if is_stable(begin, count) or (begin and is_stable(0, count)):
            if count - clean >= WINDOW and _ends_word(reference, end):
                begin, clean = clean, count
        else:
            unstable.append(count)
    return tuple(unstable)


def _ends_word(text: str, end: int) -> bool:
    """Return whether a word ends at this character, where tokenizers split before they merge."""
    if not 0 < end < len(text) or not text[end - 1].isalnum():
        return False
    return text[end].isspace() or unicodedata.category(text[end]).startswith("P")
