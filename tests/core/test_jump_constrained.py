"""Posteriors conditioned on a lattice, and samplers of them, against enumeration."""

from __future__ import annotations

import sys
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import FREE, Absorbing, Cosine, Nucleus, Subs, sample_tokens
from degauss.core.jump.automaton import Lattice, allowed, explore
from degauss.core.jump.constrained import accepted_marginals, constrained, draw_accepted, known, log_acceptance
from degauss.core.jump.oracle import Tabular, number_of, sequences
from degauss.core.observe import Trajectory
from degauss.core.posterior import Categorical

DOUBLE = torch.float64
V, L = 3, 4
ALL = sequences(V, L)


def without_repeats(length: int = L) -> Lattice:
    """No token twice in a row."""
    return explore(-1, lambda s, v: None if s == v else v, lambda s: True, V).lattice(length)


def with_twos(count: int, length: int = L) -> Lattice:
    """Exactly so many tokens 2."""
    step: Any = lambda s, v: s + (v == 2) if s + (v == 2) <= count else None  # noqa: E731
    return explore(0, step, lambda s: s == count, V).lattice(length)


def chances(seed: int, rows: int, length: int = L) -> Tensor:
    u = Noise(seed, range(rows)).uniform(torch.empty(rows, length, V, dtype=DOUBLE))
    return u / u.sum(-1, keepdim=True)


def joint(p: Tensor, lattice: Lattice) -> Tensor:
    """P(x_0 and accepted) of every sequence, ``[batch, V^L]``."""
    x = sequences(V, p.shape[1])
    each = p[:, torch.arange(p.shape[1]), x].prod(-1)
    return each * lattice.accepts(x)


LATTICES = {"no repeats": without_repeats(), "two twos": with_twos(2), "both": without_repeats() & with_twos(2)}


@pytest.mark.parametrize("name", LATTICES)
def test_the_probability_of_acceptance_and_the_marginals(name: str) -> None:
    lattice, p = LATTICES[name], chances(0, 7)
    truth = joint(p, lattice)
    torch.testing.assert_close(log_acceptance(p, lattice).exp(), truth.sum(1))
    one_hot = torch.nn.functional.one_hot(ALL, V).double()
    marginals = torch.einsum("bn,nlv->blv", truth / truth.sum(1, keepdim=True), one_hot)
    torch.testing.assert_close(accepted_marginals(p, lattice), marginals)
    with torch.inference_mode():
        torch.testing.assert_close(accepted_marginals(p.clone(), lattice), marginals)


@pytest.mark.parametrize("name", LATTICES)
def test_joint_draws(name: str) -> None:
    lattice, n = LATTICES[name], 20_000
    p = chances(1, 1)
    tokens, log_z = draw_accepted(p.expand(n, L, V), lattice, chances(2, n)[..., 0])
    assert lattice.accepts(tokens).all()
    uniform = Noise(3, range(n)).uniform(torch.empty(n, L, dtype=DOUBLE))
    tokens, log_z = draw_accepted(p.expand(n, L, V), lattice, uniform)
    law = joint(p, lattice)[0]
    torch.testing.assert_close(log_z.exp(), law.sum().expand(n))
    counts = torch.bincount(number_of(tokens, V), minlength=len(law))
    assert int(counts[law == 0].sum()) == 0
    assert stats.chisquare(counts[law > 0], n * (law / law.sum())[law > 0]).pvalue > 1e-3
    # Tokens drawn by themselves, each from its marginal, are another law.
    product = accepted_marginals(p, lattice)[:, torch.arange(L), ALL].prod(-1)[0]
    assert float((law / law.sum() - product).abs().sum()) > 0.1


def test_acceptance_rarer_than_any_float() -> None:
    length, rare = 1000, 0.3
    p = torch.tensor([1 - rare - 1e-9, rare, 1e-9], dtype=DOUBLE).expand(1, length, V)
    all_ones = allowed(torch.tensor([False, True, False]).expand(length, V))
    torch.testing.assert_close(log_acceptance(p, all_ones), length * p[0, :1, 1].log())
    tokens, log_z = draw_accepted(p, with_twos(2, length), torch.full((1, length), 0.5, dtype=DOUBLE))
    assert (tokens == 2).sum() == 2
    expected = stats.binom.logpmf(2, length, 1e-9)
    torch.testing.assert_close(log_z, torch.tensor([expected], dtype=DOUBLE))


def test_no_probability_and_no_number() -> None:
    p = chances(5, 3)
    p[0, :, 2] = 0
    p[1, 2, 0] = torch.nan
    tokens, log_z = draw_accepted(p, with_twos(1), chances(6, 3)[..., 0])
    assert log_z[0] == -torch.inf
    assert log_z[1].isnan()
    assert (tokens[0] == V).all()
    assert (tokens[1] == V).all()
    assert int((tokens[2] == 2).sum()) == 1


def test_rows_in_portions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lattice, p, u = LATTICES["both"], chances(7, 9), chances(8, 9)[..., 0]
    whole = draw_accepted(p, lattice, u)
    # By name: the package offers the function of the same name.
    monkeypatch.setattr(sys.modules[draw_accepted.__module__], "_AT_ONCE", 2 * (lattice.states + L))
    parts = draw_accepted(p, lattice, u)
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.log_z, parts.log_z)


def test_known_tokens_are_certain() -> None:
    p = known(chances(9, 1), torch.tensor([[0, V, 2, V]]), V)
    assert p[0, 0].tolist() == [1, 0, 0]
    assert p[0, 2].tolist() == [0, 0, 1]
    torch.testing.assert_close(p[0, 1::2], chances(9, 1)[0, 1::2])


# Sampling


def table() -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def independent(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
    return Categorical(chances(11, 1).log().expand(*x.shape, V))


@pytest.mark.parametrize("rates", [Absorbing(V), Absorbing(V, Cosine())], ids=["log-linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_of_independent_positions_the_law_is_exact_in_any_number_of_steps(rates: Absorbing, steps: int) -> None:
    """There is nothing to foresee: the posterior is the law, whatever is restored first."""
    n, lattice = 6000, LATTICES["both"]
    x = sample_tokens(independent, rates, (n, L), solver=constrained(lattice), steps=steps, seed=steps)
    law = joint(chances(11, 1), lattice)[0]
    counts = torch.bincount(number_of(x, V), minlength=len(law))
    assert int(counts[law == 0].sum()) == 0
    assert stats.chisquare(counts[law > 0], n * (law / law.sum())[law > 0]).pvalue > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_every_state_can_be_completed_and_every_sample_is_accepted(steps: int) -> None:
    lattice, path = LATTICES["both"], Trajectory()
    process = Absorbing(V)
    x = sample_tokens(
        table().denoiser(process), process, (64, L), solver=constrained(lattice), steps=steps, observe=[path]
    )
    assert lattice.accepts(x).all()
    accepted = ALL[lattice.accepts(ALL)]
    for state in path.stack():
        fits = ((state[:, None] == accepted) | (state[:, None] == V)).all(-1).any(1)
        assert fits.all()


def test_without_constraints_it_is_ancestral_sampling() -> None:
    data, n, process = table(), 6000, Absorbing(V)
    anything = allowed(torch.ones(L, V, dtype=torch.bool))
    x = sample_tokens(data.denoiser(process), process, (n, L), solver=constrained(anything), steps=400, seed=2)
    counts = torch.bincount(number_of(x, V), minlength=V**L)
    assert stats.chisquare(counts, n * data.probabilities).pvalue > 1e-3


@given(st.integers(0, 50), st.sets(st.integers(0, 30), min_size=1, max_size=4))
@settings(max_examples=15)
def test_a_sample_does_not_know_its_batch(seed: int, ids: set[int]) -> None:
    process, solver = Absorbing(V), constrained(LATTICES["no repeats"])
    denoiser = table().denoiser(process)
    together = sample_tokens(denoiser, process, (31, L), solver=solver, steps=5, seed=seed)
    some = sorted(ids)
    alone = sample_tokens(denoiser, process, (len(some), L), solver=solver, steps=5, seed=seed, samples=some)
    assert torch.equal(alone, together[some])


def test_evaluations_are_never_more_than_positions() -> None:
    asked: list[int] = []

    def watching(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        asked.append(len(x))
        return independent(x, t)

    sample_tokens(watching, Absorbing(V), (3, L), solver=constrained(LATTICES["both"]), steps=1000)
    assert len(asked) <= L


def test_infilling() -> None:
    process, lattice = Absorbing(V), LATTICES["both"]
    template = torch.tensor([FREE, 2, FREE, FREE])
    x = sample_tokens(
        table().denoiser(process), process, (50, L), solver=constrained(lattice), steps=3, template=template
    )
    assert (x[:, 1] == 2).all()
    assert lattice.accepts(x).all()


def test_given_tokens_that_cannot_be_completed_are_refused() -> None:
    process = Absorbing(V)
    template = torch.tensor([[FREE, 2, FREE, FREE], [0, 0, FREE, FREE]])
    with pytest.raises(InputError, match=r"given tokens of sample 1 \(from 0\) leave no sequence"):
        sample_tokens(independent, process, (2, L), solver=constrained(without_repeats()), steps=3, template=template)


def test_an_empty_lattice_and_one_of_another_shape_are_refused() -> None:
    process = Absorbing(V)
    with pytest.raises(InputError, match="the constraints leave no sequence"):
        sample_tokens(independent, process, (2, L), solver=constrained(with_twos(L + 1)), steps=3)
    with pytest.raises(ValueError, match="a lattice for 5 positions and 3 tokens cannot constrain 4 positions of 3"):
        sample_tokens(independent, process, (2, L), solver=constrained(without_repeats(5)), steps=3)


def test_a_denoiser_that_rules_out_all_that_is_accepted_is_not_passed_over() -> None:
    process = Absorbing(V)
    flat = Subs(lambda x, t: torch.tensor([2.0, 1.0, 0.0]).expand(*x.shape, V), process)
    with pytest.raises(FloatingPointError, match="got no token"):
        sample_tokens(Nucleus(flat, 0.8), process, (2, L), solver=constrained(with_twos(2)), steps=3)
