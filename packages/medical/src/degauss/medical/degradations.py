r"""What else may have happened to a volume: it was blurred, or its voxels are coarse. And white noise on anything.

A part that is missing is `degauss.core.inverse.operator.Mask`. Axes: the last ones of ``[batch, ..., *shape]``.
Values keep the volume's unit; lengths are in mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise


@dataclass(frozen=True, eq=False)
class Blur:
    """Circular convolution of the last axes, ``shape``, with a ``kernel`` of as many, whose middle is at size // 2.

    Values that leave at one end come back at the other: a volume needs a margin of the kernel's half width.
    """

    kernel: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        found = tuple(self.kernel.shape)
        if len(found) != len(self.shape) or any(k > n for k, n in zip(found, self.shape, strict=True)):
            raise InputError(f"The kernel {found} does not fit into the volume's shape {self.shape}.")

    @cached_property
    def response(self) -> Tensor:
        """The kernel's spectrum on the half of the frequencies that a real signal has, complex128."""
        padded = torch.zeros(self.shape, dtype=torch.float64)
        padded[tuple(slice(n) for n in self.kernel.shape)] = self.kernel.double().cpu()
        middle = tuple(-(n // 2) for n in self.kernel.shape)
        return torch.fft.rfftn(padded.roll(middle, tuple(range(len(self.shape)))))

    @property
    def norm(self) -> float:
        """The largest singular value, exact: that of the spectrum."""
        return float(self.response.abs().max())

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._filtered(x, self.response)

    def adjoint(self, y: Tensor, /) -> Tensor:
        return self._filtered(y, self.response.conj())

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        axes = tuple(range(-len(self.shape), 0))
        _check(x, self.shape)
        spectrum = torch.fft.rfftn(x, dim=axes)
        return torch.fft.irfftn(spectrum * response.to(spectrum), s=self.shape, dim=axes)


def gaussian_kernel(fwhm: tuple[float, ...], spacing: tuple[float, ...]) -> Tensor:
    """A Gaussian of a full width at half maximum (mm) along each axis, on voxels of ``spacing`` (mm), of sum 1.

    float64, of odd sizes, cut at four standard deviations; a width of 0 does not blur.
    """
    kernel = torch.ones((), dtype=torch.float64)
    for width, step in zip(fwhm, spacing, strict=True):
        check_range("fwhm", width, low=0, unit="mm")
        sigma = width / step / math.sqrt(8 * math.log(2))
        half = math.ceil(4 * sigma)
        place = torch.arange(-half, half + 1, dtype=torch.float64)
        line = torch.exp(-0.5 * (place / sigma) ** 2) if sigma > 0 else torch.ones(1, dtype=torch.float64)
        kernel = kernel[..., None] * (line / line.sum())
    return kernel


@dataclass(frozen=True)
class Coarse:
    """Super-resolution's operator: the mean of each block of ``factors`` voxels of the last axes, ``shape``.

    (4, 1, 1) on (slices, rows, columns) are slices four times as thick. A A^T = norm^2 I, so the transpose over norm^2
    is the pseudo-inverse: it repeats each value over its block.
    """

    factors: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = len(self.factors) == len(self.shape) and all(f >= 1 for f in self.factors)
        if not fits or any(n % f for n, f in zip(self.shape, self.factors, strict=True)):
            raise InputError(f"The shape {self.shape} does not divide into blocks of {self.factors} voxels.")

    @property
    def norm(self) -> float:
        """The largest singular value, exact: 1 / sqrt(voxels in a block); all others equal it."""
        return math.prod(self.factors) ** -0.5

    @property
    def coarse_shape(self) -> tuple[int, ...]:
        return tuple(n // f for n, f in zip(self.shape, self.factors, strict=True))

    def __call__(self, x: Tensor, /) -> Tensor:
        _check(x, self.shape)
        lead = x.shape[: x.ndim - len(self.shape)]
        blocks = [size for pair in zip(self.coarse_shape, self.factors, strict=True) for size in pair]
        return x.reshape(*lead, *blocks).mean(tuple(range(len(lead) + 1, len(lead) + len(blocks), 2)))

    def adjoint(self, y: Tensor, /) -> Tensor:
        _check(y, self.coarse_shape)
        for axis, factor in zip(range(-len(self.factors), 0), self.factors, strict=True):
            y = y.repeat_interleave(factor, axis)
        return y / math.prod(self.factors)


def gaussian_noise(y: Tensor, sigma: float, noise: Noise) -> Tensor:
    """``y [batch, ...]`` with white noise of standard deviation ``sigma``, in the unit of y."""
    check_range("sigma", sigma, low=0)
    return y + sigma * noise.normal(y)


def _check(x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[-len(shape) :]) != shape:
        raise InputError(f"Expected a volume of shape [..., {', '.join(map(str, shape))}], but found {tuple(x.shape)}.")
