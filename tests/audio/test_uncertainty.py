"""The spread of draws: its formula, its correlation with errors against scipy, and the way back to what is sure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from degauss.audio.enhancement import Estimate
from degauss.audio.uncertainty import correlation, error_map, fall_back, ranked_correlation, summary
from degauss.core import Noise
from degauss.core.errors import InputError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=torch.float64))


def test_the_spread_is_that_of_complex_numbers() -> None:
    """The variance of both parts together, as numpy has it of the complex draws."""
    draws = normal(7, 2, 3, 5)
    mean, sd = summary(draws)
    numbers = draws[:, 0].numpy() + 1j * draws[:, 1].numpy()
    np.testing.assert_allclose(mean[0] + 1j * mean[1], numbers.mean(0))
    np.testing.assert_allclose(sd, numbers.std(0, ddof=1))


def test_draws_that_agree_have_no_spread() -> None:
    draws = normal(1, 2, 3, 5)
    assert not bool(summary(draws).sd.any())
    assert not bool(summary(draws.expand(4, -1, -1, -1)).sd.any())


def test_the_spread_of_many_draws_is_the_law_s() -> None:
    draws = 0.3 * normal(4000, 2, 2, 2)
    torch.testing.assert_close(summary(draws).sd, torch.full((2, 2), 0.3 * 2**0.5).double(), rtol=0.05, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_correlations_are_scipy_s(seed: int, levels: int) -> None:
    """Also where values are tied."""
    sd, error = normal(6, 8, seed=seed), normal(6, 8, seed=seed + 1)
    tied = (sd * levels).round()
    for a, b in ((sd, error), (tied, (error * levels).round()), (sd, 2 * sd + error)):
        if float(a.std()) > 0 and float(b.std()) > 0:
            assert correlation(a, b) == pytest.approx(pearsonr(a.flatten(), b.flatten())[0], abs=1e-12)
            assert ranked_correlation(a, b) == pytest.approx(spearmanr(a.flatten(), b.flatten())[0], abs=1e-12)


def test_a_constant_tells_nothing() -> None:
    assert correlation(torch.ones(4, 4), normal(4, 4)) == 0.0
    assert ranked_correlation(torch.ones(4, 4), normal(4, 4)) == 0.0


def test_where_draws_scatter_most_they_miss_most() -> None:
    """Draws around the truth with a spread that is known bin by bin: it is found, and it tells the error."""
    truth, spread = normal(2, 40, 50, seed=1), 0.01 + normal(40, 50, seed=2).abs()
    draws = truth + spread * normal(8, 2, 40, 50, seed=3)
    mean, sd = summary(draws)
    error = error_map(mean, truth)
    assert correlation(sd, spread) > 0.9
    assert 0.4 < correlation(sd, error) < 0.9
    assert abs(correlation(sd, error[torch.randperm(40, generator=torch.Generator().manual_seed(0))])) < 0.1


def test_the_way_back() -> None:
    truth = normal(2, 4, 5)
    draws = truth + torch.tensor([-1.0, 1.0]).double()[:, None, None, None] * torch.linspace(0, 1, 5).double()
    predictive = torch.zeros_like(truth)
    mean, sd = summary(draws)
    found = fall_back(Estimate(draws, predictive, 1.0), limit=float(sd[0, 2]))
    torch.testing.assert_close(found[..., 0], mean[..., 0])  # sure
    torch.testing.assert_close(found[..., 2], 0.5 * mean[..., 2])  # at the limit
    assert float((found[..., 4] / mean[..., 4]).abs().max()) < 0.25
    never, always = (fall_back(Estimate(draws, predictive, 1.0), limit) for limit in (1e6, 0.0))
    torch.testing.assert_close(never, mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(always[..., 1:], predictive[..., 1:], rtol=0, atol=1e-6)


def test_what_cannot_fall_back_is_refused() -> None:
    draws = normal(3, 2, 4, 5)
    with pytest.raises(InputError, match="expected a StoRM model"):
        fall_back(Estimate(draws, None, 1.0), 0.1)
    with pytest.raises(InputError, match="at least 2 draws"):
        fall_back(Estimate(draws[:1], draws[0], 1.0), 0.1)
    with pytest.raises(InputError, match="fall-back must be"):
        fall_back(Estimate(draws, draws[0], 1.0), -0.1)
