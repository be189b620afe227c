"""Time grids: published values, ends and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.core.grid import check_grid, karras, uniform_log_snr, uniform_time
from degauss.core.schedule import EDM, VE, Cosine, LinearVP, RectifiedFlow, Schedule


def test_uniform_time() -> None:
    grid = uniform_time(Cosine(), 4)
    assert grid.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert grid.dtype == torch.float64
    assert uniform_time(Cosine(), 2, start=0.9, end=0.1).tolist() == pytest.approx([0.9, 0.5, 0.1])


@given(st.integers(2, 200), st.floats(0.01, 100), st.floats(1e-4, 0.005), st.floats(1, 10))
def test_karras_is_equation_5(steps: int, sigma_max: float, sigma_min: float, rho: float) -> None:
    grid = karras(EDM(sigma_max), steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    sigma = EDM(sigma_max)(grid).sigma.tolist()
    assert len(sigma) == steps + 1
    for i in range(steps):
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        assert sigma[i] == pytest.approx((high + i / (steps - 1) * (low - high)) ** rho, rel=1e-9)
    assert sigma[-1] == 0
    # Its first time is 1 to rounding, on either side.
    checked = check_grid(grid)
    assert checked[0] <= 1


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), RectifiedFlow(), VE(0.001, 100.0)], ids=repr)
def test_karras_levels_on_any_path(schedule: Schedule) -> None:
    grid = karras(schedule, 18, clean=False)
    expected = EDM(80.0)(karras(EDM(80.0), 18, clean=False)).sigma
    assert len(grid) == 19
    torch.testing.assert_close(torch.exp(-0.5 * schedule.log_snr(grid)), expected, rtol=1e-10, atol=0)
    check_grid(grid)


def test_karras_in_one_step() -> None:
    assert karras(EDM(), 1).tolist() == pytest.approx([1, 0])
    assert karras(EDM(), 1, clean=False).tolist() == pytest.approx([1, 0.002 / 80])


@pytest.mark.parametrize("schedule", [LinearVP(), RectifiedFlow(), EDM(), VE()], ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_uniform_log_snr(schedule: Schedule, steps: int) -> None:
    grid = check_grid(uniform_log_snr(schedule, steps, start=0.99, end=0.01))
    assert len(grid) == steps + 1
    assert (grid[0].item(), grid[-1].item()) == (0.99, 0.01)
    gaps = schedule.log_snr(grid).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(steps), rtol=1e-9, atol=0)


def test_uniform_log_snr_needs_finite_ends() -> None:
    for schedule, ends in ((Cosine(), {}), (LinearVP(), {"end": 0.0})):
        with pytest.raises(ValueError, match="infinite"):
            uniform_log_snr(schedule, 10, **ends)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "at least two"),
        ([[1.0, 0.5]], "at least two"),
        ([1.0, 0.5, 0.5], "monotone"),
        ([1.0, 0.5, 0.7], "monotone"),
        ([1.1, 0.5], r"\[0, 1\], got 0.5 to 1.1"),
        ([0.5, -0.1], r"\[0, 1\]"),
        ([1.0, math.nan, 0.0], r"\[0, 1\]"),
        ([math.inf, 0.0], r"\[0, 1\]"),
    ],
)
def test_check_grid_refuses(times: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_grid(torch.tensor(times))


def test_check_grid_takes_both_directions_and_rounds_ends() -> None:
    for times in ([1.0, 0.25, 0.0], [0.0, 0.25, 1.0]):
        grid = check_grid(torch.tensor(times))
        assert grid.tolist() == times
        assert grid.dtype == torch.float64
    assert check_grid(torch.tensor([1 + 1e-15, 0.5, -1e-17], dtype=torch.float64)).tolist() == [1, 0.5, 0]
