"""Result folders: scores.json is written last, with checksums of the other files, and verified before use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulsa_plugin.errors import StorageError
from simulsa_plugin.evaluation.report import REPORT_FILES, write_result_report
from simulsa_plugin.evaluation.result_cells import SCORES, read_cells
from simulsa_plugin.evaluation.speech_file import SPEECH
from simulsa_plugin.files.checksums import checksums, first_damaged, is_sealed, refuse_damaged, sealed
from simulsa_plugin.files.json_files import CHECKSUM, write_json
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS
from simulsa_plugin.logs.simuleval import INSTANCES_LOG
from simulsa_plugin.logs.steps import STEPS

FILE_CHECKSUMS = "checksums"  # of scores.json and frontier.json: file → checksum


def write_scores(scores: Mapping[str, Any], out: Path) -> None:
    """Write the tables and the report, then scores.json, whose presence marks a complete result."""
    write_result_report(scores, out)
    content = {key: value for key, value in scores.items() if key not in (CHECKSUM, FILE_CHECKSUMS)}
    write_json(
        out / SCORES, sealed(content | {FILE_CHECKSUMS: checksums(out, [*_result_files(scores, out), *REPORT_FILES])})
    )


def check_sealed(scores: Mapping[str, Any], out: Path) -> None:
    """Verify the checksum of scores.json, if it has one.

    Raises:
        StorageError: it does not match.
    """
    if CHECKSUM in scores and not is_sealed(scores):
        raise StorageError(f"{out / SCORES} is not as it was written: its checksum does not fit. {decode_again(out)}")


def check_files(scores: Mapping[str, Any], out: Path) -> None:
    """Verify the files whose checksums scores.json has; changed tables and reports are written again.

    Raises:
        StorageError: the log or the steps of a cell do not match.
    """
    noted = scores.get(FILE_CHECKSUMS) or {}
    refuse_damaged(
        out, {name: checksum for name, checksum in noted.items() if name not in REPORT_FILES}, decode_again(out)
    )
    if first_damaged(out, {name: noted[name] for name in REPORT_FILES if name in noted}) is not None:
        write_scores(scores, out)


def decode_again(out: Path) -> str:
    """Return the advice for a damaged result."""
    return (
        f"Remove {out / SCORES} and start `simulsa-eval run` again, which decodes everything again, or choose "
        f"another --out."
    )


def _result_files(scores: Mapping[str, Any], out: Path) -> Iterator[str]:
    yield from (SEGMENTS, REFERENCES) if "longform" in scores else ()
    yield from (SPEECH,) if (out / SPEECH).is_file() else ()  # not in results of earlier versions
    for cell in read_cells(out, scores).values():
        if cell.log is not None:
            names = dict.fromkeys((INSTANCES_LOG, cell.log.name, STEPS))
            files = (cell.log.with_name(name) for name in names)
            yield from (path.relative_to(out).as_posix() for path in files if path.is_file())
