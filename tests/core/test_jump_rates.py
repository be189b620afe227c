"""Rates of corruption against calculus, and against what each must be at its ends."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate
from torch import Tensor

from degauss.core.jump.rates import Cosine, KeptRates, LogLinear, Rates, TotalRates

DOUBLE = torch.float64


def squared(t: Tensor) -> Tensor:
    return (1 - t) ** 2


def accelerating(t: Tensor) -> Tensor:
    return 2 * t + 3 * t**2


ALL = [LogLinear(), LogLinear(1e-3), Cosine(), KeptRates(squared), TotalRates(accelerating)]
every = pytest.mark.parametrize("rates", ALL, ids=["log-linear", "eps", "cosine", "kept", "total"])
INSIDE = torch.linspace(0.01, 0.99, 37, dtype=DOUBLE)


@every
def test_level_is_consistent(rates: Rates) -> None:
    level = rates(INSIDE)
    torch.testing.assert_close(level.alpha + level.gone, torch.ones_like(INSIDE), rtol=0, atol=1e-15)
    step = 1e-6
    slope = (rates(INSIDE - step).alpha - rates(INSIDE + step).alpha) / (2 * step)
    torch.testing.assert_close(level.slope, slope, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(level.rate, level.slope / level.alpha)
    torch.testing.assert_close(level.restoring, level.slope / level.gone)


@every
def test_alpha_is_the_exponential_of_the_integrated_rate(rates: Rates) -> None:
    def rate(t: float) -> float:
        return float(rates(torch.tensor(t, dtype=DOUBLE)).rate)

    for t in (0.2, 0.7, 0.95):
        total, _ = integrate.quad(rate, 0, t)
        assert float(rates(torch.tensor(t)).alpha) == pytest.approx(math.exp(-total), rel=1e-6)


@every
def test_time_is_the_inverse(rates: Rates) -> None:
    torch.testing.assert_close(rates.time(rates(INSIDE).gone), INSIDE, rtol=1e-12, atol=1e-12)
    shaped = INSIDE[:36].reshape(4, 9)
    torch.testing.assert_close(rates.time(rates(shaped).gone), shaped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rates", [LogLinear(), Cosine(), TotalRates(accelerating)], ids=repr)
def test_small_times_keep_their_digits(rates: Rates) -> None:
    t = torch.tensor([1e-15, 1e-9, 1e-4], dtype=DOUBLE)
    rtol = 1e-9 if not isinstance(rates, TotalRates) else 1e-2  # bisection: 2^-60 in absolute terms
    torch.testing.assert_close(rates.time(rates(t).gone), t, rtol=rtol, atol=0)


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
def test_the_ends_are_exact(rates: Rates) -> None:
    level = rates(torch.tensor([0.0, 1.0]))
    assert level.alpha.tolist() == [1.0, 0.0]
    assert level.gone.tolist() == [0.0, 1.0]
    assert level.alpha.dtype == DOUBLE
    assert float(level.rate[1]) == math.inf


def test_eps_is_what_is_kept() -> None:
    assert float(LogLinear(1e-3)(torch.tensor(1.0)).alpha) == 1e-3


def test_cosine_is_the_mask_ratio_of_maskgit() -> None:
    """With a share r of the steps done, cos(pi r / 2) of the positions are masks."""
    done = torch.linspace(0, 1, 11, dtype=DOUBLE)
    torch.testing.assert_close(Cosine()(1 - done).gone, torch.cos(0.5 * math.pi * done))


def test_free_schedules_reproduce_a_named_one() -> None:
    named = LogLinear(0.1)
    by_alpha = KeptRates(lambda t: 1 - 0.9 * t)
    by_total = TotalRates(lambda t: -torch.log1p(-0.9 * t))
    for free in (by_alpha, by_total):
        for got, expected in zip(free(INSIDE), named(INSIDE), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_free_schedules_work_in_inference_mode() -> None:
    with torch.inference_mode():
        slope = KeptRates(squared)(torch.tensor([0.25])).slope
    assert slope.tolist() == [1.5]


def test_schedules_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="everything at t = 0"):
        KeptRates(lambda t: 0.9 - 0.9 * t)
    with pytest.raises(ValueError, match="must fall"):
        KeptRates(lambda t: 1 - 0.5 * torch.sin(3 * t))
    with pytest.raises(ValueError, match="must fall"):
        KeptRates(lambda t: 1 - 2 * t)
    with pytest.raises(ValueError, match="is 0 at t = 0"):
        TotalRates(lambda t: 1 + t)
    with pytest.raises(ValueError, match="must rise"):
        TotalRates(lambda t: -t)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        LogLinear(1.0)
