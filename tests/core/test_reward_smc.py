"""Particles: what they estimate without bias, against the exact tilted law; and a control that must be biased."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing
from degauss.core.jump.automaton import Automaton
from degauss.core.jump.oracle import Tabular, ancestral_steps, number_of, sampler_law, sequences
from degauss.core.posterior import Categorical
from degauss.core.reward import (
    SMC,
    Designed,
    Drawn,
    Guidance,
    Hardened,
    Proposal,
    Proposed,
    ancestral_proposal,
    design,
)
from degauss.core.reward.constrained import constrained_proposal
from degauss.core.reward.smc import effective_size, systematic

DOUBLE = torch.float64
V, L, STEPS, ALPHA = 3, 3, 3, 1.0
PROCESS = Absorbing(V)
REWARDS = Noise(6, (0,)).normal(torch.empty(1, V**L, dtype=DOUBLE))[0]


def soft(weights: Tensor) -> Tensor:
    """A table of rewards as a polynomial of the weights."""
    a, b, c = weights.double().unbind(1)
    return torch.einsum("na,nb,nc,abc->n", a, b, c, REWARDS.reshape(V, V, V))


REWARD = Hardened(soft, V)


def table() -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


DENOISER = table().denoiser(PROCESS)


def sampled_law() -> Tensor:
    """p of the sampler in its few steps, ``[27]``: not that of the table, which is part of the truth to be met."""
    start = torch.zeros((V + 1) ** L, dtype=DOUBLE)
    start[-1] = 1
    grid = torch.linspace(1, 0, STEPS + 1, dtype=DOUBLE)
    law = sampler_law(start, ancestral_steps(DENOISER, PROCESS), V + 1, grid, L)
    return law[number_of(sequences(V, L), V + 1)]


def masses() -> Tensor:
    """p exp(r / alpha), not normalised: ``[27]``."""
    return sampled_law() * (REWARDS / ALPHA).exp()


def searched(n: int, method: SMC, **options: Any) -> Designed:
    return design(DENOISER, PROCESS, (n, L), REWARD, method=method, steps=STEPS, **options)


def moments(weights: Tensor, tokens: Tensor) -> Tensor:
    """The weight of each token at each position, and of all, ``[groups, 10]``: of ``[groups, n]``, ``[.., n, L]``."""
    at = torch.nn.functional.one_hot(tokens, V).to(DOUBLE).flatten(2)
    return torch.cat([torch.einsum("gn,gnk->gk", weights, at), weights.sum(1, keepdim=True)], 1)


def deviations(found: Designed, particles: int, truth: Tensor | None = None) -> Tensor:
    """How far the groups' mean estimates of moments of p exp(r / alpha) are from the truth, in standard errors."""
    weights = weights_of(found).unflatten(0, (-1, particles)) / particles
    each = moments(weights, found.tokens.unflatten(0, (-1, particles)))
    exact = moments((masses() if truth is None else truth)[None], sequences(V, L)[None])[0]
    error = each.std(0) / len(each) ** 0.5
    # A moment that is 0 must be found to be 0.
    return torch.where((exact == 0) & (error == 0), 0.0, (each.mean(0) - exact) / error)


def weights_of(found: Designed) -> Tensor:
    assert found.log_weights is not None
    return found.log_weights.exp()


def guidance() -> Guidance:
    return Guidance(soft, 1 / ALPHA)


CASES: dict[str, tuple[SMC, dict[str, Any]]] = {
    "every step": (SMC(ALPHA, 8), {}),
    "when uneven": (SMC(ALPHA, 8, resample_below=0.5), {}),
    "never": (SMC(ALPHA, 8, resample_below=0.0), {}),
    "twisted": (SMC(ALPHA, 8), {"guidance": guidance()}),
    "twisted, when uneven": (SMC(ALPHA, 8, resample_below=0.6), {"guidance": guidance()}),
    "other values": (SMC(ALPHA, 8, completion=Drawn(2)), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_weighted_particles_estimate_the_tilted_law_without_bias(name: str) -> None:
    """Its marginals and Z, over 800 groups of a few particles; with any rule, proposal and value."""
    method, options = CASES[name]
    assert float(deviations(searched(8 * 800, method, seed=1, **options), 8).abs().max()) < 4


def unweighted(denoiser: Any, process: Absorbing, /, *, guide: Any = None) -> Proposal:
    """The control: guided steps that do not say so."""
    proposal = ancestral_proposal(denoiser, process, guide=guide)

    def silent(x: Tensor, t: float, s: float, noise: Noise, draw: int) -> Proposed:
        proposed = proposal(x, t, s, noise, draw)
        return proposed._replace(log_ratio=torch.zeros_like(proposed.log_ratio))

    return silent


def test_without_the_ratio_the_twisted_sampler_is_biased() -> None:
    found = searched(8 * 600, SMC(ALPHA, 8), seed=1, guidance=guidance(), proposal=unweighted)
    assert float(deviations(found, 8)[-1].abs()) > 10


@pytest.mark.parametrize("guided", [False, True])
def test_constraints_compose(guided: bool) -> None:
    """Steps that keep to a language, here sequences in which a 2 is followed by a 0, towards p exp(r / alpha) in it."""
    rule = Automaton(np.array([[0, 0, 1], [0, -1, -1]]), np.array([True, False]))
    lattice = rule.lattice(L)
    proposal = partial(constrained_proposal, lattice=lattice)
    method = SMC(ALPHA, 8, resample_below=0.7)
    found = searched(8 * 800, method, proposal=proposal, guidance=guidance() if guided else None)
    accepted = lattice.accepts(sequences(V, L))
    assert 1 < int(accepted.sum()) < 14
    assert bool(lattice.accepts(found.tokens).all())
    assert float(deviations(found, 8, masses() * accepted).abs().max()) < 4


def distance(particles: int, guided: bool) -> float:
    """In total variation, of the particles' weighted law from the tilted one."""
    found = searched(particles, SMC(ALPHA, particles), seed=3, guidance=guidance() if guided else None)
    law = torch.zeros(V**L, dtype=DOUBLE).index_add(0, number_of(found.tokens, V), weights_of(found))
    return 0.5 * float((law / law.sum() - masses() / masses().sum()).abs().sum())


@pytest.mark.parametrize("guided", [False, True])
def test_many_particles_have_the_tilted_law(guided: bool) -> None:
    assert distance(20_000, guided) < 0.02
    assert distance(50, guided) > 0.2
    assert float((sampled_law() - masses() / masses().sum()).abs().sum() / 2) > 0.4


def test_guidance_saves_particles() -> None:
    """With a reward whose gradient says what it is, groups agree better on Z."""

    def spread(options: dict[str, Any]) -> float:
        found = searched(8 * 300, SMC(ALPHA, 8, resample_below=0.0), seed=2, **options)
        return float(weights_of(found).unflatten(0, (-1, 8)).mean(1).std())

    assert spread({"guidance": Guidance(soft, 0.7 / ALPHA)}) < 0.8 * spread({})


def test_a_group_does_not_depend_on_other_groups() -> None:
    ids = [7, 3, 8, 2, 0, 1, 5, 4, 6, 9, 11, 10]
    for options in ({}, {"guidance": guidance()}):
        method = SMC(ALPHA, 4, resample_below=0.7)
        whole = searched(12, method, samples=ids, **options)
        part = searched(4, method, samples=ids[4:8], **options)
        assert torch.equal(part.tokens, whole.tokens[4:8])
        torch.testing.assert_close(weights_of(part), weights_of(whole)[4:8])
        assert part.survivors[0] == whole.survivors[1]


def test_reports_are_exact() -> None:
    """Rewards are those of the tokens; one evaluation and one score a particle and step; ancestors counted."""
    found = searched(32, SMC(ALPHA, 16), seed=5)
    assert torch.equal(found.rewards, REWARDS[number_of(found.tokens, V)])
    assert (found.reward_calls, found.evaluations, found.gradients) == (32 * STEPS, 32 * STEPS, 0)
    assert ((found.survivors >= 1) & (found.survivors < 16)).all()
    assert found.distinct == len({tuple(row) for row in found.tokens.tolist()})
    guided = searched(32, SMC(ALPHA, 16), guidance=guidance())
    assert (guided.reward_calls, guided.evaluations, guided.gradients) == (32 * STEPS,) * 3
    several = searched(32, SMC(ALPHA, 16, completion=Drawn(3)))
    assert several.reward_calls == 32 * (3 * (STEPS - 1) + 1)
    never = searched(32, SMC(ALPHA, 16, resample_below=0.0))
    assert never.survivors.tolist() == [16, 16]


def test_the_best_alone_survives_a_cold_run() -> None:
    found = searched(64, SMC(1e-3, 64), seed=0)
    assert found.survivors.tolist() == [1]
    assert found.distinct == 1


def test_templates_are_kept() -> None:
    template = torch.tensor([-1, 2, -1])
    found = searched(40, SMC(ALPHA, 20), template=template, guidance=guidance())
    assert bool((found.tokens[:, 1] == 2).all())
    assert found.distinct > 1
    apart = template.repeat(40, 1)
    apart[20:, 1] = 0
    found = searched(40, SMC(ALPHA, 20), template=apart)
    assert torch.equal(found.tokens[:, 1], apart[:, 1])
    apart[25, 1] = 1
    with pytest.raises(InputError, match="one template for each group"):
        searched(40, SMC(ALPHA, 20), template=apart)


def test_systematic_resampling_is_proportional() -> None:
    """Counts are the floor or the ceiling of P w, and P w on average over the uniform number."""
    log_weights = Noise(8, range(3)).normal(torch.empty(3, 10, dtype=DOUBLE)) + 50
    shares = 10 * log_weights.softmax(-1)
    grid = (torch.arange(500, dtype=DOUBLE) + 0.5) / 500
    counts = torch.zeros(500, 3, 10, dtype=DOUBLE)
    for i, u in enumerate(grid):
        counts[i] = torch.nn.functional.one_hot(systematic(log_weights, u.expand(3)), 10).sum(1)
    assert bool(((counts - shares).abs() < 1 + 1e-9).all())
    torch.testing.assert_close(counts.mean(0), shares, atol=5e-3, rtol=0)
    even = torch.zeros(3, 10, dtype=DOUBLE)
    assert torch.equal(
        systematic(even, torch.tensor([1e-9, 0.5, 1 - 1e-9], dtype=DOUBLE)), torch.arange(10).expand(3, 10)
    )


def test_effective_size() -> None:
    log_weights = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf, -torch.inf]]).double() - 300
    torch.testing.assert_close(effective_size(log_weights), torch.tensor([4.0, 1.0], dtype=DOUBLE))


def test_settings_are_checked() -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="alpha must be above 0"):
            SMC(wrong, 4)
    with pytest.raises(InputError, match="particles must be at least 1"):
        SMC(1.0, 0)
    with pytest.raises(InputError, match="resample_below must be between 0 and 1"):
        SMC(1.0, 4, resample_below=1.5)
    with pytest.raises(InputError, match="multiple of particles = 4, but is 6"):
        searched(6, SMC(1.0, 4))


def test_numbers_that_are_none_are_found() -> None:
    def broken(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = torch.zeros(*x.shape, V)
        logits[0, 1] = float("nan")
        return Categorical(logits)

    with pytest.raises(FloatingPointError, match="got no token"):
        design(broken, PROCESS, (4, L), REWARD, method=SMC(1.0, 4), steps=STEPS)

    def missing(x: Tensor) -> Tensor:
        return torch.full((len(x),), torch.nan)

    with pytest.raises(InputError, match="missing must return finite numbers"):
        design(DENOISER, PROCESS, (4, L), missing, method=SMC(1.0, 4), steps=STEPS)
    with pytest.raises(InputError, match="missing must return finite numbers"):
        searched(4, SMC(1.0, 4), guidance=Guidance(missing, 1.0))
