"""ResShift and RDDM: schedules and posteriors as published and by Bayes' rule, one table for both, free paths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import InputError, LinearVP, Noise, Point, Schedule, simulate
from degauss.core.denoiser import Eps
from degauss.core.gaussian import ddim
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.grid import uniform_time
from degauss.core.oracle import GaussianOracle
from degauss.core.process.bridge import BrownianBridge
from degauss.core.process.centred import Centred, CentredNetwork, perturb
from degauss.core.process.residual import (
    RDDM,
    Parts,
    ResidualDenoiser,
    ResShift,
    TwoPart,
    rddm,
    residual_table,
    resshift,
)

DOUBLE = torch.float64


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def rising(values: list[float]) -> tuple[float, ...]:
    return tuple(sorted(values))


ETAS = st.lists(st.floats(0.001, 0.999), min_size=2, max_size=15, unique_by=lambda v: round(v, 3)).map(rising)


@given(ETAS, st.floats(0.1, 3.0))
def test_resshift_draws_from_the_posterior_by_bayes(etas: tuple[float, ...], kappa: float) -> None:
    """The chain x_t = x_{t-1} + a_t (y - x0) + kappa sqrt(a_t) xi is a random walk around a moving mean.

    Its covariance is kappa^2 eta_s for s < t, from which the law of x_{t-1} given x_t, x0 and y follows.
    """
    schedule, steps = ResShift(etas, kappa), len(etas)
    points = (0.0, *etas)
    for i, row in enumerate(residual_table(schedule, uniform_time(schedule, steps), eta=1.0).rows):
        now, then = points[steps - i], points[steps - i - 1]
        gain = then / now
        # Around y: mean (1 - then) z0 + gain (z - (1 - now) z0).
        assert row.state == pytest.approx(gain, rel=1e-9)
        assert row.weights[0] == pytest.approx((1 - then) - gain * (1 - now), rel=1e-9)
        assert row.noise**2 == pytest.approx(kappa**2 * (then - gain * then), rel=1e-9, abs=1e-15)
        # And as the paper writes it: eta_{t-1}/eta_t x_t + (a_t / eta_t) x0.
        assert row.weights[0] == pytest.approx((now - then) / now, rel=1e-9)


def test_geometric_is_the_published_schedule() -> None:
    """Yue et al. 2023: sqrt(eta_t) = sqrt(eta_1) b^(beta_t), beta_t = ((t-1)/(T-1))^p (T - 1)."""
    steps, kappa, power = 15, 2.0, 0.3
    schedule = ResShift.geometric(steps, kappa, power)
    first, last = min((0.04 / kappa) ** 2, 0.001), 0.999
    base = math.exp(math.log(last / first) / (2 * (steps - 1)))
    beta = (np.arange(steps) / (steps - 1)) ** power * (steps - 1)
    np.testing.assert_allclose(schedule.etas, (math.sqrt(first) * base**beta) ** 2, rtol=1e-12)
    alpha, sigma = schedule(torch.arange(1, 16, dtype=DOUBLE) / 15)
    np.testing.assert_allclose(alpha, 1 - np.array(schedule.etas), rtol=1e-12)
    np.testing.assert_allclose(sigma, kappa * np.sqrt(schedule.etas), rtol=1e-12)


@given(ETAS, st.floats(0.0, 1.0))
def test_every_eta_keeps_the_marginals(etas: tuple[float, ...], eta: float) -> None:
    schedule = ResShift(etas, 1.3)
    grid = uniform_time(schedule, 7)
    alpha, sigma = schedule(grid)
    for i, row in enumerate(residual_table(schedule, grid, eta=eta).rows):
        total = (row.state * sigma[i]) ** 2 + row.noise**2
        assert float(total) == pytest.approx(float(sigma[i + 1] ** 2), rel=1e-9, abs=1e-15)
        assert row.state * alpha[i] + row.weights[0] == pytest.approx(float(alpha[i + 1]), rel=1e-9)


FREE = st.builds(RDDM, st.floats(0, 3), st.floats(0, 3), st.floats(0.05, 2))


@given(FREE, st.integers(2, 12), st.floats(0.0, 1.0))
def test_rddm_is_the_published_update(schedule: RDDM, steps: int, eta: float) -> None:
    """Liu et al. 2024: residual and noise are taken out separately, v = eta beta^2 bbar_s^2 / bbar_t^2."""
    grid = uniform_time(schedule, steps)
    abar, bbar = (v.tolist() for v in (1 - schedule(grid).alpha, schedule(grid).sigma))
    x0, y, x, z = -0.7, 1.9, 0.4, 1.1
    for i, row in enumerate(residual_table(schedule, grid, eta=eta).rows):
        eps = (x - x0 - abar[i] * (y - x0)) / bbar[i]
        v = eta * (bbar[i] ** 2 - bbar[i + 1] ** 2) * bbar[i + 1] ** 2 / bbar[i] ** 2
        kept = math.sqrt(max(bbar[i + 1] ** 2 - v, 0.0))
        want = x - (abar[i] - abar[i + 1]) * (y - x0) - (bbar[i] - kept) * eps + math.sqrt(v) * z
        got = y + row.state * (x - y) + row.weights[0] * (x0 - y) + row.noise * z
        assert got == pytest.approx(want, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_two_networks_that_agree_are_one(eta: float) -> None:
    """Residual and noise computed from one posterior mean give the table's run, on x instead of z."""
    schedule, noise = RDDM(noise=0.5), Noise(0, range(5))
    y = noise.normal(torch.empty(5, 3, dtype=DOUBLE), draw=4)
    oracle = Centred(lambda x, t, /, **cond: Point(torch.sin(x + t)), y)

    def networks(x: Tensor, t: Tensor) -> Parts:
        alpha, sigma = schedule(t)
        mean = oracle(x - y, t).mean
        return Parts(-mean, (x - y - alpha * mean) / sigma)

    grid, z = uniform_time(schedule, 9), 0.5 * noise.normal(y)
    want = y + simulate(rddm(eta)(oracle, schedule), z, grid, Noise(1, range(5)))
    got = simulate(TwoPart(networks, schedule, eta), y + z, grid, Noise(1, range(5)))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_two_networks_need_not_agree() -> None:
    """What each takes out is what it predicted: after the whole path, sum of shares = 1 and of amounts = bbar_T."""
    schedule = RDDM(noise=0.3)
    y = torch.zeros(2, 3, dtype=DOUBLE)
    kernel = TwoPart(lambda x, t: Parts(torch.full_like(x, 2.0), torch.full_like(x, -1.0)), schedule)
    x = simulate(kernel, y, uniform_time(schedule, 7), Noise(0, range(2)))
    torch.testing.assert_close(x, y - 2.0 + 0.3, rtol=1e-12, atol=1e-12)


def test_two_networks_keep_the_contract() -> None:
    schedule = RDDM()

    def run(rows: list[int], weight: Tensor) -> Tensor:
        def networks(x: Tensor, t: Tensor) -> Parts:
            return Parts(torch.tanh(weight * x), torch.cos(x) * t)

        y = Noise(8, rows).normal(torch.empty(len(rows), 2, dtype=DOUBLE))
        return simulate(TwoPart(networks, schedule, 1.0), y, uniform_time(schedule, 5), Noise(0, rows))

    weight = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    whole = run([0, 1, 2, 3], weight)
    assert torch.equal(run([2, 0], weight), whole[[2, 0]])
    (slope,) = torch.autograd.grad(whole.sum(), weight)
    numeric = (run([0, 1, 2, 3], weight + 1e-6) - run([0, 1, 2, 3], weight - 1e-6)).sum() / 2e-6
    torch.testing.assert_close(slope, numeric.detach(), rtol=1e-6, atol=1e-8)


def test_the_deterministic_sampler_is_ddim_on_any_coefficients() -> None:
    """The paper's coefficient transformation: with y = 0, abar = 1 - alpha and bbar = sigma, RDDM is DDIM."""
    for schedule in (LinearVP(), RDDM(), ResShift.geometric()):
        grid = uniform_time(schedule, 20, end=1e-3)
        for row, other in zip(
            residual_table(schedule, grid, eta=0.0).rows, ddim_table(schedule, grid).rows, strict=True
        ):
            assert (row.state, *row.weights, row.noise) == pytest.approx(
                (other.state, *other.weights, other.noise), rel=1e-9, abs=1e-12
            )


def test_the_stochastic_sampler_is_not_ddpm() -> None:
    """Both keep the marginals, yet ResShift's posterior keeps more of the state: its chain knows the residual."""
    schedule = ResShift.geometric()
    grid = uniform_time(schedule, 15)
    ours, ddpm = residual_table(schedule, grid, eta=1.0).rows, ddim_table(schedule, grid, eta=1.0).rows
    assert all(a.state > b.state for a, b in zip(ours[:-1], ddpm[:-1], strict=True))


def test_published_rddm_coefficients() -> None:
    """Sums of the authors' rates, falling (T - i) and rising (i), tend to the closed forms."""
    steps, schedule = 4000, RDDM(noise=0.1)
    x = np.linspace(0, 1, steps)
    t = torch.arange(1, steps + 1, dtype=DOUBLE) / steps
    alpha, sigma = schedule(t)
    np.testing.assert_allclose(1 - alpha, np.cumsum(x[::-1] / x.sum()), atol=2e-3)
    np.testing.assert_allclose(sigma**2, 0.01 * np.cumsum(x / x.sum()), atol=2e-5)


def run_along(schedule: Schedule, told: Schedule, steps: int) -> Tensor:
    """RDDM's deterministic sampler on a path; the denoiser is told the levels of a path at the same t."""
    y = torch.full((64, 2), 0.4, dtype=DOUBLE)
    oracle = GaussianOracle(told, 1.0 - y, f64(0.9, 0.3))
    z = Noise(3, range(64)).normal(y) * schedule(f64(1.0)[0]).sigma
    return y + simulate(rddm()(oracle, schedule), z, uniform_time(schedule, steps), Noise(3, range(64)))


def test_the_deterministic_sampler_does_not_depend_on_the_path() -> None:
    """Residual and noise may be removed in any order, if the denoiser is told abar and bbar and not the step."""
    trained = RDDM(1.0, 1.0, 0.6)
    paths = [RDDM(0.0, 0.0, 0.6), RDDM(3.0, 1.0, 0.6), RDDM(0.0, 2.0, 0.6)]
    for path in paths:
        gaps = [float((run_along(path, path, n) - run_along(trained, trained, n)).abs().max()) for n in (400, 800)]
        assert gaps[1] < 0.03
        assert gaps[1] < 0.65 * gaps[0]
        # The control: told the levels of the trained path, it goes elsewhere.
        assert float((run_along(path, trained, 800) - run_along(trained, trained, 800)).abs().max()) > 0.1


@pytest.mark.parametrize("solver", [resshift(), rddm(), rddm(0.5)], ids=["resshift", "rddm", "rddm, half"])
def test_samples_have_the_conditional_law(solver: Any) -> None:
    schedule, noise = ResShift.geometric(200, kappa=1.0), Noise(2, range(4000))
    y = torch.full((4000, 2), -0.5, dtype=DOUBLE)
    oracle = GaussianOracle(schedule, 1.0 - y, 0.4)
    z = schedule(f64(1.0)[0]).sigma * noise.normal(y)
    x = y + simulate(solver(oracle, schedule), z, uniform_time(schedule, 200), noise)
    assert float(x.mean()) == pytest.approx(1.0, abs=4 * 0.4 / math.sqrt(8000) + 1e-2)
    assert float(x.var()) == pytest.approx(0.16, rel=4 * math.sqrt(2 / 8000) + 0.06)


def test_residual_and_noise_networks_give_the_data_back() -> None:
    """The three parametrisations of RDDM: a network of the residual, of the noise, of both."""
    schedule, noise = RDDM(noise=0.4), Noise(6, range(4))
    x0, y = noise.normal(torch.empty(4, 3, dtype=DOUBLE), draw=1), noise.normal(torch.empty(4, 3, dtype=DOUBLE), draw=2)
    t = f64(0.1, 0.4, 0.6, 0.9)
    x, eps = perturb(schedule, x0, y, t, noise)
    torch.testing.assert_close(ResidualDenoiser(lambda s, time: y - x0, y)(x, t).mean, x0)
    torch.testing.assert_close(CentredNetwork(lambda s, time: eps, schedule, Eps(), y)(x, t).mean, x0)
    # Taking out all that is in x_t at once is one step to t = 0.
    end = simulate(TwoPart(lambda s, time: Parts((y - x0)[3:], eps[3:]), schedule), x[3:], f64(0.9, 0.0), Noise(0, [3]))
    torch.testing.assert_close(end, x0[3:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("etas", [(), (0.5, 0.4), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (0.5, math.nan)])
def test_resshift_refuses_what_does_not_rise(etas: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="rise strictly inside"):
        ResShift(etas)


def test_bad_values_are_refused() -> None:
    for make in (lambda: ResShift((0.5,), kappa=0.0), lambda: RDDM(fall=-1.0), lambda: RDDM(noise=0.0),
                 lambda: ResShift.geometric(steps=1)):  # fmt: skip
        with pytest.raises(InputError, match="but got"):
            make()
    for solver in (rddm, lambda eta: TwoPart(lambda x, t: Parts(x, x), RDDM(), eta)):
        with pytest.raises(InputError, match="eta must be between 0 and 1"):
            solver(1.5)
    bridge = BrownianBridge()
    with pytest.raises(ValueError, match="on a bridge use bbdm"):
        residual_table(bridge, uniform_time(bridge, 5), eta=1.0)
    with pytest.raises(ValueError, match="falls along the grid"):
        TwoPart(lambda x, t: Parts(x, x), RDDM()).init(torch.zeros(1, 1), f64(0.0, 1.0))
    assert ddim() != rddm()
