"""The analytic first step: one step's evaluations less, the prior's closed form, and the error that it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import EDM, Cosine, Denoiser, InputError, LinearVP, Noise, Point, Schedule, sample, simulate
from degauss.core.gaussian import AncestralTwo, Heun, Singlestep, ddim, dpm, dpmpp, plms, unipc
from degauss.core.gaussian.first_step import AnalyticFirstStep
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE = torch.float64
Solver = Callable[..., Any]
SOLVERS: list[tuple[Solver, int]] = [
    (ddim(), 1),
    (ddim(eta=1.0), 1),
    (dpmpp(2), 1),
    (dpmpp(3), 1),
    (dpm(2), 1),
    (plms(4), 1),
    (unipc(3), 1),
    (Heun, 2),
    (partial(Singlestep, order=3), 3),
    (AncestralTwo, 2),
]


def mixture(schedule: Schedule) -> MixtureOracle:
    means = torch.tensor([[1.0, -0.5], [-1.0, 0.0], [0.5, 1.0]], dtype=DOUBLE)
    covariances = 0.09 * torch.eye(2, dtype=DOUBLE).repeat(3, 1, 1)
    return MixtureOracle(schedule, torch.ones(3, dtype=DOUBLE), means, covariances)


def normal(count: int = 16) -> Tensor:
    return Noise(0, range(count)).normal(torch.empty(count, 2, dtype=DOUBLE))


class Counted:
    """Counts the evaluations."""

    def __init__(self, denoiser: Denoiser[Point]) -> None:
        self.denoiser = denoiser
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.calls += 1
        return self.denoiser(x, t, **cond)


@pytest.mark.parametrize(("solver", "saved"), SOLVERS, ids=str)
def test_replaces_the_denoiser_in_the_first_step_and_nowhere_else(solver: Solver, saved: int) -> None:
    schedule = LinearVP()
    grid = uniform_log_snr(schedule, 6, end=1e-3)
    oracle, prior = mixture(schedule), GaussianOracle(schedule, 0.2, 0.8)
    plain, shortened = Counted(oracle), Counted(oracle)
    noise = Noise(3, range(16))
    simulate(solver(plain, schedule), normal(), grid, noise)
    got = simulate(AnalyticFirstStep(solver, 0.2, 0.8)(shortened, schedule), normal(), grid, noise)
    assert shortened.calls == plain.calls - saved

    asked = 0

    def switched(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        nonlocal asked
        asked += 1
        return (prior if asked <= saved else oracle)(x, t)

    assert torch.equal(got, simulate(solver(switched, schedule), normal(), grid, noise))


@pytest.mark.parametrize(("solver", "saved"), SOLVERS, ids=str)
def test_costs_nothing_where_the_prior_is_the_data(solver: Solver, saved: int) -> None:
    del saved
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    grid = uniform_log_snr(schedule, 6, end=1e-3)
    noise = Noise(3, range(16))
    want = simulate(solver(oracle, schedule), normal(), grid, noise)
    assert torch.equal(simulate(AnalyticFirstStep(solver, 1.0, 0.5)(oracle, schedule), normal(), grid, noise), want)


def test_unit_variance_is_the_score_of_the_paper() -> None:
    """On a variance-preserving path, mean 0 and std 1 say that the score is -x: eps = sigma x."""
    schedule = LinearVP()
    grid = torch.tensor([0.9, 0.5], dtype=DOUBLE)
    (alpha, alpha_t), (sigma, sigma_t) = schedule(grid)
    x = normal()
    want = alpha_t * (x - sigma**2 * x) / alpha + sigma_t * sigma * x
    got = simulate(AnalyticFirstStep(ddim())(mixture(schedule), schedule), x, grid, Noise(0, range(16)))
    torch.testing.assert_close(got, want)


def test_std_zero_is_the_constant_mean() -> None:
    schedule = Cosine()
    grid = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    mean = torch.tensor([3.0, -2.0], dtype=DOUBLE)
    end = simulate(AnalyticFirstStep(dpmpp(2), mean, 0.0)(mixture(schedule), schedule), normal(), grid, Noise(0, [0]))
    torch.testing.assert_close(end, mean.expand(16, 2))


def cost(sigma_max: float, mean: float) -> float:
    """How far the analytic first step moves the median sample at the end, its length in log-SNR being the same."""
    schedule = EDM(100.0)
    steps = 2 * round(2 * math.log2(sigma_max / 0.0625))
    grid = uniform_log_snr(schedule, steps, start=sigma_max / 100, end=0.0625 / 100)
    x, noise = sigma_max * normal(64), Noise(0, range(64))
    ends = [
        simulate(solver(mixture(schedule), schedule), x, grid, noise)
        for solver in (dpmpp(2), AnalyticFirstStep(dpmpp(2), mean, 0.8))
    ]
    return float((ends[1] - ends[0]).norm(dim=1).median())


@pytest.mark.parametrize(("mean", "order"), [(0.0, 1), (1 / 6, 2)])
def test_the_higher_the_noise_the_less_it_costs(mean: float, order: int) -> None:
    """A wrong mean is seen as 1 / sigma; with the mean of the data (1/6) what is left, its shape, as 1 / sigma^2."""
    assert math.log(cost(16.0, mean) / cost(64.0, mean), 4) == pytest.approx(order, abs=0.15)


def test_beats_one_step_less_at_equal_evaluations() -> None:
    schedule = EDM(40.0)
    x, noise, oracle = 40 * normal(64), Noise(0, range(64)), mixture(schedule)

    def end(solver: Any, steps: int) -> Tensor:
        grid = uniform_log_snr(schedule, steps, start=1.0, end=0.05 / 40)
        return simulate(solver(oracle, schedule), x, grid, noise)

    exact = end(unipc(3), 2000)
    plain = float((end(dpmpp(2), 8) - exact).norm(dim=1).median())
    analytic = float((end(AnalyticFirstStep(dpmpp(2), 0.0, 0.8), 9) - exact).norm(dim=1).median())
    assert analytic < plain


def test_samples_do_not_depend_on_their_batch_and_gradients_flow() -> None:
    schedule = LinearVP()
    kernel = AnalyticFirstStep(unipc(3), torch.zeros(2, dtype=DOUBLE), 1.0)(mixture(schedule), schedule)
    grid, x = uniform_time(schedule, 5, end=0.01), normal()
    whole = simulate(kernel, x, grid, Noise(0, range(16)))
    part = simulate(kernel, x[3:5], grid, Noise(0, range(3, 5)))
    torch.testing.assert_close(part, whole[3:5], rtol=1e-12, atol=1e-12)
    leaf = x[:2].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(simulate(kernel, leaf, grid, Noise(0, range(2)))[0].sum(), leaf)
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[1].abs().max()) == 0


def test_samples_through_the_front_door() -> None:
    schedule = Cosine()
    solver = AnalyticFirstStep(dpmpp(2), 1.0, 0.5)
    x = sample(GaussianOracle(schedule, 1.0, 0.5), schedule, (4000, 1), solver=solver, steps=30)
    assert float(x.mean()) == pytest.approx(1.0, abs=4 * 0.5 / math.sqrt(4000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": -0.1}, "std must be finite and at least 0, but is -0.1"),
        ({"mean": math.nan}, "mean must be finite, but is nan"),
        ({"std": math.inf}, "std must be finite"),
        ({"std": torch.tensor([0.1, -1.0])}, "std must be finite and at least 0"),
    ],
)
def test_bad_priors_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AnalyticFirstStep(ddim(), **options)
