"""Robustness: results of `simulsa-eval` on disturbed test sets compared with the clean one.

`python -m simulsa_plugin.experiments.robustness ARM …`, where ARM is a folder with a result for each condition,
`ARM/clean` among them; each result has offline decoding and one other cell. Arms are compared with the first one.
"""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulsa_plugin.commands.console import Parser, run_command
from simulsa_plugin.comparison.compare import CompareOptions, load_result, resample_result
from simulsa_plugin.comparison.resampled_cells import ResampledLog, check_same_references
from simulsa_plugin.errors import LogError, UsageError
from simulsa_plugin.evaluation.formatting import format_interval, format_number
from simulsa_plugin.evaluation.limit import ABOVE
from simulsa_plugin.evaluation.result_cells import OFFLINE, SCORES, CellKey, read_scores
from simulsa_plugin.experiments.disturbed import CLEAN, CONDITIONS
from simulsa_plugin.files.json_files import Json, write_json
from simulsa_plugin.files.ownership import refuse_input_as_output
from simulsa_plugin.logs.steps import STEPS, read_sessions
from simulsa_plugin.metrics.delays import ShownStep
from simulsa_plugin.metrics.significance import Bootstrap, interval
from simulsa_plugin.tables import align

_PROG = "simulsa_plugin.experiments.robustness"
STREAMING = "streaming"  # the cell of a result that is not offline
MODES = (OFFLINE, STREAMING)
COMPARED_METRICS = ("BLEU", "LAAL")
_ABOVE = ABOVE["LAAL"]


@dataclass(frozen=True)
class ModeResult:
    """The cell of a mode in a result.

    Attributes:
        values: BLEU, LAAL (ms), and how far LAAL lies above the limit (ms; None where that is not known).
        resampled: the resampled log.
        early: utterances with text committed during the added silence.
        instances: utterances.
    """

    values: Mapping[str, float | None]
    resampled: ResampledLog
    early: int
    instances: int


ConditionResults = Mapping[str, Mapping[str, ModeResult]]  # condition → mode → outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of robustness."""
    return run_command(_PROG, lambda: _main(argv), goes_on=False)


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser(prog=f"python -m {_PROG}", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("arms", type=Path, nargs="+", metavar="ARM", help="folder of results, named by condition")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables as JSON")
    options = parser.parse_args(argv)
    arms = {str(path): read_conditions(path, Bootstrap()) for path in options.arms}
    refuse_input_as_output(options.json, (path / name / SCORES for path in options.arms for name in CONDITIONS))
    summary = {
        "arms": {name: differences_from_clean(arm) for name, arm in arms.items()},
        "against": str(options.arms[0]),
        "differences": {
            name: differences_between(arms[str(options.arms[0])], arm)
            for name, arm in arms.items()
            if name != str(options.arms[0])
        },
    }
    if options.json is not None:
        write_json(options.json, summary)
    print("\n".join(robustness_tables(summary)))
    return 0


def read_conditions(folder: Path, bootstrap: Bootstrap) -> ConditionResults:
    """Read the results of an arm, in the order of `CONDITIONS`.

    Raises:
        UsageError: the clean test set is missing, or a result does not have exactly one streaming cell.
        LogError: a result cannot be read, or has different utterances.
    """
    found = [name for name in CONDITIONS if (folder / name / SCORES).is_file()]
    if CLEAN not in found:
        raise UsageError(
            f"{folder} has no result {CLEAN}. Create it: "
            f"simulsa-eval RECIPE eval_dataset=demo_test_{CLEAN} --out {folder / CLEAN}"
        )
    arm = {name: read_modes(folder / name, CONDITIONS[name].lead_ms, bootstrap) for name in found}
    for outcomes in arm.values():
        _check_same_utterances(arm[CLEAN], outcomes)
    return arm


def read_modes(folder: Path, lead_ms: float, bootstrap: Bootstrap) -> dict[str, ModeResult]:
    """Read mode → result of a folder; `lead_ms`: of added silence. Raises as `read_conditions`."""
    result = load_result(folder, CompareOptions())
    modes = {OFFLINE if key.policy == OFFLINE else STREAMING: key for key in result.cells}
    if len(result.cells) != len(MODES) or modes.keys() != {*MODES}:
        raise UsageError(
            f"{folder} has the cells {', '.join(map(str, result.cells))}; expected offline and one more. "
            "Choose one: simulsa_cells=FOLDER."
        )
    above, logs = _read_above_limit(folder), resample_result(result, bootstrap)
    outcomes = {}
    for mode, key in modes.items():
        cell = result.cells[key]
        if cell.log is None or key not in logs:
            raise LogError(f"{folder} has no log of {key}. Run `simulsa-eval run` again.")
        values = {name: cell.values.get(name) for name in COMPARED_METRICS} | {_ABOVE: above.get(key.policy)}
        early = count_early((steps for _, steps in read_sessions([cell.log.with_name(STEPS)])), lead_ms)
        outcomes[mode] = ModeResult(values, logs[key], early, len(logs[key].references))
    return outcomes


def _read_above_limit(folder: Path) -> dict[str, float | None]:
    return {row["policy"]: row.get(_ABOVE) for row in read_scores(folder)["cells"]}


def count_early(sessions: Iterable[Sequence[ShownStep]], lead_ms: float) -> int:
    """Count the sessions that committed text within the first `lead_ms` of audio.

    >>> silent = ShownStep(500.0, "", "", False)
    >>> count_early([[silent, ShownStep(1000.0, "Ich", "Ich", False)], [silent]], 1000.0)
    1
    """
    return sum(any(step.committed.strip() for step in steps if step.audio_ms <= lead_ms) for steps in sessions)


def differences_from_clean(arm: ConditionResults) -> list[Json]:
    """Return values of every condition and mode of an arm, and their differences from the clean test set."""
    return [
        {
            "condition": name,
            "mode": mode,
            **outcome.values,
            "early": outcome.early,
            "instances": outcome.instances,
            **_paired_differences(arm[CLEAN][mode], outcome),
        }
        for mode in MODES
        for name, outcomes in arm.items()
        for outcome in [outcomes[mode]]
    ]


def differences_between(baseline: ConditionResults, arm: ConditionResults) -> list[Json]:
    """Compare an arm with another one in every condition and mode of both. Raises LogError as `read_conditions`."""
    _check_same_utterances(baseline[CLEAN], arm[CLEAN])
    return [
        {"condition": name, "mode": mode, **_paired_differences(baseline[name][mode], outcomes[mode])}
        for mode in MODES
        for name, outcomes in arm.items()
        if name in baseline
    ]


def _check_same_utterances(one: Mapping[str, ModeResult], other: Mapping[str, ModeResult]) -> None:
    first, second = ({CellKey(OFFLINE): outcomes[OFFLINE].resampled} for outcomes in (one, other))
    check_same_references(first, second)


def _paired_differences(baseline: ModeResult, other: ModeResult) -> Json:
    """Compute the difference and its paired bootstrap interval of every metric."""
    found: Json = {}
    for name in COMPARED_METRICS:
        first, second = baseline.values[name], other.values[name]
        bounds = interval(other.resampled.values[name] - baseline.resampled.values[name])
        found[f"{name}_difference"] = None if first is None or second is None else second - first
        found[f"{name}_interval"] = bounds and bounds.as_json()
    return found


def robustness_tables(summary: Json) -> list[str]:
    """Format the summary as aligned lines."""
    lines: list[str] = []
    for name, rows in summary["arms"].items():
        for mode in MODES:
            lines += [
                f"{name}, {mode}",
                *align([_HEAD, *(_format_row(row) for row in rows if row["mode"] == mode)]),
                "",
            ]
    for name, rows in summary["differences"].items():
        head = [f"{name} less {summary['against']}", "mode", "BLEU", "[low, high]", "LAAL ms", "[low, high]"]
        lines += [
            *align(
                [
                    head,
                    *(
                        [
                            _condition_title(row),
                            row["mode"],
                            *_format_difference(row, "BLEU", 1),
                            *_format_difference(row, "LAAL", 0),
                        ]
                        for row in rows
                    ),
                ]
            ),
            "",
        ]
    return [
        *lines,
        "[low, high]: 95 % over utterances (paired bootstrap). early: utterances with text "
        "committed during the added silence.",
    ]


_HEAD = ["condition", "BLEU", "less clean", "[low, high]", "LAAL ms", "less clean", "above limit", "early"]


def _format_row(row: Json) -> list[str]:
    early = f"{row['early']}/{row['instances']}" if CONDITIONS[row["condition"]].lead_ms else "–"
    return [
        _condition_title(row),
        format_number(row["BLEU"], 1),
        *_format_difference(row, "BLEU", 1),
        format_number(row["LAAL"], 0),
        _format_difference(row, "LAAL", 0)[0],
        format_number(row[_ABOVE], 0),
        early,
    ]


def _condition_title(row: Json) -> str:
    return CONDITIONS[row["condition"]].title


def _format_difference(row: Json, name: str, digits: int) -> list[str]:
    difference, bounds = row[f"{name}_difference"], row[f"{name}_interval"]
    return [format_number(difference, digits, signed=True), format_interval(bounds, digits, signed=True)]


if __name__ == "__main__":
    raise SystemExit(main())
