"""Numbers as people read them: units, decimals, parameters, intervals."""

from __future__ import annotations

from collections.abc import Mapping

from simulsa_plugin.metrics.instance import PERCENT
from simulsa_plugin.metrics.significance import Interval

MILLISECONDS, SOURCE_TOKENS = "ms", "tokens"  # of source heard, or of source read


def time_unit(signatures: Mapping[str, str]) -> str:
    """Unit of the latencies that a signature describes: that of logs of text sources is a token.

    >>> time_unit({"latency": "unit:word|time:source-tokens|as:SimulEval-1.1.4"}), time_unit({})
    ('tokens', 'ms')
    """
    return SOURCE_TOKENS if "time:source-tokens" in signatures.get("latency", "").split("|") else MILLISECONDS


def unit_of(metric: str, time: str = MILLISECONDS) -> str:
    """Unit of a metric: that of time for latencies, % for shares, nothing for ratios and for 0…100.

    >>> unit_of("LAAL_CA"), unit_of("AP"), unit_of("BLEU"), unit_of("SWF")
    ('ms', '', '', '%')
    """
    name = metric.removesuffix("_CU").removesuffix("_CA")
    return "%" if name in PERCENT else "" if name in ("BLEU", "chrF", "COMET", "AP", "NE") else time


def shown(value: float | None) -> str:
    """A value as tables show it; a dash where nothing was measured.

    >>> shown(12.3456), shown(None)
    ('12.346', '–')
    """
    return "–" if value is None else f"{value:.3f}"


def shown_parameters(parameters: object) -> str:
    """A policy's parameters.

    >>> shown_parameters({"wait_k": 3}), shown_parameters({})
    ('wait_k=3', '')
    """
    if not isinstance(parameters, Mapping):
        return str(parameters)
    return " ".join(f"{key}={value}" for key, value in parameters.items())


def shown_interval(found: Interval | None) -> str:
    """An interval of a value.

    >>> shown_interval(Interval(1.0, 2.5, 1000)), shown_interval(None)
    ('[1.000, 2.500]', '–')
    """
    return "–" if found is None else f"[{shown(found.low)}, {shown(found.high)}]"
