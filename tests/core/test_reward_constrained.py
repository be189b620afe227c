"""Constrained proposals: their law and their weights against enumeration."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing, Cosine
from degauss.core.jump.automaton import Lattice, explore
from degauss.core.jump.oracle import Tabular, ancestral_steps, joint_of, number_of, sampler_law, sequences
from degauss.core.posterior import Categorical
from degauss.core.reward.best_of import BestOf
from degauss.core.reward.constrained import AcceptedCompletion, constrained_proposal
from degauss.core.reward.search import design
from degauss.core.reward.smc import SMC
from degauss.core.reward.svdd import SVDD

DOUBLE = torch.float64
V, L = 3, 3
PROCESS = Absorbing(V, Cosine())
STATES = sequences(V + 1, L)
ALL = sequences(V, L)


def table(seed: int) -> Tabular:
    u = Noise(seed, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def a_two_and_no_repeat() -> Lattice:
    """At least one token 2, and no token twice in a row."""
    step: Any = lambda s, v: None if s[0] == v else (v, s[1] or v == 2)  # noqa: E731
    return explore((-1, False), step, lambda s: s[1], V).lattice(L)


LATTICE = a_two_and_no_repeat()


def step_law(posterior: Tensor, x: Tensor, t: float, s: float) -> Tensor:
    """q(x_s | x_t) of one state by its definition, over ``STATES``: draw x_0 given A, then restore what is due."""
    whole = torch.zeros(len(STATES), dtype=DOUBLE)
    early, late = (PROCESS.rates(torch.tensor(time, dtype=DOUBLE)).gone for time in (s, t))
    stays = float(early / late)
    weights = posterior[torch.arange(L), ALL].prod(-1) * LATTICE.accepts(ALL)
    for x0, weight in zip(ALL, weights / weights.sum(), strict=True):
        for due in sequences(2, L).bool():
            masks = x == V
            if bool((due & ~masks).any()):
                continue
            chance = math.prod(1 - stays if position else stays for position in due[masks].tolist())
            whole[number_of(torch.where(due, x0, x), V + 1)] += float(weight) * chance
    return whole


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    ("start", "t", "s"), [([V, V, V], 1.0, 0.6), ([V, 1, V], 0.7, 0.2), ([V, V, 0], 0.5, 0.0), ([2, V, V], 0.4, 0.39)]
)
def test_steps_have_their_law_and_their_ratio(start: list[int], t: float, s: float, guided: bool) -> None:
    n, x = 12_000, torch.tensor(start)
    model = table(1).denoiser(PROCESS)
    guide = table(2).denoiser(PROCESS) if guided else None
    proposal = constrained_proposal(model, PROCESS, LATTICE, guide)
    after, log_ratio = proposal(x.expand(n, L), t, s, Noise(0, range(n)), 3)
    late, early = torch.tensor([t, s], dtype=DOUBLE)
    drawn = (guide or model)(x[None], late).logits[0].softmax(-1)
    q = step_law(drawn, x, t, s)
    assert float(q.sum()) == pytest.approx(1)
    number = number_of(after, V + 1)
    counts = torch.bincount(number, minlength=len(q))
    assert int(counts[q == 0].sum()) == 0
    assert stats.chisquare(counts[q > 0], n * q[q > 0]).pvalue > 1e-3
    p = joint_of(PROCESS.reverse(model(x[None], late), x[None], early, late))[0]
    torch.testing.assert_close(log_ratio, (p.log() - q.log())[number])


@pytest.mark.parametrize("guided", [False, True])
def test_weighted_samples_have_the_law_of_ancestral_sampling_given_acceptance(guided: bool) -> None:
    """In few steps, where the law of ancestral sampling is not that of the data: the weights are of its paths."""
    n, model = 40_000, table(1).denoiser(PROCESS)
    grid = torch.tensor([1.0, 0.7, 0.3, 0.0], dtype=DOUBLE)
    start = torch.zeros(len(STATES), dtype=DOUBLE)
    start[-1] = 1
    plain = sampler_law(start, ancestral_steps(model, PROCESS), V + 1, grid, L)[number_of(ALL, V + 1)]
    given = plain * LATTICE.accepts(ALL)
    proposal = constrained_proposal(model, PROCESS, LATTICE, table(2).denoiser(PROCESS) if guided else None)
    x, weight, noise = torch.full((n, L), V), torch.zeros(n, dtype=DOUBLE), Noise(4, range(n))
    times = grid.tolist()
    for draw, (t, s) in enumerate(pairwise(times)):
        x, ratio = proposal(x, t, s, noise, draw)
        weight = weight + ratio
    assert LATTICE.accepts(x).all()
    weights = weight.exp()
    # Their mean is the probability that ancestral sampling is accepted.
    error = float(weights.std()) / math.sqrt(n)
    assert float(weights.mean()) == pytest.approx(float(given.sum()), abs=4 * error)
    hit = (number_of(x, V)[:, None] == torch.arange(len(ALL))).double()
    estimate = (weights[:, None] * hit).mean(0)
    spread = (weights[:, None] * hit).std(0) / math.sqrt(n)
    assert bool(((estimate - given).abs() <= 4.5 * spread + 1e-12).all())
    # Without weights they have another law.
    assert float((hit.mean(0) - given / given.sum()).abs().max()) > 5 * float(spread.max() / given.sum())


def test_ratio_of_a_last_step_is_the_probability_of_acceptance() -> None:
    proposal = constrained_proposal(table(1).denoiser(PROCESS), PROCESS, LATTICE)
    x = torch.full((5, L), V)
    after, log_ratio = proposal(x, 1.0, 0.0, Noise(0, range(5)), 0)
    p = table(1).denoiser(PROCESS)(x[:1], torch.tensor(1.0, dtype=DOUBLE)).logits[0].softmax(-1)
    z = (p[torch.arange(L), ALL].prod(-1) * LATTICE.accepts(ALL)).sum()
    assert (after < V).all()
    torch.testing.assert_close(log_ratio, z.log().expand(5))


def test_draws_are_their_own_and_rows_do_not_know_their_batch() -> None:
    proposal = constrained_proposal(table(1).denoiser(PROCESS), PROCESS, LATTICE)
    x = torch.full((40, L), V)
    first = proposal(x, 1.0, 0.0, Noise(0, range(40)), 0)
    again = proposal(x, 1.0, 0.0, Noise(0, range(40)), 0)
    other = proposal(x, 1.0, 0.0, Noise(0, range(40)), 1)
    part = proposal(x[10:20], 1.0, 0.0, Noise(0, range(10, 20)), 0)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(part.x, first.x[10:20])
    assert torch.equal(part.log_ratio, first.log_ratio[10:20])


def test_lost_rows_say_so() -> None:
    """No probability for what is needed: minus infinity. No numbers: NaN. Neither touches its neighbours."""
    logits = torch.zeros(3, L, V)
    logits[0, :, 2] = -torch.inf
    logits[1] = torch.nan
    x = torch.full((3, L), V)
    proposal = constrained_proposal(lambda x, t, /, **cond: Categorical(logits), PROCESS, LATTICE)
    after, log_ratio = proposal(x, 1.0, 0.0, Noise(0, range(3)), 0)
    assert log_ratio[0] == -torch.inf
    assert log_ratio[1].isnan()
    assert log_ratio[2].isfinite()
    assert (after[:2] == V).all()
    assert LATTICE.accepts(after[2:]).all()


def test_empty_lattices_are_refused() -> None:
    nothing = explore(0, lambda s, v: None, lambda s: True, V).lattice(L)
    with pytest.raises(InputError, match="leave no sequence"):
        constrained_proposal(table(1).denoiser(PROCESS), PROCESS, nothing)(
            torch.full((1, L), V), 1.0, 0.5, Noise(0, (0,)), 0
        )


# In searches


def liking(x: Tensor) -> Tensor:
    """A reward for tokens 1."""
    return (x == 1).double().sum(-1)


METHODS = [SMC(alpha=0.5, particles=8), SVDD(alpha=0.5, proposals=3), BestOf(4)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_search_finds_accepted_sequences(method: Any) -> None:
    proposal = partial(constrained_proposal, lattice=LATTICE)
    model = table(1).denoiser(PROCESS)
    designed = design(model, PROCESS, (40, L), liking, method=method, steps=4, proposal=proposal)
    assert LATTICE.accepts(designed.tokens).all()
    free = design(model, PROCESS, (40, L), liking, method=method, steps=4)
    assert not LATTICE.accepts(free.tokens).all()


def test_a_weighted_search_estimates_the_constrained_constant() -> None:
    """The mean weight of particles is E_p[exp(r / alpha) and accepted], p the law of ancestral sampling."""
    model, steps, alpha, groups = table(1).denoiser(PROCESS), 4, 0.7, 600
    start = torch.zeros(len(STATES), dtype=DOUBLE)
    start[-1] = 1
    grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
    plain = sampler_law(start, ancestral_steps(model, PROCESS), V + 1, grid, L)[number_of(ALL, V + 1)]
    truth = float((plain * LATTICE.accepts(ALL) * (liking(ALL) / alpha).exp()).sum())
    method, proposal = SMC(alpha=alpha, particles=4), partial(constrained_proposal, lattice=LATTICE)
    designed = design(model, PROCESS, (4 * groups, L), liking, method=method, steps=steps, proposal=proposal)
    assert designed.log_weights is not None
    each = designed.log_weights.exp().reshape(groups, 4).mean(1)
    error = float(each.std()) / math.sqrt(groups)
    assert error < 0.05 * truth
    assert float(each.mean()) == pytest.approx(truth, abs=4 * error)


def test_completions_that_are_accepted() -> None:
    n = 4000
    x = torch.tensor([[V, 1, V]]).expand(n, L)
    posterior = table(1).denoiser(PROCESS)(x, torch.tensor(0.5, dtype=DOUBLE))
    guesses = AcceptedCompletion(LATTICE, 2)(posterior, Noise(0, range(n)), 5)
    assert guesses.shape == (2, n, L)
    law = posterior.logits[0].softmax(-1)[torch.arange(L), ALL].prod(-1) * LATTICE.accepts(ALL)
    for tokens in guesses:
        counts = torch.bincount(number_of(tokens, V), minlength=len(law))
        assert int(counts[law == 0].sum()) == 0
        assert stats.chisquare(counts[law > 0], n * (law / law.sum())[law > 0]).pvalue > 1e-3
    assert not torch.equal(guesses[0], guesses[1])
    hopeless = Categorical(torch.tensor([2.0, 1.0, -torch.inf]).expand(1, L, V))
    assert AcceptedCompletion(LATTICE)(hopeless, Noise(0, (0,)), 0).tolist() == [[[0, 0, 0]]]
    with pytest.raises(InputError, match="guesses must be at least 1"):
        AcceptedCompletion(LATTICE, 0)


def test_a_search_by_accepted_completions() -> None:
    method = SMC(alpha=0.5, particles=8, completion=AcceptedCompletion(LATTICE))
    proposal = partial(constrained_proposal, lattice=LATTICE)
    designed = design(table(1).denoiser(PROCESS), PROCESS, (40, L), liking, method=method, steps=4, proposal=proposal)
    assert LATTICE.accepts(designed.tokens).all()
