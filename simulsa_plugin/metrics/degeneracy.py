"""OmniSTEval's test for degenerate policies: does a low latency hide that the system waited for the end of the source?

SWF is the share of all units that were written before their source ended. EFSW is the share that a system with that
YAAL would write if it kept its pace. A system that waits for the end but for a few units has a small YAAL and few
units before the end: the two differ. Source: OmniSTEval 0.1.10 (Polák et al. 2025, arXiv 2509.17349).
"""

from __future__ import annotations

from collections.abc import Sequence

DEGENERACY_POINTS = 20.0  # percentage points between SWF and EFSW above which OmniSTEval calls a policy degenerate


def simultaneous_units(delays: Sequence[float], source_length: float) -> int:
    """Count the units written before the source ended; SWF is their sum over a corpus, divided by all units.

    >>> simultaneous_units([500.0, 2000.0], 2000.0)
    1
    """
    return sum(delay < source_length for delay in delays)


def expected_milliseconds(yaal: float, source_length: float) -> float:
    """Compute the source left when a system of that YAAL begins; EFSW is its sum over a corpus, divided by all source.

    >>> expected_milliseconds(500.0, 2000.0), expected_milliseconds(3000.0, 2000.0)
    (1500.0, 0.0)
    """
    return max(0.0, source_length - yaal)


def is_degenerate(simultaneous: float | None, expected: float | None) -> bool | None:
    """Whether SWF and EFSW (percent) differ by more than 20 points; None where one is missing.

    >>> is_degenerate(50.0, 75.0), is_degenerate(70.0, 75.0), is_degenerate(None, 75.0)
    (True, False, None)
    """
    return None if simultaneous is None or expected is None else abs(expected - simultaneous) > DEGENERACY_POINTS
