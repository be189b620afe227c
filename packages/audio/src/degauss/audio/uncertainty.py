r"""How sure an enhancement is, told by drawing it several times.

From k draws c_1 ... c_k of a compressed spectrum,

    mean = sum c_i / k,   sd^2 = sum |c_i - mean|^2 / (k - 1)   for each bin and frame,

in units of the spectrum of a sound of unit peak. Where draws agree the model knows, or believes that it does: how far
sd tells the error is measured by `correlation` on sounds whose clean version is known, and that figure belongs beside
any use of it. `fall_back` takes the predictive estimate, which is less natural but invents nothing, where sd is high.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from degauss.audio.enhancement import Estimate
from degauss.core.errors import InputError, check_range


class Summary(NamedTuple):
    """``mean`` ``[2, bins, frames]`` of the draws, and their ``sd`` ``[bins, frames]`` (0 for a single draw)."""

    mean: Tensor
    sd: Tensor


def summary(draws: Tensor) -> Summary:
    """Mean and standard deviation of draws ``[k, 2, bins, frames]``."""
    mean = draws.mean(0)
    squares = (draws - mean).square().sum((0, 1))
    return Summary(mean, (squares / max(1, len(draws) - 1)).sqrt())


def error_map(mean: Tensor, clean: Tensor) -> Tensor:
    """|mean - clean| of spectra ``[2, bins, frames]``, ``[bins, frames]``."""
    return (mean - clean).square().sum(0).sqrt()


def correlation(sd: Tensor, error: Tensor) -> float:
    """Pearson's correlation of two maps, 0 where one is constant."""
    a, b = (part.double().flatten() - part.double().mean() for part in (sd, error))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def ranked_correlation(sd: Tensor, error: Tensor) -> float:
    """Spearman's: Pearson's of the ranks, so that a few loud bins do not decide; ties share their mean rank."""
    return correlation(_ranks(sd), _ranks(error))


def _ranks(x: Tensor) -> Tensor:
    _, place, count = x.double().flatten().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - 0.5 * (count - 1))[place]


def fall_back(found: Estimate, limit: float) -> Tensor:
    r"""The mean of the draws, moved to the predictive estimate where draws differ; ``[2, bins, frames]``.

        w D(y) + (1 - w) mean,   w = sd^2 / (sd^2 + limit^2):

    half of each where sd is ``limit``. Raises `InputError` for a model without a predictive network, a single draw, or
    a limit that is not positive.
    """
    check_range("fall-back", limit, 0)
    if found.predictive is None:
        raise InputError("fall-back needs a predictive estimate, but this model has none; expected a StoRM model.")
    if len(found.draws) < 2:
        raise InputError("fall-back needs draws that can differ; expected at least 2 draws.")
    mean, sd = summary(found.draws)
    weight = sd.square() / (sd.square() + max(limit, torch.finfo(sd.dtype).tiny ** 0.5) ** 2)
    return torch.lerp(mean, found.predictive, weight)
