"""`simulsa-augment`: parse the command line, augment, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from simulsa_plugin import __version__
from simulsa_plugin.api.augment_recipe import AUGMENT_OUT
from simulsa_plugin.commands.console import Parser, local_path, output_place, recipe_and_overrides, run_command
from simulsa_plugin.errors import UsageError

AUGMENT_COMMAND = "simulsa-augment"

_DESCRIPTION = """\
Truncate a share of the offline utterances, accept as much of each translation as the model's token probabilities
support, and write these partial samples as a LLaMA-Factory dataset beside the offline one.

RECIPE.yaml is any LLaMA-Factory recipe with model_name_or_path, template, dataset and dataset_dir; simulsa_* keys in
it, or key=value after it, set the method; simulsa_preset=paper or simulsa_preset=recommended supplies defaults
for the others. Without a recipe, the embedded default is made and augmented, as recommended.
A run that was stopped continues where it stopped, and ends with the same bytes.

Several GPUs:  torchrun --nproc_per_node N --no-python simulsa-augment RECIPE.yaml …"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns:
        0; 1 where the work failed; 2 where the command line or the recipe is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(AUGMENT_COMMAND, lambda: _run_augment(words))


def _run_augment(words: list[str]) -> int:
    options = _parser().parse_intermixed_args(words)
    _refuse_together(options)
    path, overrides = recipe_and_overrides(options.words)
    if options.from_scores:
        from simulsa_plugin.api.augment_recipe import relabel_scores

        relabel_scores(options.from_scores, path, overrides, options.out)
    else:
        _augment(path, overrides, options)
    return 0


def _augment(path: Path | None, overrides: list[str], options: argparse.Namespace) -> None:
    from simulsa_plugin.api.augment_recipe import augment_recipe
    from simulsa_plugin.commands.torchrun import take_rank
    from simulsa_plugin.sharding import Shard

    rank, shard = take_rank(), None if options.shard is None else Shard.parse(options.shard)
    if rank and (shard or options.dry_run):
        raise UsageError("--shard and --dry-run are for a single process; torchrun shares the work out by itself.")
    if options.dry_run:
        _dry_run(path, overrides, options.out)
    else:
        augment_recipe(path, overrides, options.out, part=rank or shard, finishes=not shard, audited=options.audit)


def _dry_run(path: Path | None, overrides: list[str], out: Path | str) -> None:
    from simulsa_plugin.api.dry_run_recipe import dry_run_recipe

    lines, warnings = dry_run_recipe(path, overrides, out)
    print("\n".join(lines))
    for warning in warnings:
        print(f"{AUGMENT_COMMAND}: warning: {warning}", file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(
        prog=AUGMENT_COMMAND,
        usage=f"{AUGMENT_COMMAND} [RECIPE.yaml] [key=value …] [--out DIR]\n"
        f"       [--dry-run | --from-scores FILE | --shard K/N] [--audit N]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="RECIPE.yaml | key=value", help="a recipe, and keys that override it"
    )
    parser.add_argument(
        "--out",
        type=output_place,
        default=AUGMENT_OUT,
        metavar="DIR",
        help=f"output folder, or its address, such as s3://bucket/folder (default: {AUGMENT_OUT})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done and its cost; load no weights, write nothing"
    )
    parser.add_argument(
        "--from-scores",
        type=local_path,
        metavar="FILE",
        help="apply another acceptance rule to a scores.jsonl, without a model",
    )
    parser.add_argument(
        "--shard", metavar="K/N", help="score only the K-th of N parts; run without it when all are done, to finish"
    )
    parser.add_argument(
        "--audit",
        type=_at_least_one,
        metavar="N",
        help="afterwards score the first N samples one by one, and report the largest difference (audit.json)",
    )
    parser.add_argument("--version", action="version", version=f"{AUGMENT_COMMAND} {__version__}")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"is {text!r}; allowed: a whole number ≥ 1")
    return int(text)


def _refuse_together(options: argparse.Namespace) -> None:
    """Raise UsageError for options that exclude each other."""
    given = {flag for flag, value in vars(options).items() if value not in (None, False)}
    for flag, other, reason in (
        ("dry_run", "from_scores", "--from-scores does without the model that --dry-run is about"),
        ("shard", "from_scores", "--from-scores is quick enough for one process"),
        ("audit", "from_scores", "--audit needs the model; --from-scores does without"),
        ("shard", "dry_run", "--dry-run is about the whole run"),
        ("audit", "dry_run", "--dry-run scores nothing"),
        ("audit", "shard", "--audit goes with the run that finishes"),
    ):
        if given.issuperset((flag, other)):
            raise UsageError(f"--{flag} and --{other} do not go together: {reason}. Leave one out.".replace("_", "-"))


if __name__ == "__main__":
    raise SystemExit(main())
