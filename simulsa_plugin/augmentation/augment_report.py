"""Reports of a run: a table on the terminal, and report.html."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

from simulsa_plugin.augmentation.augment_settings import CUTTING_KEYS, DECIDING_KEYS, AugmentSettings
from simulsa_plugin.augmentation.method.acceptance import RULES, default_threshold
from simulsa_plugin.augmentation.method.selection import Skipped
from simulsa_plugin.augmentation.method.truncation import expected_cuts
from simulsa_plugin.augmentation.shown_samples import REST_SECONDS, page_samples
from simulsa_plugin.augmentation.tally import Tally
from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.reports.names import model_name
from simulsa_plugin.reports.page import CHARTS, Column, Value, cards, html_table, render_page, settings_list
from simulsa_plugin.tables import align, list_counts
from simulsa_plugin.terminal import html_text

MOST_CUT_BINS = 40  # that a chart shows
SKIPS_OF_A_REASON = 3  # shown with path and cause
_PAPER_WIDTH = 151_646  # V of the paper's model, where this model's is not known
# What the page's controls choose; every other key of a decision is named in the command as the run had it.
_CHOSEN_IN_THE_PAGE = ("acceptance", "threshold", "ratio_threshold", "ratio_floor", "lookback_ms", "boundary")


def augment_summary(manifest: Mapping[str, Any]) -> list[str]:
    """Return the lines at the end of a run: counts, accepted share by cut share, skips by reason, the signature."""
    counts, rows = manifest["counts"], manifest["rows"] or "an unknown number of"
    lines = [
        f"{manifest['dataset']}: {counts['samples']} partial samples from {rows} rows "
        f"({counts['empty']} empty, {counts['whole_reference']} whole, "
        f"{_percent(_accepted_share(counts))} of the reference tokens accepted)",
        *(f"  {line}" for line in align([["heard", "samples", "empty", "accepted"], *_share_rows(manifest)])),
        f"  skipped: {list_counts(manifest['skipped'])}",
        *(f"    first {reason}: {cause}" for reason, cause in manifest.get("skipped_causes", {}).items()),
        f"  {_checks(manifest)}",
    ]
    if manifest["commitment"]:
        lines.append(f"  {_commitment(manifest['commitment'])}")
    return [*lines, f"  {manifest['signature']}"]


def write_augment_report(
    manifest: Mapping[str, Any], tally: Tally, skipped: Sequence[Skipped], folder: Path, path: Path
) -> None:
    """Write report.html, one file with everything inside it; its bytes depend on the arguments and the audio alone.

    Args:
        manifest: of `make_manifest`.
        tally: of the decided rows.
        skipped: what was left out.
        folder: from which relative clips start.
        path: where.
    """
    cuts = cut_bins(manifest, tally)
    data = {
        "samples": page_samples(tally.shown, folder),
        "rest_seconds": REST_SECONDS,
        "cuts": [{"label": _span(one), "value": one["samples"], "wanted": _rounded(one["expected"])} for one in cuts],
        "shares": [
            {"label": _heard(one).replace("%", ""), "value": _in_percent(one["accepted_share"])}
            for one in _used(manifest)
        ],
        **_decision_data(manifest),
    }
    sections = [*_overview(manifest), *_charts(manifest, cuts), *_samples_section(), *_skips(manifest, skipped)]
    page = render_page(
        f"Partial samples of {manifest['dataset']}",
        [*sections, *_settings(manifest)],
        data,
        (*CHARTS, "augment.js"),
    )
    with replacing(path, "w") as handle:
        handle.write(page)


def cut_bins(manifest: Mapping[str, Any], tally: Tally) -> list[dict[str, Any]]:
    """Return the cuts by length as the page shows them: from, to (seconds), samples, and how many were expected.

    `expected` is None where it is not known what was to be cut.
    """
    bins = list(dropwhile(lambda one: not one["samples"], tally.by_cut_seconds()))
    width = math.ceil(len(bins) / MOST_CUT_BINS)
    merged = [bins[start : start + width] for start in range(0, len(bins), width or 1)]
    edges = [some[0]["from"] for some in merged] + [bins[-1]["to"] for _ in bins[:1]]
    settings = _cutting_settings(manifest)
    expected = expected_cuts(edges, tally.durations, settings).tolist() if settings else [None] * len(merged)
    return [
        {"from": start, "to": end, "samples": sum(one["samples"] for one in some), "expected": wanted}
        for (start, end), some, wanted in zip(pairwise(edges), merged, expected, strict=True)
    ]


def _cutting_settings(manifest: Mapping[str, Any]) -> AugmentSettings | None:
    keys = {key: manifest["settings"].get(key) for key in CUTTING_KEYS}
    return None if None in keys.values() else AugmentSettings.from_keys(keys)


def _overview(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts = manifest["counts"]
    values = {
        f"samples of {_thousands(manifest['rows'])} rows": _thousands(counts["samples"]),
        "of the reference tokens accepted": _percent(_accepted_share(counts)),
        "empty": f"{counts['empty']} ({_share(counts['empty'], counts['scored'])})",
        "whole references": f"{counts['whole_reference']} ({_share(counts['whole_reference'], counts['scored'])})",
    }
    if manifest["commitment"]:
        over, known = manifest["commitment"]["over"], manifest["commitment"]["known"]
        values["say more than the audio supports"] = f"{over} ({_share(over, known)})"
    yield cards(values)
    model = model_name(manifest["model"] or {})
    labelled = f"Labelled by the model {html_text(model)}. " if model else ""
    yield f'<p class="note">{labelled}Signature: <code>{html_text(manifest["signature"])}</code></p>'


def _charts(manifest: Mapping[str, Any], cuts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        '<div class="charts">'
        '<section aria-labelledby="cuts-title"><h2 id="cuts-title">Where the utterances were cut</h2>'
        '<figure id="cuts"></figure>'
    )
    yield _as_table(
        [Column("seconds"), Column("samples", numeric=True), Column("expected", numeric=True)],
        [[_span(one), _count(one["samples"]), _number(one["expected"])] for one in cuts],
        "Cuts by length; expected: by the settings, for utterances of these durations",
    )
    yield (
        '</section><section aria-labelledby="shares-title"><h2 id="shares-title">How much was accepted</h2>'
        '<figure id="shares"></figure>'
    )
    yield _as_table(
        [
            Column("heard"),
            Column("samples", numeric=True),
            Column("empty", numeric=True),
            Column("accepted", numeric=True),
        ],
        [
            [
                _heard(one),
                _count(one["samples"]),
                _count(one["empty"]),
                Value(_percent(one["accepted_share"]), one["accepted_share"]),
            ]
            for one in _used(manifest)
        ],
        "Accepted share of the reference tokens by share of the utterance heard",
    )
    yield "</section></div>"


def _samples_section() -> Iterator[str]:
    yield (
        "<h2>Samples</h2>"
        "<p>A few samples of every kind. Each bar is the probability of a token of the reference, on a logarithmic "
        "scale from 10<sup>−8</sup> to 1; the dashed line is the bound, and orange bars are below it. What the rule "
        "accepts is underlined; where the truth is known, a vertical line marks how much the audio supports. Choose "
        "another rule or threshold to see its decisions, the same as those of <code>--from-scores</code>.</p>"
        '<div id="samples"><noscript>The samples need JavaScript.</noscript></div>'
    )


def _skips(manifest: Mapping[str, Any], skipped: Sequence[Skipped]) -> Iterator[str]:
    if manifest["commitment"]:
        yield f"<h2>Against the true partial translations</h2><p>{html_text(_sentence(manifest['commitment']))}</p>"
        yield _truth_table(manifest["commitment"])
    yield "<h2>Skipped</h2>"
    if not manifest["skipped"]:
        yield "<p>None.</p>"
        return
    yield html_table(
        [Column("reason"), Column("rows", numeric=True)],
        [[reason, _count(rows)] for reason, rows in manifest["skipped"].items()],
        "Left out, by reason",
    )
    yield html_table(
        [Column("id"), Column("reason"), Column("audio"), Column("cause")],
        [[one.id, one.reason, one.audio or "–", one.cause or "–"] for one in _first_of_each(skipped)],
        f"The first {SKIPS_OF_A_REASON} of each reason; skipped.jsonl has all of them",
    )


def _first_of_each(skipped: Sequence[Skipped]) -> list[Skipped]:
    """Return the first few of every reason, by reason."""
    found: dict[str, list[Skipped]] = defaultdict(list)
    for one in skipped:
        if len(found[one.reason]) < SKIPS_OF_A_REASON:
            found[one.reason].append(one)
    return [one for reason in sorted(found) for one in found[reason]]


def _truth_table(summary: Mapping[str, Any]) -> str:
    return html_table(
        [Column("verdict"), Column("samples", numeric=True), Column("share", numeric=True), Column("words", True)],
        [
            ["over", _count(summary["over"]), _part(summary["over"], summary["known"]), _count(summary["over_words"])],
            ["exact", _count(summary["exact"]), _part(summary["exact"], summary["known"]), Value("–")],
            [
                "under",
                _count(summary["under"]),
                _part(summary["under"], summary["known"]),
                _count(summary["under_words"]),
            ],
        ],
        "Label quality; words: too many, or too few, in all",
    )


def _settings(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>Checks</h2><p>{html_text(_checks(manifest))}</p>"
    yield html_table(
        [Column("count"), Column("value", numeric=True)],
        [[key, Value(_known(value), value)] for key, value in manifest["counts"].items()],
        "Counts",
    )
    yield "<h2>Settings, model, versions</h2>"
    yield f"<p>As a command, after the recipe: <code>{html_text(run_command_line(manifest))}</code></p>"
    yield '<p class="note" id="changed"></p>'
    for group in ("settings", "model", "versions"):
        if manifest[group]:
            yield f"<h3>{group.capitalize()}</h3>{settings_list(manifest[group])}"


def run_command_line(manifest: Mapping[str, Any]) -> str:
    """Return a command with all keys of a run that are not the defaults.

    The words of the user are not kept: a run may be started again, or in shards, with others, and ends with the same
    bytes.
    """
    defaults = AugmentSettings().as_keys()
    keys = {key: value for key, value in manifest["settings"].items() if value not in (None, defaults.get(key))}
    source = ["--from-scores", shlex.quote(manifest["scores_from"])] if manifest.get("scores_from") else ["RECIPE.yaml"]
    return " ".join(["simulsa-augment", *source, *(f"{key}={_yaml(value)}" for key, value in keys.items())])


def _decision_data(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule of the run as the page's controls begin, and what else a command for another one says."""
    keys, width = manifest["settings"], manifest.get("output_width") or _PAPER_WIDTH
    default = default_threshold(width)
    choice = {
        "acceptance": keys.get("simulsa_acceptance", "threshold"),
        "threshold": keys.get("simulsa_threshold") or default,
        "ratio_threshold": keys.get("simulsa_ratio_threshold", 0.5),
        "ratio_floor": keys.get("simulsa_ratio_floor") or default,
        "lookback_ms": keys.get("simulsa_lookback_ms"),
        "boundary": keys.get("simulsa_boundary", "token"),
    }
    defaults = AugmentSettings().as_keys()
    in_the_page = {f"simulsa_{name}" for name in _CHOSEN_IN_THE_PAGE}
    kept = sorted(key for key in DECIDING_KEYS - in_the_page if keys.get(key) not in (None, defaults[key]))
    return {
        "choice": choice,
        "rules": list(RULES),
        "scores": f"{manifest['dataset']}_simulsa/scores.jsonl",
        "other_keys": [f"{key}={_yaml(keys[key])}" for key in kept],
    }


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _as_table(columns: Sequence[Column], rows: Iterable[Sequence[Value | str]], caption: str) -> str:
    return f"<details><summary>As a table</summary>{html_table(columns, rows, caption)}</details>"


def _used(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in manifest["by_cut_share"] if one["samples"]]


def _share_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    return [
        [_heard(one), str(one["samples"]), str(one["empty"]), _percent(one["accepted_share"])]
        for one in _used(manifest)
    ]


def _heard(one: Mapping[str, Any]) -> str:
    return f"{one['from']:.0%}–{one['to']:.0%}"


def _span(one: Mapping[str, Any]) -> str:
    return f"{one['from']:g}–{one['to']:g}"


def _accepted_share(counts: Mapping[str, Any]) -> float | None:
    return counts["accepted_tokens"] / counts["tokens"] if counts["tokens"] else None


def _checks(manifest: Mapping[str, Any]) -> str:
    counts, dtype = manifest["counts"], (manifest["model"] or {}).get("dtype")
    return (
        f"tokenized differently in training: {_known(counts['retokenized'])}; "
        f"within {manifest['tolerance']:g} of the threshold"
        f"{f' ({dtype})' if dtype else ''}: {_known(counts['close_to_threshold'])}"
    )


def _commitment(summary: Mapping[str, Any]) -> str:
    shares = ", ".join(
        f"{summary[verdict]} ({summary[verdict] / summary['known']:.0%}) {verdict}"
        for verdict in ("over", "exact", "under")
    )
    unknown = f"; {summary['unknown']} without a true partial" if summary["unknown"] else ""
    return (
        f"against the true partial translations: {shares}; on average {summary['mean_over_words']:.2f} words too many, "
        f"{summary['mean_under_words']:.2f} too few{unknown}"
    )


def _sentence(summary: Mapping[str, Any]) -> str:
    unknown = f" {summary['unknown']} samples have no true partial." if summary["unknown"] else ""
    return (
        f"On average {summary['mean_over_words']:.2f} words too many and {summary['mean_under_words']:.2f} too few, "
        f"over {summary['known']} samples.{unknown}"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _share(count: int, of: int) -> str:
    return _percent(count / of if of else None)


def _part(count: int, of: int) -> Value:
    return Value(_share(count, of), count / of if of else None)


def _count(value: int) -> Value:
    return Value(str(value), value)


def _number(value: float | None) -> Value:
    return Value("–" if value is None else f"{value:.1f}", value)


def _in_percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _thousands(value: int | None) -> str:
    return _known(None) if value is None else f"{value:,}"


def _known(value: Any) -> str:
    return "not known" if value is None else str(value)
