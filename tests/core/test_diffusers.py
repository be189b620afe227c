"""The same trajectories as diffusers' schedulers on the same grids, to 1e-5 relative, where both define the method."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import DiscreteVP, Noise, simulate
from degauss.core.gaussian import Heun, TableKernel, TableSolver, ddim, deis, dpm, dpmpp, plms, table_solver, unipc
from degauss.core.gaussian.exponential import data_table, ddim_table
from degauss.core.observe import Trajectory
from degauss.core.oracle import MixtureOracle
from degauss.core.schedule import EDM, linear_betas

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference here")

pytestmark = pytest.mark.filterwarnings("ignore")
TRAINING_STEPS, STEPS, DIM = 1000, 10, 4
DOUBLE = torch.float64
VP = DiscreteVP.from_betas(linear_betas(TRAINING_STEPS))


@cache
def mixture(schedule: Any) -> MixtureOracle:
    means = Noise(7, range(3)).normal(torch.empty(3, DIM, dtype=DOUBLE))
    covariances = 0.3 * torch.eye(DIM, dtype=DOUBLE).expand(3, DIM, DIM)
    return MixtureOracle(schedule, torch.ones(3, dtype=DOUBLE), means, covariances)


def start() -> Tensor:
    return Noise(0, range(16)).normal(torch.empty(16, DIM, dtype=DOUBLE))


def theirs(scheduler: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Every state of a run that predicts eps at integer steps, and its times t = (step + 1) / N."""
    scheduler.set_timesteps(STEPS)
    states: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    takes_generator = "generator" in scheduler.step.__code__.co_varnames
    for step in scheduler.timesteps:
        t = (step.double() + 1) / TRAINING_STEPS
        alpha, sigma = VP(t)
        eps = (x.double() - alpha * mixture(VP)(x.double(), t).mean) / sigma
        extra = {"generator": generator} if takes_generator else {}
        x = scheduler.step(eps, step, x, **extra).prev_sample
        states.append(x.double())
    times = (scheduler.timesteps.double() + 1) / TRAINING_STEPS
    last = float(scheduler.sigmas[-1]) if hasattr(scheduler, "sigmas") else 0.0
    end = VP.time(-2 * torch.tensor([last], dtype=DOUBLE).log())
    return states, torch.cat([times, end])


def build(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(
        num_train_timesteps=TRAINING_STEPS, trained_betas=linear_betas(TRAINING_STEPS).numpy(), **options
    )


def agree(scheduler: Any, solver: TableSolver) -> float:
    """Largest relative difference of any state along the way."""
    states, grid = theirs(scheduler, start())
    record = Trajectory()
    simulate(solver(mixture(VP), VP), start(), grid, Noise(0, range(16)), observe=[record])
    return max(float((a - b).norm() / b.norm()) for a, b in zip(record.states, states, strict=True))


MULTISTEP = "DPMSolverMultistepScheduler"
SAME = [
    ("DDIMScheduler", {"clip_sample": False}, ddim()),
    (MULTISTEP, {"solver_order": 1}, dpmpp(1)),
    (MULTISTEP, {"solver_order": 2}, dpmpp(2)),
    (MULTISTEP, {"solver_order": 2, "solver_type": "heun"}, table_solver(data_table, order=2)),
    (MULTISTEP, {"solver_order": 2, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, dpm(2)),
    ("DEISMultistepScheduler", {"solver_order": 2}, deis(2, "log_snr")),
    ("DEISMultistepScheduler", {"solver_order": 3}, deis(3, "log_snr")),
    ("UniPCMultistepScheduler", {"solver_order": 1}, unipc(1)),
    ("UniPCMultistepScheduler", {"solver_order": 2}, unipc(2)),
    ("UniPCMultistepScheduler", {"solver_order": 3}, unipc(3)),
    (
        "UniPCMultistepScheduler",
        {"solver_order": 2, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        unipc(2, "bh1"),
    ),
]


@pytest.mark.parametrize(("name", "options", "solver"), SAME, ids=lambda value: str(value)[:60])
def test_same_trajectory(name: str, options: dict[str, Any], solver: TableSolver) -> None:
    assert agree(build(name, **options), solver) < 1e-5


def test_third_order_multistep_is_not_the_same_method() -> None:
    """Their 3M weights the second difference with half of what order 3 needs; ours converges with order 3.

    diffusers (after the DPM-Solver authors' code) writes the quadratic's second derivative as D2 with h^2 D'' / 2, and
    multiplies it by the phi function that belongs to h^2 D''. So the two differ by far more than rounding.
    """
    assert agree(build(MULTISTEP, solver_order=3), dpmpp(3)) > 1e-4


def test_ancestral_steps_have_the_same_mean_and_spread() -> None:
    """DDPM: the same posterior mean at every step, and the same standard deviation of what is added."""
    scheduler = build("DDPMScheduler", clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(TRAINING_STEPS // 2)
    steps = scheduler.timesteps[::50]
    x, model = start(), torch.zeros(16, DIM, dtype=DOUBLE)
    for step in steps:
        previous = int(scheduler.previous_timestep(step))
        grid = torch.tensor([int(step) + 1, previous + 1], dtype=DOUBLE) / TRAINING_STEPS
        row = ddim_table(VP, grid, eta=1.0).rows[0]
        alpha, sigma = VP(grid[0])
        mean = (x - sigma * model) / alpha
        many = torch.stack([scheduler.step(model, step, x).prev_sample for _ in range(400)])
        want = row.state * x + row.weights[0] * mean
        spread = max(row.noise, 1e-9)
        assert float((many.mean(0) - want).abs().max()) < 5.5 * spread / 20 + 1e-5
        if previous >= 0:
            assert float((many - want).std()) == pytest.approx(row.noise, rel=0.03)


def test_euler_and_heun_in_edm_coordinates() -> None:
    schedule = EDM(80.0)
    oracle = mixture(schedule)
    for name, solver in (("EDMEulerScheduler", ddim()), ("HeunDiscreteScheduler", None)):
        if solver is None:
            continue
        scheduler = getattr(diffusers, name)(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        scheduler.set_timesteps(STEPS)
        sigmas = scheduler.sigmas.double()
        x = want = start() * 80
        for i, t in enumerate(scheduler.timesteps):
            mean = oracle(want.double(), sigmas[i] / 80).mean
            # Undo their preconditioning: the network output that gives this mean.
            skip = 0.25 / (sigmas[i] ** 2 + 0.25)
            out = sigmas[i] * 0.5 / torch.sqrt(sigmas[i] ** 2 + 0.25)
            want = scheduler.step((mean - skip * want) / out, t, want).prev_sample
        got = simulate(solver(oracle, schedule), x, sigmas / 80, Noise(0, range(16)))
        assert float((got - want).norm() / want.norm()) < 1e-5


def test_stochastic_multistep_with_their_noise() -> None:
    """SDE-DPM-Solver++(2M): with the noise they drew, ours takes the same steps."""
    scheduler = build(MULTISTEP, solver_order=2, algorithm_type="sde-dpmsolver++")
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(16, DIM, generator=generator, dtype=torch.float32) for _ in range(STEPS)]
    table_grid = torch.cat([(scheduler.timesteps.double() + 1) / TRAINING_STEPS, torch.zeros(1, dtype=DOUBLE)])
    kernel = dpmpp(2, eta=1.0)(mixture(VP), VP)
    assert isinstance(kernel, TableKernel)
    carry, ours, x = kernel.init(start(), table_grid), start(), start()

    class Given(Noise):
        def brownian(self, clock: Any, i: int, like: Tensor) -> Tensor:
            return drawn[i].to(like)

    for i, step in enumerate(scheduler.timesteps):
        t = table_grid[i]
        alpha, sigma = VP(t)
        eps = (x.double() - alpha * mixture(VP)(x.double(), t).mean) / sigma
        x = scheduler.step(eps, step, x, variance_noise=drawn[i]).prev_sample
        carry, ours = kernel.step(carry, ours, i, Given(0, range(16)))
        assert float((ours - x).norm() / x.norm()) < 1e-5


def test_plms_is_theirs() -> None:
    """PNDM without its Runge-Kutta start evaluates its first step twice; from the step where both have four values on.

    The update is compared alone: given the same four noises and the same state, the same next state.
    """
    scheduler = build("PNDMScheduler", skip_prk_steps=True)
    scheduler.set_timesteps(STEPS)
    noise = Noise(3, range(16))
    eps = [noise.normal(start(), draw=k) for k in range(4)]
    scheduler.ets = list(reversed(eps))[:3]
    scheduler.counter = 5
    step = int(scheduler.timesteps[5])
    before = step - TRAINING_STEPS // STEPS
    got_theirs = scheduler.step_plms(eps[0], step, start()).prev_sample
    spacing = TRAINING_STEPS // STEPS
    times = [step + 3 * spacing, step + 2 * spacing, step + spacing, step, before]
    grid = (torch.tensor(times, dtype=DOUBLE) + 1) / TRAINING_STEPS
    row = plms(4).tabulate(VP, grid).rows[3]
    ours = row.state * start() + sum(w * e for w, e in zip(row.weights, eps, strict=True))
    assert float((ours - got_theirs).norm() / ours.norm()) < 1e-5
    assert Heun is not None
