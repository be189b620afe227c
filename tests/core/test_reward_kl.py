"""The divergence of trajectories and both terms of its gradient, against enumeration of all paths."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.jump import Absorbing, Cosine, LogLinear, Rates, Subs
from degauss.core.jump.oracle import ancestral_steps, joint_of, number_of, sequences
from degauss.core.noise import Noise
from degauss.core.reward.audit import enumerate_law
from degauss.core.reward.kl import (
    leave_one_out,
    log_transition,
    path_term,
    published_divergence,
    step_divergence,
    token_divergence,
)
from degauss.core.reward.relaxed import GumbelSoftmax, Joint, Rollout, Timed, one_hot

DOUBLE = torch.float64
V, L = 2, 2
STATES = sequences(V + 1, L)
PLAIN = Absorbing(V)


def table(seed: int, scale: float = 1.0) -> Tensor:
    """Logits of every state: a model that can be anything."""
    return scale * Noise(seed, (0,)).normal(torch.empty(1, len(STATES), L, V, dtype=DOUBLE))[0]


def network(values: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A model by its table, of tokens or of hard weights."""

    def answer(x: Tensor, t: Tensor) -> Tensor:
        tokens = x.argmax(-1) if x.is_floating_point() else x
        return values[number_of(tokens, V + 1)]

    return answer


def enumerated(own: Tensor, other: Tensor, process: Absorbing, grid: Tensor) -> tuple[Tensor, Tensor]:
    """KL of the two laws of paths, from the transition matrices, and the sum of expected ``step_divergence``."""
    mine, pretrained = (ancestral_steps(Subs(network(values), process), process) for values in (own, other))
    law = torch.zeros(len(STATES), dtype=DOUBLE)
    law[-1] = 1
    apart = by_steps = torch.zeros((), dtype=DOUBLE)
    weights = one_hot(STATES, V, DOUBLE)
    for t, s in pairwise(grid.tolist()):
        p, q = joint_of(mine(STATES, t, s)), joint_of(pretrained(STATES, t, s))
        apart = apart + (law[:, None] * torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p))).sum()
        late, early = (float(process.rates(torch.tensor(time, dtype=DOUBLE)).gone) for time in (t, s))
        by_steps = by_steps + law @ step_divergence(own, other, weights, late, early)
        law = law @ p
    return apart, by_steps


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=["log-linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_the_sum_of_steps_is_the_divergence_of_path_laws(rates: Rates, steps: int) -> None:
    grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE) ** 1.3
    apart, by_steps = enumerated(table(1), table(2), Absorbing(V, rates), grid)
    assert float(apart) > 0.1
    assert float(by_steps) == pytest.approx(float(apart), rel=1e-12)


def test_its_limit_is_the_divergence_of_the_continuous_process() -> None:
    """The error halves with the step."""
    exact = float(
        enumerate_law(Subs(network(table(1)), PLAIN), PLAIN, L, Subs(network(table(2)), PLAIN)).path_divergence
    )
    found = [
        float(enumerated(table(1), table(2), PLAIN, torch.linspace(1, 0, n + 1, dtype=DOUBLE))[0]) for n in (64, 128)
    ]
    assert abs(found[1] - exact) < 0.01
    assert (found[0] - exact) / (found[1] - exact) == pytest.approx(2, rel=0.05)


def test_on_the_log_linear_schedule_the_factor_is_the_share_of_time() -> None:
    weights = one_hot(torch.tensor([[V, V]]), V, DOUBLE)
    logits, reference = table(1)[-1:], table(2)[-1:]
    found = step_divergence(logits, reference, weights, late=0.8, early=0.6)
    whole = token_divergence(logits, reference).sum(-1)
    torch.testing.assert_close(found, (0.8 - 0.6) / 0.8 * whole)


def test_the_published_form_is_zero_on_every_hard_state() -> None:
    weights = one_hot(STATES, V, DOUBLE)
    published = published_divergence(table(1), table(2), weights, 0.5, 0.4)
    assert torch.equal(published, torch.zeros_like(published))
    assert bool((step_divergence(table(1), table(2), weights, 0.5, 0.4)[(STATES == V).any(1)] > 0).all())


def test_the_published_form_is_zero_where_a_token_is_likeliest() -> None:
    weights = torch.tensor([[[0.5, 0.1, 0.4], [0.2, 0.5, 0.3]]], dtype=DOUBLE)
    assert float(published_divergence(table(1)[:1], table(2)[:1], weights, 0.5, 0.4)) == 0
    # It is something elsewhere, so the test above says something.
    mixed = torch.tensor([[[0.3, 0.1, 0.6], [0.2, 0.2, 0.6]]], dtype=DOUBLE)
    assert float(published_divergence(table(1)[:1], table(2)[:1], mixed, 0.5, 0.4)) > 0


def test_the_published_form_of_one_position_by_hand() -> None:
    p, q = torch.tensor([0.9, 0.1], dtype=DOUBLE), torch.tensor([0.4, 0.6], dtype=DOUBLE)
    weights = torch.tensor([[[0.3, 0.1, 0.6]]], dtype=DOUBLE)
    by_hand = 0.4 / 0.5 * sum(x * float(b - a + a * (a / b).log()) for x, a, b in zip((0.3, 0.1), p, q, strict=True))
    found = published_divergence(p.log()[None, None], q.log()[None, None], weights, 0.5, 0.4)
    assert float(found) == pytest.approx(by_hand, rel=1e-12)


def test_tokens_that_both_rule_out_count_nothing_and_one_ruled_out_by_the_reference_is_infinite() -> None:
    never = float("-inf")
    logits = torch.tensor([1.0, 0.0, never], dtype=DOUBLE, requires_grad=True)
    reference = torch.tensor([0.0, 0.0, never], dtype=DOUBLE)
    found = token_divergence(logits, reference)
    found.backward()
    assert float(found.detach()) == pytest.approx(
        float(token_divergence(logits[:2].detach(), reference[:2])), rel=1e-14
    )
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert float(token_divergence(torch.zeros(2), torch.tensor([0.0, never]))) == float("inf")


def test_the_log_transition_is_that_of_what_was_restored() -> None:
    before, after = (one_hot(torch.tensor(rows), V, DOUBLE) for rows in ([[V, V], [0, V]], [[1, V], [0, 1]]))
    logits = torch.stack([table(1)[-1], table(1)[2]])
    log_p = logits.log_softmax(-1)
    expected = torch.stack([log_p[0, 0, 1], log_p[1, 1, 1]])
    torch.testing.assert_close(log_transition(logits, before, after), expected)


@given(st.integers(2, 20), st.integers(0, 100))
def test_a_baseline_is_the_mean_of_the_others(count: int, seed: int) -> None:
    values = Noise(seed, (0,)).normal(torch.empty(1, count, dtype=DOUBLE))[0]
    expected = torch.stack([values[i] - torch.cat([values[:i], values[i + 1 :]]).mean() for i in range(count)])
    torch.testing.assert_close(leave_one_out(values), expected)


def test_a_baseline_takes_two_samples() -> None:
    with pytest.raises(ValueError, match="at least two"):
        leave_one_out(torch.zeros(1))


BATCH, BATCHES, STEPS = 512, 80, 3


@pytest.mark.parametrize("step", [Timed(GumbelSoftmax()), Joint(GumbelSoftmax())], ids=["timed", "joint"])
def test_both_terms_together_are_the_gradient_and_one_alone_is_not(step: Timed | Joint) -> None:
    """The mean over many draws against autograd through the enumeration, within five standard errors."""
    own, other = table(1, 1.5).requires_grad_(), table(2, 1.5)
    grid = torch.linspace(1, 0, STEPS + 1, dtype=DOUBLE)
    (exact,) = torch.autograd.grad(enumerated(own, other, PLAIN, grid)[1], own)
    rollout = Rollout(PLAIN, STEPS, step, through_states=False, checkpointing=False)
    start = torch.full((BATCH, L), V)
    direct: list[Tensor] = []
    both: list[Tensor] = []
    for number in range(BATCHES):
        end = rollout(network(own), network(other), start, Noise(number, range(BATCH)))
        term = path_term(end.log_prob, end.divergence)
        assert torch.equal(term, torch.zeros_like(term))
        parts = (end.divergence.sum(0).mean(), term.mean())
        first, second = (torch.autograd.grad(part, own, retain_graph=True)[0] for part in parts)
        direct.append(first)
        both.append(first + second)
    assert error(both, exact) < 5
    assert error(direct, exact) > 20


def error(estimates: list[Tensor], exact: Tensor) -> float:
    """The largest deviation of the mean, in standard errors."""
    drawn = torch.stack(estimates)
    deviation = (drawn.mean(0) - exact).abs()
    spread = drawn.std(0) / len(drawn) ** 0.5
    reached = spread > 1e-12
    assert bool((deviation[~reached] < 1e-9).all())
    return float((deviation[reached] / spread[reached]).max())
