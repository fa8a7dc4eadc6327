"""Where to cut: the distributions of docs/method.md, "Choosing rows and cuts" (arXiv 2509.15692)."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from simulsa_plugin.audio.samples import seconds_to_samples
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
        share = float(stats.beta.rvs(settings.alpha, settings.beta, random_state=rng))
        end = duration_seconds if settings.truncation == "beta_full" else high
        cut = low + share * (end - low)
        if settings.truncation == "beta_discrete":
            cut = min(math.ceil(cut / DISCRETE_STEP_SECONDS) * DISCRETE_STEP_SECONDS, high)
    return min(seconds_to_samples(cut), seconds_to_samples(duration_seconds))
