"""Blur and coarse voxels against their dense matrices and scipy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.core.inverse.operator import LinearOperator, dot_test
from degauss.core.noise import Noise
from degauss.medical.degradations import Blur, Coarse, gaussian_kernel, gaussian_noise


def norm(operator: LinearOperator, shape: tuple[int, ...]) -> float:
    """The largest singular value of the dense matrix."""
    dense = operator(torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)).flatten(1)
    return float(torch.linalg.matrix_norm(dense, 2))


@given(st.lists(st.tuples(st.integers(3, 6), st.integers(1, 3)), min_size=1, max_size=3), st.integers(0, 99))
def test_blur_has_an_exact_adjoint_and_norm(sizes: list[tuple[int, int]], seed: int) -> None:
    shape = tuple(size for size, _ in sizes)
    kernel = Noise(seed, [0]).normal(torch.empty(1, *(width for _, width in sizes)))[0]
    blur = Blur(kernel, shape)
    x = torch.empty(2, 3, *shape)
    assert isinstance(blur, LinearOperator)
    assert dot_test(blur, x, x) < 1e-6
    assert blur.norm == pytest.approx(norm(blur, shape), rel=1e-6)


def test_blur_agrees_with_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = Noise(0, [0]).normal(torch.empty(1, 9, 8, 7, dtype=torch.float64))
    kernel = Noise(0, [1]).normal(torch.empty(1, 3, 5, 3, dtype=torch.float64))[0]
    expected = ndimage.convolve(x[0].numpy(), kernel.numpy(), mode="wrap")
    assert torch.allclose(Blur(kernel, (9, 8, 7))(x)[0], torch.from_numpy(expected))


def test_gaussian_kernel_has_its_width_in_mm() -> None:
    kernel = gaussian_kernel((0.0, 6.0, 6.0), (3.0, 1.0, 2.0))
    assert kernel.shape[0] == 1
    assert float(kernel.sum()) == pytest.approx(1)
    middle = tuple(size // 2 for size in kernel.shape)
    for step in ((0, 3, 0),):  # 3 mm from the middle: half of the maximum
        place = tuple(m + s for m, s in zip(middle, step, strict=True))
        assert float(kernel[place] / kernel[middle]) == pytest.approx(0.5)
    assert float(kernel[0, middle[1] + 2, middle[2]]) == pytest.approx(float(kernel[0, middle[1], middle[2] + 1]))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3))
def test_coarse_voxels_are_block_means_with_equal_singular_values(sizes: list[tuple[int, int]]) -> None:
    factors = tuple(factor for _, factor in sizes)
    shape = tuple(count * factor for count, factor in sizes)
    coarse = Coarse(factors, shape)
    x, y = torch.empty(2, 2, *shape), torch.empty(2, 2, *coarse.coarse_shape)
    assert dot_test(coarse, x, y) < 1e-6
    assert coarse.norm == pytest.approx(norm(coarse, shape))
    y = Noise(0, range(2)).normal(y)
    assert torch.allclose(coarse(coarse.adjoint(y)) / coarse.norm**2, y, atol=1e-6)


def test_coarse_agrees_with_average_pooling() -> None:
    x = Noise(0, range(2)).normal(torch.empty(2, 1, 6, 8, 10))
    expected = torch.nn.functional.avg_pool3d(x, (3, 2, 5))
    assert torch.allclose(Coarse((3, 2, 5), (6, 8, 10))(x), expected, atol=1e-6)


def test_noise_is_white_and_keyed() -> None:
    y = torch.zeros(2, 100, 100)
    noisy = gaussian_noise(y, 0.3, Noise(1, [4, 5]))
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)
    assert torch.equal(gaussian_noise(y[1:], 0.3, Noise(1, [5])), noisy[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(torch.ones(3), (4, 4)), r"\(3,\).*\(4, 4\)"),
        (lambda: Blur(torch.ones(5, 5), (4, 6)), "does not fit"),
        (lambda: Blur(torch.ones(3, 3), (4, 4))(torch.zeros(1, 4, 5)), "found"),
        (lambda: Coarse((2, 2), (4, 5)), r"\(4, 5\).*\(2, 2\)"),
        (lambda: Coarse((0,), (4,)), "divide"),
        (lambda: gaussian_kernel((-1.0,), (1.0,)), "fwhm must be at least 0"),
        (lambda: gaussian_noise(torch.zeros(1, 2), -1.0, Noise(0, [0])), "sigma"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
