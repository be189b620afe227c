"""Wavelet sparsity: orthogonality, the conditions of optimality, closed forms, and compressed sensing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import ConjugateGradient, Identity, Mask, Measurement, dot_test, least_squares
from degauss.core.noise import Noise
from degauss.medical.geometry import Grid
from degauss.medical.mri import CartesianMRI, channels, even_lines
from degauss.medical.phantoms import rasterised, shepp_logan
from degauss.medical.wavelets import COMPLEX, Bands, Wavelets, WaveletSparsity, mapped, scales_of

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


def flat(bands: Bands, batch: int) -> Tensor:
    """All coefficients, ``[batch, n]``."""
    every = [bands[0], *(band for detail in bands[1:] for band in detail)]
    return torch.cat([torch.from_numpy(band).reshape(batch, -1) for band in every], 1)


HEAD = rasterised(shepp_logan(30.0), Grid(64, 64), 2)


@settings(max_examples=25)
@given(
    wavelet=st.sampled_from(["haar", "db2", "db4", "sym8", "coif2"]),
    levels=st.integers(1, 4),
    sides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    middle=st.sampled_from([(), (3,), (2, 2)]),
)
def test_the_transform_is_orthogonal(
    wavelet: str, levels: int, sides: tuple[int, int], middle: tuple[int, ...]
) -> None:
    transform = Wavelets(wavelet, levels)
    shape = tuple(side * 2**levels for side in sides)
    x, other = (normal(2, *middle, *shape, seed=seed) for seed in (0, 1))
    bands, others = transform.forward(x), transform.forward(other)
    torch.testing.assert_close(transform.inverse(bands, x), x)
    # W^T is the inverse and the transpose: lengths and angles are kept.
    inside = (flat(bands, 2) * flat(others, 2)).sum(1)
    torch.testing.assert_close(inside, (x * other).flatten(1).sum(1))
    assert flat(bands, 2).shape[1] == x[0].numel()


def test_it_is_pywavelets_own_decomposition() -> None:
    x = normal(2, 64, 96)
    ours = Wavelets("db4", 3).forward(x)
    theirs = pywt.wavedec2(x.numpy(), "db4", "periodization", level=3, axes=(-2, -1))
    torch.testing.assert_close(flat(ours, 2), flat(theirs, 2))


def test_denoising_is_one_shrinkage_of_the_coefficients() -> None:
    y = normal(2, 3, 32, 32)
    problem = WaveletSparsity(0.7, Wavelets("db4", 2))
    solution = problem(Measurement(Identity(), y))
    expected = problem.transform.inverse(
        mapped(lambda band: pywt.threshold(band, 0.7, "soft"), problem.transform.forward(y)), y
    )
    torch.testing.assert_close(solution.x, expected)
    assert solution.iterations <= 3
    assert not WaveletSparsity(100.0)(Measurement(Identity(), y)).x.any()


def with_phase(image: Tensor) -> Tensor:
    """A complex image of a slow phase, ``[1, 1, 2, rows, columns]``."""
    place = torch.linspace(-1, 1, len(image), dtype=DOUBLE)
    return channels(image * torch.polar(torch.ones_like(image), 0.8 * place[:, None] + 0.5 * place**2))[None, None]


TRUTH = with_phase(HEAD)


def scan(sigma: float = 0.0) -> Measurement:
    """A third of the points of k-space at random, and the middle."""
    mask = (Noise(0, [0]).uniform(torch.empty(1, 64, 64))[0] < 0.33).double()
    mask[27:37, 27:37] = 1
    operator = CartesianMRI(mask)
    return Measurement(operator, operator.noisy(operator(TRUTH), sigma, Noise(1, [0])), sigma)


def test_the_conditions_of_optimality_hold() -> None:
    measurement, strength = scan(0.01), 0.02
    problem = WaveletSparsity(strength, Wavelets("db4", 3), COMPLEX, iterations=3000, tolerance=1e-8)
    solution = problem(measurement)
    assert solution.iterations < 3000
    x = solution.x
    slope = measurement.operator.adjoint(measurement.residual(x)) / strength
    dual = [torch.from_numpy(band) for band in every(problem.transform.forward(slope))]
    coefficients = [torch.from_numpy(band) for band in every(problem.transform.forward(x))]
    used = 0
    for u, c in zip(dual, coefficients, strict=True):
        length, size = (value.norm(dim=-3, keepdim=True) for value in (u, c))
        assert float(length.max()) < 1 + 1e-5
        kept = (size > 1e-6).expand_as(c)
        used += int(kept.sum())
        torch.testing.assert_close(u[kept], (c / size.clamp(min=1e-12))[kept], rtol=0, atol=1e-3)
    assert 0.01 < used / x.numel() < 0.5
    # No point beside it is better.
    best = float(problem.objective(measurement, x))
    for seed in range(5):
        assert float(problem.objective(measurement, x + 1e-3 * normal(*x.shape, seed=seed))) > best


def every(bands: Bands) -> list:
    return [bands[0], *(band for detail in bands[1:] for band in detail)]


def test_compressed_sensing_beats_least_squares() -> None:
    measurement = scan(0.005)
    zero_filled = least_squares(measurement, TRUTH, ConjugateGradient(20))
    sparse = WaveletSparsity(0.005, Wavelets("db4", 3), COMPLEX)(measurement).x
    gap = [float((x - TRUTH).norm() / TRUTH.norm()) for x in (zero_filled, sparse)]
    assert gap[1] < 0.65 * gap[0]
    # The control: the parts of a complex number shrunk each by itself depend on the phase that was chosen.
    turned = Measurement(measurement.operator, _turned(measurement.y))
    for norm, same in ((COMPLEX, True), (WaveletSparsity(0.005).norm, False)):
        problem = WaveletSparsity(0.02, Wavelets("db4", 3), norm, 150, 1e-5)
        difference = problem(turned).x - _turned(problem(measurement).x)
        assert (float(difference.abs().max()) < 1e-3) == same


def _turned(x: Tensor) -> Tensor:
    angle = math.pi / 5
    real, imaginary = x.unbind(-3)
    return torch.stack(
        (math.cos(angle) * real - math.sin(angle) * imaginary, math.sin(angle) * real + math.cos(angle) * imaginary), -3
    )


def test_several_coils_and_sides_that_do_not_divide() -> None:
    """230 x 180 is no multiple of 16, nor is this; what lies in the margin is not seen."""
    image = torch.complex(HEAD[:58, :45], 0 * HEAD[:58, :45])
    place = torch.linspace(-1, 1, 45, dtype=DOUBLE)
    maps = torch.stack([torch.exp(-((place - c) ** 2)).expand(58, 45) for c in (-1.0, 0.0, 1.0)])
    operator = CartesianMRI(even_lines(45, 2.5, 0.15), torch.complex(maps, 0 * maps))
    truth = channels(image)[None, None]
    measurement = Measurement(operator, operator(truth))
    x = WaveletSparsity(1e-3, Wavelets("db4", 4), COMPLEX, 300, 1e-5)(measurement).x
    assert x.shape == truth.shape
    naive = operator.adjoint(measurement.y)
    assert float((x - truth).norm()) < 0.5 * float((naive - truth).norm())
    assert dot_test(operator, truth, measurement.y) < 1e-12


def test_a_row_does_not_depend_on_its_batch() -> None:
    mask = (normal(1, 32, 32)[0] > 0).double()
    y = torch.cat([mask * normal(1, 2, 32, 32), 1e-3 * mask * normal(1, 2, 32, 32, seed=3), torch.zeros(1, 2, 32, 32)])
    problem = WaveletSparsity(0.05, Wavelets("db4", 2), iterations=60)
    together = problem(Measurement(Mask(mask), y))
    for row in range(3):
        alone = problem(Measurement(Mask(mask), y[row : row + 1]))
        torch.testing.assert_close(together.x[row], alone.x[0], rtol=1e-12, atol=1e-12)


def test_momentum_pays_and_the_end_is_reached() -> None:
    measurement = scan(0.005)
    problem = WaveletSparsity(0.005, Wavelets("db4", 3), COMPLEX, 2000, 1e-5)
    solution = problem(measurement)
    assert solution.iterations < 300
    assert float(solution.change.max()) <= 1e-5
    best = float(problem.objective(measurement, solution.x))
    early = float(problem.objective(measurement, replace(problem, iterations=100)(measurement).x))
    assert early - best < 0.01 * best
    single = Measurement(measurement.operator, measurement.y.float())
    x = problem(single).x
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), solution.x, rtol=0, atol=1e-3)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'db4'"):
        Wavelets("db4x")
    with pytest.raises(InputError, match="must be orthogonal"):
        Wavelets("bior2.2")
    with pytest.raises(InputError, match="levels"):
        Wavelets(levels=0)
    for strength, tolerance, name in ((0.0, 1e-3, "strength"), (0.1, math.nan, "tolerance")):
        with pytest.raises(InputError, match=name):
            WaveletSparsity(strength, tolerance=tolerance)
    with pytest.raises(ValueError, match="no multiples of 16"):
        Wavelets().forward(torch.zeros(1, 30, 32))


@pytest.mark.parametrize(
    ("rows", "columns", "levels"), [(80, 80, 1), (128, 96, 1), (128, 128, 2), (256, 320, 3), (9, 9, 1)]
)
def test_the_coarsest_band_keeps_thirty_two_pixels(rows: int, columns: int, levels: int) -> None:
    assert scales_of(rows, columns) == Wavelets("db4", levels)
