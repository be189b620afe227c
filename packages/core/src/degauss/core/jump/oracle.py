r"""Tabular truth: a joint distribution over short sequences, for which everything about diffusion can be enumerated.

``Tabular`` gives the exact posterior p(x_0^l | x_t) for either process and any times, also one for each position: the
best denoiser there is, so that what a sampler gets wrong is its own doing. ``sampler_law`` pushes a law through the
steps of a sampler exactly, without drawing anything: orders of convergence are read off to many digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.categorical import draw_weighted, is_symbol, uniforms
from degauss.core.jump.process import Process, StepLaw
from degauss.core.jump.rates import Level
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


def sequences(symbols: int, length: int) -> Tensor:
    """All sequences, ``[symbols^length, length]``; the last position changes fastest."""
    one = torch.arange(symbols)
    return torch.cartesian_prod(*[one] * length).reshape(-1, length)


def number_of(x: Tensor, symbols: int) -> Tensor:
    """Where sequences ``[..., length]`` stand among ``sequences``."""
    length = x.shape[-1]
    return (x * symbols ** torch.arange(length - 1, -1, -1, device=x.device)).sum(-1)


@dataclass(frozen=True, eq=False)
class Tabular:
    """Data with a known joint table p(x^1, ..., x^L), ``[V] * L``, nonnegative; normalised here, in float64."""

    table: Tensor

    def __post_init__(self) -> None:
        if len(set(self.table.shape)) != 1 or not bool((self.table >= 0).all()) or not float(self.table.sum()) > 0:
            raise ValueError(f"a joint table is nonnegative, of shape [V] * L, got shape {tuple(self.table.shape)}")

    @property
    def vocabulary(self) -> int:
        return self.table.shape[0]

    @property
    def length(self) -> int:
        return self.table.ndim

    @cached_property
    def sequences(self) -> Tensor:
        """All sequences, ``[V^L, L]``."""
        return sequences(self.vocabulary, self.length)

    @cached_property
    def probabilities(self) -> Tensor:
        """p of each of the ``sequences``, ``[V^L]``."""
        flat = self.table.double().flatten()
        return flat / flat.sum()

    @cached_property
    def _tokens(self) -> Tensor:
        """The sequences one-hot, ``[V^L, L, V]``."""
        return is_symbol(self.sequences, self.vocabulary).double()

    def entropy(self) -> float:
        """-sum p log p, in nats for a sequence."""
        return float(torch.special.entr(self.probabilities).sum())

    def given(self, template: Tensor) -> Tensor:
        """p of each of the ``sequences`` given the tokens of a template ``[L]``, negative where free."""
        agrees = ((self.sequences == template) | (template < 0)).all(1)
        part = self.probabilities * agrees
        return part / part.sum()

    def draw(self, noise: Noise) -> Tensor:
        """Exact samples, one for each of the noise's sample ids, ``[batch, L]``; draw 0 of the noise."""
        u = uniforms(noise, torch.empty(len(noise.samples)), 0)
        return self.sequences[draw_weighted(self.probabilities, u)]

    def denoiser(self, process: Process) -> Denoiser[Categorical]:
        """p(x_0^l = v | x_t) for a process, its times 0-d, ``[batch]`` or ``[batch, length]``."""
        return partial(self._posterior, process)

    def _posterior(self, process: Process, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        del cond
        evidence = process.evidence(x, t)
        joint = self.probabilities * torch.einsum("blv,nlv->bnl", evidence, self._tokens).prod(-1)
        marginal = torch.einsum("bn,nlv->blv", joint, self._tokens)
        return Categorical((marginal / marginal.sum(-1, keepdim=True)).log())


def sampler_law(law: Tensor, step: StepLaw, symbols: int, grid: Tensor, length: int) -> Tensor:
    """The law over all ``sequences(symbols, length)`` after a sampler's steps, from ``law`` at grid[0]; float64."""
    states = sequences(symbols, length)
    times = grid.tolist()
    for t, s in pairwise(times):
        law = law @ joint_of(step(states, t, s))
    return law


def joint_of(marginals: Tensor) -> Tensor:
    """The joint of independent positions: ``[batch, length, symbols]`` -> ``[batch, symbols^length]``."""
    joint = marginals[:, 0]
    for position in range(1, marginals.shape[1]):
        joint = (joint[:, :, None] * marginals[:, position, None, :]).flatten(1)
    return joint


def ancestral_steps(denoiser: Denoiser[Categorical], process: Process) -> StepLaw:
    """The steps of ``ancestral``."""

    def step(x: Tensor, t: float, s: float) -> Tensor:
        late, early = torch.tensor([t, s], dtype=torch.float64)
        return process.reverse(denoiser(x, late), x, early, late)

    return step


def leaping_steps(denoiser: Denoiser[Categorical], process: Process) -> StepLaw:
    """The steps of ``tau_leaping``, the one that ends at t = 0 included."""
    exact = ancestral_steps(denoiser, process)

    def step(x: Tensor, t: float, s: float) -> Tensor:
        if s == 0:
            return exact(x, t, s)
        late = torch.tensor(t, dtype=torch.float64)
        return process.leap(denoiser(x, late), x, Level(*process.rates(late)), t - s)

    return step
