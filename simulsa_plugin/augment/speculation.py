"""Self-speculation: teacher-forced scores of the whole reference about every clip, as rows of scores.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simulsa_plugin.audio import SAMPLE_RATE, Waveform, read_mono, samples_to_seconds
from simulsa_plugin.augment.clips import Cut
from simulsa_plugin.augment.layout import Layout, other_data
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.model import AudioLanguageModel, Message, ReferenceScores, Sample
from simulsa_plugin.storage import Journal, read_jsonl, write_jsonl


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
        raise other_data(layout.folder, cut.id)
    return dict(row)


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


def _prompt_messages(sample: Sample) -> list[Message]:
    system = [{"role": "system", "content": sample.prompt.system}] if sample.prompt.system else []
    return [*system, *sample.prompt.messages]


def _audio_path(path: Path, settings: AugmentSettings, layout: Layout) -> str:
    return str(path.relative_to(layout.out)) if settings.portable else str(path)
