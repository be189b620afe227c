"""The exact audit: laws by enumeration, the target's identities, and what a histogram can and cannot show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.jump import Absorbing, Ancestral, Subs, exact_log_likelihood
from degauss.core.jump.absorbing import carry_over
from degauss.core.jump.oracle import Tabular, ancestral_steps, number_of, sampler_law, sequences
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical
from degauss.core.reward.audit import (
    Target,
    audit,
    audit_samples,
    enumerate_law,
    tilted,
    total_variation,
)
from degauss.core.reward.kl import token_divergence

DOUBLE = torch.float64
V, L = 3, 4
PROCESS = Absorbing(V)


def wrong(seed: int, scale: float = 1.0) -> Any:
    """Arbitrary conditionals: random logits for each state, those of no joint distribution."""
    every = scale * Noise(seed, (0,)).normal(torch.empty(1, (V + 1) ** L, L, V, dtype=DOUBLE))[0]

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(carry_over(every[number_of(x, V + 1)], x, V))

    return denoiser


def some_target(alpha: float = 0.3) -> Target:
    reward = Noise(3, (0,)).normal(torch.empty(1, V**L, dtype=DOUBLE))[0]
    return tilted(enumerate_law(wrong(1), PROCESS, L).probability, reward, alpha)


def test_the_law_is_that_of_all_orders() -> None:
    found = enumerate_law(wrong(1), PROCESS, L).probability
    expected = exact_log_likelihood(wrong(1), PROCESS, sequences(V, L)).exp()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    assert float(found.sum()) == pytest.approx(1, abs=1e-13)


def test_a_consistent_denoiser_has_the_law_of_its_table() -> None:
    table = Tabular(Noise(2, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0] ** 2)
    found = enumerate_law(table.denoiser(PROCESS), PROCESS, L).probability
    torch.testing.assert_close(found, table.probabilities, rtol=1e-10, atol=1e-14)


def test_each_state_is_asked_about_once() -> None:
    asked: list[Tensor] = []
    denoiser = wrong(1)

    def counting(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        asked.append(number_of(x, V + 1))
        return denoiser(x, t)

    enumerate_law(counting, PROCESS, L)
    numbers = torch.cat(asked)
    assert len(numbers) == len(numbers.unique()) == (V + 1) ** L - V**L  # those without masks need no answer


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 \^ 12"):
        enumerate_law(wrong(1), PROCESS, 12)


def test_ancestral_laws_go_to_it_with_many_steps() -> None:
    """So that what is audited is what samplers draw."""
    length, symbols = 2, V + 1
    every = Noise(7, (0,)).normal(torch.empty(1, symbols**length, length, V, dtype=DOUBLE))[0]

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(carry_over(every[number_of(x, symbols)], x, V))

    exact = enumerate_law(denoiser, PROCESS, length).probability
    start = torch.zeros(symbols**length, dtype=DOUBLE)
    start[-1] = 1
    clean = number_of(sequences(V, length), symbols)
    distances: list[float] = []
    for steps in (32, 64):
        grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
        law = sampler_law(start, ancestral_steps(denoiser, PROCESS), symbols, grid, length)[clean]
        distances.append(total_variation(law, exact))
    assert distances[0] / distances[1] == pytest.approx(2, rel=0.02)


def test_the_divergence_of_paths_bounds_that_of_sequences() -> None:
    found = enumerate_law(wrong(1), PROCESS, L, wrong(2))
    other = enumerate_law(wrong(2), PROCESS, L).probability
    of_sequences = float((found.probability * (found.probability / other).log()).sum())
    assert float(found.path_divergence) > of_sequences > 0
    assert float(enumerate_law(wrong(1), PROCESS, L, wrong(1)).path_divergence) == 0


def test_the_divergence_of_paths_of_one_position_is_its_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]], dtype=DOUBLE)

    def constant(row: int) -> Any:
        return lambda x, t, **cond: Categorical(logits[row].expand(*x.shape, V))

    found = enumerate_law(constant(0), PROCESS, 1, constant(1)).path_divergence
    assert float(found) == pytest.approx(float(token_divergence(logits[0], logits[1])), abs=1e-14)


def test_autograd_goes_through_the_law() -> None:
    """Against a central difference in one direction."""
    process, wanted = Absorbing(2), torch.arange(4, dtype=DOUBLE)
    logits, direction = Noise(4, (0,)).normal(torch.empty(1, 2, 9, 2, 2, dtype=DOUBLE))[0]

    def value(shift: Tensor) -> Tensor:
        network = Subs(lambda x, t: (logits + shift * direction)[number_of(x, 3)], process)
        return enumerate_law(network, process, 2).probability @ wanted

    zero = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(value(zero), zero)
    h = 1e-5
    difference = (value(torch.tensor(h, dtype=DOUBLE)) - value(torch.tensor(-h, dtype=DOUBLE))) / (2 * h)
    assert float(slope) == pytest.approx(float(difference), rel=1e-8)


@given(alpha=st.floats(0.05, 5), seed=st.integers(0, 1000))
def test_the_gap_is_alpha_times_the_divergence_from_the_target(alpha: float, seed: int) -> None:
    target = some_target(alpha)
    p = torch.softmax(Noise(seed, (0,)).normal(torch.empty(1, V**L, dtype=DOUBLE))[0], 0)
    found = audit(p, target)
    apart = float((p * (p / target.probability).log()).sum())
    assert found.gap == pytest.approx(alpha * apart, rel=1e-8)
    assert found.objective == pytest.approx(found.reward - alpha * found.divergence)


def test_nothing_is_better_than_the_target() -> None:
    target = some_target()
    best = audit(target.probability, target)
    assert best.gap == pytest.approx(0, abs=1e-12)
    assert best.variation == 0
    assert audit(target.pretrained, target).divergence == 0
    # A point mass is a law too; it has zeros.
    peak = (target.reward == target.reward.max()).double()
    assert 0 < audit(peak, target).gap < float("inf")


def test_exact_draws_are_at_the_floor_and_others_above() -> None:
    target = some_target(1.0)
    u = Noise(50, (0,)).uniform(torch.empty(1, 500, dtype=DOUBLE))[0]

    def drawn(p: Tensor) -> Tensor:
        return sequences(V, L)[torch.searchsorted(p.cumsum(0), u)]

    exact = audit_samples(drawn(target.probability), target, V)
    other = audit_samples(drawn(target.pretrained), target, V)
    assert exact.variation == pytest.approx(exact.floor, abs=0.03)
    assert exact.floor > 0.1  # 81 sequences and 500 draws: the histogram alone would look bad
    assert other.variation > other.floor + 0.2
    assert exact.reward == pytest.approx(float(target.probability @ target.reward), abs=0.1)
    assert audit_samples(sequences(V, L), target, V).unique == 1
    assert audit_samples(sequences(V, L)[[0, 0, 0, 1]], target, V).unique == 0.5


def test_the_floor_falls_as_one_over_the_root_of_the_draws() -> None:
    target = some_target()
    few, many = (audit_samples(torch.zeros(n, L).long(), target, V, draws=64).floor for n in (1000, 4000))
    assert few / many == pytest.approx(2, rel=0.1)


def test_a_sampler_of_the_model_is_at_the_floor_of_its_law() -> None:
    network = wrong(1)
    law = enumerate_law(network, PROCESS, L).probability
    target = tilted(law, torch.zeros(V**L), 1.0)
    noise = Noise(0, range(4000))
    kernel = Ancestral(network, PROCESS)
    grid = torch.linspace(1, 0, 201, dtype=DOUBLE)
    x = PROCESS.start(torch.empty(4000, L), noise)
    carry = kernel.init(x, grid)
    for i in range(200):
        carry, x = kernel.step(carry, x, i, noise)
    found = audit_samples(x, target, V)
    assert found.variation == pytest.approx(found.floor, abs=0.015)
