"""Variants of training data, made from the output of `simulsa-augment` on the embedded corpus.

`python -m simulsa_plugin.experiments.variants KIND --data AUGMENTED --out DIR`. AUGMENTED is the output folder of
`simulsa-augment dataset=demo dataset_dir=data simulsa_ratio=0.1 --out AUGMENTED`. dataset_info.json in DIR then has
the datasets `demo` and `demo_simulsa`, and recipes/demo_simulsa.yaml trains on them with `dataset_dir=DIR`. Only
`preferences`, which recipes/experiments/training/demo_dpo.yaml trains on, and `monotone`, which `simulsa-augment` is to
augment again, have no `demo_simulsa`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulsa_plugin.commands.console import Parser, output_folder, run_command

if TYPE_CHECKING:
    from simulsa_plugin.experiments.variants_data import Augmented, Dataset

_PROG = "simulsa_plugin.experiments.variants"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the datasets of a variant."""
    return run_command(_PROG, lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    from simulsa_plugin.experiments.variants_data import Augmented, write_datasets

    data = Augmented.open(options.data)
    datasets = options.make(data, options)
    write_datasets(options.out, data.entry, datasets)
    print("\n".join(_summary(datasets, options.out)))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=f"python -m {_PROG}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    _add_kind(kinds, "truth", "the true partial translations as labels", _make_truth)
    _add_latency_words(kinds)
    _add_preferences(kinds)
    _add_turns(kinds)
    _add_kind(
        kinds, "monotone", "demo, demo_dev and demo_test with German in English order as the target", _make_monotone
    )
    return parser


def _add_turns(kinds: argparse._SubParsersAction[Parser]) -> None:
    from simulsa_plugin.experiments.variants_turns import TURN_FORMS

    kind = _add_kind(kinds, "turns", "several cuts of an utterance as one conversation of several turns", _make_turns)
    kind.add_argument(
        "--form",
        choices=TURN_FORMS,
        default=TURN_FORMS[0],
        help="audio of a turn: all so far (prefix) or "
        "the new part (delta); single: a row for each turn (default: prefix)",
    )


def _add_preferences(kinds: argparse._SubParsersAction[Parser]) -> None:
    kind = _add_kind(
        kinds, "preferences", "pairs of answers that stop and that continue, for stage: dpo", _make_preferences
    )
    kind.add_argument("--model", default="simulsa-demo", help="continues partial translations (default: simulsa-demo)")


def _add_latency_words(kinds: argparse._SubParsersAction[Parser]) -> None:
    kind = _add_kind(
        kinds,
        "latency_words",
        "a latency word in the prompt, which names the acceptance threshold",
        _make_latency_words,
    )
    kind.add_argument("--low", type=float, default=0.01, metavar="P", help="threshold of the word low (default: 0.01)")
    kind.add_argument("--high", type=float, default=0.999, metavar="P", help="and of the word high (default: 0.999)")
    kind.add_argument(
        "--one-word", action="store_true", help="each cut with one of the words in turn, instead of with all"
    )


def _add_kind(
    kinds: argparse._SubParsersAction[Parser],
    name: str,
    what: str,
    make: Callable[[Augmented, argparse.Namespace], Mapping[str, Dataset]],
) -> Parser:
    kind = kinds.add_parser(name, help=what, description=what)
    kind.add_argument("--data", type=Path, required=True, metavar="AUGMENTED", help="output of simulsa-augment")
    kind.add_argument("--out", type=output_folder, required=True, metavar="DIR", help="the datasets")
    kind.set_defaults(make=make)
    return kind


def _make_truth(data: Augmented, options: argparse.Namespace) -> Mapping[str, Dataset]:
    from simulsa_plugin.experiments.variants_truth import true_labels

    return true_labels(data)


def _make_latency_words(data: Augmented, options: argparse.Namespace) -> Mapping[str, Dataset]:
    from simulsa_plugin.experiments.variants_data import make_audio_folder, speak_evaluation_sets
    from simulsa_plugin.experiments.variants_latency import check_thresholds, latency_words

    thresholds = check_thresholds(options.low, options.high)
    sets = speak_evaluation_sets(make_audio_folder(options.out, "corpus"))
    return latency_words(data, sets, thresholds, one_word=options.one_word)


def _make_preferences(data: Augmented, options: argparse.Namespace) -> Mapping[str, Dataset]:
    from simulsa_plugin.api.loading import load_model_and_data
    from simulsa_plugin.api.recipe import EMBEDDED_MODEL
    from simulsa_plugin.experiments.variants_data import AUGMENTED_NAME
    from simulsa_plugin.experiments.variants_preferences import preferences

    keys = EMBEDDED_MODEL | {"model_name_or_path": options.model, "dataset_dir": str(options.data)}
    model, _ = load_model_and_data(keys, [AUGMENTED_NAME])
    return preferences(data, model)


def _make_turns(data: Augmented, options: argparse.Namespace) -> Mapping[str, Dataset]:
    from simulsa_plugin.experiments.variants_data import make_audio_folder
    from simulsa_plugin.experiments.variants_turns import conversations

    return conversations(data, options.form, make_audio_folder(options.out, "turns"))


def _make_monotone(data: Augmented, options: argparse.Namespace) -> Mapping[str, Dataset]:
    from simulsa_plugin.experiments.variants_data import make_audio_folder, speak_evaluation_sets
    from simulsa_plugin.experiments.variants_monotone import monotone_target

    return monotone_target(data, speak_evaluation_sets(make_audio_folder(options.out, "corpus")))


def _summary(datasets: Mapping[str, Dataset], out: Path) -> list[str]:
    lines = [f"{name}: {len(dataset.rows)} rows" for name, dataset in datasets.items()]
    return [*lines, f"Written to {out}: dataset_info.json"]


if __name__ == "__main__":
    raise SystemExit(main())
