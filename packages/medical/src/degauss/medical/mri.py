r"""Magnetic resonance: the spatial frequencies of slices as coils see them, and which of them are measured.

    y_c = M F S_c x,    A^H y = sum_c conj(S_c) F^H M y_c,

F the centred, unitary Fourier transform, S_c the sensitivity of coil c, M the mask: 1 where k-space is measured.
Zero frequency is at index size // 2 of both axes; rows are read out, columns are the lines of phase encoding.

**Complex numbers are two real channels**, real and imaginary, on the third axis from the end: images
``[..., 2, rows, columns]``, k-space ``[..., coils, 2, rows, columns]``. So priors, conjugate gradients and optimisers
see real tensors, the inner product is the real part of the complex one, and ``adjoint`` is the transpose. `channels`
and `complex_from` go to torch's complex numbers and back. Units are those of the image; F is unitary, so noise of
standard deviation s in k-space is noise of s in the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.inverse import LinearOperator, spectral_norm
from degauss.core.noise import Noise

_AXES = (-2, -1)


def channels(z: Tensor) -> Tensor:
    """Complex ``[..., rows, columns]`` as real ``[..., 2, rows, columns]``."""
    return torch.stack((z.real, z.imag), dim=-3)


def complex_from(x: Tensor) -> Tensor:
    """Real ``[..., 2, rows, columns]`` as complex ``[..., rows, columns]``. InputError for other shapes."""
    if x.is_complex() or x.ndim < 3 or x.shape[-3] != 2:
        found = f"{'complex' if x.is_complex() else 'real'} {tuple(x.shape)}"
        raise InputError(f"Expected real numbers [..., 2, rows, columns] (real and imaginary part), but found {found}.")
    return torch.complex(*x.unbind(-3))


def fourier(z: Tensor) -> Tensor:
    """The centred unitary transform of complex ``[..., rows, columns]``: image to k-space."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(z, _AXES), norm="ortho"), _AXES)


def inverse_fourier(z: Tensor) -> Tensor:
    """Undoes `fourier`: k-space to image."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(z, _AXES), norm="ortho"), _AXES)


def are_sensitivities(maps: Tensor) -> bool:
    """Whether these can be what coils see: finite complex numbers ``[..., coils, rows, columns]``."""
    return maps.is_complex() and maps.ndim >= 3 and bool(torch.isfinite(maps).all())


@dataclass(frozen=True, eq=False)
class CartesianMRI:
    """Cartesian k-space. Differentiable; on the device of its argument.

    ``mask``: 1 where measured, 0 elsewhere; broadcasts to ``[rows, columns]`` (``[columns]``: whole lines).
    ``sensitivities``: complex ``[coils, rows, columns]``, or ``[slices, coils, rows, columns]`` for images
    ``[..., slices, 2, rows, columns]``. None: one coil that sees all alike, and k-space has no axis of coils.
    What was not measured is zero in ``y``, and `adjoint` does not look at it.
    """

    mask: Tensor
    sensitivities: Tensor | None = None

    def __post_init__(self) -> None:
        wrong = (self.mask != 0) & (self.mask != 1)
        if self.mask.ndim == 0 or bool(wrong.any()) or not bool(self.mask.any()):
            raise InputError(
                "A mask of k-space must hold ones where it is measured and zeros elsewhere, and some ones."
            )
        maps = self.sensitivities
        if maps is not None and not are_sensitivities(maps):
            found = f"{maps.dtype} {tuple(maps.shape)}"
            raise InputError(f"Sensitivities must be finite complex numbers [coils, rows, columns], but are {found}.")

    @property
    def norm(self) -> float:
        """The largest singular value: exactly 1 for one coil, found by Lanczos for several, at first use."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        if self.sensitivities is None:
            return 1.0
        *slices, _, rows, columns = self.sensitivities.shape
        like = self.sensitivities.real.new_empty(*slices, 2, rows, columns)
        return spectral_norm(self, like[None])

    def __call__(self, x: Tensor, /) -> Tensor:
        """k-space ``[..., (coils,) 2, rows, columns]`` of images ``x [..., 2, rows, columns]``, masked."""
        image = complex_from(x)
        if self.sensitivities is not None:
            image = image.unsqueeze(-3) * self.sensitivities.to(image)
        return channels(self._measured(fourier(image)))

    def adjoint(self, y: Tensor, /) -> Tensor:
        """The transpose (the zero-filled image, coils combined): the other way round."""
        images = inverse_fourier(self._measured(complex_from(y)))
        if self.sensitivities is not None:
            images = (images * self.sensitivities.to(images).conj()).sum(-3)
        return channels(images)

    def noisy(self, y: Tensor, sigma: float, noise: Noise) -> Tensor:
        """``y [batch, ...]`` with white complex noise, ``sigma`` the deviation of each part, where it is measured."""
        check_range("sigma", sigma, low=0)
        return y + sigma * self.mask.to(y) * noise.normal(y)

    def _measured(self, k: Tensor) -> Tensor:
        return k * self.mask.to(k.device, k.real.dtype)


@dataclass(frozen=True, eq=False)
class RealImages:
    """A complex operator on images known to be real: A of [x, 0], ``x [..., rows, columns]``. For real priors."""

    operator: LinearOperator

    @property
    def norm(self) -> float:
        """An upper bound: that of the operator on complex images. Exact for one coil that measures zero frequency."""
        return self.operator.norm

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.operator(torch.stack((x, torch.zeros_like(x)), dim=-3))

    def adjoint(self, y: Tensor, /) -> Tensor:
        return self.operator.adjoint(y).select(-3, 0)


# --- masks --------------------------------------------------------------------------------------------------


def random_lines(lines: int, acceleration: float, centre: float, noise: Noise, draw: int = 0) -> Tensor:
    """Masks ``[samples, 1, lines]``: the central lines, and others at random up to lines / acceleration in all.

    ``centre``: the fraction of all lines that lie around zero frequency and are always measured. ``noise``: one mask
    for each of its samples.
    """
    middle, total = _counts(lines, acceleration, centre)
    order = noise.uniform(torch.empty(len(noise.samples), lines, dtype=torch.float64), draw)
    order[:, _middle(lines, middle)] = -1
    chosen = order.argsort(-1)[:, :total]
    return torch.zeros_like(order).scatter(-1, chosen, 1.0)[:, None].float()


def even_lines(lines: int, acceleration: float, centre: float) -> Tensor:
    """A mask ``[lines]``: the central lines, and others evenly spaced up to lines / acceleration in all."""
    middle, total = _counts(lines, acceleration, centre)
    mask = torch.zeros(lines)
    mask[_middle(lines, middle)] = 1
    outside = torch.nonzero(mask == 0).flatten()
    count = total - middle
    place = ((torch.arange(count) + 0.5) * len(outside) / max(count, 1)).long()
    mask[outside[place]] = 1
    return mask


def _counts(lines: int, acceleration: float, centre: float) -> tuple[int, int]:
    check_range("acceleration", acceleration, low=1, high=lines)
    check_range("centre", centre, low=0, high=1)
    middle, total = round(lines * centre), round(lines / acceleration)
    if middle > total:
        raise InputError(
            f"The centre alone is {middle} of {lines} lines, more than {total} at acceleration {acceleration:g}."
        )
    return middle, total


def _middle(lines: int, count: int) -> slice:
    first = lines // 2 - count // 2
    return slice(first, first + count)


# --- coils --------------------------------------------------------------------------------------------------


def estimated_sensitivities(kspace: Tensor, centre: tuple[int, int] = (24, 24), floor: float = 0.02) -> Tensor:
    r"""Sensitivities from the middle of a k-space: low-resolution images of the coils over their root sum of squares.

        S_c = x_c / sqrt(sum_c |x_c|^2)    (McKenzie et al., Magn. Reson. Med. 47, 2002)

    ``kspace``: complex ``[..., coils, rows, columns]``, fully measured within the middle ``centre`` rows and columns,
    which a Hann window tapers. The phase is that of each coil's own image, so x is near real where the object is.
    Zero where the root sum of squares is below ``floor`` of its largest value. Complex, in the shape of ``kspace``;
    sum_c |S_c|^2 is 1 elsewhere.
    """
    rows, columns = kspace.shape[-2:]
    if not (1 <= centre[0] <= rows and 1 <= centre[1] <= columns):
        raise InputError(f"The calibration region {centre} does not fit into a k-space of {(rows, columns)}.")
    window = _taper(rows, centre[0])[:, None] * _taper(columns, centre[1])
    images = inverse_fourier(kspace * window.to(kspace.device, kspace.real.dtype))
    total = images.abs().square().sum(-3, keepdim=True).sqrt()
    seen = total > floor * total.amax((-3, -2, -1), keepdim=True)
    return torch.where(seen, images / torch.where(seen, total, 1), 0)


def _taper(size: int, count: int) -> Tensor:
    window = torch.zeros(size)
    window[_middle(size, count)] = torch.hann_window(count + 2, periodic=False)[1:-1] if count < size else 1.0
    return window
