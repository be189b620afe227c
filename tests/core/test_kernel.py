"""The loop and its observers: re-entrant, resumable, differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from degauss.core.gaussian import Heun, ddim, dpmpp, unipc
from degauss.core.grid import check_grid, uniform_time
from degauss.core.kernel import Event, simulate
from degauss.core.noise import Noise
from degauss.core.observe import Progress, Stop, Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.schedule import Cosine, LinearVP

SOLVERS = {
    "ddim": ddim(),
    "ancestral": ddim(eta=1.0),
    "2M": dpmpp(order=2),
    "SDE 2M": dpmpp(order=2, eta=1.0),
    "unipc": unipc(order=3),
    "heun": Heun,
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
GRID = uniform_time(Cosine(), 9, start=0.97)  # Heun needs alpha > 0
NOISE = Noise(0, range(4))


def oracle() -> MixtureOracle:
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    return MixtureOracle(Cosine(), torch.ones(2).double(), means, 0.1 * torch.eye(2).double().expand(2, 2, 2))


def start(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Counting:
    """Adds the interval's number; its carry is how many steps it has made."""

    def init(self, x: Tensor, grid: Tensor) -> int:
        return 0

    def step(self, carry: int, x: Tensor, i: int, noise: Noise) -> tuple[int, Tensor]:
        return carry + 1, x + i


def test_simulate_steps_through_the_grid_and_shows_every_step() -> None:
    events: list[Event] = []
    x = simulate(Counting(), torch.zeros(1, 2), GRID, NOISE, observe=[events.append])
    assert x.tolist() == [[36, 36]]
    assert [(event.i, event.steps, event.carry) for event in events] == [(i, 9, i + 1) for i in range(9)]
    assert [event.x[0, 0].item() for event in events] == [0, 1, 3, 6, 10, 15, 21, 28, 36]


def test_observers() -> None:
    trajectory, reports = Trajectory(), []
    observers = [
        Progress(lambda done, of: reports.append((done, of))),
        Stop(lambda event: event.i == 3),
        trajectory,
    ]
    x = simulate(Counting(), torch.zeros(1, 2), GRID, NOISE, observe=observers)
    assert x.tolist() == [[6, 6]]
    # Those after the one that stops the run still see its last step.
    assert trajectory.stack().shape == (4, 1, 2)
    assert trajectory.stack()[:, 0, 0].tolist() == [0, 1, 3, 6]
    assert reports == [(1, 9), (2, 9), (3, 9), (4, 9)]


def test_observers_may_come_from_a_generator() -> None:
    seen = []
    simulate(Counting(), torch.zeros(1, 2), GRID, NOISE, observe=(call for call in [seen.append]))
    assert len(seen) == 9


@every_solver
def test_what_a_trajectory_keeps_is_not_overwritten(solver) -> None:
    trajectory, raw = Trajectory(), []
    kernel = solver(oracle(), Cosine())
    x = simulate(kernel, start(), GRID, NOISE, observe=[trajectory, lambda event: raw.append(event.x)])
    assert torch.equal(torch.stack(raw), trajectory.stack())
    assert torch.equal(trajectory.states[-1], x)
    assert len({state.data_ptr() for state in raw}) == len(raw)


@every_solver
def test_the_start_is_left_alone(solver) -> None:
    x = start()
    simulate(solver(oracle(), Cosine()), x, GRID, NOISE)
    assert torch.equal(x, start())


@every_solver
def test_one_kernel_serves_two_runs_at_once(solver) -> None:
    kernel = solver(oracle(), Cosine())
    grids = (GRID, check_grid(GRID**2))
    starts, noises = (start(seed=1), start(seed=2)), (Noise(1, range(4)), Noise(2, range(4)))
    alone = [simulate(kernel, *run) for run in zip(starts, grids, noises, strict=True)]
    states = list(starts)
    carries = [kernel.init(x, grid) for x, grid in zip(starts, grids, strict=True)]
    for i in range(9):
        for run in range(2):
            carries[run], states[run] = kernel.step(carries[run], states[run], i, noises[run])
    for interleaved, separate in zip(states, alone, strict=True):
        assert torch.equal(interleaved, separate)


@every_solver
def test_a_run_resumes_from_its_state_and_carry(solver) -> None:
    events: list[Event] = []
    x = simulate(solver(oracle(), Cosine()), start(), GRID, NOISE, observe=[events.append])
    for event in events[:-1]:
        kernel, noise = solver(oracle(), Cosine()), Noise(0, range(4))  # nothing else survives
        state, carry = event.x, event.carry
        for i in range(event.i + 1, 9):
            carry, state = kernel.step(carry, state, i, noise)
        assert torch.equal(state, x)


@every_solver
def test_gradients_flow_through_a_run(solver) -> None:
    mean = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = start().requires_grad_()

    def loss(x: Tensor, mean: Tensor) -> Tensor:
        kernel = solver(GaussianOracle(Cosine(), mean, 0.8), Cosine())
        return (simulate(kernel, x, GRID, Noise(0, range(4))) ** 3).sum()

    loss(x, mean).backward()
    assert x.grad is not None
    assert mean.grad is not None
    step = 1e-5
    with torch.no_grad():
        numeric = (loss(x, mean + step) - loss(x, mean - step)) / (2 * step)
        torch.testing.assert_close(mean.grad, numeric, rtol=1e-7, atol=0)
        direction = start(seed=5)
        numeric = (loss(x + step * direction, mean) - loss(x - step * direction, mean)) / (2 * step)
        torch.testing.assert_close((x.grad * direction).sum(), numeric, rtol=1e-7, atol=0)


def test_ode_solvers_differentiate_like_the_exact_flow() -> None:
    schedule = LinearVP()
    exact = GaussianOracle(schedule, 0.4, 0.8)
    grid = uniform_time(schedule, 200, start=0.9, end=0.1)
    x = start().requires_grad_()
    end = simulate(Heun(exact, schedule), x, grid, NOISE)
    (gradient,) = torch.autograd.grad(end.sum(), x)
    flow = exact.flow(x, grid[0], grid[-1])
    (expected,) = torch.autograd.grad(flow.sum(), x)
    torch.testing.assert_close(end, flow, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=0)


def test_inference_mode_gives_the_same_run() -> None:
    kernel = dpmpp(order=2)(oracle(), Cosine())
    with torch.inference_mode():
        inside = simulate(kernel, start(), GRID, NOISE)
    x = start().requires_grad_()
    outside = simulate(kernel, x, GRID, NOISE)
    assert torch.equal(inside, outside.detach())
    outside.sum().backward()  # nothing kept from the first run is in the way
