"""`simulsa-eval report`: one page of several results, folders and single logs, compared at equal latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from simulsa_plugin.comparison.compare import (
    ComparedResult,
    CompareOptions,
    axes_of,
    check_measured_alike,
    compare_with_baseline,
    load_results,
    resample_both,
    shown,
)
from simulsa_plugin.comparison.comparison_files import ComparisonFiles, write_comparison
from simulsa_plugin.comparison.log_points import compare_log, log_sentence
from simulsa_plugin.comparison.names import path_text, short_names
from simulsa_plugin.files.json_files import Json


def run_report(paths: Sequence[Path], options: CompareOptions, out: Path) -> Json:
    """Write the page of several results, the baseline first; a single one is shown alone.

    Args:
        paths: folders of `simulsa-eval run`, and logs as for `score`, of one test set.
        options: as for `compare`.
        out: the page, an HTML file.

    Returns:
        The comparison that the page shows: the JSON of `compare`, and `log_points` where a log meets a folder.

    Raises:
        UsageError: the results were measured differently, or the page would replace what is read.
        LogError: a result or a log cannot be read, or two have other references.
        StorageError: the page cannot be written.
    """
    files = ComparisonFiles(html=out)
    results = load_results(paths, options, files)
    options = dataclasses.replace(options, axes=axes_of(results[0], options), usual_latency=False)
    comparison = compare_folders_and_logs(results, options)
    write_comparison(comparison, shown(results), options.axes.latency, files)
    return comparison


def compare_folders_and_logs(results: Sequence[ComparedResult], options: CompareOptions) -> Json:
    """Compare each result with the baseline: of its kind as `compare` does, else a log with the curve of a folder.

    Returns:
        The JSON of `compare`, and `log_points`: `other`, the values of `compare_log`, and a `sentence`.

    Raises:
        LogError, UsageError: as `compare_with_baseline`.
    """
    baseline, *others = results
    alike = [other for other in others if other.is_log == baseline.is_log]
    names = short_names([path_text(result.path) for result in results])
    return compare_with_baseline([baseline, *alike], options) | {
        "log_points": [
            _compare_with_log(baseline, other, options, names) for other in others if other.is_log != baseline.is_log
        ]
    }


def _compare_with_log(
    baseline: ComparedResult, other: ComparedResult, options: CompareOptions, names: dict[str, str]
) -> Json:
    check_measured_alike(baseline, other, options.axes)
    samples = resample_both(baseline, other, options)
    sides = [(baseline, samples[0]), (other, samples[1])]
    (folder, of_folder), (log, of_log) = sorted(sides, key=lambda side: side[0].is_log)
    axes, seed = options.axes, options.bootstrap.seed
    found = compare_log((log.cells, of_log), (folder.cells, of_folder), axes, seed)
    sentence = log_sentence(found, names[path_text(log.path)], names[path_text(folder.path)])
    return {"other": path_text(other.path), **found, "sentence": sentence}
