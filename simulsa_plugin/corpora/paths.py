"""Where a corpus may have its audio: inside its own folder, and in the one more that the user names."""

from __future__ import annotations

import functools
import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from simulsa_plugin.corpora.utterance import AudioName
from simulsa_plugin.errors import RowError
from simulsa_plugin.files.remote import is_remote, shown

_CONTROL_IN_NAMES = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class AudioFinder:
    """Names of audio files in a corpus to paths that are safe to open.

    Args:
        folder: the corpus; absolute.
        audio_folder: another folder that may hold its audio; absolute.
        addresses: of folders in stores that may hold its audio; relative names start from the first.
    """

    def __init__(self, folder: Path, audio_folder: Path | None = None, addresses: Sequence[str] = ()) -> None:
        self.audio_folder = audio_folder
        self._addresses = [f"{address.rstrip('/')}/" for address in addresses]
        corpus = folder if folder.is_dir() else folder.parent
        self._real_roots = [os.path.realpath(root) for root in (audio_folder, corpus) if root is not None]
        self._real_folder = functools.lru_cache(maxsize=None)(os.path.realpath)

    def find(self, name: str, place: str, *folders: Path) -> AudioName:
        """Return the path of the file that a corpus calls `name`, or its address; it need not exist.

        Relative names are looked up in the user's own folder of audio first, then in `folders`; so are names written
        with backslashes, and names in another Unicode normalisation than the disk's.

        Args:
            name: as the corpus writes it.
            place: where it does, for messages: a file and a line.
            folders: that relative names may start from; absolute.

        Raises:
            RowError: it is not a plain path (`audio_not_a_path`), or leads out of the folders (`audio_outside`).
        """
        self._refuse_no_path(name, place)
        if "://" in name or (self._addresses and not os.path.isabs(name)):
            return self._find_address(name, place)
        starts = [start for start in (self.audio_folder, *folders) if start is not None]
        candidates = [os.path.normpath(start / variant) for variant in _variants(name) for start in starts]
        chosen = next((path for path in candidates if os.path.lexists(path)), candidates[0])
        self._refuse_outside(chosen, name, place)
        return Path(chosen)

    def _refuse_no_path(self, name: str, place: str) -> None:
        if name.rstrip().endswith("|") or name.lstrip().startswith("|"):
            reason = "is a shell command, and none is run. Write its output to files, and name those"
        elif "://" in name and not self._addresses:
            reason = "is an address. Set simulsa_audio_dir to that of its folder, or download it, and name the file"
        elif not name.strip() or name.strip() == "-" or _CONTROL_IN_NAMES.search(name):
            reason = "is not a file name"
        elif _DRIVE.match(name):
            reason = "is a path of another machine. Make it relative to the corpus folder"
        else:
            return
        raise RowError("audio_not_a_path", f"{place}: the audio {_short(name)!r} {reason}.")

    def _find_address(self, name: str, place: str) -> str:
        address = name if "://" in name else self._addresses[0] + posixpath.normpath(name)
        inside = any(address.startswith(root) for root in self._addresses)
        if not (inside and is_remote(address)) or ".." in address.split("/"):
            raise RowError(
                "audio_outside",
                f"{place}: the audio {_short(shown(name))!r} lies outside {' and '.join(map(shown, self._addresses))}. "
                "If it may be read there, set simulsa_audio_dir to the address of the folder that holds the audio.",
            )
        return address

    def _refuse_outside(self, path: str, name: str, place: str) -> None:
        # Only the last step may differ from file to file, so each folder is resolved once.
        real = os.path.realpath(path) if os.path.islink(path) else self._beside(path)
        if not any(real.startswith(root.rstrip(os.sep) + os.sep) for root in self._real_roots):
            raise RowError(
                "audio_outside",
                f"{place}: the audio {_short(name)!r} lies outside the corpus, at {_short(real)!r}. "
                "If it may be read there, set simulsa_audio_dir to the folder that holds the audio.",
            )

    def _beside(self, path: str) -> str:
        folder, name = os.path.split(path)
        return os.path.join(self._real_folder(folder), name)


def _variants(name: str) -> list[str]:
    """Return the spellings under which a name may exist on this disk."""
    spellings = [name, name.replace("\\", "/")]
    forms = [unicodedata.normalize(form, spelling) for spelling in spellings for form in ("NFC", "NFD")]
    return list(dict.fromkeys([*spellings, *forms]))


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
