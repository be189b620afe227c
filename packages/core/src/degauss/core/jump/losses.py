r"""Training losses and likelihood bounds of jump processes: one number a sample, in nats for the whole sequence.

For absorbing corruption the negative evidence bound in continuous time is (Sahoo et al. 2024)

    -log p(x_0) <= int_0^1 restoring(t) E_{x_t} sum_{masked l} -log p(x_0^l | x_t) dt,      restoring = slope / gone.

On the clock lambda = gone(t) it is

    int_0^1 1/lambda E sum_{masked} -log p dlambda = E_k L/k E sum_{k masked} -log p,          k uniform on 1, ..., L,

whatever the schedule: the left is ``lambda_dce``, the right the expected loss of an any-order autoregressive model
(``any_order``; Hoogeboom et al. 2022; Ou et al. 2024). Each is an unbiased estimate of one number, for any
denoiser that ignores t, however wrong. They differ in variance.

``uniform_elbo`` is the same bound for uniform corruption (Schiff et al. 2024, UDLM): the relative entropy of the
reverse process given x_0 to the model's, per unit of time,

    beta / V sum_{j != x_t} [ r_j - q_j + q_j log(q_j / r_j) ],

where q_j = q(j | x_0) / q(x_t | x_0) and r_j is its average over p(x_0 | x_t).

The bounds assume alpha(1) = 0; what a schedule keeps at t = 1 adds a term that no loss here has.

Times come from ``Times``, one uniform number a sample: ``independent``, or ``weyl`` for numbers that spread evenly over
the samples of a batch and of the next ones without asking what the batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward
from degauss.core.jump.categorical import is_symbol, uniforms
from degauss.core.jump.uniform import Uniform
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

Times = Callable[[Noise, torch.device], Tensor]
"""Uniform numbers in (0, 1), one for each sample of the noise, float64 ``[batch]`` on a device."""

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_CORRUPTION = 1  # the draw that corrupts; draw 0 makes the times


def independent(noise: Noise, device: torch.device) -> Tensor:
    """Draw 0 of the noise."""
    return noise.uniform(torch.empty(len(noise.samples), dtype=torch.float64, device=device), 0)


def weyl(noise: Noise, device: torch.device) -> Tensor:
    """The Weyl sequence frac(shift + id / golden ratio), whose shift depends on the seed and nothing else.

    Consecutive sample ids, as a training run's are, cover (0, 1) with gaps of order 1/batch, like the stratified
    times of Kingma et al. 2021; but a sample's time depends on its id alone. Over seeds each is uniform.
    """
    shift = int(Noise(noise.seed, (0,)).fork(0).uniform(torch.empty(1, dtype=torch.float64)).item() * 2**64)
    ids = np.asarray(_words(noise.samples), dtype=np.uint64)
    # Modulo 2^64 in integers: a large id costs no digits.
    turned = ids * np.uint64(_GOLDEN) + np.uint64(shift)
    return torch.from_numpy(((turned >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52).to(device)


def _words(samples: Sequence[int]) -> Sequence[int]:
    return samples if isinstance(samples, range) else [sample % 2**64 for sample in samples]


def elbo(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    x0: Tensor,
    noise: Noise,
    *,
    times: Times = independent,
    **cond: Any,
) -> Tensor:
    """The continuous-time bound at one time a sample, ``[batch]``; x0: tokens ``[batch, length]``."""
    t = times(noise, x0.device)
    x = process.corrupt(x0, t, noise, _CORRUPTION)
    return process.rates(t).restoring * _masked_nats(denoiser, process, x, x0, t, cond)


def lambda_dce(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    x0: Tensor,
    noise: Noise,
    *,
    times: Times = independent,
    **cond: Any,
) -> Tensor:
    """The bound at one share of masks lambda a sample, uniform on (0, 1), weighted by 1/lambda: ``[batch]``.

    RADD's lambda-DCE (Ou et al. 2024). The denoiser is told the time at which the schedule has that share.
    """
    share = times(noise, x0.device)
    x = x0.masked_fill(uniforms(noise, x0, _CORRUPTION) < share[:, None], process.mask)
    return _masked_nats(denoiser, process, x, x0, process.rates.time(share), cond) / share


def any_order(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    x0: Tensor,
    noise: Noise,
    *,
    times: Times = independent,
    **cond: Any,
) -> Tensor:
    """The bound at one number of masks k a sample, uniform on 1, ..., L, weighted by L/k: ``[batch]``.

    Any-order autoregression, RADD's k-DCE (Hoogeboom et al. 2022; Ou et al. 2024). There is always a mask to learn
    from. The denoiser is told the time at which the schedule masks k of L in the mean.
    """
    length = x0.shape[1]
    count = (times(noise, x0.device) * length).floor() + 1
    rank = uniforms(noise, x0, _CORRUPTION).argsort(1).argsort(1)
    x = x0.masked_fill(rank < count[:, None], process.mask)
    share = count / length
    return _masked_nats(denoiser, process, x, x0, process.rates.time(share), cond) / share


def discrete_elbo(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    x0: Tensor,
    noise: Noise,
    *,
    grid: Tensor,
    times: Times = independent,
    **cond: Any,
) -> Tensor:
    """The bound of ancestral sampling on a grid (Sahoo et al. 2024), at one step a sample: ``[batch]``.

    ``grid``: N + 1 times falling from 1 to 0. Restoring independent positions together loses likelihood, so it is above
    the continuous bound, and falls to it as 1/N.
    """
    grid = backward(grid)
    steps = len(grid) - 1
    gone = process.rates(grid).gone
    weight = (steps * (gone[:-1] - gone[1:]) / gone[:-1]).to(x0.device)
    step = (times(noise, x0.device) * steps).long()
    t = grid.to(x0.device)[step]
    x = process.corrupt(x0, t, noise, _CORRUPTION)
    return weight[step] * _masked_nats(denoiser, process, x, x0, t, cond)


def uniform_elbo(
    denoiser: Denoiser[Categorical],
    process: Uniform,
    x0: Tensor,
    noise: Noise,
    *,
    times: Times = independent,
    **cond: Any,
) -> Tensor:
    """The continuous-time bound of uniform corruption at one time a sample, ``[batch]``.

    x0: tokens ``[batch, length]``. Computed in float64, from the denoiser's posterior p(x_0 | x_t) (see ``Context`` for
    networks that predict from the other positions).
    """
    t = times(noise, x0.device)
    x = process.corrupt(x0, t, noise, _CORRUPTION)
    return uniform_rate_divergence(denoiser(x, t, **cond), process, x, x0, t).sum(1)


def uniform_rate_divergence(posterior: Categorical, process: Uniform, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """The integrand of the uniform bound for each position, ``[batch, length]``, in nats per unit of time."""
    others = ~is_symbol(x, process.vocabulary)
    likelihood = process.evidence(x, t).log()
    level = process.rates(t)
    log_weight = posterior.logits.double().log_softmax(-1) - likelihood
    alpha, share = (value.log().reshape(-1, 1, 1) for value in (level.alpha, level.gone / process.vocabulary))
    model = torch.logaddexp(alpha + log_weight, share + log_weight.logsumexp(-1, keepdim=True))
    # q(j | x_0) / q(x_t | x_0): one symmetric matrix, read in two places.
    truth = process.evidence(x0, t).log() - likelihood.gather(-1, x0[..., None])
    divergence = model.exp() - truth.exp() + truth.exp() * (truth - model)
    total = (divergence * others).sum(-1)
    return total * level.rate.reshape(-1, 1) / process.vocabulary


def _masked_nats(
    denoiser: Denoiser[Categorical], process: Absorbing, x: Tensor, x0: Tensor, t: Tensor, cond: dict[str, Any]
) -> Tensor:
    """sum over masked positions of -log p(x_0 | x_t), float64 ``[batch]``."""
    logits = denoiser(x, t, **cond).logits
    chosen = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    nats = -chosen.log_softmax(-1).gather(-1, x0[..., None])[..., 0]
    # Selected, not multiplied: an infinity at a position that is not masked must not become a NaN.
    return torch.where(x == process.mask, nats, torch.zeros_like(nats)).sum(1).double()
