"""Time grids: the N + 1 decreasing times of an N-step sampling run, float64 ``[steps + 1]`` on the host.

A grid function takes ``(schedule, steps)``, so that ``sample`` can be given one by name; parameters are bound
with ``functools.partial``. A grid that ends at t = 0 on a schedule with sigma(0) = 0 ends on clean data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.schedule import Schedule

_ROUNDING = 1e-12

Grid = Callable[[Schedule, int], Tensor]


def uniform_time(schedule: Schedule, steps: int, *, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Evenly spaced times from ``start`` to ``end``."""
    del schedule
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def uniform_log_snr(schedule: Schedule, steps: int, *, start: float = 1.0, end: float = 1e-3) -> Tensor:
    """Evenly spaced in log-SNR from ``start`` to ``end``, times at which it is finite (Lu et al. 2022)."""
    ends = torch.tensor([start, end], dtype=torch.float64)
    low, high = schedule.log_snr(ends).tolist()
    if not (low > float("-inf") and high < float("inf")):
        raise ValueError(f"log-SNR is infinite at an end of [{end}, {start}]; keep them away from 0 and 1")
    grid = schedule.time(torch.linspace(low, high, steps + 1, dtype=torch.float64))
    return torch.cat([ends[:1], grid[1:-1], ends[1:]])


def karras(
    schedule: Schedule,
    steps: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    clean: bool = True,
) -> Tensor:
    """Noise levels k = sigma/alpha evenly spaced in k^(1/rho), as times (Karras et al. 2022, eq. 5).

    ``clean``: spend the last step on going from ``sigma_min`` to t = 0, as the paper does; else stop at it.
    """
    levels = steps if clean else steps + 1
    ramp = torch.linspace(0, 1, levels, dtype=torch.float64)
    k = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    grid = schedule.time(-2 * k.log())
    return torch.cat([grid, grid.new_zeros(1)]) if clean else grid


def check_grid(grid: Tensor) -> Tensor:
    """The grid as float64 on the host; ValueError unless it is 1-D, strictly monotone and inside [0, 1]."""
    grid = grid.detach().to("cpu", torch.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid has at least two times in one dimension, got shape {tuple(grid.shape)}")
    # An inverse schedule may overshoot an end by a rounding error.
    if not bool(((grid >= -_ROUNDING) & (grid <= 1 + _ROUNDING)).all()):
        raise ValueError(f"grid times lie in [0, 1], got {grid.min().item():g} to {grid.max().item():g}")
    grid = grid.clamp(0, 1)
    gaps = grid.diff()
    if not (bool((gaps < 0).all()) or bool((gaps > 0).all())):
        raise ValueError("a grid must be strictly monotone; found repeated or turning times")
    return grid


def check_times(field: str, times: Sequence[float]) -> None:
    """InputError naming the field unless the times are a grid."""
    try:
        check_grid(torch.tensor(tuple(times), dtype=torch.float64))
    except ValueError as error:
        raise InputError(f"{field} must be the times of a grid: {error}.") from error
