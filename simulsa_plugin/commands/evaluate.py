"""`simulsa-eval`: parse the command line, evaluate, tune, score or compare, print."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulsa_plugin import __version__
from simulsa_plugin.api.evaluate_recipe import EVALUATE_OUT
from simulsa_plugin.api.tune_recipe import TUNE_OUT, USUAL_LATENCY
from simulsa_plugin.commands.console import Parser, local_path, output_place, recipe_and_overrides, run_command
from simulsa_plugin.errors import UsageError
from simulsa_plugin.metrics.records import LATENCY_UNITS
from simulsa_plugin.segments import ALIGNERS
from simulsa_plugin.terminal import print_lines

if TYPE_CHECKING:
    from simulsa_plugin.comparison.compare import CompareOptions
    from simulsa_plugin.logs.reader import ReadOptions

EVAL_COMMAND = "simulsa-eval"
_NOT_RESUMABLE = ("score", "compare", "report", "convert")  # commands that start over

_COMPARISON_FILES = {  # option → what is written
    "html": "a page in one file: charts, sentences, tables",
    "png": "the compared curves as an image",
    "pdf": "the compared curves as vector graphics",
    "markdown": "tables and sentences in Markdown",
    "latex": "tables and sentences in LaTeX, with the package booktabs",
}

_OVERVIEW = """\
Measure simultaneous speech translation: quality and latency of every chunk and rollback.

commands:
  run [RECIPE.yaml] [key=value …] [--out DIR]   decode a test set and score it (what a bare `simulsa-eval` does)
  tune [RECIPE.yaml] [key=value …] --budget MS  the best setting within a latency budget, chosen on a dev set
  score LOG [--references FILE] …               score a log of SimulEval, OmniSTEval or simulstream
  compare BASELINE OTHER … [--html FILE] …      differences, intervals, and quality at equal latency
  report RESULT … --out FILE.html               one page of several results and logs, compared
  convert LOG_OR_CELL --to FORM --out PATH      a log in the form of another tool, or its texts for COMET
  comet DIR_OR_LOG --checkpoint CKPT …          COMET or XCOMET from a local checkpoint

`simulsa-eval COMMAND --help` explains each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns:
        0; 1 where the work failed; 2 where the command line or the recipe is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(EVAL_COMMAND, lambda: _dispatch(words), goes_on=not words or words[0] not in _NOT_RESUMABLE)


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help", "--version"):
        _overview().parse_args(words)
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    if words and re.fullmatch(r"[a-z]+", words[0]) and not Path(words[0]).exists():
        from simulsa_plugin.settings import did_you_mean

        hint = did_you_mean(words[0], _COMMANDS)
        raise UsageError(f"There is no command {words[0]}.{hint} Commands are {', '.join(_COMMANDS)}.")
    return _run_evaluation(words)


def _overview() -> Parser:
    parser = Parser(
        prog=EVAL_COMMAND,
        usage=f"{EVAL_COMMAND} [run|tune|score|compare|report|convert|comet] …",
        description=_OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{EVAL_COMMAND} {__version__}")
    return parser


def _run_evaluation(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} run",
        usage=f"{EVAL_COMMAND} [run] [RECIPE.yaml] [key=value …] [--dry-run] [--out DIR]",
        description="Decode a test set with every policy, chunk and rollback, and score each.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE.yaml | key=value",
        help="a LLaMA-Factory recipe with simulsa_* keys, and keys that override it; simulsa_preset=paper or "
        "simulsa_preset=recommended supplies defaults for the others (without a recipe: the embedded default, as "
        "recommended)",
    )
    parser.add_argument(
        "--out",
        type=output_place,
        default=EVALUATE_OUT,
        metavar="DIR",
        help=f"folder of the results, or its address, such as s3://bucket/folder (default: {EVALUATE_OUT})",
    )
    _add_dry_run(parser)
    options = parser.parse_intermixed_args(words)
    path, overrides = recipe_and_overrides(options.words, hint=f" Commands are {', '.join(_COMMANDS)}.")
    if options.dry_run:
        from simulsa_plugin.api.dry_run_evaluation import dry_run_evaluation
        from simulsa_plugin.api.output_place import folder_of
        from simulsa_plugin.commands.torchrun import take_rank

        if take_rank():
            raise UsageError("--dry-run is for a single process: start it without torchrun.")
        return _print_plan(*dry_run_evaluation(path, overrides, folder_of(options.out)))
    return _evaluate(path, overrides, options.out)


def _tune(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} tune",
        usage=f"{EVAL_COMMAND} tune [RECIPE.yaml] [key=value …] --budget MS,MS… [--latency METRIC] [--quality METRIC] "
        "[--dry-run] [--out DIR]",
        description="Choose settings on a dev set: of all policies, parameters and chunks the cell of the best quality "
        "whose mean latency is within the budget. Every cell is decoded on a few utterances, the best on all. A "
        "simulsa_preset sets no cells here: they are searched. Writes "
        "tuned.yaml, a recipe with which `simulsa-eval` decodes the test set in the chosen cells, and frontier.json.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE.yaml | key=value",
        help="as for run, with simulsa_dev_dataset=NAME; simulsa_policies, simulsa_chunks and the policies' keys say "
        "what is searched (without a recipe: the embedded default and its dev set)",
    )
    parser.add_argument(
        "--budget", required=True, type=_budgets, metavar="MS,MS…", help="mean latencies on the dev set not to exceed"
    )
    parser.add_argument(
        "--latency", metavar="METRIC", help="latency of the budgets (default: LAAL; with simulsa_longform: LongYAAL)"
    )
    parser.add_argument(
        "--quality", default="BLEU", metavar="METRIC", help="quality to maximise: BLEU or chrF (default: BLEU)"
    )
    parser.add_argument(
        "--out",
        type=output_place,
        default=TUNE_OUT,
        metavar="DIR",
        help=f"folder of the result, or its address (default: {TUNE_OUT})",
    )
    _add_dry_run(parser)
    options = parser.parse_intermixed_args(words)
    path, overrides = recipe_and_overrides(options.words)
    from simulsa_plugin.api.output_place import fetching_command, folder_of, is_address, output_at
    from simulsa_plugin.api.tune_recipe import tune_recipe
    from simulsa_plugin.commands.torchrun import take_rank
    from simulsa_plugin.tuning.frontier_file import frontier_table
    from simulsa_plugin.tuning.halving import Goal

    if take_rank():
        raise UsageError("simulsa-eval tune is one process: start it without torchrun.")
    goal = Goal(options.budget, options.latency or USUAL_LATENCY, options.quality)
    if options.dry_run:
        from simulsa_plugin.api.dry_run_evaluation import dry_run_tuning

        return _print_plan(*dry_run_tuning(path, overrides, goal, folder_of(options.out)))
    with output_at(options.out) as folder:
        result = tune_recipe(path, overrides, goal, folder, portable=is_address(options.out))
    print_lines(frontier_table(result.frontier))
    recipe, fetching = result.recipe, ""
    if is_address(options.out):
        recipe, fetching = Path(result.recipe.name), f"{fetching_command(options.out, result.recipe.name)}  and  "
    print(
        f"Written to {options.out}: tuned.yaml, finalists.yaml, frontier.json. Now the test set: "
        f"{fetching}simulsa-eval {recipe} --out RESULTS"
    )
    return 0


def _add_dry_run(parser: Parser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be decoded and its cost; load no weights, write nothing"
    )


def _print_plan(lines: Sequence[str], warnings: Sequence[str]) -> int:
    print_lines(lines)
    for warning in warnings:
        print(f"{EVAL_COMMAND}: warning: {warning}", file=sys.stderr)
    return 0


def _evaluate(path: Path | None, overrides: list[str], out: Path | str) -> int:
    from simulsa_plugin.api.evaluate_recipe import EvaluationResult, evaluate_recipe
    from simulsa_plugin.api.output_place import is_address, output_at
    from simulsa_plugin.commands.torchrun import take_rank

    rank = take_rank()
    with output_at(out, ranks=rank is not None) as folder:
        finished = evaluate_recipe(path, overrides, folder, rank, portable=is_address(out))
        result = EvaluationResult.read(folder) if finished else None
    if result is not None:
        from simulsa_plugin.evaluation.cells_table import cells_table
        from simulsa_plugin.evaluation.skipped_note import skipped_note

        print_lines([*cells_table(result.rows), *skipped_note(result.scores["skipped"], "scores.json")])
        print(f"Written to {out}: scores.json, scores.tsv, curves.png, report.html, model_card.md")
    return 0


def _score(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} score",
        description="Score a log of emissions: BLEU, chrF, AL, LAAL, AP, DAL, ATD and offsets as SimulEval computes "
        "them, YAAL and SWF as OmniSTEval does; _CA with the time of computation, _CA_CU over the same units. Of whole "
        "recordings (--segments): quality, LongYAAL, LongAL, LongLAAL and LongDAL as OmniSTEval computes them, and "
        "StreamLAAL as simulstream does.",
    )
    parser.add_argument(
        "log",
        type=local_path,
        metavar="LOG",
        help="instances.log of SimulEval 1.0 or 1.1, or JSONL of OmniSTEval or simulstream",
    )
    _add_reading(parser)
    _add_end_marks(parser)
    _add_units(parser)
    parser.add_argument(
        "--no-use-ref-len",
        dest="use_ref_len",
        action="store_false",
        help="count the target length on the prediction instead of the reference",
    )
    parser.add_argument("--sentences", action="store_true", help="also give the value of every line")
    parser.add_argument("--intervals", action="store_true", help="also give 95 %% bootstrap intervals")
    _add_bootstrap(parser)
    parser.add_argument("--strict", action="store_true", help="raise an error for an odd line instead of a warning")
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="write the scores, counts and signatures as JSON"
    )
    options = vars(parser.parse_args(words))
    log, json_path, intervals = (options.pop(name) for name in ("log", "json", "intervals"))
    from simulsa_plugin.evaluation.score import ScoreOptions, run_score, score_table
    from simulsa_plugin.metrics.significance import Bootstrap

    bootstrap = Bootstrap(samples=options.pop("samples"), seed=options.pop("seed"))
    scored = run_score(log, ScoreOptions(**options, bootstrap=bootstrap if intervals else None), json_path)
    print_lines(score_table(scored))
    return 0


def _compare(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} compare",
        description="Compare results: differences per cell with 95 % intervals (paired bootstrap) and p (paired "
        "randomisation), quality at equal latency over the cells of both, and a verbal summary. The baseline comes "
        "first.",
    )
    _add_results(parser)
    _add_comparison_options(parser)
    parser.add_argument(
        "--tuned",
        type=local_path,
        nargs="+",
        default=(),
        metavar="DIR",
        help="folders of `simulsa-eval tune`, one for each result: compare what was tuned at each budget; settings "
        "from the dev set, values from the results, intervals over both",
    )
    parser.add_argument(
        "--regimes",
        type=_milliseconds,
        default=(),
        metavar="MS,MS…",
        help="with --tuned, also of a single result: the best cell below each of these latencies, chosen on dev",
    )
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write the comparison as JSON")
    for name, what in _COMPARISON_FILES.items():
        parser.add_argument(f"--{name}", type=local_path, metavar="FILE", help=f"write {what}")
    options = parser.parse_args(words)
    if len(options.results) < 2 and not options.regimes:
        raise UsageError("compare needs two results or more: the baseline first, then what is compared with it.")
    from simulsa_plugin.comparison.compare import run_compare
    from simulsa_plugin.comparison.comparison_files import ComparisonFiles
    from simulsa_plugin.comparison.comparison_tables import comparison_tables

    files = ComparisonFiles(options.json, **{name: getattr(options, name) for name in _COMPARISON_FILES})
    comparison = run_compare(options.results, _compare_options(options), files)
    print_lines(comparison_tables(comparison))
    if files.paths:
        print(f"Written: {', '.join(map(str, files.paths))}")
    return 0


def _report(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} report",
        description="Write one page of several results: quality over latency, the comparison at equal latency with its "
        "sentence, differences, and the values of every cell. The baseline comes first. A log stands against the curve "
        "of a folder at the latency of the log.",
    )
    _add_results(parser)
    parser.add_argument("--out", required=True, type=local_path, metavar="FILE", help="the page: one HTML file")
    _add_comparison_options(parser)
    options = parser.parse_args(words)
    from simulsa_plugin.comparison.report import run_report

    comparison = run_report(options.results, _compare_options(options), options.out)
    for pair in comparison["comparisons"]:
        for curves in pair["equal_latency"][-1:]:
            print(f"{pair['other']}: {curves['verdict']}")
    for point in comparison["log_points"]:
        print(f"{point['other']}: {point['sentence']}")
    print(f"Written to {options.out}")
    return 0


def _compare_options(options: argparse.Namespace) -> CompareOptions:
    """Return what `compare` and `report` have in common; `report` has no tuning."""
    from simulsa_plugin.comparison.compare import CompareOptions
    from simulsa_plugin.comparison.equal_latency import Axes
    from simulsa_plugin.metrics.significance import Bootstrap

    return CompareOptions(
        _read_options(options),
        options.tokenizer,
        Axes(options.quality, options.latency or Axes.latency, options.at),
        Bootstrap(options.samples, options.trials, options.seed),
        tuple(getattr(options, "tuned", ())),
        options.latency is None,
        getattr(options, "regimes", ()),
    )


def _add_results(parser: Parser) -> None:
    parser.add_argument(
        "results",
        type=local_path,
        nargs="+",
        metavar="DIR_OR_LOG",
        help="a folder of `simulsa-eval run`, or a log as for score; the baseline first",
    )


def _add_comparison_options(parser: Parser) -> None:
    _add_units(parser, "for logs; folders know their own: ")
    _add_reading(parser)
    _add_end_marks(parser)
    parser.add_argument(
        "--quality", choices=("BLEU", "chrF", "COMET"), default="BLEU", help="quality of the curves (default: BLEU)"
    )
    parser.add_argument(
        "--latency",
        metavar="METRIC",
        help="latency of the curves, as in scores.json (default: LAAL; of long recordings LongYAAL, with --resegment "
        "mwer StreamLAAL)",
    )
    parser.add_argument(
        "--at", type=_milliseconds, default=(), metavar="MS,MS…", help="latencies at which the curves are compared"
    )
    _add_bootstrap(parser)
    parser.add_argument(
        "--trials", type=int, default=10000, metavar="N", help="trials of approximate randomisation (default: 10000)"
    )


def _convert(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} convert",
        description="Write a log, or the log of a cell, in the form of another tool: SimulEval's instances.log, "
        "OmniSTEval's JSONL, a folder that simulstream scores, or texts (src, mt, ref), which COMET reads; or "
        "write lists of its audios and references (source.txt, target.txt), which SimulEval decodes.",
    )
    parser.add_argument(
        "source", type=local_path, metavar="LOG_OR_CELL", help="a log, or a cell's folder of `simulsa-eval run`"
    )
    forms = ("simuleval", "omnisteval", "simulstream", "texts", "lists")
    parser.add_argument("--to", required=True, choices=forms, help="form to write")
    parser.add_argument(
        "--out", required=True, type=local_path, metavar="PATH", help="a file; for simulstream and lists a folder"
    )
    parser.add_argument(
        "--delays",
        choices=("committed", "first_stable", "last_written"),
        default="committed",
        help="delays to write, of the three that each unit of a cell has (default: committed)",
    )
    parser.add_argument("--sources", type=local_path, metavar="FILE", help="for texts: one source text per instance")
    parser.add_argument("--unit", choices=LATENCY_UNITS, default="word", help="latency unit (default: word)")
    _add_reading(parser)
    _add_end_marks(parser)
    options = parser.parse_args(words)
    from simulsa_plugin.logs.convert import ConvertOptions, convert

    chosen = ConvertOptions(options.to, options.delays, options.sources, _read_options(options))
    print(f"{options.out}: {convert(options.source, options.out, chosen)}")
    return 0


def _comet(words: list[str]) -> int:
    parser = Parser(
        prog=f"{EVAL_COMMAND} comet",
        description="COMET or XCOMET of a log, or of every cell of a result folder, whose scores.json, tables and "
        "report get it. Nothing is fetched. A checkpoint is a pickle: use one that you trust.",
    )
    parser.add_argument(
        "result", type=local_path, metavar="DIR_OR_LOG", help="a folder of `simulsa-eval run`, or a log"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=local_path,
        metavar="CKPT",
        help="checkpoint on disk: a folder as on the hub, or a .ckpt",
    )
    parser.add_argument("--python", metavar="PYTHON", help="an interpreter that has unbabel-comet (default: this one)")
    parser.add_argument(
        "--sources", type=local_path, metavar="FILE", help="a source text per instance, or per row of the test set"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="segments at a time (default: 8)")
    parser.add_argument(
        "--unit", choices=LATENCY_UNITS, default="word", help="latency unit of a simulstream log (default: word)"
    )
    _add_reading(parser)
    options = parser.parse_args(words)
    from simulsa_plugin.evaluation.comet.command import CometOptions, add_comet

    chosen = CometOptions(
        options.checkpoint, options.python, options.sources, options.batch_size, _read_options(options)
    )
    for name, mean in add_comet(options.result, chosen).items():
        print(f"{name}: {mean:.4f}")
    return 0


def _add_reading(parser: Parser) -> None:
    parser.add_argument(
        "--references", type=local_path, metavar="FILE", help="one reference per line of the log, or segment"
    )
    parser.add_argument(
        "--segments",
        type=local_path,
        metavar="YAML",
        help="segments of whole recordings: a list of wav, offset, duration (seconds), in the order of the references",
    )
    parser.add_argument(
        "--resegment",
        choices=ALIGNERS,
        help="how recordings are divided among the segments: soft (SoftSegmenter, for LongYAAL) or mwer "
        "(mwerSegmenter, as simulstream) (default: soft)",
    )
    parser.add_argument(
        "--detokenizer",
        metavar="D",
        help="how a simulstream log's words are joined: word, char, spm, or a tokenizer's folder (default: the unit)",
    )


def _read_options(options: argparse.Namespace) -> ReadOptions:
    """Return what the options say that a log does not contain; `comet` has none on end marks."""
    from simulsa_plugin.logs.reader import ReadOptions

    return ReadOptions(
        options.references,
        options.segments,
        options.detokenizer,
        options.unit,
        getattr(options, "keep_end_marks", False),
        options.resegment,
    )


def _add_end_marks(parser: Parser) -> None:
    parser.add_argument(
        "--keep-end-marks",
        action="store_true",
        help="keep </s> and its delay in a log of SimulEval 1.0, as published numbers have it (default: left out)",
    )


def _add_units(parser: Parser, hint: str = "") -> None:
    parser.add_argument("--unit", choices=LATENCY_UNITS, default="word", help=f"{hint}latency unit (default: word)")
    parser.add_argument(
        "--tokenizer", metavar="T", help=f"{hint}sacrebleu's tokenizer for BLEU (default: word → 13a, char → zh)"
    )


def _add_bootstrap(parser: Parser) -> None:
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    parser.add_argument("--seed", type=int, default=12345, metavar="N", help="random seed (default: 12345)")


def _milliseconds(text: str) -> tuple[float, ...]:
    """Numbers between commas, in order."""
    found = sorted(float(part) for part in text.split(","))
    if not all(0 <= one < 1e13 for one in found):
        raise ValueError("milliseconds are finite")
    return tuple(found)


def _budgets(text: str) -> tuple[float, ...]:
    """Different numbers above 0 between commas, in order."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < one < 1e13 for one in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not milliseconds above 0 between commas, such as 1000,2000")
    return tuple(found)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run_evaluation,
    "tune": _tune,
    "score": _score,
    "compare": _compare,
    "report": _report,
    "convert": _convert,
    "comet": _comet,
}


if __name__ == "__main__":
    raise SystemExit(main())
