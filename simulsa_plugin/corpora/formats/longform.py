"""Long recordings with reference segments: a YAML list, a text with a reference a line, and the audio.

The form of MuST-C's whole talks, ACL 60/60, MCIF and simulstream: `- {duration: 3.5, offset: 16.08, wav: talk.wav, …}`
and the reference of each segment in its line. A text that lists the recordings, a path a line, as simulstream's
`--wav-list-file` does, may say where they are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from simulsa_plugin.corpora.choice import choose_table
from simulsa_plugin.corpora.lines import listed, numbered_lines
from simulsa_plugin.corpora.segment_lists import (
    find_recording_or_flac,
    listed_utterances,
    read_translations,
    read_yaml_segments,
)
from simulsa_plugin.corpora.utterance import AudioName, CorpusRequest, Dropped, Utterance
from simulsa_plugin.errors import DatasetError, RowError

_TABLES = (".yaml", ".yml", "_segments.yaml")


def read_longform(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield the segments of the splits, in order. An id is the recording and the segment's number in it."""
    for split in request.splits or ("",):
        table = choose_table(request.folder, split, _TABLES)
        segments = list(read_yaml_segments(table))
        references = read_translations(_reference_file(request, table), segments, table)
        recordings = _ListedRecordings(request) if request.recordings else None
        find = recordings.find if recordings else functools.partial(_find_beside, table, request)
        yield from listed_utterances(segments, references, find)
        if recordings:
            yield from recordings.without_segments()


def _find_beside(table: Path, request: CorpusRequest, name: str, place: str) -> AudioName:
    above = table.parent
    return find_recording_or_flac(name, place, request.find, above, above / "wav", above.parent / "wav")


def _reference_file(request: CorpusRequest, table: Path) -> Path:
    """Return the file that the recipe names, or the one beside the list of segments."""
    if request.references:
        return request.references
    stem, language = table.stem, request.target_language
    names = [f"{stem}.{language}", f"{stem}.{language}.txt"] if language else []
    names += [f"{stem.removesuffix('_segments')}_references.txt", f"{stem}.txt"]
    found = next((table.with_name(name) for name in names if table.with_name(name).is_file()), None)
    if found is None:
        raise DatasetError(
            f"{table} has no references beside it: none of {listed(names)}. "
            "Set simulsa_references to the file with a reference a line."
        )
    return found


class _ListedRecordings:
    """The recordings of a list, a path a line, found by the names that segments give them.

    A name is the end of a path or, as simulstream compares them, the file's name without its ending.
    """

    def __init__(self, request: CorpusRequest) -> None:
        self._path = Path(str(request.recordings))
        self._request = request
        lines = ((number, text.strip()) for number, text in numbered_lines(self._path))
        self._listed = {number: text for number, text in lines if text}
        if not self._listed:
            raise DatasetError(f"{self._path} names no recording; expected the path of an audio file a line.")
        self._named: set[int] = set()
        self._find = functools.lru_cache(maxsize=None)(self._find_uncached)

    def find(self, name: str, place: str) -> AudioName:
        """Return the path of the recording that segments call `name`.

        Raises:
            RowError: it is not listed, or it is not clear which one is meant; or as `AudioFinder.find`.
        """
        number = self._choose(PurePosixPath(name), place)
        self._named.add(number)
        return self._find(number)

    def _find_uncached(self, number: int) -> AudioName:
        return self._request.find(self._listed[number], f"{self._path}, line {number}", self._path.parent)

    def _choose(self, name: PurePosixPath, place: str) -> int:
        paths = {number: PurePosixPath(text) for number, text in self._listed.items()}
        found = [number for number, path in paths.items() if path.parts[-len(name.parts) :] == name.parts]
        found = found or [number for number, path in paths.items() if path.stem == name.stem]
        if len(found) != 1:
            many = f"{len(found)} recordings" if found else "no recording"
            raise RowError("not_listed", f"{place}: {self._path} lists {many} for {str(name)[:80]!r}; expected one.")
        return found[0]

    def without_segments(self) -> Iterator[Dropped]:
        """Yield the recordings that no segment has named so far."""
        for number, text in self._listed.items():
            if number not in self._named:
                cause = f"{self._path}, line {number}: no segment lies in this recording."
                yield Dropped(text, "no_segments", cause)
