"""Search in discrete diffusion: twisted particles are exact in the limit, with their ratio; SVDD climbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from degauss.core import Noise
from degauss.core.claims import Claim, Result
from degauss.core.jump import Absorbing
from degauss.core.jump.oracle import Tabular, ancestral_steps, number_of, sampler_law, sequences
from degauss.core.reward import (
    SMC,
    SVDD,
    Designed,
    Guidance,
    Hardened,
    Method,
    Proposal,
    Proposed,
    ancestral_proposal,
    design,
)

from ._problem import verdict

CLAIM = Claim(
    paper=(
        "Wu et al. 2023, Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (TDS); Li et al. "
        "2024, Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding "
        "(SVDD)"
    ),
    statement=(
        "TDS: particles drawn from guided steps and weighted by value and by the ratio of the plain law to the guided "
        "one are exact as they grow in number, for any guidance, and guidance saves particles. SVDD: keeping, at every "
        "step, one of several proposals by its value raises the reward, without gradients."
    ),
    expected=(
        "On 81 sequences with coupled positions, a reward of pairs (standard deviation 1 under the model), alpha 1/2 "
        "and 4 steps, for every seed, against the law of the sampler itself tilted exactly: (a) 16384 particles of SMC "
        "and of TDS, one group, are within 0.08 of the target in total variation, and at least 3 times nearer than 256 "
        "are (the mean of 8 groups); (b) the estimates of Z from 1000 groups of 8 agree with Z within 4 standard "
        "errors; (c) the spread of these estimates is smaller with guidance; (d) SVDD's mean reward rises from 1 to 2, "
        "8 and 32 proposals. Control: TDS without the ratio must miss Z by 10 standard errors or more."
    ),
)

V, L, STEPS, ALPHA = 3, 4, 4, 0.5
PROCESS = Absorbing(V)
DOUBLE = torch.float64
MANY, FEW, GROUPS, SMALL = 16384, 256, 1000, 8
PROPOSALS = (1, 2, 8, 32)
DESIGNS = 2000
METHODS = ("SMC", "TDS")


@dataclass(frozen=True)
class Problem:
    """A table of sequences and a reward of pairs of positions, with normal couplings."""

    seed: int

    @cached_property
    def denoiser(self) -> Any:
        energy = self._of_pairs(0, _one_hot())
        return Tabular(energy.exp().reshape([V] * L)).denoiser(PROCESS)

    @cached_property
    def law(self) -> Tensor:
        """Of the sampler in its few steps, ``[81]``."""
        start = torch.zeros((V + 1) ** L, dtype=DOUBLE)
        start[-1] = 1
        grid = torch.linspace(1, 0, STEPS + 1, dtype=DOUBLE)
        law = sampler_law(start, ancestral_steps(self.denoiser, PROCESS), V + 1, grid, L)
        return law[number_of(sequences(V, L), V + 1)]

    @cached_property
    def _unit(self) -> float:
        values = self._of_pairs(1, _one_hot())
        return float((self.law @ values**2 - (self.law @ values) ** 2).sqrt())

    def reward(self, weights: Tensor) -> Tensor:
        return self._of_pairs(1, weights.double()) / self._unit

    @cached_property
    def masses(self) -> Tensor:
        """p exp(r / alpha), ``[81]``; their sum is Z."""
        return self.law * (self.reward(_one_hot()) / ALPHA).exp()

    def searched(self, n: int, method: Method, *, guided: bool = False, seed: int = 0, **options: Any) -> Designed:
        guidance = Guidance(self.reward, 1 / ALPHA) if guided else None
        return design(
            self.denoiser,
            PROCESS,
            (n, L),
            Hardened(self.reward, V),
            method=method,
            steps=STEPS,
            guidance=guidance,
            seed=seed,
            **options,
        )

    def _of_pairs(self, draw: int, weights: Tensor) -> Tensor:
        couplings = Noise(7000 + self.seed, (0,)).normal(torch.empty(1, L, V, L, V, dtype=DOUBLE), draw)[0]
        pairs = torch.ones(L, L, dtype=DOUBLE).triu(1)
        return torch.einsum("nia,njb,iajb,ij->n", weights, weights, couplings, pairs)


def _one_hot() -> Tensor:
    return torch.nn.functional.one_hot(sequences(V, L), V).double()


def run(seeds: Sequence[int]) -> Result:
    found = [one(seed) for seed in seeds]
    figures = {name: [values[name] for values in found] for name in found[0]}
    near = {name: figures[f"total variation, {name}, {MANY} particles"] for name in METHODS}
    far = {name: figures[f"total variation, {name}, {FEW} particles"] for name in METHODS}
    rewards = [figures[f"mean reward, SVDD, {count} proposals"] for count in PROPOSALS]
    return Result(
        verdict(
            [
                all(value <= 0.08 for name in METHODS for value in near[name]),
                all(a >= 3 * b for name in METHODS for a, b in zip(far[name], near[name], strict=True)),
                all(abs(value) <= 4 for name in METHODS for value in figures[f"Z of {name}, standard errors off"]),
                all(value < 1 for value in figures["spread of Z, TDS / SMC"]),
                all(a < b for less, more in pairwise(rewards) for a, b in zip(less, more, strict=True)),
            ],
            [all(abs(value) >= 10 for value in figures["Z of TDS without the ratio (control), standard errors off"])],
        ),
        figures,
        notes=(
            f"{L} positions of {V} tokens, {STEPS} even steps; every sequence is enumerated. The value of a state is "
            "the reward of its likeliest completion, and particles are resampled after every step. The distance of a "
            "group is one draw: from one seed to the next it varies about threefold. Rewards of SVDD are means of "
            f"{DESIGNS} designs with alpha {ALPHA}; its distance from the target is reported and not judged, as "
            "nothing makes it exact."
        ),
    )


def one(seed: int) -> dict[str, float]:
    """All figures of one seed."""
    problem = Problem(seed)
    figures: dict[str, float] = {}
    spreads: list[float] = []
    for name, guided in zip(METHODS, (False, True), strict=True):
        for count, repeats in ((FEW, 8), (MANY, 1)):
            runs = [problem.searched(count, SMC(ALPHA, count), guided=guided, seed=i) for i in range(repeats)]
            distances = [distance(problem, run) for run in runs]
            figures[f"total variation, {name}, {count} particles"] = sum(distances) / repeats
        estimates = of_z(problem.searched(SMALL * GROUPS, SMC(ALPHA, SMALL), guided=guided, seed=20))
        figures[f"Z of {name}, standard errors off"] = errors_off(problem, estimates)
        spreads.append(float(estimates.std()))
    figures["spread of Z, TDS / SMC"] = spreads[1] / spreads[0]
    control = problem.searched(SMALL * GROUPS, SMC(ALPHA, SMALL), guided=True, seed=20, proposal=unweighted)
    figures["Z of TDS without the ratio (control), standard errors off"] = errors_off(problem, of_z(control))
    for count in PROPOSALS:
        designs = problem.searched(DESIGNS, SVDD(ALPHA, count), seed=30)
        figures[f"mean reward, SVDD, {count} proposals"] = float(designs.rewards.mean())
        figures[f"total variation, SVDD, {count} proposals"] = distance(problem, designs)
    figures["mean reward, target"] = float(problem.masses @ problem.reward(_one_hot()) / problem.masses.sum())
    return figures


def distance(problem: Problem, found: Designed) -> float:
    """Total variation of the (weighted) designs from the target."""
    weights = torch.ones_like(found.rewards) if found.log_weights is None else found.log_weights.exp()
    law = torch.zeros_like(problem.law).index_add(0, number_of(found.tokens, V), weights)
    return 0.5 * float((law / law.sum() - problem.masses / problem.masses.sum()).abs().sum())


def of_z(found: Designed) -> Tensor:
    """Each small group's estimate of Z."""
    assert found.log_weights is not None
    return found.log_weights.exp().unflatten(0, (-1, SMALL)).mean(1)


def errors_off(problem: Problem, estimates: Tensor) -> float:
    """How far the mean of estimates is from Z, in standard errors."""
    return float((estimates.mean() - problem.masses.sum()) / (estimates.std() / len(estimates) ** 0.5))


def unweighted(denoiser: Any, process: Absorbing, /, *, guide: Any = None) -> Proposal:
    """Guided steps that keep silent about it."""
    proposal = ancestral_proposal(denoiser, process, guide=guide)

    def silent(x: Tensor, t: float, s: float, noise: Noise, draw: int) -> Proposed:
        proposed = proposal(x, t, s, noise, draw)
        return proposed._replace(log_ratio=torch.zeros_like(proposed.log_ratio))

    return silent
