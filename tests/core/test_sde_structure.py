"""Steps that keep the sign of a state, and the closed form of how often Euler loses it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.observe import Trajectory
from degauss.core.sde import (
    EulerMaruyama,
    ExponentialStep,
    Geometric,
    GeometricSDE,
    Linear,
    LogStep,
    Milstein,
    Process,
)

DOUBLE = torch.float64


def brownian(growth: float, volatility: float) -> Process:
    """Geometric Brownian motion in the form that the log step asks for."""
    sigma = torch.tensor(volatility, dtype=DOUBLE)
    return Process(lambda t: Geometric(lambda x: torch.full_like(x, growth), sigma), "ito")


def states(kernel, x: Tensor, steps: int, end: float = 1.0) -> Tensor:
    """The states after every step."""
    seen = Trajectory()
    simulate(kernel, x, torch.linspace(0, end, steps + 1, dtype=DOUBLE), Noise(1, range(len(x))), observe=(seen,))
    return seen.stack()


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize(("growth", "volatility", "steps"), [(-1.0, 2.0, 4), (0.5, 1.5, 8), (0.0, 1.0, 2)])
def test_euler_flips_signs_as_often_as_predicted_and_the_log_step_never(growth, volatility, steps):
    h, x = 1 / steps, torch.ones(20_000, 1, dtype=DOUBLE)
    share = phi(-(1 + growth * h) / (volatility * math.sqrt(h)))
    signs = torch.cat([x[None].sign(), states(EulerMaruyama(brownian(growth, volatility)), x, steps).sign()])
    flips = (signs.diff(dim=0) != 0).double()
    assert share > 0.01
    assert float(flips.mean()) == pytest.approx(share, abs=4 * math.sqrt(share / flips.numel()))
    ever = 1 - (1 - share) ** steps
    assert float(flips.amax(0).mean()) == pytest.approx(ever, abs=4 * math.sqrt(ever / len(x)))
    assert (states(LogStep(brownian(growth, volatility)), x, steps) > 0).all()


def test_milstein_too_turns_states_negative_where_the_log_step_cannot():
    x = torch.ones(2000, 1, dtype=DOUBLE)
    assert (states(Milstein(brownian(-8.0, 1.0)), x, 4) < 0).any()
    assert (states(LogStep(brownian(-8.0, 1.0)), x, 4) > 0).all()


def test_the_exponential_step_keeps_the_sign_that_its_drift_keeps():
    x = torch.cat([torch.ones(1000, 1), -torch.ones(1000, 1)]).double()
    inside = states(ExponentialStep(brownian(-3.0, 4.0)), x, 4)  # 1 + growth h = 1/4
    beyond = states(ExponentialStep(brownian(-5.0, 4.0)), x, 4)  # 1 + growth h = -1/4
    assert (inside.sign() == x.sign()).all()
    assert (beyond[0].sign() == -x.sign()).all()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 6),
    span=st.floats(0.01, 2.0),
    scale=st.floats(0.1, 1.5),
)
def test_a_learned_geometric_state_keeps_its_sign_whatever_the_weights_and_steps(seed, steps, span, scale):
    torch.manual_seed(seed)
    model = GeometricSDE(3, width=8).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
        x = torch.randn(16, 3, dtype=DOUBLE)
        seen = states(LogStep(model), x, steps, span)
    # A state may underflow to zero, but never passes it.
    assert (seen * x >= 0).all()
    assert (seen != 0).double().mean() > 0.5


def test_both_steps_agree_as_the_step_shrinks_and_zero_stays_zero():
    torch.manual_seed(0)
    model = GeometricSDE(3, width=8).double()
    x = torch.tensor([[1.0, -0.5, 0.0]], dtype=DOUBLE).expand(8, 3)
    with torch.no_grad():
        a, b = (states(kernel, x, 512)[-1] for kernel in (LogStep(model), ExponentialStep(model)))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    assert (a[:, 2] == 0).all()
    assert (b[:, 2] == 0).all()


def test_gradients_flow_through_both_steps():
    x = torch.tensor([[0.7], [-1.2]], dtype=DOUBLE, requires_grad=True)
    sigma = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)
    grid = torch.linspace(0, 1, 4, dtype=DOUBLE)

    def end(kernel, kind):
        def run(x: Tensor, sigma: Tensor) -> Tensor:
            equation = Process(lambda t: kind(torch.sin, sigma * (1 + t)), "ito")
            return simulate(kernel(equation), x, grid, Noise(4, range(2)))

        return run

    for kernel, kind in ((LogStep, Geometric), (ExponentialStep, Geometric), (ExponentialStep, Linear)):
        torch.autograd.gradcheck(end(kernel, kind), (x, sigma))
