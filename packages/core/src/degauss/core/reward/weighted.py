r"""Reward fine-tuning as maximum likelihood on weighted samples.

The tilted target p* ~ p_pre exp(r / alpha) is known up to a factor, so samples of any model that covers it can be
weighted to stand for it, and a masked diffusion model is trained on them as on data:

    minimise  sum_n w_n bound(x_n),        w_n ~ exp(r(x_n) / alpha) P_pre(path_n) / P_proposal(path_n).

With samples of the pretrained model the ratio is 1 and the weights are softmax(r / alpha). No gradient passes through
the reward or a trajectory. Where the target is far away few samples carry all the weight (``effective_size``), so there
may be *rounds*: each draws from the model of the round before, which has the ratio of ``paths`` to pay for and gets
nearer. Every round has the same target, and its fixed point is the model of p* itself.

Training draws from the pool by its weights, with replacement.

References: Su et al. 2025, "Iterative Distillation for Reward-Guided Fine-Tuning of Diffusion Models in Biomolecular
Design" (VIDD); Peters and Schaal 2007 (reward-weighted regression); Bornschein and Bengio 2015 (re-weighting a model's
own samples).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range
from degauss.core.jump.absorbing import Absorbing, Subs
from degauss.core.jump.categorical import uniforms
from degauss.core.jump.infill import FREE, check_template
from degauss.core.jump.losses import any_order, weyl
from degauss.core.noise import Noise
from degauss.core.reward.finetuning import frozen
from degauss.core.reward.paths import draw_path
from degauss.core.reward.relaxed import SoftNetwork
from degauss.core.reward.reward import Reward
from degauss.core.train import TrainConfig, Trained, train

_ROWS_AT_ONCE = 1 << 12


class Pool(NamedTuple):
    """Sequences ``[n, length]`` and the logarithms of their weights, float64 ``[n]``, up to a constant."""

    tokens: Tensor
    log_weight: Tensor

    @property
    def probability(self) -> Tensor:
        """The weights, summing to 1."""
        return torch.softmax(self.log_weight, 0)

    @property
    def effective_size(self) -> float:
        """1 / sum w^2: how many samples of the target the pool is worth, from 1 to n (Kong 1992)."""
        return float(1 / self.probability.square().sum())


def draw_pool(
    network: SoftNetwork,
    pretrained: SoftNetwork,
    process: Absorbing,
    start: Tensor,
    reward: Reward,
    *,
    alpha: float,
    size: int,
    steps: int,
    seed: int,
) -> Pool:
    """``size`` sequences of ``network``, weighted to stand for the pretrained model tilted by the reward.

    ``start``: tokens ``[length]``, masks where something is to be drawn. ``alpha`` > 0: reward units for a nat.
    """
    parts: list[Pool] = []
    with torch.inference_mode():
        for first in range(0, size, _ROWS_AT_ONCE):
            rows = range(first, min(first + _ROWS_AT_ONCE, size))
            x = start.expand(len(rows), -1)
            path = draw_path(network, pretrained, process, x, Noise(seed, rows), steps=steps)
            log_weight = reward(path.tokens).double() / alpha + path.log_reference - path.log_prob
            parts.append(Pool(path.tokens, log_weight))
    return Pool(*(torch.cat(column).clone() for column in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Resampled:
    """Data of a training run: each sample number draws a sequence of the pool by its weight."""

    pool: Pool
    seed: int

    def __call__(self, samples: Sequence[int]) -> Tensor:
        cumulative = self.pool.probability.cumsum(0)
        u = uniforms(Noise(self.seed, samples), torch.empty(len(samples), device=cumulative.device), 0)
        return self.pool.tokens[torch.searchsorted(cumulative / cumulative[-1], u, right=True)]


@dataclass(frozen=True)
class WeightedConfig:
    """How weighted maximum likelihood is run. Raises `InputError` for a value out of its range."""

    alpha: float
    """Reward units for a nat, > 0."""
    pool: int = 1 << 14
    """Sequences drawn and scored in a round."""
    rounds: int = 1
    """How often they are drawn: from the pretrained model first, then from the last round's."""
    steps: int = 1024
    """Of the ancestral grid that they are drawn on."""

    def __post_init__(self) -> None:
        for name in ("pool", "rounds", "steps"):
            check_range(name, getattr(self, name), 1)
        if not 0 < self.alpha < math.inf:
            raise InputError(f"alpha must be above 0, but is {self.alpha}.")


def weighted_loss(process: Absorbing, network: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
    """The any-order bound on -log p(x0), ``[batch]``."""
    return any_order(Subs(network, process), process, x0, noise, times=weyl)


def finetune_weighted(
    network: nn.Module,
    process: Absorbing,
    template: Tensor,
    reward: Reward,
    config: WeightedConfig,
    training: TrainConfig,
    *,
    resume: bool = True,
) -> Trained:
    """Fine-tune ``network`` in place; it holds the pretrained weights when called, also where a run is resumed.

    Each round is a run of ``training`` in a folder of its own, ``round-1``, ... below ``training.out``, and starts with
    the weights that the one before ended with (the average where one is kept). A round that is finished is not run
    again. ``template``: ``[length]``, the tokens that are given, ``FREE`` elsewhere.
    """
    pretrained = frozen(network)
    given = check_template(template, (1, len(template)), process.vocabulary)[0]
    start = torch.where(given == FREE, process.mask, given)
    trained = None
    for number in range(1, config.rounds + 1):
        device = next(network.parameters()).device
        pool = draw_pool(
            network.eval(),
            pretrained.to(device),
            process,
            start.to(device),
            reward,
            alpha=config.alpha,
            size=config.pool,
            steps=config.steps,
            seed=Noise(training.seed, ()).fork(number).seed,
        )
        pool = Pool(pool.tokens.cpu(), pool.log_weight.cpu())
        run = replace(training, out=training.out / f"round-{number}")
        trained = train(network, partial(weighted_loss, process), Resampled(pool, training.seed), run, resume=resume)
        network.load_state_dict(trained.weights)
    assert trained is not None
    return trained
