"""Decide again over a scores.jsonl, without a model: score once, decide later."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simulsa_plugin.augment.commitment import Truth
from simulsa_plugin.augment.decision import Decider
from simulsa_plugin.augment.layout import Layout
from simulsa_plugin.augment.manifest import read_manifest
from simulsa_plugin.augment.outcome import Outcome, finish
from simulsa_plugin.augment.registration import augmented_entry
from simulsa_plugin.augment.selection import Skipped, parse_sample_id, walk, wanted_samples
from simulsa_plugin.augment.settings import CUTTING_KEYS, AugmentSettings
from simulsa_plugin.augment.shards import holding
from simulsa_plugin.errors import StorageError, UsageError
from simulsa_plugin.storage import make_folder, merge_dataset_info, read_jsonl, registered_datasets

FindTruth = Callable[[str, Mapping[str, Any]], Truth | None]
SIZE_KEYS = frozenset({"simulsa_ratio", "simulsa_samples"})
TEXT_FIELDS = ("id", "audio", "clip", "reference")
SECONDS_FIELDS = ("duration_seconds", "cut_seconds")
TOKEN_FIELDS = ("char_ends", "logprobs", "greedy", "margins", "logprobs_full", "logprobs_lookback")
REQUIRED = frozenset({*TEXT_FIELDS, *SECONDS_FIELDS, "messages", "token_ids", "char_ends", "logprobs"})


@dataclass(frozen=True)
class ScoredFile:
    """A scores.jsonl, and what lies beside it where a run of ours wrote it.

    Attributes:
        path: of the file, absolute.
        name: of the offline dataset.
        manifest: of the run that scored; empty where there is none.
        entry: the offline dataset's entry in dataset_info.json, its file name absolute; empty where there is none.
    """

    path: Path
    name: str
    manifest: dict[str, Any]
    entry: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> ScoredFile:
        """Look at the first row, the manifest and dataset_info.json.

        Raises:
            StorageError: the file is missing, empty or broken.
        """
        path = path.absolute()
        first = next(read_jsonl(path), None)
        if first is None:
            raise StorageError(f"{path} has no rows.")
        _check_row(first, 1, path)
        name = parse_sample_id(first["id"])[0]
        manifest_path = path.with_name("manifest.json")
        manifest = read_manifest(manifest_path) if manifest_path.exists() else {}
        return cls(path, name, manifest, _offline_entry(path.parent.parent, name))

    def rows(self, layout: Layout, *, portable: bool) -> Iterator[dict[str, Any]]:
        """Rows with their clips as the output folder names them.

        Raises:
            StorageError: a row is broken, is another dataset's, or stands twice; its line is named.
            UsageError: clips outside the output folder cannot be portable.
        """
        seen: set[str] = set()
        for number, row in enumerate(read_jsonl(self.path), 1):
            _check_row(row, number, self.path)
            if parse_sample_id(row["id"])[0] != self.name or row["id"] in seen:
                raise StorageError(
                    f"{self.path}, row {number}: {row['id']} stands there twice, or is of another dataset."
                )
            seen.add(row["id"])
            yield {**row, "clip": self._clip(row["clip"], layout, portable)}

    def _clip(self, clip: str, layout: Layout, portable: bool) -> str:
        path = self.path.parent.parent / clip
        if not portable:
            return str(path)
        if not path.is_relative_to(layout.out):
            raise UsageError(
                f"simulsa_portable needs the clips inside --out, but they lie in {path.parent}. "
                f"Use --out {self.path.parent.parent}, or leave simulsa_portable out."
            )
        return str(path.relative_to(layout.out))

    def skipped(self, last_id: str) -> list[Skipped]:
        """What the walk left out on its way to `last_id`; the decisions of the run that scored apart."""
        path = self.path.with_name("skipped.jsonl")
        rows = read_jsonl(path) if path.exists() else iter(())
        skipped = [Skipped(row["id"], row["reason"]) for row in rows if row["reason"] != "empty_partial"]
        if not self.manifest:
            return skipped
        order = walk(self.name, self.manifest["rows"], self.manifest["settings"]["simulsa_seed"])
        places = {row: place for place, row in enumerate(order)}
        _, last_row, last_cut = parse_sample_id(last_id)
        parsed = [(one, *parse_sample_id(one.id)[1:]) for one in skipped]
        return [one for one, row, cut in parsed if (places[row], cut) < (places[last_row], last_cut)]


def decide_again(scores: Path, keys: Mapping[str, Any], out: Path, find_truth: FindTruth) -> Outcome:
    """Apply a rule to scored rows and write what a run with that rule would have written; clips stay where they are.

    Args:
        scores: a scores.jsonl.
        keys: `simulsa_*` keys that were given; those that say what is cut must be the ones it was cut with.
        out: output folder; the run's own, to decide in place, or another.
        find_truth: name and entry of a dataset → its true partials.

    Raises:
        UsageError: a key contradicts the scores, or the rule needs a field that is not there.
        StorageError: the file is broken, or the output folder holds other work.
    """
    source = ScoredFile.open(scores)
    settings = _settings(source, keys)
    wanted = _wanted(source, settings, keys)
    layout = Layout(make_folder(out).absolute(), source.name)
    make_folder(layout.folder)
    with holding(layout, None):
        in_place = layout.scores.resolve() == source.path.resolve()
        scored = source.manifest.get("counts", {}).get("scored", math.inf)
        _check_place(layout, source, in_place=in_place, reduced=wanted is not None and wanted < scored)
        rows = islice(source.rows(layout, portable=settings.portable), wanted)
        decider = Decider(settings, source.manifest.get("output_width"), find_truth(source.name, source.entry))
        tally = decider.write(_with_progress(_noticing_missing_clips(rows, layout)), layout)
        if wanted is not None and tally.scored < wanted:
            print(f"warning: {source.path} has {tally.scored} of the {wanted} samples asked for.", file=sys.stderr)
        skipped = source.skipped(tally.last_id)
        merge_dataset_info(layout.out, _entries(source, layout))
        work = _work(source, settings) | ({} if in_place else {"scores_from": str(source.path)})
        asked = source.manifest.get("counts", {}).get("wanted", tally.scored) if wanted is None else wanted
        return finish(layout, work, tally, asked, skipped)


def _settings(source: ScoredFile, keys: Mapping[str, Any]) -> AugmentSettings:
    """Cutting as it was scored, deciding as asked.

    Raises:
        UsageError: the keys ask for other cuts than those that were scored.
    """
    scored = source.manifest.get("settings", {})
    for key in CUTTING_KEYS & keys.keys() & scored.keys():
        if getattr(AugmentSettings.from_keys(keys), key.removeprefix("simulsa_")) != scored[key]:
            raise UsageError(
                f"{key} is {keys[key]}, but {source.path} was cut with {scored[key]}. "
                f"Leave {key} out, or augment again without --from-scores."
            )
    fixed = {key: scored[key] for key in (*CUTTING_KEYS, "simulsa_extra_scores", "simulsa_batch_size") if key in scored}
    sizes = {key: scored[key] for key in SIZE_KEYS if key in scored and not SIZE_KEYS & keys.keys()}
    lookback = {key: scored[key] for key in ("simulsa_lookback_ms",) if key in scored}
    return AugmentSettings.from_keys({**lookback, **sizes, **keys, **fixed})


def _wanted(source: ScoredFile, settings: AugmentSettings, keys: Mapping[str, Any]) -> int | None:
    """How many of the scored rows; None means all of them."""
    if settings.samples is not None and keys.get("simulsa_samples") is not None:
        return settings.samples
    if "simulsa_ratio" not in keys:
        return None
    if not source.manifest:
        raise UsageError(f"simulsa_ratio needs the manifest.json of the run beside {source.path}. Use simulsa_samples.")
    return wanted_samples(source.manifest["rows"], replace(settings, samples=None))


def _check_place(layout: Layout, source: ScoredFile, *, in_place: bool, reduced: bool) -> None:
    """Nothing that cost a model's time is overwritten."""
    if in_place:
        if reduced:
            raise StorageError(f"Fewer samples in place would lose scores of {source.path}. Choose another --out.")
        return
    own = read_manifest(layout.manifest) if layout.manifest.exists() else None
    if own is None and (layout.scores.exists() or layout.started.exists() or layout.journals()):
        raise StorageError(f"{layout.folder} holds a run that is not finished. Choose another --out.")
    if own is not None and own.get("scores_from") != str(source.path):
        raise StorageError(f"{layout.folder} holds a run of its own. Choose another --out.")


def _work(source: ScoredFile, settings: AugmentSettings) -> dict[str, Any]:
    """As `describe_work` says it of a run that scored; None where that is not known."""
    known = {key: source.manifest.get(key) for key in ("dataset", "rows", "source", "model", "output_width")}
    own = settings.as_keys()
    if not source.manifest:
        own |= dict.fromkeys([*CUTTING_KEYS, *SIZE_KEYS, "simulsa_batch_size"])
    return known | {"dataset": source.name, "settings": own}


def _entries(source: ScoredFile, layout: Layout) -> dict[str, dict[str, Any]]:
    offline = {source.name: source.entry} if source.entry else {}
    if not offline:
        print(
            f"warning: the offline dataset {source.name} is not registered beside {source.path}, hence not in "
            f"{layout.out}/dataset_info.json.",
            file=sys.stderr,
        )
    return {**offline, **augmented_entry(layout)}


def _offline_entry(folder: Path, name: str) -> dict[str, Any]:
    """An offline dataset's entry in the folder of a run, its file name absolute."""
    entry = dict(registered_datasets(folder).get(name, {}))
    if "file_name" in entry:
        entry["file_name"] = str(folder / entry["file_name"])
    return entry


def _with_progress(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from tqdm(rows, desc="decide", unit="row", disable=None)


def _noticing_missing_clips(rows: Iterator[dict[str, Any]], layout: Layout) -> Iterator[dict[str, Any]]:
    missing, first = 0, ""
    for row in rows:
        if not (layout.out / row["clip"]).exists():
            missing, first = missing + 1, first or row["clip"]
        yield row
    if missing:
        print(f"warning: {missing} clips are missing, the first is {first}; training needs them.", file=sys.stderr)


def _check_row(row: Mapping[str, Any], number: int, path: Path) -> None:
    """Raise StorageError unless a rule can decide over the row."""
    problem = _problem(row)
    if problem:
        raise StorageError(f"{path}, row {number}: {problem}. Score again, or mend the file.")


def _problem(row: Mapping[str, Any]) -> str | None:
    missing = sorted(REQUIRED - row.keys())
    if missing:
        return f"no {missing[0]}"
    if not all(isinstance(row[key], str) for key in TEXT_FIELDS):
        return f"{', '.join(TEXT_FIELDS)} are not all text"
    if not all(_is_finite(row[key]) and row[key] > 0 for key in SECONDS_FIELDS):
        return f"{' and '.join(SECONDS_FIELDS)} are no positive numbers"
    if not isinstance(row["messages"], list) or not isinstance(row["token_ids"], list):
        return "messages and token_ids are no lists"
    try:
        parse_sample_id(row["id"])
    except ValueError as error:
        return str(error)
    return _problem_with_tokens(row)


def _problem_with_tokens(row: Mapping[str, Any]) -> str | None:
    for key in TOKEN_FIELDS:
        values = row.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != len(row["token_ids"])):
            return f"{key} does not have one value for each token"
    for key in TOKEN_FIELDS[1:]:
        if not all(map(_is_finite, row.get(key) or ())):
            return f"{key} holds something that is no finite number"
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
