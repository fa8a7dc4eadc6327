"""FLEURS: the recordings of one language joined with the sentences of another on the sentence's id, many to many.

`en_us/train.tsv` without a header (id, file name, raw transcription, transcription, words, samples, gender) and
`en_us/audio/train/NAME.wav`; the same for the target language, whose audio is not read. Several people read most
sentences, so an id stands in several rows of either table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from simulsa_plugin.corpora.lines import listed, numbered_lines
from simulsa_plugin.corpora.utterance import CorpusRequest, Dropped, Utterance
from simulsa_plugin.errors import DatasetError, RowError

_NUM_FIELDS = 7
_ID, _FILE, _RAW = 0, 1, 2


def read_fleurs(request: CorpusRequest) -> Iterator[Utterance | Dropped]:
    """Yield every recording with each raw transcription of its sentence in the target language."""
    source, target = _language_folder(request, request.source), _language_folder(request, request.target)
    for split in request.splits:
        sentences = _sentences(_split_table(target, split))
        audio_folder = _audio_folder(source, split)
        for place, fields in _table_rows(_split_table(source, split)):
            if fields is None:
                yield Dropped(place, "broken_row")
                continue
            stem = Path(fields[_FILE]).stem
            try:
                audio = request.find(fields[_FILE], place, audio_folder)
            except RowError as error:
                yield Dropped(stem, error.reason, str(error))
                continue
            translations = sentences.get(fields[_ID], [])
            if not translations:
                yield Dropped(stem, "no_translation")
            for number, translation in enumerate(translations):
                yield Utterance(f"{stem}_{number}" if number else stem, audio, None, translation)


def _language_folder(request: CorpusRequest, language: str) -> Path:
    candidates = [request.folder / language, request.folder / "data" / language]
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        tables = [*request.folder.glob("*/*.tsv"), *request.folder.glob("data/*/*.tsv")]
        there = sorted({table.parent.name for table in tables})
        raise DatasetError(
            f"{request.folder} has no language {language}; there: {listed(there)}. "
            "Set simulsa_source_language and simulsa_target_language as FLEURS has them (en_us, cmn_hans_cn)."
        )
    return found


def _split_table(language: Path, split: str) -> Path:
    table = language / f"{split}.tsv"
    if not table.exists():
        there = listed(path.stem for path in sorted(language.glob("*.tsv")))
        raise DatasetError(f"{language} has no {split}.tsv; splits there: {there}. Set simulsa_split.")
    return table


def _audio_folder(language: Path, split: str) -> Path:
    folder, archive = language / "audio" / split, language / "audio" / f"{split}.tar.gz"
    if not folder.is_dir() and archive.exists():
        raise DatasetError(f"{archive} is not unpacked. Type  tar -xzf {archive} -C {archive.parent}")
    return folder


def _sentences(table: Path) -> dict[str, list[str]]:
    """Return sentence id → its different raw transcriptions, in order; equal texts of several readers are one."""
    sentences: dict[str, dict[str, None]] = {}
    for _, fields in _table_rows(table):
        if fields is not None and fields[_RAW].strip():
            sentences.setdefault(fields[_ID], {})[fields[_RAW].strip()] = None
    return {identifier: list(texts) for identifier, texts in sentences.items()}


def _table_rows(table: Path) -> Iterator[tuple[str, list[str] | None]]:
    """Yield (place, fields) of each row; None where a row has another number of fields."""
    for number, line in numbered_lines(table):
        fields = line.split("\t")
        if line:
            yield f"{table}, line {number}", fields if len(fields) == _NUM_FIELDS else None
