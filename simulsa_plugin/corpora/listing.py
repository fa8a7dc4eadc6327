"""The utterances of a corpus before any audio is opened: texts cleaned, what is unusable set aside."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.utterance import AudioName, Dropped, EncodedAudio, Utterance
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.files.atomic import make_own_folder, replacing
from simulsa_plugin.files.json_files import dump_line

# LLaMA-Factory counts these in every message, wherever they come from, and stops when there are too many.
PLACEHOLDERS = ("<audio>", "<image>", "<video>")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".mp4"))


@dataclass
class Listing:
    """The utterances of a corpus in its order, each with an audio file.

    Attributes:
        utterances: those with a usable text.
        dropped: the others.
        renormalized: how many texts were not in Unicode's form NFC.
        digest: of all of it; the same corpus gives the same.
    """

    utterances: list[Utterance] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    renormalized: int = 0
    digest: str = ""

    @property
    def rows(self) -> int:
        """Rows that the corpus has."""
        return len(self.utterances) + len(self.dropped)


def list_utterances(rows: Iterator[Utterance | Dropped], layout: CorpusLayout, *, writes: bool = True) -> Listing:
    """Go through what a reader gives; audio inside tables is written to separate files.

    Args:
        rows: of `CorpusFormat.read`.
        layout: where those files lie.
        writes: False only says where they would.

    Raises:
        DatasetError: the reader's.
        StorageError: such a file cannot be written.
    """
    listing, digest = Listing(), hashlib.sha256()
    seen: set[str] = set()
    for row in map(_decodable, rows):
        digest.update(f"{dump_line(_content_of_row(row))}\n".encode())
        reason = _reason_to_drop(row, seen)
        if isinstance(row, Dropped) or reason:
            listing.dropped.append(row if isinstance(row, Dropped) else Dropped(row.id, str(reason)))
            continue
        seen.add(row.id)
        text = clean(row.translation)
        listing.renormalized += text != row.translation.strip()
        audio = _store_audio(row, len(listing.utterances), layout, writes)
        listing.utterances.append(replace(row, translation=text, audio=audio))
    listing.digest = digest.hexdigest()
    return listing


def _decodable(row: Utterance | Dropped) -> Utterance | Dropped:
    """Return the row, dropped where it holds bytes that were not UTF-8 in its file; see `numbered_lines`."""
    texts = [row.id]
    if isinstance(row, Utterance):
        texts += [row.translation, "" if isinstance(row.audio, EncodedAudio) else str(row.audio)]
    if not any(map(_SURROGATE.search, texts)):
        return row
    identifier = row.id.encode(errors="backslashreplace").decode()
    if isinstance(row, Dropped):
        return replace(row, id=identifier)
    return Dropped(identifier, "not_utf8", "its line is not UTF-8. Convert the file to UTF-8.")


def clean(text: str) -> str:
    r"""Normalise a text as tokenizers expect it: NFC, no space at the ends; nothing else changes.

    >>> clean(" Cafe\u0301 \n")
    'Café'
    """
    return unicodedata.normalize("NFC", text).strip()


def _reason_to_drop(row: Utterance | Dropped, seen: set[str]) -> str | None:
    if isinstance(row, Dropped):
        return row.reason
    if row.id in seen:
        return "duplicate_id"
    if not row.translation.strip():
        return "empty_translation"
    if any(placeholder in row.translation for placeholder in PLACEHOLDERS):
        return "placeholder_in_text"
    return None


def _content_of_row(row: Utterance | Dropped) -> list[object]:
    """Return the content by which two readings of a corpus are compared."""
    if isinstance(row, Dropped):
        return [row.id, row.reason]
    audio = zlib.crc32(row.audio.data) if isinstance(row.audio, EncodedAudio) else str(row.audio)
    span = row.span and [row.span.start_seconds, row.span.end_seconds, row.span.channel]
    return [row.id, audio, span, row.translation]


def _store_audio(row: Utterance, number: int, layout: CorpusLayout, writes: bool) -> AudioName:
    audio = row.audio
    if isinstance(audio, (Path, str)):
        return audio
    suffix = audio.suffix.lower() if audio.suffix.lower() in _SUFFIXES else ".audio"
    # What is cut out of it gets the utterance's own name.
    path = layout.audio_file(number, suffix if row.span is None else f".whole{suffix}")
    if writes and not (path.exists() and path.read_bytes() == audio.data):
        make_own_folder(make_own_folder(path.parent.parent) / path.parent.name)
        with replacing(path, durable=False) as handle:  # `Parts.finish` puts all of them on the disk
            handle.write(audio.data)
    return path


def refuse_nothing(listing: Listing, where: object) -> None:
    """Raise DatasetError where a corpus has no usable utterance."""
    if not listing.utterances:
        reasons = ", ".join(sorted({row.reason for row in listing.dropped})) or "it has no rows"
        cause = next((row.cause for row in listing.dropped if row.cause), "")
        step = f"The first cause: {cause}" if cause else "Check the split, languages and files."
        raise DatasetError(f"No utterance of {where} can be used: {reasons}. {step}")
