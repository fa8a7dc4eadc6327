"""Logs of emissions: SimulEval's instances.log, read in its 1.0 and 1.1 forms and written as 1.1 writes it.

A log is untrusted input: it is read line by line, lines are bounded, and every refusal names the file and the line.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from simulsa_plugin import storage
from simulsa_plugin.errors import LogError
from simulsa_plugin.metrics.records import END_MARK, UNITS, EmissionRecord, count_units, fits_unit

LONGEST_LINE = 32 * 2**20  # bytes; a ten-hour talk in characters stays below
SIMULEVAL_1_0 = "SimulEval 1.0"
SIMULEVAL_1_1 = "SimulEval 1.1"

_READ_FORMS = f"The forms read are instances.log of {SIMULEVAL_1_0} and 1.1."
_KEYS_OF_1_0 = ("metric", "reference_length")
_KEYS_OF_SPEECH = ("durations", "intervals", "generated_wav")
_KEYS_OF_OTHER_FORMS = {"emission_cu": "OmniSTEval", "emission_ca": "OmniSTEval", "generated_tokens": "simulstream"}


@dataclass(frozen=True)
class Log:
    """A log that was read.

    Attributes:
        path: the file.
        form: SIMULEVAL_1_0 or SIMULEVAL_1_1.
        records: one per line, in file order; record i stands on line i + 1.
        end_marks: predictions of a 1.0 log whose end mark, with its delay, was left out.
        missing_reference: line numbers without the key `reference`, which SimulEval reads as an empty text.
        repeated_index: line numbers whose index an earlier line had; SimulEval would keep only the last of them.
    """

    path: Path
    form: str
    records: tuple[EmissionRecord, ...]
    end_marks: int = 0
    missing_reference: tuple[int, ...] = ()
    repeated_index: tuple[int, ...] = ()


def read_log(path: Path, references: Path | None = None) -> Log:
    """Read a log; its form is recognised by the first line.

    Args:
        path: an instances.log.
        references: a text file with one reference per line of the log, which takes the place of the log's own.

    Raises:
        LogError: the file cannot be read or is empty, its form is unknown, a line is no JSON object, holds NaN or
            infinity, has no delays or is too long, or the references are not as many as the lines.
    """
    form = ""
    records: list[EmissionRecord] = []
    missing: list[int] = []
    for number, row in enumerate(_read_rows(path), 1):
        form = form or _on_line(path, number, _recognise, row)
        records.append(_on_line(path, number, _parse_record, row, number - 1))
        if "reference" not in row and references is None:
            missing.append(number)
    if not records:
        raise LogError(f"{path} holds no line. {_READ_FORMS}")
    end_marks = 0
    if form == SIMULEVAL_1_0:
        end_marks = sum(map(_has_end_mark, records))
        records = [_without_end_mark(record) for record in records]
    if references is not None:
        records = _with_references(path, records, references)
    return Log(path, form, tuple(records), end_marks, tuple(missing), _repeated(records))


def read_references(path: Path) -> list[str]:
    r"""Lines of a text file, ended by \n or \r\n only: a reference may hold other separators.

    Raises:
        LogError: the file cannot be read or is no UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"Cannot read the references {path}: {_reason(error)}. Give a UTF-8 text file.") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def write_log(path: Path, records: Iterable[EmissionRecord]) -> None:
    """Write a log as SimulEval 1.1 writes it; without measured times the key `elapsed` is absent."""
    with storage.replacing(path, "w") as handle:
        handle.writelines(json.dumps(_as_simuleval(record), allow_nan=False) + "\n" for record in records)


def check_unit_fits(log: Log, unit: str) -> None:
    """Refuse a latency unit that does not fit most lines that have a text and delays.

    A lone line that fits no unit is let through: it proves nothing about the unit, only about itself.

    Raises:
        LogError: the unit does not fit; the first such line and the unit that fits are named.
    """
    telling = [(number, record) for number, record in enumerate(log.records, 1)
               if record.delays and record.prediction.strip()]
    unfit = [(number, record) for number, record in telling if not fits_unit(record, unit)]
    fitting = {other: sum(fits_unit(record, other) for _, record in telling) for other in UNITS}
    better = max(UNITS, key=fitting.__getitem__)
    if 2 * len(unfit) <= len(telling) or (len(telling) == 1 and not fitting[better]):
        return
    number, record = unfit[0]
    advice = f"Give --unit {better}, which fits {fitting[better]}." if fitting[better] > fitting[unit] else \
        "Neither unit fits: check that there is one delay per word or per character."
    raise LogError(
        f"{log.path}, line {number}: {len(record.delays)} delays for {count_units(record.prediction, unit)} units; "
        f"the unit {unit} does not fit {len(unfit)} of {len(telling)} lines. {advice}")


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a file, one per line; only blank lines at the end are passed over."""
    blank = 0
    for number, line in enumerate(_read_lines(path), 1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise LogError(f"{path}, line {blank}: a blank line; expected one JSON object per line.")
        yield _on_line(path, number, _parse_row, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _read_lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with path.open("rb") as handle:
            while line := handle.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise LogError(f"{path}, line {number}: longer than {LONGEST_LINE} bytes. {_READ_FORMS}")
                yield line
    except OSError as error:
        raise LogError(f"Cannot read the log {path}: {_reason(error)}. Give the path of an instances.log.") from error


def _on_line(path: Path, number: int, parse: Any, *arguments: Any) -> Any:
    """Call `parse`; its LogError gets the name of the file and the number of the line."""
    try:
        return parse(*arguments)
    except LogError as error:
        raise LogError(f"{path}, line {number}: {error}") from error


def _parse_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise LogError(f"no JSON ({_reason(error)}). {_READ_FORMS}") from error
    if not isinstance(row, dict):
        raise LogError(f"a JSON {type(row).__name__}; expected an object. {_READ_FORMS}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise LogError(f"holds {name}; allowed: finite numbers. Find out what wrote it and mend it there.")


def _recognise(row: Mapping[str, Any]) -> str:
    """The form of a log by the keys of its first line."""
    for key, form in _KEYS_OF_OTHER_FORMS.items():
        if key in row:
            raise LogError(f"a log of {form} (it has the key {key}), which is not read yet. {_READ_FORMS}")
    for key in _KEYS_OF_SPEECH:
        if key in row:
            raise LogError(f"a log of speech output (it has the key {key}); only text output is scored.")
    if "prediction" not in row and "delays" not in row:
        keys = _shown(list(row)[:8])
        raise LogError(f"an unknown form (its keys: {keys}). {_READ_FORMS}")
    return SIMULEVAL_1_0 if any(key in row for key in _KEYS_OF_1_0) else SIMULEVAL_1_1


def _parse_record(row: Mapping[str, Any], position: int) -> EmissionRecord:
    delays, elapsed = _times(row, "delays"), _times(row, "elapsed")
    if delays is None:
        raise LogError("no delays; expected a list of milliseconds, one per unit of the prediction.")
    source_length = row.get("source_length")
    return EmissionRecord(
        index=_index(row, position),
        prediction=_text(row, "prediction"),
        reference=None if row.get("reference", "") is None else _text(row, "reference", default=""),
        delays=delays,
        elapsed=elapsed,
        source_length=None if source_length is None else _number("source_length", source_length),
        source=_source(row.get("source")),
    )


def _times(row: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    """Milliseconds under a key; None where the key is absent or null."""
    times = row.get(key)
    if times is None:
        return None
    if not isinstance(times, list):
        raise LogError(f"{key} is {_shown(times)}; expected a list of milliseconds.")
    return tuple(_number(key, time) for time in times)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LogError(f"{key} holds {_shown(value)}; expected milliseconds.")
    try:
        return float(value)
    except OverflowError as error:
        raise LogError(f"{key} holds a number of {len(str(value))} digits; expected milliseconds.") from error


def _text(row: Mapping[str, Any], key: str, default: object = None) -> str:
    text = row.get(key, default)
    if not isinstance(text, str):
        raise LogError(f"{key} is {_shown(text)}; expected a text.")
    return text


def _index(row: Mapping[str, Any], position: int) -> int:
    index = row.get("index", position)
    if isinstance(index, bool) or not isinstance(index, int):
        raise LogError(f"index is {_shown(index)}; expected a whole number.")
    return index


def _source(source: object) -> str | tuple[str, ...]:
    return tuple(map(str, source)) if isinstance(source, list) else "" if source is None else str(source)


def _shown(value: object) -> str:
    """A value as an error shows it, however long it is."""
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "…"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _has_end_mark(record: EmissionRecord) -> bool:
    return record.prediction.rstrip().endswith(END_MARK)


def _without_end_mark(record: EmissionRecord) -> EmissionRecord:
    """SimulEval 1.0 writes `</s>` with a delay of its own; 1.1 writes neither, so that both score alike without it."""
    if not _has_end_mark(record):
        return record
    return dataclasses.replace(
        record,
        prediction=record.prediction.rstrip().removesuffix(END_MARK).rstrip(),
        delays=record.delays[:-1],
        elapsed=None if record.elapsed is None else record.elapsed[:-1],
    )


def _with_references(path: Path, records: Sequence[EmissionRecord], references: Path) -> list[EmissionRecord]:
    texts = read_references(references)
    if len(texts) != len(records):
        raise LogError(f"{references} holds {len(texts)} lines, {path} holds {len(records)}; "
                       f"expected one reference per line of the log, in its order.")
    return [dataclasses.replace(record, reference=text) for record, text in zip(records, texts, strict=True)]


def _repeated(records: Sequence[EmissionRecord]) -> tuple[int, ...]:
    seen: Counter[int] = Counter()
    repeated = []
    for number, record in enumerate(records, 1):
        seen[record.index] += 1
        if seen[record.index] > 1:
            repeated.append(number)
    return tuple(repeated)


def _as_simuleval(record: EmissionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"index": record.index, "prediction": record.prediction, "delays": list(record.delays)}
    if record.elapsed is not None:
        row["elapsed"] = list(record.elapsed)
    return row | {
        "prediction_length": len(record.delays),
        "reference": record.reference,
        "source": list(record.source) if isinstance(record.source, tuple) else record.source,
        "source_length": record.source_length,
    }
