"""The end of a run, with a model or over scores: skipped rows, report, manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.augment_report import write_augment_report
from simulsa_plugin.augmentation.manifest import make_manifest
from simulsa_plugin.augmentation.method.selection import Skipped, first_causes
from simulsa_plugin.augmentation.output_layout import Layout
from simulsa_plugin.augmentation.tally import Tally
from simulsa_plugin.files.json_files import write_jsonl


@dataclass(frozen=True)
class AugmentedDataset:
    """A dataset whose partial samples are written.

    Attributes:
        folder: NAME_simulsa in the output folder.
        manifest: what its manifest.json holds.
        warnings: what the user should know, a line each.
    """

    folder: Path
    manifest: dict[str, Any]
    warnings: tuple[str, ...] = ()


def finish(
    layout: Layout,
    configuration: dict[str, Any],
    tally: Tally,
    wanted: int,
    skipped: list[Skipped],
    clean: dict[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> AugmentedDataset:
    """Write skipped.jsonl, report.html and, last of all, manifest.json.

    Args:
        layout: where.
        configuration: of `describe_augmentation`.
        tally: of the decided rows.
        wanted: samples asked for.
        skipped: what the walk left out.
        clean: of `offer_clean`.
        warnings: what the user should know.
    """
    left_out = [*skipped, *tally.dropped]
    write_jsonl(layout.skipped, (one.as_row() for one in left_out))
    reasons = Counter(one.reason for one in left_out)
    manifest = make_manifest(configuration, tally, wanted, reasons, first_causes(left_out))
    if clean:
        manifest["clean"] = clean
    write_augment_report(manifest, tally, left_out, layout.out, layout.report)
    layout.run.finish(manifest)
    return AugmentedDataset(layout.folder, manifest, tuple(warnings))
