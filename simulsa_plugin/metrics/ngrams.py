"""n-gram matches of many pairs of sequences at once, by sorting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
_KEY_BITS = 64


def character_ids(texts: Sequence[str]) -> tuple[NDArray[np.uint64], Counts]:
    """Return the code points of all texts in a row, without whitespace, and the number of each text, (len(texts),)."""
    bare = ["".join(text.split()) for text in texts]
    codes = np.frombuffer("".join(bare).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return codes.astype(np.uint64), np.array([len(text) for text in bare], dtype=np.int64)


def word_ids(texts: Sequence[str]) -> tuple[NDArray[np.uint64], Counts]:
    """Return a number for every word of all texts in a row, equal for equal words, and the number of words of each."""
    words = [text.split() for text in texts]
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(word, len(numbers)) for of_text in words for word in of_text]
    return np.array(ids, dtype=np.uint64), np.array([len(of_text) for of_text in words], dtype=np.int64)


def count_matches(ids: NDArray[np.uint64], lengths: Counts, max_order: int) -> Counts:
    """Count the n-grams that the two sequences of each pair have in common, (pairs, max_order).

    An n-gram that one has k times and the other m times counts min(k, m) times, as in BLEU and chrF.

    Args:
        ids: of all sequences in a row; of each pair the first one, then the second.
        lengths: of the sequences, (2 · pairs,).
        max_order: n-grams of 1 to `max_order` items are counted.

    >>> ids, lengths = character_ids(["abcab", "xabab"])
    >>> count_matches(ids, lengths, 3).tolist()
    [[4, 2, 0]]
    """
    pairs = len(lengths) // 2
    matches = np.zeros((pairs, max_order), dtype=np.int64)
    ids, id_bits = _rank(ids)
    sequence = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    items_left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(ids))
    grams, gram_bits = ids, id_bits
    for order in range(1, max_order + 1):
        if order > 1:
            if gram_bits + id_bits + _bits(pairs) + 1 > _KEY_BITS:
                grams, gram_bits = _rank(grams)
            grams = (grams[:-1] << np.uint64(id_bits)) | ids[order - 1 :]
            gram_bits += id_bits
        complete = items_left[: len(grams)] >= order
        matches[:, order - 1] = _matches(grams[complete], gram_bits, sequence[: len(grams)][complete], pairs)
    return matches


def count_ngrams(lengths: Counts, max_order: int) -> Counts:
    """Count the n-grams of sequences by their lengths, (n,) to (n, max_order).

    >>> count_ngrams(np.array([3, 1]), 4).tolist()
    [[3, 2, 1, 0], [1, 0, 0, 0]]
    """
    counts: Counts = np.maximum(lengths[:, None] - np.arange(max_order), 0)
    return counts


def _matches(grams: NDArray[np.uint64], gram_bits: int, sequence: Counts, pairs: int) -> Counts:
    """Count the matching grams of each pair: in order, equal ones of both sequences of a pair lie together."""
    if not len(grams):
        return np.zeros(pairs, dtype=np.int64)
    place = sequence.astype(np.uint64)
    keys = np.sort((place >> 1 << np.uint64(gram_bits + 1)) | (grams << 1) | (place & 1))
    same = keys >> 1
    starts = np.flatnonzero(np.concatenate([[True], same[1:] != same[:-1]]))
    totals = np.diff(starts, append=len(keys))
    in_second = np.add.reduceat((keys & 1).astype(np.int64), starts)
    common = np.minimum(in_second, totals - in_second)
    found = np.bincount((same[starts] >> np.uint64(gram_bits)).astype(np.int64), common, minlength=pairs)
    return np.rint(found).astype(np.int64)


def _rank(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], int]:
    """Replace values by their ranks; return these, and the bits that the largest one takes."""
    distinct, ranks = np.unique(values, return_inverse=True)
    return ranks.astype(np.uint64), _bits(len(distinct))


def _bits(count: int) -> int:
    """Return the bits of the numbers below `count`, at least one."""
    return max(1, (count - 1).bit_length())
