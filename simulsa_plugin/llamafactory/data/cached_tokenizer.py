"""A tokenizer that remembers what it encoded: templates encode the same turns for every row, and prefixes of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TEXTS_KEPT = 4096


class CachedTokenizer:
    """A tokenizer with a cache in front of `encode` without special tokens; everything else is the tokenizer's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *, add_special_tokens: bool = True, **options: Any) -> list[int]:
        """Encode a text as the tokenizer does."""
        if add_special_tokens or options:
            found: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens, **options)
            return found
        if text not in self._known:
            self._keep(text, self._tokenizer.encode(text, add_special_tokens=False))
        return list(self._known[text])

    def encode_ahead(self, texts: Iterable[str]) -> None:
        """Encode texts in one batch, which is faster, so that `encode` knows them."""
        new = [text for text in dict.fromkeys(texts) if text and text not in self._known]
        if new:
            for text, token_ids in zip(new, self._tokenizer(new, add_special_tokens=False)["input_ids"], strict=True):
                self._keep(text, token_ids)

    def _keep(self, text: str, token_ids: list[int]) -> None:
        if len(self._known) >= TEXTS_KEPT:
            self._known.clear()
        self._known[text] = token_ids
