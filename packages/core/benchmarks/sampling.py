"""How much the sampling loop costs beside the network: ours, a hand-written loop, diffusers, in one run.

The denoiser is trivial (mean = x / 2), one thread, 50 steps. Every figure is the fastest of many rounds in which all
contestants take turns: what is left when nothing else disturbs the machine. What counts are the ratios.

    python packages/core/benchmarks/sampling.py
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degauss.core.gaussian import (
    Row,
    TableSolver,
    dc,
    ddim,
    deis,
    dpm,
    dpmpp,
    dpmpp_hb,
    fit_olss,
    ghvb,
    ghvb_variable,
    hb,
    olss,
    plms,
    table_solver,
    unipc,
)
from degauss.core.grid import uniform_log_snr
from degauss.core.inversion.two_state import bdia_table, belm_table
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import DiscreteVP, linear_betas

STEPS = 50
SHAPES = ((64, 1, 64, 64), (64, 2))
SCHEDULE = DiscreteVP.from_betas(linear_betas(1000))
GRID = uniform_log_snr(SCHEDULE, STEPS)
TIMES = GRID.unbind()


def denoise(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
    """The trivial denoiser."""
    del t, cond
    return Point(x * 0.5)


def bend(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
    """Something that a solver can be fitted to."""
    del t, cond
    return Point(torch.tanh(x))


@dataclass(frozen=True)
class Method:
    """A solver of ours, and diffusers' class and options for the same method, where it has it."""

    solver: TableSolver
    peer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def methods() -> dict[str, Method]:
    """Every table solver."""
    multistep = "DPMSolverMultistepScheduler"
    x = 0.5 * Noise(0, range(16)).normal(torch.empty(16, 8))
    fitted = fit_olss(bend, SCHEDULE, x, GRID)
    ratios = (1.0, 1.0, *[0.9] * (STEPS - 2))
    return {
        "DDIM": Method(ddim(), "DDIMScheduler", {"prediction_type": "sample", "clip_sample": False}),
        "DPM-Solver++(2M)": Method(dpmpp(2), multistep, {"solver_order": 2, "prediction_type": "sample"}),
        "DPM-Solver++(3M)": Method(dpmpp(3), multistep, {"solver_order": 3, "prediction_type": "sample"}),
        "DPM-Solver(2M)": Method(
            dpm(2), multistep, {"algorithm_type": "dpmsolver", "solver_order": 2, "final_sigmas_type": "sigma_min"}
        ),
        "UniPC-2": Method(unipc(2), "UniPCMultistepScheduler", {"solver_order": 2, "prediction_type": "sample"}),
        "UniPC-3": Method(unipc(3), "UniPCMultistepScheduler", {"solver_order": 3, "prediction_type": "sample"}),
        "DEIS-3": Method(deis(3, axis="log_snr"), "DEISMultistepScheduler", {"solver_order": 3}),
        "PLMS-4": Method(plms(4), "PNDMScheduler", {"skip_prk_steps": True}),
        "HB": Method(hb()),
        "2M with heavy ball": Method(dpmpp_hb()),
        "GHVB": Method(ghvb(4)),
        "GHVB, variable step": Method(ghvb_variable(4)),
        "DC-Solver": Method(dc(ratios, 3)),
        "OLSS": Method(olss(fitted)),
        "BDIA": Method(table_solver(bdia_table, gamma=1.0)),
        "BELM": Method(table_solver(belm_table)),
    }


def ours(x: Tensor, solver: TableSolver) -> Tensor:
    """The table kernel, from seed to sample, coefficients and noise included."""
    return simulate(solver(denoise, SCHEDULE), x, GRID, Noise(0, range(len(x))))


def by_hand(x: Tensor, rows: Sequence[Row], noise: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The loop one would write for one method: precomputed floats, in-place updates of one buffer."""
    x = x.clone()
    past: list[Tensor] = []
    depth = max(len(row.weights) for row in rows)
    remembers = any(row.earlier for row in rows)
    before: Tensor | None = None
    for i, ((state, weights, scale, keep, earlier), t) in enumerate(zip(rows, TIMES, strict=False)):
        value = denoise(x, t).mean
        if keep is not None:
            value.mul_(keep[1]).add_(x, alpha=keep[0])
            for weight, y in zip(keep[2:], past, strict=False):
                value.add_(y, alpha=weight)
        past = [value, *past[: depth - 1]]
        kept = x.clone() if remembers else None
        x.mul_(state)
        for weight, y in zip(weights, past, strict=False):
            x.add_(y, alpha=weight)
        if earlier and before is not None:
            x.add_(before, alpha=earlier[0])
        if scale:
            x.add_(noise(i, x), alpha=scale)
        before = kept
    return x


def by_diffusers(x: Tensor, peer: str, options: Mapping[str, Any]) -> Tensor:
    """The same method of diffusers, through its own step."""
    import diffusers.schedulers

    scheduler = getattr(diffusers.schedulers, peer)(**options)
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t).mean, t, x, return_dict=False)[0]
    return x


def plain_noise(i: int, x: Tensor) -> Tensor:
    """torch's own generator."""
    del i
    return torch.randn(x.shape)


def tree_noise(shape: Sequence[int], trees: int) -> Callable[[int, Tensor], Tensor]:
    """torchsde's Brownian tree in sigma, as k-diffusion's samplers use it: one path, at any step count.

    One tree for the batch, or one a sample: then, as with ours, a sample does not depend on its batch.
    """
    import torchsde

    alpha, sigma = SCHEDULE(GRID)
    levels = (sigma / alpha).flip(0)
    start = torch.zeros(*shape).chunk(trees)
    forest: list[Callable[..., Any]] = [
        torchsde.BrownianTree(levels[0], zero, levels[-1], entropy=i) for i, zero in enumerate(start)
    ]
    ends = levels.flip(0).tolist()

    def increment(i: int, x: Tensor) -> Tensor:
        del x
        parts = [tree(ends[i + 1], ends[i]) for tree in forest]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)) * (1 / math.sqrt(ends[i] - ends[i + 1]))

    return increment


def fastest(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Microseconds a step of each contestant."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    return {name: min(values) for name, values in times.items()}


def deterministic(shape: Sequence[int], rounds: int) -> None:
    """A line for each table solver."""
    x = torch.randn(*shape)
    for name, method in methods().items():
        rows = method.solver.tabulate(SCHEDULE, GRID).rows
        runs: dict[str, Callable[[], object]] = {
            "hand": partial(by_hand, x, rows, plain_noise),
            "degauss": partial(ours, x, method.solver),
        }
        if method.peer:
            runs["diffusers"] = partial(by_diffusers, x, method.peer, method.options)
        report(shape, name, fastest(runs, rounds))


def stochastic(shape: Sequence[int], rounds: int) -> None:
    """SDE-DPM-Solver++(2M): ours follows one Brownian path; so do the trees; the other two do not."""
    x = torch.randn(*shape)
    solver = dpmpp(2, eta=1.0)
    rows = solver.tabulate(SCHEDULE, GRID).rows
    options = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "prediction_type": "sample"}
    runs: dict[str, Callable[[], object]] = {
        "hand": partial(by_hand, x, rows, plain_noise),
        "degauss": partial(ours, x, solver),
        "diffusers": partial(by_diffusers, x, "DPMSolverMultistepScheduler", options),
    }
    result = fastest(runs, rounds)
    trees: dict[str, Callable[[], object]] = {
        "tree": lambda: by_hand(x, rows, tree_noise(shape, 1)),
        "trees": lambda: by_hand(x, rows, tree_noise(shape, len(x))),
    }
    report(shape, "SDE-DPM-Solver++(2M)", {**result, **fastest(trees, 3)})


def report(shape: Sequence[int], name: str, result: Mapping[str, float]) -> None:
    """One line: microseconds a step, ratios to the hand-written loop, and of the peers to ours."""
    times = "  ".join(f"{who} {value:9.1f} ({value / result['hand']:6.2f})" for who, value in result.items())
    peers = "  ".join(
        f"{who}/degauss {value / result['degauss']:.1f}"
        for who, value in result.items()
        if who in ("diffusers", "tree", "trees")
    )
    print(f"{'x'.join(map(str, shape)):>10}  {name:<21} {times}  {peers}", flush=True)


def import_seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs one statement: the fastest of some."""
    runs: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        runs.append(time.perf_counter() - start)
    return min(runs)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the peers, about their own options
    print(
        f"{STEPS} steps, trivial denoiser, one thread, torch {torch.__version__}: microseconds a step (ratio to hand)"
    )
    with torch.inference_mode():
        for shape in SHAPES:
            large = math.prod(shape) > 1000
            deterministic(shape, 15 if large else 100)
            stochastic(shape, 10 if large else 100)
    alone = import_seconds("import torch")
    print(f"import: torch {alone:.2f} s, with degauss.core and its solvers +{_with_degauss() - alone:.2f} s")


def _with_degauss() -> float:
    return import_seconds("import torch; from degauss.core import sample, Cosine, Noise; import degauss.core.gaussian")


if __name__ == "__main__":
    main()
