"""`simulsa-eval comet`: COMET of a log, or of every cell of a result folder, added to its scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import LogError, SimulsaError
from simulsa_plugin.evaluation.comet.scoring import CometScores, comet_scores
from simulsa_plugin.evaluation.evaluation_settings import CometSettings
from simulsa_plugin.evaluation.result_cells import COMET, COMET_SCORES, SCORES, Cell, read_cells, read_scores
from simulsa_plugin.evaluation.result_folder import check_files, check_sealed, write_scores
from simulsa_plugin.files.atomic import refuse_link, remove_leftovers
from simulsa_plugin.files.json_files import write_jsonl
from simulsa_plugin.files.locks import locked
from simulsa_plugin.logs.convert import text_rows
from simulsa_plugin.logs.reader import Log, ReadOptions
from simulsa_plugin.logs.segment_files import read_texts
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.steps import STEPS, read_sessions
from simulsa_plugin.metrics.columns import mean_of
from simulsa_plugin.metrics.significance import Bootstrap, Statistics, intervals

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CometOptions:
    """Options of `simulsa-eval comet`, explained in its help."""

    checkpoint: Path
    python: str | None = None
    sources: Path | None = None
    batch_size: int = 8
    read: ReadOptions = field(default_factory=ReadOptions)


def add_comet_if_wanted(folder: Path, settings: CometSettings) -> None:
    """Add COMET to a result where the recipe names a checkpoint; what goes wrong is a warning, and costs no BLEU."""
    if settings.comet is None:
        return
    sources = None if settings.comet_sources is None else Path(settings.comet_sources)
    options = CometOptions(Path(settings.comet), settings.comet_python, sources, settings.comet_batch_size)
    try:
        add_comet(folder, options)
    except SimulsaError as error:
        logger.warning(
            f"{COMET} was not computed, all else was: {error} Later: simulsa-eval comet {folder} "
            f"--checkpoint {settings.comet}"
        )


def add_comet(path: Path, options: CometOptions) -> dict[str, float]:
    """Score a log, or every cell of a result folder that has one; the scores are added to the folder.

    The folder's scores.json, tables and report get the means, each cell a `comet.jsonl` with a score per instance,
    which `compare` resamples.

    Args:
        path: a log or a result folder.
        options: the checkpoint, and the source texts: one per instance, or one per row of the test set.

    Returns:
        Cell → mean.

    Raises:
        LogError: a log cannot be read, the number of sources is wrong, or the folder was changed meanwhile.
        StorageError: a file of the folder is damaged.
        UsageError, MissingExtraError, ModelError: as `comet_scores`.
    """
    if not path.is_dir():
        scored = _score_cells([list(text_rows(Log(path, options.read).records(), options.sources))], options)
        return {str(path): _mean(scored[0].scores)}
    scores = read_scores(path)
    check_sealed(scores, path)
    check_files(scores, path)
    cells = [cell for cell in read_cells(path, scores).values() if cell.log is not None]
    if not cells:
        raise LogError(f"{path} has no {INSTANCES_LOG} in any cell. Give a folder of `simulsa-eval run`.")
    for cell in cells:
        refuse_link((cell.log or Path()).parent)
    triples = [_read_triples(cell, scores, options) for cell in cells]
    scored = _score_cells(triples, options)
    with locked(path):
        if read_scores(path)["cells"] != scores["cells"]:
            raise LogError(f"{path / SCORES} was changed while COMET was computed. Start again.")
        remove_leftovers(path)
        for cell, one in zip(cells, scored, strict=True):
            _write_cell(cell, one)
        _write_scores(path, scores, {cell.log: one for cell, one in zip(cells, scored, strict=True)})
    return {str(cell.key): _mean(one.scores) for cell, one in zip(cells, scored, strict=True)}


def _read_triples(cell: Cell, scores: Mapping[str, Any], options: CometOptions) -> list[dict[str, str]]:
    log = cell.log or Path()
    rows = list(text_rows(Log(log, options.read).records(), None))
    if options.sources is None:
        return rows
    sources = list(read_texts(options.sources, "sources"))
    by_rows = len(sources) == scores.get("rows") and "longform" not in scores
    if len(sources) != len(rows) and by_rows:
        # An id ends with its row in the test set.
        sources = [
            sources[int(identifier.rpartition("-")[2])] for identifier, _ in read_sessions([log.with_name(STEPS)])
        ]
    if len(sources) != len(rows):
        raise LogError(
            f"{options.sources} holds {len(sources)} lines for {len(rows)} instances of "
            f"{scores.get('rows')} rows; expected one source for each instance, or for each row."
        )
    return [{"src": source} | row for source, row in zip(sources, rows, strict=True)]


def _score_cells(cells: Sequence[Sequence[Mapping[str, str]]], options: CometOptions) -> list[CometScores]:
    """Score several cells with a single start of the model, which may take minutes."""
    everything = comet_scores(
        [triple for cell in cells for triple in cell],
        options.checkpoint,
        python=options.python,
        batch_size=options.batch_size,
    )
    found, start = [], 0
    for cell in cells:
        found.append(CometScores(everything.scores[start : start + len(cell)], everything.signature))
        start += len(cell)
    return found


def _write_cell(cell: Cell, scored: CometScores) -> None:
    rows = ({"index": index, "score": score} for index, score in enumerate(scored.scores))
    folder = (cell.log or Path()).parent
    remove_leftovers(folder)
    write_jsonl(folder / COMET_SCORES, rows)


def _write_scores(folder: Path, scores: dict[str, Any], scored: Mapping[Path | None, CometScores]) -> None:
    for row, cell in zip(scores["cells"], read_cells(folder, scores).values(), strict=True):
        one = scored.get(cell.log)
        row[COMET] = None if one is None else _mean(one.scores)
        if one is not None:
            scores["signatures"][COMET] = one.signature
            row.setdefault("intervals", {})[COMET] = _interval(one.scores, _recordings(cell))
    write_scores(scores, folder)  # readers reject a comet.jsonl with another mean


def _recordings(cell: Cell) -> list[str] | None:
    """Return the recording of each segment of a cell; None where instances are utterances."""
    names = [record.recording for record in Log(cell.log or Path()).records()]
    return [name or "" for name in names] if any(names) else None


def _interval(scores: Sequence[float], recordings: Sequence[str] | None) -> list[float] | None:
    """Resample scores, of segments by recording and then within them; `recordings` is that of each score."""
    import numpy as np

    numbers = {name: number for number, name in enumerate(dict.fromkeys(recordings or ()))}
    groups = None if recordings is None else np.array([numbers[name] for name in recordings], dtype=np.int64)
    found = intervals(Statistics({}, {COMET: np.array(scores)}, {}, groups), Bootstrap())[COMET]
    return found and found.as_json()


def _mean(scores: Sequence[float]) -> float:
    return mean_of(scores) or 0.0
