"""FDDS, VDS and the distance behind them: against the sum over pairs, closed forms, and what they must tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.timeseries.generation_data import sines
from degauss.timeseries.population import (
    SCORE_WIDTHS,
    TRAINING_WIDTHS,
    cross_correlations,
    fdds,
    mmd,
    vds,
)


def direct(x: np.ndarray, y: np.ndarray, widths: tuple[float, ...]) -> float:
    """The biased MMD^2 as its definition: sums over all pairs."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        gap = (a[:, None] - b[None]) ** 2
        return sum(float(np.exp(-gap / (2 * w)).mean()) for w in widths)

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=torch.float64))


# --- the distance ---


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    widths=st.lists(st.floats(0.005, 3.0), min_size=1, max_size=5),
    span=st.floats(0.5, 6.0),
    seed=st.integers(0, 1000),
)
def test_it_is_the_sum_over_pairs_to_rounding(sizes, widths, span, seed):
    x, y = (np.random.default_rng((seed, k)).uniform(0, span, n) for k, n in enumerate(sizes))
    y[: len(y) // 2] = span * (y[: len(y) // 2] > span / 2)  # the ends, at the largest difference there is
    fast = mmd(torch.from_numpy(x[:, None]), torch.from_numpy(y[:, None]), tuple(widths), span=span, tolerance=1e-12)
    assert float(fast[0]) == pytest.approx(direct(x, y, tuple(widths)), abs=1e-11)
    assert float(fast[0]) >= 0


def test_the_tolerance_is_kept():
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 300))
    columns = torch.from_numpy(x[:, None]), torch.from_numpy(y[:, None])
    for tolerance in (1e-2, 1e-4, 1e-7):
        found = float(mmd(*columns, TRAINING_WIDTHS, span=2.0, tolerance=tolerance))
        assert abs(found - direct(x, y, TRAINING_WIDTHS)) < 10 * tolerance


def test_float32_loses_nothing_to_cancellation():
    """The sum over pairs of 3000 values would leave about three digits of a distance this small."""
    x, y = normal(3000, 1), normal(3000, 1, seed=1)
    double = float(mmd(x, y, SCORE_WIDTHS, span=8.0))
    single = float(mmd(x.float(), y.float(), SCORE_WIDTHS, span=8.0))
    assert double < 0.01
    assert single == pytest.approx(double, rel=1e-3)


def test_two_gaussians():
    """E K between normals of variances a, b and means m apart is sqrt(w / (w + a + b)) exp(-m^2 / 2(w + a + b))."""
    w, shift = 0.5, 0.7

    def kernel(variance: float, gap: float) -> float:
        return math.sqrt(w / (w + variance)) * math.exp(-(gap**2) / (2 * (w + variance)))

    expected = kernel(2.0, 0) + kernel(2 * 0.25, 0) - 2 * kernel(1.25, shift)
    x, y = normal(200_000, 1), 0.5 * normal(200_000, 1, seed=1) + shift
    assert float(mmd(x, y, (w,), span=12.0)) == pytest.approx(expected, rel=0.02)


def test_columns_are_on_their_own():
    x, y = normal(50, 3), normal(70, 3, seed=1)
    whole = mmd(x, y, SCORE_WIDTHS, span=10.0)
    alone = [mmd(x[:, k, None], y[:, k, None], SCORE_WIDTHS, span=10.0)[0] for k in range(3)]
    torch.testing.assert_close(whole, torch.stack(alone), rtol=0, atol=1e-14)


def test_many_rows_go_in_parts():
    x, y = normal(9000, 2), normal(7000, 2, seed=1)
    whole = mmd(x, y, SCORE_WIDTHS, span=10.0, tolerance=1e-12)
    # Rows twice over are the same distribution, in other parts.
    twice = mmd(x.repeat(2, 1), y, SCORE_WIDTHS, span=10.0, tolerance=1e-12)
    torch.testing.assert_close(whole, twice, rtol=0, atol=1e-13)


def test_a_flat_window_has_a_gradient_to_leave_by():
    flat = torch.zeros(4, 10, 3, requires_grad=True)
    r = cross_correlations(flat, floor=1e-3)
    (gradient,) = torch.autograd.grad(mmd(r, torch.ones(4, 3), TRAINING_WIDTHS, span=2.0).sum(), flat)
    assert bool(torch.isfinite(gradient).all())
    moving = normal(4, 10, 3)
    torch.testing.assert_close(cross_correlations(moving, floor=1e-3), cross_correlations(moving), atol=1e-5, rtol=0)


def test_its_gradient():
    x, y = normal(6, 1).requires_grad_(), normal(5, 1, seed=1)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return sum((torch.exp(-((a - b.T) ** 2) / (2 * w)).mean() for w in TRAINING_WIDTHS), torch.zeros(()))

    (expected,) = torch.autograd.grad(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y), x)
    (found,) = torch.autograd.grad(mmd(x, y, TRAINING_WIDTHS, span=8.0, tolerance=1e-12).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    with torch.inference_mode():  # what is kept from here must not spoil training
        mmd(normal(3, 1), normal(3, 1, seed=1), (0.3,), span=1.5)
    z = normal(3, 1).requires_grad_()
    mmd(z, normal(3, 1, seed=1), (0.3,), span=1.5).sum().backward()
    assert z.grad is not None


# --- correlations ---


def test_correlations_are_numpys():
    windows = normal(7, 20, 4).numpy()
    found = cross_correlations(torch.from_numpy(windows)).numpy()
    first, second = np.triu_indices(4, 1)
    expected = [np.corrcoef(window.T)[first, second] for window in windows]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_feature_has_no_correlation(dtype):
    windows = normal(3, 20, 3).to(dtype)
    windows[:, :, 1] = 0.1  # its mean is not 0.1 to the bit
    found = cross_correlations(windows.requires_grad_())
    assert bool((found[:, [0, 2]].abs() < 0.1).all())
    (gradient,) = torch.autograd.grad(found.sum(), windows)
    assert bool(torch.isfinite(gradient).all())
    assert bool(torch.isfinite(cross_correlations(torch.zeros(2, 5, 2))).all())


def test_small_movements_about_a_high_level_count():
    windows = normal(3, 20, 2)
    near = cross_correlations(1e-6 * windows + 1)
    torch.testing.assert_close(near, cross_correlations(windows), rtol=0, atol=1e-8)


# --- the scores ---


def test_real_against_real_is_the_floor():
    """About 4e-5 and 2e-4 for ten thousand Sines; for fewer, what the mean of the biased MMD is by its formula."""
    real, other = sines(10_000), sines(10_000, seed=1)
    assert 1e-5 < fdds(real, other) < 1.5e-4
    assert vds(real, other) < 6e-4
    r = cross_correlations(torch.from_numpy(real[:1000])).numpy()
    expected = np.mean([len(SCORE_WIDTHS) - direct_mean(column) for column in r.T]) * 2 / 1000
    scores = [fdds(*part) for part in zip(np.split(real, 10), np.split(other, 10), strict=True)]
    assert np.mean(scores) == pytest.approx(expected, rel=0.5)


def direct_mean(x: np.ndarray) -> float:
    gap = (x[:, None] - x[None]) ** 2
    return sum(float(np.exp(-gap / (2 * w)).mean()) for w in SCORE_WIDTHS)


def test_shuffled_features_keep_their_values_and_lose_their_correlations():
    """The control that values alone cannot see: VDS at its floor, FDDS far above."""
    t = np.arange(24)
    phase = np.random.default_rng(0).uniform(0, 6, (4000, 1, 1))
    pair = np.concatenate([np.sin(t[:, None] / 3 + phase), np.sin(t[:, None] / 3 + phase + 0.3)], axis=2) / 2 + 0.5
    shuffled = pair.copy()
    shuffled[:, :, 1] = np.roll(pair[:, :, 1], 1000, axis=0)
    halves = pair[:2000], pair[2000:]
    assert vds(halves[0], shuffled[2000:]) < 3 * max(vds(*halves), 1e-4)
    assert fdds(halves[0], shuffled[2000:]) > 1000 * fdds(*halves)


def test_other_values_with_the_same_correlations():
    real, other = sines(2000), sines(2000, seed=1)
    assert fdds(real, other / 2) == pytest.approx(fdds(real, other))
    assert vds(real, other / 2) > 100 * vds(real, other)


def test_values_are_chosen_by_the_seed_alone():
    real, other = sines(1500), sines(1500, seed=1)
    assert vds(real, other, seed=3) == vds(real, other, seed=3) != vds(real, other, seed=4)
    assert vds(real, real) == 0.0


def test_one_feature_has_no_pairs():
    with pytest.raises(InputError, match="at least 2 features, but there is 1"):
        fdds(np.zeros((3, 5, 1)), np.zeros((3, 5, 1)))
