"""How many offline rows and partial samples a training gets: LLaMA-Factory's keys applied to the rows of the files.

`simulsa_ratio` is a share of the rows in the offline file. Keys of the training that take some rows of each dataset, or
mix datasets in other proportions, change that share. All counts follow LLaMA-Factory 0.9.5 (`data/loader.py`,
`data/data_utils.py`) and `datasets.interleave_datasets`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.augmentation.output_layout import CLEAN_SUFFIX, SUFFIX

_TOLERANCE = 0.01  # of the share, relative: rounding to whole rows is not worth a warning
_TRUE = ("true", "1", "yes")


@dataclass(frozen=True)
class Mixing:
    """LLaMA-Factory's keys that decide which rows of several datasets a training gets.

    Attributes:
        max_samples: the first rows of every dataset.
        streaming: rows are read as they come; `max_samples` is refused, `num_samples` ignored.
        mix_strategy: concat, interleave_under, interleave_over or interleave_once.
        interleave_probs: one for each dataset.
        val_size: rows (≥ 1) or share (< 1) of the mixed rows that are held out, at random.
        packing: rows are joined into sequences of `cutoff_len` tokens.
    """

    max_samples: int | None = None
    streaming: bool = False
    mix_strategy: str = "concat"
    interleave_probs: tuple[float, ...] | None = None
    val_size: float = 0.0
    packing: bool = False

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any]) -> Mixing:
        """Read the keys of a recipe, of flags (text), or of LLaMA-Factory's DataArguments.

        Raises:
            ValueError: a number is not one; LLaMA-Factory refuses the recipe as well.

        >>> Mixing.from_keys({"max_samples": "20", "interleave_probs": "0.9,0.1", "neat_packing": True})
        Mixing(max_samples=20, streaming=False, mix_strategy='concat', interleave_probs=(0.9, 0.1), \
val_size=0.0, packing=True)
        """
        probs = keys.get("interleave_probs")
        if probs is not None:
            probs = tuple(float(one) for one in (probs.split(",") if isinstance(probs, str) else probs))
        return cls(
            None if keys.get("max_samples") is None else int(keys["max_samples"]),
            _is_true(keys.get("streaming")),
            str(keys.get("mix_strategy") or "concat"),
            probs,
            float(keys.get("val_size") or 0.0),
            _is_true(keys.get("packing")) or _is_true(keys.get("neat_packing")),
        )


@dataclass(frozen=True)
class Part:
    """A dataset of a training.

    Attributes:
        name: in dataset_info.json.
        rows: in its file; None where that is not known.
        num_samples: of its entry, drawn at random, with repetitions where they exceed the rows.
    """

    name: str
    rows: int | None
    num_samples: int | None = None


def kept_rows(part: Part, mixing: Mixing) -> int | None:
    """Return how many rows of a dataset LLaMA-Factory takes before mixing; None where that is not known.

    >>> kept_rows(Part("a", 200), Mixing(max_samples=20)), kept_rows(Part("a", 200, 300), Mixing())
    (20, 300)
    """
    if mixing.streaming:
        return part.rows
    rows = part.rows if part.num_samples is None else part.num_samples
    return rows if rows is None or mixing.max_samples is None else min(rows, mixing.max_samples)


def mixed_rows(kept: Sequence[int], mixing: Mixing) -> list[float]:
    """Return the rows of each dataset in one pass over the mixed data; expected ones where they are drawn.

    >>> mixed_rows([200, 20], Mixing(mix_strategy="interleave_under"))
    [20, 20]
    >>> mixed_rows([200, 20], Mixing(mix_strategy="interleave_over"))
    [200, 200]
    >>> mixed_rows([200, 20], Mixing(mix_strategy="interleave_under", interleave_probs=(0.5, 0.5)))
    [20.0, 20.0]
    """
    if len(kept) < 2 or mixing.mix_strategy not in ("interleave_under", "interleave_over"):
        return list(kept)  # concat, and interleave_once, take every row once
    stop = min if mixing.mix_strategy == "interleave_under" else max
    probabilities = mixing.interleave_probs
    if probabilities is None:
        return [stop(kept)] * len(kept)
    if len(probabilities) != len(kept):
        return list(kept)  # LLaMA-Factory refuses it
    drawn = stop([rows / share for rows, share in zip(kept, probabilities, strict=True) if share > 0], default=0.0)
    return [drawn * share for share in probabilities]


def held_out_rows(rows: float, val_size: float) -> int:
    """Return how many rows go to validation: a whole number of them, or a share rounded up.

    >>> held_out_rows(220, 0.1), held_out_rows(220, 0.015), held_out_rows(220, 30), held_out_rows(220, 0)
    (22, 4, 30, 0)
    """
    return int(val_size) if val_size >= 1 else math.ceil(rows * val_size)


def share_lines(parts: Sequence[Part], mixing: Mixing, kept: Sequence[int | None] | None = None) -> list[str]:
    """Say where a training changes the share of partial samples, and to what; nothing where it stays.

    Args:
        parts: the training's datasets, in its order.
        mixing: its keys.
        kept: rows of each before mixing, where they were counted; otherwise computed.
    """
    counts = [kept_rows(part, mixing) for part in parts] if kept is None else list(kept)
    known = [count for count in counts if count is not None]
    mixed = mixed_rows(known, mixing) if len(known) == len(counts) else None
    lines = [line for pair in _dataset_pairs(parts) for line in _pair_lines(parts, pair, counts, mixed, mixing)]
    return lines + list(_other_lines(parts, mixed, mixing))


def rows_line(parts: Sequence[Part], mixing: Mixing, kept: Sequence[int | None]) -> str | None:
    """Say what a training gets of each pair of offline rows and partial samples; None where that is not known."""
    pairs = list(_dataset_pairs(parts))
    if not pairs or None in kept:
        return None
    mixed = mixed_rows([count for count in kept if count is not None], mixing)
    said = [
        f"{mixed[offline]:.0f} rows of {parts[offline].name} and {mixed[partial]:.0f} of {parts[partial].name} "
        f"({_share_in_percent(mixed[partial], mixed[offline])})"
        for offline, partial in pairs
    ]
    return f"training data: {'; '.join(said)}."


def tokenized_line(path: object) -> str | None:
    """Return the warning that a training reads existing tokenized data; None where there is none."""
    if not isinstance(path, str) or not os.path.isdir(path) or not os.listdir(path):
        return None
    return (
        f"tokenized_path: {path} holds tokenized data, so LLaMA-Factory reads that and ignores dataset, max_samples "
        "and the like: the share is the one it was made with. Remove it or choose another path to train on other data."
    )


def _dataset_pairs(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Yield positions of NAME, or NAME_clean, and of NAME_simulsa."""
    places = {part.name: place for place, part in enumerate(parts)}
    for name, place in places.items():
        for stem in dict.fromkeys((name, name.removesuffix(CLEAN_SUFFIX))):
            if f"{stem}{SUFFIX}" in places:
                yield place, places[f"{stem}{SUFFIX}"]


def _pair_lines(
    parts: Sequence[Part],
    pair: tuple[int, int],
    kept: Sequence[int | None],
    mixed: Sequence[float] | None,
    mixing: Mixing,
) -> Iterator[str]:
    offline, partial = (parts[place] for place in pair)
    if mixed is None:
        return
    got, of = mixed[pair[1]], mixed[pair[0]]
    causes = _share_changes((offline, partial), [kept[place] for place in pair], mixing)
    if not causes or (
        offline.rows
        and partial.rows
        and got
        and of
        and math.isclose(got / of, partial.rows / offline.rows, rel_tol=_TOLERANCE)
    ):
        return
    about = "about " if mixing.interleave_probs and mixing.mix_strategy != "concat" else ""
    meant = (
        f", not {_share_in_percent(partial.rows, offline.rows)}" if offline.rows and partial.rows is not None else ""
    )
    yield (
        f"{', '.join(cause for cause, _ in causes)}: training gets {about}{_of(of, offline)} and "
        f"{_of(got, partial)}: {_share_in_percent(got, of)} as many partial samples as offline rows{meant}. "
        f"{' '.join(dict.fromkeys(step for _, step in causes))}"
    )


def _share_changes(pair: Sequence[Part], kept: Sequence[int | None], mixing: Mixing) -> list[tuple[str, str]]:
    """Return the keys that may change the share of a pair, each with the next step."""
    found = []
    if not mixing.streaming and any(part.num_samples is not None for part in pair):
        found.append(("num_samples in dataset_info.json", "Leave num_samples out."))
    limit = mixing.max_samples
    if not mixing.streaming and limit is not None and any(count == limit for count in kept):
        found.append((f"max_samples: {limit}", "Leave max_samples out; to train on less, augment a smaller dataset."))
    if mixing.mix_strategy in ("interleave_under", "interleave_over"):
        found.append((f"mix_strategy: {mixing.mix_strategy}", "Set mix_strategy: concat, which takes every row once."))
    return found


def _other_lines(parts: Sequence[Part], mixed: Sequence[float] | None, mixing: Mixing) -> Iterator[str]:
    """Yield warnings about keys that keep the share, but drop or change partial samples."""
    pairs = list(_dataset_pairs(parts))
    if not pairs:
        return
    if mixing.val_size > 0:
        total = None if mixed is None else sum(mixed)
        many = f"{held_out_rows(total, mixing.val_size)} of {total:.0f}" if total is not None else "some"
        yield (
            f"val_size: {mixing.val_size:g} holds out {many} mixed rows at random for eval_loss, partial samples among "
            "them; the share stays on average. Use an eval_dataset instead to train on all of them."
        )
    if mixing.streaming:
        if any(part.num_samples is not None for part in parts):
            yield "streaming: num_samples in dataset_info.json is ignored, and every row is read."
        if mixing.mix_strategy == "concat" and len(parts) > 1:
            yield (
                "streaming: with mix_strategy: concat the partial samples come after the offline rows, mixed only "
                "within buffer_size rows: a training that max_steps ends before may see none. Leave streaming out."
            )
    if mixing.packing:
        yield "packing: several rows share a sequence; the share of rows stays, steps and batches count sequences."


def _of(count: float, part: Part) -> str:
    rows = "" if part.rows is None else f" of {part.rows}"
    return f"{count:.0f}{rows} rows of {part.name}"


def _share_in_percent(count: float | None, rows: float) -> str:
    return f"{100 * (count or 0) / rows:.3g} %" if rows else "not a share"


def _is_true(value: Any) -> bool:
    return value.lower() in _TRUE if isinstance(value, str) else bool(value)
