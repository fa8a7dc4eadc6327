"""Self-speculation: teacher-forced scores of the whole reference about every clip, journalled row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import SAMPLE_RATE, Waveform, samples_to_seconds, seconds_to_samples
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import Cut
from simulsa_plugin.augmentation.manifest import note_scorer
from simulsa_plugin.augmentation.output_layout import LOGPROB_FIELDS, Layout, audio_name, other_data
from simulsa_plugin.augmentation.shards import holding_whole
from simulsa_plugin.errors import ModelError
from simulsa_plugin.files.atomic import remove_durably, replacing
from simulsa_plugin.files.journal import Journal
from simulsa_plugin.files.json_files import dump_sealed, read_jsonl, read_whole_rows
from simulsa_plugin.model.protocol import PreparingModel, ScoringModel
from simulsa_plugin.model.replicas import ReplicatedModel, map_unordered
from simulsa_plugin.model.values import Message, ReferenceScores, RenderedReference, Sample
from simulsa_plugin.read_ahead import map_ahead
from simulsa_plugin.sharding import Shard
from simulsa_plugin.terminal import progress

LEAST_HEARD = SAMPLE_RATE // 5  # looking back never leaves less than 200 ms of the source
AUDIO_TOKENS_PER_SECOND = 25  # of Qwen's encoders; others have fewer


@dataclass(frozen=True)
class BatchAudio:
    """A batch with its audio, all that a model needs to score it, on whichever machine.

    Attributes:
        cuts: of the batch.
        clips: waveform of each clip, (num_samples,) at 16 kHz.
        sources: waveform of each whole source; empty unless it is scored.
    """

    cuts: Sequence[Cut]
    clips: Sequence[Waveform]
    sources: Sequence[Waveform]


@dataclass(frozen=True)
class PreparedBatch:
    """A batch that waits for nothing but the model.

    Attributes:
        rendered: prompt and reference of each clip.
        unstable_prefixes: of each clip; see `Renderer.unstable_prefixes`.
        passes: field of the log-probabilities → inputs of a forward pass.
    """

    rendered: Sequence[RenderedReference]
    unstable_prefixes: Sequence[tuple[int, ...]]
    passes: Mapping[str, Any]


@dataclass(frozen=True)
class ClipScores:
    """What a model says about one clip.

    Attributes:
        rendered: prompt and reference.
        scores: of the reference.
        unstable_prefixes: see `Renderer.unstable_prefixes`.
        extra: more fields of the row, by their names.
    """

    rendered: RenderedReference
    scores: ReferenceScores
    unstable_prefixes: tuple[int, ...]
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class BatchScores:
    """What a model says about the clips of a batch, and the device on which it computed."""

    clips: Sequence[ClipScores]
    device: str


def score_cuts(
    cuts: Sequence[Cut],
    model: ScoringModel,
    settings: AugmentSettings,
    layout: Layout,
    shard: Shard | None = None,
) -> None:
    """Score every cut that no journal holds yet, or a shard's part of them.

    Batches depend on the chosen list alone, never on what remains or on shards, so that padding is always the same.

    Raises:
        StorageError: a journal is about other data, or was scored with other weights or in another dtype.
        ModelError: a batch does not fit into memory, or the model gives no numbers.
    """
    if layout.scores.exists():
        return
    own = layout.shard_folder(shard) / layout.journal.name if shard else layout.journal
    batches = make_batches(cuts, settings)
    if shard:
        batches = batches[shard.number - 1 :: shard.count]
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(own))
        others = [] if shard else [stack.enter_context(Journal(path)) for path in layout.journals() if path != own]
        done = _scored(batches, [journal, *others], layout)
        fresh = [number for number, batch in enumerate(batches) if any(cut.id not in done for cut in batch)]
        devices = set[str]()
        if fresh:
            with holding_whole(layout, shard):
                devices |= note_scorer(layout, model.describe(), model.hardware()["device"], alone=shard is None)
        with progress(sum(map(len, batches)), "score", "clip", len(done)) as counting:
            for number, scored in _score_batches(model, batches, fresh, settings):
                if scored.device not in devices:
                    with holding_whole(layout, shard):
                        devices |= note_scorer(layout, model.describe(), scored.device, alone=False)
                batch = batches[number]  # scored as a whole, so that padding is what it was
                for cut, row in zip(batch, batch_rows(batch, scored, settings, layout), strict=True):
                    if cut.id not in done:
                        journal.append(row)
                        counting.update()


def reopen_damaged_scores(cuts: Sequence[Cut], layout: Layout) -> list[str]:
    """Reopen a finished scores.jsonl with missing or damaged rows, as a journal that lacks them; return warnings.

    Raises:
        StorageError: a row is about other data; nothing is changed then.
    """
    if not layout.scores.exists():
        return []
    by_id, found = {cut.id: cut for cut in cuts}, list[str]()
    for row in read_whole_rows(layout.scores):
        cut = by_id.get(str(row.get("id")))
        if cut is None:
            raise other_data(layout.folder, str(row.get("id")))
        found.append(check_scored(row, cut, layout)["id"])
    if found == [cut.id for cut in cuts]:
        return []
    seen: set[str] = set()
    with replacing(layout.journal, "w") as handle:
        for row in read_whole_rows(layout.scores):
            if row["id"] not in seen:
                handle.write(f"{dump_sealed(row)}\n")
            seen.add(row["id"])
    remove_durably(layout.scores)
    missing = len(by_id) - len(set(found))
    return [f"{missing} of {len(by_id)} rows of {layout.scores} were missing or damaged, and were scored again."]


def scored_rows(cuts: Sequence[Cut], settings: AugmentSettings, layout: Layout) -> Iterator[dict[str, Any]]:
    """Yield rows of scores.jsonl in the order of the chosen list, from a finished file or from the journals.

    Audio is named where it lies now: the output folder may have been moved between a stop and this run.

    Raises:
        StorageError: a row is about other data.
    """
    if layout.scores.exists():
        rows = read_jsonl(layout.scores, sealed=True)
        for cut in cuts:
            yield check_scored(next(rows, {}), cut, layout) | _audio_paths(cut, settings, layout)
        return
    with ExitStack() as stack:
        journals = [stack.enter_context(Journal(path)) for path in layout.journals()]
        for cut in cuts:
            row = next(journal for journal in journals if cut.id in journal).read(cut.id)
            yield row | _audio_paths(cut, settings, layout)


def score_batch(
    batch: Sequence[Cut], model: ScoringModel, settings: AugmentSettings, layout: Layout
) -> dict[str, dict[str, Any]]:
    """Score clips together.

    Returns:
        id → row of scores.jsonl, undecided.
    """
    scored = score_audio(model, read_audio(batch, settings), settings)
    return {row["id"]: row for row in batch_rows(batch, scored, settings, layout)}


def read_audio(batch: Sequence[Cut], settings: AugmentSettings) -> BatchAudio:
    """Read what is scored together; no model is needed."""
    clips = [read_mono(cut.clip) for cut in batch]
    whole = [read_mono(cut.sample.audio) for cut in batch] if "full" in settings.scored_extras else []
    return BatchAudio(batch, clips, whole)


def score_audio(model: ScoringModel, audio: BatchAudio, settings: AugmentSettings) -> BatchScores:
    """Score clips together; no files are needed."""
    return score_prepared(model, prepare_batch(model, audio, settings), settings)


def prepare_batch(model: ScoringModel, audio: BatchAudio, settings: AugmentSettings) -> PreparedBatch:
    """Do all that precedes the forward passes; the model is asked for its prompts and features alone."""
    batch, clips = audio.cuts, audio.clips
    rendered = [
        model.render(cut.sample.prompt, clip, cut.sample.reference) for cut, clip in zip(batch, clips, strict=True)
    ]
    unstable = [model.unstable_prefixes(one, cut.sample.reference) for one, cut in zip(rendered, batch, strict=True)]
    passes = {"logprobs": _prepare_pass(model, rendered, clips)}
    for field, waveforms in _other_waveforms(model, audio, settings).items():
        prompts = [model.render_prompt(cut.sample.prompt, one) for cut, one in zip(batch, waveforms, strict=True)]
        others = [replace(one, prompt_ids=prompt_ids) for one, prompt_ids in zip(rendered, prompts, strict=True)]
        passes[field] = _prepare_pass(model, others, waveforms)
    return PreparedBatch(rendered, unstable, passes)


def score_prepared(model: ScoringModel, prepared: PreparedBatch, settings: AugmentSettings) -> BatchScores:
    """Run the forward passes of a batch."""
    scores = {field: _score_pass(model, inputs) for field, inputs in prepared.passes.items()}
    found = []
    for index, (rendered, unstable) in enumerate(zip(prepared.rendered, prepared.unstable_prefixes, strict=True)):
        extra: dict[str, Any] = {
            field: list(scores[field][index].logprobs) for field in prepared.passes if field != "logprobs"
        }
        if "lookback" in settings.scored_extras:
            extra["lookback_ms"] = settings.lookback_ms
        found.append(ClipScores(rendered, scores["logprobs"][index], unstable, extra))
    return BatchScores(found, model.hardware()["device"])


def _other_waveforms(
    model: ScoringModel, audio: BatchAudio, settings: AugmentSettings
) -> dict[str, Sequence[Waveform]]:
    """Return what is scored besides the clips, by the field of its log-probabilities."""
    batch, clips, found = audio.cuts, audio.clips, dict[str, Sequence[Waveform]]()
    if "full" in settings.scored_extras:
        window = seconds_to_samples(model.window_seconds) if model.window_seconds else None
        whole = zip(batch, clips, audio.sources, strict=True)
        found["logprobs_full"] = [_whole_source(*three, window) for three in whole]
    if "lookback" in settings.scored_extras:
        back = settings.lookback_ms
        found["logprobs_lookback"] = [_without_end(cut, clip, back) for cut, clip in zip(batch, clips, strict=True)]
    return found


def _prepare_pass(model: ScoringModel, rendered: Sequence[RenderedReference], waveforms: Sequence[Waveform]) -> Any:
    return model.prepare(rendered, waveforms) if isinstance(model, PreparingModel) else (rendered, waveforms)


def _score_pass(model: ScoringModel, inputs: Any) -> list[ReferenceScores]:
    return model.score_prepared(inputs) if isinstance(model, PreparingModel) else model.score(*inputs)


def _score_batches(
    model: ScoringModel, batches: Sequence[Sequence[Cut]], wanted: Sequence[int], settings: AugmentSettings
) -> Iterator[tuple[int, BatchScores]]:
    """Yield number and scores of the wanted batches; here, the next one is read and prepared while the model works."""
    if isinstance(model, ReplicatedModel):
        yield from map_unordered(
            model,
            partial(score_audio, settings=settings),
            wanted,
            lambda number: read_audio(batches[number], settings),
            lambda number: f"The batch of {len(batches[number])} clips with {batches[number][0].id}",
        )
        return

    def prepare(number: int) -> PreparedBatch:
        return prepare_batch(model, read_audio(batches[number], settings), settings)

    with closing(map_ahead(prepare, wanted)) as ready:
        for number, prepared in zip(wanted, ready, strict=True):
            yield number, score_prepared(model, prepared, settings)


def batch_rows(
    batch: Sequence[Cut], scored: BatchScores, settings: AugmentSettings, layout: Layout
) -> list[dict[str, Any]]:
    """Return the rows of scores.jsonl of a batch, undecided.

    Raises:
        ModelError: the model gives no numbers.
    """
    rows = [_score_row(cut, one, settings, layout) for cut, one in zip(batch, scored.clips, strict=True)]
    for row in rows:
        _check_numbers(row)
    return rows


def _check_numbers(row: dict[str, Any]) -> None:
    """Refuse NaN and infinity, before they decide anything."""
    values = [*(value for field in LOGPROB_FIELDS for value in row.get(field, ())), row["eos_logprob"], *row["margins"]]
    if not all(map(math.isfinite, values)):
        raise ModelError(
            f"The model gives NaN or infinity for {row['id']}. Its weights are broken, or overflow in half precision: "
            "use a checkpoint in bfloat16 or float32."
        )


def _scored(batches: Sequence[Sequence[Cut]], journals: Sequence[Journal], layout: Layout) -> set[str]:
    """Return the ids that the journals hold, each checked to be about its cut."""
    done = set()
    for cut in (cut for batch in batches for cut in batch):
        journal = next((journal for journal in journals if cut.id in journal), None)
        if journal is not None:
            check_scored(journal.read(cut.id), cut, layout)
            done.add(cut.id)
    return done


def check_scored(row: dict[str, Any], cut: Cut, layout: Layout) -> dict[str, Any]:
    """Check that a row scored before is about this cut, and return it: the dataset may have changed.

    Raises:
        StorageError: it is about other data.
    """
    same = {
        "id": cut.id,
        "cut_seconds": samples_to_seconds(cut.num_samples),
        "reference": cut.sample.reference,
        "messages": _prompt_messages(cut.sample),
        **({"clip_checksum": cut.clip_checksum} if "clip_checksum" in row else {}),  # older versions did not note it
    }
    num_tokens = len(row.get("token_ids") or ())
    if any(row.get(key) != value for key, value in same.items()) or num_tokens != cut.reference_tokens:
        raise other_data(layout.folder, cut.id)
    return row


def make_batches(cuts: Sequence[Cut], settings: AugmentSettings) -> list[list[Cut]]:
    """Batch cuts of similar length, which need less padding; the longest come first: what does not fit shows at once.

    All rows of a batch are padded to its first; so many fit into `batch_tokens`, and no more than `batch_size`.
    """
    lengths = {cut.id: _longest_pass(cut, settings) for cut in cuts}
    batches: list[list[Cut]] = []
    room = 0
    for cut in sorted(cuts, key=lambda cut: (-lengths[cut.id], cut.id)):
        if not batches or len(batches[-1]) == room:
            batches.append([])
            fitting = settings.batch_size if settings.batch_tokens is None else settings.batch_tokens // lengths[cut.id]
            room = max(1, min(settings.batch_size, fitting))
        batches[-1].append(cut)
    return batches


def _longest_pass(cut: Cut, settings: AugmentSettings) -> int:
    """Return the tokens of a clip, or of its whole source where that is scored too and lengths are limited."""
    tokens = cut.prompt_tokens + cut.reference_tokens
    if settings.batch_tokens is None or "full" not in settings.scored_extras:
        return tokens
    return tokens + math.ceil((cut.duration_seconds - samples_to_seconds(cut.num_samples)) * AUDIO_TOKENS_PER_SECOND)


def _whole_source(cut: Cut, clip: Waveform, source: Waveform, window: int | None) -> Waveform:
    """Put the whole source between the silences of a clip, as far as the model's window reaches."""
    lead, trail = clip[: cut.lead], clip[len(clip) - cut.trail :]
    room = len(clip) if window is None else max(window - len(source), 0)
    lead = lead[: min(len(lead), room)]
    return np.concatenate([lead, source, trail[: room - len(lead)]])


def _without_end(cut: Cut, clip: Waveform, lookback_ms: float) -> Waveform:
    """Take the last milliseconds of the source out of a clip; its silences stay."""
    back = seconds_to_samples(lookback_ms / 1000)
    heard = max(cut.num_samples - back, min(cut.num_samples, LEAST_HEARD))
    return np.concatenate([clip[: cut.lead + heard], clip[cut.lead + cut.num_samples :]])


def _score_row(cut: Cut, scored: ClipScores, settings: AugmentSettings, layout: Layout) -> dict[str, Any]:
    rendered, score = scored.rendered, scored.scores
    return {
        "id": cut.id,
        **({"source_id": cut.sample.source_id} if cut.sample.source_id else {}),
        **_audio_paths(cut, settings, layout),
        "duration_seconds": cut.duration_seconds,
        "cut_seconds": samples_to_seconds(cut.num_samples),
        "silence_seconds": [samples_to_seconds(cut.lead), samples_to_seconds(cut.trail)],
        "clip_checksum": cut.clip_checksum,
        "messages": _prompt_messages(cut.sample),
        "reference": cut.sample.reference,
        "token_ids": list(rendered.content_ids),
        "char_ends": list(rendered.char_ends),
        "logprobs": list(score.logprobs),
        "greedy": list(score.greedy),
        "margins": list(score.margins),
        "eos_logprob": score.eos_logprob,
        "unstable_prefixes": list(scored.unstable_prefixes),
        **scored.extra,
    }


def _prompt_messages(sample: Sample) -> list[Message]:
    system = [{"role": "system", "content": sample.prompt.system}] if sample.prompt.system else []
    return [*system, *sample.prompt.messages]


def _audio_paths(cut: Cut, settings: AugmentSettings, layout: Layout) -> dict[str, Any]:
    clip = cut.clip.relative_to(layout.out) if settings.portable else cut.clip
    audio = audio_name(cut.sample.audio, layout.out, portable=settings.portable)
    return {"audio": audio, "clip": str(clip)}
