"""`simulsa-eval`: run a streaming evaluation, score logs, compare results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from simulsa_plugin import __version__
from simulsa_plugin.commands.console import Parser, recipe_and_overrides, run_command
from simulsa_plugin.errors import UsageError

PROG = "simulsa-eval"
UNITS = ("word", "char")  # those of metrics.records; --help must not wait for anything to be imported

_OVERVIEW = """\
Measure simultaneous speech translation: quality and latency of every chunk and rollback.

commands:
  run [RECIPE.yaml] [key=value …] [--out DIR]   decode a test set and score it (what a bare `simulsa-eval` does)
  score LOG [--references FILE] …               score a log of emissions (SimulEval 1.0 and 1.1)
  compare BASELINE OTHER … [--json FILE]        differences, intervals, and quality at equal latency

`simulsa-eval COMMAND --help` explains each."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns:
        0; 1 where the work failed; 2 where the command line or the recipe is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(PROG, lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help", "--version"):
        _overview().parse_args(words)
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    return _run(words)


def _overview() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [run|score|compare] …",
        description=_OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def _run(words: list[str]) -> int:
    parser = Parser(
        prog=f"{PROG} run",
        usage=f"{PROG} [run] [RECIPE.yaml] [key=value …] [--out DIR]",
        description="Decode a test set with every policy, chunk and rollback, and score each.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE.yaml | key=value",
        help="a LLaMA-Factory recipe with simulsa_* keys, and keys that override it "
        "(without a recipe: the embedded default)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results)"
    )
    options = parser.parse_intermixed_args(words)
    path, overrides = recipe_and_overrides(options.words, hint=f" Commands are {', '.join(_COMMANDS)}.")
    return _decode_and_score(path, overrides, options.out)


def _decode_and_score(path: Path | None, overrides: list[str], out: Path) -> int:
    from simulsa_plugin.commands.corpus import wanted_corpus
    from simulsa_plugin.commands.ranks import take_rank
    from simulsa_plugin.commands.wiring import dataset_names, load, open_recipe
    from simulsa_plugin.evaluation.run import plan_cells
    from simulsa_plugin.evaluation.settings import EvaluationSettings
    from simulsa_plugin.storage import make_folder

    share = take_rank()
    recipe = open_recipe(path, overrides)
    settings = EvaluationSettings.from_keys(recipe.simulsa)
    if share and settings.measure_time:
        raise UsageError("simulsa_measure_time is for a single process: several would disturb each other's clock.")
    plan_cells(settings)  # a mistake in a policy shows before the long part
    corpus = wanted_corpus(recipe, evaluation=True)
    make_folder(out)
    toolkit = recipe.toolkit
    if corpus:
        corpus.prepare(out / "corpus", wait=bool(share), quiet=share is not None and share.number > 1)
        toolkit = toolkit | {"eval_dataset": corpus.name, "dataset_dir": str(out / "corpus")}
    if recipe.embedded:
        from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus

        write_demo_corpus(out / "corpus", rows=0, wait=bool(share))
        toolkit = toolkit | {"eval_dataset": TEST_NAME, "dataset_dir": str(out / "corpus")}
    names = dataset_names(toolkit.get("eval_dataset") or toolkit.get("dataset"))
    if len(names) > 1:
        raise UsageError(
            f"One test set is evaluated at a time; the recipe names {', '.join(names)}. Set eval_dataset=NAME."
        )
    model, datasets = load(toolkit, names)
    from simulsa_plugin.evaluation.report import table
    from simulsa_plugin.evaluation.run import evaluate

    dataset = datasets[0]
    rows = [dataset.sample(row) for row in range(min(len(dataset), settings.eval_samples or len(dataset)))]
    cells = evaluate(model, dataset.name, rows, settings, out, share)
    if cells:
        print("\n".join(table(cells)))
        print(f"Written to {out}: scores.json, scores.tsv, curves.png, report.html")
    return 0


def _score(words: list[str]) -> int:
    parser = Parser(
        prog=f"{PROG} score",
        description="Score a log of emissions: BLEU, chrF, AL, LAAL, AP, DAL, ATD as "
        "SimulEval computes them, YAAL as OmniSTEval does; _CA with the time of computation.",
    )
    parser.add_argument("log", type=Path, metavar="LOG", help="an instances.log of SimulEval 1.0 or 1.1")
    parser.add_argument("--references", type=Path, metavar="FILE", help="one reference per line of the log")
    _add_units(parser)
    parser.add_argument(
        "--no-use-ref-len",
        dest="use_ref_len",
        action="store_false",
        help="count the target length on the prediction instead of the reference",
    )
    parser.add_argument("--sentences", action="store_true", help="also give the value of every line")
    parser.add_argument("--strict", action="store_true", help="make odd lines an error instead of a warning")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores, counts and signatures as JSON")
    options = vars(parser.parse_args(words))
    log, json_path = options.pop("log"), options.pop("json")
    from simulsa_plugin.evaluation.score import ScoreOptions, run_score

    return run_score(log, ScoreOptions(**options), json_path)


def _compare(words: list[str]) -> int:
    parser = Parser(
        prog=f"{PROG} compare",
        description="Compare results: differences per cell with 95 % intervals "
        "(paired bootstrap), and quality at equal latency. The baseline comes first.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="DIR_OR_LOG",
        help="a folder of `simulsa-eval run`, or an instances.log; the baseline first",
    )
    _add_units(parser, "for logs; folders know their own: ")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    parser.add_argument("--seed", type=int, default=12345, metavar="N", help="bootstrap seed (default: 12345)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    options = vars(parser.parse_args(words))
    results, json_path = options.pop("results"), options.pop("json")
    if len(results) < 2:
        raise UsageError("compare needs two results or more: the baseline first, then what is compared with it.")
    from simulsa_plugin.evaluation.compare import CompareOptions, run_compare

    return run_compare(results, CompareOptions(**options), json_path)


def _add_units(parser: Parser, hint: str = "") -> None:
    parser.add_argument("--unit", choices=UNITS, default="word", help=f"{hint}latency unit (default: word)")
    parser.add_argument(
        "--tokenizer", metavar="T", help=f"{hint}sacrebleu's tokenizer for BLEU (default: word → 13a, char → zh)"
    )


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"run": _run, "score": _score, "compare": _compare}
