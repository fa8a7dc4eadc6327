"""SoftSegmenter: which reference segment each token of an unsegmented translation belongs to.

The tokens of a recording's translation are aligned with those of its references by dynamic programming without gap
penalties; a match is worth the Jaccard similarity of the two tokens' characters. Source: Polák et al., "Better Late
Than Never" (arXiv 2509.17349), as OmniSTEval 0.1.10 computes it. There the alignment is quadratic in Python objects;
here a row is computed at once, and what the trace needs is computed again instead of being held, so that a talk of
three hours takes seconds and some ten megabytes.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

PUNCTUATION = frozenset(".!?,;:-()。！？，；：—（）ー")
KEPT_ROWS = 256  # of similarities of the commonest tokens
MATCH, DELETE, INSERT = 0, 1, 2  # both advance, the reference advances, the translation advances

_RowOf = Callable[[int], npt.NDArray[np.float64]]  # number of a distinct reference token to its similarities


def normalize_token(text: str) -> str:
    """Normalize to NFKC and lower case, as tokens are before they are compared."""
    return unicodedata.normalize("NFKC", text).lower()


def assign_segments(
    references: Sequence[Sequence[str]], hypothesis: Sequence[str], *, characters: bool = False
) -> list[int | None]:
    """Assign every token of a translation to a reference segment.

    Args:
        references: normalized tokens of each segment of one recording, in order.
        hypothesis: normalized tokens of the recording's translation.
        characters: tokens are single characters, which are equal or not.

    Returns:
        for each token of the translation, the index of its segment; None where no segment claims it, which happens to
        a punctuation mark before the first reference word.

    >>> assign_segments([["good", "morning"], ["thank", "you"]], ["good", "mornings", "all", "thanks", "you"])
    [0, 0, 1, 1, 1]
    """
    segments = [index for index, tokens in enumerate(references) for _ in tokens]
    reference = [token for tokens in references for token in tokens]
    if not reference:
        return [None] * len(hypothesis)
    similarity = _Similarity(reference, hypothesis, characters=characters)
    pairs = _trace_back(_Moves(similarity), len(reference), len(hypothesis))
    matched = _resolve_gaps(pairs, similarity, len(hypothesis))
    return [None if position is None else segments[position] for position in matched]


class _Similarity:
    """Similarities of reference tokens and hypothesis tokens, a row at a time: all pairs of a long talk are many."""

    def __init__(self, reference: Sequence[str], hypothesis: Sequence[str], *, characters: bool) -> None:
        rows, self._rows = _distinct(reference)
        columns, self._columns = _distinct(hypothesis)
        compare = (_equality if characters else _jaccard)(rows, columns)
        marks = np.array([token in PUNCTUATION for token in columns], dtype=bool)
        self.shape = len(reference), len(hypothesis)

        @functools.lru_cache(KEPT_ROWS)
        def distinct_row(number: int) -> npt.NDArray[np.float64]:
            return np.where((rows[number] in PUNCTUATION) ^ marks, -np.inf, compare(number))

        self._distinct_row = distinct_row

    def row(self, position: int, width: int) -> npt.NDArray[np.float64]:
        """Similarities (width,) of one reference token with the first tokens of the hypothesis."""
        row: npt.NDArray[np.float64] = self._distinct_row(int(self._rows[position]))[self._columns[:width]]
        return row

    def __call__(self, reference: int | None, hypothesis: int) -> float:
        """Similarity at two positions; minus infinity where there is no reference token."""
        if reference is None:
            return -np.inf
        return float(self._distinct_row(int(self._rows[reference]))[self._columns[hypothesis]])


def _distinct(tokens: Sequence[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Return distinct tokens, and the index of each token among them."""
    index: dict[str, int] = {}
    positions = [index.setdefault(token, len(index)) for token in tokens]
    return list(index), np.array(positions, dtype=np.intp)


def _equality(rows: Sequence[str], columns: Sequence[str]) -> _RowOf:
    others = np.array(columns, dtype=object)
    return lambda number: np.asarray(others == rows[number], dtype=np.float64)


def _jaccard(rows: Sequence[str], columns: Sequence[str]) -> _RowOf:
    alphabet = {char: index for index, char in enumerate(sorted(set("".join([*rows, *columns]))))}
    left, right = (_incidence(tokens, alphabet) for tokens in (rows, columns))
    sizes = right.sum(1)

    def row(number: int) -> npt.NDArray[np.float64]:
        common = right @ left[number]
        union = left[number].sum() + sizes - common
        similarity: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        return similarity

    return row


def _incidence(tokens: Sequence[str], alphabet: dict[str, int]) -> npt.NDArray[np.float64]:
    """Return which characters each token has (num_tokens, num_characters), as 0 and 1."""
    matrix = np.zeros((len(tokens), len(alphabet)))
    for index, token in enumerate(tokens):
        matrix[index, [alphabet[char] for char in token]] = 1
    return matrix


class _Moves:
    """Best moves of the table, in one band of rows at a time.

    The scores above every band are kept, and the moves in it are computed when the trace comes to it. Either takes
    about the square root of the bytes that all moves would take.
    """

    def __init__(self, similarity: _Similarity) -> None:
        height, width = similarity.shape
        self._similarity = similarity
        self._rows = 1 + math.isqrt(32 * height)  # of a band: 8 bytes for a score, 2 bits for a move
        self._first = height  # of the band that is held: none
        self._above: list[npt.NDArray[np.float64]] = []
        above = np.zeros(width + 1)
        for position in range(height):
            if position % self._rows == 0:
                self._above.append(above)
            _, above = self._next_row(position, above)

    def __call__(self, row: int, column: int) -> int:
        """Return the best move of a cell; neither rows nor columns rise from call to call."""
        if row < self._first:
            self._fill(row - row % self._rows, row + 1, column + 1)
        line, byte, bit = row - self._first, column >> 3, 7 - (column & 7)
        if self._matches[line, byte] >> bit & 1:
            return MATCH
        return DELETE if self._deletes[line, byte] >> bit & 1 else INSERT

    def _next_row(
        self, position: int, above: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the scores of a row's matches (width,), and its best scores (width + 1,).

        Without gap penalties a cell is the largest of its diagonal neighbour plus the similarity, the one above and the
        one to the left, so a row is a running maximum.
        """
        match = above[:-1] + self._similarity.row(position, len(above) - 1)
        best = np.concatenate([[0.0], np.maximum(match, above[1:])])
        return match, np.maximum.accumulate(best, out=best)

    def _fill(self, first: int, end: int, width: int) -> None:
        """Fill rows `first` to `end` up to a column; a tie prefers the match, then the deletion.

        Moves are packed bits (num_rows, ⌈width / 8⌉): whether the best one is a match, and whether it is a deletion.
        """
        self._first = first
        self._matches = np.zeros((end - first, (width + 7) // 8), dtype=np.uint8)
        self._deletes = np.zeros_like(self._matches)
        above = self._above[first // self._rows][: width + 1]
        for line, position in enumerate(range(first, end)):
            match, best = self._next_row(position, above)
            self._matches[line] = np.packbits((match >= above[1:]) & (match >= best[:-1]))
            self._deletes[line] = np.packbits(above[1:] >= best[:-1])
            above = best


def _trace_back(moves: _Moves, height: int, width: int) -> list[tuple[int | None, int | None]]:
    """Return pairs of positions in reference and hypothesis, None where one of them has a gap."""
    pairs: list[tuple[int | None, int | None]] = []
    row, column = height - 1, width - 1
    while row >= 0 and column >= 0:
        move = moves(row, column)
        pairs.append((None if move == INSERT else row, None if move == DELETE else column))
        row -= move != INSERT
        column -= move != DELETE
    pairs += [(position, None) for position in range(row, -1, -1)]
    pairs += [(None, position) for position in range(column, -1, -1)]
    return pairs[::-1]


def _resolve_gaps(
    pairs: Sequence[tuple[int | None, int | None]], similarity: _Similarity, width: int
) -> list[int | None]:
    """Give hypothesis tokens without a match to the reference token before or after them.

    They go to the one before until one of them is more similar to the one after; from there on to that one.
    """
    following: list[int | None] = [None] * len(pairs)
    after: int | None = None
    for index in range(len(pairs) - 1, -1, -1):
        after = pairs[index][0] if pairs[index][0] is not None else after
        following[index] = after
    matched: list[int | None] = [None] * width
    before: int | None = None
    in_next = False
    for (reference, token), following_reference in zip(pairs, following, strict=True):
        if reference is not None:
            before, in_next = reference, False
        elif token is not None:
            in_next = in_next or similarity(following_reference, token) > similarity(before, token)
            reference = following_reference if in_next else before
        if token is not None:
            matched[token] = reference
    return matched
