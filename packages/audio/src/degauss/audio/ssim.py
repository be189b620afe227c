r"""Structural similarity of mels: of two that are equally far from the truth, it prefers the livelier.

For two mels seen through a Gaussian window w around each place (11 by 11, standard deviation 1.5), with the local
means mu, variances s^2 and covariance c,

    SSIM = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1) * (2 c + C2) / (s_x^2 + s_y^2 + C2),

C1 = (0.01 L)^2, C2 = (0.03 L)^2, L the range of the data: 2 in model units, which are from -1 to 1. It is 1 for equal
mels, and the second factor falls where one varies less than the other: a truth at half its contrast has 0.8, the same
truth with as much added that is not its own 0.89.

The published window sees zeros beyond the edges of the mel. Here its weights are renormalised to what is inside, so
neither the edges nor the padding of a batch pull a mel towards anything.

Reference: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity" (eq. 13), as in
the acoustic losses of FastSpeech-like models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RANGE = 2.0
_RADIUS, _SPREAD = 5, 1.5


def ssim(x: Tensor, y: Tensor, inside: Tensor) -> Tensor:
    """The similarity of two mels at each place, ``[batch, mels, frames]``, at most 1; arbitrary outside.

    ``x``, ``y``: ``[batch, mels, frames]`` in model units; ``inside`` ``[batch, frames]``: 1 on frames, 0 on padding.
    """
    kept = inside[:, None].expand_as(x)
    weight = _window(kept).clamp(min=1e-8)

    def mean(values: Tensor) -> Tensor:
        return _window(values * kept) / weight

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    both = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    level = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return level * (2 * both + c2) / (var_x + var_y + c2)


def _window(x: Tensor) -> Tensor:
    """The Gaussian window over bins and frames, zeros beyond the edges."""
    place = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype, device=x.device)
    line = torch.exp(-0.5 * (place / _SPREAD) ** 2)
    line = line / line.sum()
    rows = F.conv2d(x[:, None], line.reshape(1, 1, -1, 1), padding=(_RADIUS, 0))
    return F.conv2d(rows, line.reshape(1, 1, 1, -1), padding=(0, _RADIUS))[:, 0]
