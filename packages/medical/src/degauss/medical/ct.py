r"""X-ray tomography: line integrals of every slice of a volume, and their exact transpose.

    y[view, bin] = integral of x along the ray,    in the volume's unit times mm.

A volume of linear attenuation mu in 1/mm has integrals without a unit, and N = N0 exp(-y) photons are expected behind
it. Hounsfield units are mu on a scale where water is 0 and air -1000; `attenuation` and `hounsfield` convert.
Axes: volumes ``[batch, slices, rows, columns]``, sinograms ``[batch, slices, views, bins]``; each leading axis may be
missing or repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.medical.geometry import Beam, Grid
from degauss.medical.joseph import SystemMatrix, system_matrix
from degauss.medical.linear import differentiable

WATER = 0.0193
"""Linear attenuation of water for photons of 70 keV, 1/mm: the mean energy of a scan at 120 kV (NIST XCOM)."""


@dataclass(frozen=True)
class Tomography:
    """The projector of a geometry, in mm. Differentiable; float32 or float64; on the device of its argument.

    ``slab``: how many slices are projected at once. Beside the matrix, which all slices share, argument and result,
    a product needs the memory of so many slices and their sinograms and no more. The result does not depend on it.
    """

    grid: Grid
    beam: Beam
    slab: int = 32

    def __post_init__(self) -> None:
        if self.slab < 1:
            raise InputError(f"The slab must hold at least one slice, but is {self.slab}.")

    @cached_property
    def matrix(self) -> SystemMatrix:
        """The sparse matrix of one slice; made at first use, then kept (see `joseph.system_matrix`)."""
        return system_matrix(self.grid, self.beam)

    @property
    def norm(self) -> float:
        """The largest singular value, mm: of one slice, hence of any volume."""
        return self.matrix.norm

    def __call__(self, x: Tensor, /) -> Tensor:
        """Line integrals ``[..., views, bins]`` of ``x [..., rows, columns]``, in the unit of x times mm."""
        _check(x, self.grid.shape, "a volume", "rows and columns")
        return differentiable(self._project, self._back, x)

    def adjoint(self, y: Tensor, /) -> Tensor:
        """The transpose (the unfiltered back-projection): ``[..., views, bins]`` -> ``[..., rows, columns]``."""
        _check(y, self.beam.shape, "a sinogram", "views and bins")
        return differentiable(self._back, self._project, y)

    def _project(self, x: Tensor) -> Tensor:
        return by_slabs(self.matrix, x, self.beam.shape, self.slab)

    def _back(self, y: Tensor) -> Tensor:
        return by_slabs(self.matrix.adjoint, y, self.grid.shape, self.slab)


def by_slabs(f: Callable[[Tensor], Tensor], x: Tensor, shape: tuple[int, int], slab: int) -> Tensor:
    """``f``, from ``[slices, in]`` to ``[slices, out]``, of ``x [..., a, b]`` by slabs of slices: ``[..., *shape]``."""
    slices = x.reshape(-1, x.shape[-2] * x.shape[-1])
    result = x.new_empty(len(slices), shape[0] * shape[1])
    for first in range(0, len(slices), slab):
        result[first : first + slab] = f(slices[first : first + slab])
    return result.reshape(*x.shape[:-2], *shape)


def _check(x: Tensor, expected: tuple[int, int], what: str, axes: str) -> None:
    if x.ndim < 2 or tuple(x.shape[-2:]) != expected:
        raise InputError(f"The geometry is for {what} with {axes} {expected}, but its shape is {tuple(x.shape)}.")


def attenuation(hounsfield_units: Tensor, water: float = WATER) -> Tensor:
    """Linear attenuation in 1/mm, mu = water (1 + HU / 1000), at least 0; ``water``: that of water, 1/mm."""
    return (water * (1 + hounsfield_units / 1000)).clamp_min(0)


def hounsfield(mu: Tensor, water: float = WATER) -> Tensor:
    """Hounsfield units of a linear attenuation in 1/mm: HU = 1000 (mu - water) / water."""
    return 1000 * (mu - water) / water


def sirt(
    operator: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    y: Tensor,
    iterations: int,
    x: Tensor,
    *,
    low: float = 0.0,
) -> Tensor:
    r"""The simultaneous iterative reconstruction technique (Gilbert 1972; Andersen & Kak 1984) from a start ``x``.

        x <- max(low, x + C A^T R (y - A x)),    R = 1 / row sums of A, C = 1 / column sums.

    For operators without negative entries, such as `Tomography`, of any norm. Rows and columns that are all zero stay
    out. ``low``: a bound from below, -inf for none. x in the operator's unit.
    """
    rows, columns = operator(torch.ones_like(x)), adjoint(torch.ones_like(y))
    # A ray or pixel that is barely touched has a sum near zero, and its quotient only rounding in it.
    r, c = (torch.where(s > 1e-6 * s.max(), 1 / s, 0) for s in (rows, columns))
    for _ in range(iterations):
        x = (x + c * adjoint(r * (y - operator(x)))).clamp_min(low)
    return x


def transmission_noise(y: Tensor, photons: float, noise: Noise) -> Tensor:
    r"""Line integrals as a detector that counts ``photons`` per ray in air would give them.

        N ~ Poisson(photons exp(-y)),    y' = -ln(max(N, 1) / photons).

    ``y [batch, ...]``: integrals of the attenuation, without a unit, not normalised. A ray that nothing reaches counts
    as one photon. Exact Poisson numbers, drawn on the CPU; a row's depend on its sample's key and on its own values.
    Raises `InputError` where ``photons`` is not above 0 or an integral is not finite.
    """
    if not 0 < photons < float("inf"):
        raise InputError(f"The photons per ray must be a number above 0, but are {photons}.")
    if not bool(torch.isfinite(y).all()):
        raise InputError("The line integrals hold values that are not finite, so no counts can be drawn.")
    means = (photons * torch.exp(-y.detach().double())).cpu().numpy()
    # A Poisson number takes a varying count of uniforms: each sample's own stream, keyed by two of its numbers.
    keys = noise.uniform(torch.empty(len(y), 2, dtype=torch.float64)) * 2**53
    streams = [np.random.Generator(np.random.Philox(key=[int(a), int(b)])) for a, b in keys]
    counts = np.stack([stream.poisson(mean) for stream, mean in zip(streams, means, strict=True)])
    return -(torch.from_numpy(counts).clamp_min(1) / photons).log().to(y)
