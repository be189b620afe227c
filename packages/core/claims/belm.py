"""BELM: the most accurate of the exactly invertible samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim, unipc
from degauss.core.grid import uniform_log_snr
from degauss.core.inversion.ddim import DDIMInversion
from degauss.core.inversion.edict import EDICT
from degauss.core.inversion.two_state import BDIA, BELM

from ._inversion import DOUBLE, SINGLE, distance, restored, retraced
from ._problem import BATCH, SCHEDULE, flow, log_grid, median, mixture, order, rate, start, verdict

CLAIM = Claim(
    paper="Wang et al. 2024, BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion",
    statement=(
        "O-BELM, the two-state formula of least local error, is exactly invertible, of second order and zero-stable "
        "for any choice of steps, and more accurate than DDIM, EDICT and BDIA."
    ),
    expected=(
        "(a) 50 steps, largest error over coordinates of unit size: data to noise to data, and noise to data to "
        "noise from both states, below 1e-10 in float64 and below 1e-3 in float32, for every seed; (b) order within "
        "0.15 of 2 from 160 to 320 steps on a grid uniform in log-SNR, and on one whose every second time is moved "
        "by a third of a step, as zero-stability implies; (c) the RMS distance to where the ODE ends at 50 steps is "
        "smaller than that of DDIM, EDICT and BDIA (gamma = 0.5) for every seed. Control: DDIM and BDIA (gamma = 1) "
        "must measure below 1.5 on the second grid."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    exact = {
        (way.__name__, name): [way(BELM(), seed, dtype) for seed in seeds]
        for way in (restored, retraced)
        for name, dtype in (("float64", DOUBLE), ("float32", SINGLE))
    }
    smooth = [order(BELM(), seed, 160, 320) for seed in seeds]
    rough = [order(BELM(), seed, 160, 320, uneven) for seed in seeds]
    begun = [order_from_an_exact_pair(seed) for seed in seeds]
    controls = {
        name: [order(solver, seed, 160, 320, uneven) for seed in seeds]
        for name, solver in {"DDIM": ddim(), "BDIA, gamma = 1": BDIA()}.items()
    }
    rivals: dict[str, Any] = {"DDIM": DDIMInversion(), "EDICT": EDICT(), "BDIA, gamma = 0.5": BDIA(0.5)}
    away = {
        name: [distance(method, seed) for seed in seeds]
        for name, method in {"BELM": BELM(), **rivals, "BDIA, gamma = 1": BDIA()}.items()
    }
    within = [max(values) < {"float64": 1e-10, "float32": 1e-3}[name] for (_, name), values in exact.items()]
    second = [abs(median(values) - 2) <= 0.15 for values in (smooth, rough)]
    nearer = [all(a < b for a, b in zip(away["BELM"], away[name], strict=True)) for name in rivals]
    return Result(
        verdict([*within, *second, *nearer], [median(values) < 1.5 for values in controls.values()]),
        {
            **{f"largest error, {way}, {name}": values for (way, name), values in exact.items()},
            "order, grid uniform in log-SNR": smooth,
            "order, uneven grid": rough,
            "order, uneven grid, from an exact second state": begun,
            **{f"order, uneven grid, {name} (control)": values for name, values in controls.items()},
            **{f"distance to the ODE, 50 steps, {name}": values for name, values in away.items()},
        },
        notes=(
            "restored: data to noise to data, from the data alone; retraced: noise to data to noise, from both "
            "states. An error of the second state returns in every later difference of states, as the square of the "
            "ratio of steps and with changing sign: differences cancel on a smooth grid and add up on an uneven one. "
            "So there the DDIM step that BELM begins with costs its second order; with an exact second state "
            "it has it. EDICT takes two evaluations a step."
        ),
    )


def uneven(steps: int) -> Tensor:
    """``log_grid`` with every second time moved by a third of a step in log-SNR."""
    log_snr = SCHEDULE.log_snr(log_grid(steps))
    log_snr[1:-1:2] += (log_snr[1] - log_snr[0]) / 3
    return torch.cat([log_grid(steps)[:1], SCHEDULE.time(log_snr[1:-1]), log_grid(steps)[-1:]])


def order_from_an_exact_pair(seed: int, grid: Callable[[int], Tensor] = uneven) -> float:
    """The order on a grid with the second state from the true trajectory."""
    errors: list[float] = []
    for steps in (160, 320):
        times = grid(steps)
        to_second = unipc(order=3)(mixture(seed), SCHEDULE)
        fine = uniform_log_snr(SCHEDULE, 40, end=float(times[1]))
        second = simulate(to_second, start(seed), fine, Noise(seed, range(BATCH)))
        end = BELM().decode(mixture(seed), SCHEDULE, (start(seed), second), times)
        errors.append(float((end - flow(seed)).norm(dim=1).median()))
    return rate(errors[0], errors[1], 2)
