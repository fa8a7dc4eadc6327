"""Signs that a log holds something else than text and milliseconds: subwords, special tokens, seconds."""

from __future__ import annotations

import re

from simulsa_plugin.metrics.records import EmissionRecord

SUBWORD_SPACE = "▁"  # U+2581: how SentencePiece writes a space
# The tokens that end an answer or a turn, of the tokenizers of today's language models.
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<(?:end|start)_of_turn>|</?s>|<(?:bos|eos|pad|unk)>|\[(?:EOS|SEP|PAD)\]")
_SHORTEST_SPEECH = 100.0  # milliseconds; a log whose longest audio is shorter is in seconds
_EARLIEST_LAST_WORD = 0.01  # of the audio; no policy has written all it ever writes by then


def has_subwords(record: EmissionRecord) -> bool:
    """Whether the prediction is made of subwords that were not joined to words.

    >>> has_subwords(EmissionRecord(0, "▁Gu ten ▁Tag", "Guten Tag", (1.0, 2.0, 3.0)))
    True
    """
    return SUBWORD_SPACE in record.prediction and SUBWORD_SPACE not in (record.reference or "")


def has_special_token(record: EmissionRecord) -> bool:
    """Whether a special token of a chat template stands in the prediction, where it counts as a word.

    >>> has_special_token(EmissionRecord(0, "Guten Tag <end_of_turn>", "Guten Tag", (1.0, 2.0, 3.0)))
    True
    >>> has_special_token(EmissionRecord(0, "Guten Tag <sic>", "Guten Tag", (1.0, 2.0, 3.0)))
    False
    """
    return bool(_SPECIAL_TOKEN.search(record.prediction))


class Seconds:
    """Whether the times of a log are seconds, judged by all its records together."""

    def __init__(self) -> None:
        self._longest, self._latest = 0.0, 0.0

    def add(self, record: EmissionRecord) -> None:
        """Take a record into account; one whose times are tokens of a text is passed over."""
        if record.text_source or not record.source_length or not record.delays:
            return
        self._longest = max(self._longest, record.source_length)
        self._latest = max(self._latest, record.delays[-1] / record.source_length)

    def reason(self) -> str | None:
        """Say what speaks for seconds; None where nothing does."""
        if 0 < self._longest < _SHORTEST_SPEECH:
            return f"no source_length reaches {_SHORTEST_SPEECH:g} ms; times in seconds must be multiplied by 1000"
        if 0 < self._latest < _EARLIEST_LAST_WORD:
            return ("every delay lies in the first hundredth of its source_length; delays in seconds must be "
                    "multiplied by 1000")
        return None
