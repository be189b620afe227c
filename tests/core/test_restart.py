"""Restart against its algorithm written out, and what a round does to errors and to laws in closed form."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, RectifiedFlow, Schedule, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import Heun, ddim, dpmpp, unipc
from degauss.core.gaussian.restart import Interval, Restart
from degauss.core.grid import karras, uniform_log_snr, uniform_time
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE = torch.float64
EDM80 = EDM(80.0)


def normals(rows: int, dim: int = 3, seed: int = 0) -> Tensor:
    return Noise(seed, range(rows)).normal(torch.empty(rows, dim, dtype=DOUBLE))


def pair(schedule: Schedule) -> MixtureOracle:
    means = torch.tensor([[1.0, 0.0, 0.5], [-1.0, 0.5, 0.0]], dtype=DOUBLE)
    covariances = torch.diag_embed(torch.tensor([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]], dtype=DOUBLE))
    return MixtureOracle(schedule, torch.tensor([1.0, 2.0], dtype=DOUBLE), means, covariances)


def heun(oracle: MixtureOracle, x: Tensor, levels: list[float]) -> Tensor:
    """EDM's algorithm 1 on given sigmas."""
    for now, then in itertools.pairwise(levels):
        slope = (x - oracle(x, torch.tensor(now / 80, dtype=DOUBLE)).mean) / now
        moved = x + (then - now) * slope
        if then > 0:
            end = (moved - oracle(moved, torch.tensor(then / 80, dtype=DOUBLE)).mean) / then
            moved = x + (then - now) * (slope + end) / 2
        x = moved
    return x


def spaced(high: float, low: float, steps: int) -> list[float]:
    a, b = high ** (1 / 7), low ** (1 / 7)
    return [(a + j / steps * (b - a)) ** 7 for j in range(steps)] + [low]


def test_is_the_published_algorithm() -> None:
    """Xu et al. 2023, algorithm 1, with Heun, two intervals, and one of their levels between those of the grid."""
    oracle, noise = pair(EDM80), Noise(5, range(16))
    grid = karras(EDM80, 12)
    sigmas = (80 * grid).tolist()
    intervals = (Interval(0.07, 0.5, repeats=2, steps=3), Interval(1.1 * sigmas[5], 20.0, steps=2))
    solver = partial(Restart, solver=Heun, intervals=intervals, inflate=1.003)
    got = simulate(solver(oracle, EDM80), 80 * normals(16), grid, noise)

    x, number = 80 * normals(16), 0
    nearest = min(range(13), key=lambda i: abs(sigmas[i] - 0.07))
    assert nearest not in (5, 12)
    for i, (now, then) in enumerate(itertools.pairwise(sigmas)):
        x = heun(oracle, x, [now, then])
        for at, high, repeats, steps in ((5, 20.0, 1, 2), (nearest, 0.5, 2, 3)):
            for _ in range(repeats if i + 1 == at else 0):
                x = x + 1.003 * math.sqrt(high**2 - then**2) * noise.fork(number).normal(x)
                x = heun(oracle, x, spaced(high, then, steps))
                number += 1
    assert number == 3
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [Heun, dpmpp(2), unipc(3), ddim(eta=1.0)], ids=str)
def test_without_intervals_it_is_its_solver(solver: Any) -> None:
    schedule = LinearVP()
    grid = uniform_log_snr(schedule, 12)

    def run(each: Any) -> Tensor:
        return simulate(each(pair(schedule), schedule), normals(8), grid, Noise(1, range(8)))

    assert torch.equal(run(solver), run(partial(Restart, solver=solver, intervals=())))


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), EDM(40.0)]),
    st.floats(0.05, 0.5),
    st.floats(1.5, 8.0),
    st.integers(1, 4),
)
def test_a_round_shrinks_a_difference_by_the_closed_form(
    schedule: Schedule, low: float, factor: float, repeats: int
) -> None:
    """Two states of Gaussian data under the same noise: the way up keeps their difference in y, the ODE shrinks it.

    From k to q the flow scales y by sqrt((s^2 + q^2) / (s^2 + k^2)): the error of an earlier step is forgotten
    geometrically.
    """
    std, high = 0.7, low * factor
    oracle = GaussianOracle(schedule, mean=0.5, std=std)
    levels = torch.tensor([2 * high, low, 0.5 * low], dtype=DOUBLE)
    grid = schedule.time(-2 * levels.log())
    solver = partial(Restart, solver=dpmpp(3), intervals=[Interval(low, high, repeats, steps=150)])

    def difference(each: Any) -> Tensor:
        one, other = (
            simulate(each(oracle, schedule), x, grid, Noise(3, range(4))) for x in (normals(4), normals(4) + 0.1)
        )
        return other - one

    ratio = difference(solver) / difference(dpmpp(3))
    want = ((std**2 + low**2) / (std**2 + high**2)) ** (repeats / 2)
    torch.testing.assert_close(ratio, torch.full_like(ratio, want), rtol=1e-3, atol=0)


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), EDM(40.0)], ids=str)
def test_rounds_keep_the_law_of_the_data(schedule: Schedule) -> None:
    """The added noise has the variance that the level needs: too much or too little would show in the spread."""
    oracle = GaussianOracle(schedule, mean=2.0, std=0.5)
    intervals = (Interval(0.05, 0.6, repeats=8, steps=20), Interval(0.5, 3.0, repeats=4, steps=20))
    grid = uniform_log_snr(schedule, 60, start=0.98, end=1e-3)
    alpha, sigma = (float(scale) for scale in schedule(grid[0]))
    x = 2 * alpha + math.hypot(0.5 * alpha, sigma) * normals(4000, 2)

    def law(**options: Any) -> tuple[float, float]:
        kernel = Restart(oracle, schedule, Heun, intervals, **options)
        end = simulate(kernel, x, grid, Noise(3, range(4000)))
        return float(end.mean()), float(end.std())

    mean, std = law()
    assert mean == pytest.approx(2.0, abs=4 * 0.5 / math.sqrt(8000) + 5e-3)
    assert std == pytest.approx(0.5, rel=4 / math.sqrt(2 * 8000) + 0.01)
    assert law(inflate=1.1)[1] > 0.5 * 1.05


def test_a_round_may_come_down_onto_clean_data() -> None:
    schedule = Cosine()
    oracle = GaussianOracle(schedule, mean=-1.0, std=0.5)
    solver = partial(Restart, solver=dpmpp(2), intervals=[Interval(0.0, 1.0, repeats=3, steps=20)])
    x = sample(oracle, schedule, (4000, 1), solver=solver, steps=40, dtype=DOUBLE)
    assert float(x.mean()) == pytest.approx(-1.0, abs=4 * 0.5 / math.sqrt(4000))
    assert float(x.std()) == pytest.approx(0.5, rel=4 / math.sqrt(8000) + 0.03)


class Counting:
    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.count = 0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.count += 1
        return self.denoiser(x, t, **cond)


def test_evaluations_are_those_of_the_ways_down() -> None:
    intervals = (Interval(0.1, 1.0, repeats=4, steps=3), Interval(1.0, 5.0, repeats=2, steps=5))
    grid = karras(EDM80, 10, clean=False)
    for solver, each in ((Heun, 2), (dpmpp(2), 1)):
        counting = Counting(pair(EDM80))
        kernel = Restart(counting, EDM80, solver, intervals)
        simulate(kernel, 80 * normals(2), grid, Noise(0, range(2)))
        assert counting.count == each * (10 + 4 * 3 + 2 * 5)


def test_every_round_has_noise_of_its_own() -> None:
    """Also inside a stochastic solver, whose path would else be the same in every round and on the main grid."""
    noise = Noise(4, [0, 1])
    big = torch.empty(2, 20000, dtype=DOUBLE)
    draws = [noise.fork(number) for number in range(3)]
    clock = (0.0, 1.0, 2.0)
    values = [each.normal(big) for each in draws] + [each.brownian(clock, 0, big) for each in (noise, *draws)]
    correlation = torch.corrcoef(torch.stack([value.flatten() for value in values]))
    assert float((correlation - torch.eye(len(values))).abs().max()) < 5 / math.sqrt(40000)
    assert noise.fork(0).samples == noise.samples


def test_a_sample_does_not_depend_on_its_batch() -> None:
    schedule = LinearVP()
    grid = uniform_log_snr(schedule, 10)
    for inner in (Heun, ddim(eta=1.0)):
        kernel = Restart(pair(schedule), schedule, inner, [Interval(0.2, 1.0, repeats=2)])
        whole = simulate(kernel, normals(8), grid, Noise(1, range(8)))
        part = simulate(kernel, normals(8)[[6, 2]], grid, Noise(1, [6, 2]))
        torch.testing.assert_close(part, whole[[6, 2]], rtol=1e-12, atol=1e-12)
        assert torch.equal(simulate(kernel, normals(8), grid, Noise(1, range(8))), whole)


def test_is_differentiable() -> None:
    schedule = LinearVP()
    grid = uniform_log_snr(schedule, 6)
    x = normals(2).requires_grad_()

    def end(state: Tensor) -> Tensor:
        kernel = Restart(pair(schedule), schedule, Heun, [Interval(0.2, 1.0, repeats=2)])
        return simulate(kernel, state, grid, Noise(1, range(2))).sum()

    (gradient,) = torch.autograd.grad(end(x), x)
    push = torch.zeros_like(x)
    push[0, 0] = 1e-5
    with torch.no_grad():
        slope = (end(x + push) - end(x - push)) / 2e-5
    assert float(gradient[0, 0]) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "0 <= low < high"),
        ({"low": -1.0, "high": 1.0}, "0 <= low < high"),
        ({"low": 0.1, "high": math.inf}, "0 <= low < high"),
        ({"low": 0.1, "high": math.nan}, "0 <= low < high"),
        ({"low": 0.1, "high": 1.0, "repeats": 0}, "one repeat"),
        ({"low": 0.1, "high": 1.0, "steps": 0}, "one step"),
    ],
)
def test_impossible_intervals_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Interval(**options)


def test_intervals_outside_the_grid_are_refused() -> None:
    def run(interval: Interval) -> Tensor:
        solver = partial(Restart, solver=Heun, intervals=[interval])
        grid = uniform_time(EDM80, 5, start=0.5, end=0.1)
        return sample(pair(EDM80), EDM80, (2, 3), solver=solver, steps=5, grid=grid, dtype=DOUBLE)

    with pytest.raises(InputError, match="above the grid, which starts at k = 40"):
        run(Interval(0.1, 50.0))
    with pytest.raises(InputError, match="no level of the grid below it"):
        run(Interval(0.1, 7.9))
    assert bool(torch.isfinite(run(Interval(8.0, 40.0))).all())
