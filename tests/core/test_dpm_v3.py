"""DPM-Solver-v3 and its statistics against closed forms, against the published formulas, and on held-out noise.

Orders are measured as in ``test_solvers``: an overlapping Gaussian mixture with an exact score, median errors.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, RectifiedFlow, Schedule, SubVP, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpm, dpmpp, table_solver, unipc
from degauss.core.gaussian.dpm_v3 import CoordinateKernel, CoordinateRow, DPMv3, dpm_v3
from degauss.core.gaussian.exponential import data_table, noise_table
from degauss.core.gaussian.statistics import (
    ModelStatistics,
    Signs,
    exact_diagonal,
    held_out_errors,
    measure_statistics,
)
from degauss.core.grid import uniform_log_snr
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE = torch.float64
VP = LinearVP()
EDM40 = EDM(40.0)
MEAN, STD = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), torch.tensor([0.3, 1.0, 2.0], dtype=DOUBLE)
GAUSSIAN = GaussianOracle(VP, MEAN, STD)


def normal(count: int, *event: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return Noise(seed, range(count)).normal(torch.empty(count, *event, dtype=dtype))


@cache
def gaussian_statistics() -> ModelStatistics:
    return measure_statistics(GAUSSIAN, VP, MEAN + STD * normal(512, 3, seed=1), Noise(2, range(512)))


def analytic_statistics(cells: int = 200) -> ModelStatistics:
    """On independent Gaussian data f = -l m does not depend on y: s is free, b is df/dlam."""
    lam = gaussian_statistics().lam if cells == 200 else torch.linspace(-5.0, 4.5, cells + 1, dtype=DOUBLE)
    k2 = torch.exp(-2 * lam)[:, None]
    l = k2 / (k2 + STD**2)  # noqa: E741
    return ModelStatistics(lam, l, torch.zeros_like(l), 2 * l * (1 - l) * MEAN)


def constant_statistics(l: float, s: float, b: float, *shape: int) -> ModelStatistics:  # noqa: E741
    lam = torch.linspace(-8, 8, 5, dtype=DOUBLE)
    filled = [torch.full((5, *shape), value, dtype=DOUBLE) for value in (l, s, b)]
    return ModelStatistics(lam, filled[0], filled[1], filled[2])


@cache
def mixture(schedule: Schedule = EDM40, dim: int = 8) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, dim, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, dim, dim, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(dim, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / dim
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


@cache
def mixture_statistics() -> ModelStatistics:
    data = mixture().draw(Noise(11, range(512)))
    return measure_statistics(mixture(), EDM40, data, Noise(12, range(512)), end=0.02 / 40, cells=100)


def log_grid(steps: int) -> Tensor:
    return uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)


@cache
def exact() -> Tensor:
    return simulate(unipc(3)(mixture(), EDM40), 40 * normal(64, 8), log_grid(3000), Noise(0, range(64)))


def error(solver: Callable[..., Any], grid: Tensor) -> float:
    end = simulate(solver(mixture(), EDM40), 40 * normal(64, 8), grid, Noise(0, range(64)))
    return float((end - exact()).norm(dim=1).median())


# --- the statistics -----------------------------------------------------------------------------------------


def test_statistics_of_independent_gaussian_data() -> None:
    measured, closed = gaussian_statistics(), analytic_statistics()
    torch.testing.assert_close(measured.l, closed.l, rtol=0, atol=1e-12)
    # f does not vary, so no s can be measured, and whatever it is must not move the line through f.
    f = -closed.l * MEAN
    torch.testing.assert_close(measured.s * f + measured.b, closed.b, rtol=0, atol=2e-6)
    assert float(measured.s.abs().max()) < 1e-5


def test_statistics_of_correlated_gaussian_data() -> None:
    """y = m + N(0, C + k^2), D = m + G (y - m), G = C (C + k^2)^-1: f and df/dlam are linear in y, s is a ratio."""
    oracle = MixtureOracle(EDM40, torch.ones(1, dtype=DOUBLE), mixture().means[:1], mixture().covariances[:1])
    count = 40000
    data = oracle.draw(Noise(3, range(count)))
    got = measure_statistics(
        oracle, EDM40, data, Noise(4, range(count)), start=0.05, end=0.005, cells=4, diagonal=exact_diagonal, batch=8192
    )
    c, eye = oracle.covariances[0], torch.eye(8, dtype=DOUBLE)
    for level, lam in enumerate(got.lam.tolist()):
        total = c + math.exp(-2 * lam) * eye
        inverse = torch.linalg.inv(total)
        g = c @ inverse
        dg = 2 * math.exp(-2 * lam) * g @ inverse
        l = 1 - g.diagonal()  # noqa: E741
        torch.testing.assert_close(got.l[level], l, rtol=0, atol=1e-10)
        f = torch.diag(1 - l) - g
        # The slope of l comes from the spline through the five levels here, and only it is inexact.
        dl = got.at(got.lam[level : level + 1]).dl[0]
        df = torch.diag(-dl) - dg + f @ (g - eye)
        s = (df @ total @ f.T).diagonal() / (f @ total @ f.T).diagonal()
        torch.testing.assert_close(got.s[level], s, rtol=0, atol=0.05)
        want = dl * -oracle.means[0] - s * (-l * oracle.means[0])
        torch.testing.assert_close(got.b[level], want, rtol=0, atol=0.05)


def test_random_signs_agree_with_the_exact_diagonal() -> None:
    data, noise = mixture().draw(Noise(1, range(512))), Noise(2, range(512))
    options: dict[str, Any] = {"start": 0.1, "end": 0.005, "cells": 3}
    signs = measure_statistics(mixture(), EDM40, data, noise, diagonal=Signs(probes=8), **options)
    full = measure_statistics(mixture(), EDM40, data, noise, diagonal=exact_diagonal, **options)
    assert 1e-6 < float((signs.l - full.l).abs().max()) < 0.03


def test_batches_and_precision_do_not_matter() -> None:
    data, noise = mixture().draw(Noise(1, range(300))), Noise(2, range(300))
    options: dict[str, Any] = {"end": 0.001, "cells": 12}
    whole = measure_statistics(mixture(), EDM40, data, noise, batch=300, **options)
    parts = measure_statistics(mixture(), EDM40, data, noise, batch=64, **options)
    single = measure_statistics(mixture(), EDM40, data.float(), noise, batch=64, **options)
    for name in ("l", "s", "b"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-9)
        torch.testing.assert_close(getattr(single, name), getattr(whole, name), rtol=0, atol=0.02)


def test_they_are_of_the_model_and_not_of_the_schedule() -> None:
    """The same data on two schedules has one posterior mean in (x / alpha, lam)."""
    data, noise = mixture().draw(Noise(1, range(64))), Noise(2, range(64))
    flow, ve = RectifiedFlow(), EDM40
    ends = ve.log_snr(torch.tensor([0.2, 0.001], dtype=DOUBLE))
    options: dict[str, Any] = {"cells": 6}
    on_ve = measure_statistics(mixture(ve), ve, data, noise, start=0.2, end=0.001, **options)
    start, end = flow.time(ends).tolist()
    on_flow = measure_statistics(mixture(flow), flow, data, noise, start=start, end=end, **options)
    for name in ("lam", "l", "s", "b"):
        torch.testing.assert_close(getattr(on_flow, name), getattr(on_ve, name), rtol=1e-6, atol=1e-7)


def test_pooling_is_the_average_law_of_an_axis() -> None:
    """Coordinates of one law, pooled, are more samples of it; a pooled axis may have any length."""
    oracle = GaussianOracle(VP, torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), 0.5)
    data = oracle.mean + 0.5 * normal(64, 2, 5, seed=1)
    pooled = measure_statistics(oracle, VP, data, Noise(2, range(64)), cells=100, pool=(1,))
    assert pooled.shape == (2, 1)
    grid = pooled.grid(VP, 1)
    for length in (5, 9):
        x = normal(4, 2, length)
        got = simulate(dpm_v3(pooled)(oracle, VP), x, grid, Noise(0, range(4)))
        torch.testing.assert_close(got, oracle.flow(x, grid[0], grid[-1]), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"fitted to events of shape \(2, 1\)"):
        sample(oracle, VP, (4, 3, 5), solver=dpm_v3(pooled), steps=1, grid=pooled.grid)


def test_splines_are_cubic_splines() -> None:
    lam = torch.tensor([-2.0, -1.7, -0.5, 0.1, 1.5, 2.0, 3.3], dtype=DOUBLE)
    values = normal(7, 3, 2)
    statistics = ModelStatistics(lam, values[:, 0], values[:, 1], values[:, 2])
    at = torch.linspace(-2, 3.3, 101, dtype=DOUBLE)
    got, want = statistics.at(at), CubicSpline(lam, values, bc_type="not-a-knot")
    np.testing.assert_allclose(torch.stack(got[:3], 1), want(at), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(torch.stack(got[3:], 1), want(at, 1), rtol=1e-11, atol=1e-11)


def test_save_and_load(tmp_path: Path) -> None:
    kept = dataclasses.replace(mixture_statistics(), model="mixture of five")
    path = tmp_path / "statistics.json"
    kept.save(path)
    got = ModelStatistics.load(path)
    assert got.model == "mixture of five"
    assert all(torch.equal(getattr(got, name), getattr(kept, name)) for name in ("lam", "l", "s", "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "'other'"),
        ({"format_version": 99}, "newer"),
        ({"model": 3}, "model must be a string, but is 3"),
        ({"s": None}, "s must be nested lists"),
        ({"b": [[1.0], [2.0, 3.0]]}, "b must be nested lists"),
        ({"l": [[0.5]] * 4}, "one shape"),
        ({"l": [[float("nan")] * 3] * 5}, "l must be finite"),
        ({"lam": [0.0, 1.0, 1.0, 2.0, 3.0]}, "increasing"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "statistics.json"
    constant_statistics(1.0, 0.0, 0.0, 3).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        ModelStatistics.load(path)
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "b"}))
    with pytest.raises(InputError):
        ModelStatistics.load(path)


def test_bad_measurements_are_refused() -> None:
    data, noise = normal(8, 3), Noise(0, range(8))
    with pytest.raises(InputError, match="float32 or float64"):
        measure_statistics(GAUSSIAN, VP, data.int(), noise)
    with pytest.raises(ValueError, match="keyed for 7"):
        measure_statistics(GAUSSIAN, VP, data, Noise(0, range(7)))
    with pytest.raises(InputError, match="axes 0 to 0"):
        measure_statistics(GAUSSIAN, VP, data, noise, pool=(1,))
    with pytest.raises(InputError, match="cells"):
        measure_statistics(GAUSSIAN, VP, data, noise, cells=2)
    with pytest.raises(ValueError, match="log-SNR is infinite"):
        measure_statistics(GAUSSIAN, Cosine(), data, noise)
    with pytest.raises(FloatingPointError, match="log-SNR"):
        measure_statistics(lambda x, t, /, **cond: Point(x / 0), VP, data, noise)
    with pytest.raises(ValueError, match="float64"):
        ModelStatistics(torch.arange(5.0), normal(5, 2), normal(5, 2), normal(5, 2))


# --- limits -------------------------------------------------------------------------------------------------

SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.02, 0.98), min_size=3, max_size=12, unique_by=lambda t: round(t, 2))


def agree(statistics: ModelStatistics, plain: Any, schedule: Schedule, grid: Tensor, order: int, atol: float) -> None:
    oracle, x, noise = GaussianOracle(schedule, 1.0, 0.5), normal(4, 3), Noise(0, range(4))
    record, other = Trajectory(), Trajectory()
    simulate(dpm_v3(statistics, order)(oracle, schedule), x, grid, noise, observe=[record])
    simulate(plain(oracle, schedule), x, grid, noise, observe=[other])
    scale = float(other.stack().abs().max())
    torch.testing.assert_close(record.stack() / scale, other.stack() / scale, rtol=0, atol=atol)


@settings(deadline=None, max_examples=30)
@given(SCHEDULES, GRIDS, st.integers(1, 3))
def test_plain_statistics_give_the_plain_solvers(schedule: Schedule, times: list[float], order: int) -> None:
    """(l, s, b) = (1, 0, 0) is DPM-Solver++ and (0, -1, 0) is DPM-Solver (Zheng et al. 2023)."""
    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    data, noise = table_solver(data_table, order=order), table_solver(noise_table, order=order)
    agree(constant_statistics(1.0, 0.0, 0.0, 3), data, schedule, grid, order, atol=1e-10)
    agree(constant_statistics(0.0, -1.0, 0.0, 1), noise, schedule, grid, order, atol=1e-10)
    # Towards noise, where the data form magnifies what is rounded off.
    agree(constant_statistics(1.0, 0.0, 0.0, 3), data, schedule, grid.flip(0), order, atol=1e-7)


def test_first_order_limits_are_the_named_solvers() -> None:
    grid, x, noise = log_grid(7), 40 * normal(4, 8), Noise(0, range(4))
    plain = simulate(ddim()(mixture(), EDM40), x, grid, noise)
    for l, s, named in ((1.0, 0.0, dpmpp(3)), (0.0, -1.0, dpm(3))):  # noqa: E741
        statistics = constant_statistics(l, s, 0.0, 8)
        first = simulate(dpm_v3(statistics, 1)(mixture(), EDM40), x, grid, noise)
        torch.testing.assert_close(first, plain, rtol=1e-9, atol=1e-9)
        third = simulate(dpm_v3(statistics, 3)(mixture(), EDM40), x, grid, noise)
        torch.testing.assert_close(third, simulate(named(mixture(), EDM40), x, grid, noise), rtol=1e-9, atol=1e-9)


# --- against the published formulas --------------------------------------------------------------------------

Array = NDArray[np.float64]


def published(
    statistics: ModelStatistics, grid: Tensor, x: Array, order: int, predictor: str, corrector: str | None
) -> Array:
    """DPM-Solver-v3 as published: global cumulative integrals by the trapezoidal rule, noise form, cached eps."""
    lam_grid = 0.5 * EDM40.log_snr(grid).numpy()
    per_step = 4000
    lam = np.concatenate(
        [np.linspace(a, b, per_step, endpoint=False) for a, b in itertools.pairwise(lam_grid)] + [lam_grid[-1:]]
    )
    l, s, b = (value.numpy() for value in statistics.at(torch.from_numpy(lam))[:3])  # noqa: E741

    def cumulative(values: Array, first: int = 0) -> Array:
        h = np.diff(lam[first : first + len(values)])[:, None]
        return np.concatenate([0 * values[:1], np.cumsum(0.5 * h * (values[1:] + values[:-1]), 0)])

    big_l, big_s = cumulative(l), cumulative(s)
    big_i, big_b = cumulative(np.exp(big_l + big_s)), cumulative(np.exp(-big_s) * b)
    big_c = cumulative(np.exp(big_l + big_s) * big_b)

    def moment(i: int, t: int, n: int) -> Array:
        piece = slice(i, t + 1)
        weight = np.exp((big_l + big_s)[piece] - (big_l + big_s)[i])
        return cumulative(weight * ((lam[piece] - lam[i]) ** n / math.factorial(n))[:, None], i)[-1]

    def taylor(points: list[int], g: list[Array], how: str) -> list[Array]:
        at = lam[points]
        if how == "pseudo":
            table, first = g, []
            for n in range(1, len(g)):
                table = [(p - q) / (at[j] - at[j + n]) for j, (p, q) in enumerate(itertools.pairwise(table))]
                first.append(math.factorial(n) * table[0])
            return first
        if len(g) == 1:
            return []
        matrix = np.stack([(at[1:] - at[0]) ** n for n in range(1, len(g))], 1)
        flat = np.stack([value - g[0] for value in g[1:]]).reshape(len(g) - 1, -1)
        solved = np.linalg.solve(matrix, flat).reshape(-1, *x.shape)
        return [math.factorial(n + 1) * value for n, value in enumerate(solved)]

    def move(x: Array, i: int, t: int, points: list[int], f: list[Array], how: str) -> Array:
        g = [
            np.exp(big_s[i] - big_s[j]) * value - np.exp(big_s[i]) * (big_b[j] - big_b[i])
            for j, value in zip(points, f, strict=True)
        ]
        out = np.exp(big_l[i] - big_l[t]) * x - np.exp(-big_l[t] - big_s[i]) * (big_i[t] - big_i[i]) * g[0]
        out = out - np.exp(-big_l[t]) * (big_c[t] - big_c[i] - big_b[i] * (big_i[t] - big_i[i]))
        for n, derivative in enumerate(taylor(points, g, how), 1):
            out = out - np.exp(big_l[i] - big_l[t]) * moment(i, t, n) * derivative
        return out

    steps = len(grid) - 1
    index = [per_step * i for i in range(steps + 1)]
    xs: list[Array] = []
    f: list[Array] = []
    last = 0
    for i in range(steps):
        eps = (x - mixture()(torch.from_numpy(x), grid[i]).mean.numpy()) / (40 * float(grid[i]))
        xs.append(x)
        f.append(40 * float(grid[i]) * eps - l[index[i]] * x)
        redone = last + (corrector == "pseudo")
        if corrector is not None and redone > 1:
            points = [i - 1, i, *range(i - 2, i - redone, -1)]
            xs[-1] = move(
                xs[i - 1], index[i - 1], index[i], [index[j] for j in points], [f[j] for j in points], corrector
            )
        last = min(order, i + 1, steps - i)
        points = list(range(i, i - last, -1))
        x = move(xs[i], index[i], index[i + 1], [index[j] for j in points], [f[j] for j in points], predictor)
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("predictor", ["polynomial", "pseudo"])
@pytest.mark.parametrize("corrector", [None, "polynomial", "pseudo"])
def test_published_formulas(order: int, predictor: Any, corrector: Any) -> None:
    grid = torch.tensor([0.8, 0.35, 0.2, 0.06, 0.02, 0.008, 0.003], dtype=DOUBLE)
    x = 32 * normal(5, 8)
    statistics = mixture_statistics()
    got = simulate(
        dpm_v3(statistics, order, predictor=predictor, corrector=corrector)(mixture(), EDM40),
        x,
        grid,
        Noise(0, range(5)),
    )
    want = published(statistics, grid, x.numpy(), order, predictor, corrector)
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)


# --- accuracy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured", [True, False])
def test_one_evaluation_is_exact_on_gaussian_data(measured: bool) -> None:
    """On other noise than that of the estimate; DDIM, 2M and UniPC are one method there, and far off."""
    statistics = gaussian_statistics() if measured else analytic_statistics()
    grid, x = statistics.grid(VP, 1), normal(64, 3, seed=9)
    want = GAUSSIAN.flow(x, grid[0], grid[-1])

    def off(solver: Callable[..., Any]) -> float:
        return float((simulate(solver(GAUSSIAN, VP), x, grid, Noise(0, range(64))) - want).norm(dim=1).median())

    assert off(dpm_v3(statistics)) < 1e-6
    assert off(ddim()) > 1.0


def test_more_cells_are_fourth_order() -> None:
    """With analytic statistics nothing but the spline is inexact."""
    grid, x = uniform_log_snr(VP, 1, start=0.95, end=0.01), normal(64, 3)
    want = GAUSSIAN.flow(x, grid[0], grid[-1])
    coarse, fine = (
        float((simulate(dpm_v3(analytic_statistics(n))(GAUSSIAN, VP), x, grid, Noise(0, range(64))) - want).abs().max())
        for n in (40, 80)
    )
    assert math.log2(coarse / fine) > 3.8


def test_the_linear_part_alone_is_worse_than_none() -> None:
    """Without b the constant part of f is taken for a slope of the mean: all of l, s, b or none."""
    full = gaussian_statistics()
    none = torch.zeros_like(full.l)
    alone = dataclasses.replace(full, s=none, b=none)
    grid, x = full.grid(VP, 1), normal(64, 3, seed=9)
    errors = [held_out_errors(dpm_v3(stats), GAUSSIAN, VP, x, grid) for stats in (alone, full)]
    assert errors[0].solver > 1.2 * errors[0].plain
    assert errors[1].solver < 1e-4 * errors[1].plain


def test_held_out_noise_is_better_than_plain_on_the_mixture() -> None:
    held_out = held_out_errors(dpm_v3(mixture_statistics()), mixture(), EDM40, 40 * normal(128, 8, seed=5), log_grid(8))
    assert held_out.solver < 0.75 * held_out.plain


@pytest.mark.parametrize(
    ("order", "corrector", "expected"), [(1, None, 1.0), (2, None, 2.0), (3, None, 3.0), (2, "polynomial", 2.0)]
)
def test_measured_order(order: int, corrector: Any, expected: float) -> None:
    """Without the lower-order end; the start, of lower order, in steps too short to show."""

    def grid(steps: int) -> Tensor:
        coarse = log_grid(steps)
        return torch.cat([uniform_log_snr(EDM40, 60, start=1.0, end=float(coarse[3])), coarse[4:]])

    method = DPMv3(mixture_statistics(), order, corrector=corrector, lower_final=False)
    solver = partial(CoordinateKernel, tabulate=method)
    slope = math.log2(error(solver, grid(120)) / error(solver, grid(240)))
    assert slope == pytest.approx(expected, abs=0.2)


def test_low_step_ranking() -> None:
    solvers: dict[str, Callable[..., Any]] = {
        "v3": dpm_v3(mixture_statistics()),
        "corrected": dpm_v3(mixture_statistics(), corrector="polynomial"),
        "uni2": unipc(2),
        "2m": dpmpp(2),
        "ddim": ddim(),
    }
    at_ten = {name: error(solver, log_grid(10)) for name, solver in solvers.items()}
    assert at_ten["corrected"] < at_ten["v3"] < at_ten["uni2"] < at_ten["ddim"]
    assert at_ten["v3"] < at_ten["2m"]


@pytest.mark.parametrize("predictor", ["polynomial", "pseudo"])
def test_wrong_statistics_are_slow_and_not_wrong(predictor: Any) -> None:
    """Whatever l, s, b are, the method converges: they are a choice of coordinates."""
    wrong = dataclasses.replace(mixture_statistics(), s=0.3 * mixture_statistics().s.flip(1), b=mixture_statistics().l)
    solver = dpm_v3(wrong, 2, predictor=predictor)
    assert math.log2(error(solver, log_grid(150)) / error(solver, log_grid(300))) == pytest.approx(2.0, abs=0.25)


# --- the kernel ---------------------------------------------------------------------------------------------


def test_coordinate_rows_by_hand() -> None:
    """Two rows with a number for each coordinate, written out."""

    def column(*values: float) -> Tensor:
        return torch.tensor(values, dtype=DOUBLE)

    rows = (
        CoordinateRow(column(1, 2), column(3, 4), column(5, 6), (column(7, 8),)),
        CoordinateRow(column(9, 10), column(11, 12), column(13, 14), (column(15, 16), column(17, 18))),
    )
    kernel = CoordinateKernel(lambda x, t, /, **cond: Point(x * t), VP, lambda schedule, grid: rows)
    x = column(0.5, -0.25)
    v0 = 0.9 * x + rows[0].keep * x
    x1 = rows[0].offset + rows[0].state * x + rows[0].weights[0] * v0
    v1 = 0.4 * x1 + rows[1].keep * x1
    x2 = rows[1].offset + rows[1].state * x1 + rows[1].weights[0] * v1 + rows[1].weights[1] * v0
    got = simulate(kernel, x[None], torch.tensor([0.9, 0.4, 0.1], dtype=DOUBLE), Noise(0, [0]))
    torch.testing.assert_close(got[0], x2, rtol=1e-14, atol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    solver, grid = dpm_v3(mixture_statistics(), corrector="polynomial")(mixture(), EDM40), log_grid(6)
    x = 40 * normal(8, 8)
    whole = simulate(solver, x, grid, Noise(0, range(8)))
    parts = [simulate(solver, x[i : i + 2], grid, Noise(0, range(i, i + 2))) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


def test_gradients_flow_and_nothing_is_overwritten() -> None:
    solver, grid = dpm_v3(gaussian_statistics(), corrector="pseudo"), gaussian_statistics().grid(VP, 3)

    def end(x: Tensor) -> Tensor:
        return simulate(solver(GAUSSIAN, VP), x, grid, Noise(0, range(len(x))))

    x = normal(1, 3).requires_grad_(True)
    kept = x.detach().clone()
    assert torch.autograd.gradcheck(end, x)
    assert torch.equal(x.detach(), kept)


def test_a_run_in_inference_mode_leaves_the_table_differentiable() -> None:
    kernel = dpm_v3(gaussian_statistics(), 2)(lambda x, t, /, **cond: Point(x * t), VP)
    grid, x = uniform_log_snr(VP, 3, start=0.9, end=0.1), normal(2, 3)
    with torch.inference_mode():
        want = simulate(kernel, x, grid, Noise(0, range(2)))
    x.requires_grad_(True)
    got = simulate(kernel, x, grid, Noise(0, range(2)))
    got.sum().backward()
    assert x.grad is not None
    assert torch.equal(got, want)


def test_single_precision_and_resuming() -> None:
    """A run may be cut at any step, and goes on from its carry in any kernel of the same method."""
    statistics, x, noise = mixture_statistics(), 40 * normal(4, 8, dtype=torch.float32), Noise(0, range(4))
    end = simulate(dpm_v3(statistics)(mixture(), EDM40), x, log_grid(9), noise)
    double = simulate(dpm_v3(statistics)(mixture(), EDM40), x.double(), log_grid(9), noise)
    assert end.dtype == torch.float32
    torch.testing.assert_close(end.double(), double, rtol=0, atol=1e-3)
    carry = dpm_v3(statistics)(mixture(), EDM40).init(x, log_grid(9))
    for i in range(9):
        carry, x = dpm_v3(statistics)(mixture(), EDM40).step(carry, x, i, noise)
        assert len(carry.past) == min(i + 1, 2)
    assert torch.equal(x, end)


@pytest.mark.parametrize("times", [(1.0, 0.5, 0.0), (1.0, 0.5, 1e-5)])
def test_grids_outside_the_statistics_are_refused(times: Sequence[float]) -> None:
    with pytest.raises(InputError, match=r"stay within the statistics' log-SNR of -10\.05 to 9\.115"):
        sample(GAUSSIAN, VP, (2, 3), solver=dpm_v3(gaussian_statistics()), steps=2, grid=torch.tensor(times))


def test_misuse_is_refused() -> None:
    with pytest.raises(InputError, match=r"events of shape \(3,\)"):
        sample(GAUSSIAN, VP, (2, 4), solver=dpm_v3(gaussian_statistics()), steps=2, grid=gaussian_statistics().grid)
    with pytest.raises(ValueError, match="orders 1 to 3"):
        dpm_v3(gaussian_statistics(), 4)


def test_sample_in_one_line() -> None:
    x = sample(GAUSSIAN, VP, (4000, 3), solver=dpm_v3(gaussian_statistics()), steps=1, grid=gaussian_statistics().grid)
    torch.testing.assert_close(x.mean(0), MEAN.float(), rtol=0, atol=0.15)
    torch.testing.assert_close(x.std(0), STD.float(), rtol=0.06, atol=0)
