"""What a run was, is and gave: the settings that decide it, the refusal of others, the counts and the signature."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.augment.acceptance import default_threshold
from simulsa_plugin.augment.layout import Layout
from simulsa_plugin.augment.registration import SourceDataset
from simulsa_plugin.augment.settings import AugmentSettings
from simulsa_plugin.errors import StorageError
from simulsa_plugin.model import AudioLanguageModel
from simulsa_plugin.storage import write_json


def check_same_work(layout: Layout, work: Mapping[str, Any]) -> None:
    """Refuse a folder that other settings began; otherwise note what is being done.

    Raises:
        StorageError: the folder holds other work; what differs is named.
    """
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


def describe_work(dataset: SourceDataset, model: AudioLanguageModel, settings: AugmentSettings) -> dict[str, Any]:
    """What decides the result; two runs with the same work make the same files."""
    return {
        "dataset": dataset.name,
        "rows": len(dataset),
        "source": dataset.entry.get("file_name"),
        "model": model.describe(),
        "output_width": model.output_width,
        "settings": settings.as_keys(),
    }


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


def write_manifest(
    layout: Layout, work: Mapping[str, Any], counts: Mapping[str, int], skipped: Mapping[str, int]
) -> None:
    """Write manifest.json: the work, versions, counts, skips by reason, the threshold in force, and a signature.

    Args:
        layout: where.
        work: of `describe_work`.
        counts: of `count_rows`.
        skipped: reason → rows.
    """
    threshold = work["settings"]["simulsa_threshold"] or default_threshold(work["output_width"])
    manifest = {**work, "versions": _versions(), "counts": counts, "skipped": skipped, "threshold": threshold}
    write_json(layout.manifest, manifest | {"signature": signature(manifest)})
    layout.started.unlink(missing_ok=True)


def count_rows(rows: Sequence[Mapping[str, Any]], wanted: int) -> dict[str, int]:
    """How many were wanted and made, how many are empty or whole, and how many tokens were scored and accepted."""
    return {
        "wanted": wanted,
        "samples": len(rows),
        "empty": sum(not row["partial"] for row in rows),
        "whole_reference": sum(row["partial"] == row["reference"] for row in rows),
        "tokens": sum(len(row["token_ids"]) for row in rows),
        "accepted_tokens": sum(row["accepted_tokens"] for row in rows),
    }


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
