"""`compare` and `report`: differences between results, and quality at equal latency, with intervals."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from simulsa_plugin.api.boundary import library_call
from simulsa_plugin.api.evaluate_recipe import EvaluationResult
from simulsa_plugin.api.score_log import ScoreResult
from simulsa_plugin.api.tune_recipe import TuningResult
from simulsa_plugin.errors import UsageError
from simulsa_plugin.segments import Aligner

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from simulsa_plugin.comparison.equal_latency import Axes
    from simulsa_plugin.logs.reader import ReadOptions
    from simulsa_plugin.metrics.records import LatencyUnit

ComparableResult: TypeAlias = str | os.PathLike[str] | EvaluationResult | ScoreResult


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison of results with a baseline.

    Attributes:
        comparison: the JSON object that `simulsa-eval compare --json` writes; of a report with `log_points` as well.
    """

    comparison: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The closing sentences on each result: what is better at which latency, and whether a gain is only a shift.

        Of several policies, those on the curves of all streaming cells; of a log in a report, that on the curve of the
        folder. Empty where logs alone are compared, which have no curves.
        """
        found = [(pair["other"], curves["verdict"]) for pair, curves in self._curves()]
        found += [(point["other"], point["sentence"]) for point in self.comparison.get("log_points", ())]
        return found[0][1] if len(found) == 1 else "\n".join(f"{other}: {said}" for other, said in found)

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per compared result, cell and metric.

        Columns: `result` (path of the compared one), `policy`, `chunk_ms`, `rollback`, `parameters`, `metric`,
        `baseline`, `other`, `difference` (other − baseline; latencies in ms), `low` and `high` of its 95 % interval,
        `p_value` (paired bootstrap), `randomisation_p_value` (BLEU and chrF), `differing` and `utterances`.
        """
        import pandas as pd

        return pd.DataFrame(self._frame_rows())

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for pair in self.comparison["comparisons"]:
            for cell in pair["cells"]:
                key = {name: cell[name] for name in ("policy", "chunk_ms", "rollback", "parameters")}
                for metric, values in cell["metrics"].items():
                    low, high = values["interval"] or (None, None)
                    yield {
                        "result": pair["other"],
                        **key,
                        "metric": metric,
                        **{name: values[name] for name in ("baseline", "other", "difference")},
                        "low": low,
                        "high": high,
                        **{name: values.get(name) for name in ("p_value", "randomisation_p_value")},
                        **{name: values.get(name) for name in ("differing", "utterances")},
                    }

    def figure(self) -> Figure:
        """Draw quality over latency: for each result its curve and the baseline's over the compared cells."""
        from simulsa_plugin.comparison.picture import comparison_figure

        return comparison_figure(self.comparison)

    def to_markdown(self) -> str:
        """Return tables and sentences in Markdown, as `simulsa-eval compare --markdown` writes them."""
        from simulsa_plugin.comparison.blocks import markdown
        from simulsa_plugin.comparison.comparison_tables import comparison_document

        return markdown(comparison_document(self.comparison))

    def to_latex(self) -> str:
        """Return tables and sentences in LaTeX, which need the package booktabs, as `--latex` writes them."""
        from simulsa_plugin.comparison.blocks import latex
        from simulsa_plugin.comparison.comparison_tables import comparison_document

        return latex(comparison_document(self.comparison))

    def _curves(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        from simulsa_plugin.comparison.picture import curve_pairs

        return curve_pairs(self.comparison)


def compare(
    baseline: ComparableResult,
    *others: ComparableResult,
    quality: Literal["BLEU", "chrF", "COMET"] = "BLEU",
    latency: str | None = None,
    at: Sequence[float] = (),
    tuned: Sequence[str | os.PathLike[str] | TuningResult] = (),
    regimes: Sequence[float] = (),
    unit: LatencyUnit = "word",
    tokenizer: str | None = None,
    keep_end_marks: bool = False,
    references: str | os.PathLike[str] | None = None,
    segments: str | os.PathLike[str] | None = None,
    resegment: Aligner | None = None,
    samples: int = 1000,
    trials: int = 10000,
    seed: int = 12345,
    html: str | os.PathLike[str] | None = None,
) -> ComparisonResult:
    """Compare results with a baseline, as `simulsa-eval compare` does.

    Args:
        baseline: a result, its folder, or a log.
        others: what is compared with it: results where the baseline is one, logs where it is a log.
        quality: metric of the curves.
        latency: metric of the curves, as in scores.json; None for LAAL, of long recordings LongYAAL (StreamLAAL where
            mwerSegmenter aligned them).
        at: latencies (ms) at which the curves are compared; none, at shares of their common range.
        tuned: for each result the `tune` that chose its cells: also compare what was tuned at each budget.
        regimes: bounds of latency (ms); with `tuned`, also of a single result: the best cell below each, chosen on dev.
        unit: latency unit of logs; folders know their own.
        tokenizer: sacrebleu's tokenizer of logs; None for 13a with words, zh with characters.
        keep_end_marks: of logs of SimulEval 1.0: keep </s> and its delay.
        references: of logs: one reference per line, or per segment.
        segments: of logs of whole recordings: YAML, as for `score`.
        resegment: of logs of whole recordings, as for `score`.
        samples: bootstrap resamples.
        trials: of approximate randomisation.
        seed: of the resamples.
        html: a file into which the page of the comparison is written.

    Raises:
        UsageError: there is nothing to compare with, the results were measured differently, or a metric is unknown.
        LogError: a result or a log cannot be read, or two logs have other references.
    """
    from simulsa_plugin.comparison.compare import CompareOptions, run_compare
    from simulsa_plugin.comparison.comparison_files import ComparisonFiles
    from simulsa_plugin.metrics.significance import Bootstrap

    if not others and not regimes:
        raise UsageError("compare needs two results or more: the baseline first, then what is compared with it.")
    options = CompareOptions(
        _read_options(references, segments, unit, keep_end_marks, resegment),
        tokenizer,
        _axes(quality, latency, at),
        Bootstrap(samples, trials, seed),
        tuple(map(_path_of, tuned)),
        usual_latency=latency is None,
        regimes=tuple(sorted(regimes)),
    )
    files = ComparisonFiles(html=None if html is None else Path(html))
    with library_call(progress=False):
        return ComparisonResult(run_compare([_path_of(one) for one in (baseline, *others)], options, files))


def report(
    baseline: ComparableResult,
    *others: ComparableResult,
    out: str | os.PathLike[str],
    quality: Literal["BLEU", "chrF", "COMET"] = "BLEU",
    latency: str | None = None,
    at: Sequence[float] = (),
    unit: LatencyUnit = "word",
    tokenizer: str | None = None,
    keep_end_marks: bool = False,
    references: str | os.PathLike[str] | None = None,
    segments: str | os.PathLike[str] | None = None,
    resegment: Aligner | None = None,
    samples: int = 1000,
    trials: int = 10000,
    seed: int = 12345,
) -> ComparisonResult:
    """Write one page of several results, as `simulsa-eval report` does, and return the comparison that it shows.

    Args:
        baseline: a result, its folder, or a log.
        others: what is compared with it; a log stands against the curve of a folder at the latency of the log. None:
            the page shows the one result.
        out: the page, an HTML file.
        quality: metric of the curves.
        latency: metric of the curves, as for `compare`.
        at: latencies (ms) at which the curves are compared; none, at shares of their common range.
        unit: latency unit of logs; folders know their own.
        tokenizer: sacrebleu's tokenizer of logs; None for 13a with words, zh with characters.
        keep_end_marks: of logs of SimulEval 1.0: keep </s> and its delay.
        references: of logs: one reference per line, or per segment.
        segments: of logs of whole recordings: YAML, as for `score`.
        resegment: of logs of whole recordings, as for `score`.
        samples: bootstrap resamples.
        trials: of approximate randomisation.
        seed: of the resamples.

    Raises:
        UsageError: the results were measured differently, a metric is unknown, or the page would replace what is read.
        LogError: a result or a log cannot be read, or two have other references.
        StorageError: the page cannot be written.
    """
    from simulsa_plugin.comparison.compare import CompareOptions
    from simulsa_plugin.comparison.report import run_report
    from simulsa_plugin.metrics.significance import Bootstrap

    options = CompareOptions(
        _read_options(references, segments, unit, keep_end_marks, resegment),
        tokenizer,
        _axes(quality, latency, at),
        Bootstrap(samples, trials, seed),
        usual_latency=latency is None,
    )
    with library_call(progress=False):
        return ComparisonResult(run_report([_path_of(one) for one in (baseline, *others)], options, Path(out)))


def _read_options(
    references: str | os.PathLike[str] | None,
    segments: str | os.PathLike[str] | None,
    unit: LatencyUnit,
    keep_end_marks: bool,
    resegment: Aligner | None,
) -> ReadOptions:
    from simulsa_plugin.logs.reader import ReadOptions

    return ReadOptions(
        None if references is None else Path(references),
        None if segments is None else Path(segments),
        unit=unit,
        keep_end_marks=keep_end_marks,
        resegment=resegment,
    )


def _axes(quality: str, latency: str | None, at: Sequence[float]) -> Axes:
    from simulsa_plugin.comparison.equal_latency import Axes
    from simulsa_plugin.settings import check_choice

    check_choice("quality", quality, ("BLEU", "chrF", "COMET"))
    return Axes(quality, latency or Axes.latency, tuple(sorted(at)))


def _path_of(result: ComparableResult | TuningResult) -> Path:
    if isinstance(result, (EvaluationResult, TuningResult)):
        return result.out
    return result.log if isinstance(result, ScoreResult) else Path(result)
