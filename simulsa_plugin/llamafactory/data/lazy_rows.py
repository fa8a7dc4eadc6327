"""Rows in LLaMA-Factory's aligned form, converted as they are read: of a million rows a run cuts some thousands.

LLaMA-Factory converts all rows by `datasets.map` before it trains, which takes half a minute for a million of them,
looks for every file of audio, and writes another copy. The same converter is called here, row by row.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow

from simulsa_plugin.memory import release_mapped_pages

_ROWS_PER_READ = 1000  # read together where rows follow each other
# Reads after which the memory of mapped rows is released: each takes up to 2 MB, and a million more than the program.
_READS_KEPT = 16
_CONVERTERS = ("alpaca", "sharegpt", "openai")  # of LLaMA-Factory: they take media from the columns of the entry
Row = dict[str, Any]
Naming = Callable[[int], contextlib.AbstractContextManager[None]]


class LazyRows:
    """Rows of a dataset, converted on access.

    Args:
        rows: a `datasets.Dataset` as its file has it.
        convert: a row to LLaMA-Factory's aligned form (`_prompt`, `_response`, `_system`, `_audios` …).
        attributes: LLaMA-Factory's, of the dataset.
        naming: makes a context for the number of a row that raises DatasetError for what the converter raises.
    """

    def __init__(self, rows: Any, convert: Callable[[Row], Row], attributes: Any, naming: Naming) -> None:
        self._rows, self._convert, self._attributes, self._naming = rows, convert, attributes, naming
        self._read: tuple[int, list[Row]] = (0, [])  # number of the first row, and rows, that were read last
        self._reads = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Row:
        """Return one row. Raises DatasetError where it cannot be converted."""
        with self._naming(row):
            original = self.original(row)
            # The converter writes into the lists of a video's frames.
            return self._convert(copy.deepcopy(original) if self._attributes.videos else original)

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def original(self, row: int) -> Row:
        """Return one row as the file has it; rows that follow each other are read together, which is ten times faster.

        It is not to be changed.
        """
        start, rows = self._read
        if not start <= row < start + len(rows):
            follows = row == start + len(rows)
            columns = self._rows[row : row + (_ROWS_PER_READ if follows else 1)]
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            start, self._read = row, (row, rows)
            self._note_read()
        return rows[row - start]

    def media(self, kind: str) -> Iterator[list[Any]]:
        """Yield the media of every row as its file names them; no file is looked for.

        Args:
            kind: `audios`, `images` or `videos`.
        """
        if self._attributes.formatting not in _CONVERTERS:
            yield from (aligned[f"_{kind}"] or [] for aligned in self)
            return
        column = getattr(self._attributes, kind)
        if column is None:
            return
        for batch in self._rows.select_columns([column]).iter(_ROWS_PER_READ):
            yield from (_as_list(value) for value in batch[column])
            self._note_read()
        self.release_memory()

    def _note_read(self) -> None:
        self._reads += 1
        if self._reads % _READS_KEPT == 0:
            self.release_memory()

    def release_memory(self) -> None:
        """Release what rows of mapped files have taken, and what was needed to read them."""
        pyarrow.default_memory_pool().release_unused()
        release_mapped_pages(file["filename"] for file in getattr(self._rows, "cache_files", ()))

    @property
    def may_have_several_answers(self) -> bool:
        """Whether rows may have pairs of answers, which their entry says."""
        return bool(
            self._attributes.ranking or self._attributes.kto_tag or self._attributes.formatting not in _CONVERTERS
        )


def _as_list(media: Any) -> list[Any]:
    if media is None:
        return []
    return media if isinstance(media, list) else [media]


@contextlib.contextmanager
def converting_on_access(naming: Naming) -> Iterator[None]:
    """Let LLaMA-Factory's `_load_single_dataset` return `LazyRows` inside this context; `naming` is for them."""
    from llamafactory.data import loader
    from llamafactory.data.converter import get_dataset_converter

    align = loader.align_dataset

    def lazy(rows: Any, attributes: Any, data_arguments: Any, training_arguments: Any) -> LazyRows:
        convert = get_dataset_converter(attributes.formatting, attributes, data_arguments)
        return LazyRows(rows, convert, attributes, naming)

    loader.align_dataset = lazy
    try:
        yield
    finally:
        loader.align_dataset = align
