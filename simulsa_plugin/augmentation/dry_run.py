"""Dry run: what a run would do, and its cost; nothing is scored, nothing is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import Cut, CutSampler, scored_clips
from simulsa_plugin.augmentation.manifest import refuse_other_configuration
from simulsa_plugin.augmentation.method.selection import wanted_samples
from simulsa_plugin.augmentation.method.speculation import check_scored, make_batches
from simulsa_plugin.augmentation.output_layout import WAV_HEADER_BYTES, Layout
from simulsa_plugin.augmentation.registration import SourceDataset, offline_entry, refuse_foreign_output
from simulsa_plugin.model.cost import Machine, ModelSize, Utterance, cost_lines, scoring_work
from simulsa_plugin.model.protocol import Renderer
from simulsa_plugin.tables import list_counts


def dry_run(
    dataset: SourceDataset,
    renderer: Renderer,
    size: ModelSize | None,
    settings: AugmentSettings,
    out: Path,
    described: Mapping[str, Any],
    machine: Machine | None = None,
) -> list[str]:
    """Choose rows and cuts as a run would, and count.

    Args:
        dataset: what would be cut.
        renderer: of the model that would score.
        size: of that model; None where its configuration does not tell.
        settings: the `simulsa_*` keys.
        out: output folder; it need not exist.
        described: of `describe_augmentation`, without what only the weights tell.
        machine: where it would run; None estimates no time.

    Raises:
        StorageError: the run would refuse the folder.
        DatasetError: not one row could be cut.
    """
    layout = Layout(out.absolute(), dataset.name)
    refuse_foreign_output(layout)
    refuse_other_configuration(layout, described)
    offline_entry(dataset, settings, layout)  # refuses what it cannot register
    known = scored_clips(layout)
    sampler = CutSampler(dataset, renderer, settings, layout, write_clips=False, scored_clips=known)
    cuts, skipped, warnings = sampler.sample()
    reasons = list_counts(Counter(one.reason for one in skipped))
    wanted = wanted_samples(len(dataset), settings)
    batches = make_batches(cuts, settings)
    passes = 1 + len(settings.scored_extras)
    return [
        f"{dataset.name}: would cut {len(cuts)} of {wanted} samples asked for, from {len(dataset)} rows; "
        f"skipped on the way: {reasons}",
        f"  {_clips_line(cuts)}",
        f"  scoring: {len(batches)} batch{'es' * (len(batches) != 1)} of up to {settings.batch_size} clips"
        f"{f', each scored {passes} times' if passes > 1 else ''}; {_tokens_line(batches)}",
        *(f"  {line}" for line in _cost_lines(batches, passes, size, machine)),
        f"  {_state_line(layout, cuts)}",
        *(f"  warning: {warning}" for warning in warnings),
    ]


def _clips_line(cuts: Sequence[Cut]) -> str:
    samples = sum(cut.clip_samples for cut in cuts)
    num_bytes = 2 * samples + len(cuts) * WAV_HEADER_BYTES
    return f"clips: {samples_to_seconds(samples):.1f} s of audio, {num_bytes / 1e6:.1f} MB in the output folder"


def _tokens_line(batches: Sequence[Sequence[Cut]]) -> str:
    real = sum(cut.prompt_tokens + cut.reference_tokens for batch in batches for cut in batch)
    return f"{real} tokens, {_padded_tokens(batches)} with padding"


def _padded_tokens(batches: Sequence[Sequence[Cut]]) -> int:
    return sum(len(batch) * max(cut.prompt_tokens + cut.reference_tokens for cut in batch) for batch in batches)


def _cost_lines(
    batches: Sequence[Sequence[Cut]], passes: int, size: ModelSize | None, machine: Machine | None
) -> list[str]:
    if size is None:
        return ["model: size not known from its configuration"]
    return cost_lines(size, scoring_work(size, _padded(batches)).times(passes), machine)


def _padded(batches: Sequence[Sequence[Cut]]) -> Iterator[Utterance]:
    """Yield what each clip costs in its batch, where all are as long as the longest."""
    for batch in batches:
        longest = max(batch, key=lambda cut: cut.prompt_tokens + cut.reference_tokens)
        answer = max(cut.reference_tokens for cut in batch)
        seconds = samples_to_seconds(max(cut.clip_samples for cut in batch))
        tokens = longest.prompt_tokens + longest.reference_tokens - answer
        yield from [Utterance(seconds, tokens, 0, answer)] * len(batch)


def _state_line(layout: Layout, cuts: Sequence[Cut]) -> str:
    if layout.manifest.exists():
        return f"{layout.folder} is finished: a run would change nothing"
    if layout.scores.exists():
        return f"{layout.folder}: all scored; a run would decide and finish"
    by_id = {cut.id: cut for cut in cuts}
    done = set()
    for row in (row for journal in layout.journals() for row in _whole_rows(journal)):
        if row["id"] in by_id:
            check_scored(row, by_id[row["id"]], layout)
            done.add(row["id"])
    return f"{layout.folder}: {len(done)} of {len(cuts)} scored so far"


def _whole_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield rows of a journal that another process may be writing; it is only read."""
    with journal.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                row["id"]
            except (ValueError, TypeError, KeyError):
                return  # torn: a run would score from here on
            yield row
