"""Total variation against exact solutions, the conditions of optimality, and solvers that share no code with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor

from degauss.core import Noise
from degauss.core.errors import InputError
from degauss.core.inverse import (
    ANISOTROPIC,
    ISOTROPIC,
    ISOTROPIC_COMPLEX,
    ConjugateGradient,
    Gradient,
    Identity,
    Mask,
    Matrix,
    Measurement,
    MixedNorm,
    TotalVariation,
    dot_test,
    inverse_spacing,
    spectral_norm,
    tuned_tv_by_discrepancy,
    tuned_tv_by_truth,
)

DOUBLE = torch.float64
Array = NDArray[np.float64]
EXACT = ConjugateGradient(30, 0.01)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


def blocks(*shape: int) -> Tensor:
    """A box of 1 in a background of 0, ``[1, *shape]``."""
    x = torch.zeros(1, *shape, dtype=DOUBLE)
    x[(0, *(slice(n // 4, 3 * n // 4) for n in shape))] = 1
    return x


# --- the gradient -------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    shape=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    weights=st.lists(st.floats(0.1, 3), min_size=3, max_size=3),
    axes=st.permutations([-1, -2, -3]),
    count=st.integers(1, 3),
)
def test_the_gradient_and_its_transpose(shape: list[int], weights: list[float], axes: list[int], count: int) -> None:
    gradient = Gradient(tuple(axes[:count]), tuple(weights[:count]))
    x = normal(2, *shape)
    y = gradient(x)
    assert y.shape == (2, count, *shape)
    assert dot_test(gradient, x, y) < 1e-12
    torch.testing.assert_close(gradient.normal(x), gradient.adjoint(y))
    if max(shape) > 1 and bool((y != 0).any()):
        assert spectral_norm(gradient, x) <= gradient.norm * (1 + 1e-6)


def test_ends_are_not_joined_and_slopes_are_per_length() -> None:
    # The same ramp, one unit a mm along each axis, on voxels of 4 x 2 x 2 mm: slopes per in-plane spacing are equal.
    spacing = (4.0, 2.0, 2.0)
    gradient = Gradient((-3, -2, -1), inverse_spacing(spacing))
    for place, step in enumerate(spacing):
        ramp = (step * torch.arange(5, dtype=DOUBLE)).reshape([-1 if axis == place else 1 for axis in range(3)])
        slopes = gradient(ramp.expand(5, 5, 5)[None])[0, place].movedim(place, 0)
        torch.testing.assert_close(slopes[:4], torch.full((4, 5, 5), 2.0, dtype=DOUBLE))
        assert not slopes[4].any()


def test_spacing_in_the_plane_is_the_unit() -> None:
    assert inverse_spacing((5.0, 1.0, 1.0)) == pytest.approx((0.2, 1, 1))
    assert inverse_spacing((3.0, 3.0, 3.0)) == pytest.approx((1, 1, 1))
    assert inverse_spacing((1.0, 4.0, 1.0)) == pytest.approx((2, 0.5, 2))
    assert inverse_spacing((2.0, 2.0)) == pytest.approx((1, 1))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), threshold=st.floats(0.01, 3), together=st.sampled_from([(), (1,), (1, -3), (1, -1)]))
def test_shrinking_is_the_proximal_map(seed: int, threshold: float, together: tuple[int, ...]) -> None:
    norm, v = MixedNorm(together), normal(2, 3, 2, 3, 2, seed=seed)
    z = norm.shrink(v, threshold)
    # (v - z) / threshold is a subgradient at z: no group longer than one, and along z where z is not 0.
    dual = (v - z) / threshold
    lengths = dual.norm(dim=together, keepdim=True) if together else dual.abs()
    assert float(lengths.max()) <= 1 + 1e-12
    pairing = (dual * z).flatten(1).sum(1)
    torch.testing.assert_close(pairing, norm.value(z))


# --- exact solutions ----------------------------------------------------------------------------------------


def exact_1d(y: Array, strength: float) -> Array:
    """Denoising on a line by its dual, a least squares problem in a box, solved by an active-set method."""
    n = len(y)
    difference = np.diff(np.eye(n), axis=0)
    u = lsq_linear(difference.T, y, (-strength, strength), method="bvls", tol=1e-14).x
    return y - difference.T @ u


@pytest.mark.parametrize("strength", [0.05, 0.4, 1.5])
def test_curves_are_denoised_exactly(strength: float) -> None:
    y = normal(2, 25).cumsum(1) * 0.3
    tv = TotalVariation(strength, (-1,), (1.0,), edge=0.5, tolerance=1e-6, iterations=3000, solve=EXACT)
    solution = tv(Measurement(Identity(), y))
    expected = torch.stack([torch.from_numpy(exact_1d(row.numpy(), strength)) for row in y])
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=2e-4)


def test_a_strong_one_leaves_the_mean() -> None:
    y = normal(2, 4, 5, 6)
    solution = TotalVariation(100.0)(Measurement(Identity(), y))
    torch.testing.assert_close(solution.x, y.mean((1, 2, 3), keepdim=True).expand_as(y), rtol=0, atol=2e-3)
    assert solution.iterations < 300


def test_it_agrees_with_scikit_image_on_volumes() -> None:
    restoration = pytest.importorskip("skimage.restoration")
    y = blocks(5, 8, 7) + 0.2 * normal(1, 5, 8, 7)
    expected = torch.from_numpy(
        restoration.denoise_tv_chambolle(y[0].numpy(), weight=0.3, eps=1e-12, max_num_iter=20000)
    )[None]
    tv = TotalVariation(0.3, tolerance=1e-5, iterations=1000)
    measurement = Measurement(Identity(), y)
    solution = tv(measurement)
    ours, theirs = (float(tv.objective(measurement, x)) for x in (solution.x, expected))
    assert ours <= theirs * (1 + 1e-5)
    assert ours == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=5e-3)


# --- against another solver, and the conditions of optimality -----------------------------------------------

EVENT = (3, 4, 5)
RAW = normal(25, 60, seed=1)
A = RAW / torch.linalg.matrix_norm(RAW, 2)
OPERATOR = Matrix(A, EVENT)
TRUTH = blocks(*EVENT)
WEIGHTS = (0.4, 1.0, 1.0)


def chambolle_pock(y: Array, strength: float, isotropic: bool, low: float | None, steps: int) -> Array:
    """The primal-dual method of Chambolle and Pock 2011 on dense matrices, for one volume."""
    a = A.numpy()
    eye = np.eye(60).reshape(60, *EVENT)
    rows: list[Array] = []
    for axis, weight in zip((1, 2, 3), WEIGHTS, strict=True):
        far = [(0, 0)] * 4
        far[axis] = (0, 1)
        rows.append(weight * np.pad(np.diff(eye, axis=axis), far).reshape(60, 60).T)
    d = np.concatenate(rows)
    k = np.concatenate([a, d])
    step = 0.99 / np.linalg.norm(k, 2)
    x = ahead = np.zeros(60)
    p, u = np.zeros(25), np.zeros(180)
    for _ in range(steps):
        p = (p + step * (a @ ahead - y)) / (1 + step)
        u = u + step * d @ ahead
        parts = u.reshape(3, 60)
        lengths = np.sqrt((parts**2).sum(0)) if isotropic else np.abs(parts)
        u = (parts / np.maximum(1, lengths / strength)).reshape(-1)
        new = x - step * (a.T @ p + d.T @ u)
        new = new if low is None else np.maximum(new, low)
        ahead, x = 2 * new - x, new
    return x.reshape(EVENT)


@pytest.mark.parametrize("norm", [ISOTROPIC, ANISOTROPIC], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("low", [None, 0.0], ids=["free", "bounded"])
def test_it_reaches_the_minimum_that_another_method_finds(norm: MixedNorm, low: float | None) -> None:
    y = OPERATOR(TRUTH) + 0.02 * normal(1, 25, seed=2)
    measurement = Measurement(OPERATOR, y)
    tv = TotalVariation(3e-3, weights=WEIGHTS, norm=norm, low=low, tolerance=1e-5, iterations=1000)
    solution = tv(measurement)
    reference = torch.from_numpy(chambolle_pock(y[0].numpy(), 3e-3, norm == ISOTROPIC, low, 20000))[None]
    ours, theirs = (float(tv.objective(measurement, x)) for x in (solution.x, reference))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours < theirs * (1 + 1e-5)
    torch.testing.assert_close(solution.x, reference, rtol=0, atol=5e-3)
    if low is not None:
        assert float(solution.x.min()) >= low
        # The control: the bound binds, and without it values lie below.
        assert float(replace(tv, low=None)(measurement).x.min()) < -0.01


@pytest.mark.parametrize("low", [None, 0.0], ids=["free", "bounded"])
def test_the_conditions_of_optimality_hold(low: float | None) -> None:
    y = OPERATOR(TRUTH) + 0.02 * normal(1, 25, seed=2)
    measurement = Measurement(OPERATOR, y)
    tv = TotalVariation(3e-3, weights=WEIGHTS, low=low, tolerance=1e-5, iterations=1000)
    x, dual, bound, *_ = tv(measurement)
    gradient = tv.gradient
    # Feasible: the dual's groups are within the ball, and it is a subgradient: it pairs with D x to the penalty.
    assert float(dual.norm(dim=1).max()) <= 1 + 1e-9
    assert float((dual * gradient(x)).sum()) == pytest.approx(float(ISOTROPIC.value(gradient(x))), rel=1e-4)
    slope = OPERATOR.adjoint(OPERATOR(x) - y) + 3e-3 * gradient.adjoint(dual)
    if low is None:
        assert bound is None
        assert float(slope.abs().max()) < 1e-6
    else:
        # What is left pushes against the bound, where x lies on it, and nowhere else.
        assert bound is not None
        torch.testing.assert_close(slope, -bound, rtol=0, atol=1e-6)
        assert float(slope.min()) > -1e-6
        assert float((slope * (x > 1e-3)).abs().max()) < 1e-6
        assert float(slope.max()) > 1e-4


def test_it_says_how_far_from_optimal_it_is() -> None:
    measurement = Measurement(OPERATOR, OPERATOR(TRUTH))
    tv = TotalVariation(1e-2)
    solution = tv(measurement)
    assert float(torch.maximum(solution.primal, solution.stationarity)) <= 1e-3
    rushed = replace(tv, iterations=3)(measurement)
    assert rushed.iterations == 3
    assert float(torch.maximum(rushed.primal, rushed.stationarity)) > 1e-2
    # The speed's setting is not the result's.
    for edge in (0.03, 0.2):
        other = replace(tv, edge=edge)(measurement)
        assert float(tv.objective(measurement, other.x)) == pytest.approx(
            float(tv.objective(measurement, solution.x)), rel=3e-3
        )


def test_it_beats_least_squares_where_edges_are_few() -> None:
    measurement = Measurement(OPERATOR, OPERATOR(TRUTH))
    x = TotalVariation(1e-4)(measurement).x
    ridge = torch.linalg.pinv(A) @ measurement.y[0]
    assert float((x - TRUTH).norm()) < 0.6 * float((ridge.reshape(TRUTH.shape) - TRUTH).norm())


def test_a_start_nearby_saves_iterations_and_changes_nothing() -> None:
    measurement = Measurement(OPERATOR, OPERATOR(TRUTH) + 0.01 * normal(1, 25))
    for low in (None, 0.0):
        tv = TotalVariation(1e-2, low=low, tolerance=1e-4, iterations=1000)
        near = replace(tv, strength=1.1e-2)(measurement)
        cold, warm = tv(measurement), tv(measurement, near)
        assert warm.iterations < 0.9 * cold.iterations
        torch.testing.assert_close(warm.x, cold.x, rtol=0, atol=1e-3)
        assert tv(measurement, cold).iterations <= 5


def test_a_row_does_not_depend_on_its_batch() -> None:
    y = torch.cat([0.01 * OPERATOR(TRUTH), OPERATOR(TRUTH) + 0.05 * normal(1, 25), torch.zeros(1, 25, dtype=DOUBLE)])
    for low in (None, 0.0):
        tv = TotalVariation(1e-2, low=low, iterations=500)
        together = tv(Measurement(OPERATOR, y))
        for row in range(3):
            alone = tv(Measurement(OPERATOR, y[row : row + 1]))
            torch.testing.assert_close(together.x[row], alone.x[0], rtol=1e-9, atol=1e-12)
        assert not together.x[2].any()


def test_single_precision_stops_at_its_rounding() -> None:
    measurement = Measurement(Matrix(A.float(), EVENT), OPERATOR(TRUTH).float())
    tv = TotalVariation(1e-4, tolerance=1e-3, iterations=1000)
    solution = tv(measurement)
    assert solution.x.dtype == torch.float32
    assert solution.iterations < 1000
    exact = tv(Measurement(OPERATOR, OPERATOR(TRUTH)))
    torch.testing.assert_close(solution.x.double(), exact.x, rtol=0, atol=0.02)


def test_two_channels_of_one_complex_number_shrink_together() -> None:
    """The result turns with the phase of the data; channel by channel it would not."""
    y = torch.stack([blocks(6, 7), torch.zeros(1, 6, 7, dtype=DOUBLE)], 1)[:, None] + 0.1 * normal(1, 1, 2, 6, 7)
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=DOUBLE)

    def turned(x: Tensor) -> Tensor:
        return torch.einsum("ij,bsjrc->bsirc", turn, x)

    def gap(norm: MixedNorm) -> float:
        tv = TotalVariation(0.2, (-2, -1), (1.0, 1.0), norm, tolerance=1e-5, iterations=1000)
        first, second = (tv(Measurement(Identity(), value)).x for value in (y, turned(y)))
        return float((turned(first) - second).abs().max())

    assert gap(ISOTROPIC_COMPLEX) < 1e-3
    assert gap(ISOTROPIC) > 1e-2


# --- choosing lambda ----------------------------------------------------------------------------------------

SIGMA = 0.1
BOX = blocks(4, 12, 12)


def noisy(seed: int = 3) -> Measurement:
    return Measurement(Identity(), BOX + SIGMA * normal(1, 4, 12, 12, seed=seed), SIGMA)


@pytest.mark.parametrize("start", [1e-4, 3e-2, 3.0])
def test_by_discrepancy_the_residual_is_as_large_as_the_noise(start: float) -> None:
    measurement = noisy()
    tuned = tuned_tv_by_discrepancy(TotalVariation(start), measurement)
    ratio = float(measurement.residual(tuned.solution.x).norm()) / (SIGMA * math.sqrt(BOX.numel()))
    assert ratio == pytest.approx(1, abs=0.021)
    assert tuned.tried[-1] == pytest.approx((tuned.tv.strength, ratio))
    assert len(tuned.tried) < 15
    error = float((tuned.solution.x - BOX).square().mean().sqrt())
    assert error < 0.65 * SIGMA


def test_only_measured_values_count() -> None:
    mask = torch.zeros(12, dtype=DOUBLE)
    mask[::2] = 1
    y = mask * noisy().y
    measurement = Measurement(Mask(mask), y, SIGMA)
    tuned = tuned_tv_by_discrepancy(TotalVariation(0.03), measurement, measured=4 * 12 * 6)
    ratio = float(measurement.residual(tuned.solution.x).norm()) / (SIGMA * math.sqrt(4 * 12 * 6))
    assert ratio == pytest.approx(1, abs=0.021)


def test_by_truth_no_other_strength_is_better() -> None:
    measurement = noisy()
    tuned = tuned_tv_by_truth(TotalVariation(1e-3), measurement, BOX)
    best = float((tuned.solution.x - BOX).square().mean())
    for factor in (0.5, 2.0):
        other = replace(tuned.tv, strength=factor * tuned.tv.strength)(measurement).x
        assert float((other - BOX).square().mean()) > best
    strengths, figures = zip(*tuned.tried, strict=True)
    assert len(set(strengths)) == len(strengths)
    assert max(figures) == pytest.approx(-10 * math.log10(best))
    # Chosen on one noise, it serves another.
    again = tuned.tv(noisy(4)).x
    assert float((again - BOX).square().mean()) < 1.2 * best


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(InputError, match="needs the noise level"):
        tuned_tv_by_discrepancy(TotalVariation(0.1), Measurement(Identity(), BOX))
    loud = Measurement(Identity(), noisy().y, 5.0)
    with pytest.raises(InputError, match="is sigma_y = 5 right"):
        tuned_tv_by_discrepancy(TotalVariation(0.1, iterations=20), loud, high=100.0)


def test_wrong_settings_are_refused() -> None:
    for strength, edge, tolerance, name in (
        (0.0, 0.1, 0.1, "strength"),
        (math.nan, 0.1, 0.1, "strength"),
        (0.1, -1.0, 0.1, "edge"),
        (0.1, 0.1, math.inf, "tolerance"),
    ):
        with pytest.raises(InputError, match=name):
            TotalVariation(strength, edge=edge, tolerance=tolerance)
    with pytest.raises(InputError, match="iterations"):
        TotalVariation(0.1, iterations=0)
    with pytest.raises(InputError, match="spacing"):
        inverse_spacing((1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="counted from the end"):
        TotalVariation(0.1, (1, 2), (1.0, 1.0))
    with pytest.raises(ValueError, match="not all of an event"):
        TotalVariation(0.1)(Measurement(Identity(), normal(2, 4, 4)))
