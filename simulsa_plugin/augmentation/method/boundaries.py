"""Where a partial translation may end: between characters as a reader sees them, and between words in any script."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from simulsa_plugin.languages import SPACELESS_LETTERS

# Letters of scripts without spaces, and the punctuation of Chinese and Japanese.
_SPACELESS_CHARACTER = (
    rf"[{SPACELESS_LETTERS}"
    r"[[\p{East_Asian_Width=W}\p{East_Asian_Width=F}]&&\p{P}]]"
)
_BEFORE_CONSONANT = r"[\p{Logical_Order_Exception}\p{Indic_Syllabic_Category=Invisible_Stacker}]"
_KILLED = r"\p{L}\p{Indic_Syllabic_Category=Pure_Killer}"  # a consonant without a vowel
_AFTER_CONSONANT = rf"(?:[\p{{Indic_Syllabic_Category=Vowel_Dependent}}--\p{{Logical_Order_Exception}}]|{_KILLED})"
_WORD_BREAK = regex.compile(
    rf"(?:(?<={_SPACELESS_CHARACTER})\b|\b(?={_SPACELESS_CHARACTER}))(?<!{_BEFORE_CONSONANT})(?!{_AFTER_CONSONANT})",
    regex.V1 | regex.WORD,
)
_GRAPHEME = regex.compile(r"\X", regex.V1)


def grapheme_ends(text: str) -> Iterator[int]:
    """Yield the offsets at which a grapheme cluster of Unicode (UAX #29) ends.

    A letter and its combining marks are one, so are the parts of an emoji.

    >>> list(grapheme_ends("fu\N{COMBINING DIAERESIS}r"))
    [1, 3, 4]
    """
    return (match.end() for match in _GRAPHEME.finditer(text))


def splits_grapheme(text: str, end: int) -> bool:
    """Return whether `text[:end]` ends inside a grapheme cluster.

    >>> splits_grapheme("u\N{COMBINING DIAERESIS}", 1), splits_grapheme("ur", 1)
    (True, False)
    """
    return not text[: end + 1].isascii() and end not in {0, *grapheme_ends(text)}


def is_word_end(text: str, end: int) -> bool:
    """Return whether `text[:end]` ends outside a word.

    Words end at white space. Scripts that are written without it have the word boundaries of UAX #29: there every
    Chinese character and every kana of Hiragana ends a word, while a run of Katakana, Latin letters or digits is one.
    Words of Thai, Lao, Khmer and Burmese are in a dictionary alone; here they may end wherever no vowel sign, stacked
    consonant or final consonant of Burmese is cut off.

    >>> [end for end in range(1, 9) if is_word_end("Der Mann", end)]
    [3, 8]
    >>> [end for end in range(1, 6) if is_word_end("我用GPT", end)]
    [1, 2, 5]
    """
    if end == len(text) or text[end].isspace():
        return True
    return _WORD_BREAK.match(text, end) is not None
