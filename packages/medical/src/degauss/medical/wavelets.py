r"""Slices that are sparse in wavelets: the reconstruction of compressed sensing, without any prior that was learned.

    min over x   1/2 |y - A x|^2 + lambda sum_g |(W x)_g|,

W an orthogonal wavelet transform of each slice, g its coefficients one by one, or the two parts of a complex one
(Lustig, Donoho and Pauly 2007). FISTA (Beck and Teboulle 2009) repeats, with L = |A|^2,

    x' <- W^T shrink(W (v + A^T (y - A v) / L), lambda / L),      v <- x' + ((t - 1) / t') (x' - x),

and starts its momentum anew wherever it points uphill (O'Donoghue and Candes 2015), which is what makes the end
reachable to a tolerance. All coefficients are shrunk, those of the coarsest scale too, as is usual.

A transform that wraps around is orthogonal for sides that its scales divide. Other slices are embedded in the next
larger size, of which A sees only the slice; their margin is whatever costs least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.inverse import Measurement, MixedNorm, inner

Bands = list[Any]
"""PyWavelets' coefficients: the coarsest approximation, then three bands of detail a level, coarse to fine."""


@dataclass(frozen=True)
class Wavelets:
    """W: the last two axes of an array by ``levels`` of an orthogonal ``wavelet`` of PyWavelets, with periodic ends.

    Sides must be multiples of 2^levels (`padded` gives the next ones). Computed on the CPU, in the dtype of x.
    """

    wavelet: str = "db4"
    levels: int = 4

    def __post_init__(self) -> None:
        check_range("levels", self.levels, 1)
        check_option("wavelet", self.wavelet, _pywt().wavelist(kind="discrete"))
        if not _pywt().Wavelet(self.wavelet).orthogonal:
            raise InputError(f"wavelet must be orthogonal, such as 'db4' or 'sym4', but {self.wavelet!r} is not.")

    def padded(self, rows: int, columns: int) -> tuple[int, int]:
        """The smallest sides, from these on, that can be transformed."""
        unit = 2**self.levels
        return -(-rows // unit) * unit, -(-columns // unit) * unit

    def forward(self, x: Tensor) -> Bands:
        """W x, as bands ``[..., rows', columns']``."""
        rows, columns = x.shape[-2:]
        if (rows, columns) != self.padded(rows, columns):
            raise ValueError(f"slices of {rows} x {columns} are no multiples of {2**self.levels}")
        # Of small slices the filters are longer than the coarsest bands and wrap more than once: orthogonal still.
        bands: Bands = []
        approximation: Any = x.detach().cpu().numpy()
        for _ in range(self.levels):
            approximation, detail = _pywt().dwt2(approximation, self.wavelet, "periodization", axes=(-2, -1))
            bands.insert(0, detail)
        return [approximation, *bands]

    def inverse(self, bands: Bands, like: Tensor) -> Tensor:
        """W^T of bands, on the device of ``like``."""
        x: Any = bands[0]
        for detail in bands[1:]:
            x = _pywt().idwt2((x, detail), self.wavelet, "periodization", axes=(-2, -1))
        return torch.from_numpy(np.ascontiguousarray(x)).to(like)


def _pywt() -> Any:
    import pywt

    return pywt


def mapped(f: Callable[[NDArray[Any]], NDArray[Any]], bands: Bands) -> Bands:
    """``f`` of every band."""
    return [f(bands[0]), *(tuple(f(band) for band in detail) for detail in bands[1:])]


DB4 = Wavelets()
"""Daubechies' wavelet with four vanishing moments, over four scales."""


def scales_of(rows: int, columns: int) -> Wavelets:
    """Daubechies' four, over as many scales (at least one) as leave the coarsest band 32 pixels a side.

    Missing lines of k-space alias into large shapes, which many scales show sparsely and few do not: at 80 x 80 and
    four times fewer lines, one, two and three scales have 32.0, 29.7 and 26.4 dB, and the zero-filled image 25.3.
    """
    return Wavelets("db4", max(1, math.floor(math.log2(max(min(rows, columns), 1) / 32))))


REAL = MixedNorm()
"""Each coefficient is shrunk by itself."""

COMPLEX = MixedNorm((-3,))
"""Images ``[..., 2, rows, columns]``: the modulus of a complex coefficient is shrunk, its phase is kept."""


class WaveletSolution(NamedTuple):
    """``x``: ``[batch, *event]``; ``change``: |x' - x| / |x'| of each row at the end, float64; ``iterations``."""

    x: Tensor
    change: Tensor
    iterations: int


@dataclass(frozen=True)
class WaveletSparsity:
    """The problem and its solver; calling it with a measurement solves it.

    ``strength``: lambda > 0, in units where A has norm 1. ``norm``: what is shrunk together, `REAL` or `COMPLEX`.
    ``tolerance``: on the relative change of x in an iteration. The operator's ``norm`` must be its norm or above. Rows
    of a batch are problems of their own, each with its own end. Memory: 12 volumes, measured, beside what the
    operator takes. Raises InputError for settings out of range.
    """

    strength: float
    transform: Wavelets = Wavelets()
    norm: MixedNorm = MixedNorm()  # noqa: RUF009
    iterations: int = 300
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("strength", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number above 0, but is {getattr(self, name)}.")
        check_range("iterations", self.iterations, 1)

    @torch.no_grad()
    def __call__(self, measurement: Measurement) -> WaveletSolution:
        """Solve, from zero."""
        back = measurement.operator.adjoint(measurement.y)
        rows, columns = back.shape[-2:]
        step = 1 / measurement.operator.norm**2
        x = self._embedded(torch.zeros_like(back))
        del back
        ahead, t = x, torch.ones(len(x), dtype=torch.float64, device=x.device)
        active, change = torch.ones_like(t, dtype=torch.bool), torch.zeros_like(t)
        done = 0
        while done < self.iterations and bool(active.any()):
            slope = measurement.operator.adjoint(measurement.residual(ahead[..., :rows, :columns]))
            new = self._shrunk(ahead + step * self._embedded(slope), self.strength * step)
            moved = new - x
            change = torch.where(active, (inner(moved, moved) / inner(new, new).clamp(min=1e-300)).sqrt(), change)
            # Uphill: the step just taken points against the momentum that led there.
            uphill = inner(ahead - new, moved) > 0
            following = torch.where(uphill, 1.0, (1 + (1 + 4 * t**2).sqrt()) / 2)
            momentum = torch.where(uphill, 0.0, (t - 1) / following)
            keep = expand(active, x).bool()
            ahead = torch.where(keep, new + expand(momentum, x) * moved, ahead)
            x = torch.where(keep, new, x)
            t = following
            active = active & (change > self.tolerance)
            done += 1
        return WaveletSolution(x[..., :rows, :columns].contiguous(), change, done)

    def objective(self, measurement: Measurement, x: Tensor) -> Tensor:
        """The minimised sum for x, with a margin of zeros where there is one: float64 ``[batch]``."""
        residual = measurement.residual(x)
        bands = self.transform.forward(self._embedded(x))
        total = inner(residual, residual) / 2
        for band in (bands[0], *(band for detail in bands[1:] for band in detail)):
            total = total + self.strength * self.norm.value(torch.from_numpy(band)).to(total)
        return total

    def _embedded(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        wide, long = self.transform.padded(rows, columns)
        return x if (wide, long) == (rows, columns) else torch.nn.functional.pad(x, (0, long - columns, 0, wide - rows))

    def _shrunk(self, x: Tensor, threshold: float) -> Tensor:
        def shrink(band: NDArray[Any]) -> NDArray[Any]:
            return self.norm.shrink(torch.from_numpy(np.ascontiguousarray(band)), threshold).numpy()

        return self.transform.inverse(mapped(shrink, self.transform.forward(x)), x)
