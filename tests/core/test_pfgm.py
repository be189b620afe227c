"""PFGM++: its kernel is Student's t, its limit is EDM, its denoiser is the regression minimum, its ODE is EDM's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, InputError, LinearVP, Noise, simulate
from degauss.core.gaussian import Heun, ddim, dpmpp, unipc
from degauss.core.grid import karras
from degauss.core.oracle import MixtureOracle
from degauss.core.process.pfgm import PointsOracle, gamma_quantile, student_noise
from degauss.core.sampling import Solver

DOUBLE = torch.float64
SIGMA_MAX = 80.0


def points(count: int = 6, dim: int = 3) -> Tensor:
    return 2 * Noise(11, range(count)).normal(torch.empty(count, dim, dtype=DOUBLE))


def unit(count: int, size: int, dim: float, seed: int = 0) -> Tensor:
    return student_noise(Noise(seed, range(count)), torch.empty(count, size, dtype=DOUBLE), dim)


@settings(max_examples=60)
@given(st.floats(0.1, 1e5), st.floats(1e-14, 1 - 1e-14))
def test_gamma_quantile_is_scipys(shape: float, u: float) -> None:
    got = float(gamma_quantile(shape, torch.tensor(u, dtype=DOUBLE)))
    want = scipy.stats.gamma.ppf(u, shape) if u < 0.5 else scipy.stats.gamma.isf(1 - u, shape)
    assert got == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize(("size", "dim"), [(2, 1), (3, 2.5), (2, 2048), (64, 128), (64, 4), (200, 10**6)])
def test_radius_has_the_published_law(size: int, dim: float) -> None:
    """R^2 / (R^2 + r^2) ~ Beta(N/2, D/2), r = sqrt(D) at sigma = 1."""
    squared = unit(4000, size, dim).square().sum(1)
    b = (squared / (squared + dim)).numpy()
    assert scipy.stats.kstest(b, scipy.stats.beta(size / 2, dim / 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dim", [1, 3, 50])
def test_coordinates_are_students_t(dim: float) -> None:
    y = unit(4000, 2, dim)
    assert scipy.stats.kstest(y[:, 0].numpy(), scipy.stats.t(dim).cdf).pvalue > 1e-3
    # The direction is uniform, and independent of the radius.
    angle = torch.atan2(y[:, 1], y[:, 0])
    assert scipy.stats.kstest(angle.numpy(), scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(angle.abs().numpy(), y.square().sum(1).log().numpy())[0, 1]) < 0.06


def test_the_published_clip_is_not_for_small_data() -> None:
    """Draws of b clipped to [0.001, 0.999] are another law where N is far below D; ours need no clip."""
    b = scipy.stats.beta(1, 1024).rvs(4000, random_state=0)
    clipped = np.clip(b, 1e-3, 1 - 1e-3)
    assert np.mean(clipped == 1e-3) == pytest.approx(0.64, abs=0.03)
    squared = unit(4000, 2, 2048).square().sum(1)
    ours = (squared / (squared + 2048)).numpy()
    law = scipy.stats.beta(1, 1024).cdf
    assert scipy.stats.kstest(ours, law).pvalue > 1e-3
    assert scipy.stats.kstest(clipped, law).pvalue < 1e-9
    # Where N is large the clip does nothing, as for the images it was made for.
    assert scipy.stats.beta(3072 / 2, 128 / 2).cdf(1 - 1e-3) > 1 - 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [0.5, 1, 1e9, math.inf])
def test_extreme_dimensions_stay_finite(dim: float, dtype: torch.dtype) -> None:
    y = student_noise(Noise(0, range(20_000)), torch.empty(20_000, 2, dtype=dtype), dim)
    assert y.dtype == dtype
    assert bool(torch.isfinite(y).all())


def test_noise_becomes_gaussian_as_the_dimension_grows() -> None:
    """The same normals for every D: the samples themselves converge, by 1 / sqrt(D)."""
    exact = unit(2000, 3, math.inf)
    assert torch.equal(exact, Noise(0, range(2000)).normal(exact))
    gaps = [float((unit(2000, 3, dim) - exact).square().mean().sqrt()) for dim in (1e2, 1e4, 1e6)]
    assert math.log(gaps[0] / gaps[2]) / math.log(1e4) == pytest.approx(0.5, abs=0.02)


def test_denoiser_differs_from_edm_by_one_over_d() -> None:
    """|D_D - D_inf| prop. to 1/D."""
    data = points()
    x = data + 1.5 * Noise(3, range(6)).normal(data)
    t = torch.tensor(1.5 / SIGMA_MAX, dtype=DOUBLE)
    limit = PointsOracle(EDM(), data)(x, t).mean
    gaps = [float((PointsOracle(EDM(), data, dim)(x, t).mean - limit).norm()) for dim in (1e2, 1e3, 1e4, 1e6)]
    slopes = [math.log(a / b) / math.log(r) for a, b, r in zip(gaps, gaps[1:], (10, 10, 100), strict=False)]
    assert slopes[1:] == pytest.approx([1.0, 1.0], abs=0.02)
    assert gaps[0] > 1e-3


def test_infinite_dimension_is_the_gaussian_posterior() -> None:
    data = points()
    mixture = MixtureOracle(LinearVP(), torch.ones(6, dtype=DOUBLE), data, torch.zeros(6, 3, 3, dtype=DOUBLE))
    x = Noise(3, range(4)).normal(torch.empty(4, 3, dtype=DOUBLE))
    t = torch.tensor([0.1, 0.3, 0.6, 1.0], dtype=DOUBLE)
    want = mixture(x, t).mean
    torch.testing.assert_close(PointsOracle(LinearVP(), data)(x, t).mean, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 4, 64, math.inf])
def test_denoiser_is_the_regression_minimum(dim: float) -> None:
    """Residuals x0 - E[x0 | x] are uncorrelated with any function of x; those of another D are not."""
    count, sigma = 40_000, 1.5
    data = points()
    t = torch.tensor(sigma / SIGMA_MAX, dtype=DOUBLE)
    x0 = data[torch.arange(count) % len(data)]
    x = x0 + sigma * unit(count, 3, dim)
    functions = torch.cat([torch.tanh(x), torch.tanh(0.3 * x), torch.cos(x.norm(dim=1, keepdim=True))], 1)

    def worst(other: float) -> float:
        """The largest correlation, in standard errors."""
        residual = x0 - PointsOracle(EDM(), data, other)(x, t).mean
        products = functions[:, :, None] * residual[:, None, :]
        return float((products.mean(0).abs() / (products.std(0) / math.sqrt(count))).max())

    assert worst(dim) < 4.5
    assert worst(2.0 if math.isinf(dim) else 40 * dim if dim < 10 else 1.0) > 8


@pytest.mark.parametrize("dim", [1, 16, 2048, math.inf])
def test_edm_solvers_recover_the_points(dim: float) -> None:
    """Unchanged solvers from the prior at sigma_max: every sample ends on a point, each as often."""
    count = 900
    data = points()
    denoiser = PointsOracle(EDM(), data, dim)
    x = SIGMA_MAX * unit(count, 3, dim)
    grid = karras(EDM(), 40, rho=7)
    x = simulate(Heun(denoiser, EDM()), x, grid, Noise(0, range(count)))
    distance, nearest = torch.cdist(x, data).min(1)
    assert float(distance.quantile(0.98)) < 1e-3
    shares = torch.bincount(nearest, minlength=6) / count
    assert float((shares - 1 / 6).abs().max()) < 4 * math.sqrt(5 / 36 / count) + 0.01


def test_the_prior_must_have_the_right_tails() -> None:
    """The control: Gaussian noise in the place of heavy-tailed noise ends on the points in other shares."""
    count = 1800
    data = torch.tensor([[0.0], [1.0], [8.0]], dtype=DOUBLE)
    schedule = EDM(3.0)
    grid = karras(schedule, 60, sigma_max=3.0)

    def worst(dim: float) -> float:
        """How far the shares of the points are from one third, for data noised by ``dim`` and denoised by D = 1."""
        x = data[torch.arange(count) % 3] + 3 * unit(count, 1, dim)
        x = simulate(Heun(PointsOracle(schedule, data, 1.0), schedule), x, grid, Noise(0, range(count)))
        return float((torch.bincount(torch.cdist(x, data).argmin(1), minlength=3) / count - 1 / 3).abs().max())

    assert worst(1.0) < 4 * math.sqrt(2 / 9 / count) < worst(math.inf)


@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), unipc(3), Heun], ids=str)
def test_any_schedule_and_deterministic_solver_will_do(solver: Solver) -> None:
    """In x / alpha and sigma / alpha a variance-preserving path is EDM's: the same noise ends on the same point."""
    count, dim, data = 60, 8, points()
    vp = LinearVP()
    grid = vp.time(EDM().log_snr(karras(EDM(), 60, sigma_max=80.0, clean=False)))
    x = unit(count, 3, dim) * vp(grid[0]).sigma
    ends = [
        simulate(solver(PointsOracle(schedule, data, dim), schedule), start, times, Noise(0, range(count)))
        for schedule, start, times in (
            (vp, x, grid),
            (EDM(), x / vp(grid[0]).alpha, karras(EDM(), 60, clean=False)),
        )
    ]
    scale = float(vp(grid[-1]).alpha)
    torch.testing.assert_close(ends[0] / scale, ends[1], rtol=1e-6, atol=1e-6)


def test_denoiser_at_the_ends() -> None:
    data = points()
    zero, one = torch.tensor(0.0, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)
    for dim in (1.0, 128.0, math.inf):
        oracle = PointsOracle(EDM(1e6), data, dim)
        torch.testing.assert_close(oracle(data, zero).mean, data)
        torch.testing.assert_close(oracle(data, one).mean, data.mean(0).expand_as(data), rtol=0, atol=1e-4)


def test_denoiser_works_on_events_of_any_shape() -> None:
    data = points(5, 12)
    x = data[:3] + 0.5
    t = torch.tensor([0.01, 0.02, 0.5], dtype=DOUBLE)
    want = PointsOracle(EDM(), data, 10.0)(x, t).mean
    got = PointsOracle(EDM(), data.reshape(5, 3, 4), 10.0)(x.reshape(3, 3, 4), t).mean
    torch.testing.assert_close(got.flatten(1), want)
    assert PointsOracle(EDM(), data, 10.0)(x.float(), t).mean.dtype == torch.float32


def test_samples_do_not_depend_on_their_batch() -> None:
    noise = Noise(5, range(8))
    whole = student_noise(noise, torch.empty(8, 2, 3), 4.0)
    rows = [6, 1, 3]
    assert torch.equal(student_noise(noise.take(rows), torch.empty(3, 2, 3), 4.0), whole[rows])
    assert not torch.equal(student_noise(noise, torch.empty(8, 2, 3), 4.0, draw=1), whole)


def test_gradients_flow_through_the_denoiser() -> None:
    data = points(4, 2).requires_grad_()
    x = Noise(0, range(3)).normal(torch.empty(3, 2, dtype=DOUBLE)).requires_grad_()
    t = torch.tensor(0.02, dtype=DOUBLE)
    for dim in (3.0, math.inf):
        assert torch.autograd.gradcheck(lambda x, data, dim=dim: PointsOracle(EDM(), data, dim)(x, t).mean, (x, data))


@pytest.mark.parametrize("dim", [0, -1.0, math.nan])
def test_bad_dimensions_are_refused(dim: float) -> None:
    with pytest.raises(InputError, match="dimension D of PFGM"):
        unit(2, 2, dim)
    with pytest.raises(InputError, match="dimension D of PFGM"):
        PointsOracle(EDM(), points(), dim)


def test_points_need_a_shape() -> None:
    with pytest.raises(ValueError, match=r"count >= 1"):
        PointsOracle(EDM(), torch.zeros(3))
