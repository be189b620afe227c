"""The Brownian bridge: its law, BBDM's sampler as published and by Bayes' rule, and the step that injects noise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import InputError, Noise, Point, simulate
from degauss.core.gaussian import ddim, dpmpp
from degauss.core.process.bridge import BrownianBridge, DisplacementDenoiser, bbdm, bbdm_table
from degauss.core.process.centred import Centred, CentredNetwork, perturb, sample_centred

DOUBLE = torch.float64
MEAN, STD = 0.8, 0.5


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def conditional(schedule: BrownianBridge, y: Tensor) -> Any:
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2) given y; at t = 1 the state says nothing."""

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = schedule(t)
        if alpha == 0:
            return Point(torch.full_like(x, MEAN))
        noise = (sigma / alpha) ** 2
        return Point((MEAN * noise + (y + (x - y) / alpha) * STD**2) / (noise + STD**2))

    return denoiser


GRIDS = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8, unique_by=lambda t: round(t, 2))


def quadratic(steps: int) -> Tensor:
    """Times (i / steps)^2: the noise vanishes like sqrt(t), and a uniform grid's last step would lose variance."""
    return torch.linspace(1, 0, steps + 1, dtype=DOUBLE) ** 2


def as_grid(times: list[float]) -> Tensor:
    return f64(*sorted(times, reverse=True))


@given(GRIDS, st.floats(0.05, 4.0))
def test_the_sampler_draws_from_the_posterior_by_bayes(times: list[float], variance: float) -> None:
    """x_s given x_t, x0 and y for the bridge sqrt(2 S) B from x0 to y, whose covariance is 2 S s (1 - t) for s < t."""
    grid = as_grid(times)
    for row, t, s in zip(bbdm_table(BrownianBridge(variance), grid).rows, grid, grid[1:], strict=False):
        gain = (2 * variance * s * (1 - t)) / (2 * variance * t * (1 - t))
        spread = 2 * variance * s * (1 - s) - gain * 2 * variance * s * (1 - t)
        assert row.state == pytest.approx(float(gain), rel=1e-9)
        assert row.weights[0] == pytest.approx(float((1 - s) - gain * (1 - t)), rel=1e-9, abs=1e-14)
        assert row.noise == pytest.approx(math.sqrt(float(spread)), rel=1e-6)


@given(GRIDS, st.floats(0.05, 4.0), st.floats(0.0, 1.0))
def test_every_eta_keeps_the_marginals(times: list[float], variance: float, eta: float) -> None:
    """Given x0, every state has the bridge's mean and variance: the noise kept and the noise added make sigma_s^2."""
    grid = f64(1.0, *as_grid(times).tolist(), 0.0)
    schedule = BrownianBridge(variance)
    alpha, sigma = schedule(grid)
    for i, row in enumerate(bbdm_table(schedule, grid, eta=eta).rows):
        total = (row.state * sigma[i]) ** 2 + row.noise**2
        assert float(total) == pytest.approx(float(sigma[i + 1] ** 2), rel=1e-9, abs=1e-14)
        assert row.state * alpha[i] + row.weights[0] == pytest.approx(float(alpha[i + 1]), rel=1e-9)


def published(x: Tensor, y: Tensor, mean: Tensor, m: tuple[float, float], variance: float, eta: float, z: Tensor):
    """One step of BBDM's accelerated sampling (Li et al. 2023), in x and y."""
    m_t, m_s = m
    delta_t, delta_s = (2 * (v - v**2) * variance for v in m)
    inner = (delta_t - delta_s * (1 - m_t) ** 2 / (1 - m_s) ** 2) * delta_s / delta_t
    centre = (1 - m_s) * mean + m_s * y
    return centre + math.sqrt((delta_s - inner) / delta_t) * (x - (1 - m_t) * mean - m_t * y) + (
        eta * math.sqrt(inner) * z
    )  # fmt: skip


def test_it_is_the_published_step() -> None:
    schedule, noise = BrownianBridge(0.7), Noise(0, range(5))
    y = 2 + noise.normal(torch.empty(5, 3, dtype=DOUBLE), draw=3)
    denoiser = conditional(schedule, y)
    grid = f64(0.95, 0.6, 0.35, 0.01)
    x = want = y + 0.2 * noise.normal(y)
    clock = bbdm_table(schedule, grid).clock
    for i in range(3):
        mean, z = denoiser(want, grid[i]).mean, noise.brownian(clock, i, y)
        want = published(want, y, mean, (float(grid[i]), float(grid[i + 1])), 0.7, 1.0, z)
    kernel = bbdm()(Centred(denoiser, y), schedule)
    got = y + simulate(kernel, x - y, grid, Noise(0, range(5)))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_less_noise_as_published_loses_variance() -> None:
    """The trap: at eta < 1 the published step shrinks what it adds but not what it keeps."""
    variance, m_t, m_s, eta = 1.0, 0.6, 0.4, 0.5
    schedule = BrownianBridge(variance)
    sigma_t, sigma_s = (float(schedule(f64(m)).sigma) for m in (m_t, m_s))
    unit = torch.ones(1, dtype=DOUBLE)
    kept = float(published(sigma_t * unit, 0 * unit, 0 * unit, (m_t, m_s), variance, eta, 0 * unit))
    added = float(published(0 * unit, 0 * unit, 0 * unit, (m_t, m_s), variance, eta, unit))
    assert kept**2 + added**2 < 0.8 * sigma_s**2
    row = bbdm_table(schedule, f64(m_t, m_s), eta=eta).rows[0]
    assert (row.state * sigma_t) ** 2 + row.noise**2 == pytest.approx(sigma_s**2)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("variance", [0.1, 1.0, 4.0])
def test_samples_have_the_conditional_law_from_the_observation(eta: float, variance: float) -> None:
    """From x = y at t = 1 to x0 at t = 0, through ``simulate`` alone."""
    schedule, noise = BrownianBridge(variance), Noise(1, range(4000))
    y = torch.full((4000, 2), -1.0, dtype=DOUBLE)
    kernel = bbdm(eta)(Centred(conditional(schedule, y), y), schedule)
    x = y + simulate(kernel, torch.zeros_like(y), quadratic(200), noise)
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(8000) + 5e-3)
    assert float(x.var()) == pytest.approx(STD**2, rel=4 * math.sqrt(2 / 8000) + 0.03)


def test_without_injected_noise_all_samples_are_one() -> None:
    """The control: started at y just before the end of the bridge, a deterministic solver cannot tell samples apart."""
    schedule = BrownianBridge()
    y = torch.full((64, 2), -1.0, dtype=DOUBLE)
    grid = torch.linspace(0.99, 0.0, 101, dtype=DOUBLE)
    collapsed = simulate(ddim()(Centred(conditional(schedule, y), y), schedule), 0 * y, grid, Noise(0, range(64)))
    assert float(collapsed.std()) < 1e-12
    spread = sample_centred(conditional(schedule, y), schedule, y, solver=ddim(), steps=100)
    assert float(spread.std()) == pytest.approx(STD, rel=0.3)


def test_injection_and_table_are_the_same_first_step_in_law() -> None:
    """``sample_centred`` and the table from t = 1 differ in where their noise is drawn, and in nothing else."""
    schedule, y = BrownianBridge(0.5), torch.full((3, 2), 1.5, dtype=DOUBLE)
    grid = f64(1.0, 0.7, 0.2)
    row = bbdm_table(schedule, grid).rows[0]
    assert (row.state, *row.weights, row.noise) == pytest.approx((0.0, 0.3, math.sqrt(2 * 0.5 * 0.7 * 0.3)))
    assert bbdm_table(schedule, grid).rows[1] == bbdm_table(schedule, grid[1:]).rows[0]
    got = simulate(bbdm()(Centred(conditional(schedule, y), y), schedule), 0 * y, grid[:2], Noise(4, range(3)))
    want = 0.3 * (MEAN - y) + row.noise * Noise(4, range(3)).brownian(bbdm_table(schedule, grid[:2]).clock, 0, y)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_displacement_is_defined_on_the_whole_path() -> None:
    """BBDM's objective m (y - x0) + sd eps is x_t - x0, so a network of it gives x0 back, also at t = 0 and 1."""
    schedule, noise = BrownianBridge(2.0), Noise(6, range(5))
    x0 = noise.normal(torch.empty(5, 3, dtype=DOUBLE), draw=1)
    y = noise.normal(x0, draw=2)
    t = f64(0.0, 0.2, 0.5, 0.9, 1.0)
    x, eps = perturb(schedule, x0, y, t, noise)
    objective = t[:, None] * (y - x0) + schedule(t).sigma[:, None] * eps
    got = DisplacementDenoiser(lambda state, time: objective)(x, t).mean
    torch.testing.assert_close(got, x0, rtol=1e-12, atol=1e-12)
    # Where alpha > 0 the noise says the same.
    from degauss.core.denoiser import Eps

    inner = CentredNetwork(lambda state, time: eps[1:4], schedule, Eps(), y[1:4])(x[1:4], t[1:4]).mean
    torch.testing.assert_close(inner, x0[1:4], rtol=1e-10, atol=1e-10)


def test_finer_grids_keep_the_path() -> None:
    """The sampler's noise is one Brownian path: runs on nested grids converge to each other."""
    schedule = BrownianBridge()
    y = torch.full((256, 2), -1.0, dtype=DOUBLE)
    kernel = bbdm()(Centred(conditional(schedule, y), y), schedule)
    ends = [simulate(kernel, 0 * y, quadratic(20 * 2**k), Noise(2, range(256))) for k in range(4)]
    gaps = [float((a - b).pow(2).mean().sqrt()) for a, b in itertools.pairwise(ends)]
    assert gaps[2] < 0.4 * gaps[0]


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="variance > 0, but got"):
        BrownianBridge(-1.0)
    with pytest.raises(InputError, match="eta must be between 0 and 1"):
        bbdm(-0.1)
    with pytest.raises(ValueError, match="no noise to remove"):
        bbdm_table(BrownianBridge(), f64(0.0, 0.5))
    with pytest.raises(FloatingPointError, match="step"):
        sample_centred(
            lambda x, t, /, **cond: Point(x / 0), BrownianBridge(), f64(1.0)[:, None], solver=dpmpp(2), steps=4
        )
