"""How much the sampling loop costs beside the network: ours, a hand-written loop, diffusers, in one run.

The denoiser is trivial (mean = x / 2), one thread, 50 steps. Every figure is the fastest of many rounds in which all
contestants take turns: what is left when nothing else disturbs the machine. What counts are the ratios.

    python packages/core/benchmarks/sampling.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degauss.core.gaussian import dpmpp
from degauss.core.gaussian.exponential import dpmpp_2m_table
from degauss.core.grid import uniform_log_snr
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import DiscreteVP, linear_betas

STEPS = 50
SHAPES = ((64, 1, 64, 64), (64, 2))
SCHEDULE = DiscreteVP.from_betas(linear_betas(1000))
GRID = uniform_log_snr(SCHEDULE, STEPS)


def denoise(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
    """The trivial denoiser."""
    del t, cond
    return Point(x * 0.5)


def ours(x: Tensor, eta: float) -> Tensor:
    """The table kernel, from seed to sample, coefficients and noise included."""
    return simulate(dpmpp(2, eta=eta)(denoise, SCHEDULE), x, GRID, Noise(0, range(len(x))))


def by_hand(x: Tensor, eta: float) -> Tensor:
    """The loop one would write for this method alone: precomputed floats, in-place updates, torch.randn."""
    x = x.clone()
    before = torch.zeros_like(x)
    for (state, weights, scale, *_), t in zip(ROWS[eta], TIMES, strict=False):
        mean = denoise(x, t).mean
        x.mul_(state).add_(mean, alpha=weights[0])
        if len(weights) > 1:
            x.add_(before, alpha=weights[1])
        if scale:
            x.add_(torch.randn(x.shape), alpha=scale)
        before = mean
    return x


TIMES = GRID.unbind()
ROWS = {eta: dpmpp_2m_table(SCHEDULE, GRID, eta=eta).rows for eta in (0.0, 1.0)}


def by_diffusers(x: Tensor, eta: float) -> Tensor:
    """diffusers' DPMSolverMultistepScheduler, predicting x0."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++" if eta else "dpmsolver++", solver_order=2, prediction_type="sample"
    )
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t).mean, t, x, generator=generator, return_dict=False)[0]
    return x


def fastest(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Microseconds a step of each contestant."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    return {name: min(values) for name, values in times.items()}


def import_seconds(statement: str) -> float:
    """Median wall time of a fresh interpreter that runs one statement."""
    runs: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(
        f"{STEPS} steps, trivial denoiser, one thread, torch {torch.__version__}: microseconds a step (ratio to hand)"
    )
    for shape in SHAPES:
        x = torch.randn(shape)
        rounds = 40 if x.numel() > 1000 else 300
        for eta, title in ((0.0, "DPM-Solver++(2M)"), (1.0, "SDE-DPM-Solver++(2M)")):
            with torch.inference_mode():
                runs = {
                    "hand": partial(by_hand, x, eta),
                    "degauss": partial(ours, x, eta),
                    "diffusers": partial(by_diffusers, x, eta),
                }
                result = fastest(runs, rounds)
            row = "  ".join(f"{name} {value:8.1f} ({value / result['hand']:.2f})" for name, value in result.items())
            ratio = result["diffusers"] / result["degauss"]
            print(f"{'x'.join(map(str, shape)):>13}  {title:<21} {row}  diffusers/degauss {ratio:.1f}")
    alone = import_seconds("import torch")
    print(f"import: torch {alone:.2f} s, with degauss.core and its solvers +{_with_degauss() - alone:.2f} s")


def _with_degauss() -> float:
    return import_seconds("import torch; from degauss.core import sample, Cosine, Noise; import degauss.core.gaussian")


if __name__ == "__main__":
    main()
