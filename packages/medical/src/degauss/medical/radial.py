r"""Radial magnetic resonance: k-space along spokes through its middle, by the non-uniform fast Fourier transform.

    y_c[s] = (rows columns)^(-1/2) sum_p S_c(p) x(p) exp(-i k_s . p),

p the integer places of the pixels from index size // 2 on, k in radians per pixel, [-pi, pi). Axes and channels are
those of `mri`. It runs on the CPU, through finufft (Barnett, Magland & af Klinteberg 2019); the adjoint is exact to
rounding whatever ``accuracy`` is, since both ways spread with the same kernel.

**Density.** A spoke's sample at radius k stands for the cell dk dtheta |k| of k-space, the ramp of filtered
back-projection, and at zero frequency for its share of a disk of radius dk / 2. But an image of rows x columns pixels
has a k-space that hardly changes within 2 pi / max(rows, columns), so where spokes are farther apart than that, a
sample stands for no more than what it sees:

    w = dk min(dtheta max(|k|, dk / 4), 2 pi / max(rows, columns)).

With these weights the operator's singular values are much alike, whatever the number of spokes: of a head at 80 x 80
from 24 of them, 3 conjugate gradients have 29.8 dB and 30 have 30.0; without weights 26.4 and 29.9, with the ramp alone
29.5 and 29.9, and wavelets 34.6, 33.8 and 34.1 dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import spectral_norm
from degauss.medical.filtered import view_weights
from degauss.medical.linear import differentiable
from degauss.medical.mri import are_sensitivities, channels, complex_from

GOLDEN = 180 * (math.sqrt(5) - 1) / 2
"""The golden angle, degrees: spokes this far apart are spread evenly at any count (Winkelmann et al. 2007)."""


def golden_angles(spokes: int) -> tuple[float, ...]:
    """Angles (degrees) of spokes that each fall into a largest gap of those before."""
    return tuple(i * GOLDEN % 180 for i in range(spokes))


def nyquist_spokes(shape: tuple[int, int]) -> int:
    """Spokes that leave no gap in k-space for images of ``shape``: pi / 2 times the longer side."""
    return math.ceil(math.pi / 2 * max(shape))


def largest_gap(angles: Sequence[float]) -> float:
    """Degrees between the two neighbouring spokes that are farthest apart, 180 for one spoke."""
    place = np.sort(np.asarray(angles, dtype=np.float64) % 180)
    return float(np.diff(place, append=place[0] + 180).max())


def spoke_weights(shape: tuple[int, int], angles: Sequence[float], samples: int) -> Tensor:
    """w of the module's docstring, float64 ``[spokes, samples]``: areas of k-space, radians^2 per pixel^2."""
    step = 2 * math.pi / samples
    apart = torch.from_numpy(view_weights(angles, 180.0))[:, None]
    return step * (apart * _radii(samples).abs().clamp_min(step / 4)).clamp_max(2 * math.pi / max(shape))


@dataclass(frozen=True, eq=False)
class RadialMRI:
    """k-space on ``angles`` (degrees) of spokes with ``samples`` points each. Differentiable; needs `finufft`.

    ``shape``: rows and columns of the images. ``sensitivities``: complex ``[coils, rows, columns]``, or ``[slices,
    coils, rows, columns]`` for images ``[..., slices, 2, rows, columns]``; None: one coil. ``accuracy``: the relative
    error of the transform. Images ``[..., 2, rows, columns]``, measurements
    ``[..., (coils,) 2, spokes, samples]``.
    """

    shape: tuple[int, int]
    angles: tuple[float, ...]
    samples: int
    sensitivities: Tensor | None = None
    accuracy: float = 1e-6

    def __post_init__(self) -> None:
        if not self.angles or self.samples < 1 or min(self.shape) < 1:
            found = f"{self.shape} pixels, {len(self.angles)} spokes of {self.samples} samples"
            raise InputError(f"A radial scan needs pixels, spokes and samples, but has {found}.")
        if not all(map(math.isfinite, self.angles)):
            raise InputError("The angles of spokes must be finite numbers of degrees, but some are not.")
        maps = self.sensitivities
        if maps is not None and not (are_sensitivities(maps) and tuple(maps.shape[-2:]) == self.shape):
            found = f"{maps.dtype} {tuple(maps.shape)}"
            raise InputError(
                f"Sensitivities must be finite complex numbers [coils, {self.shape[0]}, {self.shape[1]}], but are "
                f"{found}."
            )

    @cached_property
    def frequencies(self) -> Tensor:
        """Where k-space is measured, float64 ``[2, spokes, samples]``: radians per pixel along rows and columns."""
        theta = torch.tensor(self.angles, dtype=torch.float64).deg2rad()[:, None]
        k = _radii(self.samples)
        return torch.stack((k * theta.sin(), k * theta.cos()))

    @property
    def norm(self) -> float:
        """The largest singular value, by Lanczos, at first use."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        slices = () if self.sensitivities is None else self.sensitivities.shape[:-3]
        return spectral_norm(self, torch.empty(1, *slices, 2, *self.shape), tolerance=1e-6)

    def __call__(self, x: Tensor, /) -> Tensor:
        """Measurements of images ``[..., 2, rows, columns]``."""
        image = complex_from(x)
        if self.sensitivities is not None:
            image = image.unsqueeze(-3) * self.sensitivities.to(image)
        return differentiable(self._forward, self._back, channels(image))

    def adjoint(self, y: Tensor, /) -> Tensor:
        """The transpose; no density compensation."""
        images = differentiable(self._back, self._forward, y)
        if self.sensitivities is None:
            return images
        coils = complex_from(images)
        return channels((coils * self.sensitivities.to(coils).conj()).sum(-3))

    def _forward(self, x: Tensor) -> Tensor:
        return self._transform(x, self.shape, (len(self.angles), self.samples), 2)

    def _back(self, y: Tensor) -> Tensor:
        return self._transform(y, (len(self.angles), self.samples), self.shape, 1)

    def _transform(self, x: Tensor, source: tuple[int, int], target: tuple[int, int], kind: int) -> Tensor:
        """finufft's type 2 (image to points, exp(-i)) or type 1 (points to image, exp(+i)) of every leading index."""
        finufft = _finufft()
        z = complex_from(x.detach().cpu())
        if tuple(z.shape[-2:]) != source:
            raise InputError(f"The radial scan expects [..., 2, {source[0]}, {source[1]}], but found {tuple(x.shape)}.")
        precision = np.float32 if z.dtype == torch.complex64 else np.float64
        rows, columns = self.frequencies.flatten(1).numpy().astype(precision)
        flat = np.ascontiguousarray(z.reshape(-1, *source).numpy())
        options: dict[str, Any] = {"eps": self.accuracy, "nthreads": torch.get_num_threads()}
        if kind == 2:
            out = finufft.nufft2d2(rows, columns, flat, isign=-1, **options)
        else:
            points = flat.reshape(len(flat), -1)
            out = finufft.nufft2d1(rows, columns, points, self.shape, isign=1, **options)
        result = torch.from_numpy(out).reshape(*z.shape[:-2], *target) / math.sqrt(math.prod(self.shape))
        return channels(result).to(x)


def _radii(samples: int) -> Tensor:
    """k along a spoke, radians per pixel, float64 ``[samples]``; zero frequency at samples // 2 of an even number."""
    return (torch.arange(samples, dtype=torch.float64) / samples - 0.5) * 2 * math.pi


def _finufft() -> Any:
    try:
        import finufft
    except ImportError:
        raise InputError("Radial scans need finufft: install degauss-medical[radial].") from None
    return finufft
