"""Fourier operators: unitary where all is measured, exact adjoints and norms, finufft against the sum itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse.operator import LinearOperator, dot_test
from degauss.core.noise import Noise
from degauss.core.places import data_root
from degauss.medical.mri import (
    CartesianMRI,
    RealImages,
    channels,
    complex_from,
    estimated_sensitivities,
    even_lines,
    fourier,
    inverse_fourier,
    random_lines,
)
from degauss.medical.radial import RadialMRI, golden_angles


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(shape, dtype=torch.float64))


def maps(*shape: int) -> Tensor:
    """Sensitivities at random, complex128."""
    return torch.complex(normal(*shape, seed=1), normal(*shape, seed=2))


def dense_norm(operator: LinearOperator, shape: tuple[int, ...]) -> float:
    rows = operator(torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)).flatten(1)
    return float(torch.linalg.matrix_norm(rows, 2))


@given(st.integers(1, 9), st.integers(1, 9))
def test_fourier_transform_is_unitary_and_centred(rows: int, columns: int) -> None:
    x = maps(2, rows, columns)
    assert torch.allclose(inverse_fourier(fourier(x)), x)
    assert torch.allclose(fourier(x).abs().square().sum(), x.abs().square().sum())
    k = fourier(torch.ones(rows, columns, dtype=torch.complex128))
    peak = torch.zeros_like(k)
    peak[rows // 2, columns // 2] = math.sqrt(rows * columns)
    assert torch.allclose(k, peak)
    shifted = fourier(x.roll(1, -1))  # the shift theorem, with zero frequency in the middle
    turn = torch.exp(-2j * math.pi * (torch.arange(columns, dtype=torch.float64) - columns // 2) / columns)
    assert torch.allclose(shifted, fourier(x) * turn)


@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_adjoint_and_norm_are_exact(rows: int, columns: int, coils: int, sliced: bool, seed: int) -> None:
    mask = (Noise(seed, [0]).uniform(torch.empty(1, rows, columns))[0] < 0.6).float()
    mask[rows // 2, columns // 2] = 1
    lead = (3,) if sliced else ()
    operator = CartesianMRI(mask, maps(*lead, coils, rows, columns) if coils else None)
    x = torch.empty(2, *lead, 2, rows, columns)
    y = torch.empty(2, *lead, *((coils,) if coils else ()), 2, rows, columns)
    assert isinstance(operator, LinearOperator)
    assert dot_test(operator, x, y) < 1e-6
    assert operator.norm == pytest.approx(dense_norm(operator, tuple(x.shape[1:])), rel=1e-3)
    real = RealImages(operator)
    assert dot_test(real, x.select(-3, 0), y) < 1e-6
    assert dense_norm(real, tuple(x.select(-3, 0).shape[1:])) <= real.norm * (1 + 1e-6) or coils


def test_fully_sampled_single_coil_is_inverted_by_its_adjoint() -> None:
    x = normal(2, 3, 2, 8, 9)
    full = CartesianMRI(torch.ones(9))
    assert torch.allclose(full.adjoint(full(x)), x)
    half = CartesianMRI(even_lines(9, 2.25, 0.2))
    assert torch.allclose(half(half.adjoint(half(x))), half(x))  # a projection: A A^T A = A


def test_real_and_imaginary_channels_are_torch_complex_numbers() -> None:
    x = normal(2, 2, 5, 6)
    assert torch.equal(channels(complex_from(x)), x)
    assert torch.allclose(complex_from(CartesianMRI(torch.ones(6))(x)), fourier(complex_from(x)))


def test_noise_is_complex_and_only_where_it_is_measured() -> None:
    operator = CartesianMRI(even_lines(64, 4, 0.1))
    y = torch.zeros(2, 2, 64, 64)
    noisy = operator.noisy(y, 0.5, Noise(0, [3, 8]))
    measured = operator.mask.bool()
    assert not noisy[..., ~measured].any()
    assert noisy[:, 0][..., measured].std() == pytest.approx(0.5, rel=0.05)
    assert noisy[:, 1][..., measured].std() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(operator.noisy(y[1:], 0.5, Noise(0, [8])), noisy[1:])


@given(st.integers(16, 80), st.floats(1, 8), st.floats(0, 0.1), st.integers(0, 99))
def test_masks_have_their_centre_and_their_acceleration(
    lines: int, acceleration: float, centre: float, seed: int
) -> None:
    both = random_lines(lines, acceleration, centre, Noise(seed, [1, 2]))
    for mask in (even_lines(lines, acceleration, centre), *both.flatten(1)):
        assert int(mask.sum()) == round(lines / acceleration)
        count = round(lines * centre)
        first = lines // 2 - count // 2
        assert bool(mask[first : first + count].all())
    assert torch.equal(random_lines(lines, acceleration, centre, Noise(seed, [2])), both[1:])


def test_sensitivities_of_the_measured_head() -> None:
    path = data_root() / "medical" / "brain_8coil_cartesian_ksp.npy"
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand")
    kspace = torch.from_numpy(np.load(path))
    maps = estimated_sensitivities(kspace)
    power = maps.abs().square().sum(0)
    seen = power > 0
    assert torch.allclose(power[seen], torch.ones(()), atol=1e-4)
    assert 0.3 < float(seen.float().mean()) < 0.95
    operator = CartesianMRI(torch.ones(kspace.shape[-1]), maps)
    assert operator.norm == pytest.approx(1, abs=1e-4)
    y = channels(kspace)
    x = operator.adjoint(y)
    # Smooth maps explain what all eight coils saw, up to noise outside of the head and at its edges.
    assert float((operator(x) - y).norm() / y.norm()) < 0.2
    wrong = CartesianMRI(operator.mask, maps.roll(1, 0))
    assert float((wrong(wrong.adjoint(y)) - y).norm() / y.norm()) > 0.5


@pytest.mark.parametrize("coils", [0, 3])
def test_radial_scan_is_the_sum_over_pixels(coils: int) -> None:
    pytest.importorskip("finufft")
    shape = (6, 9)
    operator = RadialMRI(shape, golden_angles(5), 12, maps(coils, *shape) if coils else None, accuracy=1e-12)
    x = normal(2, 2, *shape)
    rows = torch.arange(shape[0], dtype=torch.float64) - shape[0] // 2
    columns = torch.arange(shape[1], dtype=torch.float64) - shape[1] // 2
    kr, kc = operator.frequencies[..., None, None]
    waves = torch.exp(-1j * (kr * rows[:, None] + kc * columns)) / math.sqrt(math.prod(shape))
    image = complex_from(x)
    if operator.sensitivities is not None:
        image = image[:, None] * operator.sensitivities
    expected = torch.einsum("srhw,...hw->...sr", waves, image)
    assert torch.allclose(complex_from(operator(x)), expected, atol=1e-9)


@pytest.mark.parametrize("coils", [0, 2])
def test_radial_adjoint_norm_and_derivative(coils: int) -> None:
    pytest.importorskip("finufft")
    operator = RadialMRI((8, 7), golden_angles(4), 10, maps(coils, 8, 7) if coils else None)
    x, y = torch.empty(2, 2, 8, 7), torch.empty(2, *((coils,) if coils else ()), 2, 4, 10)
    assert dot_test(operator, x, y) < 1e-6
    assert operator.norm == pytest.approx(dense_norm(operator, (2, 8, 7)), rel=1e-3)
    x = normal(1, 2, 8, 7).requires_grad_()
    operator(x).square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * operator.adjoint(operator(x.detach())), rtol=1e-5, atol=1e-6)


def test_full_cartesian_derivative_goes_through() -> None:
    operator = CartesianMRI(even_lines(7, 2, 0.2), maps(2, 6, 7))
    x = normal(1, 2, 6, 7).requires_grad_()
    operator(x).square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * operator.adjoint(operator(x.detach())))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CartesianMRI(torch.tensor([0.0, 0.5])), "ones where it is measured"),
        (lambda: CartesianMRI(torch.zeros(4)), "some ones"),
        (lambda: CartesianMRI(torch.ones(4), torch.ones(2, 4, 4)), "complex numbers"),
        (lambda: CartesianMRI(torch.ones(4))(torch.zeros(3, 4, 4)), r"\(3, 4, 4\)"),
        (lambda: even_lines(100, 8, 0.3), "30 of 100 lines"),
        (lambda: even_lines(100, 0.5, 0.0), "acceleration"),
        (lambda: RadialMRI((4, 4), (), 5), "0 spokes"),
        (lambda: estimated_sensitivities(maps(2, 4, 4), (8, 8)), "calibration"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
