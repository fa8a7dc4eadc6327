"""`simulsa-augment`: the partial samples of every dataset in a LLaMA-Factory recipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin import __version__
from simulsa_plugin.commands.console import Parser, output_folder, recipe_and_overrides, run_command
from simulsa_plugin.errors import UsageError

if TYPE_CHECKING:
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.augmentation.outcome import AugmentedDataset
    from simulsa_plugin.augmentation.training_share import Mixing, Part
    from simulsa_plugin.commands.wiring import Recipe
    from simulsa_plugin.llamafactory.data.dataset import OfflineDataset
    from simulsa_plugin.llamafactory.model.backbone import Backbone
    from simulsa_plugin.sharding import Shard

PROG = "simulsa-augment"
OUT = "data_simulsa"  # LLaMA-Factory's own default, data, is where users keep their datasets

_DESCRIPTION = """\
Cut a share of the offline utterances, let the model say how much of the translation each cut supports, and write the
partial samples as a LLaMA-Factory dataset beside the offline one.

RECIPE.yaml is any LLaMA-Factory recipe with model_name_or_path, template, dataset and dataset_dir; simulsa_* keys in
it, or key=value after it, set the method; simulsa_preset=paper or simulsa_preset=recommended sets those that are not
named. Without a recipe, the embedded default is made and augmented, as recommended.
Started again after any stop, it goes on and ends with the same bytes.

several GPUs:  torchrun --nproc_per_node N --no-python simulsa-augment RECIPE.yaml …"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Returns:
        0; 1 where the work failed; 2 where the command line or the recipe is wrong; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(PROG, lambda: _run(words))


def _run(words: list[str]) -> int:
    options = _parser().parse_intermixed_args(words)
    _refuse_together(options)
    path, overrides = recipe_and_overrides(options.words)
    if options.from_scores:
        _print(_relabel(path, overrides, options.from_scores, options.out))
    else:
        _augment_all(path, overrides, options)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [RECIPE.yaml] [key=value …] [--out DIR]\n"
        f"       [--dry-run | --from-scores FILE | --shard K/N] [--audit N]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="RECIPE.yaml | key=value", help="a recipe, and keys that override it"
    )
    parser.add_argument("--out", type=output_folder, default=OUT, metavar="DIR", help=f"output folder (default: {OUT})")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and at what cost; load no weights, write nothing"
    )
    parser.add_argument(
        "--from-scores", type=Path, metavar="FILE", help="decide again over a scores.jsonl, without a model"
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
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"is {text!r}; allowed: a whole number ≥ 1")
    return int(text)


def _refuse_together(options: argparse.Namespace) -> None:
    """What cannot be had at once."""
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


def _relabel(path: Path | None, overrides: list[str], scores: Path, out: Path) -> AugmentedDataset:
    """No torch, no LLaMA-Factory."""
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.augmentation.relabeling import relabel
    from simulsa_plugin.commands.wiring import open_recipe
    from simulsa_plugin.demo.truth import find_truth

    recipe = open_recipe(path, overrides, [AugmentSettings])  # where no preset is named, as many rows as were scored
    if recipe.preset:
        print(recipe.preset, flush=True)
    return relabel(scores, recipe.simulsa, out, find_truth)


def _augment_all(path: Path | None, overrides: list[str], options: argparse.Namespace) -> None:
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.commands.torchrun import take_rank
    from simulsa_plugin.commands.wiring import check_early, open_recipe
    from simulsa_plugin.presets import RECOMMENDED
    from simulsa_plugin.sharding import Shard

    rank, shard = take_rank(), None if options.shard is None else Shard.parse(options.shard)
    if rank and (shard or options.dry_run):
        raise UsageError("--shard and --dry-run are for a single process; torchrun shares the work out by itself.")
    recipe = open_recipe(path, overrides, [AugmentSettings], RECOMMENDED)
    settings = AugmentSettings.from_keys(recipe.simulsa)
    _mixing(recipe.toolkit)  # a mistake shows before the long part
    _cutoff_len(recipe.toolkit)
    check_early(recipe, recipe.toolkit.get("dataset"))
    if options.dry_run:
        if recipe.preset:
            print(recipe.preset)
        _plan_all(recipe, settings, options.out)
        return
    toolkit = _with_corpus(recipe, options.out, rank or shard)
    _Run(toolkit, settings, options.out, options.audit).work(rank or shard, finishes=not shard)


def _with_corpus(recipe: Recipe, out: Path, part: Shard | None) -> dict[str, Any]:
    """LLaMA-Factory's keys; a raw corpus is read, the embedded default is spoken where nothing was named."""
    from simulsa_plugin.augmentation.manifest import has_scores
    from simulsa_plugin.augmentation.output_layout import Layout
    from simulsa_plugin.commands.raw_corpus import wanted_corpus
    from simulsa_plugin.corpora.corpus_layout import CorpusLayout
    from simulsa_plugin.files.atomic import make_folder

    corpus = wanted_corpus(recipe, evaluation=False)
    make_folder(out)
    quiet = part is not None and part.number > 1
    if recipe.preset and not quiet:
        print(recipe.preset, flush=True)
    if corpus:
        CorpusLayout(out, corpus.name)  # refuses what cannot be a name
        # After a run with the wrong template, whose prompt may differ, the corpus is there and nothing is scored.
        unscored = not has_scores(Layout(out.absolute(), corpus.name))
        corpus.prepare(out, wait=bool(part), quiet=quiet, new_prompt=unscored)
        return recipe.toolkit | {"dataset": corpus.name, "dataset_dir": str(out)}
    if not recipe.embedded:
        return recipe.toolkit
    from simulsa_plugin.demo.corpus import OFFLINE_NAME, write_demo_corpus

    write_demo_corpus(out, wait=bool(part))
    return recipe.toolkit | {"dataset": OFFLINE_NAME, "dataset_dir": str(out)}


@dataclass(frozen=True)
class _Run:
    """One process's work on every dataset of a recipe."""

    toolkit: dict[str, Any]
    settings: AugmentSettings
    out: Path
    audited: int | None

    def work(self, part: Shard | None, *, finishes: bool) -> None:
        """Score a part of each dataset, or all of it; the first of several ranks finishes when all are done."""
        from simulsa_plugin.commands.wiring import load, own_dataset_names

        names = own_dataset_names(self.toolkit.get("dataset"))
        model, loaded = load(self.toolkit, names, check=self._refuse_foreign)
        datasets = _to_cut(loaded)
        from simulsa_plugin.augmentation.pipeline import augment_shard
        from simulsa_plugin.augmentation.registration import register_beside
        from simulsa_plugin.augmentation.shards import wait_for_all

        if part:
            for dataset in datasets:
                augment_shard(dataset, model, self.settings, self.out, part)
            if not finishes:
                print(f"shard {part.number}/{part.count} is scored; when all are, run without --shard to finish")
            if part.number > 1 or not finishes:
                return
            for dataset in datasets:
                wait_for_all(self.out, dataset.name, part.count)
        found: list[tuple[OfflineDataset, int | None]] = []
        for dataset in loaded:
            if any(dataset is one for one in datasets):
                found.append((dataset, self._finish(dataset, model)))
            else:
                register_beside(dataset, self.settings, self.out)
                print(_beside_line(dataset))
                found.append((dataset, None))
        _warn_of_training(self.toolkit, found)

    def _refuse_foreign(self, datasets: Sequence[OfflineDataset]) -> None:
        """Say before the model is loaded that the output folder has something in the way."""
        from simulsa_plugin.augmentation.output_layout import Layout
        from simulsa_plugin.augmentation.registration import offline_entry, refuse_foreign_output

        for dataset in datasets:
            layout = Layout(self.out.absolute(), dataset.name)
            if dataset.has_audio():
                refuse_foreign_output(layout)
            offline_entry(dataset, self.settings, layout)

    def _finish(self, dataset: OfflineDataset, model: Backbone) -> int:
        """Make a dataset's partial samples; return how many there are."""
        from simulsa_plugin.augmentation.audit import audit, audit_line
        from simulsa_plugin.augmentation.cutoff import cutoff_line
        from simulsa_plugin.augmentation.output_layout import Layout
        from simulsa_plugin.augmentation.pipeline import augment
        from simulsa_plugin.demo.truth import find_truth

        truth = find_truth(dataset.name, dataset.entry)
        outcome = augment(dataset, model, self.settings, self.out, truth=truth)
        _print(outcome)
        if self.audited:
            print(f"  {audit_line(audit(dataset, model, self.settings, self.out, self.audited))}")
        line = cutoff_line(dataset, model, Layout(self.out.absolute(), dataset.name), _cutoff_len(self.toolkit))
        if line:
            print(f"{PROG}: WARNING: {line}", file=sys.stderr)
        return int(outcome.manifest["counts"]["samples"])


def _plan_all(recipe: Recipe, settings: AugmentSettings, out: Path) -> None:
    """Print what would be done with every dataset; write nothing."""
    from simulsa_plugin.commands.raw_corpus import wanted_corpus

    toolkit, corpus = recipe.toolkit, wanted_corpus(recipe, evaluation=False)
    if corpus:
        if corpus.dry_run(out):
            return
        toolkit = toolkit | {"dataset": corpus.name, "dataset_dir": str(out)}
    if recipe.embedded:
        from simulsa_plugin.demo.corpus import OFFLINE_NAME, OFFLINE_ROWS, TEST_ROWS

        if not (out / f"{OFFLINE_NAME}.jsonl").exists():
            print(
                f"{OFFLINE_NAME}: would first speak {OFFLINE_ROWS} training and {TEST_ROWS} test utterances into {out} "
                "(about 0.8 GB), then cut them; no more can be said before"
            )
            return
        toolkit = toolkit | {"dataset": OFFLINE_NAME, "dataset_dir": str(out)}
    from simulsa_plugin.augmentation.dry_run import dry_run
    from simulsa_plugin.augmentation.manifest import describe_augmentation
    from simulsa_plugin.augmentation.method.selection import wanted_samples
    from simulsa_plugin.commands.wiring import load_without_weights, own_dataset_names

    renderer, loaded, size = load_without_weights(toolkit, own_dataset_names(toolkit.get("dataset")))
    parts: list[tuple[OfflineDataset, int | None]] = []
    datasets = _to_cut(loaded)
    for dataset in loaded:
        if any(dataset is one for one in datasets):
            parts.append((dataset, wanted_samples(len(dataset), settings)))
            described = describe_augmentation(dataset, renderer.description, settings)
            print("\n".join(dry_run(dataset, renderer, size, settings, out, described)))
        else:
            parts.append((dataset, None))
            print(_beside_line(dataset))
    _warn_of_training(toolkit, parts)


def _to_cut(datasets: Sequence[OfflineDataset]) -> Sequence[OfflineDataset]:
    """Those with audio; where none has any, all of them, to be refused."""
    return [dataset for dataset in datasets if dataset.has_audio()] or datasets


def _beside_line(dataset: OfflineDataset) -> str:
    return f"{dataset.name}: {len(dataset)} rows without audio, none of them cut; registered for training beside speech"


def _warn_of_training(toolkit: dict[str, Any], found: Sequence[tuple[OfflineDataset, int | None]]) -> None:
    """Say on stderr what the recipe's keys will make of the share.

    `found`: datasets, and how many partial samples; None where a dataset is not cut.
    """
    from simulsa_plugin.augmentation.training_share import share_lines, tokenized_line

    mixing = _mixing(toolkit)
    tokenized = tokenized_line(toolkit.get("tokenized_path"))
    for line in [tokenized] if tokenized else share_lines(_training_parts(toolkit.get("dataset"), found), mixing):
        print(f"{PROG}: WARNING: {line}", file=sys.stderr)


def _mixing(toolkit: dict[str, Any]) -> Mixing:
    from simulsa_plugin.augmentation.training_share import Mixing

    try:
        return Mixing.from_keys(toolkit)
    except (ValueError, TypeError) as error:
        raise UsageError(f"LLaMA-Factory would refuse a key of the training: {error}. Correct it.") from error


def _cutoff_len(toolkit: dict[str, Any]) -> int:
    from simulsa_plugin.augmentation.cutoff import DEFAULT_CUTOFF_LEN

    given = toolkit.get("cutoff_len", DEFAULT_CUTOFF_LEN)
    if not str(given).isdecimal():
        raise UsageError(f"cutoff_len is {given!r}; allowed: a whole number of tokens.")
    packed = bool(toolkit.get("packing") or toolkit.get("neat_packing"))
    return int(given) - packed  # LLaMA-Factory takes one off for packing


def _training_parts(named: object, found: Sequence[tuple[OfflineDataset, int | None]]) -> list[Part]:
    """The training's datasets in the recipe's order; partial samples it does not name follow their offline rows."""
    from simulsa_plugin.augmentation.output_layout import SUFFIX
    from simulsa_plugin.augmentation.training_share import Part
    from simulsa_plugin.commands.wiring import dataset_names

    parts: list[Part] = []
    for dataset, samples in found:
        share = dataset.entry.get("num_samples")
        parts.append(Part(dataset.name, len(dataset), share))
        if samples is not None:
            parts.append(Part(f"{dataset.name}{SUFFIX}", samples))
    order = dataset_names(named)
    if {part.name for part in parts} <= set(order):
        parts.sort(key=lambda part: order.index(part.name))
    return parts


def _print(outcome: AugmentedDataset) -> None:
    from simulsa_plugin.augmentation.augment_report import augment_summary
    from simulsa_plugin.augmentation.clean import clean_lines

    name = outcome.manifest["dataset"]
    print("\n".join(augment_summary(outcome.manifest)))
    print(f"  {outcome.folder}")
    for line in clean_lines(outcome.manifest):
        print(f"  {line}")
    offline = (outcome.manifest.get("clean") or {}).get("name") or name
    print(f"  train with  dataset: {offline},{name}_simulsa  and  dataset_dir: {outcome.folder.parent}")


if __name__ == "__main__":
    raise SystemExit(main())
