"""SoftSegmenter: which reference segment each token of an unsegmented translation belongs to.

The tokens of a recording's translation are aligned with those of its references by dynamic programming without gap
penalties; a match is worth the Jaccard similarity of the two tokens' characters. Source: Polák et al., "Better Late
Than Never" (arXiv 2509.17349), as OmniSTEval 0.1.10 computes it. There the alignment is quadratic in Python objects;
here a row is computed at once, so that a talk of an hour takes seconds and one byte for four cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PUNCTUATION = frozenset(".!?,;:-()。！？，；：—（）ー")
MATCH, DELETE, INSERT = 0, 1, 2  # both advance, the reference advances, the translation advances


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
    pairs = _trace_back(_fill_moves(similarity), len(reference), len(hypothesis))
    matched = _resolve_gaps(pairs, similarity, len(hypothesis))
    return [None if position is None else segments[position] for position in matched]


class _Similarity:
    """Similarities of reference tokens and hypothesis tokens, computed once for each pair of distinct tokens."""

    def __init__(self, reference: Sequence[str], hypothesis: Sequence[str], *, characters: bool) -> None:
        rows, self._rows = _distinct(reference)
        columns, self._columns = _distinct(hypothesis)
        table = _equality(rows, columns) if characters else _jaccard(rows, columns)
        marks = [np.array([token in PUNCTUATION for token in tokens], dtype=bool) for tokens in (rows, columns)]
        self._table = np.where(marks[0][:, None] ^ marks[1][None, :], -np.inf, table)
        self.shape = len(reference), len(hypothesis)

    def row(self, position: int) -> npt.NDArray[np.float64]:
        """Similarities (num_hypothesis_tokens,) of one reference token."""
        row: npt.NDArray[np.float64] = self._table[self._rows[position], self._columns]
        return row

    def __call__(self, reference: int | None, hypothesis: int) -> float:
        """Similarity at two positions; minus infinity where there is no reference token."""
        if reference is None:
            return -np.inf
        return float(self._table[self._rows[reference], self._columns[hypothesis]])


def _distinct(tokens: Sequence[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Return distinct tokens, and the index of each token among them."""
    index: dict[str, int] = {}
    positions = [index.setdefault(token, len(index)) for token in tokens]
    return list(index), np.array(positions, dtype=np.intp)


def _equality(rows: Sequence[str], columns: Sequence[str]) -> npt.NDArray[np.float64]:
    return np.array([[float(row == column) for column in columns] for row in rows]).reshape(len(rows), len(columns))


def _jaccard(rows: Sequence[str], columns: Sequence[str]) -> npt.NDArray[np.float64]:
    alphabet = {char: index for index, char in enumerate(sorted(set("".join([*rows, *columns]))))}
    left, right = (_incidence(tokens, alphabet) for tokens in (rows, columns))
    common = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1)[None, :] - common
    similarity: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return similarity


def _incidence(tokens: Sequence[str], alphabet: dict[str, int]) -> npt.NDArray[np.float64]:
    """Return which characters each token has (num_tokens, num_characters), as 0 and 1."""
    matrix = np.zeros((len(tokens), len(alphabet)))
    for index, token in enumerate(tokens):
        matrix[index, [alphabet[char] for char in token]] = 1
    return matrix


def _fill_moves(similarity: _Similarity) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Fill the table of best moves, row by row.

    Without gap penalties a cell is the largest of its diagonal neighbour plus the similarity, the one above and the one
    to the left, so a row is a running maximum.

    Returns:
        two planes of packed bits (num_reference_tokens, ⌈num_hypothesis_tokens / 8⌉): whether the best move is a match,
        and whether it is a deletion; a tie prefers the match, then the deletion.
    """
    height, width = similarity.shape
    matches = np.zeros((height, (width + 7) // 8), dtype=np.uint8)
    deletes = np.zeros_like(matches)
    above = np.zeros(width + 1)
    for position in range(height):
        match = above[:-1] + similarity.row(position)
        best = np.concatenate([[0.0], np.maximum(match, above[1:])])
        np.maximum.accumulate(best, out=best)
        left = best[:-1]
        matches[position] = np.packbits((match >= above[1:]) & (match >= left))
        deletes[position] = np.packbits(above[1:] >= left)
        above = best
    return matches, deletes


def _trace_back(
    moves: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], height: int, width: int
) -> list[tuple[int | None, int | None]]:
    """Return pairs of positions in reference and hypothesis, None where one of them has a gap."""
    matches, deletes = moves
    pairs: list[tuple[int | None, int | None]] = []
    row, column = height - 1, width - 1
    while row >= 0 and column >= 0:
        if _bit(matches, row, column):
            pairs.append((row, column))
            row, column = row - 1, column - 1
        elif _bit(deletes, row, column):
            pairs.append((row, None))
            row -= 1
        else:
            pairs.append((None, column))
            column -= 1
    pairs += [(position, None) for position in range(row, -1, -1)]
    pairs += [(None, position) for position in range(column, -1, -1)]
    return pairs[::-1]


def _bit(plane: npt.NDArray[np.uint8], row: int, column: int) -> bool:
    return bool(plane[row, column >> 3] >> (7 - (column & 7)) & 1)


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
