"""What the exactness claim needs: a masked diffusion model of GB1's four sites, and a reward fitted to its fitness.

All 20^4 variants are enumerable, and so are the 21^4 states of a denoiser, hence the distribution of a fine-tuned model
and the target it should have. The model has learnt variants that are worse than the wild type or as good; the reward is
a small network's prediction of log10 fitness, fitted to half of these. The audit is about that reward: it
asks whether an optimiser reaches what it aims at, not whether the aim is good.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from degauss.bio.alphabets import PROTEIN
from degauss.bio.datasets import gb1
from degauss.core.jump import FREE, Absorbing, Subs, any_order, weyl
from degauss.core.jump.categorical import is_symbol
from degauss.core.jump.oracle import sequences
from degauss.core.noise import Noise
from degauss.core.reward.audit import Target, enumerate_law, tilted
from degauss.core.reward.reward import Hardened

M = TypeVar("M", bound=nn.Module)

LENGTH, TOKENS = 4, 20
PROCESS = Absorbing(TOKENS)
TEMPLATE = torch.full((LENGTH,), FREE)
WORST, WILD_TYPE = 0.05, 1.0
HIDDEN, REWARD_HIDDEN = 256, 64
PRETRAINING, FITTING = 3000, 1500
BATCH = 256


class Net(nn.Module):
    """Logits ``[batch, 4, 20]`` of tokens ``[batch, 4]`` or weights ``[batch, 4, 21]``, whatever the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LENGTH * (TOKENS + 1), HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, LENGTH * TOKENS),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        del t
        weights = x if x.is_floating_point() else is_symbol(x, TOKENS + 1).to(torch.get_default_dtype())
        return self.layers(weights.flatten(1)).unflatten(1, (LENGTH, TOKENS))


class Fitness(nn.Module):
    """The predicted log10 of fitness, ``[batch]``, of weights ``[batch, 4, 20]``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LENGTH * TOKENS, REWARD_HIDDEN), nn.SiLU(), nn.Linear(REWARD_HIDDEN, 1))

    def forward(self, weights: Tensor) -> Tensor:
        return self.layers(weights.flatten(1))[:, 0]


class Measured(NamedTuple):
    """All measured variants: tokens ``[n, 4]`` and fitness ``[n]`` with the wild type at 1."""

    tokens: Tensor
    fitness: Tensor


@cache
def measured() -> Measured:
    variants = gb1()
    tokens = PROTEIN.encode([variant.sequence for variant in variants])
    return Measured(tokens, torch.tensor([variant.fitness for variant in variants]))


class Problem(NamedTuple):
    """A pretrained network, a reward, and what follows from both at a temperature alpha."""

    network: Net
    reward: Fitness
    hard_reward: Hardened
    target: Target


def seeded(make: Callable[[], M], seed: int) -> M:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make()


def pretrained(seed: int) -> Net:
    """The masked diffusion model of the variants of fitness 0.05 to 1."""
    tokens, fitness = measured()
    data = tokens[(fitness >= WORST) & (fitness <= WILD_TYPE)]
    network = seeded(Net, seed)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PRETRAINING)
    for step in range(PRETRAINING):
        rows = range(step * BATCH, (step + 1) * BATCH)
        chosen = Noise(1000 + seed, rows).uniform(torch.empty(BATCH, dtype=torch.float64)) * len(data)
        x0 = data[chosen.long()]
        optimizer.zero_grad()
        any_order(Subs(network, PROCESS), PROCESS, x0, Noise(seed, rows), times=weyl).mean().backward()
        optimizer.step()
        decay.step()
    return network.requires_grad_(False)


def fitted(seed: int) -> tuple[Fitness, float]:
    """A reward fitted to half of the variants up to fitness 1, and its rank correlation on the other half."""
    from scipy import stats

    tokens, fitness = measured()
    low = (fitness <= WILD_TYPE) & (fitness >= WORST)
    tokens, fitness = tokens[low], fitness[low]
    half = Noise(2000 + seed, range(len(tokens))).uniform(torch.empty(len(tokens))) < 0.5
    weights = is_symbol(tokens, TOKENS).float()
    wanted = fitness.log10()
    network = seeded(Fitness, 100 + seed)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.1)
    learnt, labels = weights[half], wanted[half]
    for step in range(FITTING):
        rows = range(step * BATCH, (step + 1) * BATCH)
        chosen = (Noise(3000 + seed, rows).uniform(torch.empty(BATCH, dtype=torch.float64)) * len(learnt)).long()
        optimizer.zero_grad()
        (network(learnt[chosen]) - labels[chosen]).square().mean().backward()
        optimizer.step()
    network.requires_grad_(False)
    found: Any = stats.spearmanr(network(weights[~half]), wanted[~half])
    return network, float(found.statistic)


def law(network: Net) -> Tensor:
    """The exact distribution over all variants, ``[160000]``."""
    with torch.no_grad():
        return enumerate_law(Subs(network, PROCESS), PROCESS, LENGTH).probability


def problem(network: Net, reward: Fitness, alpha: float) -> Problem:
    hard = Hardened(reward, TOKENS)
    with torch.no_grad():
        return Problem(network, reward, hard, tilted(law(network), hard(sequences(TOKENS, LENGTH)), alpha))
