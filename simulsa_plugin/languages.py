"""Language tags as corpora and recipes write them, and how text in a language is written: with spaces or without."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from langcodes import Language

CHINESE, JAPANESE, KOREAN, UNSPACED, SPACED = WRITINGS = ("Chinese", "Japanese", "Korean", "unspaced", "spaced")
# Letters of scripts without spaces, inside a class of `regex`; SA: Thai, Lao, Khmer, Burmese and related scripts.
SPACELESS_LETTERS = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}\p{Script=Yi}"
    r"\p{Line_Break=SA}\p{Script=Tibetan}"
)
# ISO 15924 → writing; all other scripts have spaces.
_WRITING_OF_SCRIPT = (
    dict.fromkeys(("Hans", "Hant", "Hani", "Hanb", "Bopo"), CHINESE)
    | dict.fromkeys(("Jpan", "Hira", "Kana", "Hrkt"), JAPANESE)
    | dict.fromkeys(("Kore", "Hang"), KOREAN)
    | dict.fromkeys(("Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Yiii", "Lana", "Tale", "Talu", "Tavt", "Ahom"), UNSPACED)
)
_NOT_ONE_LANGUAGE = ("und", "mul", "mis", "zxx")  # ISO 639-2: undetermined, several, uncoded, no linguistic content
# In a script with spaces a run of letters counts once, as a word; in the others every letter counts.
_SCRIPT_RUNS = regex.compile(
    r"(?P<kana>[\p{Script=Hiragana}\p{Script=Katakana}])|(?P<han>[\p{Script=Han}\p{Script=Bopomofo}])"
    rf"|(?P<unspaced>[[{SPACELESS_LETTERS}]&&\p{{L}}])|(?P<hangul>\p{{Script=Hangul}}+)"
    rf"|(?P<spaced>[\p{{L}}\p{{M}}--[{SPACELESS_LETTERS}\p{{Script=Hangul}}]]+)",
    regex.V1,
)
_SPACELESS = regex.compile(rf"[[{SPACELESS_LETTERS}]&&\p{{L}}]", regex.V1)
_LEAST_KANA = 0.1  # of the characters of a Japanese text; Chinese has の at most in names
_LONGEST_WORD = 8  # letters between spaces, on average; words of Chinese have 2, of Thai 4 or 5


def language_code(language: str) -> str:
    """Return the short code of the language of a tag, without script and region; other words stay, in lower case.

    >>> [language_code(tag) for tag in ("zh-CN", "zh_cn", "cmn_hans_cn", "zho", "pt-BR", "yue_hant_hk", "pes", "")]
    ['zh', 'zh', 'zh', 'zh', 'pt', 'yue', 'fa', '']
    """
    found = _parsed(language)
    return (found and found.language) or regex.split("[-_]", language.strip(), maxsplit=1)[0].lower()


def language_tag(language: str) -> str | None:
    """Return a tag in its form of BCP 47; None where it is not one of a language.

    >>> [language_tag(tag) for tag in ("zh_cn", "cmn_hans_cn", "deu", "pt-br", "Chinese")]
    ['zh-CN', 'zh-Hans-CN', 'de', 'pt-BR', None]
    """
    found = _parsed(language)
    return found.to_tag() if found is not None and is_language(language) else None


def is_language(language: str) -> bool:
    """Return whether this is a valid tag (BCP 47) of one language, with `-` or `_`, in any case.

    >>> is_language("zh_hant"), is_language("jpn"), is_language("cn"), is_language("Chinese"), is_language("und")
    (True, True, False, False, False)
    """
    found = _parsed(language)
    return found is not None and found.is_valid() and found.language not in (None, *_NOT_ONE_LANGUAGE)


def language_of_region(region: str) -> str | None:
    """Return the language that is most likely meant where the code of a region stands in the place of a language's.

    English is never returned: it is what CLDR has for a region that it knows nothing about.

    >>> language_of_region("cn"), language_of_region("JP"), language_of_region("xx")
    ('zh', 'ja', None)
    """
    found = _parsed(f"und-{region.strip()}")
    if found is None or not found.territory or not found.is_valid():
        return None
    language = found.maximize().language
    return None if language == "en" else language


def writing_of_language(language: str) -> str:
    """Return one of WRITINGS: that of the script of a tag, else of the most likely script of its language.

    >>> [writing_of_language(tag) for tag in ("zh-Hant", "ja", "ko", "th", "de", "ja-Latn")]
    ['Chinese', 'Japanese', 'Korean', 'unspaced', 'spaced', 'spaced']
    """
    found = _parsed(language)
    return SPACED if found is None else _WRITING_OF_SCRIPT.get(found.maximize().script or "", SPACED)


def writing_of_text(text: str) -> str | None:
    """Return one of WRITINGS, that of most words of a text; None where it has no letters.

    >>> [writing_of_text(text) for text in ("iPhone 今天发布", "今日は", "Grüße aus 北", "12")]
    ['Chinese', 'Japanese', 'spaced', None]
    """
    if text.isascii():
        return SPACED if any(map(str.isalpha, text)) else None
    counts = dict.fromkeys(("kana", "han", "unspaced", "hangul", "spaced"), 0)
    for match in _SCRIPT_RUNS.finditer(text):
        counts[match.lastgroup or "spaced"] += 1
    east_asian = JAPANESE if counts["kana"] > _LEAST_KANA * (counts["kana"] + counts["han"]) else CHINESE
    totals = {
        SPACED: counts["spaced"],
        KOREAN: counts["hangul"],
        UNSPACED: counts["unspaced"],
        east_asian: counts["kana"] + counts["han"],
    }
    most = max(totals, key=totals.__getitem__)
    return most if totals[most] else None


def is_without_spaces(text: str) -> bool:
    """Return whether words cannot be told by white space: a script without spaces, and no spaces put in by a segmenter.

    >>> [is_without_spaces(text) for text in ("今天天气很好我们去公园", "今天 天气 很 好", "Donaudampfschiff")]
    [True, False, False]
    """
    if text.isascii() or writing_of_text(text) in (None, KOREAN, SPACED):
        return False
    lengths = list(_spaceless_lengths(text))
    return sum(lengths) > _LONGEST_WORD * len(lengths)


def _spaceless_lengths(text: str) -> Iterator[int]:
    """Yield the letters of scripts without spaces in each part between white space that has some."""
    return (count for part in text.split() if (count := len(_SPACELESS.findall(part))))


@functools.lru_cache(maxsize=256)
def _parsed(language: str) -> Language | None:
    """Return the tag in its preferred form, as CLDR has it (`cmn` is `zh`); None where it is not a well-formed tag."""
    from langcodes import Language, standardize_tag
    from langcodes.tag_parser import LanguageTagError

    try:
        return Language.get(standardize_tag(language.strip(), macro=True))
    except (LanguageTagError, ValueError):
        return None
