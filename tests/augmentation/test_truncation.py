"""Cuts: the four formulas of docs/method.md with a fixed r on paper, their ranges, and their shape against SciPy's."""

from typing import get_args

import numpy as np
import pytest
from scipy import stats

from simulsa_plugin.augmentation.augment_settings import AugmentSettings, Truncation
from simulsa_plugin.augmentation.method.truncation import cut_samples


class FixedDraw:
    """In place of a numpy Generator, where the formula asks for Beta(alpha, beta) or U[0, 1)."""

    def __init__(self, value):
        self.value, self.parameters = value, []

    def uniform(self):
        return self.value

    def beta(self, alpha, beta):
        self.parameters.append((alpha, beta))
        return self.value


def fixed(duration, r, **settings):
    """Cut with r given, in seconds."""
    rng = FixedDraw(r)
    samples = cut_samples(duration, AugmentSettings(**settings), rng)
    assert rng.parameters in ([], [(settings.get("alpha", 1.0), settings.get("beta", 3.0))])
    return samples / 16_000


@pytest.mark.parametrize(
    ("name", "duration", "r", "seconds"),
    [
        # l = 0.5, m = min(5, D)
        ("beta_decay", 10.0, 0.0, 0.5),
        ("beta_decay", 10.0, 0.25, 1.625),
        ("beta_decay", 10.0, 1.0, 5.0),
        ("beta_decay", 2.5, 0.5, 1.5),  # m = D = 2.5
        ("beta_full", 10.0, 0.25, 2.875),
        ("beta_full", 10.0, 1.0, 10.0),
        ("beta_full", 2.5, 0.5, 1.5),
        ("beta_discrete", 10.0, 0.25, 2.0),  # 1.625 up to 2.0
        ("beta_discrete", 10.0, 0.0, 0.5),  # a multiple already
        ("beta_discrete", 2.3, 0.95, 2.3),  # 2.21 up to 2.5, but at most m = D
        ("beta_discrete", 10.0, 1.0, 5.0),
        ("uniform", 10.0, 0.25, 1.625),
        ("uniform", 2.5, 0.5, 1.5),
    ],
)
def test_formulas_on_paper(name, duration, r, seconds):
    assert fixed(duration, r, truncation=name) == seconds


def test_other_ranges_and_parameters_reach_the_formula():
    # 1 + 0.5 · (3 − 1)
    assert fixed(10.0, 0.5, min_seconds=1.0, max_seconds=3.0, alpha=2.0, beta=5.0) == 2.0


def test_the_cut_is_rounded_to_the_nearest_sample():
    # 0.5 + r · 4.5 s is 8000 + r · 72000 samples; r = 1.4 / 72000 gives 8001.4, 1.6 / 72000 gives 8001.6
    assert fixed(10.0, 1.4 / 72_000) == 8001 / 16_000
    assert fixed(10.0, 1.6 / 72_000) == 8002 / 16_000


@pytest.mark.parametrize("name", get_args(Truncation))
@pytest.mark.parametrize("duration", [8001 / 16_000, 0.75, 3.2, 5.0, 29.99])
def test_cuts_stay_between_l_and_the_audio(name, duration):
    settings = AugmentSettings(truncation=name, alpha=0.5, beta=0.5)  # many draws near both ends
    rng = np.random.default_rng(0)
    cuts = [cut_samples(duration, settings, rng) for _ in range(300)]
    longest = duration if name == "beta_full" else min(5.0, duration)
    assert min(cuts) >= 8000
    assert max(cuts) <= round(longest * 16_000)
    assert max(cuts) > 8000 + 0.8 * (longest - 0.5) * 16_000 or duration < 0.51  # and they reach far


def test_discrete_cuts_are_multiples_of_half_a_second():
    rng = np.random.default_rng(0)
    cuts = {cut_samples(10.0, AugmentSettings(truncation="beta_discrete"), rng) for _ in range(300)}
    assert cuts <= {8000 * i for i in range(1, 11)}
    assert 8000 not in cuts or len(cuts) > 3


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("beta_decay", stats.beta(1, 3, loc=0.5, scale=4.5)),
        ("beta_full", stats.beta(1, 3, loc=0.5, scale=19.5)),
        ("uniform", stats.uniform(loc=0.5, scale=4.5)),
    ],
)
def test_the_shape_is_scipys(name, law):
    rng = np.random.default_rng(7)
    cuts = [cut_samples(20.0, AugmentSettings(truncation=name), rng) / 16_000 for _ in range(4000)]
    assert stats.kstest(cuts, law.cdf).pvalue > 0.01
    assert stats.kstest(cuts, stats.beta(1, 2, loc=0.5, scale=4.5).cdf).pvalue < 1e-6  # so the test can tell
