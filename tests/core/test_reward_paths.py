"""Hard trajectories and the exact gradient on them: against enumeration, and at the target itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.jump import Absorbing, Subs, sample_tokens, skipping
from degauss.core.jump.oracle import Tabular, number_of, sequences
from degauss.core.noise import Noise
from degauss.core.reward.audit import enumerate_law, tilted
from degauss.core.reward.path_gradient import PathGradient
from degauss.core.reward.paths import draw_path

DOUBLE = torch.float64
V, L = 2, 3
PROCESS = Absorbing(V)
STATES = (V + 1) ** L
MANY = 1 << 16
"""Steps: enough that no two positions are restored in one."""


def table(seed: int) -> Tensor:
    return 1.5 * Noise(seed, (0,)).normal(torch.empty(1, STATES, L, V, dtype=DOUBLE))[0]


def network(values: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: values[number_of(x, V + 1)]


def joint(probabilities: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The conditionals of a joint distribution: one model for every order."""
    denoiser = Tabular(probabilities.reshape([V] * L)).denoiser(PROCESS)
    return lambda x, t: denoiser(x, t).logits


def masks(count: int) -> Tensor:
    return torch.full((count, L), V)


REWARDS = Noise(11, (0,)).normal(torch.empty(1, V**L, dtype=DOUBLE))[0]


def reward(x: Tensor) -> Tensor:
    return REWARDS[number_of(x, V)]


def test_sequences_are_those_of_ancestral_sampling() -> None:
    own = network(table(1))
    path = draw_path(own, own, PROCESS, masks(50), Noise(3, range(50)), steps=7)
    with torch.inference_mode():
        expected = sample_tokens(Subs(own, PROCESS), PROCESS, (50, L), solver=skipping(), steps=7, seed=3)
    assert torch.equal(path.tokens, expected)
    torch.testing.assert_close(path.log_prob, path.log_reference)


def test_the_ratio_of_paths_is_the_divergence_in_the_mean_and_weights_one_law_into_the_other() -> None:
    own, other = network(table(1)), network(table(2))
    count = 40000
    path = draw_path(own, other, PROCESS, masks(count), Noise(3, range(count)), steps=MANY)
    ratio = path.log_prob - path.log_reference
    exact = enumerate_law(Subs(own, PROCESS), PROCESS, L, Subs(other, PROCESS))
    assert float(ratio.mean()) == pytest.approx(float(exact.path_divergence), abs=5 * float(ratio.std()) / count**0.5)
    weights = torch.exp(-ratio)
    law = torch.zeros(V**L, dtype=DOUBLE).index_add(0, number_of(path.tokens, V), weights) / count
    wanted = enumerate_law(Subs(other, PROCESS), PROCESS, L).probability
    spread = float(weights.std()) / count**0.5
    torch.testing.assert_close(law, wanted, rtol=0, atol=4 * spread)


def test_given_positions_stay_and_cost_nothing() -> None:
    x = torch.tensor([[1, V, V]] * 20)
    own, other = network(table(1)), network(table(2))
    path = draw_path(own, other, PROCESS, x, Noise(3, range(20)), steps=MANY)
    assert bool((path.tokens[:, 0] == 1).all())
    all_given = draw_path(own, other, PROCESS, path.tokens, Noise(3, range(20)), steps=MANY)
    assert torch.equal(all_given.tokens, path.tokens)
    assert float(all_given.log_prob.abs().sum()) == 0


def test_evaluations_are_at_most_the_length() -> None:
    asked = 0

    def counting(x: Tensor, t: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return torch.zeros(*x.shape, V)

    draw_path(counting, network(table(2)), PROCESS, masks(64), Noise(1, range(64)), steps=MANY)
    assert asked == L


def test_a_network_that_is_not_a_number_is_refused() -> None:
    def broken(x: Tensor, t: Tensor) -> Tensor:
        return torch.full((*x.shape, V), float("nan"))

    with pytest.raises(FloatingPointError, match="NaN"):
        draw_path(broken, broken, PROCESS, masks(2), Noise(1, range(2)), steps=4)


def test_its_mean_is_the_gradient_of_the_objective() -> None:
    """Over many draws, within five standard errors; the value is the objective's."""
    alpha, batch, batches = 0.4, 512, 60
    own, other = table(1).requires_grad_(), table(2)
    law = enumerate_law(Subs(network(own), PROCESS), PROCESS, L, Subs(network(other), PROCESS))
    objective = law.probability @ REWARDS - alpha * law.path_divergence
    (exact,) = torch.autograd.grad(objective, own)
    loss = PathGradient(PROCESS, reward, alpha, MANY)
    found: list[Tensor] = []
    values: list[Tensor] = []
    for number in range(batches):
        value = loss(network(own), network(other), masks(batch), Noise(number, range(batch))).mean()
        values.append(value.detach())
        found.append(torch.autograd.grad(-value, own)[0])
    drawn, costs = torch.stack(found), torch.stack(values)
    spread = drawn.std(0) / batches**0.5
    reached = spread > 0
    deviation = (drawn.mean(0) - exact).abs()
    assert float((deviation[reached] / spread[reached]).max()) < 5
    assert float(deviation[~reached].max()) == 0
    assert float(exact.norm()) > 20 * float(spread.max())
    assert float(-costs.mean()) == pytest.approx(float(objective.detach()), abs=5 * float(costs.std()) / batches**0.5)


def test_checkpointing_changes_no_gradient() -> None:
    own, other = table(1).requires_grad_(), table(2)
    found: list[Tensor] = []
    for checkpointing in (False, True):
        loss = PathGradient(PROCESS, reward, 0.3, MANY, checkpointing)
        value = loss(network(own), network(other), masks(32), Noise(1, range(32))).mean()
        found.append(torch.autograd.grad(value, own)[0])
    torch.testing.assert_close(found[1], found[0])
    assert float(found[0].norm()) > 0.01


def test_at_the_target_every_trajectory_is_worth_the_optimum_and_the_gradient_has_no_noise() -> None:
    alpha = 0.4
    pretrained = torch.softmax(Noise(5, (0,)).normal(torch.empty(1, V**L, dtype=DOUBLE))[0], 0)
    target = tilted(pretrained, reward(sequences(V, L)), alpha)
    start = joint(target.probability)
    shift = torch.zeros(STATES, L, V, dtype=DOUBLE, requires_grad=True)

    def own(x: Tensor, t: Tensor) -> Tensor:
        return start(x, t) + shift[number_of(x, V + 1)]

    loss = PathGradient(PROCESS, reward, alpha, MANY)
    values = loss(own, joint(pretrained), masks(200), Noise(1, range(200)))
    torch.testing.assert_close(values, torch.full_like(values, -target.optimum), rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad(values.mean(), shift)
    assert float(gradient.abs().max()) < 1e-12
    # Elsewhere it has: the pretrained model's own trajectories are worth different rewards.
    other = loss(joint(pretrained), joint(pretrained), masks(200), Noise(1, range(200)))
    assert float(other.std()) > 0.1


def test_bad_numbers_are_named() -> None:
    with pytest.raises(InputError, match="alpha must be at least 0, but is -1"):
        PathGradient(PROCESS, reward, -1.0)
    with pytest.raises(InputError, match="steps must be at least 1"):
        PathGradient(PROCESS, reward, 1.0, 0)
    with pytest.raises(ValueError, match="at least two samples"):
        PathGradient(PROCESS, reward, 1.0)(network(table(1)), network(table(2)), masks(1), Noise(1, (0,)))
