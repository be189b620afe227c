"""Superposition: the Ito estimator against exact densities, OR as a mixture, AND as equal gains, and its traps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.grid import uniform_log_snr
from degauss.core.guide.superposition import And, Or, Proposal, Superposition, superpose
from degauss.core.observe import Last
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.schedule import EDM, LinearVP

DOUBLE = torch.float64
SCHEDULE = EDM(20.0)


def oracle(first: float, second: float, schedule=SCHEDULE) -> MixtureOracle:
    means = torch.tensor([[first, 0.0], [second, 1.0]], dtype=DOUBLE)
    covariances = torch.stack([0.3 * torch.eye(2, dtype=DOUBLE), 0.6 * torch.eye(2, dtype=DOUBLE)])
    return MixtureOracle(schedule, torch.tensor([0.5, 0.5], dtype=DOUBLE), means, covariances)


def grid(steps: int, schedule=SCHEDULE) -> Tensor:
    return uniform_log_snr(schedule, steps, start=0.995, end=0.02)


@pytest.mark.parametrize("schedule", [SCHEDULE, LinearVP()])
def test_the_density_of_one_model_is_estimated_with_order_a_half(schedule) -> None:
    model = oracle(-1.0, 1.5, schedule)

    def error(steps: int) -> float:
        times = grid(steps, schedule)
        # Only the gains are tested: the start of log q is that of N(0, sigma^2).
        start = float(schedule(times[0]).sigma) * Noise(1, range(256)).normal(torch.empty(256, 2, dtype=DOUBLE))
        last = Last()
        kernel = Superposition((model,), schedule, Or())
        x = simulate(kernel, start, times, Noise(1, range(256)), observe=(last,))
        gained = last.carry.log_q[0] - kernel.init(start, times).log_q[0]
        exact = model.log_density(x, times[-1]) - model.log_density(start, times[0])
        return float((gained - exact).square().mean().sqrt())

    coarse, fine = error(50), error(800)
    assert fine < 0.5
    assert 0.3 < math.log(coarse / fine) / math.log(16) < 0.8


def test_the_densities_of_all_models_are_tracked_along_a_foreign_path() -> None:
    models = (oracle(-1.0, 1.5), GaussianOracle(SCHEDULE, std=1.2))
    times = grid(2000)
    drawn = superpose(models, SCHEDULE, (64, 2), times, rule=Or(), dtype=DOUBLE)
    spread = math.sqrt(1.2**2 + float(SCHEDULE(times[-1]).sigma) ** 2)
    exact = -0.5 * (drawn.x / spread).square().sum(1) - 2 * math.log(spread * math.sqrt(2 * math.pi))
    # The start counts as N(0, sigma^2) in place of each model's own law: a small constant here.
    assert float((drawn.log_q[1] - exact).abs().median()) < 0.25
    mixed = models[0].log_density(drawn.x, times[-1])
    assert float((drawn.log_q[0] - mixed).abs().median()) < 0.25


def test_or_samples_the_mixture_where_the_average_does_not() -> None:
    left = GaussianOracle(SCHEDULE, mean=-3.0, std=0.5)
    right = GaussianOracle(SCHEDULE, mean=3.0, std=0.5)
    drawn = superpose((left, right), SCHEDULE, (2000, 1), grid(200), rule=Or(weights=(1.0, 3.0)), dtype=DOUBLE)
    share = float((drawn.x > 0).double().mean())
    assert abs(share - 0.75) < 0.05
    assert float((drawn.x.abs() - 3).abs().max()) < 2.5
    near = drawn.x[drawn.x > 0]
    assert float(near.std()) == pytest.approx(math.hypot(0.5, 0.4), abs=0.06)  # sigma is 0.4 where the grid ends


def proposal(models: int = 3, v: float = 0.3) -> Proposal:
    def noise(seed: int) -> Noise:
        return Noise(seed, range(models))

    eps = noise(0).normal(torch.empty(models, 7, 4, dtype=DOUBLE))
    kick = Noise(1, range(7)).normal(torch.empty(7, 4, dtype=DOUBLE)) * math.sqrt(v)
    return Proposal(eps, torch.zeros(models, 7, dtype=DOUBLE), kick, 0.9, v)


@pytest.mark.parametrize("models", [2, 3, 4])
def test_and_makes_every_density_gain_the_same(models: int) -> None:
    """Its weights use the very noise of the step: with other noise the gains differ."""
    given = proposal(models)
    kappa = And(ridge=0.0, largest=math.inf)(given)
    assert kappa.shape == (models, 7)
    torch.testing.assert_close(kappa.sum(0), torch.ones(7, dtype=DOUBLE))

    def gains(kick: Tensor) -> Tensor:
        move = kick - (given.v / given.k) * (kappa[..., None] * given.eps).sum(0)
        return -(move * given.eps).sum(-1) / given.k - given.v * given.eps.square().sum(-1) / (2 * given.k**2)

    equal = gains(given.kick)
    torch.testing.assert_close(equal, equal[:1].expand_as(equal), rtol=0, atol=1e-9)
    assert float(gains(given.kick.roll(1, 0)).std(0).min()) > 1e-3


def test_and_is_finite_where_the_models_agree() -> None:
    given = proposal(2)
    same = given._replace(eps=given.eps[:1].expand(2, -1, -1))
    assert bool(torch.isfinite(And()(same)).all())
    nearly = given._replace(eps=torch.stack([given.eps[0], given.eps[0] + 1e-9]))
    assert float(And(largest=5.0)(nearly)[0].abs().max()) <= 5.0


def test_and_balances_the_densities() -> None:
    models = (GaussianOracle(SCHEDULE, mean=-1.0, std=0.8), GaussianOracle(SCHEDULE, mean=1.0, std=1.1))
    gap = {
        rule: superpose(models, SCHEDULE, (256, 2), grid(300), rule=rule, dtype=DOUBLE).log_q.diff(dim=0).abs().median()
        for rule in (And(), Or(temperature=0.0))
    }
    assert gap[And()] < 0.3 * gap[Or(temperature=0.0)]


@pytest.mark.parametrize("rule", [Or(), And()])
def test_a_sample_does_not_depend_on_its_batch(rule) -> None:
    models = (oracle(-1.0, 1.5), oracle(0.0, 2.0))
    whole = superpose(models, SCHEDULE, (6, 2), grid(20), rule=rule, dtype=DOUBLE)
    part = superpose(models, SCHEDULE, (2, 2), grid(20), rule=rule, dtype=DOUBLE, samples=[5, 2])
    torch.testing.assert_close(part.x, whole.x[[5, 2]], rtol=0, atol=1e-10)
    torch.testing.assert_close(part.log_q, whole.log_q[:, [5, 2]], rtol=0, atol=1e-9)


def test_gradients_flow_through_the_densities() -> None:
    std = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    models = (GaussianOracle(SCHEDULE, mean=-1.0, std=std), GaussianOracle(SCHEDULE, mean=1.0, std=1.1))
    drawn = superpose(models, SCHEDULE, (4, 2), grid(10), rule=And(), dtype=DOUBLE)
    (gradient,) = torch.autograd.grad(drawn.log_q.sum() + drawn.x.sum(), std)
    assert torch.isfinite(gradient)
    assert gradient != 0


def test_clean_data_has_no_density() -> None:
    with pytest.raises(ValueError, match="keep it inside"):
        superpose((oracle(0, 1),), SCHEDULE, (2, 2), torch.tensor([1.0, 0.5, 0.0]), rule=Or())


def test_a_broken_model_is_told() -> None:
    with pytest.raises(FloatingPointError, match="non-finite"):
        superpose((GaussianOracle(SCHEDULE, std=math.nan),), SCHEDULE, (2, 2), grid(5), rule=Or())
