"""Files of a comparison: JSON, a page, pictures, Markdown and LaTeX; each written whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from simulsa_plugin.comparison.blocks import latex, markdown
from simulsa_plugin.comparison.comparison_tables import comparison_document
from simulsa_plugin.comparison.page import comparison_page
from simulsa_plugin.comparison.picture import comparison_figure, save_figure
from simulsa_plugin.comparison.shown_results import ShownResult
from simulsa_plugin.errors import UsageError
from simulsa_plugin.files.atomic import remove_abandoned, replacing
from simulsa_plugin.files.json_files import write_json
from simulsa_plugin.files.ownership import refuse_input_as_output


@dataclass(frozen=True)
class ComparisonFiles:
    """Where a comparison is written; None for what is not.

    Attributes:
        json: everything, for programs.
        html: a page in one file.
        png, pdf: the compared curves.
        markdown, latex: tables and sentences; LaTeX needs the package booktabs.
    """

    json: Path | None = None
    html: Path | None = None
    png: Path | None = None
    pdf: Path | None = None
    markdown: Path | None = None
    latex: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (getattr(self, one.name) for one in dataclasses.fields(self)) if path is not None]

    def check(self, read: Iterable[Path]) -> None:
        """Raise UsageError where a file is one of those that are read, or two are the same."""
        read = list(read)
        for path in self.paths:
            refuse_input_as_output(path, read)
        names = [path.absolute() for path in self.paths]
        repeated = [str(path) for path in self.paths if names.count(path.absolute()) > 1]
        if repeated:
            raise UsageError(f"{repeated[0]} would be written twice. Give each output a name of its own.")


def write_comparison(
    comparison: dict[str, Any], results: Sequence[ShownResult], latency: str, files: ComparisonFiles
) -> None:
    """Write a comparison into files.

    Args:
        comparison: the JSON of `compare`.
        results: what is compared, the baseline first.
        latency: metric over which quality is drawn.
        files: where.

    Raises:
        StorageError: a file cannot be written.
    """
    if files.json is not None:
        remove_abandoned(files.json)
        write_json(files.json, comparison)
    _write_text(files.html, lambda: comparison_page(comparison, results, latency))
    _write_text(files.markdown, lambda: markdown(comparison_document(comparison)))
    _write_text(files.latex, lambda: latex(comparison_document(comparison)))
    _write_bytes(files.png, lambda handle: save_figure(comparison_figure(comparison), handle, "png"))
    _write_bytes(files.pdf, lambda handle: save_figure(comparison_figure(comparison), handle, "pdf"))


def _write_text(path: Path | None, make: Callable[[], str]) -> None:
    if path is not None:
        text = make()
        remove_abandoned(path)
        with replacing(path, "w") as handle:
            handle.write(text)


def _write_bytes(path: Path | None, write: Callable[[IO[bytes]], None]) -> None:
    if path is not None:
        remove_abandoned(path)
        with replacing(path) as handle:
            write(handle)
