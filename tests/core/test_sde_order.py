"""Integrators against solutions in closed form: strong order, weak order, moments, and the two calculi."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.oracle import GeometricBrownian, OrnsteinUhlenbeck
from degauss.core.sde import (
    SRA,
    SRI,
    Additive,
    EulerMaruyama,
    ExponentialStep,
    General,
    Geometric,
    Linear,
    LogStep,
    Milstein,
    Process,
    ReversibleHeun,
    process,
    restate,
)

DOUBLE = torch.float64
PATHS = 1000
STEPS = (16, 32, 64, 128)
GBM = GeometricBrownian(0.5, 0.8)


def grid(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=DOUBLE)


def ends(noise: Noise, x: Tensor) -> Tensor:
    """W(1): halving a grid splits the path, so it is the increment of the grid of one step."""
    return noise.brownian((0.0, 1.0), 0, x)


def summed(noise: Noise, steps: int, x: Tensor) -> Tensor:
    """W(1) as the sum of the increments that a run sees: those of the path are rounded to float32."""
    clock = tuple(grid(steps).tolist())
    return torch.stack([noise.brownian(clock, i, x) for i in range(steps)]).sum(0) / math.sqrt(steps)


def slope(errors: list[float]) -> float:
    """Minus the slope of log error over log steps."""
    h = torch.tensor(STEPS, dtype=DOUBLE).log()
    e = torch.tensor(errors, dtype=DOUBLE).log()
    return float(-((h - h.mean()) * (e - e.mean())).sum() / (h - h.mean()).square().sum())


def strong(kernel, start: float, exact) -> float:
    """The order of the root mean square error at time 1; ``exact(x0, W(1))`` is the solution there."""
    x = torch.full((PATHS, 1), start, dtype=DOUBLE)
    errors = []
    for steps in STEPS:
        noise = Noise(3, range(PATHS))
        error = simulate(kernel, x, grid(steps), noise) - exact(x, ends(noise, x))
        errors.append(float(error.square().mean().sqrt()))
    return slope(errors)


# dx = (x/2 + sqrt(1 + x^2)) dt + sqrt(1 + x^2) dW (Ito) has the solution sinh(arsinh x0 + t + W_t).
SINH = process(lambda t, x: 0.5 * x + (1 + x * x).sqrt(), lambda t, x: (1 + x * x).sqrt(), "ito", separable=True)


def sinh(x: Tensor, w: Tensor) -> Tensor:
    return torch.sinh(torch.asinh(x) + 1 + w)


def fading(t: Tensor) -> Additive:
    """dx = (b / sqrt(1 + t) - x / (2 (1 + t))) dt + a b / sqrt(1 + t) dW with a = 0.5, b = 2."""
    root = (1 + t).rsqrt()
    return Additive(lambda x: 2 * root - 0.5 * x * root**2, root)


FADING = Process(fading, "ito")


def faded(x: Tensor, w: Tensor) -> Tensor:
    return (x + 2 * (1 + 0.5 * w)) / math.sqrt(2)


def growing(t: Tensor) -> Linear:
    """dx = sin(3 t) x dt + (1/2 + t) x dW, whose drift the exponential step does not solve exactly."""
    return Linear(lambda x: (3 * t).sin() * x, 0.5 + t)


@pytest.mark.parametrize(
    ("kernel", "order"),
    [
        (EulerMaruyama(SINH), 0.5),
        (Milstein(SINH), 1.0),
        (Milstein(restate(SINH, "stratonovich")), 1.0),
        (SRI(SINH), 1.5),
        (ReversibleHeun(restate(SINH, "stratonovich")), 1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_strong_order_with_diagonal_noise(kernel, order):
    assert strong(kernel, 0.3, sinh) == pytest.approx(order, abs=0.12)


@pytest.mark.parametrize(
    ("kernel", "order"),
    [
        (EulerMaruyama(FADING), 1.0),
        (Milstein(FADING), 1.0),
        # Of a linear equation these make errors of the drift alone, where they are of order 2.
        (ReversibleHeun(restate(FADING, "stratonovich")), 2.0),
        (SRA(FADING), 2.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_strong_order_with_additive_noise(kernel, order):
    assert strong(kernel, 1.0, faded) == pytest.approx(order, abs=0.12)


@dataclass(frozen=True)
class Areas:
    """The noise of one fine path: u, v so that z and the area of each coarse step are those of the path itself."""

    increments: Tensor

    def brownian(self, clock: tuple[float, ...], i: int, like: Tensor) -> Tensor:
        del like
        fine = len(self.increments)
        steps = (len(clock) - 1) // 2
        part = self.increments.unflatten(0, (steps, -1))[i // 2]
        z = part.sum(0) * math.sqrt(steps)
        area = (part.cumsum(0) - part / 2).sum(0) / fine * steps**1.5
        zeta = (2 * area - z) * math.sqrt(3)
        return (z + zeta if i % 2 == 0 else z - zeta) / math.sqrt(2)


@pytest.mark.parametrize(
    ("kernel", "instant"),
    [
        (SRA, Additive(lambda x: 2 * x.roll(1, -1).sin() - x, torch.tensor(1.0, dtype=DOUBLE))),
        (
            SRI,
            General(lambda x: 2 * x.roll(1, -1).sin() - x, lambda x: 0.5 * (1 + x * x).sqrt(), separable=True),
        ),
    ],
    ids=["SRA", "SRI"],
)
def test_order_three_halves_needs_the_area_and_uses_it(kernel, instant):
    """Each drift is moved by the other coordinate's noise, so without the area no order above 1 is possible.

    The areas that keyed noise gives have the right law, but are not those of a finer grid.
    """
    equation = Process(lambda t: instant, "ito")
    fine, paths = 2048, 250
    x = torch.zeros(paths, 2, dtype=DOUBLE)
    noise, clock = Noise(3, range(paths)), tuple(grid(fine).tolist())
    increments = torch.stack([noise.brownian(clock, i, x) for i in range(fine)]) / math.sqrt(fine)
    exact = simulate(Milstein(equation), x, grid(fine), noise)

    def errors(method, noise) -> list[float]:
        ends = [simulate(method(equation), x, grid(steps), noise) for steps in (4, 8, 16, 32)]
        return [float((end - exact).square().mean().sqrt()) for end in ends]

    of_the_path = errors(kernel, Areas(increments))
    assert slope(of_the_path) > 1.4
    assert of_the_path[-1] < 0.5 * errors(kernel, noise)[-1]
    assert slope(errors(Milstein, noise)) == pytest.approx(1.0, abs=0.15)


def test_exponential_and_log_steps_have_strong_order_one_beyond_geometric_brownian_motion():
    equation = Process(growing, "ito")
    fine = SRI(equation)
    x = torch.ones(PATHS, 1, dtype=DOUBLE)
    exact = simulate(fine, x, grid(512), Noise(3, range(PATHS)))
    geometric = Process(lambda t: Geometric(lambda x: (3 * t).sin() * torch.ones_like(x), 0.5 + t), "ito")
    for kernel in (ExponentialStep(equation), ExponentialStep(geometric), LogStep(geometric)):
        errors = [
            float((simulate(kernel, x, grid(steps), Noise(3, range(PATHS))) - exact).square().mean().sqrt())
            for steps in STEPS
        ]
        assert slope(errors) == pytest.approx(1.0, abs=0.15)


def test_log_step_is_exact_on_geometric_brownian_motion_at_any_step():
    volatility = torch.tensor(GBM.volatility, dtype=DOUBLE)
    equation = Process(lambda t: Geometric(lambda x: torch.full_like(x, GBM.growth), volatility), "ito")
    x = torch.tensor([[1.0], [-2.0]], dtype=DOUBLE)
    for steps in (1, 3, 50):
        found = simulate(LogStep(equation), x, grid(steps), Noise(0, range(2)))
        exact = GBM.solve(x, 1.0, summed(Noise(0, range(2)), steps, x))
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)


def test_exponential_step_is_exact_without_a_drift():
    equation = Process(lambda t: Linear(torch.zeros_like, torch.tensor(1.5, dtype=DOUBLE)), "ito")
    x, noise = torch.ones(5, 2, dtype=DOUBLE), Noise(0, range(5))
    exact = GeometricBrownian(0.0, 1.5).solve(x, 1.0, summed(noise, 8, x))
    torch.testing.assert_close(simulate(ExponentialStep(equation), x, grid(8), noise), exact, rtol=1e-12, atol=0)


def moments(kernel, steps: int, paths: int = 40_000) -> tuple[Tensor, Tensor]:
    """x at time 1 from 1, and the exact solution on the same paths."""
    x = torch.ones(paths // 8, 8, dtype=DOUBLE)
    noise = Noise(5, range(len(x)))
    return simulate(kernel, x, grid(steps), noise), GBM.solve(x, 1.0, ends(noise, x))


def within(values: Tensor, expected: float, deviations: float = 4.0) -> bool:
    """Whether a mean is as expected, up to its standard error."""
    return abs(float(values.mean()) - expected) < deviations * float(values.std()) / math.sqrt(values.numel())


EQUATION = process(GBM.drift, GBM.diffusion, "ito", separable=True)
MEAN = math.exp(GBM.growth)


@pytest.mark.parametrize("kernel", [EulerMaruyama(EQUATION), Milstein(EQUATION)], ids=["Euler", "Milstein"])
def test_weak_order_one_with_the_bias_of_the_closed_form(kernel):
    biases = []
    for steps in (4, 8, 16, 32):
        x, exact = moments(kernel, steps)
        expected = (1 + GBM.growth / steps) ** steps - MEAN  # of both methods
        assert within(x - exact, expected)
        biases.append(-float((x - exact).mean()))
    order = math.log2(biases[0] / biases[-1]) / 3
    assert order == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("kernel", "steps", "extra"),
    [(EulerMaruyama(EQUATION), 8, 0.0), (Milstein(EQUATION), 8, 0.5)],
    ids=["Euler", "Milstein"],
)
def test_second_moment_of_the_closed_form(kernel, steps, extra):
    h, a, b = 1 / steps, GBM.growth, GBM.volatility
    x, _ = moments(kernel, steps)
    assert within(x.square(), ((1 + a * h) ** 2 + b * b * h + extra * b**4 * h * h) ** steps)


@pytest.mark.parametrize(
    "kernel",
    [
        SRI(EQUATION),
        Milstein(restate(EQUATION, "stratonovich")),
        ReversibleHeun(restate(EQUATION, "stratonovich")),
    ],
    ids=["SRI", "Milstein in Stratonovich", "reversible Heun"],
)
def test_moments_of_geometric_brownian_motion(kernel):
    x, _ = moments(kernel, 128)
    assert within(x, MEAN)
    assert within(x.square(), math.exp(2 * GBM.growth + GBM.volatility**2))


def test_euler_on_ornstein_uhlenbeck_has_the_moments_of_its_recursion_and_converges_to_the_process():
    process_ = OrnsteinUhlenbeck(2.0, -1.0, 0.7)
    equation = process(process_.drift, process_.diffusion, "ito", separable=True)
    x = torch.full((5000, 8), 3.0, dtype=DOUBLE)
    for steps in (4, 64):
        h, keep = 1 / steps, 1 - 2.0 / steps
        end = simulate(EulerMaruyama(equation), x, grid(steps), Noise(2, range(5000)))
        mean = -1 + keep**steps * 4
        variance = 0.49 * h * (1 - keep ** (2 * steps)) / (1 - keep**2)
        assert within(end, mean)
        assert within((end - mean).square(), variance)
    assert mean == pytest.approx(float(process_.mean(x, 1.0)[0, 0]), abs=0.03)
    assert variance == pytest.approx(process_.variance(1.0), rel=0.05)


@pytest.mark.parametrize("kernel", [SRA, ReversibleHeun, EulerMaruyama, Milstein])
def test_additive_noise_means_the_same_in_both_calculi(kernel):
    x = torch.ones(3, 2, dtype=DOUBLE)
    name = "stratonovich" if kernel is ReversibleHeun else "ito"
    same = restate(Process(fading, "stratonovich" if name == "ito" else "ito"), name)
    a = simulate(kernel(same), x, grid(8), Noise(0, range(3)))
    b = simulate(kernel(Process(fading, name)), x, grid(8), Noise(0, range(3)))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_wrong_calculus_converges_to_another_process():
    """The must-fail control of ``restate``: Milstein on GBM's coefficients meant as Stratonovich."""
    wrong = process(GBM.drift, GBM.diffusion, "stratonovich", separable=True)
    x, _ = moments(Milstein(wrong), 64)
    assert within(x, math.exp(GBM.growth + 0.5 * GBM.volatility**2))
    assert not within(x, MEAN)


@pytest.mark.parametrize(
    "instant",
    [
        General(lambda x: x.sin(), lambda x: (1 + x * x).sqrt(), separable=True),
        Linear(lambda x: x.sin(), torch.tensor([0.3, 0.7], dtype=DOUBLE)),
        Geometric(lambda x: x.sin(), torch.tensor([0.3, 0.7], dtype=DOUBLE)),
        Additive(lambda x: x.sin(), torch.tensor([0.3, 0.7], dtype=DOUBLE)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_instants_agree_with_autograd_and_restating_twice_changes_nothing(instant):
    x = torch.randn(4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g, slope_ = (value.expand_as(x) for value in instant.diffusion_and_slope(x))
    torch.testing.assert_close(g, instant.diffusion(x).expand_as(x))
    if g.requires_grad:
        torch.testing.assert_close(slope_, torch.autograd.grad(g.sum(), x, retain_graph=True)[0])
    else:
        assert not slope_.any()
    equation = Process(lambda t: instant, "ito")
    there = restate(equation, "stratonovich")
    torch.testing.assert_close(there.at(grid(1))[0].drift(x), instant.drift(x) - 0.5 * g * slope_)
    back = restate(there, "ito").at(grid(1))[0]
    torch.testing.assert_close(back.drift(x), instant.drift(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["Linear", "Geometric"])
def test_a_restated_instant_keeps_its_form(name):
    kind = {"Linear": Linear, "Geometric": Geometric}[name]
    equation = Process(lambda t: kind(torch.sin, torch.tensor(0.5, dtype=DOUBLE)), "stratonovich")
    assert isinstance(restate(equation, "ito").at(grid(1))[0], kind)
    simulate(ExponentialStep(restate(equation, "ito")), torch.ones(2, 1, dtype=DOUBLE), grid(2), Noise(0, range(2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EulerMaruyama(restate(EQUATION, "stratonovich")), "in the ito calculus, got one in stratonovich"),
        (lambda: SRI(restate(EQUATION, "stratonovich")), "SRI expected an equation in the ito calculus"),
        (lambda: LogStep(restate(EQUATION, "stratonovich")), "LogStep expected an equation in the ito calculus"),
        (lambda: ExponentialStep(restate(EQUATION, "stratonovich")), "restate(equation, 'ito')"),
        (lambda: ReversibleHeun(EQUATION), "restate(equation, 'stratonovich') is the same process"),
        (lambda: SRA(EQUATION), "SRI is for noise that depends on the state"),
        (lambda: SRI(process(GBM.drift, GBM.diffusion, "ito")), "depends on x_i alone"),
        (lambda: Milstein(process(GBM.drift, GBM.diffusion, "ito")), "depend on x_i alone"),
        (lambda: ReversibleHeun(restate(process(GBM.drift, GBM.diffusion, "ito"), "stratonovich")), "x_i alone"),
        (lambda: LogStep(FADING), "LogStep expected x (gamma dt + sigma dW)"),
        (lambda: ExponentialStep(FADING), "ExponentialStep expected noise sigma x dW"),
    ],
)
def test_a_method_refuses_what_it_does_not_solve(make, message):
    with pytest.raises(ValueError, match="expected") as error:
        simulate(make(), torch.ones(2, 1, dtype=DOUBLE), grid(2), Noise(0, range(2)))
    assert message in str(error.value)
