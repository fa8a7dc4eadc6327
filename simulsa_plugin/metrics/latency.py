"""Latency of one utterance: pure functions over the times at which its units were written.

Symbols: d_i is the delay of unit i = 1…n (milliseconds of source received when it was written), X the length of the
source in milliseconds, Y the number of target units. With elapsed times in place of delays each function gives its
computation-aware counterpart. A function returns None where the definition divides by zero or needs a length that is
unknown.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

SOURCE_TOKEN_MS = 300.0  # ATD's virtual word of the source
TEXT_TOKEN = 1.0  # of source and target, where the source is text and time is counted in its tokens


def average_lagging(
    delays: Sequence[float], source_length: float | None, target_length: int, elapsed: Sequence[float] | None = None
) -> float | None:
    """AL = 1/τ · Σ_{i ≤ τ} (d_i − (i − 1)·X/Y), τ = first i with d_i ≥ X, else n; d_1 where d_1 > X.

    Args:
        delays: d, shape (n,), milliseconds.
        source_length: X, milliseconds; None where unknown.
        target_length: Y, units of the reference (or of the hypothesis).
        elapsed: averaged in the place of d, over the units that d selects, shape (≥ n,), milliseconds. SimulEval's
            computation-aware AL selects by the elapsed times themselves: they reach X sooner, so that it averages
            over fewer units and can lie below AL. Over the same units it cannot.

    Returns:
        Milliseconds; None without delays or source length, where Y or X is 0 and needed, and with fewer elapsed times
        than delays.

    Source: Ma et al. 2019 (arXiv 1810.08398), as SimulEval 1.1.4 computes it.

    >>> average_lagging([1000, 2000, 4000], 4000, 4)
    1333.3333333333333
    """
    times = delays if elapsed is None else elapsed
    if not delays or source_length is None or len(times) < len(delays):
        return None
    if delays[0] > source_length:
        return float(times[0])
    if not source_length or not target_length:
        return None
    until_end = min(_units_before(source_length, delays) + 1, len(delays))
    return _mean_lag(times[:until_end], source_length / target_length)


def length_adaptive_average_lagging(
    delays: Sequence[float], source_length: float | None, target_length: int, elapsed: Sequence[float] | None = None
) -> float | None:
    """LAAL = AL with Y = max(n, target_length), so that writing too much is not rewarded.

    Args, returns: as `average_lagging`.

    Source: Papi et al. 2022 (arXiv 2206.05807), as SimulEval 1.1.4 computes it.

    >>> length_adaptive_average_lagging([1000, 2000, 4000], 4000, 1)
    1000.0
    """
    return average_lagging(delays, source_length, max(len(delays), target_length), elapsed)


def yet_another_average_lagging(
    delays: Sequence[float],
    source_length: float | None,
    target_length: int,
    elapsed: Sequence[float] | None = None,
    *,
    recording_end: float | None = None,
) -> float | None:
    """YAAL = LAAL over the units written strictly before the source (long form: the recording) ended.

    Args: as `average_lagging`, and
        recording_end: for a segment of a longer recording, the end of the recording, milliseconds on the delays' clock.

    Returns:
        Milliseconds; None where nothing was written before the end: such instances are dropped.

    Source: Polák et al. 2025 (arXiv 2509.17349), as OmniSTEval 0.1.10 computes it.

    >>> yet_another_average_lagging([1000, 2000, 4000], 4000, 3)
    833.3333333333334
    """
    times = delays if elapsed is None else elapsed
    if source_length is None or len(times) < len(delays):
        return None
    end = source_length if recording_end is None else recording_end
    before_end = _units_before(end, delays)
    if not before_end or source_length <= 0:
        return None
    return _mean_lag(times[:before_end], source_length / max(len(delays), target_length))


def average_proportion(delays: Sequence[float], source_length: float | None, target_length: int) -> float | None:
    """AP = Σ d_i / (X·Y), a ratio.

    Args: as `average_lagging`.

    Returns:
        A ratio; None without delays, and where X or Y is 0 or unknown.

    Source: Cho and Esipova 2016 (arXiv 1606.02012), as SimulEval 1.1.4 computes it.

    >>> average_proportion([1000, 2000, 4000], 4000, 3)
    0.5833333333333334
    """
    if not delays or not source_length or not target_length:
        return None
    return sum(delays) / (source_length * target_length)


def differentiable_average_lagging(delays: Sequence[float], source_length: float | None) -> float | None:
    """DAL = 1/n · Σ (d'_i − (i − 1)·X/n), d'_1 = d_1, d'_i = max(d_i, d'_{i−1} + X/n).

    Args:
        delays: d, shape (n,), milliseconds.
        source_length: X, milliseconds; None where unknown.

    Returns:
        Milliseconds; None without delays, and where X is 0 or unknown.

    Source: Cherry and Foster 2019 (arXiv 1906.00048), as SimulEval 1.1.4 computes it.

    >>> differentiable_average_lagging([1000, 2000, 4000], 6000)
    1000.0
    """
    if not delays or not source_length:
        return None
    pace = source_length / len(delays)
    paced = itertools.accumulate(delays, lambda before, delay: max(delay, before + pace))
    return _mean_lag(list(paced), pace)


def average_token_delay(
    delays: Sequence[float],
    elapsed: Sequence[float] | None = None,
    *,
    source_token: float = SOURCE_TOKEN_MS,
    target_token: float = 0.0,
) -> float | None:
    """ATD = 1/n · Σ (T(y_t) − T(x_{a(t)})), from the end of the source token a(t) to the end of the target token t.

    The source received between two emissions is cut into tokens of 300 ms; a target token takes no time. From
    text to text, where time is counted in tokens of the source, tokens of both sides take 1.
    With c the chunk of t, S(c) the source tokens received by chunk c and W(c) the target tokens written by it:
    a(t) = min(t − max(0, W(c − 1) − S(c − 1)), S(c)).

    Args:
        delays: d, shape (n,), milliseconds.
        elapsed: for computation-aware ATD, the elapsed times, shape (≥ n,), milliseconds.
        source_token: how long a token of the source is; TEXT_TOKEN where the source is text.
        target_token: how long a token of the target is; likewise.

    Returns:
        Milliseconds; None without delays, or with fewer elapsed times than delays.

    Source: Kano et al. 2023 (arXiv 2211.13173), as SimulEval 1.1.4 computes it while it decodes.

    >>> average_token_delay([1000, 2000, 4000])
    1733.3333333333333
    >>> average_token_delay([1, 2, 2], source_token=TEXT_TOKEN, target_token=TEXT_TOKEN)  # (2 − 1 + 3 − 2 + 4 − 2) / 3
    1.3333333333333333
    """
    if not delays or (elapsed is not None and len(elapsed) < len(delays)):
        return None
    received, token_ends = _source_tokens(list(dict.fromkeys(delays)), source_token)
    ready, last, written = _ready_times(delays, elapsed, target_token), len(received) - 1, 0
    total, heard = sum(ready), 0  # `heard`: chunk of the source token a(t), which never goes back
    for chunk, length in enumerate(_run_lengths(delays), 1):
        behind, received_now = max(0, written - received[min(chunk - 1, last)]), received[min(chunk, last)]
        for token in range(written + 1 - behind, written + length + 1 - behind):
            source = token if token < received_now else received_now
            while received[heard] < source:
                heard += 1
            if heard:
                end = token_ends[heard - 1] + (source - received[heard - 1]) * source_token
                total -= end if end < token_ends[heard] else token_ends[heard]
        written += length
    return total / len(delays)


def start_offset(delays: Sequence[float]) -> float | None:
    """d_1: when the first unit was written, the first-unit latency; None without delays.

    Source: SimulEval 1.1.4's StartOffset.

    >>> start_offset([1000, 2000])
    1000.0
    """
    return float(delays[0]) if delays else None


def end_offset(delays: Sequence[float], source_length: float | None) -> float | None:
    """d_n − X: how long after the source the last unit was written; None without delays, or where X is unknown.

    Source: SimulEval 1.1.4's EndOffset.

    >>> end_offset([1000, 2000], 1500.0)
    500.0
    """
    return delays[-1] - source_length if delays and source_length is not None else None


def _mean_lag(delays: Sequence[float], pace: float) -> float:
    """Mean of d_i − (i − 1)·pace."""
    return (sum(delays) - pace * (len(delays) * (len(delays) - 1) / 2)) / len(delays)


def _units_before(end: float, delays: Sequence[float]) -> int:
    """Count the units before the first one with a delay of at least `end`."""
    for count, delay in enumerate(delays):
        if delay >= end:
            return count
    return len(delays)


def _run_lengths(delays: Sequence[float]) -> list[int]:
    """Return the number of target tokens of each chunk: runs of equal delays."""
    return [len(list(run)) for _, run in itertools.groupby(delays)]


def _source_tokens(chunk_ends: Sequence[float], source_token: float) -> tuple[list[int], list[float]]:
    """Return the source tokens received by the end of each chunk, and the end of the last; entry 0 is the start.

    The tokens are counted, not listed: a log may claim years of audio.
    """
    received, ends = [0], [0.0]
    for start, end in itertools.pairwise([0.0, *chunk_ends]):
        whole, rest = divmod(end - start, source_token)
        whole = max(0.0, whole)
        received.append(received[-1] + int(whole) + (rest != 0))
        ends.append(ends[-1] + whole * source_token + rest)
    return received, ends


def _ready_times(delays: Sequence[float], elapsed: Sequence[float] | None, target_token: float) -> list[float]:
    """Return when each target token is complete: max(delay, end of the previous one) + its duration + computation."""
    if elapsed is None or not any(elapsed):  # SimulEval reads zeros as "not measured"
        computing = [0.0] * len(delays)
    else:
        spent = [passed - delay for passed, delay in zip(elapsed, delays, strict=False)]
        computing = [after - before for before, after in itertools.pairwise([0.0, *spent])]
    ready = [0.0]
    for delay, duration in zip(delays, computing, strict=True):
        ready.append(max(delay, ready[-1]) + target_token + duration)
    return ready[1:]
