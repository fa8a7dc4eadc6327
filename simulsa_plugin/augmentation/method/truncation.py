"""Where to cut: the distributions of docs/method.md, "Choosing rows and cuts" (arXiv 2509.15692)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from simulsa_plugin.audio.samples import SAMPLE_RATE, seconds_to_samples
from simulsa_plugin.augmentation.augment_settings import AugmentSettings

DISCRETE_STEP_SECONDS = 0.5


def cut_samples(duration_seconds: float, settings: AugmentSettings, rng: np.random.Generator) -> int:
    """Draw a cut, rounded to a sample once.

    D = duration, l = min_seconds, m = min(max_seconds, D), r ~ Beta(alpha, beta):
    beta_decay l + r(m − l) is the paper's; beta_full l + r(D − l), beta_discrete (beta_decay rounded up to 500 ms, at
    most m) and uniform U[l, m] are our reading of its ablations.

    Args:
        duration_seconds: D; greater than l.
        settings: distribution and its parameters.
        rng: the only source of chance.

    Returns:
        samples at 16 kHz, l ≤ cut ≤ D.
    """
    low, high = settings.min_seconds, min(settings.max_seconds, duration_seconds)
    if settings.truncation == "uniform":
        cut = low + float(rng.uniform()) * (high - low)
    else:
        share = float(rng.beta(settings.alpha, settings.beta))
        end = duration_seconds if settings.truncation == "beta_full" else high
        cut = low + share * (end - low)
        if settings.truncation == "beta_discrete":
            cut = min(math.ceil(cut / DISCRETE_STEP_SECONDS) * DISCRETE_STEP_SECONDS, high)
    return min(seconds_to_samples(cut), seconds_to_samples(duration_seconds))


def expected_cuts(
    edges: Sequence[float], durations: Sequence[float], settings: AugmentSettings
) -> npt.NDArray[np.float64]:
    """Return how many cuts of these utterances are expected in each bin, as `cut_samples` draws them.

    Args:
        edges: of the bins [edge, next edge), seconds, rising; (num_bins + 1,).
        durations: of the utterances, seconds.
        settings: distribution and its parameters.

    Returns:
        (num_bins,).

    >>> expected_cuts([0.5, 1.0, 2.5], [2.5, 9.0], AugmentSettings(truncation="uniform", max_seconds=2.5)).tolist()
    [0.5, 1.5]
    """
    from scipy import special

    lengths, times = np.maximum(durations, settings.min_seconds)[:, None], np.asarray(edges)[None, :]
    high = np.minimum(lengths, settings.max_seconds)
    if settings.truncation == "beta_discrete":  # the largest step before the edge, unless the cut ends before it
        times = np.where(times > high, times, (np.ceil(times / DISCRETE_STEP_SECONDS) - 1) * DISCRETE_STEP_SECONDS)
    span = (lengths if settings.truncation == "beta_full" else high) - settings.min_seconds
    share = (times - settings.min_seconds) / np.maximum(span, 1 / SAMPLE_RATE)
    share = np.clip(share, 0.0, 1.0)
    below = share if settings.truncation == "uniform" else special.betainc(settings.alpha, settings.beta, share)
    counts: npt.NDArray[np.float64] = np.diff(below.sum(axis=0))
    return counts
