"""`simulsa-augment`: the partial samples of every dataset in a LLaMA-Factory recipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulsa_plugin import __version__
from simulsa_plugin.commands.console import Parser, recipe_and_overrides, run_command

if TYPE_CHECKING:
    from simulsa_plugin.augment.pipeline import Outcome

PROG = "simulsa-augment"

_DESCRIPTION = """\
Cut a share of the offline utterances, let the model say how much of the translation each cut supports, and write the
partial samples as a LLaMA-Factory dataset beside the offline one.

RECIPE.yaml is any LLaMA-Factory recipe with model_name_or_path, template, dataset and dataset_dir; simulsa_* keys in
it, or key=value after it, set the method. Without a recipe, the embedded default is made and augmented."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns:
        0; 1 where the work failed; 2 where the command line or the recipe is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(PROG, lambda: _run(words))


def _run(words: list[str]) -> int:
    options = _parser().parse_intermixed_args(words)
    for outcome in _augment_all(*recipe_and_overrides(options.words), options.out):
        print(_summary(outcome))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [RECIPE.yaml] [key=value …] [--out DIR]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="RECIPE.yaml | key=value", help="a recipe, and keys that override it"
    )
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR", help="output folder (default: data)")
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def _augment_all(path: Path | None, overrides: list[str], out: Path) -> list[Outcome]:
    from simulsa_plugin.augment.settings import AugmentSettings
    from simulsa_plugin.commands.wiring import dataset_names, load, open_recipe
    from simulsa_plugin.storage import make_folder

    recipe = open_recipe(path, overrides)
    settings = AugmentSettings.from_keys(recipe.simulsa)
    make_folder(out)
    toolkit = recipe.toolkit
    if recipe.embedded:
        from simulsa_plugin.demo.corpus import OFFLINE_NAME, write_demo_corpus

        write_demo_corpus(out)
        toolkit = toolkit | {"dataset": OFFLINE_NAME, "dataset_dir": str(out)}
    model, datasets = load(toolkit, dataset_names(toolkit.get("dataset")))
    from simulsa_plugin.augment.pipeline import augment

    return [augment(dataset, model, settings, out) for dataset in datasets]


def _summary(outcome: Outcome) -> str:
    counts = outcome.counts
    skipped = ", ".join(f"{reason} {count}" for reason, count in outcome.skipped.items()) or "none"
    share = counts["accepted_tokens"] / max(counts["tokens"], 1)
    return (
        f"{outcome.name}: {counts['samples']} partial samples from {outcome.rows} rows "
        f"({counts['empty']} empty, {counts['whole_reference']} whole, {share:.0%} of the reference tokens accepted); "
        f"skipped: {skipped}\n"
        f"  {outcome.folder}\n"
        f"  train with  dataset: {outcome.name},{outcome.name}_simulsa  and  dataset_dir: {outcome.folder.parent}"
    )
