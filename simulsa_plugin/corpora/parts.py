"""What the audio that was written for a corpus should hold, so that what a crash has damaged is made again."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.recordings import Span
from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.corpora.corpus_layout import CorpusLayout
from simulsa_plugin.corpora.utterance import Utterance
from simulsa_plugin.files.atomic import refuse_link, remove_durably, replacing, sync_files, writing_to
from simulsa_plugin.files.audio_folder import name_inside
from simulsa_plugin.files.json_files import crc32_hex, dump_sealed, read_whole_rows

_HEADER_BYTES = 44  # of the WAV files that we write


class Parts:
    """A row for each file below `layout.audio`: its name, length in bytes, CRC-32, and what it was cut out of.

    Rows are noted by all threads as files are written, in the order in which they come; `finish` writes them sorted.
    """

    def __init__(self, layout: CorpusLayout) -> None:
        self._layout, self._lock = layout, threading.Lock()
        self._rows: dict[str, dict[str, Any]] = {}
        for path in (layout.parts, layout.parts_noted):
            if path.exists():
                self._rows.update((row["id"], row) for row in read_whole_rows(path) if isinstance(row.get("id"), str))

    def seconds_there(self, path: Path, utterance: Utterance) -> float | None:
        """Return the length of a part that was written whole, of this very span; None where it must be cut."""
        row = self._rows.get(self._name(path))
        if row is None or row.get("of") != self._origin(utterance) or not _holds(path, row, all_of_it=True):
            return None
        return float((row["bytes"] - _HEADER_BYTES) / 2 / SAMPLE_RATE)

    def note(self, path: Path, utterance: Utterance, data: bytes) -> None:
        """Note a part that has been written.

        Raises:
            StorageError: the disk refuses.
        """
        row = self._row(path, data) | {"of": self._origin(utterance)}
        noted = self._layout.parts_noted
        with self._lock:
            self._rows[row["id"]] = row
            refuse_link(noted)
            with writing_to(noted), noted.open("ab") as handle:
                # On a line of its own, whatever a kill left of the one before.
                handle.write(f"\n{dump_sealed(row)}\n".encode())

    def finish(self, paths: Iterable[Path]) -> None:
        """Put files below `layout.audio` on the disk, and then what they should hold.

        Raises:
            StorageError: the disk refuses.
        """
        files = sorted({path for path in paths if self._layout.audio in path.parents})
        sync_files(files)
        if files:
            with replacing(self._layout.parts, "w") as handle:
                for path in files:
                    handle.write(f"{dump_sealed(self._rows.get(self._name(path)) or self._row_of_whole(path))}\n")
        else:
            remove_durably(self._layout.parts)
        remove_durably(self._layout.parts_noted)

    def _row_of_whole(self, path: Path) -> dict[str, Any]:
        """Return the row of a file that was inside a table, with which it was compared when it was written."""
        return self._row(path, path.read_bytes())

    def _row(self, path: Path, data: bytes) -> dict[str, Any]:
        return {"id": self._name(path), "bytes": len(data), "crc32": crc32_hex(data)}

    def _origin(self, utterance: Utterance) -> list[Any]:
        """Return what a part is of; audio that was inside a table lies in the output folder, which may be moved."""
        span, audio = utterance.span or Span(), name_inside(str(utterance.audio), self._layout.out)
        return [audio, span.start_seconds, span.end_seconds, span.channel]

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._layout.audio))


def are_whole(layout: CorpusLayout) -> bool:
    """Return whether every file that was written for a finished corpus exists, with its length and checksum.

    Only those that are younger than the manifest are read: others were put on the disk before it.
    """
    if not layout.parts.exists():
        return True
    finished_ns = layout.manifest.stat().st_mtime_ns
    for row in read_whole_rows(layout.parts):
        path = layout.audio / row["id"]
        try:
            changed = path.stat().st_mtime_ns >= finished_ns
        except OSError:
            return False
        if not _holds(path, row, all_of_it=changed):
            return False
    return True


def _holds(path: Path, row: dict[str, Any], *, all_of_it: bool) -> bool:
    with contextlib.suppress(OSError):
        if os.stat(path).st_size == row["bytes"]:
            return not all_of_it or crc32_hex(path.read_bytes()) == row["crc32"]
    return False
