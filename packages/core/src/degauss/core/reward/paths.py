r"""Hard trajectories of masked diffusion and their probability: exact samples, and what they cost in nats.

A trajectory is the order in which positions are restored, drawn without the model, and the tokens that they are given:

    log P_theta(path) = const + sum_events sum_{i restored} log p_theta^i(x_0^i | x at the event),

with a constant that no model enters. So the ratio of two models' path laws is known to the last digit, where that of
the sequences themselves is a sum over all orders. Only steps that restore something are evaluated (``jump.skipping``):
at most as many as there are positions, whatever the number of steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from degauss.core.errors import check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward, path_of, shares_of
from degauss.core.jump.categorical import draw
from degauss.core.jump.skipping import agenda_of
from degauss.core.noise import Noise
from degauss.core.reward.relaxed import SoftNetwork


class Path(NamedTuple):
    """Sampled trajectories: the sequences ``tokens`` ``[batch, length]`` that they end in, and their log-probability.

    ``log_prob``: under the model that they were drawn from, with its graph; ``log_reference``: under the reference,
    without one. Float64 ``[batch]``, both up to the same constant.
    """

    tokens: Tensor
    log_prob: Tensor
    log_reference: Tensor


def draw_path(
    network: SoftNetwork,
    reference: SoftNetwork,
    process: Absorbing,
    x: Tensor,
    noise: Noise,
    *,
    steps: int,
    checkpointing: bool = False,
) -> Path:
    """Ancestral trajectories of ``network`` on an even grid of ``steps``, with their probability under both models.

    ``x``: tokens ``[batch, length]``, masks where something is to be drawn. ``checkpointing``: recompute each
    evaluation in the backward pass, so that what is held hardly grows with their number. Raises
    `InputError` for ``steps`` < 1, FloatingPointError where the network's answer is no distribution.
    """
    check_range("steps", steps, 1)
    shares = shares_of(process, backward(torch.linspace(1, 0, steps + 1, dtype=torch.float64))).to(x.device)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=x.device)
    path = path_of(noise, x)
    # Restored in the first step whose share is not above the level.
    restored = torch.searchsorted(-shares[1:], -path.level)
    agenda = agenda_of(restored, times.__getitem__, x == process.mask, path.choice)
    zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_prob, log_reference = zero, zero

    def ask(model: SoftNetwork, state: Tensor, i: int) -> Tensor:
        t = agenda.times[:, i].to(torch.get_default_dtype())
        return model(state, t)[..., : process.vocabulary].double().log_softmax(-1)

    for i in range(len(agenda.active)):
        state, now = x, agenda.event == i
        recomputed = checkpointing and torch.is_grad_enabled()
        log_p = checkpoint(ask, network, state, i, use_reentrant=False) if recomputed else ask(network, state, i)
        assert isinstance(log_p, Tensor)
        tokens = draw(log_p.detach(), path.choice)
        x = torch.where(now, tokens, state)
        with torch.no_grad():
            log_q = ask(reference, state, i)
        log_prob = log_prob + _chosen(log_p, tokens, now)
        log_reference = log_reference + _chosen(log_q, tokens, now)
    if bool((x >= process.vocabulary).any()):
        raise FloatingPointError("a position got no token: the network's logits have NaN or +inf")
    return Path(x, log_prob, log_reference)


def _chosen(log_prob: Tensor, tokens: Tensor, now: Tensor) -> Tensor:
    """The log-probability of the tokens of some positions, summed, ``[batch]``."""
    chosen = log_prob.gather(-1, tokens.clamp(max=log_prob.shape[-1] - 1)[..., None])[..., 0]
    return torch.where(now, chosen, torch.zeros_like(chosen)).sum(-1)
