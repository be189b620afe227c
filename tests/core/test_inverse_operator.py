"""Operators, their transposes and conjugate gradients, against dense linear algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import Noise
from degauss.core.errors import InputError
from degauss.core.inverse import (
    Composed,
    ConjugateGradient,
    Difference,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    Measurement,
    Normalised,
    displacement,
    dot_test,
    inner,
    least_squares,
    normalised,
    spectral_norm,
)

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=dtype))


@dataclass(frozen=True)
class HalfFourier:
    """Complex measurements of real events, as in magnetic resonance: some rows of the unitary transform."""

    mask: Tensor
    norm: float = 1.0

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.mask * torch.fft.fft(x.to(torch.complex128 if x.dtype == DOUBLE else torch.complex64), norm="ortho")

    def adjoint(self, y: Tensor, /) -> Tensor:
        return torch.fft.ifft(self.mask * y, norm="ortho").real


@dataclass(frozen=True)
class Lopsided:
    """The control: a transpose 1 % too large."""

    operator: LinearOperator
    norm: float = 1.0

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.operator(x)

    def adjoint(self, y: Tensor, /) -> Tensor:
        return 1.01 * self.operator.adjoint(y)


def operators(size: int, rows: int, seed: int, dtype: torch.dtype) -> list[LinearOperator]:
    dense = Matrix(normal(rows, size, seed=seed, dtype=dtype))
    mask = Mask((normal(1, size, seed=seed + 1)[0] > 0).to(dtype))
    return [
        dense,
        mask,
        Identity(),
        Difference(-1),
        Composed(dense, mask),
        Normalised(Composed(dense, mask), 3.7),
        HalfFourier(mask.mask),
    ]


@settings(max_examples=15)
@given(
    size=st.integers(2, 40),
    rows=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from([torch.float32, DOUBLE]),
)
def test_every_transpose_is_exact(size: int, rows: int, seed: int, dtype: torch.dtype) -> None:
    x = normal(2, size, dtype=dtype)
    for operator in operators(size, rows, seed, dtype):
        assert dot_test(operator, x, operator(x), seed) < 1e-6


def test_the_dot_test_sees_a_transpose_that_is_one_per_cent_off() -> None:
    x = normal(3, 30)
    for operator in operators(30, 20, 5, DOUBLE)[:3]:
        assert 1e-4 < dot_test(Lopsided(operator), x, operator(x)) < 0.1


def test_the_dot_test_refuses_shapes_that_are_not_each_others() -> None:
    with pytest.raises(ValueError, match="each other's"):
        dot_test(Identity(), normal(2, 4), normal(2, 5))


def test_an_inner_product_of_many_pieces_is_float64_s() -> None:
    a, b = (torch.randn(2, 3, 200_001, generator=torch.Generator().manual_seed(k)) for k in range(2))
    expected = (a.double() * b.double()).sum((1, 2))
    torch.testing.assert_close(inner(a, b), expected, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(inner(a.mT, b.mT), expected, rtol=1e-6, atol=1e-3)
    z = torch.complex(a, b)
    torch.testing.assert_close(inner(z, z), (a.double() ** 2 + b.double() ** 2).sum((1, 2)), rtol=1e-6, atol=0)


def test_a_matrix_acts_on_events_of_any_shape() -> None:
    matrix = normal(5, 12)
    x = normal(3, 3, 4, seed=1)
    operator = Matrix(matrix, (3, 4))
    torch.testing.assert_close(operator(x), x.reshape(3, 12) @ matrix.T)
    assert operator.adjoint(operator(x)).shape == x.shape
    assert dot_test(operator, x, operator(x)) < 1e-13
    with pytest.raises(ValueError, match="does not act"):
        Matrix(matrix, (5, 2))


def test_the_largest_singular_value_is_found() -> None:
    operator = Matrix(normal(20, 30))
    largest = float(np.linalg.svd(operator.matrix.numpy(), compute_uv=False)[0])
    assert operator.norm == pytest.approx(largest, rel=1e-12)
    assert spectral_norm(operator, normal(1, 30), 300) == pytest.approx(largest, rel=1e-6)
    composed = Composed(operator, Mask(torch.ones(30, dtype=DOUBLE)))
    assert normalised(composed, normal(1, 30), 300).raw_norm == pytest.approx(largest, rel=1e-6)
    # The norm of a composition is a bound, and can be far from it.
    apart = Composed(Mask(torch.tensor([1.0, 0.0])), Mask(torch.tensor([0.1, 1.0])))
    assert apart.norm == 1.0
    assert spectral_norm(apart, torch.ones(1, 2)) == pytest.approx(0.1)


def test_an_operator_that_sees_nothing_has_no_norm() -> None:
    with pytest.raises(InputError, match="positive, finite norm"):
        spectral_norm(Mask(torch.zeros(4)), torch.ones(1, 4))


def test_a_normalised_measurement_is_the_same_measurement() -> None:
    operator = Matrix(7 * normal(10, 6))
    x = normal(2, 6, seed=3)
    measurement = Measurement(operator, operator(x), 0.3).normalised(x)
    assert isinstance(measurement.operator, Normalised)
    assert spectral_norm(measurement.operator, x, 300) == pytest.approx(1, rel=1e-5)
    assert float(measurement.residual(x).abs().max()) < 1e-14
    assert measurement.sigma_y * measurement.operator.raw_norm == pytest.approx(0.3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measurement_must_be_finite(value: float) -> None:
    with pytest.raises(InputError, match="1 of its 2 values"):
        Measurement(Identity(), torch.tensor([[1.0, value]]))
    with pytest.raises(InputError, match="sigma_y"):
        Measurement(Identity(), torch.ones(1, 2), value)
    with pytest.raises(InputError, match="sigma_y"):
        Measurement(Identity(), torch.ones(1, 2), -1.0)


def definite(count: int, size: int, seed: int = 0) -> Tensor:
    """Symmetric, positive definite matrices of conditions from 2 to 10 000."""
    q = torch.linalg.qr(normal(count, size, size, seed=seed)).Q
    powers = torch.linspace(0.3, 4, count, dtype=DOUBLE)[:, None] * torch.linspace(0, 1, size, dtype=DOUBLE)
    return q @ torch.diag_embed(10**powers) @ q.mT


def test_conjugate_gradients_are_numpys_solution() -> None:
    matrices, b = definite(4, 20), normal(4, 20, seed=1)
    expected = np.linalg.solve(matrices.numpy(), b.numpy()[..., None])[..., 0]
    solution = ConjugateGradient(80, 1e-12)(lambda x: (matrices @ x[..., None])[..., 0], b)
    np.testing.assert_allclose(solution.x.numpy(), expected, rtol=1e-8, atol=1e-9)
    assert float(solution.residual.max()) <= 1e-12


def test_k_iterations_are_the_best_in_the_krylov_space() -> None:
    matrix, b, k = definite(2, 12)[1], normal(1, 12, seed=2), 4
    basis = torch.stack([torch.linalg.matrix_power(matrix, j) @ b[0] for j in range(k)], 1)
    basis = torch.linalg.qr(basis).Q
    expected = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b[0])
    found = ConjugateGradient(k)(lambda x: x @ matrix, b)
    torch.testing.assert_close(found.x[0], expected)
    left = torch.linalg.vector_norm(b[0] - matrix @ expected) / torch.linalg.vector_norm(b[0])
    torch.testing.assert_close(found.residual[0], left)


def test_a_row_does_not_depend_on_its_batch() -> None:
    matrices, b = definite(4, 20), normal(4, 20, seed=1)
    # Rows end after different numbers of iterations; those that have ended must not move.
    solve = ConjugateGradient(60, 1e-3)
    together = solve(lambda x: (matrices * x[:, None, :]).sum(-1), b)
    for i in range(4):
        alone = solve(lambda x, i=i: (matrices[i : i + 1] * x[:, None, :]).sum(-1), b[i : i + 1])
        assert torch.equal(together.x[i], alone.x[0])
        assert 1e-5 < float(alone.residual) <= 1e-3


def test_a_start_is_improved_and_a_solution_is_kept() -> None:
    matrix, b = definite(2, 10)[1], normal(3, 10, seed=2)
    solution = torch.linalg.solve(matrix, b.T).T
    kept = ConjugateGradient(5, 1e-10)(lambda x: x @ matrix, b, solution)
    assert torch.equal(kept.x, solution)
    assert torch.equal(ConjugateGradient(5)(lambda x: x @ matrix, torch.zeros_like(b)).x, torch.zeros_like(b))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_iterations_after_convergence_do_no_harm_in_a_singular_system(dtype: torch.dtype) -> None:
    # 30 values, 8 measurements: without a stop at rounding the null space would be walked.
    operator = Matrix(normal(8, 30, dtype=dtype))
    y = normal(2, 8, seed=1, dtype=dtype)
    found = least_squares(Measurement(operator, y), torch.empty(2, 30, dtype=dtype), ConjugateGradient(2000))
    expected = y.numpy() @ np.linalg.pinv(operator.matrix.numpy()).T
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_conjugate_gradients_have_gradients() -> None:
    matrix, b = definite(2, 6)[1], normal(2, 6, seed=2).requires_grad_()
    solved = ConjugateGradient(30)(lambda x: x @ matrix, b).x
    (gradient,) = torch.autograd.grad(solved.sum(), b)
    torch.testing.assert_close(gradient, torch.linalg.inv(matrix).sum(1).expand(2, 6), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_displacement_is_the_proximal_step(rho: float) -> None:
    operator = Matrix(normal(5, 9))
    a, x, y = operator.matrix, normal(3, 9, seed=1), normal(3, 5, seed=2)
    d = displacement(Measurement(operator, y), x, rho, ConjugateGradient(60, 1e-13))
    pulled = (y - x @ a.T) @ a
    expected = pulled @ torch.linalg.pinv(a.T @ a + rho * torch.eye(9, dtype=DOUBLE), rtol=1e-12)
    torch.testing.assert_close(d, expected, rtol=1e-8, atol=1e-9)


def test_each_row_has_its_own_rho() -> None:
    measurement = Measurement(Identity(), normal(3, 4, seed=2))
    x, rho = normal(3, 4), torch.tensor([0.0, 1.0, 3.0], dtype=DOUBLE)
    d = displacement(measurement, x, rho, ConjugateGradient(5))
    torch.testing.assert_close(d, (measurement.y - x) / (1 + rho[:, None]))


def test_complex_measurements_of_real_events() -> None:
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], dtype=DOUBLE)
    operator, x = HalfFourier(mask), normal(2, 8)
    measurement = Measurement(operator, operator(x))
    found = x.new_zeros(2, 8) + least_squares(measurement, x, ConjugateGradient(20, 1e-12))
    assert not found.is_complex()
    assert float(measurement.residual(found).abs().max()) < 1e-12
    y = operator(x)
    torch.testing.assert_close(inner(y, 1j * y), torch.zeros(2, dtype=DOUBLE), rtol=0, atol=1e-12)


def test_a_solver_needs_an_iteration() -> None:
    with pytest.raises(InputError, match="iterations must be at least 1"):
        ConjugateGradient(0)
    with pytest.raises(InputError, match="tolerance"):
        ConjugateGradient(1, -1.0)


@pytest.mark.gpu
def test_conjugate_gradients_never_make_the_host_wait() -> None:
    matrix = definite(2, 12)[1].cuda()
    b = normal(4, 12).cuda()
    ConjugateGradient(3)(lambda x: x @ matrix, b)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = ConjugateGradient(40, 1e-12)(lambda x: x @ matrix, b)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, b.T).T)
