"""Stochastic interpolants against closed forms: laws, velocities and scores, and every eps(t) the same marginals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import Cosine, Noise, Point, RectifiedFlow, simulate
from degauss.core.gaussian import dpmpp, unipc
from degauss.core.noise import Clock
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.process.interpolant import (
    Bridge,
    Constant,
    EncodingDecoding,
    Interpolant,
    Linear,
    MixtureMover,
    Motion,
    NoLatent,
    OneSided,
    OneSidedDenoiser,
    OneSidedMover,
    PathAndNoise,
    Sine,
    Transport,
    Trigonometric,
    VelocityAlone,
    interpolate,
    noise_loss,
    path_loss,
    score,
    still,
    velocity,
    velocity_loss,
)

DOUBLE = torch.float64
INTERPOLANTS = [
    Linear(),
    Linear(Bridge(0.3)),
    Linear(Sine()),
    Linear(NoLatent()),
    Trigonometric(),
    Trigonometric(NoLatent()),
    EncodingDecoding(),
]


def tensor(value: Any, *more: float) -> Tensor:
    return torch.tensor((value, *more) if more else value, dtype=DOUBLE)


def mixture(weights: Sequence[float], means: Any, scales: Sequence[float]) -> MixtureOracle:
    """Components whose covariances are scale^2 times a matrix with a correlation."""
    dim = len(means[0])
    shape = torch.eye(dim, dtype=DOUBLE) + (0.4 if dim > 1 else 0.0) * (1 - torch.eye(dim, dtype=DOUBLE))
    covariances = torch.stack([scale**2 * shape for scale in scales])
    return MixtureOracle(RectifiedFlow(), tensor(weights), tensor(means), covariances)


TWO = mixture([0.3, 0.7], [[-1.5, 0.5], [1.0, -1.0]], [0.4, 0.8])
THREE = mixture([0.5, 0.2, 0.3], [[2.0, 2.0], [-1.0, 1.5], [0.0, -2.0]], [0.5, 0.3, 0.9])


def gaussian(mean: float, std: float) -> MixtureOracle:
    return MixtureOracle(RectifiedFlow(), tensor([1.0]), tensor([[mean]]), tensor([[[std**2]]]))


def uniform_grid(steps: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    return torch.linspace(start, end, steps + 1, dtype=DOUBLE)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=str)
def test_ends_are_exact(interpolant: Interpolant) -> None:
    a, b, g = interpolant(tensor(0.0, 1.0))
    assert a.tolist() == [1, 0]
    assert b.tolist() == [0, 1]
    assert g.tolist() == [0, 0]


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=str)
def test_rates_are_derivatives(interpolant: Interpolant) -> None:
    t = tensor(1e-3, 0.2, 0.47, 0.8, 0.999).requires_grad_()
    a, b, g = interpolant(t)
    got = interpolant.rates(t)
    for value, rate in zip((a, b, g**2), got, strict=True):
        (want,) = torch.autograd.grad((value + 0 * t).sum(), t, retain_graph=True)
        torch.testing.assert_close(rate, want, rtol=1e-9, atol=1e-9)


def test_trigonometric_keeps_unit_power() -> None:
    for latent in (Bridge(), Bridge(2.0), NoLatent()):
        power = sum(value**2 for value in Trigonometric(latent)(uniform_grid(20)))
        torch.testing.assert_close(power, torch.ones(21, dtype=DOUBLE), rtol=1e-14, atol=0)


@pytest.mark.parametrize("interpolant", [Linear(), Linear(Sine()), Trigonometric(), EncodingDecoding()], ids=str)
def test_score_is_the_gradient_of_the_log_density(interpolant: Interpolant) -> None:
    mover = MixtureMover(interpolant, TWO, THREE)
    t = tensor(0.05, 0.3, 0.6, 0.95)
    x = Noise(0, range(4)).normal(torch.empty(4, 2, dtype=DOUBLE)).requires_grad_()
    (want,) = torch.autograd.grad(mover.log_density(x, t).sum(), x)
    torch.testing.assert_close(score(interpolant, mover(x, t), t), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("interpolant", [Linear(), Linear(Bridge(0.3)), Trigonometric(), EncodingDecoding()], ids=str)
def test_velocity_transports_the_density(interpolant: Interpolant) -> None:
    """The continuity equation: d/dt log p + v . grad log p + div v = 0."""
    mover = MixtureMover(interpolant, TWO, THREE)
    t = tensor(0.1, 0.35, 0.7, 0.9).requires_grad_()
    x = Noise(1, range(4)).normal(torch.empty(4, 2, dtype=DOUBLE)).requires_grad_()
    in_time, in_space = torch.autograd.grad(mover.log_density(x, t).sum(), (t, x))
    v = velocity(interpolant, mover(x, t), t)
    rows = [torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)]
    terms = torch.stack([in_time, (v * in_space).sum(1), rows[0] + rows[1]]).detach()
    assert float(terms.sum(0).abs().max()) < 1e-9 * float(terms.abs().max())
    assert float(terms.abs().max()) > 0.1


@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric(), EncodingDecoding()], ids=str)
@pytest.mark.parametrize("time", [0.1, 0.5, 0.8])
def test_laws_in_the_middle(interpolant: Interpolant, time: float) -> None:
    """Draws of x_t, and the closed form: mean and covariance of the mixture of sums."""
    count = 20_000
    x0, x1 = TWO.draw(Noise(1, range(count))), THREE.draw(Noise(2, range(count)))
    z = Noise(3, range(count)).normal(x0)
    t = tensor(time)
    x = interpolate(interpolant, x0, x1, z, t)
    # The score of the true law has mean zero, and E[x score^T] = -I.
    s = score(interpolant, MixtureMover(interpolant, TWO, THREE)(x, t), t)
    spread = float(s.std()) / math.sqrt(count)
    assert s.mean(0).abs().max() < 5 * spread
    stein = torch.einsum("bi,bj->ij", x - x.mean(0), s) / count
    torch.testing.assert_close(stein, -torch.eye(2, dtype=DOUBLE), rtol=0, atol=12 * spread)


def test_time_may_differ_in_a_batch() -> None:
    mover = MixtureMover(Linear(), TWO, THREE)
    x = Noise(0, range(3)).normal(torch.empty(3, 2, dtype=DOUBLE))
    together = mover(x, tensor(0.2, 0.5, 1.0))
    for row, time in enumerate((0.2, 0.5, 1.0)):
        alone = mover(x[row : row + 1], tensor(time))
        for got, want in zip(together, alone, strict=True):
            torch.testing.assert_close(got[row : row + 1], want, rtol=1e-12, atol=1e-12)


def fitted(loss: Callable[..., Tensor], interpolant: Interpolant, time: float) -> tuple[float, float]:
    """The minimum over affine networks w x + c of a loss at one time, between two Gaussians: one Newton step."""
    count = 40_000
    x0, x1 = gaussian(-1.0, 0.5).draw(Noise(1, range(count))), gaussian(2.0, 1.5).draw(Noise(2, range(count)))
    z = Noise(3, range(count)).normal(x0)

    def total(parameters: Tensor) -> Tensor:
        def network(x: Tensor, t: Tensor) -> Tensor:
            return parameters[0] * x + parameters[1]

        return loss(network, interpolant, x0, x1, z, torch.full((count,), time, dtype=DOUBLE)).mean()

    start = tensor(0.0, 0.0).requires_grad_()
    (gradient,) = torch.autograd.grad(total(start), start)
    hessian = torch.autograd.functional.hessian(total, start.detach())
    w, c = (-torch.linalg.solve(hessian, gradient)).tolist()
    return w, c


@pytest.mark.parametrize("interpolant", [Linear(), Trigonometric(Bridge(0.5))], ids=str)
@pytest.mark.parametrize("time", [0.02, 0.4, 0.9])
def test_losses_are_least_at_the_exact_motion(interpolant: Interpolant, time: float) -> None:
    t = tensor(time)
    mover = MixtureMover(interpolant, gaussian(-1.0, 0.5), gaussian(2.0, 1.5))

    def exact(x: float) -> tuple[float, float, float]:
        motion = mover(tensor([[x]]), t)
        return float(motion.path), float(motion.noise), float(velocity(interpolant, motion, t))

    lines = [(one - zero, zero) for zero, one in zip(exact(0.0), exact(1.0), strict=True)]
    for loss, (w, c), tolerance in zip((path_loss, noise_loss, velocity_loss), lines, (0.03, 0.03, 0.05), strict=True):
        got = fitted(loss, interpolant, time)
        assert got == pytest.approx((w, c), abs=tolerance * max(1.0, abs(w), abs(c)))


def test_both_signs_tame_the_velocity_near_the_ends() -> None:
    """The gradient of the loss on z alone has a variance that grows as 1/t; on z and -z it does not."""
    count = 4000
    x0, x1 = gaussian(0.0, 1.0).draw(Noise(1, range(count))), gaussian(0.0, 1.0).draw(Noise(2, range(count)))
    z = Noise(3, range(count)).normal(x0)
    t = torch.full((count,), 1e-6, dtype=DOUBLE)
    weight = torch.ones(count, 1, dtype=DOUBLE, requires_grad=True)

    def network(x: Tensor, time: Tensor) -> Tensor:
        return weight * x

    (both,) = torch.autograd.grad(velocity_loss(network, Linear(), x0, x1, z, t).sum(), weight)
    x = interpolate(Linear(), x0, x1, z, t)
    target = x1 - x0 + 0.5 / 1e-3 * z
    (alone,) = torch.autograd.grad((network(x, t) - target).square().sum(), weight)
    assert float(both.detach().std()) < 10
    assert float(alone.detach().std()) > 100


class Probe(Noise):
    """Noise that is 1 for the third row and 0 for the others: an affine step's coefficients in one evaluation."""

    def brownian(self, clock: Clock, i: int, like: Tensor) -> Tensor:
        return tensor([[0.0], [0.0], [1.0]])


def law_after(kernel: Transport, grid: Tensor, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of a normal variable carried along a grid by a kernel whose steps are affine in it."""
    probe, points = Probe(0, range(3)), tensor([[0.0], [1.0], [0.0]])
    carry = kernel.init(points, grid)
    for i in range(len(grid) - 1):
        at_zero, at_one, shaken = kernel.step(carry, points, i, probe)[1][:, 0].tolist()
        slope = at_one - at_zero
        mean, variance = at_zero + slope * mean, slope**2 * variance + (shaken - at_zero) ** 2
    return mean, variance


def law_at(interpolant: Interpolant, t: Tensor) -> tuple[float, float]:
    """Mean and variance of x_t between N(1, 0.5^2) and N(-2, 1.5^2)."""
    a, b, g = interpolant(t)
    return float(a - 2 * b), float((0.5 * a) ** 2 + (1.5 * b) ** 2 + g**2)


def middle_heavy(t: Tensor) -> Tensor:
    return 3 * t * (1 - t)


def early(t: Tensor) -> Tensor:
    return 2 * t**2


def with_sine(t: Tensor) -> Tensor:
    return 2 * Sine().variance(t)


EVERY_EPS = [
    (Linear(), still),
    (Linear(), Constant(0.5)),
    (Linear(), Constant(3.0)),
    (Linear(), middle_heavy),
    (Linear(Bridge(2.0)), early),
    (Trigonometric(), Constant(1.0)),
    (Linear(Sine()), still),
    (Linear(Sine()), with_sine),
    (Linear(NoLatent()), still),
    (Trigonometric(NoLatent()), still),
    (EncodingDecoding(), with_sine),
]


def error(interpolant: Interpolant, diffusion: Any, grid: Tensor) -> float:
    """How far the law at the end of the grid is from that of x_t, in mean and variance."""
    kernel = Transport(MixtureMover(interpolant, gaussian(1.0, 0.5), gaussian(-2.0, 1.5)), interpolant, diffusion)
    got = law_after(kernel, grid, *law_at(interpolant, grid[0]))
    return sum(abs(a - b) for a, b in zip(got, law_at(interpolant, grid[-1]), strict=True))


@pytest.mark.parametrize("backwards", [True, False])
@pytest.mark.parametrize(("interpolant", "diffusion"), EVERY_EPS, ids=str)
def test_every_eps_has_the_same_marginals(interpolant: Interpolant, diffusion: Any, backwards: bool) -> None:
    """From end to end with no cut, in either direction; the order is 2 but for a logarithm where g' is infinite."""
    grids = [uniform_grid(steps) if backwards else uniform_grid(steps).flip(0) for steps in (80, 320)]
    coarse, fine = (error(interpolant, diffusion, grid) for grid in grids)
    assert fine < 4e-3
    assert math.log(coarse / fine) / math.log(4) > 1.6


@pytest.mark.parametrize(("interpolant", "diffusion"), [EVERY_EPS[i] for i in (0, 1, 3, 5, 7)], ids=str)
def test_order_two_between_the_ends(interpolant: Interpolant, diffusion: Any) -> None:
    coarse, fine = (error(interpolant, diffusion, uniform_grid(steps, 0.9, 0.2)) for steps in (50, 100))
    assert math.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


def test_a_wrong_score_costs_the_marginals() -> None:
    """The control: noise without its drift."""
    interpolant = Linear()
    exact = MixtureMover(interpolant, gaussian(1.0, 0.5), gaussian(-2.0, 1.5))
    grid = uniform_grid(100)

    def weak(x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        path, noise = exact(x, t)
        return Motion(path, 0.8 * noise)

    _, variance = law_after(Transport(weak, interpolant, Constant(1.0)), grid, *law_at(interpolant, grid[0]))
    assert abs(variance - 0.25) > 0.02


@pytest.mark.parametrize("diffusion", [still, Constant(1.0)], ids=str)
def test_between_two_mixtures(diffusion: Any) -> None:
    """Samples of one mixture become samples of the other: their scores obey Stein's identity."""
    count = 4000
    interpolant = Linear()
    kernel = Transport(MixtureMover(interpolant, TWO, THREE), interpolant, diffusion)
    start = THREE.draw(Noise(4, range(count)))
    x = simulate(kernel, start, uniform_grid(60), Noise(5, range(count)))
    s = log_score(TWO, x)
    spread = float(s.std()) / math.sqrt(count)
    assert float(s.mean(0).abs().max()) < 5 * spread
    stein = torch.einsum("bi,bj->ij", x - x.mean(0), s) / count
    torch.testing.assert_close(stein, -torch.eye(2, dtype=DOUBLE), rtol=0, atol=15 * spread)
    # The control: the start is no sample of the data.
    assert float(log_score(TWO, start).mean(0).abs().max()) > 20 * spread


def log_score(data: MixtureOracle, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(data.log_density(x, tensor(0.0)).sum(), x)[0]


def test_noise_is_one_brownian_path() -> None:
    """Halving the steps keeps the path, so runs converge strongly."""
    interpolant = Linear()
    kernel = Transport(MixtureMover(interpolant, TWO, THREE), interpolant, Constant(0.5))
    noise, start = Noise(7, range(256)), THREE.draw(Noise(6, range(256)))
    runs = [simulate(kernel, start, uniform_grid(25 * 2**k, 0.9, 0.1), noise) for k in range(4)]
    gaps = [float((a - b).square().mean().sqrt()) for a, b in pairwise(runs)]
    assert gaps[2] < gaps[0] / 3
    assert gaps[2] < 0.02


def test_eps_must_fall_with_the_noise() -> None:
    x, grid = torch.zeros(1, 1, dtype=DOUBLE), uniform_grid(10)
    for interpolant, diffusion in [
        (Linear(Sine()), Constant(1.0)),
        (EncodingDecoding(), Constant(0.1)),
        (Linear(NoLatent()), Constant(1.0)),
        (Linear(), Constant(-1.0)),
        (Linear(), Constant(math.nan)),
    ]:
        with pytest.raises(ValueError, match="does not converge"):
            Transport(MixtureMover(interpolant, TWO, THREE), interpolant, diffusion).init(x, grid)
    # Away from the ends a constant is fine.
    interpolant = Linear(Sine())
    Transport(MixtureMover(interpolant, TWO, THREE), interpolant, Constant(1.0)).init(x, uniform_grid(10, 0.9, 0.1))


def test_one_sided_paths_are_known_schedules() -> None:
    t = tensor(0.0, 1e-3, 0.3, 0.9, 1.0)
    for interpolant, schedule in ((Linear(NoLatent()), RectifiedFlow()), (Trigonometric(NoLatent()), Cosine(s=0.0))):
        for got, want in zip(OneSided(interpolant)(t), schedule(t), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)
    bridge = OneSided(Linear())
    torch.testing.assert_close(bridge(t).sigma, t.sqrt(), rtol=1e-12, atol=1e-12)
    inside = t[1:-1]
    torch.testing.assert_close(bridge.time(bridge.log_snr(inside)), inside, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("interpolant", [Linear(), Linear(NoLatent()), Trigonometric()], ids=str)
def test_one_sided_interpolants_are_gaussian_paths(interpolant: Interpolant) -> None:
    """With x1 ~ N(0, I), the mover and the denoiser are each other's conversions."""
    schedule = OneSided(interpolant)
    normal = MixtureOracle(schedule, tensor([1.0]), torch.zeros(1, 2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE)[None])
    mover = MixtureMover(interpolant, TWO, normal)
    denoiser = MixtureOracle(schedule, TWO.weights, TWO.means, TWO.covariances)
    t = tensor(0.0, 0.05, 0.4, 0.9, 1.0)
    x = Noise(0, range(5)).normal(torch.empty(5, 2, dtype=DOUBLE))
    converted = OneSidedMover(denoiser, interpolant)(x, t)
    for got, want in zip(converted, mover(x, t), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    mean = OneSidedDenoiser(mover, interpolant)(x, t).mean
    torch.testing.assert_close(mean, denoiser(x, t).mean, rtol=1e-9, atol=1e-9)


def test_one_sided_ode_is_the_probability_flow() -> None:
    """Transport and a Gaussian-path solver meet in the closed form of the flow."""
    interpolant = Linear()
    schedule = OneSided(interpolant)
    oracle = GaussianOracle(schedule, 1.5, 0.7)
    x = Noise(0, range(16)).normal(torch.empty(16, 3, dtype=DOUBLE))
    grid = uniform_grid(400, 0.99, 0.01)
    want = oracle.flow(x, grid[0], grid[-1])
    carried = simulate(Transport(OneSidedMover(oracle, interpolant), interpolant), x, grid, Noise(1, range(16)))
    converted = OneSidedDenoiser(OneSidedMover(oracle, interpolant), interpolant)
    solved = simulate(unipc(order=3)(converted, schedule), x, grid, Noise(1, range(16)))
    torch.testing.assert_close(carried, want, rtol=0, atol=1e-3)
    torch.testing.assert_close(solved, want, rtol=0, atol=1e-3)


def test_velocity_alone_drives_the_ode_of_any_path() -> None:
    """A field learned as a whole is integrated as the path of an interpolant without noise."""
    interpolant = Linear()
    data, other = gaussian(1.0, 0.5), gaussian(-2.0, 1.5)
    mover = MixtureMover(interpolant, data, other)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return velocity(interpolant, mover(x, t), t)

    x, grid = other.draw(Noise(0, range(8))), uniform_grid(300, 0.95, 0.05)
    alone = simulate(Transport(VelocityAlone(network), Linear(NoLatent())), x, grid, Noise(0, range(8)))
    whole = simulate(Transport(mover, interpolant), x, grid, Noise(0, range(8)))
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-4)


def test_two_networks_are_a_mover() -> None:
    def path(x: Tensor, t: Tensor, *, scale: float) -> Tensor:
        assert t.dtype == x.dtype
        return scale * x

    def noise(x: Tensor, t: Tensor, *, scale: float) -> Tensor:
        return x + t

    x = torch.ones(2, 3)
    motion = PathAndNoise(path, noise)(x, tensor(0.5), scale=2.0)
    assert torch.equal(motion.path, 2 * x)
    assert torch.equal(motion.noise, x + 0.5)


@pytest.mark.parametrize("diffusion", [still, Constant(0.7)], ids=str)
def test_samples_do_not_depend_on_their_batch(diffusion: Any) -> None:
    interpolant = Linear()

    def mover(x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        return Motion(torch.tanh(x) + t, -0.3 * x)

    kernel = Transport(mover, interpolant, diffusion)
    noise = Noise(3, range(6))
    x = noise.normal(torch.empty(6, 2, 3))
    whole = simulate(kernel, x, uniform_grid(7), noise)
    rows = [4, 0, 5]
    assert torch.equal(simulate(kernel, x[rows], uniform_grid(7), noise.take(rows)), whole[rows])
    assert whole.dtype == torch.float32


def test_gradients_flow_through_a_run() -> None:
    interpolant = Linear()
    weight = tensor(0.3).requires_grad_()

    def end(weight: Tensor, x: Tensor) -> Tensor:
        def mover(x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
            return Motion(weight * torch.sin(x), weight**2 * x)

        return simulate(Transport(mover, interpolant, Constant(0.2)), x, uniform_grid(2), Noise(0, range(2)))

    x = Noise(1, range(2)).normal(torch.empty(2, 1, dtype=DOUBLE)).requires_grad_()
    assert torch.autograd.gradcheck(end, (weight, x))


def test_the_state_given_is_left_alone() -> None:
    def identity(x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        return Motion(x, x)

    x = Noise(0, range(2)).normal(torch.empty(2, 2, dtype=DOUBLE))
    kept = x.clone()
    simulate(Transport(identity, Linear(), Constant(0.2)), x, uniform_grid(4), Noise(0, range(2)))
    assert torch.equal(x, kept)


def test_solvers_of_gaussian_paths_sample_a_one_sided_interpolant() -> None:
    interpolant = Linear(NoLatent())
    oracle = GaussianOracle(RectifiedFlow(), -1.0, 0.5)

    def mover(x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        # The velocity of a rectified flow, as one would learn it.
        mean: Point = oracle(x, t)
        return Motion((x - mean.mean) / t.clamp(min=1e-9), torch.zeros_like(x))

    x = Noise(0, range(8)).normal(torch.empty(8, 1, dtype=DOUBLE))
    grid = uniform_grid(20)
    solver = dpmpp(order=2)
    got = simulate(solver(OneSidedDenoiser(mover, interpolant), OneSided(interpolant)), x, grid, Noise(0, range(8)))
    want = simulate(solver(oracle, RectifiedFlow()), x, grid, Noise(0, range(8)))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
