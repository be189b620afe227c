"""Time-free denoisers: rows in which nothing is restored need no evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from degauss.core.claims import Claim, Result
from degauss.core.jump import Solver, Subs, ancestral, first_hitting, sample_tokens, skipping
from degauss.core.jump.absorbing import Absorbing
from degauss.core.observe import Trajectory
from degauss.core.posterior import Categorical

from ._jump import BASES, PROCESS, Convolutions, made
from ._problem import median, verdict

CLAIM = Claim(
    paper=(
        "Ou et al. 2024, Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions of Clean "
        "Data (on the expected number of evaluations); Zheng et al. 2024, Masked Diffusion Models are Secretly "
        "Time-Agnostic Masked Models (on the first-hitting sampler)"
    ),
    statement=(
        "The denoiser of masked diffusion needs no time, so it is evaluated only where the sequence has changed: "
        "n (1 - (1 - 1/n)^L) times in expectation for n steps and L tokens, for the same samples. (Zheng et al.:) "
        "first-hitting sampling needs at most L evaluations, whatever n."
    ),
    expected=(
        "For L = 200 and n = 128, 512, 1024, on every seed: (a) evaluations a row within 1 % of the formula; "
        "(b) identical sequences with and without the saving, from a network of convolutions; (c) at n = 1024, 8 rows, "
        "at most a quarter of the CPU time in the median; (d) first-hitting takes exactly L evaluations. Control: "
        "evaluating the whole batch where any row has changed must be over 3 times the formula at n = 1024."
    ),
)

LENGTH, ROWS, COUNTED = 200, 8, 256
STEPS = (128, 512, 1024)


def run(seeds: Sequence[int]) -> Result:
    found = [one(seed) for seed in seeds]
    figures = {name: [values[name] for values in found] for name in found[0]}
    whole = figures["evaluations a row, whole batch at once (control)"]
    return Result(
        verdict(
            [
                all(close(value, steps) for steps in STEPS for value in figures[f"evaluations a row, {steps} steps"]),
                not any(figures["tokens that differ"]),
                median(figures["CPU time, all evaluations / the saving"]) >= 4,
                all(value == LENGTH for value in figures["evaluations a row, first-hitting"]),
            ],
            [all(value > 3 * formula(STEPS[-1]) for value in whole)],
        ),
        figures,
        notes=(
            f"The formula gives {', '.join(f'{formula(n):.1f}' for n in STEPS)}. Evaluations are counted over "
            f"{COUNTED} rows; times are of {ROWS} rows and six residual convolutions of 64 channels, untrained."
        ),
    )


def close(evaluations: float, steps: int) -> bool:
    """Within 1 % of the formula."""
    return abs(evaluations / formula(steps) - 1) <= 0.01


def formula(steps: int) -> float:
    """The expected number of steps in which something is restored."""
    return steps * (1 - (1 - 1 / steps) ** LENGTH)


def one(seed: int) -> dict[str, float]:
    """All figures of one seed."""
    model = Subs(made(seed, Convolutions).requires_grad_(False), PROCESS)
    path = Trajectory()
    (whole, slow), (saving, fast) = drawn(model, ancestral(), seed, path), drawn(model, skipping(), seed)
    states = torch.cat([torch.full((1, ROWS, LENGTH), PROCESS.mask), path.stack()])
    return {
        **{f"evaluations a row, {steps} steps": evaluations(seed, skipping(), steps) for steps in STEPS},
        "evaluations a row, first-hitting": evaluations(seed, first_hitting(), LENGTH),
        "evaluations a row, whole batch at once (control)": float((states[1:] != states[:-1]).any(-1).any(1).sum()),
        "tokens that differ": float((whole != saving).sum()),
        "CPU time, all evaluations / the saving": slow / fast,
        "CPU seconds a sequence, all evaluations": slow / ROWS,
        "CPU seconds a sequence, the saving": fast / ROWS,
    }


def drawn(model: Subs, solver: Solver[Absorbing], seed: int, *observe: Trajectory) -> tuple[Tensor, float]:
    """Eight sequences in 1024 steps, and the CPU seconds that they cost."""
    start = time.process_time()
    with torch.inference_mode():
        x = sample_tokens(model, PROCESS, (ROWS, LENGTH), solver=solver, steps=STEPS[-1], seed=seed, observe=observe)
    return x, time.process_time() - start


def evaluations(seed: int, solver: Solver[Absorbing], steps: int) -> float:
    """The mean number of evaluations a row, counted without a network: any base is as likely."""
    asked = 0

    def even(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        nonlocal asked
        asked += len(x)
        return Categorical(torch.zeros(1, 1, BASES).expand(*x.shape, BASES))

    sample_tokens(even, PROCESS, (COUNTED, LENGTH), solver=solver, steps=steps, seed=100 + seed)
    return asked / COUNTED
