"""The method, from an offline dataset to a dataset of partial samples.

sample → cut → score → accept → write
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from simulsa_plugin.audio import SAMPLE_RATE, Waveform, from_pcm16, read_mono, samples_to_seconds, to_pcm16, write_wav
from simulsa_plugin.augment.acceptance import decide, default_threshold
from simulsa_plugin.augment.selection import generator, sample_id, walk, wanted_samples
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.augment.truncation import cut_samples
from simulsa_plugin.errors import AudioError, DatasetError, ModelError, StorageError
from simulsa_plugin.model import AudioLanguageModel, ReferenceScores, RenderedReference, Sample, UnusableRow
from simulsa_plugin.storage import (
    SHAREGPT_ENTRY,
    Journal,
    locked,
    make_folder,
    merge_dataset_info,
    read_jsonl,
    remove_leftovers,
    replacing,
    write_json,
    write_jsonl,
)

SUFFIX = "_simulsa"


class SourceDataset(Protocol):
    """What the pipeline asks of an offline dataset (`toolkit.dataset.OfflineDataset`)."""

    @property
    def name(self) -> str:
        """Its name in dataset_info.json."""
        ...

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry there, with an absolute file name."""
        ...

    def __len__(self) -> int: ...

    def sample(self, row: int) -> Sample | UnusableRow:
        """One row as a sample, or the reason why it is none."""
        ...

    def has_relative_audio(self) -> bool:
        """Whether its audio paths only make sense beside its own file."""
        ...

    def sharegpt_rows(self) -> list[dict[str, Any]]:
        """All rows with absolute audio paths."""
        ...


@dataclass(frozen=True)
class Cut:
    """A chosen sample with its clip, before scoring; the clip (num_samples,) is what its file holds."""

    id: str
    sample: Sample
    clip: Path
    duration_seconds: float
    num_samples: int
    rendered: RenderedReference


@dataclass(frozen=True)
class Outcome:
    """What one dataset became."""

    name: str
    rows: int
    counts: dict[str, int]
    skipped: dict[str, int]
    folder: Path


class Layout:
    """Where the files of one offline dataset lie in the output folder."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name = out, name
        self.folder = out / f"{name}{SUFFIX}"
        self.rows = out / f"{name}{SUFFIX}.jsonl"
        self.clips = self.folder / "clips"
        self.scores = self.folder / "scores.jsonl"
        self.journal = self.folder / "scores.partial.jsonl"
        self.skipped = self.folder / "skipped.jsonl"
        self.manifest = self.folder / "manifest.json"
        self.started = self.folder / "started.json"
        self.rewritten = out / f"{name}.jsonl"

    def remove_leftovers(self) -> None:
        """Remove what a killed run was writing; the folder is locked."""
        for folder in (self.folder, self.clips):
            remove_leftovers(folder)
        for path in (self.rows, self.rewritten):
            remove_leftovers(self.out, path.name)


def augment(dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings, out: Path) -> Outcome:
    """Make the partial samples of one offline dataset and register both in `out/dataset_info.json`.

    Started again after a stop it goes on, and ends with the same bytes.

    Raises:
        StorageError: the folder is in use, or holds the work of other settings or other data.
        DatasetError: not one row could be cut.
    """
    layout = Layout(make_folder(out).absolute(), dataset.name)
    make_folder(layout.clips)
    with locked(layout.folder):
        layout.remove_leftovers()
        offline_entry = _offline_entry(dataset, settings, layout)
        _check_same_work(layout, dataset, model, settings)
        cuts, skipped = choose_cuts(dataset, model, settings, layout)
        scores = score_cuts(cuts, model, settings, layout)
        rows = [decide_row(row, settings, model.output_width) for row in scores]
        return _write_all(dataset, model, settings, layout, rows, skipped, offline_entry)


def choose_cuts(
    dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings, layout: Layout
) -> tuple[list[Cut], list[dict[str, Any]]]:
    """Walk the rows until enough could be cut; what fails is listed with its reason, and the next row is tried."""
    wanted, cuts, skipped = wanted_samples(len(dataset), settings), [], []
    with tqdm(total=wanted, desc=f"cut {dataset.name}", unit="clip", disable=None) as progress:
        for row in walk(dataset.name, len(dataset), settings.seed):
            try:
                cuts.append(_cut(dataset, row, model, settings, layout))
                progress.update()
            except _Skip as skip:
                skipped.append({"id": sample_id(dataset.name, row), "reason": skip.reason})
            if len(cuts) == wanted:
                break
    if not cuts:
        write_jsonl(layout.skipped, skipped)
        reasons = dict(Counter(row["reason"] for row in skipped))
        raise DatasetError(
            f"No row of {dataset.name} can be cut; reasons: {reasons}. They are listed in {layout.skipped}."
        )
    if len(cuts) < wanted:
        tqdm.write(
            f"warning: {dataset.name} gives {len(cuts)} of the {wanted} samples asked for; "
            f"the other rows are listed in {layout.skipped}."
        )
    return cuts, skipped


class _Skip(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _cut(dataset: SourceDataset, row: int, model: AudioLanguageModel, settings: AugmentSettings, layout: Layout) -> Cut:
    """Cut one row and write its clip. Raises _Skip with the reason."""
    sample = dataset.sample(row)
    if isinstance(sample, UnusableRow):
        raise _Skip(sample.reason)
    try:
        waveform = read_mono(sample.audio)
    except AudioError as error:
        raise _Skip(f"audio_{error.reason}") from error
    duration = samples_to_seconds(len(waveform))
    if duration <= settings.min_seconds:
        raise _Skip("too_short")
    num_samples = cut_samples(duration, settings, generator(settings.seed, dataset.name, row, 0))
    window_seconds = model.window_seconds or math.inf
    if samples_to_seconds(num_samples) > window_seconds:
        raise _Skip("cut_exceeds_window")
    if settings.acceptance == "ratio" and duration > window_seconds:
        raise _Skip("audio_exceeds_window")  # p(full) would be about a part of it
    pcm = to_pcm16(waveform[:num_samples])
    try:
        rendered = model.render(sample.prompt, from_pcm16(pcm), sample.reference)
    except ModelError as error:
        raise _Skip("not_renderable") from error
    identifier = sample_id(dataset.name, row)
    clip = layout.clips / f"{identifier}.wav"
    _write_clip(clip, pcm)
    return Cut(identifier, sample, clip, duration, num_samples, rendered)


def _write_clip(clip: Path, pcm: npt.NDArray[np.int16]) -> None:
    """Write a clip once; one that is there already holds the same samples."""
    buffer = io.BytesIO()
    write_wav(buffer, pcm)
    if not clip.exists():
        with replacing(clip) as handle:
            handle.write(buffer.getvalue())
    elif clip.read_bytes() != buffer.getvalue():
        raise _other_data(clip.parent.parent, clip.stem)


def _check_scored(row: Mapping[str, Any], cut: Cut, layout: Layout) -> dict[str, Any]:
    """A row scored before, if it is about this cut: the dataset may have changed under the same name."""
    same = {
        "id": cut.id,
        "cut_seconds": samples_to_seconds(cut.num_samples),
        "reference": cut.sample.reference,
        "token_ids": list(cut.rendered.content_ids),
        "messages": _prompt_messages(cut.sample),
    }
    if any(row.get(key) != value for key, value in same.items()):
        raise _other_data(layout.folder, cut.id)
    return dict(row)


def _other_data(folder: Path, identifier: str) -> StorageError:
    return StorageError(
        f"{folder} holds a run on other data under the same name ({identifier} differs). "
        "Choose another --out, or remove that folder."
    )


def score_cuts(
    cuts: Sequence[Cut], model: AudioLanguageModel, settings: AugmentSettings, layout: Layout
) -> list[dict[str, Any]]:
    """Score every cut, in batches that depend on the chosen list alone; finished batches are journalled."""
    if layout.scores.exists():
        layout.journal.unlink(missing_ok=True)
        rows = {row["id"]: row for row in read_jsonl(layout.scores)}
        return [_check_scored(rows.get(cut.id, {}), cut, layout) for cut in cuts]
    with Journal(layout.journal) as journal:
        by_id = {cut.id: cut for cut in cuts}
        done = {row["id"]: _check_scored(row, by_id[row["id"]], layout) for row in journal.rows if row["id"] in by_id}
        with tqdm(total=len(cuts), initial=len(done), desc="score", unit="clip", disable=None) as progress:
            for batch in _batches(cuts, settings.batch_size):
                fresh = [cut for cut in batch if cut.id not in done]
                if not fresh:
                    continue
                rows = _score_batch(batch, model, settings, layout)  # whole, so that padding is what it was
                for cut in fresh:
                    journal.append(rows[cut.id])
                    done[cut.id] = rows[cut.id]
                progress.update(len(fresh))
    write_jsonl(layout.scores, (done[cut.id] for cut in cuts))
    layout.journal.unlink()
    return [done[cut.id] for cut in cuts]


def _batches(cuts: Sequence[Cut], size: int) -> Iterator[list[Cut]]:
    """Neighbours in length share a batch: less padding."""
    order = sorted(cuts, key=lambda cut: (len(cut.rendered.prompt_ids) + len(cut.rendered.content_ids), cut.id))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _score_batch(
    batch: list[Cut], model: AudioLanguageModel, settings: AugmentSettings, layout: Layout
) -> dict[str, dict[str, Any]]:
    clips = [read_mono(cut.clip) for cut in batch]
    scores = model.score([cut.rendered for cut in batch], clips)
    extra: dict[str, list[ReferenceScores]] = {}
    if settings.acceptance == "ratio":
        extra["logprobs_full"] = _rescore(batch, [read_mono(cut.sample.audio) for cut in batch], model)
    if settings.acceptance == "lookback":
        back = round(settings.lookback_ms * SAMPLE_RATE / 1000)
        earlier = [clip[: max(len(clip) - back, SAMPLE_RATE // 5)] for clip in clips]
        extra["logprobs_lookback"] = _rescore(batch, earlier, model)
    rows = {}
    for index, (cut, score) in enumerate(zip(batch, scores, strict=True)):
        row = _score_row(cut, score, settings, layout)
        rows[cut.id] = row | {field: list(values[index].logprobs) for field, values in extra.items()}
    return rows


def _rescore(batch: list[Cut], waveforms: list[Waveform], model: AudioLanguageModel) -> list[ReferenceScores]:
    """The same references about other audio."""
    rendered = [
        model.render(cut.sample.prompt, waveform, cut.sample.reference)
        for cut, waveform in zip(batch, waveforms, strict=True)
    ]
    return model.score(rendered, waveforms)


def _score_row(cut: Cut, score: ReferenceScores, settings: AugmentSettings, layout: Layout) -> dict[str, Any]:
    return {
        "id": cut.id,
        "audio": cut.sample.audio,
        "clip": _audio_path(cut.clip, settings, layout),
        "duration_seconds": cut.duration_seconds,
        "cut_seconds": samples_to_seconds(cut.num_samples),
        "messages": _prompt_messages(cut.sample),
        "reference": cut.sample.reference,
        "token_ids": list(cut.rendered.content_ids),
        "char_ends": list(cut.rendered.char_ends),
        "logprobs": list(score.logprobs),
        "greedy": list(score.greedy),
        "eos_logprob": score.eos_logprob,
    }


def _prompt_messages(sample: Sample) -> list[dict[str, str]]:
    system = [{"role": "system", "content": sample.prompt.system}] if sample.prompt.system else []
    return [*system, *sample.prompt.messages]


def _audio_path(path: Path, settings: AugmentSettings, layout: Layout) -> str:
    return str(path.relative_to(layout.out)) if settings.portable else str(path)


def decide_row(scores: Mapping[str, Any], settings: AugmentSettings, output_width: int) -> dict[str, Any]:
    """A row of scores.jsonl with the decision of the chosen rule."""
    decision = decide(scores, settings, output_width)
    return {**scores, "accepted_tokens": decision.accepted_tokens, "partial": decision.partial}


def training_row(scores: Mapping[str, Any]) -> dict[str, Any]:
    """A decided row as LLaMA-Factory trains on it; the template adds the end of turn that teaches the model to stop."""
    return {
        "messages": [*scores["messages"], {"role": "assistant", "content": scores["partial"]}],
        "audios": [scores["clip"]],
    }


def _write_all(
    dataset: SourceDataset,
    model: AudioLanguageModel,
    settings: AugmentSettings,
    layout: Layout,
    rows: list[dict[str, Any]],
    skipped: list[dict[str, Any]],
    offline_entry: dict[str, Any],
) -> Outcome:
    kept = [row for row in rows if settings.keep_empty or row["partial"]]
    skipped = skipped + [
        {"id": row["id"], "reason": "empty_partial"} for row in rows if not (settings.keep_empty or row["partial"])
    ]
    write_jsonl(layout.scores, rows)
    write_jsonl(layout.skipped, skipped)
    write_jsonl(layout.rows, map(training_row, kept))
    counts = _counts(kept, wanted_samples(len(dataset), settings))
    reasons = dict(sorted(Counter(row["reason"] for row in skipped).items()))
    _register(dataset, offline_entry, layout)
    manifest = {
        **_work(dataset, model, settings),
        "versions": _versions(),
        "counts": counts,
        "skipped": reasons,
        "threshold": settings.threshold or default_threshold(model.output_width),
    }
    write_json(layout.manifest, manifest | {"signature": signature(manifest)})
    layout.started.unlink(missing_ok=True)
    return Outcome(dataset.name, len(dataset), counts, reasons, layout.folder)


def _counts(rows: Sequence[Mapping[str, Any]], wanted: int) -> dict[str, int]:
    return {
        "wanted": wanted,
        "samples": len(rows),
        "empty": sum(not row["partial"] for row in rows),
        "whole_reference": sum(row["partial"] == row["reference"] for row in rows),
        "tokens": sum(len(row["token_ids"]) for row in rows),
        "accepted_tokens": sum(row["accepted_tokens"] for row in rows),
    }


def _register(dataset: SourceDataset, offline_entry: dict[str, Any], layout: Layout) -> None:
    """Name both datasets in the output folder's dataset_info.json."""
    if dataset.has_relative_audio():
        write_jsonl(layout.rewritten, dataset.sharegpt_rows())
    augmented_entry = {"file_name": layout.rows.name, **SHAREGPT_ENTRY}
    merge_dataset_info(layout.out, {dataset.name: offline_entry, layout.rows.stem: augmented_entry})


def _offline_entry(dataset: SourceDataset, settings: AugmentSettings, layout: Layout) -> dict[str, Any]:
    """The offline set's entry in the output folder; relative audio paths get a rewritten file."""
    entry = dict(dataset.entry)
    if dataset.has_relative_audio():
        if Path(entry.get("file_name", "")).resolve() == layout.rewritten.resolve():
            raise StorageError(
                f"{layout.rewritten} is the offline dataset itself and has relative audio paths. Choose another --out."
            )
        share = {key: entry[key] for key in ("num_samples",) if key in entry}
        entry = {"file_name": str(layout.rewritten), **SHAREGPT_ENTRY, **share}
    if settings.portable and "file_name" in entry and Path(entry["file_name"]).is_relative_to(layout.out):
        entry["file_name"] = str(Path(entry["file_name"]).relative_to(layout.out))
    return entry


def _work(dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings) -> dict[str, Any]:
    """What decides the result; two runs with the same work make the same files."""
    return {
        "dataset": dataset.name,
        "rows": len(dataset),
        "source": dataset.entry.get("file_name"),
        "model": model.describe(),
        "output_width": model.output_width,
        "settings": settings.as_keys(),
    }


def _check_same_work(
    layout: Layout, dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings
) -> None:
    """Refuse a folder that other settings began; otherwise note what is being done."""
    work = _work(dataset, model, settings)
    for path in (layout.manifest, layout.started):
        if path.exists():
            before = _read_work(path)
            changed = [key for key in work if before.get(key) != work[key]]
            if changed:
                raise StorageError(
                    f"{layout.folder} holds a run with another {_difference(before, work, changed[0])}. "
                    "Choose another --out, or remove that folder."
                )
            return
    write_json(layout.started, work)


def _read_work(path: Path) -> dict[str, Any]:
    try:
        work = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({error}). Remove its folder, or choose another --out.") from error
    return work if isinstance(work, dict) else {}


def _difference(before: Mapping[str, Any], work: Mapping[str, Any], key: str) -> str:
    old, new = before.get(key), work[key]
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in new if old.get(name) != new[name])
        return f"{inner} ({old.get(inner)}, now {new[inner]})"
    return f"{key} ({old}, now {new})"


def signature(manifest: Mapping[str, Any]) -> str:
    """One line to quote: the settings that differ most often, the version, and a hash of all of them."""
    settings = manifest["settings"]
    digest = hashlib.sha256(
        json.dumps({key: manifest[key] for key in ("model", "settings", "dataset", "rows")}, sort_keys=True).encode()
    )
    fields = {
        "n": manifest["counts"]["samples"],
        "cut": f"{settings['simulsa_truncation']}({settings['simulsa_alpha']:g},{settings['simulsa_beta']:g})"
        f"[{settings['simulsa_min_seconds']:g},{settings['simulsa_max_seconds']:g}]s",
        "rule": settings["simulsa_acceptance"],
        "tau": f"{manifest['threshold']:.4g}",
        "boundary": settings["simulsa_boundary"],
        "seed": settings["simulsa_seed"],
        "hash": digest.hexdigest()[:8],
        "version": manifest["versions"]["simulsa-plugin"],
    }
    return "simulsa|" + "|".join(f"{key}:{value}" for key, value in fields.items())


def _versions() -> dict[str, str]:
    names = ("simulsa-plugin", "llamafactory", "transformers", "torch", "peft", "datasets")
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
