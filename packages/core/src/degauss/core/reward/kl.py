r"""How far a fine-tuned masked process has gone from the pretrained one, along a trajectory, and its gradient.

Both restore a masked position with the same probability, 1 - gone_s / gone_t between the times t and s < t, whatever
the tokens are. They differ in what they put there. So the relative entropy of their path laws is, exactly for ancestral
steps and in the limit of many of them for the continuous-time process,

    KL(P_theta || P_pre) = E_theta sum_steps D(x_t),
    D(x_t) = sum_i [x_t^i masked] (1 - gone_s / gone_t) KL(p_theta^i(. | x_t) || p_pre^i(. | x_t)).

(On the log-linear schedule the factor is (t - s) / t.) It bounds the relative entropy of the sequences that come out.

**Its gradient has two terms.** Theta also decides which states are visited:

    grad E sum_k D(x_k) = E sum_k grad D(x_k) + E sum_k grad log P_theta(x_{k+1} | x_k) sum_{j > k} D(x_j).

Differentiating D on sampled states gives the first term alone. ``path_term`` is the second.

**The published form** (``published_divergence``, a control) has the weights the wrong way round: 1 - mask in place of
mask, so that it is zero on every hard step, and wherever a token has become the likeliest symbol of a soft one.

A state is weights ``[batch, length, V + 1]`` over tokens and the mask, one-hot where it is hard.

References: Wang et al. 2024, "Fine-Tuning Discrete Diffusion Models via Reward Optimization with Applications to DNA
and Protein Design" (DRAKES), and its released code; Kleijnen and Rubinstein 1996 (the score function).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from degauss.core.jump.absorbing import carry_over

Divergence = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
"""(logits, reference logits ``[batch, length, V]``, state, gone_t, gone_s) -> nats of the step, ``[batch]`` float64."""


def step_divergence(logits: Tensor, reference: Tensor, weights: Tensor, late: float, early: float) -> Tensor:
    """D(x_t) of a step from gone_t = ``late`` to gone_s = ``early``, ``[batch]`` in nats; >= 0.

    ``logits``, ``reference``: of the fine-tuned and the pretrained model, ``[batch, length, V]``. ``weights``: the
    state, whose masked mass counts. Tokens that both rule out count nothing.
    """
    masked = weights[..., -1].double()
    return (1 - early / late) * (masked * token_divergence(logits, reference)).sum(-1)


def token_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(p_theta || p_pre) of each position, float64; infinite where theta allows what the reference rules out."""
    log_p, log_q = logits.double().log_softmax(-1), reference.double().log_softmax(-1)
    never = log_p == float("-inf")
    # Filled before the product: neither it nor its gradient may meet 0 times infinity.
    ratio = log_p.masked_fill(never, 0.0) - log_q.masked_fill(never, 0.0)
    return (log_p.exp() * ratio).sum(-1)


def published_divergence(logits: Tensor, reference: Tensor, weights: Tensor, late: float, early: float) -> Tensor:
    """The divergence of the released code, ``[batch]``; a control, not a divergence of anything.

    sum_i (1 - m_i) / gone_t sum_v x_i^v (q_v - p_v + p_v log(p_v / q_v)), with p and q certain of every position whose
    likeliest symbol is a token.
    """
    del early
    vocabulary = logits.shape[-1]
    likeliest = weights.argmax(-1)
    log_p, log_q = (carry_over(part.double().log_softmax(-1), likeliest, vocabulary) for part in (logits, reference))
    p, q = log_p.exp(), log_q.exp()
    never = log_p == float("-inf")
    ratio = log_p.masked_fill(never, 0.0) - log_q.masked_fill(never, 0.0)
    terms = (1 - weights[..., -1:].double()) * (q - p + p * ratio) * weights[..., :-1].double()
    return terms.sum((-1, -2)) / late


def log_transition(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """log P_theta(x_s | x_t) of hard states up to a constant, ``[batch]``: the log-probability of what was restored."""
    restored = (before[..., -1] > 0.5) & (after[..., -1] < 0.5)
    tokens = after[..., :-1].argmax(-1)
    chosen = logits.double().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return torch.where(restored, chosen, torch.zeros_like(chosen)).sum(-1)


def leave_one_out(values: Tensor) -> Tensor:
    """Each value less the mean of the others, over the last dimension: a baseline that depends on no value of its own.

    It keeps a score-function estimate unbiased (Kool et al. 2019). Raises ValueError for fewer than two values.
    """
    count = values.shape[-1]
    if count < 2:
        raise ValueError(f"a baseline from the other samples takes at least two samples, got {count}")
    return (values - values.mean(-1, keepdim=True)) * (count / (count - 1))


def path_term(log_prob: Tensor, cost: Tensor) -> Tensor:
    """What gives E sum of costs the second term of its gradient, and adds nothing to its value: ``[batch]``, all 0.

    ``log_prob``: log P_theta(x_{k+1} | x_k), with a graph, ``[steps, batch]``. ``cost``: D(x_k), ``[steps, batch]``;
    taken as constants. Costs to come are compared with those of the batch's other samples (``leave_one_out``).
    """
    total = cost.detach().flip(0).cumsum(0).flip(0)
    advantage = leave_one_out(total - cost.detach())
    term = (log_prob * advantage).sum(0)
    return term - term.detach()
