r"""How two populations of windows differ, where single windows cannot say: FDDS, VDS and the distance behind them.

**MMD.** For samples x_1..x_n and y_1..y_m of one number each, and a mixture of Gaussian kernels
K(d) = sum_w exp(-d^2 / 2w), the biased squared maximum mean discrepancy (Gretton et al. 2012, eq. 5) is

    MMD^2 = mean_ij K(x_i - x_j) + mean_ij K(y_i - y_j) - 2 mean_ij K(x_i - y_j),

a sum over n^2 + m^2 + nm pairs. The same number is an integral over frequencies (Bochner), with p and q the empirical
characteristic functions, p(omega) = mean_i exp(i omega x_i), and K^ the spectrum of the kernel,

    MMD^2 = 2 int_0^inf |p - q|^2 K^(omega) d omega,    K^(omega) = sum_w sqrt(w / 2 pi) exp(-w omega^2 / 2).

The trapezoidal rule converges faster than any power for it, as the integrand is analytic and dies like a Gaussian: a
hundred frequencies or so give the sum over pairs to rounding, in time n + m. Nothing cancels, so float32 will do, and
the result is never negative. It is differentiable, and serves the training of PaD-TS as well as its scores.

**FDDS** compares the cross-correlations of windows: for each pair of features, Pearson's r within each window, and
then the MMD of these. **VDS** compares values: for each feature, the MMD of values taken at random. Both are means,
over pairs or features. A real sample does not score zero against another: the mean of the biased MMD^2 of equal
populations is (1/n + 1/m) (K(0) - E K). So scores mean something beside those of real windows, as many of them.

Reference: Li et al. 2025, "Population Aware Diffusion for Time Series Generation" (PaD-TS, AAAI), section 5.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.train import Shuffle

Array = NDArray[np.float64]
Widths = tuple[float, ...]

TRAINING_WIDTHS: Widths = (0.01, 0.05, 0.1, 0.2, 0.5, 0.7, 1.0)
SCORE_WIDTHS: Widths = (*TRAINING_WIDTHS, 1.5, 2.0)

# Angles computed at once: enough to keep a core busy, few enough to stay in its cache.
_ANGLES_AT_ONCE = 1 << 18


def fdds(real: Array, synthetic: Array) -> float:
    """The functional dependency distribution shift of windows ``[n, length, features]`` and ``[m, ...]``.

    The mean over pairs of features of the MMD of their correlations. `InputError` for one feature, which has no pairs.
    """
    if real.shape[2] < 2:
        raise InputError("FDDS compares pairs of features; expected at least 2 features, but there is 1.")
    with torch.no_grad():
        x, y = (cross_correlations(torch.from_numpy(windows)) for windows in (real, synthetic))
        return float(mmd(x, y, SCORE_WIDTHS, span=2.0, tolerance=1e-12).mean())


def vds(real: Array, synthetic: Array, *, values: int = 10_000, seed: int = 0) -> float:
    """The value distribution shift of windows ``[n, length, features]`` and ``[m, ...]``, in units of order one.

    The mean over features of the MMD of values; of so many of each side, chosen by the seed, where there are more.
    """
    total = 0.0
    for feature in range(real.shape[2]):
        x, y = (_some(windows[:, :, feature].ravel(), values, seed) for windows in (real, synthetic))
        span = float(max(x.max(), y.max()) - min(x.min(), y.min()))
        total += float(mmd(x[:, None], y[:, None], SCORE_WIDTHS, span=span, tolerance=1e-12))
    return total / real.shape[2]


def _some(values: Array, count: int, seed: int) -> Tensor:
    if len(values) > count:
        values = values[Shuffle(len(values), seed)(range(count))]
    return torch.from_numpy(np.ascontiguousarray(values))


def cross_correlations(windows: Tensor, floor: float = 0.0) -> Tensor:
    """Pearson's r of every pair of features within each window: ``[n, length, features]`` -> ``[n, pairs]``.

    Pairs are (0, 1), (0, 2), ..., (1, 2), ... A feature that is constant in a window, to rounding, has r = 0 there.
    ``floor`` is added in squares to the standard deviations, which bounds the gradient where a window is flat.
    """
    length, features = windows.shape[1:]
    centred = windows - windows.mean(1, keepdim=True)
    # The rounding of a mean is no variation.
    precision = torch.finfo(windows.dtype)
    rounding = (16 * precision.eps * windows.detach().abs().amax(1, keepdim=True)) ** 2
    unit = centred * torch.rsqrt((centred**2).sum(1, keepdim=True) + length * (rounding + floor**2) + precision.tiny)
    first, second = torch.triu_indices(features, features, 1, device=windows.device)
    return (unit.transpose(1, 2) @ unit)[:, first, second]


def mmd(x: Tensor, y: Tensor, widths: Widths, *, span: float, tolerance: float = 1e-7) -> Tensor:
    """The biased MMD^2 of each column of x ``[n, columns]`` and y ``[m, columns]``: ``[columns]``, in their dtype.

    ``widths``: the w of the kernels, squared units. ``span``: the largest difference that occurs between two values;
    beyond it the kernel repeats. ``tolerance``: of the kernel, about; more digits take more frequencies.
    """
    frequencies, weights = _spectrum(widths, span, tolerance, x.dtype, x.device)
    gap = _characteristic(x, frequencies) - _characteristic(y, frequencies)
    return (gap**2).sum(0) @ weights


class _Spectrum(NamedTuple):
    frequencies: Tensor
    weights: Tensor


@lru_cache(maxsize=64)
def _spectrum(widths: Widths, span: float, tolerance: float, dtype: torch.dtype, device: torch.device) -> _Spectrum:
    """Nodes and weights of the trapezoidal rule; the node at zero is left out, as p = q = 1 there."""
    digits = 2 * math.log(1 / tolerance)
    highest = math.sqrt(digits / min(widths))
    # A spacing repeats the kernel with period 2 pi / spacing; its copy has to be negligible at the largest difference.
    spacing = 2 * math.pi / (span + math.sqrt(digits * max(widths)))
    frequencies = spacing * np.arange(1, math.ceil(highest / spacing) + 1)
    w = np.array(widths)[:, None]
    density = (np.sqrt(w / (2 * math.pi)) * np.exp(-w * frequencies**2 / 2)).sum(0)
    # What is kept from a call in inference mode must serve training too.
    with torch.inference_mode(False):
        nodes = torch.tensor(frequencies, dtype=dtype, device=device)
        return _Spectrum(nodes, torch.tensor(2 * spacing * density, dtype=dtype, device=device))


def _characteristic(x: Tensor, frequencies: Tensor) -> Tensor:
    """The empirical characteristic function of each column, its real and imaginary parts: ``[2, columns, m]``."""
    rows = max(1, _ANGLES_AT_ONCE // (x.shape[1] * len(frequencies)))
    parts: list[Tensor] = []
    for some in x.split(rows):
        angles = some[..., None] * frequencies
        parts.append(torch.stack((angles.cos().sum(0), angles.sin().sum(0))))
    return torch.stack(parts).sum(0) / len(x)
