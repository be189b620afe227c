"""What was measured and what the prior made, against dense linear algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import Noise
from degauss.core.errors import InputError
from degauss.core.inverse import (
    ConjugateGradient,
    Identity,
    Mask,
    Matrix,
    Measurement,
    Parts,
    decompose,
    displacement,
    measured_contrast,
    measured_share,
    null_std,
)

DOUBLE = torch.float64
EXACT = ConjugateGradient(200, 1e-13)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=dtype))


def test_a_mask_is_exactly_one_where_measured_and_zero_elsewhere() -> None:
    mask = torch.zeros(6, 8, 10)
    mask[:, :4] = 1
    parts = decompose(Mask(mask), 3 + normal(2, 6, 8, 10, dtype=torch.float32))
    assert torch.equal(measured_share(parts, (1, 1, 1)), mask.expand(2, 6, 8, 10))
    smooth = measured_share(parts, (3, 3, 3))
    away = torch.ones(8, dtype=torch.bool)
    away[3:5] = False
    assert torch.equal(smooth[:, :, away], mask[:, away].expand(2, 6, 6, 10)), "where no window crosses the border"
    assert bool(((smooth[:, :, 3:5] > 0) & (smooth[:, :, 3:5] < 1)).all())


@settings(max_examples=20)
@given(rows=st.integers(1, 12), size=st.integers(2, 10), seed=st.integers(0, 2**31))
def test_the_parts_are_numpys(rows: int, size: int, seed: int) -> None:
    matrix = torch.linalg.qr(normal(max(rows, size), max(rows, size), seed=seed)).Q[:rows, :size] + 0.1
    x = normal(3, size, seed=seed + 1)
    parts = decompose(Matrix(matrix), x, solve=EXACT)
    expected = x.numpy() @ (np.linalg.pinv(matrix.numpy()) @ matrix.numpy()).T
    np.testing.assert_allclose(parts.measured.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose((parts.measured + parts.prior).numpy(), x.numpy(), atol=1e-12)
    np.testing.assert_allclose((parts.measured * parts.prior).sum(1).numpy(), 0, atol=1e-5)  # orthogonal
    np.testing.assert_allclose((parts.prior @ matrix.T).numpy(), 0, atol=1e-5)  # unseen


def test_noise_softens_the_border() -> None:
    matrix, x, rho = normal(4, 9), normal(2, 9, seed=1), 0.7
    parts = decompose(Matrix(matrix), x, rho=rho, solve=EXACT)
    gram = matrix.T @ matrix
    expected = torch.linalg.solve(gram + rho * torch.eye(9, dtype=DOUBLE), gram @ x.T).T
    torch.testing.assert_close(parts.measured, expected)
    # For Gaussian data of variance tau^2 around 0 that is the part of the posterior mean that comes from A x.
    torch.testing.assert_close(
        parts.measured,
        displacement(Measurement(Matrix(matrix), x @ matrix.T), torch.zeros_like(x), rho, EXACT),
    )


def test_an_early_end_is_told() -> None:
    matrix = normal(20, 30) * torch.logspace(0, -3, 20, dtype=DOUBLE)[:, None]
    early = decompose(Matrix(matrix), normal(2, 30, seed=1), solve=ConjugateGradient(3, 1e-6))
    assert float(early.residual.min()) > 1e-6


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    window=st.tuples(*[st.sampled_from([1, 3, 5])] * 3),
    seed=st.integers(0, 2**31),
)
def test_the_share_is_the_formula(shape: tuple[int, ...], window: tuple[int, ...], seed: int) -> None:
    m, p = normal(2, *shape, seed=seed).numpy(), normal(2, *shape, seed=seed + 1).numpy()
    parts = Parts(torch.from_numpy(m), torch.from_numpy(p), torch.zeros(2))
    found, contrast = measured_share(parts, window).numpy(), measured_contrast(parts, window).numpy()
    assert found.shape == contrast.shape == m.shape
    for place in np.ndindex(*shape):
        box = tuple(slice(max(0, i - w // 2), i + w // 2 + 1) for i, w in zip(place, window, strict=True))
        for row in range(2):
            energy = (m[row][box] ** 2).sum()
            np.testing.assert_allclose(found[row][place], energy / (energy + (p[row][box] ** 2).sum()), rtol=1e-9)
            if m[row][box].size > 1:
                seen, unseen = m[row][box].var(), p[row][box].var()
                np.testing.assert_allclose(contrast[row][place], seen / (seen + unseen), rtol=1e-6)


def test_a_level_that_was_measured_does_not_hide_who_made_the_texture() -> None:
    texture = 0.02 * normal(1, 9, 9, seed=1)
    parts = Parts(torch.full((1, 9, 9), 0.5, dtype=DOUBLE), texture, torch.zeros(1))
    assert float(measured_share(parts, (3, 3)).min()) > 0.99
    assert float(measured_contrast(parts, (3, 3)).max()) < 1e-9
    measured, prior = (torch.complex(0.6 * part, 0.8 * part) for part in parts[:2])
    complex_ = Parts(measured, prior, parts.residual)
    torch.testing.assert_close(measured_contrast(complex_, (3, 3)), measured_contrast(parts, (3, 3)))


def test_nothing_and_everything() -> None:
    empty = decompose(Identity(), torch.zeros(1, 3, 3))
    assert torch.equal(measured_share(empty, (3, 3)), torch.zeros(1, 3, 3)), "no energy, nothing to share"
    full = decompose(Identity(), torch.complex(normal(1, 4), normal(1, 4, seed=1)))
    assert torch.equal(measured_share(full, (3,)), torch.ones(1, 4, dtype=DOUBLE))


def test_draws_that_all_explain_y_differ_in_the_null_space_alone() -> None:
    operator = Matrix(normal(5, 12), (3, 4))
    y = normal(1, 5, seed=1)
    free = normal(7, 3, 4, seed=2)
    draws = free + displacement(Measurement(operator, y), free, 0.0, EXACT)
    assert float((operator(draws) - y).abs().max()) < 1e-10
    torch.testing.assert_close(null_std(operator, draws, solve=EXACT), draws.std(0))
    # The control: draws that do not explain y also differ in what was measured.
    assert float((null_std(operator, free, solve=EXACT) / free.std(0)).mean()) < 0.95
    null = torch.eye(12, dtype=DOUBLE) - torch.linalg.pinv(operator.matrix) @ operator.matrix
    expected = (free.flatten(1) @ null).std(0).reshape(3, 4)
    torch.testing.assert_close(null_std(operator, free, solve=EXACT), expected)


def test_what_is_measured_has_no_null_space() -> None:
    mask = torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
    draws = normal(5, 3)
    found = null_std(Mask(mask), draws)
    torch.testing.assert_close(found, draws.std(0) * (1 - mask))


def test_bad_input_is_refused() -> None:
    x = normal(1, 4)
    for rho in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="rho"):
            decompose(Identity(), x, rho=rho)
    with pytest.raises(InputError, match=r"odd sizes, but has \(2,\)"):
        measured_share(decompose(Identity(), x), (2,))
    with pytest.raises(InputError, match="number of draws must be at least 2, but is 1"):
        null_std(Identity(), x)
