r"""Progressive distillation (Salimans and Ho 2022): one step of the student does what two of its teacher do.

A DDIM step from time t to a less noisy u takes x to

    alpha_u m + (sigma_u / sigma_t) (x - alpha_t m),    m the posterior mean at (x, t).

The teacher goes from t by way of s to u. Its means are m_1 at (x, t) and m_2 at (x_s, s), and it arrives at x_u. There
is one mean with which a single step from t arrives there too: the paper solves the line above for it (eq. 8),

    target = (x_u - (sigma_u / sigma_t) x) / (alpha_u - (sigma_u / sigma_t) alpha_t),

a quotient of small differences between near times. Put in what x_u is and x drops out: with k = alpha / sigma,

    target = share m_1 + (1 - share) m_2,    share = (k_s - k_t) / (k_u - k_t).

So what a student learns is a weighted mean of the teacher's two answers, each weighted by the way that it is used for,
measured in k. In h = log k_s - log k_t and h' = log k_u - log k_s,

    share = e^{-h'} (1 - e^{-h}) / (1 - e^{-(h + h')}),

which has no cancellation for close times, is 0 where the step ends on clean data (h' infinite: the target is then the
teacher's last answer) and e^{-h'} where it starts from pure noise (h infinite). Where both answers agree it is that
answer, whatever the times. Nothing here asks what a network predicts, or for evenly spaced times.

The recipe: a student starts with its teacher's weights, learns on ``distillation_loss`` with the teacher's grid, is
sampled by ``ddim()`` on ``halve(grid)``, and may then be the teacher of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.grid import check_grid
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

Weighting = Callable[[Tensor], Tensor]
"""log-SNR ``[batch]`` -> the weight of a sample's loss, ``[batch]``."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""(the student's means, the targets), both ``[batch, *event]`` -> how far they are apart, ``[batch]``."""


def target(
    teacher: Denoiser[Point], schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, u: Tensor, **cond: Any
) -> Tensor:
    """The posterior mean with which one DDIM step from t to u arrives where the teacher's two, t to s to u, arrive.

    ``x``: the state at t, ``[batch, *event]``; times fall from t to u, each one for the batch (0-d) or one a sample
    (``[batch]``), with sigma(t) > 0. Like ``x`` in shape, and without a gradient: neither the teacher nor x is to learn
    from it. ``cond`` goes to the teacher.
    """
    with torch.no_grad():
        (alpha, sigma), (alpha_s, sigma_s) = schedule(t), schedule(s)
        first = teacher(x, t, **cond).mean
        keep = sigma_s / sigma
        x_s = expand(keep, x) * x + expand(alpha_s - keep * alpha, x) * first
        second = teacher(x_s, s, **cond).mean
        # As a correction of the second, so that two equal answers come back to the bit.
        return second + expand(first_share(schedule, t, s, u), x) * (first - second)


def first_share(schedule: Schedule, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """The weight of the teacher's first answer in the target: (k_s - k_t) / (k_u - k_t), in [0, 1]."""
    log_k, log_k_s, log_k_u = (0.5 * schedule.log_snr(time) for time in (t, s, u))
    return torch.exp(log_k_s - log_k_u) * torch.expm1(log_k - log_k_s) / torch.expm1(log_k - log_k_u)


def halve(grid: Tensor) -> Tensor:
    """Every other time of a grid with an even number of steps: the student's grid. ValueError for an odd number."""
    grid = check_grid(grid)
    if len(grid) % 2 == 0:
        raise ValueError(f"a student takes half of its teacher's steps, but the grid has {len(grid) - 1} of them")
    return grid[::2]


def truncated_snr(log_snr: Tensor) -> Tensor:
    """max(SNR, 1): the paper's first choice. The loss on eps where noise is weak, on x0 where it is strong."""
    return log_snr.exp().clamp(min=1)


def snr_plus_one(log_snr: Tensor) -> Tensor:
    """SNR + 1: the paper's second choice; on a variance-preserving schedule, the squared error of v."""
    return log_snr.exp() + 1


def unweighted(log_snr: Tensor) -> Tensor:
    """1: the error of x0 as it is, for grids that are so coarse that SNR would leave only the last step to learn."""
    return torch.ones_like(log_snr)


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean square over each event, ``[batch]``."""
    return (found - wanted).square().flatten(1).mean(1)


def absolute_error(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean absolute difference over each event, ``[batch]``."""
    return (found - wanted).abs().flatten(1).mean(1)


def distillation_loss(
    student: Denoiser[Point],
    teacher: Denoiser[Point],
    schedule: Schedule,
    grid: Tensor,
    x0: Tensor,
    noise: Noise,
    *,
    weighting: Weighting = truncated_snr,
    distance: Distance = squared_error,
    **cond: Any,
) -> Tensor:
    """The loss of algorithm 2, ``[batch]``: the student's mean against the target, at a random step of the student's.

    ``grid``: the times that the *teacher* is sampled at, falling, an even number of steps, evenly spaced or not.
    ``x0``: data ``[batch, *event]``. ``cond`` goes to both. In a loss of ``degauss.core.train``::

        def loss(network, x0, noise):
            return distillation_loss(x0_prediction(network, schedule), teacher, schedule, grid, x0, noise)
    """
    coarse = halve(grid)
    steps = len(coarse) - 1
    drawn = noise.uniform(x0.new_empty(len(x0), dtype=torch.float64))
    # A uniform number next to 1 times the steps may round to them.
    chosen = (drawn * steps).long().clamp(max=steps - 1)
    t, s, u = (times.to(x0.device)[chosen] for times in (coarse[:-1], check_grid(grid)[1::2], coarse[1:]))
    alpha, sigma = schedule(t)
    x = expand(alpha, x0) * x0 + expand(sigma, x0) * noise.normal(x0)
    wanted = target(teacher, schedule, x, t, s, u, **cond)
    errors = distance(student(x, t, **cond).mean, wanted)
    return weighting(schedule.log_snr(t)).to(errors.dtype) * errors
