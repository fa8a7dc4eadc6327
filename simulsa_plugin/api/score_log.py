"""`score`: quality and latency of a log of emissions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulsa_plugin.api.boundary import library_call
from simulsa_plugin.segments import Aligner

if TYPE_CHECKING:
    import pandas as pd

    from simulsa_plugin.evaluation.score import ScoredLog
    from simulsa_plugin.metrics.records import LatencyUnit


@dataclass(frozen=True)
class ScoreResult:
    """The scores of a log.

    Attributes:
        log: the file.
        scored: the scores with their intervals, percentiles and warnings.
    """

    log: Path
    scored: ScoredLog

    @property
    def corpus(self) -> dict[str, float | None]:
        """Metric → its value over the corpus; None where nothing was measured. Latencies in ms."""
        return self.scored.scores.corpus

    @property
    def counts(self) -> dict[str, Any]:
        """Instances, empty ones, and per metric those without a value."""
        return self.scored.scores.counts

    @property
    def signatures(self) -> dict[str, str]:
        """The exact definition of each value."""
        return self.scored.scores.signatures

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the log, a message per kind."""
        return self.scored.warnings

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `simulsa-eval score --json` writes."""
        return self.scored.scores.as_json()

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per metric.

        Columns: `metric`, `value`, `low` and `high` (of the 95 % interval, where asked for), `p50` and `p90` over the
        instances, `unit`, `measured` (instances that the value rests on) and `instances`.
        """
        import pandas as pd

        return pd.DataFrame(self._frame_row(metric) for metric in self.corpus)

    def _frame_row(self, metric: str) -> dict[str, Any]:
        from simulsa_plugin.evaluation.formatting import metric_unit, time_unit

        scores = self.scored.scores
        found = (scores.intervals or {}).get(metric)
        return {
            "metric": metric,
            "value": scores.corpus[metric],
            "low": found and found.low,
            "high": found and found.high,
            "p50": scores.percentiles.get(metric, {}).get("p50"),
            "p90": scores.percentiles.get(metric, {}).get("p90"),
            "unit": metric_unit(metric, time_unit(scores.signatures)),
            "measured": scores.counts["instances"] - scores.counts["skipped"][metric],
            "instances": scores.counts["instances"],
        }

    def sentences_to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row per instance, in the order of the log, and a column per metric.

        It has no rows unless `score` was called with `sentences=True`.
        """
        import pandas as pd

        return pd.DataFrame(self.scored.scores.sentences or {})


def score(
    log: str | os.PathLike[str],
    references: str | os.PathLike[str] | None = None,
    *,
    unit: LatencyUnit = "word",
    tokenizer: str | None = None,
    segments: str | os.PathLike[str] | None = None,
    resegment: Aligner | None = None,
    detokenizer: str | None = None,
    keep_end_marks: bool = False,
    use_ref_len: bool = True,
    sentences: bool = False,
    intervals: bool = False,
    samples: int = 1000,
    seed: int = 12345,
    strict: bool = False,
) -> ScoreResult:
    """Score a log of emissions, as `simulsa-eval score` does.

    Args:
        log: instances.log of SimulEval 1.0 or 1.1, or JSONL of OmniSTEval or simulstream.
        references: a file with one reference per line of the log, or per segment.
        unit: latency unit.
        tokenizer: sacrebleu's tokenizer for BLEU; None for 13a with words, zh with characters.
        segments: of whole recordings: YAML, a list of wav, offset and duration (seconds).
        resegment: how recordings are divided among the segments: soft (SoftSegmenter) or mwer (mwerSegmenter); None
            for soft where an audio has several.
        detokenizer: of a simulstream log: word, char, spm, or the folder of a tokenizer; None for the unit.
        keep_end_marks: of a log of SimulEval 1.0: keep </s> and its delay.
        use_ref_len: count the target length on the reference; else on the prediction.
        sentences: also give the value of every instance.
        intervals: also give 95 % bootstrap intervals.
        samples: bootstrap resamples.
        seed: of the resamples.
        strict: raise an error for an odd line instead of a warning.

    Raises:
        LogError: the log cannot be scored; file and line are named.
        UsageError: unknown unit or tokenizer.
        MissingExtraError: the package of the tokenizer or the reader is missing.
    """
    from simulsa_plugin.evaluation.score import ScoreOptions, run_score
    from simulsa_plugin.metrics.significance import Bootstrap

    options = ScoreOptions(
        references=None if references is None else Path(references),
        segments=None if segments is None else Path(segments),
        resegment=resegment,
        detokenizer=detokenizer,
        unit=unit,
        tokenizer=tokenizer,
        keep_end_marks=keep_end_marks,
        use_ref_len=use_ref_len,
        sentences=sentences,
        strict=strict,
        bootstrap=Bootstrap(samples=samples, seed=seed) if intervals else None,
    )
    with library_call(progress=False):
        return ScoreResult(Path(log), run_score(Path(log), options))
