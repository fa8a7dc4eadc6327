"""Reports of a run: a table on the terminal, and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.tables import align, list_counts
from simulsa_plugin.terminal import html_text

_STYLE = """\
body{font:15px/1.4 sans-serif;margin:2em;max-width:70em}
table{border-collapse:collapse;margin:.5em 0 1.5em}
td,th{padding:.2em .7em;text-align:right;vertical-align:top}
td:first-child,th:first-child,td.text{text-align:left}
tr:nth-child(even){background:#f4f4f4}
.bar{display:inline-block;height:.8em;background:#4878a8;vertical-align:middle}
.rest{color:#999}
code{font-size:13px;overflow-wrap:anywhere}"""


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


def write_augment_report(manifest: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write report.html, one file without scripts or links; its bytes depend on the arguments alone.

    Args:
        manifest: of `make_manifest`.
        examples: rows shown in full: id, cut_seconds, duration_seconds, reference, partial.
        path: where.
    """
    counts = manifest["counts"]
    parts = [
        f"<h1>{html_text(manifest['dataset'])}</h1>",
        f"<p><code>{html_text(manifest['signature'])}</code></p>",
        _html_table(["count", "value"], [[html_text(key), _known(value)] for key, value in counts.items()]),
        "<h2>Accepted share of the reference by share of the utterance heard</h2>",
        _html_table(
            ["heard", "samples", "empty", "accepted", ""],
            [
                [*row, _bar(one["accepted_share"])]
                for row, one in zip(_share_rows(manifest), _used(manifest), strict=True)
            ],
        ),
        "<h2>Length of the cuts</h2>",
        _cut_table(manifest["by_cut_seconds"]),
        "<h2>Skipped</h2>",
        _html_table(["reason", "rows"], [[html_text(key), str(value)] for key, value in manifest["skipped"].items()]),
        *(_paragraph(f"First {reason}: {cause}") for reason, cause in manifest.get("skipped_causes", {}).items()),
        _paragraph(_checks(manifest)),
    ]
    if manifest["commitment"]:
        parts += ["<h2>Against the true partial translations</h2>", _paragraph(_commitment(manifest["commitment"]))]
    parts += [
        "<h2>The first samples</h2><p>Accepted text; <span class=rest>the rest of the reference</span>.</p>",
        _html_table(["id", "heard", "of", "reference"], map(_example, examples)),
        "<h2>Settings and versions</h2>",
        _html_table(["key", "value"], _settings_rows(manifest)),
    ]
    with replacing(path, "w") as handle:
        handle.write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html_text(manifest['dataset'])}: partial samples</title>\n"
            f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
        )


def _used(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in manifest["by_cut_share"] if one["samples"]]


def _share_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"{one['from']:.0%}–{one['to']:.0%}",
            str(one["samples"]),
            str(one["empty"]),
            _percent(one["accepted_share"]),
        ]
        for one in _used(manifest)
    ]


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


def _settings_rows(manifest: Mapping[str, Any]) -> Iterable[list[str]]:
    for group in ("settings", "model", "versions"):
        for key, value in (manifest[group] or {}).items():
            yield [html_text(key), f"<code>{html_text(str(value))}</code>"]


def _example(row: Mapping[str, Any]) -> list[str]:
    partial, reference = row["partial"], row["reference"]
    text = f"{html_text(partial)}<span class=rest>{html_text(reference[len(partial) :])}</span>"
    return [html_text(row["id"]), f"{row['cut_seconds']:.2f} s", f"{row['duration_seconds']:.2f} s", text]


def _cut_table(bins: Sequence[Mapping[str, Any]]) -> str:
    most = max((one["samples"] for one in bins), default=1)
    return _html_table(
        ["seconds", "samples", ""],
        [[f"{one['from']:g}–{one['to']:g}", str(one["samples"]), _bar(one["samples"] / most)] for one in bins],
    )


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Build an HTML table; cells are HTML already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    head_line = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><tr>{head_line}</tr>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _paragraph(text: str) -> str:
    return f"<p>{html_text(text)}</p>"


def _bar(share: float | None) -> str:
    return f'<span class=bar style="width:{(share or 0.0) * 12:.2f}em"></span>'


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _known(value: Any) -> str:
    return "not known" if value is None else str(value)
