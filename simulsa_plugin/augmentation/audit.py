"""Score some samples again one by one, and measure how far the batched scores are from that."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.clips import Cut, CutSampler
from simulsa_plugin.augmentation.method.acceptance import decide, tolerance_of
from simulsa_plugin.augmentation.method.speculation import score_batch
from simulsa_plugin.augmentation.output_layout import LOGPROB_FIELDS, Layout
from simulsa_plugin.augmentation.registration import SourceDataset
from simulsa_plugin.augmentation.shards import holding
from simulsa_plugin.files.json_files import read_jsonl, write_json
from simulsa_plugin.model.protocol import ScoringModel
from simulsa_plugin.terminal import tracked


def audit(
    dataset: SourceDataset, model: ScoringModel, settings: AugmentSettings, out: Path, samples: int
) -> dict[str, Any]:
    """Score the first `samples` of a finished run again, each alone, and write audit.json.

    Returns:
        `samples`, `tokens`, `largest_difference` of a log-probability with its `id` and `token`, the `tolerance` of the
        model's `dtype`, and `decisions_changed`, the ids that would be decided otherwise.
    """
    layout, described = Layout(out.absolute(), dataset.name), model.describe()
    with holding(layout, None):
        sampler = CutSampler(dataset, model, settings, layout, write_clips=False)
        cuts = (outcome for outcome in sampler.outcomes() if isinstance(outcome, Cut))
        rows = islice(zip(read_jsonl(layout.scores), cuts, strict=False), samples)
        found: dict[str, Any] = {
            "samples": 0,
            "tokens": 0,
            "tolerance": tolerance_of(described),
            "dtype": described.get("dtype"),
            "largest_difference": 0.0,
            "id": None,
            "token": None,
            "decisions_changed": [],
        }
        for batched, cut in tracked(rows, samples, "audit", "clip"):
            alone = score_batch([cut], model, settings, layout)[cut.id]
            found["samples"] += 1
            found["tokens"] += len(batched["token_ids"])
            difference, token = _largest_difference(batched, alone)
            if difference > found["largest_difference"]:
                found |= {"largest_difference": difference, "id": cut.id, "token": token}
            if decide(alone, settings, model.output_width).accepted_tokens != batched["accepted_tokens"]:
                found["decisions_changed"].append(cut.id)
        write_json(layout.audit, found)
    return found


def audit_line(found: Mapping[str, Any]) -> str:
    """Summarise the audit in a line."""
    where = f" ({found['id']}, token {found['token']})" if found["id"] else ""
    in_dtype = f" ({found['dtype']})" if found["dtype"] else ""
    verdict = "within" if found["largest_difference"] <= found["tolerance"] else "NOT within"
    return (
        f"audit: {found['samples']} samples, {found['tokens']} tokens scored one by one: largest difference of a "
        f"log-probability {found['largest_difference']:.2g}{where}, {verdict} {found['tolerance']:g}"
        f"{in_dtype}; "
        f"{len(found['decisions_changed'])} decided otherwise"
    )


def _largest_difference(batched: Mapping[str, Any], alone: Mapping[str, Any]) -> tuple[float, int]:
    """Return the largest difference over all tokens and kinds of scores, and the token's number."""
    return max(
        (abs(one - other), token)
        for field in LOGPROB_FIELDS
        for token, (one, other) in enumerate(zip(batched.get(field) or (), alone.get(field) or (), strict=True))
    )
