"""Decodes a test set in blocks, written atomically, so that a stopped run resumes, and several processes can share it.

`decoding/00012/` holds one file of steps for every cell, in the form of the final `steps.jsonl`, `instances.jsonl`, and
`block.json` with the checksums of all and the configuration of the run. Blocks depend on the test set alone, so neither
restarts nor the number of processes change the result. A damaged block, as after a power failure, is decoded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulsa_plugin.audio.samples import samples_to_seconds
from simulsa_plugin.evaluation.decoded_block import BlockAudio, DecodedBlock, HowToDecode, choose_heads, decode_block
from simulsa_plugin.evaluation.loading import DecodedRow, load_rows
from simulsa_plugin.evaluation.recordings import Recording, SpeechUtterance
from simulsa_plugin.evaluation.result_cells import folder_name
from simulsa_plugin.files.atomic import UNFINISHED, make_own_folder, sync_folder, writing_to
from simulsa_plugin.files.checksums import checksums, first_damaged, read_sealed, write_sealed
from simulsa_plugin.files.json_files import crc32_hex, read_jsonl, write_jsonl, write_lines
from simulsa_plugin.files.locks import LOCK
from simulsa_plugin.files.pid_namespace import pid_namespace
from simulsa_plugin.logs.steps import SEGMENT, read_sessions
from simulsa_plugin.metrics.delays import ShownStep
from simulsa_plugin.model.protocol import AudioLanguageModel
from simulsa_plugin.model.replicas import ReplicatedModel, map_unordered
from simulsa_plugin.model.values import AttentionHead
from simulsa_plugin.sharding import Shard, wait_until
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource
from simulsa_plugin.terminal import Shares, progress

logger = logging.getLogger(__name__)
UTTERANCES_PER_BLOCK = 128  # utterances whose audio is in memory at once
SPEECH_SECONDS_PER_BLOCK = 900.0  # of recordings, whose speech segments may last minutes
HEAD_SEARCH_ROWS = 8  # utterances on which attention heads are selected
STARTED = "started.json"  # the configuration of the run
_INSTANCES = "instances.jsonl"
BLOCK_NOTE = "block.json"


@dataclass(frozen=True)
class DecodingJob:
    """What is decoded, and with which settings.

    Attributes:
        model: the model.
        name: of the dataset, part of the ids.
        rows: the test set in order.
        cells: settings.
        limits: of batches.
        measures_time: whether sessions are decoded one at a time, to measure computation.
        folder: where the blocks are written.
        work: the configuration that determines the result; blocks of another one are not used.
        complete_blocks: blocks whose files were verified.
        head_rows: rows on which attention heads are selected for policies that need them; by default the first ones of
            `rows`. The same for all parts of a run.
        heads: the selected ones, empty until then.
    """

    model: AudioLanguageModel | ReplicatedModel
    name: str
    rows: Sequence[DecodedRow]
    cells: Sequence[DecodingSetting]
    limits: BatchLimits
    measures_time: bool
    folder: Path
    work: Mapping[str, Any] = field(default_factory=dict)
    complete_blocks: set[int] = field(default_factory=set)
    head_rows: Sequence[DecodedRow] = ()
    heads: list[AttentionHead] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.head_rows:
            object.__setattr__(self, "head_rows", self.rows[:HEAD_SEARCH_ROWS])

    @functools.cached_property
    def _block_starts(self) -> list[int]:
        """Positions of the first row of each block, and the number of rows."""
        starts: list[int] = []
        speech = math.inf
        for position, row in enumerate(self.rows):
            seconds = samples_to_seconds(len(row.speech)) if isinstance(row, SpeechUtterance) else 0.0
            full = starts and position - starts[-1] == UTTERANCES_PER_BLOCK
            if full or speech + seconds > SPEECH_SECONDS_PER_BLOCK:
                starts.append(position)
                speech = 0.0
            speech += seconds
        return [*starts, len(self.rows)]

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return len(self._block_starts) - 1

    def block_folder(self, block: int) -> Path:
        """Return the folder of a block."""
        return self.folder / f"{block:05d}"

    def identifier(self, row: DecodedRow | Recording) -> str:
        """Return the id of a row, or of a recording, in the output files."""
        return row_identifier(self.name, row.row)

    def identity(self, row: DecodedRow) -> dict[str, Any]:
        """Return what identifies a row in the output files: `id`, and `segment` in a recording."""
        part = {SEGMENT: row.segment} if isinstance(row, SpeechUtterance) else {}
        return {"id": self.identifier(row), **part}

    def block_rows(self, block: int) -> Sequence[DecodedRow]:
        """Return the rows of a block."""
        return self.rows[slice(*self._block_starts[block : block + 2])]

    def block_name(self, block: int) -> str:
        """Name a block for messages."""
        rows = self.block_rows(block)
        return f"The block of {len(rows)} utterances from {self.identifier(rows[0])}"

    def block_audio(self, block: int) -> BlockAudio:
        """Load the rows of a block."""
        rows = self.block_rows(block)
        return BlockAudio([{**self.identity(row), "row": row.row} for row in rows], list(load_rows(rows)))


def row_identifier(dataset: str, row: int) -> str:
    """Return the id of a row in the output files."""
    return f"{dataset}-{row:08d}"


def decode_blocks(job: DecodingJob, share: Shard | None = None) -> None:
    """Decode the missing and damaged blocks: all of them, or every `share.count`-th.

    Raises:
        ModelError: a batch does not fit into memory.
        StorageError: a block cannot be written.
    """
    first, step = (share.number - 1, share.count) if share else (0, 1)
    missing = [block for block in range(first, job.num_blocks, step) if not is_complete(job, block)]
    make_own_folder(job.folder)
    _remove_unfinished(job.folder)
    if missing:
        find_attention_heads(job)
    total = sum(len(job.block_rows(block)) for block in missing) * len(job.cells)
    start, audio_seconds = time.perf_counter(), 0.0
    with progress(total, f"decode {job.name}", "session") as counting:
        for block, decoded in _decode_missing(job, missing, counting):
            _write_block(job, block, decoded)
            audio_seconds += decoded.audio_seconds
    if audio_seconds and isinstance(job.rows[0], SpeechUtterance):
        logger.info(_real_time_factor(audio_seconds * len(job.cells), time.perf_counter() - start))


def _decode_missing(job: DecodingJob, missing: Iterable[int], counting: Any) -> Iterator[tuple[int, DecodedBlock]]:
    """Decode blocks, unless another process has done so meanwhile."""
    how = HowToDecode(job.cells, job.limits, job.measures_time)
    blocks = (block for block in missing if not _is_done(job, block, counting))
    if not isinstance(job.model, ReplicatedModel):
        decode = functools.partial(decode_block, how=how, on_progress=Shares(counting).add)
        yield from map_unordered(job.model, decode, blocks, job.block_audio)
        return
    decode = functools.partial(decode_block, how=dataclasses.replace(how, heads=job.heads))
    for block, decoded in map_unordered(job.model, decode, blocks, job.block_audio, job.block_name):
        counting.update(len(job.block_rows(block)) * len(job.cells))
        yield block, decoded


def _is_done(job: DecodingJob, block: int, counting: Any) -> bool:
    """Return whether another process has decoded a block; warn of one that is damaged."""
    if is_complete(job, block):
        counting.update(len(job.block_rows(block)) * len(job.cells))
        return True
    damage = _find_damage(job, block)
    if damage is not None:
        logger.warning(f"{job.block_folder(block)} is decoded again: {damage}")
    return False


def _real_time_factor(audio_seconds: float, wall_seconds: float) -> str:
    """Describe how fast speech was decoded.

    >>> _real_time_factor(3600.0, 90.0)
    'decoded 60.0 min of speech (all cells together) in 90 s: real-time factor 0.025'
    """
    return (
        f"decoded {audio_seconds / 60:.1f} min of speech (all cells together) in {wall_seconds:.0f} s: "
        f"real-time factor {wall_seconds / audio_seconds:.2g}"
    )


def find_attention_heads(job: DecodingJob) -> list[str]:
    """Select the attention heads that policies need, without references, and log them.

    Returns:
        Each as layer/head, as for `simulsa_attention_heads`; empty where no policy needs any.
    """
    found = not job.heads and any(cell.policy.heads is not None for cell in job.cells)
    if found:
        choose = functools.partial(choose_heads, cells=job.cells)
        sources = functools.partial(_load_head_sources, job)
        for _, heads in map_unordered(job.model, choose, ["The search for attention heads"], sources):
            job.heads.extend(heads)
    names = [f"{layer}/{head}" for layer, head in job.heads]
    if found and names:
        logger.info(f"attention heads (layer/head): {','.join(names)}")
    return names


def _load_head_sources(job: DecodingJob, _: str) -> list[StreamSource | str]:
    return list(load_rows(job.head_rows))


def is_complete(job: DecodingJob, block: int) -> bool:
    """Return whether a block exists and its files are unchanged."""
    if block not in job.complete_blocks and job.block_folder(block).exists() and _find_damage(job, block) is None:
        job.complete_blocks.add(block)
    return block in job.complete_blocks


def recorded_work(job: DecodingJob) -> dict[str, Any] | None:
    """Return the configuration recorded in an unchanged block; None where there is none."""
    for block in range(job.num_blocks):
        noted = read_sealed(job.block_folder(block) / BLOCK_NOTE)
        if noted is not None and first_damaged(job.block_folder(block), noted["files"]) is None:
            work: dict[str, Any] = noted["work"]
            return work
    return None


def wait_for_blocks(job: DecodingJob) -> None:
    """Wait until every block is complete, whichever process decodes it.

    Raises:
        StorageError: no block was completed for too long.
    """
    for block in range(job.num_blocks):
        wait_until(
            functools.partial(is_complete, job, block), functools.partial(_count_blocks, job), "the other processes"
        )


def _count_blocks(job: DecodingJob) -> int:
    return sum(job.block_folder(block).exists() for block in range(job.num_blocks))


def remove_blocks(job: DecodingJob) -> None:
    """Remove the blocks, and their folder unless it contains other files."""
    for path in list(job.folder.glob("*")):
        if path.name in (STARTED, LOCK) or path.name.endswith(UNFINISHED) or re.fullmatch(r"\d{5,}", path.name):
            with contextlib.suppress(OSError):
                _remove(path)
    with contextlib.suppress(OSError):
        job.folder.rmdir()


def read_instances(job: DecodingJob) -> Iterator[dict[str, Any]]:
    """Yield one row per utterance: id, row, and why it was skipped, or the device and whether it exceeds the window."""
    for block in range(job.num_blocks):
        yield from read_jsonl(job.block_folder(block) / _INSTANCES)


def read_steps(job: DecodingJob, cell: DecodingSetting) -> Iterator[tuple[str, list[ShownStep]]]:
    """Yield (id, steps) of every utterance decoded in a cell."""
    return read_sessions(steps_file(job, block, cell) for block in range(job.num_blocks))


def steps_file(job: DecodingJob, block: int, cell: DecodingSetting) -> Path:
    """Return the file of a block's steps in a cell."""
    return job.block_folder(block) / f"{cell_folder(cell)}.jsonl"


def cell_folder(cell: DecodingSetting) -> str:
    """Return the name of a cell's folder."""
    policy = cell.policy.cell()
    return folder_name(cell.policy.name, cell.chunk_ms, policy["rollback"], policy["parameters"])


def _write_block(job: DecodingJob, block: int, decoded: DecodedBlock) -> None:
    temporary = _make_temporary(job.folder)
    try:
        for cell, lines in zip(job.cells, decoded.steps, strict=True):
            write_lines(temporary / f"{cell_folder(cell)}.jsonl", lines)
        write_jsonl(temporary / _INSTANCES, decoded.instances)
        write_sealed(temporary / BLOCK_NOTE, {"files": checksums(temporary, _file_names(job)), "work": job.work})
        _put_in_place(job, temporary, block)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # absent where it was renamed to the block


def _put_in_place(job: DecodingJob, temporary: Path, block: int) -> None:
    folder = job.block_folder(block)
    with writing_to(folder):
        if _find_damage(job, block) is not None:
            _remove(folder)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # else another process has written the same
                raise
    sync_folder(job.folder)


def _remove(path: Path) -> None:
    """Remove a file, link or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _find_damage(job: DecodingJob, block: int) -> str | None:
    """Return why an existing block cannot be used; None where it can, or does not exist."""
    folder = job.block_folder(block)
    if not folder.exists():
        return None
    noted = read_sealed(folder / BLOCK_NOTE)
    if noted is None or set(noted["files"]) != set(_file_names(job)):
        return f"{BLOCK_NOTE} is damaged or missing."
    if noted["work"] != job.work:
        return "it is part of another evaluation."
    damaged = first_damaged(folder, noted["files"])
    if damaged is not None:
        return f"{damaged} is damaged or missing."
    keys = [(row.get("id"), row.get(SEGMENT)) for row in read_jsonl(folder / _INSTANCES)]
    wanted = [(one["id"], one.get(SEGMENT)) for one in map(job.identity, job.block_rows(block))]
    return None if keys == wanted else "it holds different utterances."


def _file_names(job: DecodingJob) -> list[str]:
    return [*(f"{cell_folder(cell)}.jsonl" for cell in job.cells), _INSTANCES]


def _make_temporary(folder: Path) -> Path:
    """Make a temporary folder for a block; its name contains the process, and where its number is valid."""
    with writing_to(folder):
        return Path(tempfile.mkdtemp(dir=folder, prefix=f".{os.getpid()}@{_place()}.", suffix=UNFINISHED))


def _place() -> str:
    return crc32_hex(pid_namespace().encode())


def _remove_unfinished(folder: Path) -> None:
    """Remove the temporary folders of dead processes of this machine or container; others go with all blocks."""
    for path in folder.glob(f".*@{_place()}.*{UNFINISHED}"):
        owner = path.name[1:].partition("@")[0]
        if not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)
