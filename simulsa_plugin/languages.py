"""Codes of languages, as corpora and recipes write them."""

from __future__ import annotations

import re

# ISO 639-3 → 639-1, for languages of the common corpora; FLEURS writes Mandarin as cmn.
_SHORT = {
    "ara": "ar", "arb": "ar", "cat": "ca", "ces": "cs", "cmn": "zh", "cym": "cy", "deu": "de", "eng": "en",
    "est": "et", "fas": "fa", "fra": "fr", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "lav": "lv",
    "mon": "mn", "nld": "nl", "pes": "fa", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "slv": "sl",
    "spa": "es", "swe": "sv", "tam": "ta", "tur": "tr", "vie": "vi", "zho": "zh",
}  # fmt: skip


def language_code(language: str) -> str:
    """A language without script and region, by its short code: `zh` for `zh-CN`, `zh_cn`, `cmn_hans_cn` and `zho`.

    >>> language_code("cmn_hans_cn"), language_code("pt-BR"), language_code("yue_hant_hk"), language_code("")
    ('zh', 'pt', 'yue', '')
    """
    first = re.split(r"[-_]", language.strip(), maxsplit=1)[0].lower()
    return _SHORT.get(first, first)
