"""``sample``: the right law, the same sample in any batch, and a loud end for what is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import Noise, Point, sample
from degauss.core.gaussian import ddim, dpmpp
from degauss.core.grid import karras
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import EDM, Cosine, RectifiedFlow, Shifted

SOLVERS = {
    "ddim": ddim(),
    "ancestral": ddim(eta=1.0),
    "2M": dpmpp(order=2),
    "3M": dpmpp(order=3),
    "SDE 2M": dpmpp(order=2, eta=1.0),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
gaussian = GaussianOracle(Cosine(), mean=0.5, std=0.7)
draw = partial(sample, gaussian, Cosine())


@every_solver
def test_samples_have_the_law_of_the_data(solver) -> None:
    n = 20_000
    x = draw((n // 10, 10), solver=solver, steps=100, dtype=torch.float64).flatten().numpy()
    # 4.5 standard errors and the error of 100 steps.
    assert abs(x.mean() - 0.5) < 4.5 * 0.7 / math.sqrt(n) + 0.005
    assert abs(x.std() / 0.7 - 1) < 4.5 / math.sqrt(2 * n) + 0.01
    assert stats.kstest((x - x.mean()) / x.std(), "norm").pvalue > 1e-3


@every_solver
@pytest.mark.parametrize("event", [(3,), (2, 5)])
def test_a_sample_does_not_depend_on_its_batch(solver, event: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"solver": solver, "steps": 12, "seed": 3}
    whole = draw((9, *event), **options)
    for ids in (range(4), range(4, 9), [7, 2], [5]):
        part = draw((len(ids), *event), samples=ids, **options)
        assert torch.equal(part, whole[list(ids)])


@every_solver
def test_the_seed_is_the_whole_state(solver) -> None:
    options: dict[str, Any] = {"solver": solver, "steps": 5}
    torch.manual_seed(0)
    first = draw((4, 3), seed=1, **options)
    torch.manual_seed(1)
    assert torch.equal(draw((4, 3), seed=1, **options), first)
    assert not torch.equal(draw((4, 3), seed=2, **options), first)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_precisions_give_the_same_sample(eta: float) -> None:
    options: dict[str, Any] = {"solver": dpmpp(order=2, eta=eta), "steps": 10}
    double = draw((4, 3), dtype=torch.float64, **options)
    single = draw((4, 3), **options)
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_more_steps_refine_the_same_sample() -> None:
    """Keyed Brownian paths: a finer run of an SDE solver converges to the same sample, not to another."""
    ends = [
        draw((64, 5), solver=dpmpp(order=2, eta=1.0), steps=steps, dtype=torch.float64, seed=4)
        for steps in (25, 50, 100, 400)
    ]
    errors = [(end - ends[-1]).square().mean().sqrt().item() for end in ends[:-1]]
    assert errors[0] < 0.2 * 0.7
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]


def test_a_grid_function_or_times() -> None:
    schedule = EDM(80.0)
    denoiser = GaussianOracle(schedule, 0.5, 0.7)
    run = partial(sample, denoiser, schedule, (50, 20), solver=dpmpp(order=2), dtype=torch.float64)
    named = run(steps=60, grid=karras)
    assert torch.equal(named, run(steps=1, grid=karras(schedule, 60)))
    # The flow of the oracle from the same noise is where an exact solver ends.
    x = Noise(0, range(50)).normal(torch.empty(50, 20, dtype=torch.float64)) * 80
    exact = denoiser.flow(x, torch.tensor(1.0), torch.tensor(0.0))
    torch.testing.assert_close(named, exact, rtol=0, atol=0.02)


def test_a_start_inside_the_path_has_its_own_sigma() -> None:
    schedule = Shifted(RectifiedFlow(), 2.0)
    first = []

    def denoiser(x: Tensor, t: Tensor, **cond: object) -> Point:
        first.append((x, t))
        return Point(torch.zeros_like(x))

    sample(denoiser, schedule, (2, 3), solver=ddim(), steps=1, grid=torch.tensor([0.5, 0.0]))
    x, t = first[0]
    assert t.item() == 0.5
    torch.testing.assert_close(x, Noise(0, range(2)).normal(torch.empty(2, 3)) * (2 / 3))


def test_conditions_and_observers_are_passed_on() -> None:
    seen, trajectory = [], Trajectory()

    def denoiser(x: Tensor, t: Tensor, **cond: object) -> Point:
        seen.append(cond)
        return Point(torch.zeros_like(x))

    sample(denoiser, Cosine(), (2, 3), solver=ddim(), steps=4, cond={"label": 1}, observe=[trajectory])
    assert seen == [{"label": 1}] * 4
    assert trajectory.stack().shape == (4, 2, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_an_error(value: float) -> None:
    def broken(x: Tensor, t: Tensor, **cond: object) -> Point:
        return Point(torch.where(t < 0.5, torch.full_like(x, value), x))

    says = r"the denoiser gave 6 non-finite values of 6 at step 4 of 4 \(t = 0\.25\), where its input was finite"
    with pytest.raises(FloatingPointError, match=says):
        sample(broken, Cosine(), (2, 3), solver=ddim(), steps=4)


@dataclass(frozen=True)
class Exploding:
    """A solver whose fourth step overflows."""

    denoiser: Any
    schedule: Any

    def init(self, x: Tensor, grid: Tensor, /) -> None: ...

    def step(self, carry: None, x: Tensor, i: int, noise: Noise, /) -> tuple[None, Tensor]:
        return None, self.denoiser(x, torch.tensor(0.5)).mean * (math.inf if i == 3 else 1.0)


def test_the_step_is_named_where_the_solver_made_it_non_finite() -> None:
    with pytest.raises(FloatingPointError, match="the solver's step 4 of 5 made its state non-finite"):
        sample(gaussian, RectifiedFlow(), (2, 3), solver=Exploding, steps=5)


def test_a_denoiser_that_is_random_is_told_apart() -> None:
    calls = 0

    def moody(x: Tensor, t: Tensor, **cond: object) -> Point:
        nonlocal calls
        calls += 1
        return Point(torch.full_like(x, math.nan) if calls == 2 else x)

    with pytest.raises(FloatingPointError, match="finite ones when repeated"):
        sample(moody, Cosine(), (2, 3), solver=ddim(), steps=3)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_run_without_steps_is_refused(steps: int) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        draw((2, 3), solver=ddim(), steps=steps)


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="keyed for 3 samples"):
        draw((2, 3), solver=ddim(), steps=3, samples=range(3))


@pytest.mark.gpu
@every_solver
def test_devices_agree(solver) -> None:
    options: dict[str, Any] = {"solver": solver, "steps": 12, "seed": 3}
    there = draw((9, 4), device="cuda", **options)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), draw((9, 4), **options), rtol=1e-4, atol=1e-4)
