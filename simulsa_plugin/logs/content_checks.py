"""Heuristics for logs with wrong content: subwords, special tokens, times in seconds."""

from __future__ import annotations

import re

from simulsa_plugin.metrics.records import EmissionRecord

# How SentencePiece (▁), byte-level BPE (Ġ), BPE (@@) and WordPiece (##) write where words begin or go on.
_SUBWORD = re.compile(r"▁|(?<!\S)Ġ|@@(?!\S)|(?<!\S)##(?=\w)")
# What tokenizers of today's language models write for tokens that are not text.
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<(?:end|start)_of_turn>|<turn\|>|<\|turn>|<0x[0-9A-F]{2}>"
    r"|(?i:</?s>|<(?:bos|eos|pad|unk|mask)>|\[(?:BOS|EOS|SEP|CLS|PAD|UNK|MASK|/?INST)\])"
)
_SHORTEST_UNIT = 20.0  # milliseconds of audio for each word or character, on average; speech is slower
_EARLIEST_LAST_WORD = 0.01  # of the audio; no policy has finished by then


def has_subwords(record: EmissionRecord) -> bool:
    """Return whether the prediction consists of subwords that were not joined to words.

    >>> has_subwords(EmissionRecord(0, "▁Gu ten ▁Tag", "Guten Tag", (1.0, 2.0, 3.0)))
    True
    """
    return bool(_SUBWORD.search(record.prediction)) and not _SUBWORD.search(record.reference or "")


def has_special_token(record: EmissionRecord) -> bool:
    """Return whether the prediction contains a special token of a chat template, which counts as a word.

    >>> has_special_token(EmissionRecord(0, "Guten Tag <end_of_turn>", "Guten Tag", (1.0, 2.0, 3.0)))
    True
    >>> has_special_token(EmissionRecord(0, "Guten Tag <sic>", "Guten Tag", (1.0, 2.0, 3.0)))
    False
    """
    return bool(_SPECIAL_TOKEN.search(record.prediction))


def has_early_elapsed(record: EmissionRecord) -> bool:
    """Return whether an elapsed time, which includes computation, is below its delay.

    >>> has_early_elapsed(EmissionRecord(0, "a", "a", (1500.0,), (1.7,)))
    True
    """
    return len(record.elapsed or ()) == len(record.delays) and any(
        late < delay for late, delay in zip(record.elapsed or (), record.delays, strict=True)
    )


class SecondsDetector:
    """Detects logs whose times are in seconds. Records with a text source are ignored.

    Attributes:
        short: records whose audio is too short for its text.
        early: records whose last unit comes too early in their audio.
        checked: records that were checked.
    """

    def __init__(self) -> None:
        self.short = self.early = self.checked = 0

    def add(self, record: EmissionRecord) -> None:
        """Check a record."""
        if record.text_source or not record.source_length or not record.delays or record.delays[-1] <= 0:
            return
        self.checked += 1
        self.short += record.source_length < _SHORTEST_UNIT * len(record.delays)
        self.early += record.delays[-1] < _EARLIEST_LAST_WORD * record.source_length

    def reason(self) -> str | None:
        """Return why times seem to be in seconds; None where they do not."""
        if 2 * self.short > self.checked:
            return (
                f"{self.short} of {self.checked} lines have less than {_SHORTEST_UNIT:g} ms of source for each unit; "
                f"times in seconds must be multiplied by 1000"
            )
        if 2 * self.early > self.checked:
            return (
                f"{self.early} of {self.checked} lines have all their delays in the first hundredth of the source; "
                f"delays in seconds must be multiplied by 1000"
            )
        return None
