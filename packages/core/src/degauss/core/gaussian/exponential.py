r"""Exponential integrators: one generator for DPM-Solver, DPM-Solver++, DEIS and their SDE forms.

Write lam = log(alpha / sigma). From time s to a less noisy t (h = lam_t - lam_s) the reverse process with
stochasticity eta is solved exactly but for the denoiser's answer along the way (Lu et al. 2022a, 2022b; Gonzalez
et al. 2023; Xue et al. 2023). With c = 1 + eta^2,

    data form    x_t = (sigma_t/sigma_s) e^{-eta^2 h} x_s + alpha_t c int e^{-c (lam_t - lam)} mean(lam) dlam
                       + sigma_t sqrt(1 - e^{-2 eta^2 h}) z
    noise form   x_t = (alpha_t/alpha_s) x_s - alpha_t c int e^{-lam} eps(lam) dlam
                       + alpha_t eta sqrt(k_s^2 - k_t^2) z,                           k = sigma/alpha,

and the method is: replace mean(lam) or eps(lam) by the Lagrange polynomial through its last ``order`` values. The
polynomial may be in lam (DPM-Solver, DEIS's log-rho), in k (DEIS's rho) or in t (DEIS's t); the integrals of the
basis polynomials are the weights (see ``lagrange``). In the noise form the exponential is the measure dk itself: with
the polynomial in k this is Adams-Bashforth with the weights of the actual grid, the honest form of PLMS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.gaussian import lagrange
from degauss.core.gaussian.table import (
    Array,
    Path,
    Row,
    Table,
    TableSolver,
    eps_keep,
    index_clock,
    on_grid,
    snr_clock,
    table_solver,
)
from degauss.core.noise import Clock
from degauss.core.schedule import Schedule

Axis = Literal["log_snr", "ratio", "time"]


def ddim(eta: float = 0.0) -> TableSolver:
    """DDIM (Song et al. 2021, eq. 12); ``eta`` = 1 is DDPM's ancestral sampling (Ho et al. 2020). Order 1."""
    return table_solver(ddim_table, eta=eta)


def dpmpp(order: int = 2, eta: float = 0.0) -> TableSolver:
    """Multistep DPM-Solver++ of order 1 to 3 (Lu et al. 2022b): data form, polynomial in log-SNR.

    Order 2 is the published 2M update; order 3 integrates the quadratic exactly. ``eta`` = 1 gives SDE-DPM-Solver++.
    """
    if order == 2:
        return table_solver(dpmpp_2m_table, eta=eta)
    return table_solver(data_table, order=order, eta=eta)


def dpm(order: int = 2, eta: float = 0.0) -> TableSolver:
    """Multistep DPM-Solver of order 1 to 3 (Lu et al. 2022a): noise form. The grid must keep alpha and sigma > 0.

    Order 2 is the published multistep update; ``eta`` = 1 gives SDE-DPM-Solver.
    """
    if order == 2:
        return table_solver(dpm_2m_table, eta=eta)
    return table_solver(noise_table, order=order, eta=eta)


def deis(order: int = 3, axis: Axis = "ratio") -> TableSolver:
    """DEIS (Zhang and Chen 2023, section 3): noise form, polynomial in k = sigma/alpha (rho), in log-SNR or in t."""
    return table_solver(noise_table, order=order, axis=axis)


def ddim_table(schedule: Schedule, grid: Tensor, *, eta: float = 0.0) -> Table:
    """x_t = alpha_t mean + sqrt(sigma_t^2 - v) eps + sqrt(v) z, v = eta^2 sigma_t^2 (1 - SNR_s / SNR_t)."""
    path = on_grid(schedule, grid)
    rows: list[Row] = []
    for i in range(path.steps):
        alpha_s, sigma_s = path.alpha[i], noisy_sigma(path, i)
        alpha_t, sigma_t = path.alpha[i + 1], path.sigma[i + 1]
        fresh = eta**2 * -np.expm1(2 * (path.lam[i] - path.lam[i + 1])) if eta else 0.0
        old = np.sqrt(max(1 - fresh, 0.0)) * sigma_t / sigma_s
        rows.append(Row(float(old), (float(alpha_t - old * alpha_s),), float(sigma_t * np.sqrt(fresh))))
    return Table(tuple(rows), snr_clock(path))


def data_table(schedule: Schedule, grid: Tensor, *, order: int, eta: float = 0.0, lower_final: bool = True) -> Table:
    """The data form of any order, polynomial in lam. ``lower_final``: end with steps of falling order."""
    path = on_grid(schedule, grid)
    rate = 1 + eta**2
    rows: list[Row] = []
    for i in range(path.steps):
        state, noise = data_scales(path, i, eta)
        used = nodes(path, i, order, lower_final)
        rows.append(Row(state, tuple(data_weights(path, i, used, rate).tolist()), noise))
    return Table(tuple(rows), data_clock(path, eta))


def noise_table(
    schedule: Schedule,
    grid: Tensor,
    *,
    order: int,
    eta: float = 0.0,
    axis: Axis = "log_snr",
    lower_final: bool = True,
) -> Table:
    """The noise form of any order."""
    path = noise_path(schedule, grid)
    rate = 1 + eta**2
    variables: dict[Axis, Callable[[Array], Array]] = {
        "log_snr": lambda lam: lam,
        "ratio": lambda lam: np.exp(-lam),
        "time": lambda lam: schedule.time(torch.from_numpy(2 * lam)).numpy(),
    }
    rows: list[Row] = []
    for i in range(path.steps):
        state, noise = noise_scales(path, i, eta)
        used = nodes(path, i, order, lower_final)
        weights = noise_weights(path, i, used, rate, variables[axis])
        rows.append(Row(state, tuple(weights.tolist()), noise, eps_keep(path, i)))
    return Table(tuple(rows), noise_clock(path, eta))


def dpmpp_2m_table(schedule: Schedule, grid: Tensor, *, eta: float = 0.0) -> Table:
    """DPM-Solver++(2M), Lu et al. 2022b, algorithm 2, and SDE-DPM-Solver++(2M), eq. 19.

    With r = h_prev / h and D = mean_i + (mean_i - mean_{i-1}) / (2 r): the first-order step with D for the mean.
    """
    path = on_grid(schedule, grid)
    first = data_table(schedule, grid, order=1, eta=eta)
    return Table(_second_order(path, first), first.clock)


def dpm_2m_table(schedule: Schedule, grid: Tensor, *, eta: float = 0.0) -> Table:
    """The same extrapolation on the noise: multistep DPM-Solver-2 and SDE-DPM-Solver-2."""
    path = noise_path(schedule, grid)
    first = noise_table(schedule, grid, order=1, eta=eta)
    return Table(_second_order(path, first), first.clock)


def _second_order(path: Path, first: Table) -> tuple[Row, ...]:
    rows: list[Row] = []
    for i, row in enumerate(first.rows):
        if len(nodes(path, i, 2, True)) == 2:
            half_slope = 0.5 * (path.lam[i + 1] - path.lam[i]) / (path.lam[i] - path.lam[i - 1])
            weight = row.weights[0]
            row = row._replace(weights=(float(weight * (1 + half_slope)), float(-weight * half_slope)))
        rows.append(row)
    return tuple(rows)


def nodes(path: Path, i: int, order: int, lower_final: bool) -> list[int]:
    """Which past steps the polynomial of step i goes through, newest first.

    Fewer than ``order`` at the start, near the end where ``lower_final``, across an infinite log-SNR (a step from
    pure noise, or onto clean data, has no finite h), never none.
    """
    if not np.isfinite(path.lam[i : i + 2]).all():
        return [i]
    order = min(order, path.steps - i) if lower_final else order
    used = [i - j for j in range(min(order, i + 1))]
    return [j for j in used if np.isfinite(path.lam[j])]


def data_scales(path: Path, i: int, eta: float) -> tuple[float, float]:
    """(state, noise) of the data form at step i."""
    sigma_s, sigma_t = noisy_sigma(path, i), path.sigma[i + 1]
    h = path.lam[i + 1] - path.lam[i]
    damping = np.exp(-(eta**2) * h) if eta else 1.0
    return float(sigma_t / sigma_s * damping), float(sigma_t * np.sqrt(-np.expm1(-2 * eta**2 * h))) if eta else 0.0


def noisy_sigma(path: Path, i: int) -> float:
    """sigma where step i starts. Raises InputError if it is 0: that state holds no noise to go on from."""
    sigma = float(path.sigma[i])
    if sigma == 0:
        raise InputError(
            f"a step must start from a noisy state, but at t = {path.time[i]:g} sigma is 0: a bridge is sampled with "
            "process.centred.sample_centred, data are encoded with inversion.encode."
        )
    return sigma


def data_clock(path: Path, eta: float) -> Clock:
    """The clock of the data form's noise, (alpha/sigma)^(2 eta^2): SNR at eta = 1."""
    if not eta:
        return index_clock(path)
    return snr_clock(path._replace(lam=eta**2 * path.lam))


def noise_path(schedule: Schedule, grid: Tensor) -> Path:
    """The path of a noise-form method; ValueError where alpha or sigma vanishes on the way."""
    path = on_grid(schedule, grid)
    if not ((path.alpha > 0).all() and (path.sigma[:-1] > 0).all()):
        raise ValueError("a noise-form solver (dpm, deis, plms) needs alpha > 0 on the grid; use a data-form one")
    return path


def noise_scales(path: Path, i: int, eta: float) -> tuple[float, float]:
    """(state, noise) of the noise form at step i."""
    alpha_s, alpha_t = path.alpha[i], path.alpha[i + 1]
    k_s, k_t = path.sigma[i] / alpha_s, path.sigma[i + 1] / alpha_t
    return float(alpha_t / alpha_s), float(alpha_t * eta * np.sqrt((k_s - k_t) * (k_s + k_t))) if eta else 0.0


def noise_clock(path: Path, eta: float) -> Clock:
    """The clock of the noise form's noise, -(sigma/alpha)^2."""
    if not eta:
        return index_clock(path)
    return tuple(-float(k) for k in (path.sigma / path.alpha) ** 2)


def data_weights(path: Path, i: int, used: list[int], rate: float = 1.0) -> Array:
    """The data form's weights for step i on the means at the grid points ``used``: polynomial in lam."""
    start, end = float(path.lam[i]), float(path.lam[i + 1])
    if len(used) == 1:
        return path.alpha[i + 1 : i + 2] * -np.expm1(-rate * (end - start))
    at, measure = lagrange.quadrature(start, end)
    density = rate * np.exp(-rate * (end - at))
    return path.alpha[i + 1] * lagrange.weights(path.lam[used], at, measure * density)


def noise_weights(path: Path, i: int, used: list[int], rate: float, variable: Callable[[Array], Array]) -> Array:
    """The noise form's weights for step i on the noises at ``used``: polynomial in ``variable(lam)``."""
    if len(used) == 1:
        k_s, k_t = path.sigma[i : i + 2] / path.alpha[i : i + 2]
        return path.alpha[i + 1 : i + 2] * rate * (k_t - k_s)
    at, measure = lagrange.quadrature(float(path.lam[i]), float(path.lam[i + 1]))
    density = -rate * np.exp(-at)
    return path.alpha[i + 1] * lagrange.weights(variable(path.lam[used]), variable(at), measure * density)
