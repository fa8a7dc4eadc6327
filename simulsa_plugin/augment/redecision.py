"""Decide again over a scores.jsonl, without a model: score once, decide later."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simulsa_plugin.augment.acceptance import TOLERANCE
from simulsa_plugin.augment.commitment import Truth
from simulsa_plugin.augment.decision import Decider
from simulsa_plugin.augment.layout import Layout
from simulsa_plugin.augment.manifest import plugin_version, read_manifest
from simulsa_plugin.augment.outcome import Outcome, finish
from simulsa_plugin.augment.registration import augmented_entry
from simulsa_plugin.augment.selection import Skipped, parse_sample_id, walk, wanted_samples
from simulsa_plugin.augment.settings import CUTTING_KEYS, EXTRA_SCORES, AugmentSettings
from simulsa_plugin.augment.shards import holding
from simulsa_plugin.errors import SimulsaError, StorageError, UsageError
from simulsa_plugin.storage import make_folder, merge_dataset_info, read_jsonl, registered_datasets, write_json

FindTruth = Callable[[str, Mapping[str, Any]], Truth | None]
SIZE_KEYS = frozenset({"simulsa_ratio", "simulsa_samples"})
SCORING_KEYS = CUTTING_KEYS | {"simulsa_extra_scores", "simulsa_batch_size"}  # what was done, whatever is decided
TEXT_FIELDS = ("id", "audio", "clip", "reference")
SECONDS_FIELDS = ("duration_seconds", "cut_seconds")
LOGPROB_FIELDS = ("logprobs", "logprobs_full", "logprobs_lookback")
TOKEN_FIELDS = ("char_ends", "greedy", "margins", *LOGPROB_FIELDS)
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
            StorageError: the file is missing, empty or broken, or of a run that is not finished.
        """
        path = path.resolve() if ".." in path.parts else path.absolute()
        first = next(read_jsonl(path), None)
        if first is None:
            raise StorageError(f"{path} has no rows. Give a scores.jsonl that has some.")
        _check_row(first, 1, path)
        name = parse_sample_id(first["id"])[0]
        return cls(path, name, _manifest_beside(path), _offline_entry(path.parent.parent, name))

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of the run that scored, as far as they are known."""
        return {key: value for key, value in self.manifest.get("settings", {}).items() if value is not None}

    def count(self, key: str) -> int | None:
        """A count of the run that scored; None where it is not known."""
        value: int | None = self.manifest.get("counts", {}).get(key)
        return value

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
                    f"{self.path}, row {number}: {row['id']} stands there twice, or is of another dataset than "
                    f"{self.name}. Give every dataset a file of its own."
                )
            seen.add(row["id"])
            yield {**row, "clip": self._clip(row["clip"], layout, portable)}

    def _clip(self, clip: str, layout: Layout, portable: bool) -> str:
        path = self.path.parent.parent / clip
        if not portable:
            return str(path)
        real = _resolved(path.parent) / path.name
        if not real.is_relative_to(_resolved(layout.out)):
            raise UsageError(
                f"simulsa_portable needs the clips inside --out, but they lie in {path.parent}. "
                f"Use --out {self.path.parent.parent}, or leave simulsa_portable out."
            )
        return str(real.relative_to(_resolved(layout.out)))

    def skipped(self, last_id: str | None) -> list[Skipped]:
        """What the walk left out on its way to `last_id`, or at all; the decisions of the run that scored apart.

        Raises:
            StorageError: skipped.jsonl is broken.
        """
        path = self.path.with_name("skipped.jsonl")
        skipped = list(_skips(path)) if path.exists() else []
        rows, seed = self.manifest.get("rows"), self.settings.get("simulsa_seed")
        if last_id is None or rows is None or seed is None:
            return skipped
        _, last_row, last_cut = parse_sample_id(last_id)
        parsed = [(one, *parse_sample_id(one.id)[1:]) for one in skipped]
        named = {last_row, *(row for _, row, _ in parsed)}
        places = {row: place for place, row in enumerate(walk(self.name, rows, seed)) if row in named}
        last = (places.get(last_row, rows), last_cut)
        return [one for one, row, cut in parsed if (places.get(row, rows), cut) < last]


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
    layout = Layout(make_folder(out).absolute(), source.name)
    in_place = layout.scores.resolve() == source.path.resolve()
    settings = _settings(source, keys, in_place=in_place)
    wanted = _wanted(source, settings, keys)
    make_folder(layout.folder)
    with holding(layout, None):
        if in_place:
            settings, wanted = _all_of_it(source, settings, wanted)
        else:
            _check_place(layout, source)
        work = _work(source, settings, keys, in_place=in_place)
        with _begun(layout, work, in_place=in_place):
            rows = islice(source.rows(layout, portable=settings.portable), wanted)
            decider = Decider(settings, source.manifest.get("output_width"), _truth(source, find_truth))
            tally = decider.write(_with_progress(_noticing_missing_clips(rows, layout)), layout)
            if wanted is not None and tally.scored < wanted:
                print(_too_few(source, tally.scored, wanted), file=sys.stderr)
            skipped = source.skipped(tally.last_id if wanted is not None and wanted <= tally.scored else None)
            merge_dataset_info(layout.out, _entries(source, layout, portable=settings.portable))
            return finish(layout, work, tally, wanted or source.count("wanted") or tally.scored, skipped)


@contextmanager
def _begun(layout: Layout, work: Mapping[str, Any], *, in_place: bool) -> Iterator[None]:
    """Say in another folder whose decisions it is to hold: after a kill the same command goes on there."""
    if in_place or layout.manifest.exists():
        yield
        return
    write_json(layout.started, work)
    try:
        yield
    except SimulsaError:  # a mistake, not a kill: whoever comes next finds the folder free
        if not layout.scores.exists():
            layout.started.unlink(missing_ok=True)
        raise


def _settings(source: ScoredFile, keys: Mapping[str, Any], *, in_place: bool) -> AugmentSettings:
    """Cutting and scoring as it was done, deciding as asked.

    Raises:
        UsageError: the keys ask for other cuts, or another look back, than those that were scored.
    """
    before = AugmentSettings.from_keys(source.settings)
    kept = {*SCORING_KEYS, "simulsa_lookback_ms"} | ({"simulsa_portable"} if in_place else set())
    kept |= SIZE_KEYS if not SIZE_KEYS & keys.keys() else set()
    asked = AugmentSettings.from_keys({**{key: source.settings[key] for key in kept & source.settings.keys()}, **keys})
    fixed = CUTTING_KEYS | ({"simulsa_lookback_ms"} if before.scores_lookback else set())
    for key in sorted(fixed & keys.keys() & source.settings.keys()):
        if asked.as_keys()[key] != before.as_keys()[key]:
            raise UsageError(
                f"{key} is {keys[key]}, but {source.path} was scored with {source.settings[key]}. "
                f"Leave {key} out, or augment again without --from-scores."
            )
    if not source.settings:
        return asked
    return replace(asked, batch_size=before.batch_size, extra_scores=_extra_scores(before, asked))


def _extra_scores(before: AugmentSettings, asked: AugmentSettings) -> tuple[str, ...]:
    """What is scored besides the cut, as asked where that is what was done, and else so that it is."""

    def scored(settings: AugmentSettings) -> list[bool]:
        return [settings.scores_full, settings.scores_lookback]

    if scored(asked) == scored(before):
        return asked.extra_scores
    return tuple(extra for extra, done in zip(EXTRA_SCORES, scored(before), strict=True) if done)


def _wanted(source: ScoredFile, settings: AugmentSettings, keys: Mapping[str, Any]) -> int | None:
    """How many of the scored rows; None means all of them."""
    if settings.samples is not None and keys.get("simulsa_samples") is not None:
        return settings.samples
    if "simulsa_ratio" not in keys:
        return None
    rows = source.manifest.get("rows")
    if rows is None:
        raise UsageError(f"simulsa_ratio needs the manifest.json of the run beside {source.path}. Use simulsa_samples.")
    return wanted_samples(rows, replace(settings, samples=None))


def _all_of_it(
    source: ScoredFile, settings: AugmentSettings, wanted: int | None
) -> tuple[AugmentSettings, int | None]:
    """In place no scores are lost, which cost a model's time, and none are added: a run's size stays.

    Raises:
        StorageError: fewer samples are asked for than were scored.
    """
    scored = source.count("scored")
    if wanted is None or wanted == scored:
        return settings, wanted
    if scored is None or wanted < scored:
        raise StorageError(f"Fewer samples in place would lose scores of {source.path}. Choose another --out.")
    before = AugmentSettings.from_keys(source.settings)
    print(_too_few(source, scored, wanted), file=sys.stderr)
    return replace(settings, samples=before.samples, ratio=before.ratio), None


def _too_few(source: ScoredFile, scored: int, wanted: int) -> str:
    return f"warning: {source.path} has {scored} of the {wanted} samples asked for."


def _check_place(layout: Layout, source: ScoredFile) -> None:
    """Only what was decided over these scores is decided again."""
    noted = next((path for path in (layout.manifest, layout.started) if path.exists()), None)
    before = read_manifest(noted).get("scores_from") if noted else None
    if before is not None and Path(before).resolve() == source.path.resolve():
        return
    if noted == layout.manifest:
        raise StorageError(f"{layout.folder} holds a run of its own. Choose another --out.")
    if noted or layout.scores.exists() or layout.journals():
        raise StorageError(f"{layout.folder} holds a run that is not finished. Choose another --out.")


def _work(
    source: ScoredFile, settings: AugmentSettings, keys: Mapping[str, Any], *, in_place: bool
) -> dict[str, Any]:
    """As `describe_work` says it of a run that scored; None where that is not known."""
    known = {key: source.manifest.get(key) for key in ("dataset", "rows", "source", "model", "output_width")}
    own = settings.as_keys()
    own |= dict.fromkeys((SCORING_KEYS | (SIZE_KEYS - keys.keys())) - source.settings.keys())
    origin = source.manifest.get("scores_from") if in_place else str(source.path)
    return {
        **known,
        "dataset": source.name,
        "settings": own,
        **({"scores_from": origin} if origin else {}),
        "versions": {**source.manifest.get("versions", {}), **plugin_version()},
    }


def _truth(source: ScoredFile, find_truth: FindTruth) -> Truth | None:
    """Beside the offline file that was cut, or beside the one that is registered."""
    original = source.manifest.get("source")
    found = find_truth(source.name, {"file_name": original}) if original else None
    return found or find_truth(source.name, source.entry)


def _entries(source: ScoredFile, layout: Layout, *, portable: bool) -> dict[str, dict[str, Any]]:
    entry = dict(source.entry)
    if not entry:
        print(
            f"warning: the offline dataset {source.name} is not registered beside {source.path}, hence not in "
            f"{layout.out}/dataset_info.json.",
            file=sys.stderr,
        )
        return augmented_entry(layout)
    if portable and Path(entry.get("file_name", "")).is_relative_to(layout.out):
        entry["file_name"] = str(Path(entry["file_name"]).relative_to(layout.out))
    return {source.name: entry, **augmented_entry(layout)}


def _manifest_beside(path: Path) -> dict[str, Any]:
    """The manifest of the run that wrote the file; empty where no run of ours did."""
    manifest_path = path.with_name("manifest.json")
    if not manifest_path.exists():
        if path.with_name("started.json").exists():
            raise StorageError(f"The run beside {path} is not finished. Start it again, and decide when it is done.")
        return {}
    manifest = read_manifest(manifest_path)
    if not all(isinstance(manifest.get(key, {}), dict) for key in ("settings", "counts", "versions")):
        raise StorageError(f"{manifest_path} is no manifest of simulsa-augment. Move it away, or mend it.")
    return manifest


def _offline_entry(folder: Path, name: str) -> dict[str, Any]:
    """An offline dataset's entry in the folder of a run, its file name absolute."""
    registered = registered_datasets(folder).get(name)
    entry = dict(registered) if isinstance(registered, dict) else {}
    if isinstance(entry.get("file_name"), str):
        entry["file_name"] = str(folder / entry["file_name"])
    return entry


def _skips(path: Path) -> Iterator[Skipped]:
    for number, row in enumerate(read_jsonl(path), 1):
        identifier, reason = row.get("id"), row.get("reason")
        try:
            if not isinstance(identifier, str) or not isinstance(reason, str):
                raise ValueError("id and reason are not both text")
            parse_sample_id(identifier)
        except ValueError as error:
            raise StorageError(f"{path}, row {number}: {error}. Mend or remove the file.") from error
        if reason != "empty_partial":
            yield Skipped(identifier, reason)


@lru_cache(maxsize=64)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _with_progress(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from tqdm(rows, desc="decide", unit="row", disable=None)


def _noticing_missing_clips(rows: Iterator[dict[str, Any]], layout: Layout) -> Iterator[dict[str, Any]]:
    missing, first = 0, ""
    for row in rows:
        if not os.path.exists(layout.out / row["clip"]):
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
    missing = sorted(key for key in REQUIRED if row.get(key) is None)
    if missing:
        return f"no {missing[0]}"
    if not all(isinstance(row[key], str) for key in TEXT_FIELDS):
        return f"{', '.join(TEXT_FIELDS)} are not all text"
    if not _are_finite([row[key] for key in SECONDS_FIELDS]) or min(row[key] for key in SECONDS_FIELDS) <= 0:
        return f"{' and '.join(SECONDS_FIELDS)} are no positive numbers"
    if not isinstance(row["messages"], list) or not all(map(_is_message, row["messages"])):
        return "messages is no list of turns with role and content"
    if Path(row["clip"]).name in ("", "..") or "\0" in row["clip"] + row["id"]:
        return f"clip {row['clip']!r} of {row['id']!r} is no name of a file"
    try:
        parse_sample_id(row["id"])
    except ValueError as error:
        return str(error)
    return _problem_with_tokens(row)


def _problem_with_tokens(row: Mapping[str, Any]) -> str | None:
    if not _are_whole(row["token_ids"]):
        return "token_ids is no list of whole numbers"
    for key in TOKEN_FIELDS:
        values = row.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != len(row["token_ids"])):
            return f"{key} does not have one value for each token"
    length = len(row["reference"])
    if not all(end is None or (type(end) is int and 0 <= end <= length) for end in row["char_ends"]):
        return f"char_ends holds something that is neither null nor from 0 to {length}, the length of the reference"
    if not _are_whole(row.get("unstable_prefixes") or []):
        return "unstable_prefixes is no list of whole numbers"
    return _problem_with_scores(row)


def _problem_with_scores(row: Mapping[str, Any]) -> str | None:
    if not _are_whole(row.get("greedy") or []):
        return "greedy holds something that is no whole number"
    for key in ("margins", *LOGPROB_FIELDS):
        if not _are_finite(row.get(key) or ()):
            return f"{key} holds something that is no finite number"
    for key in LOGPROB_FIELDS:
        if max(row.get(key) or (), default=0.0) > TOLERANCE:
            return f"{key} holds something above 0, which is no logarithm of a probability"
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _are_whole(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {int}


def _are_finite(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and all(map(sys.float_info.max.__ge__, map(abs, values)))
