"""Decodes the rows of a block whose audio is loaded; needs no files, so that any machine can do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.evaluation.loading import check_prompt
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.files.json_files import dump_line
from simulsa_plugin.logs.steps import SEGMENT
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.values import AttentionHead
from simulsa_plugin.streaming.engine import DecodingSetting, choose_alignment_heads, decode_batched, decode_timed
from simulsa_plugin.streaming.session import Session
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource

Counted = Callable[[float], object]  # gets shares of sessions, which add up to one for each


@dataclass(frozen=True)
class BlockAudio:
    """The rows of a block.

    Attributes:
        identities: what identifies each row in the output files: `id`, in a recording `segment`, and `row`.
        sources: each with its audio, or the reason why it cannot be decoded.
    """

    identities: Sequence[Mapping[str, Any]]
    sources: Sequence[StreamSource | str]


@dataclass(frozen=True)
class HowToDecode:
    """What the rows are decoded with.

    Attributes:
        cells: settings.
        limits: of batches.
        measures_time: whether sessions are decoded one at a time, to measure computation.
        heads: attention heads to set first, where another replica has found them.
    """

    cells: Sequence[DecodingSetting]
    limits: BatchLimits
    measures_time: bool
    heads: Sequence[AttentionHead] = ()


@dataclass(frozen=True)
class DecodedBlock:
    """What is written of a block.

    Attributes:
        instances: rows of instances.jsonl.
        steps: for each cell the lines of its `steps.jsonl`.
        audio_seconds: of what was decoded.
    """

    instances: Sequence[Mapping[str, Any]]
    steps: Sequence[Sequence[str]]
    audio_seconds: float


def decode_block(
    model: AudioLanguageModel, block: BlockAudio, how: HowToDecode, on_progress: Counted = lambda share: None
) -> DecodedBlock:
    """Decode the rows of a block in every cell.

    Args:
        model: decodes.
        block: rows with their audio.
        how: with which settings.
        on_progress: gets the share of a session of each step, and the sessions of a row that cannot be decoded.

    Raises:
        ModelError: a batch does not fit into memory.
    """
    if how.heads:
        model.set_alignment_heads(how.heads)
    checked = [check_prompt(model, source) for source in block.sources]
    instances = [_instance(model, *pair) for pair in zip(block.identities, checked, strict=True)]
    usable = [source for source in checked if isinstance(source, StreamSource)]
    on_progress(len(how.cells) * (len(checked) - len(usable)))
    rows = [row for row, source in zip(block.identities, checked, strict=True) if isinstance(source, StreamSource)]
    steps = [
        [dump_line(step) for row, session in zip(rows, sessions, strict=True) for step in _steps(model, row, session)]
        for sessions in _decode(model, usable, how, on_progress)
    ]
    return DecodedBlock(instances, steps, samples_to_seconds(sum(len(source.waveform) for source in usable)))


def choose_heads(
    model: AudioLanguageModel, sources: Sequence[StreamSource | str], cells: Sequence[DecodingSetting]
) -> tuple[AttentionHead, ...]:
    """Set and return the attention heads that policies need; see `choose_alignment_heads`."""
    checked = (check_prompt(model, source) for source in sources)
    usable = [source for source in checked if isinstance(source, StreamSource)]
    return choose_alignment_heads(model, cells, lambda: usable)


def _instance(model: AudioLanguageModel, identity: Mapping[str, Any], source: StreamSource | str) -> dict[str, Any]:
    """Return a row of instances.jsonl."""
    if isinstance(source, str):
        return {**identity, "skipped": source}
    window = model.window_seconds
    heard = samples_to_seconds(len(source.first_window))  # at once: windows that slide leave nothing out
    longer = window is not None and heard > window
    return {**identity, "longer_than_window": longer, "device": model.hardware()["device"]}


def _decode(
    model: AudioLanguageModel, sources: Sequence[StreamSource], how: HowToDecode, on_progress: Counted
) -> list[list[Session]]:
    if not how.measures_time:
        return decode_batched(
            model, sources, how.cells, how.limits, on_step=lambda session: on_progress(session.step_share)
        )
    for cell in how.cells if sources else ():
        decode_timed(model, sources[0], cell, how.limits)  # warm-up
    sessions: list[list[Session]] = []
    for cell in how.cells:
        sessions.append([])
        for source in sources:
            sessions[-1].append(decode_timed(model, source, cell, how.limits))
            on_progress(1.0)
    return sessions


def _steps(model: AudioLanguageModel, identity: Mapping[str, Any], session: Session) -> Iterator[dict[str, Any]]:
    return step_rows(identity["id"], session.steps, model.decode, session.left_token_ids, identity.get(SEGMENT))
