"""Numbers as people read them: units, decimals, parameters, intervals."""

from __future__ import annotations

from collections.abc import Mapping

from simulsa_plugin.metrics.instance import PERCENT_METRICS
from simulsa_plugin.metrics.significance import Interval

MILLISECONDS, SOURCE_TOKENS = "ms", "tokens"  # of source heard, or of source read


def time_unit(signatures: Mapping[str, str]) -> str:
    """Unit of the latencies that a signature describes: that of logs of text sources is a token.

    >>> time_unit({"latency": "unit:word|time:source-tokens|as:SimulEval-1.1.4"}), time_unit({})
    ('tokens', 'ms')
    """
    return SOURCE_TOKENS if "time:source-tokens" in signatures.get("latency", "").split("|") else MILLISECONDS


def metric_unit(metric: str, time: str = MILLISECONDS) -> str:
    """Unit of a metric: that of time for latencies, % for shares, nothing for ratios and for 0…100.

    >>> metric_unit("LAAL_CA"), metric_unit("AP"), metric_unit("BLEU"), metric_unit("SWF")
    ('ms', '', '', '%')
    """
    name = metric.removesuffix("_CU").removesuffix("_CA")
    return "%" if name in PERCENT_METRICS else "" if name in ("BLEU", "chrF", "COMET", "AP", "NE") else time


def format_value(value: float | None) -> str:
    """A value as tables show it; a dash where nothing was measured.

    >>> format_value(12.3456), format_value(None)
    ('12.346', '–')
    """
    return "–" if value is None else f"{value:.3f}"


def format_parameters(parameters: object) -> str:
    """A policy's parameters.

    >>> format_parameters({"wait_k": 3}), format_parameters({})
    ('wait_k=3', '')
    """
    if not isinstance(parameters, Mapping):
        return str(parameters)
    return " ".join(f"{key}={value}" for key, value in parameters.items())


def format_interval(found: Interval | None) -> str:
    """An interval of a value.

    >>> format_interval(Interval(1.0, 2.5, 1000)), format_interval(None)
    ('[1.000, 2.500]', '–')
    """
    return "–" if found is None else f"[{format_value(found.low)}, {format_value(found.high)}]"
