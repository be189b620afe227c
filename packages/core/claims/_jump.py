r"""What the claims on discrete diffusion share: a source of DNA whose entropy is known, and small networks.

The source is a Markov chain of order 2 over four bases: each of the 16 contexts has its own distribution, softmax of
normal numbers of standard deviation 1.5, so that it is far from even. The first two bases are drawn evenly. Its
likelihood is a product, and no model's expected code length is below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from degauss.core import Noise
from degauss.core.jump import Absorbing
from degauss.core.jump.categorical import draw_weighted, uniforms

BASES = 4
PROCESS = Absorbing(BASES)
DOUBLE = torch.float64

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Source:
    """Sequences of ``length`` bases from a Markov chain of order 2."""

    seed: int
    length: int

    @cached_property
    def transitions(self) -> Tensor:
        """p(base | the two before it), ``[16, 4]``."""
        return (1.5 * Noise(3000 + self.seed, (0,)).normal(torch.empty(1, 16, BASES, dtype=DOUBLE))[0]).softmax(-1)

    def draw(self, noise: Noise) -> Tensor:
        """Sequences, one for each of the noise's sample ids, ``[batch, length]``."""
        u = uniforms(noise, torch.empty(len(noise.samples), self.length), 0)
        bases = list((u[:, :2] * BASES).long().unbind(1))
        for position in range(2, self.length):
            context = BASES * bases[-2] + bases[-1]
            bases.append(draw_weighted(self.transitions[context], u[:, position]))
        return torch.stack(bases, 1)

    def nats(self, x: Tensor) -> Tensor:
        """-log p(x), ``[batch]``."""
        contexts = BASES * x[:, :-2] + x[:, 1:-1]
        return 2 * math.log(BASES) - self.transitions.log()[contexts, x[:, 2:]].sum(1)


class Dense(nn.Module):
    """(x ``[batch, length]``, t) -> logits ``[batch, length, 4]``; three layers of 256 units."""

    def __init__(self, length: int) -> None:
        super().__init__()
        sizes = [length * (BASES + 1), 256, 256, 256]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(256, length * BASES))

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        flat = one_hot(x, BASES + 1).float().flatten(1)
        return self.layers(flat).unflatten(1, (x.shape[1], BASES))


class Convolutions(nn.Module):
    """(x ``[batch, length]``, t) -> logits ``[batch, length, 4]``; ``depth`` residual convolutions of width 9."""

    def __init__(self, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(BASES + 1, width)
        dilations = [(1, 1, 4, 16)[i % 4] for i in range(depth)]
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 9, padding=4 * d, dilation=d) for d in dilations)
        self.out = nn.Linear(width, BASES)

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        hidden = self.embed(x).transpose(1, 2)
        for layer in self.layers:
            hidden = hidden + nn.functional.silu(layer(hidden))
        return self.out(hidden.transpose(1, 2))


def made(seed: int, kind: type[N], **options: Any) -> N:
    """A network with the weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(**options)
